"""`editcli conflict measure`: passage or memory, how often each answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from editcli.cli import options
from editcli.cli.console import Output
from editcli.cli.options import READS, RUNS_MODEL, Invocation, shared
from editcli.errors import UsageError
from editcli.files.conflicts import read_conflicts
from editcli.wording import counted

if TYPE_CHECKING:
    from editcli.operations.conflicts.session import ConflictSession
    from editors.conflicts.cases import ConflictCase
    from editors.conflicts.measure import RowResult
    from editors.conflicts.uncertainty import Entails, Uncertainty

TEMPERATURE = 0.5  # of sampled answers


@shared(*READS, *RUNS_MODEL)
def command(
    call: Invocation,
    file: options.ConflictFileArgument,
    split: options.SplitOption = "all",
    limit: options.RowLimitOption = None,
    samples: Annotated[
        int,
        Option(
            metavar="N",
            min=0,
            help="Measure semantic entropy and coherent persuasion, too, on N sampled answers to "
            "each row.",
        ),
    ] = 0,
    entailment: Annotated[
        str | None,
        Option(
            metavar="MODEL",
            help="With --samples: a classifier (folder or Hub id) that says which answers mean "
            "the same; without it, only equal texts mean the same.",
        ),
    ] = None,
    per_row: Annotated[
        bool, Option("--per-row", help="Print how each row was answered, too (only with --json).")
    ] = False,
    version: options.VersionOption = "HEAD",
    skip_bad: options.SkipBadOption = False,
    seed: options.SeedOption = 0,
) -> None:
    """Measure which source wins where passage and memory differ.

    Each question is first asked without its passage: a fact is known if the answer is memory's.
    Then it is asked after the passage: is the answer memory's, the passage's, or another? Known and
    unknown facts are rated apart, too. Where a row has no memory_answer, the model's own answer is
    memory's, and the fact counts as neither.

    Answers are greedy and free-running; an answer belongs to the source that its first five words
    name. Rows about an edited fact have four outcomes: edit, context, before (the answer that the
    model gave before the edit), other.

    \b
    Examples:
      editcli conflict measure conflicts.jsonl
      editcli conflict measure conflicts.jsonl --split test --version v0002 --json
      editcli conflict measure conflicts.jsonl --limit 50 --samples 10
    """
    out = call.out
    rows = read_conflicts(file, skip_bad=skip_bad).chosen(split, limit)
    if entailment is not None and not samples:
        raise UsageError(
            "--entailment compares sampled answers, and none are sampled", "add `--samples 10`"
        )
    store = call.open_store()
    chosen = store.version(version)

    from editcli.operations.conflicts.records import results_record
    from editcli.operations.conflicts.session import ConflictSession
    from editcli.operations.session import Session
    from editors.conflicts.measure import measure, prompts_of, sought_answers
    from editors.conflicts.replies import Replies

    session = Session.open(call, store)
    entails = None
    if entailment is not None:
        from editcli.models.entailment import entails_by

        entails = entails_by(entailment, device=call.device, verbose=call.verbose)
    conflicts = ConflictSession(session, session.state(chosen))
    with out.progress("measuring", None, unit="questions") as bar:
        cases = conflicts.cases(rows, out, bar)
        prompts, questions = prompts_of(cases)
        bar.stage("without and with passages", len({*prompts, *questions}), "prompts")
        with conflicts.attached() as edited:
            results = measure(
                edited, cases, replies=Replies(edited, sought_answers(cases), bar.advance)
            )
    record: dict[str, Any] = {"version": chosen.id, "split": split, **results_record(results)}
    if samples:
        record["uncertainty"] = {
            "samples": samples,
            "temperature": TEMPERATURE,
            "entailment": entailment or "normalised exact match",
            **_uncertainty(conflicts, cases, samples, entails, seed, out),
        }
    if per_row:
        record["per_row"] = [
            {
                "question": r.case.row.question,
                "known": r.known,
                "answer": r.answer,
                "outcome": _outcome(r),
            }
            for r in results.results
        ]
    if call.json or call.quiet:
        out.record(record)
    else:
        _print(out, record)


def _outcome(result: RowResult) -> str:
    return "edit" if result.outcome == "memory" and result.case.fact else result.outcome


def _uncertainty(
    conflicts: ConflictSession,
    cases: Sequence[ConflictCase],
    count: int,
    entails: Entails | None,
    seed: int,
    out: Output,
) -> dict[str, Any]:
    from editcli.operations.conflicts.records import finite
    from editors.conflicts.measure import max_answer_tokens
    from editors.conflicts.uncertainty import Uncertainty, same_answer, samples

    tokens = max_answer_tokens(conflicts.session.base, cases)
    measured: list[Uncertainty] = []
    with conflicts.attached() as model, out.progress("sampling", len(cases), unit="rows") as bar:
        for case in cases:
            row = case.row
            draws = ((row.prompt, seed), (row.question, seed), (row.question, seed + 1))
            informed, alone, again = (
                samples(model, [prompt], count, tokens, TEMPERATURE, draw_seed)[0]
                for prompt, draw_seed in draws
            )
            measured.append(Uncertainty.of(informed, alone, again, entails or same_answer))
            bar.advance()

    measures = [*(field.name for field in fields(Uncertainty)), "coherent_persuasion_net"]
    return {
        name: finite(sum(getattr(each, name) for each in measured) / len(measured))
        for name in measures
    }


# --- for people -----------------------------------------------------------------------------------


def _print(out: Output, record: dict[str, Any]) -> None:
    rows = sum(part["rows"] for part in record["by_kind"].values())
    out.text(f"{record['version']}: {rows} rows, {record['rows']} conflicting")
    parts = [("all conflicting", record)]
    parts += [(name, record[name]) for name in ("known", "unknown")]
    parts += record["by_kind"].items()
    parts += record["by_relation"].items()
    out.table(_line(name, part) for name, part in parts if part["rows"])
    facts = record["without_passage"]
    out.text(
        f"without a passage: {facts['known']} of {counted(facts['asked'], 'fact')} known, "
        f"{facts['unknown']} unknown"
        + (f", {facts['elicited']} without a stated answer" if facts["elicited"] else "")
    )
    ratio = record["memorization_ratio"]
    out.text(
        f"memorization ratio {'undefined' if ratio is None else f'{ratio:.3f}'}, "
        f"BCU {record['bcu']:.3f}, CCU {record['ccu']:+.3f}, "
        f"answers that name both: {record['several_named']}"
    )
    if edited := record.get("about_edits"):
        out.text("rows about edited facts, by what the passage says:")
        states = {"all": edited, **edited["by_state"]}
        outcomes = ("rows", "edit", "context", "before", "other")
        out.table(
            {"passage": state, **{key: values[key] for key in outcomes}}
            for state, values in states.items()
        )
        if "router" in edited:
            opened = edited["router"]["opened_with_passage"]
            out.text(f"with the passage before the question, the edit claims {opened:.3f} of them")
    for name, value in record.get("uncertainty", {}).items():
        out.text(f"{name.replace('_', ' ')}: {value}")


def _line(name: str, part: dict[str, Any]) -> dict[str, object]:
    low, high = part["ci95"]["memory"]
    return {
        "rows": name,
        **rate_cells(part),
        "95 % memory": f"{low:.3f}-{high:.3f}",
        "BCU": f"{part['bcu']:.3f}" if "bcu" in part else "",
        "CCU": f"{part['ccu']:+.3f}" if "ccu" in part else "",
    }


def rate_cells(record: dict[str, Any]) -> dict[str, object]:
    """The rates in the record of a group of rows, and their number."""
    rates = {name: f"{record[name]:.3f}" for name in ("memory", "context", "other")}
    return {**rates, "n": record["rows"]}
