"""`editcli verify`: is the store as it was written, on the base that it was made on?"""

from __future__ import annotations

from typing import Annotated

from typer import Exit, Option

from editcli import exit_codes
from editcli.cli.options import READS, RUNS_MODEL, Invocation, shared
from editcli.errors import UsageError
from editcli.models.libraries import use_threads
from editcli.models.locations import find_model
from editcli.models.recorded.base_files import differing, digests_of
from editcli.models.recorded.store_base import (
    OTHER_BASE,
    base_of,
    load_store_base,
    structure_problems,
)
from editcli.store.edits import described
from editcli.store.files.digests import Digests, remembered_digests
from editcli.store.integrity import Problem
from editcli.store.signatures import read_public
from editcli.store.store import Store
from editcli.wording import counted
from editors import EditorError


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    no_base: Annotated[bool, Option("--no-base", help="Do not look at the base model.")] = False,
    full: Annotated[
        bool,
        Option(
            "--full",
            help="Read every file again, also those that look unchanged since they were last read.",
        ),
    ] = False,
    expect: Annotated[
        str,
        Option(
            metavar="HASH",
            help="Fail unless the hash of the history is this one: `editcli verify --json` prints "
            "it as tip.",
        ),
    ] = "",
    signed_by: Annotated[
        str,
        Option(
            metavar="KEY",
            help="Fail unless the history is signed with this public key: a file, or its text.",
        ),
    ] = "",
) -> None:
    """Check that the store and its base model are unchanged.

    This checks every hash of the store, the chain and the signatures of the history, the edits that
    have a name, and of the base its weights, its tokenizer and its structure. Everything that is
    wrong is listed; the exit code is then 1.

    Whoever rewrites a whole store can make all hashes fit, and sign it with another key. The tip,
    kept elsewhere and given to --expect, finds that out, and so does the public key, given to
    --signed-by.

    \b
    Examples:
      editcli verify
      editcli verify --full
      editcli verify --expect "$(cat tip.txt)"
      editcli verify --signed-by ~/.ssh/id_ed25519.pub
      editcli verify --no-base --json
    """
    out = call.out
    store = call.open_store()
    with remembered_digests(trusts_cache=not full) as digests:
        problems = store.verify(digests) or _edit_problems(store)
        tip = store.tip()
        if expect and not (len(expect) >= 12 and tip.startswith(expect)):
            problems.append(Problem("history", f"its tip is {tip}, and not {expect}"))
        if signed_by and read_public(signed_by) != store.config.signer:
            signer = store.config.signer or "no key"
            problems.append(Problem("history", f"it is signed with {signer}, not with {signed_by}"))
        found, hint = ([], "") if no_base else _base_problems(call, store, digests)
    problems += found
    if call.json:
        listed = [{"what": problem.what, "detail": problem.detail} for problem in problems]
        record = {"sound": not problems, "base_checked": not no_base, "tip": tip}
        out.record({**record, "versions": len(store.ids()), "problems": listed})
    out.finding(*(f"{problem.what}: {problem.detail}" for problem in problems))
    if hint and not call.json:
        out.hint(hint)
    if problems:
        raise Exit(exit_codes.FAILED)
    base = "the base was not looked at" if no_base else "the base is the one it was made on"
    out.text(f"sound: {counted(len(store.ids()), 'version')}; {base}")


def _base_problems(call: Invocation, store: Store, digests: Digests) -> tuple[list[Problem], str]:
    """What is wrong with the base, and a hint."""
    config = store.config
    use_threads(call.threads)
    problems: list[Problem] = []
    try:
        name, revision = base_of(config)
        if config.files:  # releases up to 0.2 do not write them
            found = digests_of(find_model(name, revision), config.adapter, digests)
            texts = differing(config.files, found, config.adapter)
            problems = [Problem("base model", text) for text in texts]
        if others := structure_problems(config):  # it could not be loaded then
            return [*problems, *(Problem("base model", text) for text in others)], OTHER_BASE
        load_store_base(
            config, device=call.device, dtype=call.dtype, verbose=call.verbose, tell=call.tell
        )
    except UsageError:
        raise
    except EditorError as error:
        return [*problems, Problem("base model", error.message)], error.hint
    except OSError as error:
        return [*problems, Problem("base model", str(error))], ""
    return problems, ""


def _edit_problems(store: Store) -> list[Problem]:
    """Versions with a name whose edits cannot be read."""
    problems = []
    for name, version in store.refs().items():
        try:
            described(store, store.version(version))
        except EditorError as error:
            problems.append(Problem(name, error.message))
    return problems
