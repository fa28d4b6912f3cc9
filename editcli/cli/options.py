"""Options that several commands share, declared once, so that one name means one thing everywhere.

A command takes an :class:`Invocation` first, and says with :func:`shared` which of its fields it
has as options.
"""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, wraps
from inspect import Signature, signature
from pathlib import Path
from shlex import join
from typing import Annotated, Any, Literal

from typer import Argument, Option

from editcli.cli.completion import complete_device, complete_dtype, complete_model, complete_version
from editcli.cli.console import Output
from editcli.errors import UsageError
from editcli.files.consistency import OnConflict
from editcli.settings import current_folder
from editcli.store.files.layout import find_store
from editcli.store.records import StoreConfig
from editcli.store.signatures import SIGN_VARIABLE, Signer, required
from editcli.store.store import Store
from editcli.store.transaction import Transaction
from editors.text_matching.encodable import is_unicode


@dataclass
class Invocation:
    """One call of a command: the values of the shared options, and what follows from them."""

    message: Annotated[
        str, Option("--message", "-m", metavar="TEXT", help="Message for the history.")
    ] = ""
    author: Annotated[
        str | None, Option(metavar="WHO", envvar="EDITCLI_AUTHOR", help="Author for the history.")
    ] = None
    store: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            envvar="EDITCLI_STORE",
            help="The store's folder; by default the nearest .editcli, in this folder or above.",
        ),
    ] = None
    wait: Annotated[
        float,
        Option(
            metavar="SECONDS",
            min=0,
            envvar="EDITCLI_WAIT",
            help="Wait so long for another command that writes to the store.",
        ),
    ] = 0.0
    sign: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            envvar=SIGN_VARIABLE,
            help="The private key (Ed25519) that the history is signed with.",
        ),
    ] = None
    device: Annotated[
        str,
        Option(
            metavar="NAME",
            envvar="EDITCLI_DEVICE",
            autocompletion=complete_device,
            help="auto, cpu, cuda, cuda:1, mps, or spread (over all devices).",
        ),
    ] = "auto"
    dtype: Annotated[
        str,
        Option(
            metavar="NAME",
            envvar="EDITCLI_DTYPE",
            autocompletion=complete_dtype,
            help="auto, float32, bfloat16, float16, 8bit or 4bit.",
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        Option(
            metavar="N",
            min=1,
            envvar="EDITCLI_THREADS",
            help="CPU threads; by default as many as other programs leave free.",
        ),
    ] = None
    json: Annotated[bool, Option("--json", help="Print JSON; lists as JSON Lines.")] = False
    quiet: Annotated[
        bool, Option("--quiet", "-q", help="Print ids only, and no notes or progress.")
    ] = False
    verbose: Annotated[
        int, Option("--verbose", "-v", count=True, help="Print details; -vv adds library logs.")
    ] = 0

    @cached_property
    def out(self) -> Output:
        """Where the command prints."""
        return Output(self.json, self.quiet, self.verbose)

    def tell(self, message: str) -> None:
        """A note on what takes long; absent beside JSON."""
        if not self.json:
            self.out.note(message)

    def print_change(self, record: dict[str, object], *, dry_run: bool) -> None:
        """Print what was changed, or would be."""
        if self.json:
            record = {**record, "dry_run": dry_run}
        elif dry_run:
            self.out.note("nothing is changed; this would be done:")
        self.out.record(record)

    def open_store(self) -> Store:
        """The store that ``--store``, EDITCLI_STORE or the current folder names.

        Raises:
            EditorError: there is no such store, or it cannot be opened.
        """
        return Store.open(find_store(self.store, current_folder(), os.environ))

    def writing(self, store: Store, patience: float = 0.0) -> AbstractContextManager[Transaction]:
        """The right to change ``store``, which other commands are kept out of by this one's name.

        Raises:
            StoreLocked: another process writes to it, for longer than ``--wait`` and ``patience``,
                both in seconds.
        """
        return store.writing(self.command, max(self.wait, patience), self.signer(store.config))

    def signer(self, config: StoreConfig) -> Signer | None:
        """Who signs the history of a store, if it is signed.

        Raises:
            EditorError: no key is named, it cannot be read, or it is not that of the store.
        """
        if not config.signer:
            return None
        named = self.sign or os.environ.get(SIGN_VARIABLE)  # commands that write by the way
        return required(config.signer, Signer.read(Path(named)) if named else None)

    @property
    def who(self) -> str:
        """The author: ``--author``, else the account's name; empty when the system has none."""
        if self.author is not None:
            return self.author
        try:
            return getpass.getuser()
        except (KeyError, OSError, ImportError):  # no such account, as in some containers
            return ""

    @property
    def command(self) -> str:
        """The command as it was typed; the lock shows it to other processes."""
        return join(["editcli", *sys.argv[1:]])


SHARED = signature(Invocation, eval_str=True).parameters

PRINTS = ("json", "quiet")
READS = ("store", *PRINTS)
ADDS = ("author", "wait", "sign", *READS)  # an entry to the history, and no version
WRITES = ("message", *ADDS)

RUNS_MODEL = ("device", "dtype", "threads", "verbose")

DryRunOption = Annotated[
    bool, Option("--dry-run", "-n", help="Show what would be done, and change nothing.")
]
SeedOption = Annotated[
    int,
    # As far as torch takes them; a larger one would break the first edit, and not `init`.
    Option(metavar="N", min=0, max=2**63 - 1, envvar="EDITCLI_SEED", help="Random seed."),
]
VERSION_HELP = "A version: its id, number or tag, HEAD, or V~N (N versions before V)."
VersionOption = Annotated[
    str, Option(metavar="V", help=VERSION_HELP, autocompletion=complete_version)
]
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
    str, Argument(metavar="FILE", help="A fact file of any format, or - for standard input.")
]

# Of the commands that are given a base.
ModelArgument = Annotated[
    str,
    Argument(
        metavar="MODEL",
        help="A model, as `editcli init` takes it.",
        autocompletion=complete_model,
    ),
]
AdapterOption = Annotated[
    Literal["use", "ignore"] | None,
    Option(
        help="For a folder that holds weights and an adapter of PEFT beside them: use (merge the "
        "adapter into the weights), or ignore (the weights alone).",
    ),
]
TrustOption = Annotated[
    bool,
    Option(
        "--trust-remote-code",
        help="Run the Python code that comes with the model. Read it before.",
    ),
]

# Of the commands that ask in chats, and of those that train for them.
SystemOption = Annotated[
    str | None, Option(metavar="TEXT", help="A system turn before the question; implies --chat.")
]
PlainOption = Annotated[
    bool,
    Option(
        "--plain",
        help="Train plain prompts only. Without it, edits are trained in chats, too, where the "
        "scope signal knows other wordings and the tokenizer has a chat template.",
    ),
]

# Of the commands that run tasks of lm-evaluation-harness.
TasksOption = Annotated[
    str | None,
    Option(
        "--tasks",
        metavar="NAMES",
        help="Run tasks of lm-evaluation-harness, too, before and after; commas part the names.",
    ),
]
TasksFromOption = Annotated[
    Path | None,
    Option(metavar="DIR", help="A folder with tasks of your own, whose code is run."),
]
TasksLimitOption = Annotated[
    int | None, Option(metavar="N", min=1, help="Only the first N questions of each task.")
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


def _require_unicode(call: Invocation) -> None:
    """Raise UsageError where what the history is to keep is not Unicode, before anything is
    done."""
    for option, text in (("--message", call.message), ("--author", call.author or "")):
        if not is_unicode(text):
            raise UsageError(f"{option} {text!r} is not Unicode", "write it in UTF-8")


def shared(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command these shared options, in the order of :data:`SHARED`, after its own."""
    chosen = [option for name, option in SHARED.items() if name in names]

    def with_options(command: Callable[..., None]) -> Callable[..., None]:
        own = list(signature(command, eval_str=True).parameters.values())[1:]  # not the invocation

        @wraps(command)
        def run(**values: Any) -> None:
            invocation = Invocation(**{option.name: values.pop(option.name) for option in chosen})
            _require_unicode(invocation)
            command(invocation, **values)

        run.__signature__ = Signature([*own, *chosen])  # type: ignore[attr-defined]
        return run

    return with_options
