"""`editcli qualify`: will edits work on this model, with these facts?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from typer import Exit, Option

from editcli import exit_codes
from editcli.cli.completion import complete_method
from editcli.cli.console import Row
from editcli.cli.options import (
    PRINTS,
    RUNS_MODEL,
    FactFileArgument,
    Invocation,
    ModelArgument,
    TasksFromOption,
    TasksLimitOption,
    TasksOption,
    shared,
)
from editcli.files.facts import read_facts
from editcli.models.libraries import use_threads
from editcli.models.loading import load_base
from editcli.models.locations import find_model, resolve
from editcli.operations.default_settings import default_settings
from editcli.operations.scores.qualification import MINIMA, Qualification, Trial, qualify
from editcli.operations.scores.records import scores_block
from editcli.operations.scores.task_scores import shown, tasks_record
from editcli.operations.scores.tasks import load_tasks
from editors import METHODS

if TYPE_CHECKING:
    from editcli.operations.scores.task_scores import TaskScore
    from editors.evaluation.metrics import Rate

RIVAL = "in-context"
SHOWN = 10  # remarks on lines of the file, printed one by one


@shared(*PRINTS, *RUNS_MODEL)
def command(
    call: Invocation,
    model: ModelArgument,
    file: FactFileArgument,
    method: Annotated[
        str,
        Option(
            metavar="NAME",
            help="The editing method; `editcli methods` lists them.",
            autocompletion=complete_method,
        ),
    ] = "wise",
    budget: Annotated[
        float, Option(metavar="SECONDS", min=1, help="The time that it may take, about.")
    ] = 600,
    tasks: TasksOption = None,
    tasks_from: TasksFromOption = None,
    tasks_limit: TasksLimitOption = None,
) -> None:
    """Edit a sample of facts into a model, measure them, and say whether to go on: go, or no.

    No store is made, and the model is not changed. The sample is as large as the time allows.
    Beside the method, in-context editing is measured, which puts the fact before the prompt: what a
    team would do without a tool. Prompts are asked plain, and in chats where the tokenizer has a
    template; and once more with sampled answers.

    Go means that no score is below its limit: reliability 0.95, generalization 0.80, near locality
    0.90, far locality 0.98, in plain prompts and in chats. A score without prompts in the file is
    not judged. The exit code is 3 for no.

    With --tasks, tasks of lm-evaluation-harness are run on the base and with the edits of either
    method, which is not in the time. They are shown, and not judged.

    \b
    Examples:
      editcli qualify smollm2 facts.jsonl
      editcli qualify ./my-model facts.csv --budget 1800 --json
      editcli qualify smollm2 facts.jsonl --tasks arc_easy --tasks-limit 200
    """
    out = call.out
    fact_file = read_facts(file)
    facts = fact_file.require()
    out.note(*fact_file.remarks(SHOWN))
    loaded_tasks = load_tasks(tasks, tasks_from, tasks_limit, verbose=call.verbose, tell=call.tell)
    location = find_model(model)
    spec = METHODS.load(method)
    methods = {
        name: METHODS.load(name).all_settings(default_settings(METHODS.load(name), location.shown))
        for name in dict.fromkeys((method, RIVAL))
    }
    name, revision = resolve(model)
    use_threads(call.threads)
    base = load_base(
        name,
        revision=revision,
        device=call.device,
        dtype=call.dtype,
        layer=spec.depth(methods[method]),
        verbose=call.verbose,
        tell=call.tell,
        edits=spec.edits,
    )
    chats = base.tokenizer.chat_template is not None
    with out.progress("qualifying", None, unit="stages") as bar:
        found = qualify(
            base,
            facts,
            methods,
            budget,
            chats=chats,
            tasks=loaded_tasks,
            on_stage=bar.describe,
        )
    own = found.trials[0]
    missed = own.missed()
    if call.json or call.quiet:
        out.record(_record(model, found, missed))
    else:
        out.text(f"{model}: {own.facts} of {found.of} facts")
        out.table(_rows(found))
        out.text(f"peak memory {found.peak_bytes / 2**30:.1f} GiB")
        out.text("no" if missed else "go")
    for problem in missed:
        out.warn(problem)
    if missed:
        raise Exit(exit_codes.BELOW_THRESHOLD)


def _rates(trial: Trial) -> Iterator[tuple[str, Rate]]:
    for form, scores in trial.scores.items():
        for name in MINIMA:
            yield f"{name}, {form}", getattr(scores, name)
        if form == "plain":
            for kind, rate in scores.kinds.items():
                yield f"near, {kind}", rate
    yield "right when sampled", trial.sampled


def _rows(found: Qualification) -> Iterator[Row]:
    rates = [dict(_rates(trial)) for trial in found.trials]
    for name in rates[0]:
        if any(of_trial[name].n for of_trial in rates):
            yield {
                "score": name,
                **{
                    trial.method: _shown(of_trial[name])
                    for trial, of_trial in zip(found.trials, rates, strict=True)
                },
            }
    for form, of_tasks in found.trials[0].tasks.items():
        for number, score in enumerate(of_tasks):
            yield {
                "score": f"{score.task}, {score.metric}, {form}",
                **{trial.method: _change(trial.tasks[form][number]) for trial in found.trials},
            }
    for name, seconds in (("edit", "seconds_an_edit"), ("answer", "seconds_an_answer")):
        yield {
            "score": f"seconds an {name}",
            **{trial.method: f"{getattr(trial, seconds):.2f}" for trial in found.trials},
        }
    yield {"score": "not learnt", **{trial.method: trial.failed for trial in found.trials}}


def _shown(rate: Rate) -> str:
    return f"{rate.value:.3f} ({rate.low:.2f}-{rate.high:.2f})" if rate.n else ""


def _change(score: TaskScore) -> str:
    """The score with the edits, and what it is beside the base's."""
    return f"{score.after.value:.3f} ({shown(score.difference, '+')})"


def _record(model: str, found: Qualification, missed: list[str]) -> Mapping[str, Any]:
    return {
        "model": model,
        "go": not missed,
        "missed": missed,
        "facts": found.trials[0].facts,
        "facts_in_file": found.of,
        "peak_memory_bytes": found.peak_bytes,
        "methods": {
            trial.method: {
                "not_learnt": trial.failed,
                "seconds_per_edit": round(trial.seconds_an_edit, 3),
                "seconds_per_answer": round(trial.seconds_an_answer, 3),
                "sampled": {"value": trial.sampled.value, "n": trial.sampled.n},
                "forms": {
                    form: scores_block(scores, per_fact=False)
                    | ({"tasks": tasks_record(trial.tasks[form])} if trial.tasks else {})
                    for form, scores in trial.scores.items()
                },
            }
            for trial in found.trials
        },
    }
