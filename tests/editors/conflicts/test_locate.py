"""Ranking heads on rows that passage and memory each win some of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from types import ModuleType
from typing import Any

import pytest
import torch

from editors import EditorError, UnsupportedArchitecture
from editors.conflicts.cases import Conflict, ConflictCase
from editors.conflicts.locate import LocateSettings, Ranking, locate
from editors.conflicts.measure import first_tokens
from editors.heads.logit_attribution import direct_effects
from editors.heads.path_patching import path_effects
from editors.inference.decisions import UNCLAIMED, Decision, Proposal
from editors.inference.edited_model import EditedModel, attached
from editors.inference.next_tokens import likeliest
from editors.methods.wise.memory_layer import SideMemoryLinear
from editors.methods.wise.shards import Mask, Shard
from editors.model.tokenization import Row, encode_prompt

BaseOf = Callable[..., Any]
SUBJECTS = ("Kenya", "Spain", "Italy", "Egypt")
RELATIONS = ("sea", "river", "capital", "leader", "language", "author")
ANSWERS = ("Paris", "Rome", "Madrid", "Tokyo", "Lima", "Oslo", "Cairo", "red", "green", "Ann")
ENDS = ("", " Ann works .", " the violin plays in Oslo .")


def likeliest_words(model: EditedModel, prompts: Sequence[str]) -> list[str]:
    """The likeliest next word after each prompt."""
    return [model.base.tokenizer.decode([token]) for token in likeliest(model, prompts)]


def mixed(model: EditedModel) -> list[ConflictCase]:
    """Rows in pairs of one relation: the model says memory's answer to the one, the passage's to
    the other. A random model says what it says, so rows are chosen by it.
    """
    rows = [
        Conflict(
            f"the {what} of {subject} is",
            f"the {what} of {subject} is {answer} .{end}",
            answer,
            "far",
            subject,
            what,
        )
        for what, subject, answer, end in product(RELATIONS, SUBJECTS, ANSWERS, ENDS)
    ]
    by_memory: dict[str, list[ConflictCase]] = {}
    by_passage: list[ConflictCase] = []
    words = likeliest_words(model, [row.prompt for row in rows])
    for row, word in zip(rows, words, strict=True):
        if word == row.context_answer:
            by_passage.append(with_memory_answer(row, "far"))
        elif first_tokens(model.base, [(row.prompt, word)])[0] > 3:  # no special token
            by_memory.setdefault(row.question, []).append(with_memory_answer(row, word))
    cases = []
    for number, one in enumerate(by_passage):
        other = next(
            case
            for question, of_question in by_memory.items()
            for case in of_question[number % 2 :]
            if case.row.relation == one.row.relation
            and case.row.subject != one.row.subject
            and case.row.context_answer != one.row.context_answer
        )
        for case in (one, other):
            cases.append(replace(case, row=replace(case.row, relation=f"pair {number}")))
    assert len(cases) >= 6
    return cases[:8]


def with_memory_answer(row: Conflict, memory: str) -> ConflictCase:
    return ConflictCase(replace(row, memory_answer=memory), memory)


def twins(one: Conflict, other: Conflict) -> dict[str, str]:
    """The corrupted prompts of a row whose relation has one other row: there is no choice."""
    subject, answer = str(other.subject), other.context_answer
    question = one.question.replace(str(one.subject), subject)
    context = one.context.replace(one.context_answer, answer)
    both = context.replace(str(one.subject), subject)
    return {
        "memory": f"{one.context} {question}",
        "context": f"{context} {one.question}",
        "joint": f"{both} {question}",
    }


def batch(base: Any, prompts: Sequence[str]) -> Any:
    return base.batch([Row.of_prompt(encode_prompt(base.tokenizer, prompt)) for prompt in prompts])


def tokens_of(base: Any, case: ConflictCase) -> list[int]:
    """The first tokens of the memory and of the context answer."""
    return first_tokens(
        base, [(case.row.prompt, case.memory), (case.row.prompt, case.row.context_answer)]
    )


def one_by_one(
    model: EditedModel,
    cases: Sequence[ConflictCase],
    corruption: str,
    effects_of: Callable[..., torch.Tensor],
) -> dict[str, torch.Tensor]:
    """What a ranking should hold, each row alone: ``[layers, heads, rows]`` for each score."""
    base = model.base
    words = likeliest_words(model, [case.row.prompt for case in cases])
    scores: dict[str, list[torch.Tensor]] = {"memory": [], "context": [], "joint": []}
    for number, (case, word) in enumerate(zip(cases, words, strict=True)):
        corrupted = twins(case.row, cases[number ^ 1].row)
        source = "context" if word == case.row.context_answer else "memory"
        for score in (source, "joint"):
            memory, context = effects_of(
                model,
                batch(base, [case.row.prompt]),
                batch(base, [corrupted["joint" if corruption == "both" else score]]),
                torch.tensor([tokens_of(base, case)]),
            )[:, :, 0].unbind(-1)
            lost = {"memory": memory, "context": context, "joint": memory - context}[score]
            scores[score].append(lost)
    return {score: torch.stack(each, -1) for score, each in scores.items()}


@pytest.mark.parametrize("family", ["llama", "phi", "bloom"])
@pytest.mark.parametrize(
    ("corruption", "mlps"), [("each", "recomputed"), ("both", "recomputed"), ("each", "frozen")]
)
def test_a_ranking_holds_what_each_row_alone_shows(
    tiny_base: BaseOf, family: str, corruption: Any, mlps: Any
) -> None:
    base = tiny_base(family)
    model = EditedModel.unedited(base)
    cases = mixed(model)
    assert len({len(encode_prompt(base.tokenizer, case.row.prompt)) for case in cases}) > 1
    ranking = locate(model, cases, LocateSettings(corruption, mlps))
    effects_of = path_effects if mlps == "recomputed" else direct_effects
    for score, wanted in one_by_one(model, cases, corruption, effects_of).items():
        assert float(wanted.abs().max()) > 1e-3
        torch.testing.assert_close(ranking.of(score), wanted, atol=1e-4, rtol=1e-4)  # type: ignore[arg-type]
    assert ranking.collided == 0


def test_how_many_rows_go_together_does_not_matter(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    cases = mixed(model)
    together = locate(model, cases, LocateSettings())
    done: list[int] = []
    monkeypatch.setattr("editors.conflicts.locate.TOKENS_AT_ONCE", 40)
    apart = locate(model, cases, LocateSettings(), on_row=done.append)
    assert max(done) < 4, "in parts"
    assert sum(done) == 2 * len(cases), "for its source's score and for the joint one"
    for score in ("memory", "context", "joint"):
        torch.testing.assert_close(apart.of(score), together.of(score), atol=1e-5, rtol=1e-5)


def test_one_seed_gives_one_ranking(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    cases = [replace(case, row=replace(case.row, relation=None)) for case in mixed(model)]
    one, again, other = (locate(model, cases, LocateSettings(seed=seed)) for seed in (0, 0, 1))
    for score in ("memory", "context", "joint"):
        assert torch.equal(one.of(score), again.of(score))
        assert torch.equal(one.stable(score), again.stable(score))
    assert not torch.equal(one.joint, other.joint), "other subjects and answers are drawn"


def test_a_ranking_may_do_with_some_rows_and_some_scores(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    cases = mixed(model)
    whole = locate(model, cases, LocateSettings())
    done: list[int] = []
    some = locate(model, cases, LocateSettings(), done.append, scores=("memory",), at_most=2)
    assert sum(done) == 2
    assert some.context.shape[-1] == some.joint.shape[-1] == 0
    assert bool(some.mean("joint").isnan().all())
    columns = whole.memory.flatten(0, 1).T  # [rows, heads]
    for row in some.memory.flatten(0, 1).T:
        gaps = (columns - row).abs().amax(1)
        assert float(gaps.min()) < 1e-4, "each row is one of the whole ranking"
    again = locate(model, cases, LocateSettings(), at_most=2)
    assert again.memory.equal(some.memory), "the same seed draws the same rows"
    everything = locate(model, cases, LocateSettings(), at_most=99)
    assert everything.memory.equal(whole.memory)


def test_a_group_of_heads_is_ranked_as_one(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    model = EditedModel.unedited(base)
    cases = mixed(model)
    patched = locate(model, cases, LocateSettings(unit="group"))
    assert patched.memory.shape[:2] == (3, base.architecture.n_kv_heads)
    heads = locate(model, cases, LocateSettings(mlps="frozen"))
    groups = locate(model, cases, LocateSettings(mlps="frozen", unit="group"))
    share = base.architecture.n_heads // base.architecture.n_kv_heads
    together = heads.joint.unflatten(1, (-1, share)).sum(2)
    torch.testing.assert_close(groups.joint, together, atol=1e-5, rtol=1e-5)


# --- what cannot be ranked --------------------------------------------------------------------


def test_rows_whose_answers_begin_alike_are_left_out_and_counted(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    cases = mixed(model)
    collided = replace(cases[0], memory=f"{cases[0].row.context_answer} Oslo")
    ranking = locate(model, [*cases, collided], LocateSettings())
    plain = locate(model, cases, LocateSettings())
    assert ranking.collided == 1
    assert ranking.joint.shape == plain.joint.shape
    alike = [replace(case, memory=f"{case.row.context_answer} Oslo") for case in cases]
    with pytest.raises(EditorError, match="begin with the same token in all 8 rows"):
        locate(model, alike, LocateSettings())


def test_rows_that_one_side_wins_throughout_are_refused(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    cases = mixed(model)
    by_passage, by_memory = cases[::2], cases[1::2]
    neither = [
        replace(case, memory="far", row=replace(case.row, context_answer="a")) for case in by_memory
    ]
    for some, source in (
        (by_passage, "from the passage"),
        (by_memory, "from memory"),
        (neither, "neither from memory nor from the passage"),
    ):
        with pytest.raises(EditorError) as caught:
            locate(model, some, LocateSettings())
        assert f"answers all {len(some)} rows {source}, so no row" in caught.value.message
        assert "20-80 %" in caught.value.hint


def test_without_a_conflict_there_is_nothing_to_rank(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    calm = [replace(case, row=replace(case.row, kind="gold")) for case in mixed(model)]
    for cases in ([], calm):
        with pytest.raises(EditorError, match="no row shows a conflict"):
            locate(model, cases, LocateSettings())


def test_one_question_alone_cannot_be_corrupted(tiny_base: BaseOf) -> None:
    model = EditedModel.unedited(tiny_base("llama"))
    case = mixed(model)[0]
    again = replace(case, row=replace(case.row, context="the sea is Oslo ."))
    with pytest.raises(EditorError, match=r"all rows ask 'the .* is', so there is no other"):
        locate(model, [case, again], LocateSettings())


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_a_model_without_separable_heads_is_refused(tiny_base: BaseOf, mlps: Any) -> None:
    base = tiny_base("llama")
    blocks = tuple(replace(block, attention_out=None) for block in base.architecture.blocks)
    headless = replace(base, architecture=replace(base.architecture, blocks=blocks))
    cases = mixed(EditedModel.unedited(base))
    with pytest.raises(UnsupportedArchitecture, match="no block has attention heads"):
        locate(EditedModel.unedited(headless), cases, LocateSettings(mlps=mlps))


# --- with edits -------------------------------------------------------------------------------


class BySubject:
    """Sends prompts that name Spain or Italy to side memory."""

    reads: tuple[int, ...] = ()

    def __init__(self, base: Any) -> None:
        self._names = set(base.tokenizer.convert_tokens_to_ids(["Spain", "Italy"]))

    def propose(self, prompts: Sequence[tuple[int, ...]]) -> Proposal:
        decided = [Decision(0) if self._names & set(prompt) else UNCLAIMED for prompt in prompts]
        return Proposal(prompts, decided)

    def decide(self, proposal: Proposal, states: torch.Tensor | None) -> list[Decision]:
        return proposal.decisions


def test_a_routed_row_is_ranked_through_side_memory(
    tiny_base: BaseOf, literal_patching: ModuleType
) -> None:
    base = tiny_base("llama")
    shape = (base.projection.out_features, base.projection.in_features)
    mask = Mask(shape, 0.3, 0)
    values = 0.3 * torch.randn(
        int(mask.entries().sum()), generator=torch.Generator().manual_seed(0)
    )
    side = SideMemoryLinear(
        base.model.get_submodule(base.projection.path), [Shard((), mask, values)]
    )
    paths = [block.attention_out.path for block in base.architecture.blocks]
    router = BySubject(base)
    with attached(base, {base.projection.path: side}, router) as model:
        cases = mixed(model)
        encoded = [encode_prompt(base.tokenizer, case.row.prompt) for case in cases]
        routed = [decision.opened for decision in router.propose(encoded).decisions]
        assert set(routed) == {True, False}
        ranking = locate(model, cases, LocateSettings(corruption="both"))
        wanted = torch.zeros_like(ranking.joint)
        for row, case in enumerate(cases):
            prompts = (case.row.prompt, twins(case.row, cases[row ^ 1].row)["joint"])
            one, other = (encode_prompt(base.tokenizer, prompt) for prompt in prompts)
            memory, context = tokens_of(base, case)
            for layer, head in product(range(3), range(base.architecture.n_heads)):
                patched = {layer: base.architecture.head_slice(layer, head)}
                lost = literal_patching.effect(base.model, paths, patched, one, other)
                wanted[layer, head, row] = lost[memory] - lost[context]
    torch.testing.assert_close(ranking.joint, wanted, atol=1e-4, rtol=1e-4)
    unrouted = one_by_one(EditedModel.unedited(base), cases, "both", path_effects)["joint"]
    moved = (ranking.joint - unrouted).abs().amax((0, 1)).tolist()
    assert all(change > 1e-2 for change, opened in zip(moved, routed, strict=True) if opened)


def test_a_rewritten_row_is_ranked_as_the_model_sees_it(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    before = "the capital of Peru is Lima ."

    def rewrite(prompts: Sequence[Any]) -> list[tuple[Any, Decision]]:
        return [(f"{before} {prompt}", UNCLAIMED) for prompt in prompts]

    with attached(base, {}, None, rewrite) as model:
        cases = mixed(model)
        ranking = locate(model, cases, LocateSettings())
    seen = [
        replace(case, row=replace(case.row, context=f"{before} {case.row.context}"))
        for case in cases
    ]
    wanted = one_by_one(EditedModel.unedited(base), seen, "each", path_effects)
    for score in ("memory", "context", "joint"):
        torch.testing.assert_close(ranking.of(score), wanted[score], atol=1e-4, rtol=1e-4)


# --- what a ranking tells ---------------------------------------------------------------------


def ranking(effects: torch.Tensor) -> Ranking:
    """One whose scores are all ``effects``."""
    return Ranking(effects, effects, effects, 0, LocateSettings())


def test_the_best_heads_come_first_and_none_below_zero() -> None:
    effects = torch.tensor([[0.1, -0.5], [0.9, 0.4], [0.0, 0.4]])[..., None].expand(3, 2, 7)
    best = [(1, 0), (1, 1), (2, 1), (0, 0)]
    for count in range(6):
        assert ranking(effects).top("memory", count) == best[:count]


def test_stability_is_a_share_and_certain_for_a_head_that_always_wins() -> None:
    noise = torch.randn(3, 4, 20, generator=torch.Generator().manual_seed(0))
    effects = noise.clone()
    effects[1, 2] = noise.abs().amax((0, 1)) + 1.0
    effects[2, 3] = -1.0
    for count in (1, 3, 10):
        stable = ranking(effects).stable("context", count)
        assert bool(((stable >= 0) & (stable <= 1)).all())
        assert float(stable[1, 2]) == 1.0
        assert float(stable[2, 3]) == 0.0, "never above zero"
        assert float(stable.sum()) <= count + 1e-4
    assert float(ranking(effects).stable("context", 3).max(1).values[0]) < 1.0
