"""`editcli check`: reliability, generalization and locality of a version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Exit, Option

from editcli import exit_codes
from editcli.cli.options import (
    ADDS,
    RUNS_MODEL,
    Invocation,
    SystemOption,
    TasksFromOption,
    TasksLimitOption,
    TasksOption,
    VersionOption,
    shared,
)
from editcli.files.facts import read_facts
from editcli.operations.scores.minima import (
    MEASURED_ON,
    MinGeneralizationOption,
    MinLocalityOption,
    MinReliabilityOption,
    missed,
)
from editcli.operations.scores.records import (
    HEADLINES,
    IN_FORCE,
    Form,
    TasksByForm,
    kept_scores,
    print_scores,
    scores_record,
)
from editcli.operations.scores.task_scores import TaskRuns
from editcli.operations.scores.tasks import load_tasks
from editcli.store.records import Version
from editcli.store.store import Store
from editors import EditorError, Fact

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import EditScores
    from editors.model.tokenization import Wrap

SHOWN = 10  # remarks on lines of the file, printed one by one

Protocol = Literal["generate", "both"]


@shared(*ADDS, *RUNS_MODEL)
def command(
    call: Invocation,
    file: Annotated[
        str | None,
        Argument(
            metavar="[FILE]",
            help="A fact file, or - for standard input; without it, the facts of the version.",
        ),
    ] = None,
    version: VersionOption = "HEAD",
    chat: Annotated[
        bool,
        Option("--chat", help="Score chats, too, through the tokenizer's chat template."),
    ] = False,
    system: SystemOption = None,
    protocol: Annotated[
        Protocol,
        Option(
            help="generate: free-running answers alone. both: answers with the gold tokens given "
            "as well."
        ),
    ] = "both",
    tasks: TasksOption = None,
    tasks_from: TasksFromOption = None,
    tasks_limit: TasksLimitOption = None,
    min_reliability: MinReliabilityOption = None,
    min_generalization: MinGeneralizationOption = None,
    min_locality: MinLocalityOption = None,
    per_fact: Annotated[
        bool, Option("--per-fact", help="Print the scores of each fact, too.")
    ] = False,
    no_save: Annotated[
        bool, Option("--no-save", help="Do not keep the scores with the version.")
    ] = False,
) -> None:
    """Score a version: what was edited, and what must not change.

    Reliability is about the edited prompts, generalization about other phrasings of them, locality
    about prompts whose answers must not change. Scores are those of greedy, free-running answers.
    An answer is right if it starts with the target, as whole words. Two more readings are printed
    beside this one: exact (the answer is the target and stops) and said (its first sentence holds
    the target, and not the old answer). The teacher-forced scores are for comparison with papers.
    The exit code is 3 when a score is below its minimum.

    The main scores are kept with the version: `editcli log` and `editcli report` show them.

    With --chat every prompt is asked in a chat as well. There an answer is right if it says the
    target, and locality compares with the base in the same chat. A minimum holds for both forms.

    With --tasks, tasks of lm-evaluation-harness are run on the base and on the version: before,
    after, and the difference, each with its standard error.

    \b
    Examples:
      editcli check
      editcli check facts.jsonl --version v0003 --json
      editcli check --chat --system "Answer in one sentence."
      editcli check --min-reliability 0.99 --min-locality 0.98
      editcli check --tasks arc_easy,hellaswag --tasks-limit 200
    """
    out = call.out
    fact_file = None
    if file is not None:
        fact_file = read_facts(file)
        fact_file.require()
        out.note(*fact_file.remarks(SHOWN))
    store = call.open_store()
    chosen = store.version(version)
    if fact_file is None and not store.count(chosen):
        raise EditorError(
            f"{chosen.id} has no facts to check",
            "`editcli apply FILE` applies some; `editcli check FILE` checks those of a file",
        )

    loaded_tasks = load_tasks(tasks, tasks_from, tasks_limit, verbose=call.verbose, tell=call.tell)

    from editcli.operations.session import Session
    from editors.evaluation.edit_scores import score_edits
    from editors.model.tokenization import in_chat

    chats = chat or system is not None
    session = Session.open(call, store, chats=chats)
    state = session.state(chosen)
    facts: Sequence[Fact] = state.in_force()
    forms: dict[Form, Wrap] = {"plain": str}
    if chats:
        forms["chat"] = partial(in_chat, system=system)
    if fact_file is not None:
        for asked_as in forms.values():
            fact_file = fact_file.refusing(partial(session.why_unfit, asked_as=asked_as))
        facts = fact_file.require()
    with out.progress("checking", None, unit="stages") as bar:

        def scored(form: Form) -> EditScores:
            label = f"{form}: " if chats else ""
            return score_edits(
                session.base,
                lambda: session.method.attach(state),
                facts,
                asked_as=forms[form],
                headline=HEADLINES[form],
                teacher_forced=protocol != "generate",
                on_stage=lambda stage: bar.describe(f"{label}{stage}"),
            )

        scores = {form: scored(form) for form in forms}
        of_tasks: TasksByForm = {}
        if loaded_tasks is not None:
            bar.describe("tasks")
            runs = TaskRuns(session.base, loaded_tasks, verbose=call.verbose)
            for form in forms:
                of_tasks[form] = runs.compared(
                    lambda: session.method.attach(state), chats=form == "chat", system=system
                )
    minima = (min_reliability, min_generalization, min_locality)
    below = [*missed(scores, dict(zip(MEASURED_ON, minima, strict=True)))]
    if call.json or call.quiet:
        record = scores_record(chosen.id, protocol, scores, of_tasks, per_fact=per_fact)
        out.record({**record, "missed": below})
    else:
        print_scores(out, chosen.id, scores, of_tasks, per_fact=per_fact)
    if not no_save:
        keep_scores(call, store, chosen, kept_scores(file or IN_FORCE, scores))
    for problem in below:
        out.warn(problem)
    if below:
        raise Exit(exit_codes.BELOW_THRESHOLD)


def keep_scores(
    call: Invocation, store: Store, version: Version, scores: Mapping[str, object]
) -> None:
    """Keep ``scores`` with a version; where that is not possible now, only say so."""
    try:
        with call.writing(store) as transaction:
            transaction.record_scores(version, scores, who=call.who)
    except EditorError as error:
        call.out.note(f"the scores are not kept with the version: {error.message}")
