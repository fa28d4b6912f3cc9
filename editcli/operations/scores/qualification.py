"""Whether edits will work on a model: facts are edited into it, without a store, and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from editcli.files.corpus import read_corpus
from editcli.files.packaged import ShippedCalibrations
from editcli.operations.editing.apply import peak_memory
from editcli.operations.scores.records import HEADLINES, Form, TasksByForm
from editcli.operations.scores.task_scores import TaskRuns
from editcli.operations.scores.tasks import Tasks
from editors import METHODS, Fact

if TYPE_CHECKING:
    from editors.evaluation.edit_scores import EditScores
    from editors.evaluation.metrics import Rate
    from editors.inference.edited_model import EditedModel
    from editors.methods.edit_state import Scalar
    from editors.model.base_model import Base

PILOT = 3  # facts, whose time tells how many fit the budget
TEMPERATURE = 0.7  # of the sampled answers
SAMPLE_TOKENS = 16  # of each

MINIMA = {"reliability": 0.95, "generalization": 0.80, "near": 0.90, "far": 0.98}
"""What a model has to reach, in every form that it is asked in."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What one method did on a model.

    ``facts``: how many were edited; ``failed``: those that could not be learnt; ``scores``: by
    form; ``sampled``: the share of prompts and rephrases that are answered right when answers are
    sampled; ``tasks``: the scores of tasks by form, if any were run.
    """

    method: str
    facts: int
    failed: int
    seconds_an_edit: float
    seconds_an_answer: float
    scores: Mapping[Form, EditScores]
    sampled: Rate
    tasks: TasksByForm

    def missed(self) -> list[str]:
        """In words, what is below :data:`MINIMA`."""
        return [
            f"{name}{' in chats' if form == 'chat' else ''} {rate.value:.3f} "
            f"is below {MINIMA[name]:.2f}"
            for form, of_form in self.scores.items()
            for name in MINIMA
            if (rate := getattr(of_form, name)).n and rate.value < MINIMA[name]
        ]


@dataclass(frozen=True, slots=True)
class Qualification:
    """``trials``: of the method, and of ``in-context``, the rival without a change of the model;
    ``of``: how many facts there were; ``peak_bytes``: the most memory used."""

    trials: Sequence[Trial]
    of: int
    peak_bytes: int


def qualify(
    base: Base,
    facts: Sequence[Fact],
    methods: Mapping[str, Mapping[str, Scalar]],
    budget: float,
    *,
    chats: bool,
    tasks: Tasks | None = None,
    seed: int = 0,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Qualification:
    """Try each of ``methods``, names with their settings, on a sample of ``facts``.

    The sample is as large as ``budget`` seconds allow, by what a pilot of the first method takes,
    and the same for all methods. ``chats``: prompts are asked in chats, too. ``tasks`` are run on
    the base and with the edits of each method, beyond the budget.

    Raises:
        EditorError: a method cannot edit the base, or a fact cannot be encoded.
    """
    shuffled = Random(seed).sample(range(len(facts)), len(facts))
    first, *_ = methods
    started = time.perf_counter()
    on_stage("pilot")
    _trial(base, first, methods[first], [facts[i] for i in shuffled[:PILOT]], chats, None, on_stage)
    pilot = time.perf_counter() - started
    each = pilot / min(PILOT, len(facts)) * len(methods)
    count = max(PILOT, math.floor((budget - pilot) / each))
    sample = [facts[i] for i in sorted(shuffled[:count])]
    runs = None if tasks is None else TaskRuns(base, tasks)
    trials = [
        _trial(base, name, settings, sample, chats, runs, on_stage)
        for name, settings in methods.items()
    ]
    return Qualification(trials, len(facts), peak_memory(base.device))


def _trial(
    base: Base,
    name: str,
    settings: Mapping[str, Scalar],
    facts: Sequence[Fact],
    chats: bool,
    runs: TaskRuns | None,
    on_stage: Callable[[str], None],
) -> Trial:
    from editors.evaluation.edit_scores import score_edits
    from editors.methods.applying import NO_CACHE
    from editors.model.tokenization import in_chat

    method = METHODS.load(name).build(base, settings, 0)
    method.self_test()
    state = method.start(read_corpus(), ShippedCalibrations())
    started = time.perf_counter()
    on_stage(f"{name}: editing")
    applied = method.apply(state, facts, cache=NO_CACHE, on_progress=lambda _: True)
    edited = time.perf_counter() - started
    attach = partial(method.attach, applied.state)
    forms: dict[Form, Any] = {"plain": str, **({"chat": in_chat} if chats else {})}
    scores = {}
    for form, asked_as in forms.items():
        on_stage(f"{name}: {form}")
        scores[form] = score_edits(
            base, attach, facts, asked_as=asked_as, headline=HEADLINES[form], teacher_forced=False
        )
    on_stage(f"{name}: sampling")
    with attach() as model:
        sampled, seconds = _sampled(model, facts)
    tasks: TasksByForm = {}
    if runs is not None:
        for form in forms:
            on_stage(f"{name}: tasks, {form}")
            tasks[form] = runs.compared(attach, chats=form == "chat")
    each = edited / len(facts)
    return Trial(name, len(facts), len(applied.failed), each, seconds, scores, sampled, tasks)


def _sampled(model: EditedModel, facts: Sequence[Fact]) -> tuple[Rate, float]:
    """The share of prompts and rephrases that are answered right when answers are sampled, and the
    seconds of an answer."""
    import torch

    from editors.evaluation.metrics import Rate
    from editors.evaluation.readings import starts
    from editors.inference.generation import Answer
    from editors.model.tokenization import encode_prompts

    base, tokenizer = model.base, model.base.tokenizer

    def right() -> Iterator[bool]:
        for fact in facts:
            prompts = [fact.prompt, *fact.rephrases]
            rewritten = [prompt for prompt, _ in model.rewritten(prompts)]
            for ids in encode_prompts(tokenizer, rewritten):
                out = base.model.generate(
                    torch.tensor([ids], device=base.input_device),
                    do_sample=True,
                    temperature=TEMPERATURE,
                    max_new_tokens=SAMPLE_TOKENS,
                    pad_token_id=tokenizer.pad_token_id or 0,
                )
                text = tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True).strip()
                yield starts(Answer(text, stopped=False), fact.target, fact.ground_truth)

    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        outcomes = [*right()]
    return Rate.of(outcomes), (time.perf_counter() - started) / len(outcomes)
