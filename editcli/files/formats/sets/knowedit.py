"""KnowEdit (arXiv 2401.01286): wiki_recent, wiki_counterfact and zsRE in one form, and WikiBio."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from editcli.files.formats.base import Format, Row, value_at
from editcli.files.formats.fields import Fields, fact, follows, kept, objects, optional, text, texts
from editors.facts import ProbeKind

# Other questions about the subject. Every other group is close in a way that the set does not tell.
KINDS: Mapping[str, ProbeKind] = {
    "Relation_Specificity": "subject",
    "Relation_Specifity": "subject",
}


def _facts(row: Row) -> Iterator[Fields]:
    yield fact(
        text(row, "prompt"),
        text(row, "target_new"),
        subject=optional(row, "subject"),
        ground_truth=optional(row, "ground_truth"),
        rephrases=texts(row, "rephrase_prompt"),
        locality=_locality(row),
        portability=[
            hop
            for group in _groups(row, "portability")
            for probe in objects(row, f"portability.{group}")
            for hop in follows(optional(probe, "prompt"), optional(probe, "ground_truth"))
        ],
    )


def _facts_wikibio(row: Row) -> Iterator[Fields]:
    yield fact(
        text(row, "text"),
        text(row, "labels"),
        subject=optional(row, "concept"),
        locality=_locality(row),
    )


def _locality(row: Row) -> Iterator[Fields]:
    for group in _groups(row, "locality"):
        for probe in objects(row, f"locality.{group}"):
            answer = optional(probe, "ground_truth")
            yield from kept(texts(probe, "prompt"), answer, KINDS.get(group, "near"))


def _groups(row: Row, key: str) -> list[str]:
    groups = value_at(row, key)
    return [*groups] if isinstance(groups, Mapping) else []


KNOWEDIT = Format(
    "knowedit",
    "KnowEdit: wiki_recent, wiki_counterfact, zsRE",
    ("prompt", "target_new", "subject", "portability", "locality"),
    _facts,
)
WIKI_BIO = Format(
    "wikibio", "KnowEdit: WikiBio", ("text", "labels", "concept", "locality"), _facts_wikibio
)
