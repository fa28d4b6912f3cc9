"""What a server has done so far, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter
from threading import Lock

_HELP = {
    "editcli_requests_total": "Requests, by path and HTTP status.",
    "editcli_answers_total": "Answers, by the version that gave them.",
    "editcli_claims_total": "Prompts that a fact claimed, by its id.",
    "editcli_tokens_total": "Tokens that the model read as prompts and chose as answers.",
}


class Metrics:
    """Counters that only grow. Threads may share them."""

    def __init__(self) -> None:
        self._counters: Counter[tuple[str, tuple[tuple[str, str], ...]]] = Counter()
        self._lock = Lock()

    def add(self, name: str, number: int = 1, **labels: str) -> None:
        """Count ``number`` more of the counter ``editcli_{name}_total`` with these labels."""
        with self._lock:
            self._counters[f"editcli_{name}_total", tuple(sorted(labels.items()))] += number

    def text(self) -> str:
        """All counters."""
        with self._lock:
            counters = sorted(self._counters.items())
        lines = []
        for name, what in _HELP.items():
            lines += [f"# HELP {name} {what}", f"# TYPE {name} counter"]
            lines += [
                f"{name}{{{_shown(labels)}}} {count}"
                for (counter, labels), count in counters
                if counter == name
            ]
        return "\n".join(lines) + "\n"


def _shown(labels: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
