"""Measure memories as adapters of PEFT on a real language model, SmolLM2-135M-Instruct; write
docs/adapters.md.

    python scripts/bench/adapters.py

A store with memory=low-rank is exported with `--as lora`. All of its adapters are loaded into one
model by PEFT, over the plain base. The edits of the export decide which fact claims a request, and
adapters.json names the adapter of that fact; a request that no fact claims is answered without one.
Prompts and chats are turned into tokens as any program does it, by the tokenizer. Each answer is
then compared with that of `editcli ask`, a process of its own that knows the store alone.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from benchmark import Results, parser_of, run
from peft import PeftModel
from real_scope import rows

import editcli
from editcli.models.locations import SMOLLM2
from editcli.store.store import Store
from editors.model.tokenization import Prompt

EDITCLI = (sys.executable, "-m", "editcli")
SETS = {"well-known-dev.jsonl": 80, "rules-dev.jsonl": 20}
CHATS = "chats-dev.jsonl"
OF_EACH = 50  # requests: of edited facts and near them, in plain prompts and in chats
TOKENS = 12  # of the longest answer
MASKED = 1  # facts of a store with memory=masked, whose shards are all as large
KINDS = {
    "plain, asks a fact": "plain prompts that ask an edited fact",
    "plain, near": "plain prompts near one",
    "chat, asks a fact": "chats that ask an edited fact",
    "chat, near": "chats near one",
}


def measure(_results: Results) -> dict[str, Any]:
    """Sizes, and how many answers by PEFT are those of `ask`."""
    facts = [fact for file, count in SETS.items() for fact in [*rows(file)][:count]]
    requests = _requests(facts)
    prompts = [prompt for _, prompt in requests]
    with TemporaryDirectory() as name:
        folder = Path(name)
        store, seconds = _store(folder, "low-rank", facts)
        masked, _ = _store(folder, "masked", facts[:MASKED])
        export = folder / "export"
        _run("export", "HEAD", str(export), "--as", "lora", "--store", str(store))
        answers, chosen = _served(export, prompts)
        asked = _asked(store, prompts)
        adapters = [*export.glob("adapters/*/adapter_model.safetensors")]
        sizes = {
            "adapter": _mean(path.stat().st_size for path in adapters),
            "low-rank": _mean(_shards(store)),
            "masked": _mean(_shards(masked)),
        }
    found: dict[str, dict[str, int]] = {
        kind: {"requests": 0, "by_an_adapter": 0, "other_adapter": 0, "not_those_of_ask": 0}
        for kind in KINDS
    }
    for (kind, _), answer, adapter, said in zip(requests, answers, chosen, asked, strict=True):
        ours = None if said["shard"] is None else f"shard-{said['shard']:04d}"
        found[kind]["requests"] += 1
        found[kind]["by_an_adapter"] += adapter is not None
        found[kind]["other_adapter"] += adapter != ours
        found[kind]["not_those_of_ask"] += answer != said["answer"]
    return {
        "facts": len(facts),
        "adapters": len(adapters),
        "adapters_used": len({adapter for adapter in chosen if adapter}),
        "seconds_an_edit": round(seconds / len(facts), 2),
        "bytes": sizes,
        "kinds": found,
    }


def _requests(facts: Sequence[Mapping[str, Any]]) -> list[tuple[str, Prompt]]:
    """As many of each kind, each with its kind, in an order that is the same each time."""
    claimed = [text for fact in facts for text in (fact["prompt"], *fact["rephrases"])]
    near = [probe["prompt"] for fact in facts for probe in fact["locality"]]
    chats = [*rows(CHATS)]
    of_kind: dict[str, Sequence[Prompt]] = {
        "plain, asks a fact": [text for text in claimed if "\n" not in text],  # for `ask -`
        "plain, near": [text for text in near if "\n" not in text],
        "chat, asks a fact": [row["turns"] for row in chats if row["kind"] is None],
        "chat, near": [row["turns"] for row in chats if row["kind"] is not None],
    }
    draw = random.Random(0)
    requests = [(kind, prompt) for kind in KINDS for prompt in draw.sample(of_kind[kind], OF_EACH)]
    draw.shuffle(requests)
    return requests


def _store(folder: Path, memory: str, facts: Sequence[Mapping[str, Any]]) -> tuple[Path, float]:
    """A store of ``facts``, and how long `apply` took."""
    store, file = folder / f"store-{memory}", folder / f"{memory}.jsonl"
    file.write_text("".join(f"{json.dumps(fact)}\n" for fact in facts), encoding="utf-8")
    _run("init", SMOLLM2, "--set", f"memory={memory}", "--store", str(store))
    started = time.perf_counter()
    _run("apply", str(file), "--store", str(store), allowed=(0, 1))  # 1: a fact has failed
    return store, time.perf_counter() - started


def _run(*words: str, asked: str | None = None, allowed: Sequence[int] = (0,)) -> str:
    done = subprocess.run([*EDITCLI, *words], input=asked, stdout=subprocess.PIPE, text=True)
    if done.returncode not in allowed:
        raise SystemExit(f"editcli {words[0]} failed")
    return done.stdout


def _shards(path: Path) -> Iterator[int]:
    """The bytes of each shard of the newest version."""
    store = Store.open(path)
    for name, blob in store.blobs(store.head()).items():
        if name.startswith("shard-"):
            yield store.blob_path(name, blob).stat().st_size


def _mean(sizes: Iterable[int]) -> int:
    return round(statistics.mean(sizes))


def _served(export: Path, prompts: Sequence[Prompt]) -> tuple[list[str], list[str | None]]:
    """The answers of PEFT, and the adapter that gave each."""
    listed: dict[str, list[str]] = json.loads((export / "adapters.json").read_text())
    adapter_of = {fact: adapter for adapter, facts in listed.items() for fact in facts}
    with editcli.load(export, device="cpu") as loaded:
        model, tokenizer = loaded.model, loaded.tokenizer
        facts = [loaded.explain(prompt).record["fact"] for prompt in prompts]
    chosen = [adapter_of[fact] if fact else None for fact in facts]
    first, *others = listed
    served = PeftModel.from_pretrained(model, str(export / "adapters" / first), first)
    for adapter in others:
        served.load_adapter(str(export / "adapters" / adapter), adapter)
    answers = []
    for prompt, adapter in zip(prompts, chosen, strict=True):
        if adapter:
            served.set_adapter(adapter)
        if isinstance(prompt, str):
            inputs = tokenizer(prompt, return_tensors="pt")
        else:
            inputs = tokenizer.apply_chat_template(
                prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True
            )
        with nullcontext() if adapter else served.disable_adapter():
            output = served.generate(**inputs, max_new_tokens=TOKENS, do_sample=False)
        new = output[0, inputs["input_ids"].shape[1] :]
        answers.append(tokenizer.decode(new, skip_special_tokens=True).strip())
    return answers, chosen


def _asked(store: Path, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """What `ask` prints of each prompt."""
    lines = [prompt if isinstance(prompt, str) else json.dumps(prompt) for prompt in prompts]
    words = ["ask", "-", "--json", "--max-new-tokens", str(TOKENS), "--store", str(store)]
    told = _run(*words, asked="".join(f"{line}\n" for line in lines))
    return [json.loads(line) for line in told.splitlines()]


def page(results: Results) -> str:
    result = results["smollm2"]
    size = {name: f"{count / 1000:.1f} kB" for name, count in result["bytes"].items()}
    requests, wrong, elsewhere = (
        sum(found[key] for found in result["kinds"].values())
        for key in ("requests", "not_those_of_ask", "other_adapter")
    )
    lines = [
        "# Memories as adapters of PEFT",
        "",
        "Written by `scripts/bench/adapters.py` (`make bench-adapters`) on SmolLM2-135M-Instruct,",
        f"float32, CPU. A store of {result['facts']} facts with `memory=low-rank` is exported with",
        f"`--as lora`. PEFT loads its {result['adapters']} adapters into one model over the plain",
        "base. The edits of the export decide which fact claims a request, and `adapters.json`",
        "names the adapter of that fact; a request that none claims is answered with no adapter.",
        "Tokens come from the tokenizer and its chat template. An answer is greedy, has at most",
        f"{TOKENS} tokens, and is compared with that of `editcli ask`, in a process of its own.",
        "",
        f"**Of {requests} answers, {wrong} are not those of `ask`** (bar: 0); "
        f"{elsewhere} requests go to another",
        f"memory. {result['adapters_used']} of the adapters answered one of them.",
        "",
        "| requests | number | answered by an adapter | another memory | another answer |",
        "|---|---|---|---|---|",
        *(
            f"| {KINDS[kind]} | {found['requests']} | {found['by_an_adapter']} "
            f"| {found['other_adapter']} | {found['not_those_of_ask']} |"
            for kind, found in result["kinds"].items()
        ),
        "",
        "| on disk | of one fact |",
        "|---|---|",
        f"| an adapter, its weights | {size['adapter']} |",
        f"| a shard of a store with `memory=low-rank` | {size['low-rank']} |",
        f"| a shard of a store with `memory=masked` | {size['masked']} |",
        "",
        f"`apply` of {result['facts']} facts took {result['seconds_an_edit']} s an edit of wall",
        "time, with much other work beside it. How well memories of low rank answer, and the CPU",
        "time of an edit, stand in [real-models.md](real-models.md).",
    ]
    return "\n".join(lines) + "\n"


PARTS = {"smollm2": measure}

if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    torch.set_num_threads(1)
    run(args, PARTS, args.only or list(PARTS), "adapters", page)
