"""Conflicts between passage and memory on a version of a store; the conflict commands share it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from editcli.cli.console import NO_PROGRESS, Output, Progress
from editcli.operations.session import Session
from editors import EditorError, PromptTooLong
from editors.conflicts.cases import Conflict, ConflictCase, Split
from editors.heads.pruning import HeadMask, HeadPruning, Source

if TYPE_CHECKING:
    from editcli.files.conflicts import ConflictFile
    from editors.inference.edited_model import EditedModel
    from editors.methods.edit_state import EditState

ELICITED_TOKENS = 16  # of an answer that the model gives without a passage
SHOWN = 60  # characters of a prompt, in an error


@dataclass(frozen=True, slots=True)
class ConflictSession:
    """A version's edits on its base, with its pruned heads or without."""

    session: Session
    state: EditState

    def attached(self) -> AbstractContextManager[EditedModel]:
        """The base with the edits, inside ``with``."""
        return self.session.method.attach(self.state)

    def attached_with(self, mask: HeadMask, prefer: Source) -> AbstractContextManager[EditedModel]:
        """The base with the edits and with the heads of ``mask`` pruned, so that ``prefer``
        wins."""
        pruning = HeadPruning(prefer, mask, self.state.edits) if mask.heads else None
        return self.session.method.attach(replace(self.state, pruning=pruning))

    def without_pruning(self) -> ConflictSession:
        """The same edits with all heads of the base."""
        return ConflictSession(self.session, replace(self.state, pruning=None))

    def cases(
        self, rows: Sequence[Conflict], out: Output, bar: Progress = NO_PROGRESS
    ) -> list[ConflictCase]:
        """The rows with the answer of each source; rows that show no conflict are left out.

        ``bar``: moves with each question that the model is asked.

        Raises:
            EditorError: no row is left.
            PromptTooLong: a prompt and its answer do not fit into the model's context.
        """
        from editors.conflicts.measure import max_answer_tokens, with_edits, with_memory

        base = self.session.base
        self._require_fit([row.prompt for row in rows], 1)
        unanswered = [row.question for row in rows if row.memory_answer is None]
        self._require_fit(unanswered, ELICITED_TOKENS)
        bar.stage("memory's answers", len({*unanswered}), "questions")
        elicited = with_memory(base, rows, ELICITED_TOKENS, bar.advance)
        with self.attached() as edited:
            facts = {fact.id: fact for fact in self.state.in_force()}
            cases = with_edits(edited, elicited, facts)
        _require_difference(bool(cases))
        self._require_fit([case.row.prompt for case in cases], max_answer_tokens(base, cases))
        if len(cases) < len(rows):
            out.warn(
                f"{len(rows) - len(cases)} of {len(rows)} rows left out: the model answers them as "
                "the passage does, or not at all"
            )
        return cases

    def splits(
        self, file: ConflictFile, out: Output, bar: Progress = NO_PROGRESS
    ) -> list[list[ConflictCase]]:
        """:meth:`cases` of the splits "locate", "dev" and "test".

        Raises:
            EditorError: a split has no row that shows a conflict.
        """
        names: tuple[Split, ...] = ("locate", "dev", "test")
        splits = [self.cases(file.split(name), out, bar) for name in names]
        for name, cases in zip(names, splits, strict=True):
            where = f"in the split {name!r} of {file.name} "
            _require_difference(any(case.conflicting for case in cases), where)
        return splits

    def _require_fit(self, prompts: Sequence[str], answer_tokens: int) -> None:
        from editors.model.tokenization import encode_prompts

        base = self.session.base
        context = base.architecture.context
        for prompt, ids in zip(prompts, encode_prompts(base.tokenizer, prompts), strict=True):
            if context is not None and len(ids) + answer_tokens > context:
                raise PromptTooLong(
                    f"a prompt has {len(ids)} tokens, its answer up to {answer_tokens}, and the "
                    f"model takes {context}: {prompt[:SHOWN]!r}",
                    "shorten the passage",
                )


def _require_difference(found: bool, where: str = "") -> None:
    if not found:
        raise EditorError(
            f"{where}no row is left on which passage and memory differ",
            "give rows whose `context_answer` is not what the model says by itself",
        )
