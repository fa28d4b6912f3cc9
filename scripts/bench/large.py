"""Take a model of a thousand million parameters from `init` to its exports, within 24 GB on a CPU;
write docs/large-models.md.

    python scripts/bench/large.py                               # in float32
    python scripts/bench/large.py --only "llama-1b, bfloat16"   # in half the memory

Weights are random, so scores say only that edits were learned and that others were left alone; what
a command takes does not depend on the weights. Each command is a process of its own, imports
included, and its peak is what it holds in memory at most, mapped files included. Both exports are
loaded by another process, and their answers compared with those of `ask`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmark import Results, parser_of, run
from workbench import atlas_facts

HERE = Path(__file__).resolve().parent
EDITCLI = (sys.executable, "-m", "editcli")
FACTS = 2
TOKENS = 6  # of the longest answer that is compared
GIGABYTE = 10**9
BAR = 24  # gigabytes
SHAPE, SMALL = "llama-1b", "llama-110m"

# Runs a command, its output in a file, and prints its seconds, its peak memory in bytes and its
# exit status. A process of its own, with little memory: a command inherits the peak of the process
# that starts it.
_WATCHER = """
import os, subprocess, sys, time
output, *command = sys.argv[1:]
started = time.perf_counter()
with open(output, "w") as file:
    process = subprocess.Popen(command, stdout=file)
_, status, used = os.wait4(process.pid, 0)
took = time.perf_counter() - started
print(took, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss, os.waitstatus_to_exitcode(status))
"""

_MAKE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import torch
from random_models import random_weights
model, tokenizer = random_weights(sys.argv[2], dtype=getattr(torch, sys.argv[4]))
model.save_pretrained(sys.argv[3])
tokenizer.save_pretrained(sys.argv[3])
print(sum(p.numel() for p in model.parameters()))
"""

_ANSWER = """
import json, sys
def answer(model, tokenizer):
    for prompt in json.loads(sys.argv[2]):
        inputs = tokenizer(prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=int(sys.argv[3]), do_sample=False)
        new = output[0, inputs["input_ids"].shape[1]:]
        print(json.dumps(tokenizer.decode(new, skip_special_tokens=True).strip()))
"""
_BY_EDITCLI = f"""{_ANSWER}
import editcli
with editcli.load(sys.argv[1], device="cpu") as loaded:
    answer(loaded.model, loaded.tokenizer)
"""
_BY_TRANSFORMERS = f"""{_ANSWER}
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
answer(model, AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True))
assert "editcli" not in sys.modules
"""


def measure(shape: str, dtype: str, _: Results) -> dict[str, Any]:
    """Seconds and memory of each command, and whether all answers were those of `ask`."""
    facts = atlas_facts("edits.jsonl")[:FACTS]
    prompts = [text for fact in facts for text in (fact.prompt, fact.locality[0].prompt)]
    with TemporaryDirectory() as name:
        folder = Path(name)
        model, store = str(folder / "model"), ["--store", str(folder / "store")]
        file = folder / "facts.jsonl"
        lines = [f"{json.dumps(fact.to_dict())}\n" for fact in facts]
        file.write_text("".join(lines), encoding="utf-8")
        steps: dict[str, dict[str, Any]] = {}

        def watched(step: str, *words: str, asked: str = "") -> str:
            output = folder / "output"
            told = [sys.executable, "-c", _WATCHER, str(output), *words]
            print(f"  {step}", file=sys.stderr, flush=True)
            done = subprocess.run(told, check=True, input=asked, stdout=subprocess.PIPE, text=True)
            seconds, cpu, peak, status = map(float, done.stdout.split())
            if status:
                raise SystemExit(f"{step} failed with {status:.0f}")
            steps[step] = {"seconds": round(seconds, 1), "cpu": round(cpu, 1), "peak": int(peak)}
            return output.read_text(encoding="utf-8")

        def reloaded(program: str, export: str) -> list[str]:
            """What the export in that folder answers."""
            words = [sys.executable, "-c", program, str(folder / export)]
            told = watched(f"reload {export}", *words, json.dumps(prompts), str(TOKENS))
            return [json.loads(line) for line in told.splitlines()]

        made = watched("make", sys.executable, "-c", _MAKE, str(HERE), shape, model, dtype)
        watched("init", *EDITCLI, "init", model, *store)
        watched("apply", *EDITCLI, "apply", str(file), *store)
        scores = json.loads(
            watched("check", *EDITCLI, "check", "--protocol", "generate", "--json", *store)
        )
        words = ["ask", "-", "--json", "--max-new-tokens", str(TOKENS), *store]
        lines = [f"{prompt}\n" for prompt in prompts]
        told = watched("ask", *EDITCLI, *words, asked="".join(lines))
        said = [json.loads(line) for line in told.splitlines()]
        for kind in ("adapter", "remote-code"):
            words = ["export", "HEAD", str(folder / kind), "--as", kind, *store]
            watched(f"export {kind}", *EDITCLI, *words)
        answers = {
            "adapter": reloaded(_BY_EDITCLI, "adapter"),
            "remote-code": reloaded(_BY_TRANSFORMERS, "remote-code"),
        }
    weights = steps.pop("make")
    return {
        "parameters": int(made),
        "dtype": dtype,
        "facts": FACTS,
        "seconds_to_make": weights["seconds"],
        "steps": steps,
        "scores": {key: scores[key] for key in ("reliability", "generalization", "locality", "n")},
        "answers": len(prompts),
        "answers_of_edits": sum(answer["edited"] for answer in said),
        "not_those_of_ask": {
            kind: sum(text != answer["answer"] for text, answer in zip(texts, said, strict=True))
            for kind, texts in answers.items()
        },
    }


ROWS = {
    "init": "`init`",
    "apply": "`apply` of {facts} facts",
    "check": "`check` of {facts} facts",
    "ask": "`ask` of {answers} prompts",
    "export adapter": "`export --as adapter`",
    "export remote-code": "`export --as remote-code`",
    "reload adapter": "`editcli.load` of the adapter, and {answers} answers",
    "reload remote-code": "transformers alone with the remote code, and {answers} answers",
}
"""What a reader calls each step."""


def page(results: Results) -> str:
    lines = [
        "# A large model on a small machine",
        "",
        "Written by `scripts/bench/large.py` (`make bench-large`) on a CPU, with one thread and",
        "other work beside it. The model has random weights, so scores say that edits were learned",
        "and others left alone, and nothing of how good edits are. Each step is a process of its",
        "own, imports included. Its peak is what it holds in memory at most, with the files it",
        f"maps. The bar is {BAR} GB for every step.",
    ]
    for part, result in results.items():
        scores, wrong = result["scores"], result["not_those_of_ask"]
        most = max(step["peak"] for step in result["steps"].values()) / GIGABYTE
        lines += [
            "",
            f"## {part}",
            "",
            f"{result['parameters'] / 1e6:.0f} M parameters in {result['dtype']}. "
            f"The highest peak is {most:.1f} GB.",
            "",
            "| step | seconds | CPU seconds | peak |",
            "|---|---|---|---|",
        ]
        for step, told in result["steps"].items():
            lines.append(
                f"| {ROWS[step].format(**result)} | {told['seconds']:.0f} | {told['cpu']:.0f} "
                f"| {told['peak'] / GIGABYTE:.1f} GB |"
            )
        lines += [
            "",
            f"Reliability {scores['reliability']:.3f}, generalization "
            f"{scores['generalization']:.3f}, locality {scores['locality']['all']:.3f} "
            f"(bit for bit {scores['locality']['identical']:.3f}).",
            f"Of {result['answers']} answers, {result['answers_of_edits']} of them by edits, "
            f"{wrong['adapter']} of the adapter and {wrong['remote-code']} of the remote code",
            "are not those of `ask` (bar: 0).",
        ]
    return "\n".join(lines) + "\n"


PARTS = {
    f"{shape}, {dtype}": partial(measure, shape, dtype)
    for shape in (SMALL, SHAPE)
    for dtype in ("float32", "bfloat16")
}

if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    run(args, PARTS, args.only or [f"{SHAPE}, float32"], "large-models", page)
