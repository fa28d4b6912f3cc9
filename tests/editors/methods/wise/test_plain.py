"""Edits that are trained in plain prompts only, beside those that are trained in chats, too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from tiny_edits import FRANCE, JAPAN, PERU, CountingCache, edit, reopened
from tiny_models import CHAT

from editors import Fact, FactClosure
from editors.methods.applying import Limits
from editors.methods.training.forms import forms_of
from editors.methods.wise import method as wise_method
from editors.model.tensor_files import from_bytes, to_bytes
from editors.scope.key.signal import KeySignal

PLAIN = Limits(chats=False)
TrainedIn = dict[str, list[bool]]


@pytest.fixture(autouse=True)
def _knows_wordings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal knows other wordings, as one does that recognises relations."""
    known = [(form, f"the {form} ?") for form in ("question", "request", "personal")]
    monkeypatch.setattr(KeySignal, "wordings", lambda *_: known)


@pytest.fixture
def trained_in_chats(monkeypatch: pytest.MonkeyPatch) -> TrainedIn:
    """By fact id, at each training, whether the fact was trained in chats."""
    seen: TrainedIn = {}

    def watched(fact: Fact, wordings: Sequence[Any], *, chats: bool) -> list[Any]:
        seen.setdefault(fact.id, []).append(chats)
        return forms_of(fact, wordings, chats=chats)

    monkeypatch.setattr(wise_method, "forms_of", watched)
    return seen


@pytest.fixture
def chatting(tiny_wise: Callable[..., Any]) -> Any:
    """The method on a base whose tokenizer has a chat template."""
    method = tiny_wise("llama")
    method.base.tokenizer.chat_template = CHAT
    return method


def shards(method: Any, state: Any) -> dict[str, bytes]:
    """The tensors of the shards, without the flags of facts that are plain."""
    blobs = method.save(state)
    shards = {name: from_bytes(blobs[name]) for name in blobs if name.startswith("shard")}
    return {
        name: to_bytes({key: t for key, t in tensors.items() if key != "plain"})
        for name, tensors in shards.items()
    }


def test_plain_training_is_that_of_a_base_without_a_chat_template(
    chatting: Any, tiny_wise: Callable[..., Any]
) -> None:
    without = tiny_wise("llama")
    assert without.base.tokenizer.chat_template is None
    facts = [FRANCE, JAPAN]
    plain = shards(chatting, edit(chatting, facts, limits=PLAIN).state)
    assert plain == shards(without, edit(without, facts).state)
    assert plain != shards(chatting, edit(chatting, facts).state)


def test_a_plain_fact_stays_plain_when_it_is_trained_again(
    chatting: Any, trained_in_chats: TrainedIn
) -> None:
    state = reopened(chatting, edit(chatting, [FRANCE], limits=PLAIN).state)
    state = reopened(chatting, edit(chatting, [JAPAN], state).state)
    edit(chatting, [PERU], state, limits=PLAIN)
    assert trained_in_chats == {
        FRANCE.id: [False, False, False],
        JAPAN.id: [True, True],
        PERU.id: [False],
    }


def test_a_fact_that_is_applied_again_is_trained_as_it_is_wanted_then(
    chatting: Any, trained_in_chats: TrainedIn
) -> None:
    state = edit(chatting, [FRANCE, JAPAN], limits=PLAIN).state
    state = state.closing({FRANCE.id: FactClosure("undone")})
    state = edit(chatting, [FRANCE], state).state
    assert trained_in_chats == {FRANCE.id: [False, True], JAPAN.id: [False, False]}
    assert reopened(chatting, state).payload.plain == (JAPAN.id,)


def test_work_of_the_other_kind_is_not_found_in_the_cache(chatting: Any) -> None:
    cache = CountingCache()
    for limits in (Limits(), PLAIN):
        edit(chatting, [FRANCE], cache=cache, limits=limits)
        assert cache.hits == 0
    edit(chatting, [FRANCE], cache=cache, limits=PLAIN)
    assert cache.hits == 1
