"""Groups of prompts that ask the same question. Scope signals are calibrated on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from editors.errors import EditorError
from editors.schema import kind_of


@dataclass(frozen=True, slots=True)
class Phrasings:
    """Several prompts that ask the same question about ``subject``."""

    subject: str
    prompts: tuple[str, ...]

    @staticmethod
    def from_dict(row: Mapping[str, object]) -> Phrasings:
        """The group that a parsed JSON object describes.

        Raises:
            EditorError: the object has no subject, or fewer than two prompts, or a prompt that is
                not text.
        """
        subject, prompts = row.get("subject"), row.get("prompts")
        if not isinstance(subject, str) or not subject:
            raise EditorError(f"a group of phrasings needs a subject: {row!r}")
        if not isinstance(prompts, list) or len(prompts) < 2:
            raise EditorError(f"the phrasings of {subject!r} need at least two prompts")
        for prompt in prompts:
            if not isinstance(prompt, str):
                raise EditorError(f"a prompt about {subject!r} must be text, not {kind_of(prompt)}")
        return Phrasings(subject, tuple(prompts))
