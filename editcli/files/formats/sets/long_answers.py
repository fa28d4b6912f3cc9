"""Questions with long answers: UnKE (arXiv 2405.15349) and EditEverything (arXiv 2502.05628)."""

from __future__ import annotations

from collections.abc import Iterator

from editcli.files.formats.base import Format, Row, value_at
from editcli.files.formats.fields import Fields, case, fact, follows, text, texts


def _facts(row: Row) -> Iterator[Fields]:
    """The answers to the sub-questions follow from the long answer."""
    questions, answers = (value_at(row, key) for key in ("sub_question", "sub_answer"))
    paired = (
        zip(questions, answers, strict=False)
        if isinstance(questions, list) and isinstance(answers, list)
        else ()
    )
    yield fact(
        text(row, "question"),
        text(row, "answer"),
        rephrases=texts(row, "para_question"),
        portability=[
            hop
            for question, answer in paired
            if isinstance(question, str) and isinstance(answer, str)
            for hop in follows(question.strip(), answer.strip())
        ],
        source=case("UnKE" if "para_question" in row else "EditEverything", row, "id"),
        tags=texts(row, "category"),
    )


UNKE = Format("unke", "UnKE", ("question", "answer", "para_question"), _facts)
EDIT_EVERYTHING = Format(
    "editeverything", "EditEverything", ("question", "answer", "category"), _facts
)
