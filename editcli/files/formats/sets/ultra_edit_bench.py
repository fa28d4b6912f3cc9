"""UltraEditBench (arXiv 2505.14679): two million edits without subjects."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row
from editcli.files.formats.fields import Fields, fact, kept, named, optional, text, texts


def _facts(row: Row) -> Iterator[Fields]:
    prompt = text(row, "prompt")
    yield fact(
        prompt,
        text(row, "ans"),
        subject=named(optional(row, "subject"), prompt),
        rephrases=texts(row, "rephrase_prompt"),
        locality=kept(texts(row, "loc"), optional(row, "loc_ans"), "far"),
    )


ULTRA_EDIT_BENCH = Format(
    "ultraeditbench", "UltraEditBench", ("prompt", "ans", "rephrase_prompt", "loc"), _facts
)
