"""Conflicts between passage and memory on the base of a store: what the three commands share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from editcli.cli.console import Output
from editcli.files.packaged import datasets_dir
from editcli.operations.session import Workspace
from editors import EditorError

if TYPE_CHECKING:
    from editcli.files.conflicts import ConflictFile
    from editors.conflicts.cases import Asked, Conflict, Measured, Split
    from editors.conflicts.locate import Ranking
    from editors.conflicts.resolve import Prefer
    from editors.evaluation.metrics import Rate
    from editors.heads.head_mask import HeadMask
    from editors.inference.attach import Attached
    from editors.methods.edit_state import EditState

NEUTRAL = ("atlas", "neutral.jsonl")
ELICITED = 16  # tokens of a closed-book answer
SHOWN = 60  # characters of a prompt


@dataclass(frozen=True, slots=True)
class Bench:
    """A version's edits on its base, without or with heads pruned."""

    workspace: Workspace
    state: EditState

    def attached(self) -> AbstractContextManager[Attached]:
        """The base with the edits, inside ``with``."""
        return self.workspace.method.attach(self.state)

    def trying(self, prefer: Prefer) -> Callable[[HeadMask], AbstractContextManager[Attached]]:
        """By mask, the base with the edits resolved by it to prefer one source; by none, as is."""
        from editors.heads.head_mask import Resolution

        def attach(mask: HeadMask) -> AbstractContextManager[Attached]:
            resolution = Resolution(prefer, mask, self.state.edits) if mask.heads else None
            return self.workspace.method.attach(replace(self.state, resolution=resolution))

        return attach

    def unpruned(self) -> Bench:
        return Bench(self.workspace, replace(self.state, resolution=None))

    def ask(self, rows: Sequence[Conflict], out: Output) -> list[Asked]:
        """The rows with what each source answers; those that show no conflict are left out.

        Raises:
            EditorError: no row is left.
            PromptTooLong: a prompt and its answer do not fit into the model's context.
        """
        from editors.conflicts.cases import answer_room, with_edits, with_memory

        base = self.workspace.base
        self._require_room([row.prompt for row in rows], 1)
        self._require_room([row.question for row in rows if row.memory_answer is None], ELICITED)
        elicited = with_memory(base, rows, ELICITED)
        with self.attached() as edited:
            facts = {fact.id: fact for fact in self.state.in_force()}
            found = with_edits(base, elicited, edited, facts) if elicited else []
        if not found:
            raise EditorError(
                "no row is left on which passage and memory differ",
                "give rows whose `context_answer` is not what the model says by itself",
            )
        self._require_room([a.row.prompt for a in found], answer_room(base, found))
        if len(found) < len(rows):
            out.warn(
                f"{len(rows) - len(found)} of {len(rows)} rows left out: the model answers them as "
                "the passage does, or not at all"
            )
        return found

    def splits(self, file: ConflictFile, out: Output) -> tuple[list[Asked], ...]:
        """``ask`` of the splits "locate", "dev" and "test".

        Raises:
            EditorError: in one of them no row shows a conflict any more.
        """
        names: tuple[Split, ...] = ("locate", "dev", "test")
        found = tuple(self.ask(file.split(name), out) for name in names)
        for name, rows in zip(names, found, strict=True):
            if not any(a.conflicting for a in rows):
                raise EditorError(
                    f"in the split {name!r} of {file.name} no row is left on which passage and "
                    "memory differ",
                    "give rows whose `context_answer` is not what the model says by itself",
                )
        return found

    def _require_room(self, prompts: Sequence[str], room: int) -> None:
        from editors.errors import PromptTooLong
        from editors.model.tokenization import encode_prompt

        base = self.workspace.base
        context = base.architecture.context
        if context is None:
            return
        for prompt in prompts:
            length = len(encode_prompt(base.tokenizer, prompt))
            if length + room > context:
                raise PromptTooLong(
                    f"a prompt has {length} tokens, its answer up to {room}, and the model takes "
                    f"{context}: {prompt[:SHOWN]!r}",
                    "shorten the passage",
                )


def neutral_texts(source: str | None) -> list[str]:
    """Held-out plain text: the file given (JSON Lines with `text`, or a text a line), else ours.

    Raises UsageError for a file that cannot be read, is not UTF-8 or holds no text.
    """
    from editcli.errors import UsageError
    from editcli.files.jsonl import read_bytes

    if source is None:
        data = datasets_dir().joinpath(*NEUTRAL).read_bytes()
        rows = [json.loads(line) for line in data.splitlines() if line.strip()]
        return [row["text"] for row in rows if row["split"] == "test"]
    try:
        lines = read_bytes(source).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as problem:
        raise UsageError(f"{source} is not UTF-8: {problem.reason}") from problem
    texts = [text for text in map(_text_of, lines) if text.strip()]
    if not texts:
        raise UsageError(f"{source} holds no text", "one text a line, or JSON Lines with `text`")
    return texts


def _text_of(line: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return line
    return str(value["text"]) if isinstance(value, dict) and "text" in value else line


def tokenizer_digest(workspace: Workspace) -> str:
    """12 hexadecimal digits over the vocabulary: which tokens first tokens are."""
    vocabulary = sorted(workspace.base.tokenizer.get_vocab().items(), key=lambda item: item[1])
    return sha256(repr(vocabulary).encode()).hexdigest()[:12]


# --- as JSON --------------------------------------------------------------------------------------


def number(value: float | None) -> float | None:
    """A figure as JSON has it; None for what is not defined or has no bound."""
    return None if value is None or not math.isfinite(value) else round(value, 6)


def rates_record(measured: Measured) -> dict[str, Any]:
    """The rates of a group of rows, with intervals."""
    rates = measured.rates
    named: dict[str, Rate] = {
        "memory": rates.memory, "context": rates.context, "other": rates.other,
    }  # fmt: skip
    if measured.edited.results:
        named["before"] = rates.before
    return {
        "rows": len(measured.results),
        **{name: number(rate.value) for name, rate in named.items()},
        "ci95": {n: [number(r.low), number(r.high)] for n, r in named.items() if r.n},
    }


def measured_record(measured: Measured) -> dict[str, Any]:
    """Everything that `conflict measure` says of rows, as JSON."""
    conflicting = measured.conflicting
    first = conflicting.first_token_rates
    record = {
        **rates_record(conflicting),
        "memorization_ratio": number(conflicting.memorization_ratio),
        "several_named": sum(result.several for result in conflicting.results),
        "first_token": {
            "memory": number(first.memory.value),
            "context": number(first.context.value),
            "other": number(first.other.value),
        },
        "by_kind": {
            kind: {
                **rates_record(part),
                "bcu": number(part.binary_utilisation.value),
                "ccu": number(part.utilisation),
            }
            for kind, part in measured.by(lambda a: a.row.kind).items()
        },
        "by_relation": {
            relation: rates_record(part)
            for relation, part in conflicting.by(lambda a: a.row.relation).items()
        },
        "bcu": number(measured.binary_utilisation.value),
        "ccu": number(measured.utilisation),
    }
    if measured.edited.results:
        record["edited"] = edited_record(measured.edited)
    return record


def edited_record(edited: Measured) -> dict[str, Any]:
    """The four outcomes on rows about edits, by what the passage says, and the router's hits."""
    opened = [result.opened for result in edited.results]
    return {
        **_four(edited),
        "by_state": {state: _four(part) for state, part in edited.by(passage_about).items()},
        "router": {
            "opened_without_passage": 1.0,  # a row is about an edit where this holds
            "opened_with_passage": number(sum(map(bool, opened)) / len(opened)),
        },
    }


def passage_about(asked: Asked) -> str:
    """What the passage says of an edited fact (PH3 section 5.1)."""
    from editors.evaluation.metrics import normalised

    said = normalised(asked.row.context_answer)
    if not said:
        return "irrelevant"
    if said == normalised(asked.memory):
        return "agrees"
    return "stale" if said == normalised(asked.before or "") else "third"


def _four(measured: Measured) -> dict[str, Any]:
    rates = measured.rates
    return {
        "rows": len(measured.results),
        "edit": number(rates.memory.value),
        "context": number(rates.context.value),
        "before": number(rates.before.value),
        "other": number(rates.other.value),
    }


def heads_record(ranking: Ranking) -> list[dict[str, Any]]:
    """Each head with its scores, the largest of either ranking first."""
    scores = {name: ranking.mean(name) for name in ("memory", "context", "joint")}
    stable = {name: ranking.stable(name) for name in ("memory", "context")}
    layers, units = scores["memory"].shape
    found = [
        {
            "layer": layer,
            "head": unit,
            **{name: round(float(values[layer, unit]), 6) for name, values in scores.items()},
            "stable": {n: round(float(v[layer, unit]), 4) for n, v in stable.items()},
        }
        for layer in range(layers)
        for unit in range(units)
    ]
    return sorted(found, key=lambda head: -max(head["memory"], head["context"]))
