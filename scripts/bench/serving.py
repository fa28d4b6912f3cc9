"""Measure a server beside itself on the unedited base; write docs/serving-speed.md.

    python scripts/bench/serving.py                  # every part
    python scripts/bench/serving.py --only atlas     # one of them

The server is a process of its own, and so are the clients. All of them share the machine, which
should have nothing beside it. The same requests go to the edited version and to the base in turns.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from benchmark import Results, parser_of, run

from editcli.files.packaged import datasets_dir

EDITCLI = (sys.executable, "-m", "editcli")
AT_ONCE = 16
TOKENS = 32  # of the longest answer
TURNS = 5
MODELS = {
    "atlas": ("atlas/edits.jsonl", 100, 200),
    "smollm2": ("real/well-known-dev.jsonl", 20, 64),
}
"""By model: a file of facts, how many of them are edited in, and how many requests are a turn."""


def measure(model: str, _: Results) -> dict[str, Any]:
    """Requests and tokens a second, and whether all answers were those of `ask`."""
    file, count, requests = MODELS[model]
    with (datasets_dir() / file).open(encoding="utf-8") as lines:
        facts = [json.loads(line) for line in islice(lines, count)]
    near = [probe["prompt"] for fact in facts for probe in fact["locality"]]
    claimed = [prompt for fact in facts for prompt in (fact["prompt"], *fact["rephrases"])]
    draw = random.Random(0)
    near, claimed = ([p for p in some if "\n" not in p] for some in (near, claimed))  # for `ask -`
    mixed = [draw.choice(near if number % 2 else claimed) for number in range(requests)]
    far = [draw.choice(near) for _ in range(requests)]
    with TemporaryDirectory() as name:
        store = ["--store", str(Path(name, "store"))]
        edits = Path(name, "facts.jsonl")
        edits.write_text("".join(f"{json.dumps(fact)}\n" for fact in facts), encoding="utf-8")
        for words in (["init", model], ["apply", str(edits)]):
            subprocess.run([*EDITCLI, *words, *store], check=True, capture_output=True)
        with _server(store) as url:
            asked = {"mixed": mixed, "near": far}
            found = {kind: _compared(url, prompts) for kind, prompts in asked.items()}
            alone = _asked(url, "HEAD", far[:20], at_once=1)[0] / 20
        answers = [answer for result in found.values() for answer in result.pop("answers")]
        wrong = _not_of_ask(answers, store)
    return {
        "facts": count,
        "requests": requests,
        "at_once": AT_ONCE,
        "cores": os.cpu_count(),
        "seconds_alone": round(alone, 3),
        "answers": len(answers),
        "not_those_of_ask": wrong,
        **found,
    }


def _compared(url: str, prompts: Sequence[str]) -> dict[str, Any]:
    """The same requests to the edited version and to the base, in turns."""
    for name in ("HEAD", "base"):
        _asked(url, name, prompts[: 2 * AT_ONCE])
    turns = [[_asked(url, name, prompts) for name in ("HEAD", "base")] for _ in range(TURNS)]

    def rates(number: int) -> list[list[float]]:
        """Of each turn, what is done in a second of the edited version and of the base."""
        counts = [[(len(prompts), tokens)[number] for _, tokens, _ in turn] for turn in turns]
        return [
            [count / seconds for count, (seconds, _, _) in zip(of_turn, turn, strict=True)]
            for of_turn, turn in zip(counts, turns, strict=True)
        ]

    found: dict[str, Any] = {"answers": [pair for (edited, _) in turns for pair in edited[2]]}
    for number, what in enumerate(("requests", "tokens")):
        edited, base = (statistics.median(side) for side in zip(*rates(number), strict=True))
        ratio = statistics.median(ours / plain for ours, plain in rates(number))
        found[what] = {"edited": round(edited, 1), "base": round(base, 1), "ratio": round(ratio, 2)}
    return found


def _asked(
    url: str, name: str, prompts: Sequence[str], at_once: int = AT_ONCE
) -> tuple[float, int, list[tuple[str, str]]]:
    """How many seconds these requests take, the tokens of their answers, and each prompt with its
    answer."""
    place = urlsplit(url)

    def ask(prompt: str) -> dict[str, Any]:
        connection = HTTPConnection(str(place.hostname), place.port)
        body = json.dumps({"model": name, "prompt": prompt, "max_tokens": TOKENS})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        reply: dict[str, Any] = json.load(connection.getresponse())
        connection.close()
        return reply

    with ThreadPoolExecutor(at_once) as threads:
        started = time.perf_counter()
        replies = [*threads.map(ask, prompts)]
        seconds = time.perf_counter() - started
    tokens = sum(reply["usage"]["completion_tokens"] for reply in replies)
    texts = [reply["choices"][0]["text"] for reply in replies]
    return seconds, tokens, [*zip(prompts, texts, strict=True)]


def _not_of_ask(answers: Sequence[tuple[str, str]], store: Sequence[str]) -> int:
    """How many of these prompts have another answer than that of `ask`."""
    words = [*EDITCLI, "ask", "-", "--json", "--max-new-tokens", str(TOKENS), *store]
    prompts = [*dict(answers)]
    lines = "".join(f"{prompt}\n" for prompt in prompts)
    done = subprocess.run(words, input=lines, check=True, capture_output=True, text=True)
    lines_said = map(json.loads, done.stdout.splitlines())
    said = {prompt: line["answer"] for prompt, line in zip(prompts, lines_said, strict=True)}
    return sum(answer != said[prompt] for prompt, answer in answers)


@contextmanager
def _server(store: Sequence[str]) -> Iterator[str]:
    """The address of a server over ``store``."""
    words = [*EDITCLI, "serve", "--port", "0", "--json", *store]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        try:
            yield json.loads(program.stdout.readline())["url"]
        finally:
            program.terminate()


def page(results: Results) -> str:
    lines = [
        "# How fast a server answers",
        "",
        f"Written by `scripts/bench/serving.py`, {AT_ONCE} requests at once, answers of at most",
        f"{TOKENS} tokens, medians of {TURNS} turns; float32. *Near*: prompts that no edit claims,",
        "as the base answers them. *Mixed*: half of them prompts of edited facts in their own and",
        "in other words. The base is the same server with the same requests to the model `base`.",
        "Answers of edits and of the base have different lengths, so tokens are counted, too: a",
        "batch ends with its longest answer, so short answers beside long ones make fewer tokens.",
        "",
        "| model | edits | prompts | in a second | edited | base | ratio | bar |",
        "|---|---|---|---|---|---|---|---|",
    ]
    notes = []
    for model, result in results.items():
        for kind in ("near", "mixed"):
            for what, bar in (("requests", "0.80"), ("tokens", "")):
                row = result[kind][what]
                lines.append(
                    f"| {model} | {result['facts']} | {kind} | {what} | {row['edited']} | "
                    f"{row['base']} | {row['ratio']:.2f} | {bar} |"
                )
        notes.append(
            f"{model}: {result['cores']} CPU cores; one request at a time takes "
            f"{result['seconds_alone']} s; of {result['answers']} answers, "
            f"{result['not_those_of_ask']} differ from those of `ask`."
        )
    return "\n".join([*lines, "", *notes]) + "\n"


PARTS = {model: partial(measure, model) for model in MODELS}

if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    run(args, PARTS, args.only or list(PARTS), "serving-speed", page)
