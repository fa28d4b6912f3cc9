"""Conflicts between passage and memory on the base of a store: what the three commands share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from editcli.output import Output
from editcli.paths import datasets_dir
from editcli.workspace import Workspace
from editors import EditorError

if TYPE_CHECKING:
    from editors.attach import Attached
    from editors.conflicts import Asked, Conflict, Measured
    from editors.locating import Ranking
    from editors.metrics import Rate
    from editors.pruning import HeadMask, Resolution
    from editors.state import EditState

NEUTRAL = ("atlas", "neutral.jsonl")


@dataclass(frozen=True, slots=True)
class Bench:
    """A version's edits on its base, without or with heads pruned."""

    workspace: Workspace
    state: EditState

    @contextmanager
    def attached(self, mask: HeadMask | None = None) -> Iterator[Attached]:
        """The base with the edits, and with ``mask`` in place of the version's own, if given."""
        state = self.state
        if mask is not None:
            state = replace(state, resolution=_only(mask) if mask.heads else None)
        with self.workspace.method.attach(state) as edited:
            yield edited

    def unpruned(self) -> Bench:
        return Bench(self.workspace, replace(self.state, resolution=None))

    def ask(self, rows: Sequence[Conflict], out: Output) -> list[Asked]:
        """The rows with what each source answers; those that show no conflict are left out.

        Raises:
            EditorError: no row is left, or a prompt does not fit into the model's context.
        """
        from editors.conflicts import with_edits, with_memory

        base = self.workspace.base
        for row in rows:
            self._require_room(row)
        elicited = with_memory(base, rows)
        with self.attached() as edited:
            facts = {fact.id: fact for fact in self.state.in_force()}
            found = with_edits(base, elicited, edited, facts) if elicited else []
        if not found:
            raise EditorError(
                "no row is left on which passage and memory differ",
                "give rows whose `context_answer` is not what the model says by itself",
            )
        if len(found) < len(rows):
            out.warn(
                f"{len(rows) - len(found)} of {len(rows)} rows left out: the model answers them as "
                "the passage does, or not at all"
            )
        return found

    def _require_room(self, row: Conflict) -> None:
        from editors.tokens import encode_pair

        base = self.workspace.base
        wanted = row.context_answer or row.memory_answer or "?"
        encode_pair(
            base.tokenizer, row.prompt, wanted, stop=True, context=base.architecture.context
        )


def _only(mask: HeadMask) -> Resolution:
    """A mask on trial: nothing is recorded of it."""
    from editors.pruning import Resolution

    return Resolution("context", mask, "")


def neutral_texts(source: str | None) -> list[str]:
    """Held-out plain text: the file given (JSON Lines with `text`, or a text a line), else ours.

    Raises UsageError for a file that cannot be read or is empty.
    """
    import json

    from editcli.errors import UsageError
    from editcli.factfile import json_lines, read_bytes

    if source is None:
        data = datasets_dir().joinpath(*NEUTRAL).read_bytes()
        rows = [json.loads(line) for line in data.splitlines() if line.strip()]
        return [row["text"] for row in rows if row["split"] == "test"]
    data = read_bytes(source)
    texts = [
        str(value["text"]) if isinstance(value, dict) and "text" in value else line.decode("utf-8")
        for line, (_, value) in zip(_filled(data), json_lines(data), strict=False)
    ]
    if not texts:
        raise UsageError(f"{source} holds no text", "one text a line, or JSON Lines with `text`")
    return texts


def _filled(data: bytes) -> list[bytes]:
    return [line for line in data.splitlines() if line.strip()]


def tokenizer_digest(workspace: Workspace) -> str:
    """12 hexadecimal digits over the vocabulary: which tokens first tokens are."""
    vocabulary = sorted(workspace.base.tokenizer.get_vocab().items(), key=lambda item: item[1])
    return sha256(repr(vocabulary).encode()).hexdigest()[:12]


# --- as JSON --------------------------------------------------------------------------------------


def number(value: float | None) -> float | None:
    """A figure as JSON has it; None for what is not defined."""
    return None if value is None or value != value else round(value, 6)


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
    from editors.metrics import normalised

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
