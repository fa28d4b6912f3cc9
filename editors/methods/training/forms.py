"""The forms that a fact is trained in, besides its own prompts: as people ask for it.

Training on a statement alone does not teach a model to answer the question. So a fact is also
trained on other wordings of its prompt, which the scope signal knows, and on turns of a chat where
the tokenizer has a chat template, unless only plain prompts are wanted. Whether it was learnt is
judged by wordings that were not trained.
"""

from __future__ import annotations

from collections.abc import Sequence

from editors.facts import Fact
from editors.model.tokenization import Prompt, in_chat
from editors.scope.base import Wording
from editors.scope.corpus import Form

WORDINGS: tuple[Form, ...] = ("question", "request", "telegraphic", "personal", "statement")
"""The forms of the wordings that are trained as plain prompts, where there are so many."""

CHATS: tuple[Form, ...] = ("question",)
"""The forms of the wordings that are trained as turns of chats, besides the fact's prompt."""

JUDGED: tuple[Form, ...] = ("question", "telegraphic")
"""The forms of the wordings by which a fact is judged."""

SYSTEMS = (None, "You are a helpful assistant. Answer briefly.")
"""The system turns of the chats."""


def forms_of(fact: Fact, wordings: Sequence[Wording], *, chats: bool) -> list[Prompt]:
    """The forms of ``fact``, always the same; none where no other ``wordings`` of its prompt are
    known, as such forms would not be routed. ``chats``: whether turns of chats are among them;
    then the tokenizer must have a chat template."""
    start = int(fact.canonical_id(), 16)
    forms: list[Prompt] = [*_chosen(WORDINGS, wordings, start)]
    if forms and chats:
        said = [fact.prompt, *_chosen(CHATS, wordings, start + len(WORDINGS))]
        forms += [in_chat(text, system) for text, system in zip(said, SYSTEMS, strict=False)]
    return forms


def judged_forms(fact: Fact, wordings: Sequence[Wording], trained: Sequence[Prompt]) -> list[str]:
    """Wordings of ``fact`` that are not among the ``trained`` forms, as plain prompts or in chats,
    always the same; as many as there are, at most one of each of ``JUDGED``."""
    known = {turn["content"] for chat in trained if not isinstance(chat, str) for turn in chat}
    known |= {prompt for prompt in trained if isinstance(prompt, str)} | {*fact.trained_prompts()}
    new = [(form, text) for form, text in wordings if text not in known]
    return _chosen(JUDGED, new, int(fact.canonical_id(), 16))


def _chosen(forms: Sequence[Form], wordings: Sequence[Wording], start: int) -> list[str]:
    """A wording of each of ``forms``, different ones."""
    chosen: list[str] = []
    for number, form in enumerate(forms):
        fitting = [text for of_form, text in wordings if of_form == form and text not in chosen]
        if fitting:
            chosen.append(fitting[(start + number) % len(fitting)])
    return chosen
