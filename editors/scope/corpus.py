"""The corpus: how people ask for facts, as data that scope signals learn from.

A relation is a kind of question about a kind of subject. A frame puts a prompt into surroundings.
A longer name makes the name of another entity out of a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from editors.errors import EditorError
from editors.schema import String, Text, Texts, record
from editors.scope.phrasings import Phrasings

SUBJECT, TARGET, OTHER = "{subject}", "{target}", "{other}"
PROMPT, STEM = "{prompt}", "{stem}"  # a prompt, and a prompt without the mark at its end
RULE = "rule"  # the kind of relations whose facts have no subject

Form = Literal["statement", "question", "request", "telegraphic", "personal"]
FORMS: tuple[Form, ...] = ("statement", "question", "request", "telegraphic", "personal")
Effect = Literal["keeps", "mention", "turn", "follow", "time", "amount"]


@record(EditorError)
class Relation:
    """One kind of question about subjects of one ``kind``.

    ``statement``, ``question``, ``request``, ``telegraphic`` and ``personal`` hold phrasings, and
    ``near`` holds other questions about such a subject; ``SUBJECT`` stands for the subject, except
    in relations of the kind ``RULE``. ``sentence`` has ``TARGET``, too. ``held_out``: the relation
    is measured on and never trained on. Raises EditorError, listing every problem.
    """

    relation: Text
    kind: Text
    held_out: bool
    subjects: Texts
    targets: Texts
    sentence: Text
    statement: Texts
    question: Texts
    request: Texts
    telegraphic: Texts
    personal: Texts
    near: Texts

    @property
    def phrasings(self) -> list[tuple[Form, str]]:
        """All phrasings, each with its form."""
        return [(form, text) for form in FORMS for text in getattr(self, form)]

    @property
    def has_subject(self) -> bool:
        return self.kind != RULE


@record(EditorError)
class FrameTurn:
    """A turn of a chat in which a prompt stands."""

    role: Literal["system", "user", "assistant"]
    content: String


@record(EditorError)
class Frame:
    """Surroundings of a prompt: a ``text`` or the ``turns`` of a chat, with ``PROMPT`` or ``STEM``.

    ``effect``: what becomes of an edit of ``SUBJECT``. It ``keeps`` its answer; the prompt is about
    another entity and only names the subject in the same text (``mention``) or in an earlier turn
    (``turn``); an earlier turn names ``OTHER`` and the last one asks about the subject
    (``follow``); the prompt asks of another ``time``, or of another ``amount``, tier or region.
    ``OTHER`` is another entity, which the prompt of a ``mention`` is about. ``refer``: what the
    prompt calls its entity instead of the name, such as "the latter". ``kinds``: of subjects that
    the frame suits (none: all). ``forms``: of the prompts. Raises EditorError, listing every
    problem.
    """

    frame: Text
    effect: Effect
    kinds: Texts
    forms: tuple[Form, ...]
    text: String | None = None
    turns: tuple[FrameTurn, ...] = ()
    refer: Text | None = None

    def suits(self, kind: str, form: Form) -> bool:
        """Whether a prompt of this ``form`` about a subject of ``kind`` may stand in the frame."""
        named = SUBJECT in self.whole or OTHER in self.whole or self.refer is not None
        return (
            form in self.forms
            and (not self.kinds or kind in self.kinds)
            and not (named and kind == RULE)
        )

    @property
    def whole(self) -> str:
        """The frame as one text, each turn on a line of its own."""
        if self.text is not None:
            return self.text
        return "\n".join(turn.content for turn in self.turns)


@record(EditorError)
class LongerName:
    """A ``pattern`` that makes another entity's name of a subject of one of these ``kinds``. Raises
    EditorError, listing every problem."""

    kinds: Texts
    pattern: Text


@dataclass(frozen=True, slots=True)
class Corpus:
    """What scope signals learn from: ``groups`` of prompts about one subject; ``relations``,
    ``frames`` and ``longer_names``. Each signal uses some of the fields."""

    groups: Sequence[Phrasings] = ()
    relations: Sequence[Relation] = ()
    frames: Sequence[Frame] = ()
    longer_names: Sequence[LongerName] = ()

    def plain(self, field: str) -> list[Any]:
        """A field as plain JSON."""
        if field == "groups":
            return [[group.subject, *group.prompts] for group in self.groups]
        return [asdict(row) for row in getattr(self, field)]

    def frames_for(self, effect: Effect, kind: str, form: Form) -> list[Frame]:
        """The frames of ``effect`` for prompts of this ``form`` about a subject of ``kind``."""
        return [f for f in self.frames if f.effect == effect and f.suits(kind, form)]

    def names_for(self, kind: str) -> list[str]:
        """The patterns of longer names for subjects of ``kind``."""
        return [longer.pattern for longer in self.longer_names if kind in longer.kinds]
