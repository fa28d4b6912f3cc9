"""Options that several commands share, declared once, so that one name means one thing everywhere.

A command takes an :class:`~editcli.cli.invocation.Invocation` first, and says with :func:`shared`
which of the shared options it has. Their values are the invocation's fields.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from typing import Annotated, Any, Literal

from typer import Argument, Option

from editcli.cli.invocation import Invocation
from editcli.files.consistency import OnConflict

SHARED = signature(Invocation, eval_str=True).parameters

PRINTS = ("json", "quiet")
READS = ("store", *PRINTS)
WRITES = ("message", "author", *READS)
RUNS_MODEL = ("device", "dtype", "threads", "verbose")

DryRunOption = Annotated[
    bool, Option("--dry-run", "-n", help="Show what would be done, and change nothing.")
]
SeedOption = Annotated[int, Option(metavar="N", envvar="EDITCLI_SEED", help="Random seed.")]
VERSION_HELP = "A version: its id, number or tag, HEAD, or V~N (N versions before V)."
VersionOption = Annotated[str, Option(metavar="V", help=VERSION_HELP)]
OnConflictOption = Annotated[
    OnConflict,
    Option(
        envvar="EDITCLI_ON_CONFLICT",
        help="What to do with facts that give one prompt different targets: refuse them, or keep "
        "the newest (the last line).",
    ),
]
SkipBadOption = Annotated[
    bool, Option("--skip-bad", help="Leave refused lines out instead of stopping.")
]
FactFileArgument = Annotated[
    str, Argument(metavar="FILE", help="A fact file (JSON Lines), or - for standard input.")
]

# Of the conflict commands.
ConflictFileArgument = Annotated[
    str, Argument(metavar="FILE", help="A conflict file (JSON Lines), or - for standard input.")
]
RowLimitOption = Annotated[int | None, Option(metavar="N", min=1, help="Only the first N rows.")]
SplitOption = Annotated[Literal["all", "locate", "dev", "test"], Option(help="Which rows to use.")]
CorruptionOption = Annotated[
    Literal["each", "both"],
    Option(
        help="What to corrupt. each: the subject for memory scores, the answer for context scores; "
        "both: subject and answer for all scores."
    ),
]
UnitOption = Annotated[
    Literal["head", "group"],
    Option(help="head: single query heads; group: all query heads that share a key-value head."),
]


def shared(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these shared options, in the order of :data:`SHARED`, after its own."""
    chosen = [option for name, option in SHARED.items() if name in names]

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = list(signature(command, eval_str=True).parameters.values())[1:]  # not the invocation

        @wraps(command)
        def run(**values: Any) -> None:
            invocation = Invocation(**{option.name: values.pop(option.name) for option in chosen})
            command(invocation, **values)

        run.__signature__ = Signature([*own, *chosen])  # type: ignore[attr-defined]
        return run

    return with_options
