"""The scores of tasks, on a base and on a version of it, and the differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from editcli.cli.console import Row
from editcli.operations.scores.tasks import Tasks, quiet_harness

if TYPE_CHECKING:
    from editors.evaluation.harness import HarnessModel
    from editors.inference.edited_model import EditedModel
    from editors.model.base_model import Base

SEED = 1234  # of the examples before a question, as the harness has it
SAME = 1e-9  # of a mean, by rounding
UNFILTERED = ",none"


@dataclass(frozen=True, slots=True)
class Measured:
    """A value and its standard error; None where there is none."""

    value: float
    error: float | None


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A ``metric`` of a ``task``, or of a group of tasks, over ``n`` questions: of the base
    (``before``), of the version (``after``), and the ``difference``. The error of the difference
    is that of paired questions, where the metric is a mean over questions."""

    task: str
    metric: str
    n: int
    before: Measured
    after: Measured
    difference: Measured


@dataclass(frozen=True, slots=True)
class _Run:
    """What the harness found of one model: ``metrics`` by task, ``samples`` by task, and
    ``members``: by group, the tasks in it."""

    metrics: Mapping[str, Mapping[str, Any]]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]
    members: Mapping[str, Sequence[str]]

    def values(self, name: str, key: str) -> list[float]:
        """The ``key`` of each question of a task, or of all tasks of a group; empty where a
        question has no such number."""
        metric, _, way = key.partition(",")
        of_tasks = self.samples.get(name)
        if of_tasks is None:
            members = self.members.get(name, ())
            return [value for member in members for value in self.values(member, key)]
        found = [sample.get(metric) for sample in of_tasks if sample["filter"] == way]
        numbers = [float(value) for value in found if isinstance(value, int | float)]
        return numbers if len(numbers) == len(found) else []


class TaskRuns:
    """Runs tasks on a base, once for each form, and on what is attached to it."""

    def __init__(self, base: Base, tasks: Tasks, *, verbose: int = 0) -> None:
        from editors.evaluation.harness import HarnessModel
        from editors.inference.edited_model import EditedModel

        self._tasks, self._verbose = tasks, verbose
        self._before: dict[tuple[bool, str | None], _Run] = {}
        with quiet_harness(verbose):
            self._unedited = EditedModel.unedited(base)
            self._model: HarnessModel = HarnessModel(self._unedited)

    def compared(
        self,
        attach: Callable[[], AbstractContextManager[EditedModel]],
        *,
        chats: bool = False,
        system: str | None = None,
    ) -> list[TaskScore]:
        """The scores of what ``attach`` attaches. ``chats``: questions are asked in chats, after a
        ``system`` turn."""
        form = chats, system
        if form not in self._before:
            self._before[form] = self._run(self._unedited, *form)
        with attach() as edited:
            after = self._run(edited, *form)
        return [*_scores(self._before[form], after)]

    def _run(self, edited: EditedModel, chats: bool, system: str | None) -> _Run:
        from lm_eval import evaluate
        from torch.random import fork_rng, manual_seed

        self._model.edited = edited
        for task in self._tasks.loaded["tasks"].values():
            task.set_fewshot_seed(seed=SEED)  # the same examples in each run
        with quiet_harness(self._verbose), fork_rng(devices=[]):
            manual_seed(SEED)
            found = evaluate(
                self._model,
                self._tasks.loaded,
                limit=self._tasks.limit,
                apply_chat_template=chats,
                system_instruction=system,
                fewshot_as_multiturn=chats,
            )
        self._model.edited = self._unedited
        return _Run(found["results"], found["samples"], found["group_subtasks"])


def _scores(before: _Run, after: _Run) -> Iterator[TaskScore]:
    for name, metrics in before.metrics.items():
        for key, value in metrics.items():
            metric, comma, way = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            pairs = [run.metrics[name] for run in (before, after)]
            first, second = (
                Measured(of_run[key], _number(of_run.get(f"{metric}_stderr,{way}")))
                for of_run in pairs
            )
            apart = Measured(second.value - first.value, _paired(before, after, name, key))
            shown = key.removesuffix(UNFILTERED)
            yield TaskScore(name, shown, int(metrics["sample_len"]), first, second, apart)


def _paired(before: _Run, after: _Run, name: str, key: str) -> float | None:
    """The standard error of the mean difference over questions; None where the metric is no mean
    over questions, or of fewer than two."""
    runs = before, after
    values = [run.values(name, key) for run in runs]
    if len(values[0]) < 2 or len(values[0]) != len(values[1]):
        return None
    if any(
        abs(fmean(of_run) - run.metrics[name][key]) > SAME
        for of_run, run in zip(values, runs, strict=True)
    ):
        return None
    apart = [new - old for old, new in zip(*values, strict=True)]
    error: float = stdev(apart) / math.sqrt(len(apart))
    return error


def _number(value: object) -> float | None:
    """The harness says "N/A" where there is no number."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def task_rows(scores: Sequence[TaskScore]) -> Iterator[Row]:
    """The rows of a table; errors stand behind the values."""
    for score in scores:
        yield {
            "task": score.task,
            "metric": score.metric,
            "before": shown(score.before),
            "after": shown(score.after),
            "difference": shown(score.difference, "+"),
            "n": score.n,
        }


def shown(measured: Measured, sign: str = "") -> str:
    """A value with its standard error."""
    error = "" if measured.error is None else f" ±{measured.error:.3f}"
    return f"{measured.value:{sign}.3f}{error}"


def tasks_record(scores: Sequence[TaskScore]) -> dict[str, dict[str, object]]:
    """The scores as JSON, by task and metric."""
    record: dict[str, dict[str, object]] = {}
    for score in scores:
        parts = (score.before, score.after, score.difference)
        record.setdefault(score.task, {})[score.metric] = {
            "n": score.n,
            **{
                name: {"value": _finite(part.value), "stderr": part.error}
                for name, part in zip(("before", "after", "difference"), parts, strict=True)
            },
        }
    return record


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
