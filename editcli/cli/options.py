"""Options that several commands share, declared once, so that one name means one thing everywhere.

A command takes an :class:`~editcli.cli.invocation.Invocation` first, and says with :func:`shared`
which of the shared options it has. Their values are the invocation's fields.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from editcli.cli.invocation import Invocation
from editcli.files.consistency import OnConflict
from editcli.settings import env_name

SHARED: dict[str, Any] = {
    "message": Annotated[
        str, typer.Option("--message", "-m", metavar="TEXT", help="Message for the history.")
    ],
    "author": Annotated[
        str | None,
        typer.Option(
            "--author", metavar="WHO", envvar=env_name("author"), help="Author for the history."
        ),
    ],
    "store": Annotated[
        Path | None,
        typer.Option(
            "--store",
            metavar="DIR",
            envvar=env_name("store"),
            help="The store's folder; by default the nearest .editcli, in this folder or above.",
        ),
    ],
    "device": Annotated[
        str,
        typer.Option(
            "--device",
            metavar="NAME",
            envvar=env_name("device"),
            help="auto, cpu, cuda, cuda:1, mps, or spread (over all devices).",
        ),
    ],
    "dtype": Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="NAME",
            envvar=env_name("dtype"),
            help="auto, float32, bfloat16, float16, 8bit or 4bit.",
        ),
    ],
    "threads": Annotated[
        int | None,
        typer.Option(
            "--threads",
            metavar="N",
            min=1,
            envvar=env_name("threads"),
            help="CPU threads; by default as many as other programs leave free.",
        ),
    ],
    "json": Annotated[bool, typer.Option("--json", help="Print JSON; lists as JSON Lines.")],
    "quiet": Annotated[
        bool, typer.Option("--quiet", "-q", help="Print ids only, and no notes or progress.")
    ],
    "verbose": Annotated[
        int,
        typer.Option("--verbose", "-v", count=True, help="Print details; -vv adds library logs."),
    ],
}

PRINTS = ("json", "quiet")
READS = ("store", *PRINTS)
WRITES = ("message", "author", *READS)
RUNS_MODEL = ("device", "dtype", "threads", "verbose")

DryRunOption = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Show what would be done, and change nothing.")
]
SeedOption = Annotated[
    int, typer.Option("--seed", metavar="N", envvar=env_name("seed"), help="Random seed.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the method; may be repeated."),
]
VERSION_HELP = "A version: its id, number or tag, HEAD, or V~N (N versions before V)."
VersionOption = Annotated[
    str,
    typer.Option("--version", metavar="V", help=VERSION_HELP),
]
OnConflictOption = Annotated[
    OnConflict,
    typer.Option(
        "--on-conflict",
        envvar=env_name("on-conflict"),
        help="What to do with facts that give one prompt different targets: refuse them, or keep "
        "the newest (the last line).",
    ),
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Leave refused lines out instead of stopping.")
]
FactFileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A fact file (JSON Lines), or - for standard input.")
]


def shared(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these shared options, in the order of :data:`SHARED`, after its own."""
    chosen = [name for name in SHARED if name in names]

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = list(inspect.signature(command).parameters.values())[1:]  # without the invocation
        defaults = Invocation()
        parameters = [
            *(parameter.replace(annotation=hints[parameter.name]) for parameter in own),
            *(
                inspect.Parameter(
                    name,
                    inspect.Parameter.KEYWORD_ONLY,
                    default=getattr(defaults, name),
                    annotation=SHARED[name],
                )
                for name in chosen
            ),
        ]

        @wraps(command)
        def run(**values: Any) -> None:
            command(Invocation(**{name: values.pop(name) for name in chosen}), **values)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        del run.__wrapped__
        return run

    return with_options
