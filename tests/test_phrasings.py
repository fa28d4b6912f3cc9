"""The corpus of phrasings: every line is as its README says, and no text is in two places."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "datasets" / "phrasings"
FORMS = {"statement": 5, "question": 5, "request": 3, "telegraphic": 3, "personal": 2}
KEYS = {"relation", "kind", "held_out", "subjects", "targets", "sentence", "near", *FORMS}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


RELATIONS = [line for path in sorted(FOLDER.glob("relations/*.jsonl")) for line in lines(path)]
FRAMES, LONGER_NAMES = lines(FOLDER / "frames.jsonl"), lines(FOLDER / "longer-names.jsonl")
KINDS = {relation["kind"] for relation in RELATIONS}


def folded(text: str) -> str:
    return re.sub(r"[^a-z0-9{} ]", "", text.lower()).strip()


def phrasings(relation: dict[str, Any]) -> list[str]:
    return [text for form in FORMS for text in relation[form]]


def test_there_are_relations_of_every_kind_in_many_phrasings() -> None:
    assert len(RELATIONS) >= 250
    assert len(KINDS) >= 40
    assert len({relation["relation"] for relation in RELATIONS}) == len(RELATIONS)
    assert all(len(phrasings(relation)) >= 16 for relation in RELATIONS)


def test_every_tenth_relation_is_held_out() -> None:
    held_out = [number for number, relation in enumerate(RELATIONS, 1) if relation["held_out"]]
    assert held_out == list(range(10, len(RELATIONS) + 1, 10))


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation["relation"])
def test_a_relation_has_its_forms_and_names_the_subject_once(relation: dict[str, Any]) -> None:
    assert set(relation) == KEYS
    is_rule = relation["kind"] == "rule"
    examples = (0, 4) if is_rule else (6, 6)
    assert (len(set(relation["subjects"])), len(relation["targets"])) == examples
    assert all(len(relation[form]) >= least for form, least in FORMS.items())
    assert len(relation["near"]) >= 4
    for text in (*phrasings(relation), *relation["near"], relation["sentence"]):
        assert text.count("{subject}") == (not is_rule), text
        assert text == text.strip(), text
    for text in (*phrasings(relation), *relation["near"]):
        assert "{target}" not in text
    assert relation["sentence"].count("{target}") == 1
    assert all(text.endswith("?") for text in relation["question"])
    assert all(text[-1] not in ".?!" for text in relation["statement"])


def test_no_phrasing_is_in_two_relations_of_a_kind_and_none_is_near_to_itself() -> None:
    texts = Counter(
        (relation["kind"], folded(text)) for relation in RELATIONS for text in phrasings(relation)
    )
    assert [text for text, count in texts.items() if count > 1] == []
    for relation in RELATIONS:
        own = {folded(text) for text in phrasings(relation)}
        assert not own & {folded(text) for text in relation["near"]}, relation["relation"]


def test_frames_hold_one_prompt_in_the_last_turn() -> None:
    assert Counter(frame["effect"] for frame in FRAMES) >= Counter(
        keeps=60, mention=90, turn=30, follow=20, time=25, amount=20
    )
    assert len({frame["frame"] for frame in FRAMES}) == len(FRAMES)
    needed = {"mention": {"{subject}"}, "turn": {"{subject}"}, "follow": {"{other}"}}
    allowed = {"mention": {"{other}"}, "keeps": {"{subject}", "{other}"}}
    for frame in FRAMES:
        texts = [turn["content"] for turn in frame.get("turns", [])] or [frame["text"]]
        whole, effect = "\n".join(texts), frame["effect"]
        prompts = [re.findall(r"\{prompt\}|\{stem\}", text) for text in (whole, texts[-1])]
        assert [*map(len, prompts)] == [1, 1], frame
        named = {*re.findall(r"\{\w+\}", whole + frame.get("refer", ""))} - {"{prompt}", "{stem}"}
        assert needed.get(effect, set()) <= named, frame
        assert named <= needed.get(effect, set()) | allowed.get(effect, set()), frame
        assert set(frame["kinds"]) <= KINDS
        assert frame["forms"]
        assert set(frame["forms"]) <= set(FORMS)
        if "refer" in frame:  # then the entity is named outside the prompt
            assert named


def test_every_kind_with_subjects_has_longer_names() -> None:
    suited = Counter(kind for pattern in LONGER_NAMES for kind in pattern["kinds"])
    assert suited.keys() == KINDS - {"rule"}
    assert min(suited.values()) >= 4
    for pattern in LONGER_NAMES:
        assert pattern["pattern"].count("{subject}") == 1
        assert pattern["pattern"] != "{subject}"
