"""Groups of phrasings, as a file gives them."""

from __future__ import annotations

from typing import Any

import pytest

from editors import EditorError
from editors.scope.phrasings import Phrasings


def test_a_group_is_read() -> None:
    row = {"subject": "France", "prompts": ["the capital of France is", "France , capital :"]}
    assert Phrasings.from_dict(row) == Phrasings("France", tuple(row["prompts"]))


@pytest.mark.parametrize("subject", [None, "", 7, ["France"]])
def test_a_group_has_a_subject_that_is_text(subject: Any) -> None:
    with pytest.raises(EditorError, match="a group of phrasings needs a subject"):
        Phrasings.from_dict({"subject": subject, "prompts": ["one", "two"]})


@pytest.mark.parametrize("prompts", [None, "one, two", ["one"]])
def test_a_group_has_two_prompts(prompts: Any) -> None:
    with pytest.raises(EditorError, match="the phrasings of 'France' need at least two prompts"):
        Phrasings.from_dict({"subject": "France", "prompts": prompts})


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [(3, "the number 3"), (None, "null"), (True, "true"), ({"text": "one"}, "an object")],
)
def test_a_prompt_is_text(prompt: Any, kind: str) -> None:
    with pytest.raises(EditorError, match=f"a prompt about 'France' must be text, not {kind}"):
        Phrasings.from_dict({"subject": "France", "prompts": ["one", prompt]})
