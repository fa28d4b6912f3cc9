"""`editcli verify`: is the store as it was written, on the base that it was made on?"""

from __future__ import annotations

from typing import Annotated

from typer import Exit, Option

from editcli import exit_codes
from editcli.cli.options import READS, RUNS_MODEL, Invocation, shared
from editcli.errors import UsageError
from editcli.models.libraries import use_threads
from editcli.models.loading import load_store_base
from editcli.store.edits import edits_of
from editcli.store.integrity import Problem
from editcli.store.store import Store
from editcli.wording import counted
from editors import EditorError


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    no_base: Annotated[
        bool, Option("--no-base", help="Do not load and compare the base model.")
    ] = False,
) -> None:
    """Check that the store and its base model are unchanged.

    This checks every hash, the chain of the history, the facts and the base model. Everything that
    is wrong is listed; the exit code is then 1.

    \b
    Examples:
      editcli verify
      editcli verify --no-base
      editcli verify --json
    """
    out = call.out
    store = call.open_store()
    problems = store.verify() or _edit_problems(store)
    hint = ""
    if not no_base:
        use_threads(call.threads)
        try:
            load_store_base(
                store.config,
                device=call.device,
                dtype=call.dtype,
                verbose=call.verbose,
                tell=call.tell,
            )
        except UsageError:
            raise
        except EditorError as error:
            problems.append(Problem("base model", error.message))
            hint = error.hint
    if call.json:
        listed = [{"what": problem.what, "detail": problem.detail} for problem in problems]
        out.record({"sound": not problems, "base_checked": not no_base, "problems": listed})
    out.finding(*(f"{problem.what}: {problem.detail}" for problem in problems))
    if hint and not call.json:
        out.hint(hint)
    if problems:
        raise Exit(exit_codes.FAILED)
    base = "not compared" if no_base else "the one it was made on"
    out.text(f"sound: {counted(len(store.ids()), 'version')}, the base is {base}")


def _edit_problems(store: Store) -> list[Problem]:
    """Versions with a name whose edits cannot be read."""
    problems = []
    for name, version in store.refs().items():
        try:
            edits_of(store, version)
        except EditorError as error:
            problems.append(Problem(name, error.message))
    return problems
