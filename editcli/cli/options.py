"""Options that several commands share, so that one name means one thing everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from editcli.files.consistency import OnConflict
from editcli.settings import env_name

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="DIR",
        envvar=env_name("store"),
        help="The store; without it the nearest .editcli upward from here.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON; lists as JSON Lines.")]
QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print ids only, and no notes or progress.")
]
VerboseOption = Annotated[
    int, typer.Option("--verbose", "-v", count=True, help="Say more; -vv adds library logs.")
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Show what would be done, and change nothing.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        envvar=env_name("device"),
        help="auto, cpu, cuda, cuda:1, mps, or spread: over all devices there are.",
    ),
]
DtypeOption = Annotated[
    str,
    typer.Option(
        "--dtype",
        metavar="NAME",
        envvar=env_name("dtype"),
        help="auto, float32, bfloat16, float16, 8bit or 4bit.",
    ),
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", envvar=env_name("seed"), help="Seed of all chance.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; may be repeated."),
]
MessageOption = Annotated[
    str, typer.Option("--message", "-m", metavar="TEXT", help="Why, for the history.")
]
AuthorOption = Annotated[
    str | None,
    typer.Option(
        "--author", metavar="WHO", envvar=env_name("author"), help="Who, for the history."
    ),
]
VersionOption = Annotated[
    str,
    typer.Option("--version", metavar="V", help="A version: an id, a number, a tag or HEAD."),
]
OnConflictOption = Annotated[
    OnConflict,
    typer.Option(
        "--on-conflict",
        envvar=env_name("on-conflict"),
        help="When two facts give one prompt different targets.",
    ),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave refused lines out instead of stopping.")
]
FactFileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A fact file (JSON Lines), or - for standard input.")
]
