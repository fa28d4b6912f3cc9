"""Ranking heads on rows that passage and memory each win some of (PH3 section 1.8)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from types import ModuleType
from typing import Any

import pytest
import torch

from editors import EditorError, UnsupportedArchitecture
from editors.conflicts.cases import Asked, Conflict, first_token, next_probabilities
from editors.conflicts.locate import LocateSettings, Ranking, locate
from editors.heads.path_patching import direct_effects, path_effects
from editors.inference.attach import attached
from editors.methods.wise.shards import Mask, Shard
from editors.model.tokenization import Row, encode_prompt
from editors.scope.base import Decision

BaseOf = Callable[..., Any]
SUBJECTS = ("Kenya", "Spain", "Italy", "Egypt")
ASKED = ("sea", "river", "capital", "leader", "language", "author")
ANSWERS = ("Paris", "Rome", "Madrid", "Tokyo", "Lima", "Oslo", "Cairo", "red", "green", "Ann")
ENDS = ("", " Ann works .", " the violin plays in Oslo .")


def said_by(base: Any, prompts: Sequence[str]) -> list[str]:
    """The likeliest next word after each prompt."""
    tokens = next_probabilities(base, prompts).argmax(-1).tolist()
    return [base.tokenizer.decode([token]) for token in tokens]


def mixed(base: Any) -> list[Asked]:
    """Rows in pairs of one relation: the model says memory's answer to the one, the passage's to
    the other. A random model says what it says, so rows are chosen by it.
    """
    rows = [
        Conflict(
            f"the {asked} of {subject} is",
            f"the {asked} of {subject} is {answer} .{end}",
            answer,
            "far",
            subject,
            asked,
        )
        for asked, subject, answer, end in product(ASKED, SUBJECTS, ANSWERS, ENDS)
    ]
    by_memory: dict[str, list[Asked]] = {}
    by_passage: list[Asked] = []
    for row, said in zip(rows, said_by(base, [row.prompt for row in rows]), strict=True):
        if said == row.context_answer:
            by_passage.append(replace_memory(row, "far"))
        elif first_token(base, row.prompt, said) > 3:  # no special token
            by_memory.setdefault(row.question, []).append(replace_memory(row, said))
    found = []
    for number, one in enumerate(by_passage):
        other = next(
            a
            for question, of_question in by_memory.items()
            for a in of_question[number % 2 :]
            if a.row.relation == one.row.relation
            and a.row.subject != one.row.subject
            and a.row.context_answer != one.row.context_answer
        )
        for a in (one, other):
            found.append(replace(a, row=replace(a.row, relation=f"pair {number}")))
    assert len(found) >= 6
    return found[:8]


def replace_memory(row: Conflict, memory: str) -> Asked:
    return Asked(replace(row, memory_answer=memory), memory)


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
    encoded = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
    return base.batch([Row(ids, len(ids)) for ids in encoded])


def tokens_of(base: Any, a: Asked) -> tuple[int, int]:
    return (
        first_token(base, a.row.prompt, a.memory),
        first_token(base, a.row.prompt, a.row.context_answer),
    )


def one_by_one(
    base: Any, rows: Sequence[Asked], corruption: str, of: Callable[..., torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What a ranking should hold, each row alone: ``[layers, heads, rows]`` for each score."""
    said = said_by(base, [a.row.prompt for a in rows])
    found: dict[str, list[torch.Tensor]] = {"memory": [], "context": [], "joint": []}
    for number, (a, word) in enumerate(zip(rows, said, strict=True)):
        corrupted = twins(a.row, rows[number ^ 1].row)
        won = "context" if word == a.row.context_answer else "memory"
        for score in (won, "joint"):
            effects = of(
                base,
                batch(base, [a.row.prompt]),
                batch(base, [corrupted["joint" if corruption == "both" else score]]),
                torch.tensor([tokens_of(base, a)]),
            )[:, :, 0]
            lost = effects[..., 0] - effects[..., 1] if score == "joint" else None
            found[score].append(effects[..., int(won == "context")] if lost is None else lost)
    return {score: torch.stack(each, -1) for score, each in found.items()}


@pytest.mark.parametrize("family", ["llama", "phi", "bloom"])
@pytest.mark.parametrize(
    ("corruption", "mlps"), [("each", "recomputed"), ("both", "recomputed"), ("each", "frozen")]
)
def test_a_ranking_holds_what_each_row_alone_shows(
    tiny_base: BaseOf, family: str, corruption: Any, mlps: Any
) -> None:
    base = tiny_base(family)
    rows = mixed(base)
    assert len({len(encode_prompt(base.tokenizer, a.row.prompt)) for a in rows}) > 1
    found = locate(base, rows, LocateSettings(corruption, mlps))
    of = path_effects if mlps == "recomputed" else direct_effects
    for score, wanted in one_by_one(base, rows, corruption, of).items():
        assert float(wanted.abs().max()) > 1e-3
        torch.testing.assert_close(found.of(score), wanted, atol=1e-4, rtol=1e-4)  # type: ignore[arg-type]
    assert found.collided == 0


def test_how_many_rows_go_together_does_not_matter(
    tiny_base: BaseOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_base("llama")
    rows = mixed(base)
    together = locate(base, rows, LocateSettings())
    told: list[int] = []
    monkeypatch.setattr("editors.conflicts.locate.TOKENS_AT_ONCE", 40)
    apart = locate(base, rows, LocateSettings(), on_row=told.append)
    assert max(told) < 4, "in parts"
    for score in ("memory", "context", "joint"):
        torch.testing.assert_close(apart.of(score), together.of(score), atol=1e-5, rtol=1e-5)


def test_one_seed_gives_one_ranking(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    rows = [replace(a, row=replace(a.row, relation=None)) for a in mixed(base)]
    one, again, other = (locate(base, rows, LocateSettings(seed=seed)) for seed in (0, 0, 1))
    for score in ("memory", "context", "joint"):
        assert torch.equal(one.of(score), again.of(score))
        assert torch.equal(one.stable(score), again.stable(score))
    assert not torch.equal(one.joint, other.joint), "other subjects and answers are drawn"


def test_a_group_of_heads_is_ranked_as_one(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    rows = mixed(base)
    found = locate(base, rows, LocateSettings(unit="group"))
    assert found.memory.shape[:2] == (3, base.architecture.n_kv_heads)
    heads = locate(base, rows, LocateSettings(mlps="frozen"))
    groups = locate(base, rows, LocateSettings(mlps="frozen", unit="group"))
    share = base.architecture.n_heads // base.architecture.n_kv_heads
    together = heads.joint.unflatten(1, (-1, share)).sum(2)
    torch.testing.assert_close(groups.joint, together, atol=1e-5, rtol=1e-5)


# --- what cannot be ranked --------------------------------------------------------------------


def test_rows_whose_answers_begin_alike_are_left_out_and_counted(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    rows = mixed(base)
    collided = replace(rows[0], memory=f"{rows[0].row.context_answer} Oslo")
    found = locate(base, [*rows, collided], LocateSettings())
    plain = locate(base, rows, LocateSettings())
    assert found.collided == 1
    assert found.joint.shape == plain.joint.shape
    alike = [replace(a, memory=f"{a.row.context_answer} Oslo") for a in rows]
    with pytest.raises(EditorError, match="begin with the same token in all 8 rows"):
        locate(base, alike, LocateSettings())


def test_rows_that_one_side_wins_throughout_are_refused(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    rows = mixed(base)
    by_passage, by_memory = rows[::2], rows[1::2]
    neither = [replace(a, memory="far", row=replace(a.row, context_answer="a")) for a in by_memory]
    for some, source in (
        (by_passage, "from the passage"),
        (by_memory, "from memory"),
        (neither, "neither from memory nor from the passage"),
    ):
        with pytest.raises(EditorError) as caught:
            locate(base, some, LocateSettings())
        assert f"answers all {len(some)} rows {source}, so no row" in caught.value.message
        assert "20-80 %" in caught.value.hint


def test_without_a_conflict_there_is_nothing_to_rank(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    calm = [replace(a, row=replace(a.row, kind="gold")) for a in mixed(base)]
    for rows in ([], calm):
        with pytest.raises(EditorError, match="no row shows a conflict"):
            locate(base, rows, LocateSettings())


def test_one_question_alone_cannot_be_corrupted(tiny_base: BaseOf) -> None:
    base = tiny_base("llama")
    row = mixed(base)[0]
    again = replace(row, row=replace(row.row, context="the sea is Oslo ."))
    with pytest.raises(EditorError, match=r"all rows ask 'the .* is', so there is no other"):
        locate(base, [row, again], LocateSettings())


@pytest.mark.parametrize("mlps", ["recomputed", "frozen"])
def test_a_model_without_separable_heads_is_refused(tiny_base: BaseOf, mlps: Any) -> None:
    base = tiny_base("llama")
    blocks = tuple(replace(block, attention_out=None) for block in base.architecture.blocks)
    headless = replace(base, architecture=replace(base.architecture, blocks=blocks))
    with pytest.raises(UnsupportedArchitecture, match="no block has attention heads"):
        locate(headless, mixed(base), LocateSettings(mlps=mlps))


# --- with edits -------------------------------------------------------------------------------


class BySubject:
    """Sends prompts that name Spain or Italy to side memory."""

    def __init__(self, base: Any) -> None:
        words = (base.tokenizer.convert_tokens_to_ids(name) for name in ("Spain", "Italy"))
        self._opening = set(words)

    def decide(self, prompts: Any) -> list[Decision]:
        return [Decision(0 if self._opening & set(prompt) else -1) for prompt in prompts]


def test_a_routed_row_is_ranked_through_side_memory(
    tiny_base: BaseOf, literal_patching: ModuleType
) -> None:
    base = tiny_base("llama")
    shape = (base.projection.out_features, base.projection.in_features)
    mask = Mask(shape, 0.3, 0)
    values = 0.3 * torch.randn(mask.count, generator=torch.Generator().manual_seed(0))
    paths = [block.attention_out.path for block in base.architecture.blocks]
    router = BySubject(base)
    with attached(base, [Shard((), mask, values)], router) as here:
        rows = mixed(base)
        routed = [router.decide([encode_prompt(base.tokenizer, a.row.prompt)])[0] for a in rows]
        assert {decision.opened for decision in routed} == {True, False}
        found = locate(base, rows, LocateSettings(corruption="both"), here)
        wanted = torch.zeros_like(found.joint)
        for row, a in enumerate(rows):
            prompts = (a.row.prompt, twins(a.row, rows[row ^ 1].row)["joint"])
            one, other = (encode_prompt(base.tokenizer, prompt) for prompt in prompts)
            memory, context = tokens_of(base, a)
            for layer, head in product(range(3), range(base.architecture.n_heads)):
                patched = {layer: base.architecture.head_slice(layer, head)}
                lost = literal_patching.effect(base.model, paths, patched, one, other)
                wanted[layer, head, row] = lost[memory] - lost[context]
    torch.testing.assert_close(found.joint, wanted, atol=1e-4, rtol=1e-4)
    unrouted = one_by_one(base, rows, "both", path_effects)["joint"]
    moved = (found.joint - unrouted).abs().amax((0, 1))
    assert all((float(m) > 1e-2) for m, d in zip(moved, routed, strict=True) if d.opened)


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
