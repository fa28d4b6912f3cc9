"""What the three conflict commands take alike."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

FileArgument = Annotated[
    str,
    typer.Argument(metavar="FILE", help="A conflict file (JSON Lines), or - for standard input."),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", metavar="N", min=1, help="Only the first N rows.")
]
CorruptionOption = Annotated[
    Literal["each", "both"],
    typer.Option(
        "--corruption", help="Swap what each score is about, or subject and answer always."
    ),
]
