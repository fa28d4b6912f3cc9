"""Measure what editing promises on each family of models; write docs/models.md.

    python scripts/bench/models.py                       # every family
    python scripts/bench/models.py --only llama          # one of them
    python scripts/bench/models.py --page                # the page from what is saved

Models are tiny and have random weights, so a family takes seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmark import Results, parser_of, run

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from promises import HEADS, LAST_BITS, measure
from tiny_configs import CONFIGS

LIBRARIES = "libraries"
COLUMNS = {
    "edit": "takes edits",
    "others": "others bit for bit",
    "beside": "beside edited",
    "cache": "cache",
    "adapter": "adapter",
    "remote-code": "remote code",
    HEADS: "pruned heads",
}
KEPT, NOT_THERE = "yes", "-"
INTRODUCTION = """\
# Models

Decoders are read by structure, not by name: any model of transformers whose blocks have the usual
parts can be edited. `editcli inspect MODEL` tells in seconds, without the weights, what of a model
can be. Each family below was measured as a tiny model with random weights, with {libraries}.
This shows that the machinery fits the family, and says nothing of how good edits are.
`make bench-models` writes this page; the tests measure the same.

- **takes edits**: two facts are edited in by `wise`, both are answered, nothing else is claimed.
- **others bit for bit**: prompts that no edit claims have the logits of the base, alone or as a
  batch, after the prompt and after each token of the answer.
- **beside edited**: the same in one batch with edited prompts. "Last bits": they differ by
  rounding, as experts compute the tokens of a batch together, whoever they belong to.
- **cache**: the same tokens with a cache and without.
- **adapter**, **remote code**: exported so and loaded again, the same tokens.
- **pruned heads**: by a hook, and in plain weights (`export --as merged`), the same logits but for
  rounding.

Of a mixture of experts, a shared expert or a block without experts is edited. Where every block has
routed experts only, whose weights are fused in one tensor, nothing but heads can be changed.

A dash: there is nothing to measure, for the reason in the last column, which also says what some
blocks lack: they cannot be edited then, or have no heads to prune.
"""


def libraries(_: Results) -> dict[str, str]:
    return {name: metadata.version(name) for name in ("transformers", "torch")}


def family(name: str, _: Results) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return measure(name, Path(folder, name))


def page(results: Results) -> str:
    """The page of the saved results."""
    versions = [f"{name} {version}" for name, version in results.get(LIBRARIES, {}).items()]
    families = {name: result for name, result in results.items() if name != LIBRARIES}
    lines = [
        INTRODUCTION.format(libraries=", ".join(versions)),
        f"| family | edited projection | {' | '.join(COLUMNS.values())} | |",
        "|---" * (len(COLUMNS) + 3) + "|",
        *(_row(name, families[name]) for name in CONFIGS if name in families),
    ]
    return "\n".join(lines) + "\n"


def _row(name: str, result: dict[str, Any]) -> str:
    promises = result.get("promises", {})
    edited = ", ".join(f"`{path}`" for path in result.get("edited", ())) or NOT_THERE
    cells = [_cell(promises, promise) for promise in COLUMNS]
    return f"| {name} | {edited} | {' | '.join(cells)} | {'; '.join(_remarks(result))} |"


def _cell(promises: dict[str, str], promise: str) -> str:
    if promise not in promises:
        return NOT_THERE
    return {"": KEPT, LAST_BITS: "last bits"}.get(promises[promise], "no")


def _remarks(result: dict[str, Any]) -> Iterator[str]:
    if why := result.get("refused"):
        yield f"refused: {why}"
    reasons = [reason for lacking in result.get("lacking", ()) for reason in lacking.split("; ")]
    for reason in dict.fromkeys(reasons):
        yield f"{'some' if result['edited'] else 'all'} blocks: {reason}"
    yield from dict.fromkeys(
        why for why in result.get("promises", {}).values() if why not in ("", LAST_BITS)
    )


PARTS = {LIBRARIES: libraries, **{name: partial(family, name) for name in CONFIGS}}

if __name__ == "__main__":
    args = parser_of(__doc__.splitlines()[0], PARTS).parse_args()
    run(args, PARTS, args.only or list(PARTS), "models", page)
