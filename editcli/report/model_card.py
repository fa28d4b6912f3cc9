"""The model card of an export: README.md, with the metadata that the Hub reads."""

from __future__ import annotations

import html
import json
import re
from functools import cache
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from editcli import __version__
from editcli.cli.console import printable
from editcli.operations.exports.folder import CARD, Describe, Kind, Scored, weights_folder
from editcli.operations.session import Session
from editcli.store.records import Version
from editcli.wording import counted
from editors import Fact

if TYPE_CHECKING:
    from editors.evaluation.metrics import Rate

LISTED = 20  # facts in the table

_USE = {
    "adapter": "import editcli\n\nloaded = editcli.load(FOLDER)  # .model, .tokenizer, .explain",
    "remote-code": "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    "model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)\n"
    "tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)\n"
    "print(model.edits.explain(PROMPT).why)",
    "lora": "import editcli\nfrom peft import PeftModel\n\n"
    "folder = FOLDER\n"
    "with editcli.load(folder) as loaded:  # .model, .tokenizer, .explain\n"
    '    shard = loaded.explain(PROMPT).record["shard"]  # None: the base answers\n'
    'model = PeftModel.from_pretrained(loaded.model, f"{folder}/adapters/shard-{shard:04d}")',
    "merged": "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    "model = AutoModelForCausalLM.from_pretrained(FOLDER)\n"
    "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
    "gguf": "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    "model = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=FILE)\n"
    "tokenizer = AutoTokenizer.from_pretrained(FOLDER, gguf_file=FILE)",
}
_LIBRARY = {"adapter": "editcli", "gguf": "gguf", "lora": "peft"}


def card_of(
    session: Session, version: Version, kind: Kind, name: str, *, private_facts: bool
) -> Describe:
    """What writes the card of an export of ``version`` that is called ``name``. ``private_facts``:
    the facts are not listed."""
    config = session.store.config

    def describe(facts: list[Fact], scored: Scored) -> str:
        return (
            _templates()
            .get_template("card.md")
            .render(
                metadata=_metadata(session, kind),
                name=name,
                plain=kind in ("merged", "gguf"),
                kind=kind,
                base=PurePath(config.base).name or config.base,
                facts=facts,
                private=private_facts,
                listed=LISTED,
                use=_use(kind, name),
                scores=score_rows(scored),
                measured=max((len(scores.per_fact) for scores in scored.values()), default=0),
                version=version,
                generator=__version__,
                method=config.method,
                settings=json.dumps(dict(config.settings), sort_keys=True),
                layer=config.layer,
                seed=config.seed,
                fingerprint=config.fingerprint,
                exact=not scored,
                counted=counted,
            )
        )

    return describe


def score_rows(scored: Scored) -> list[tuple[str, ...]]:
    """For each of ``scored`` its name, reliability, generalization, near and far locality, as
    text."""
    return [
        (name, *map(_shown, (s.reliability, s.generalization, s.near, s.far)))
        for name, s in scored.items()
    ]


def _shown(rate: Rate) -> str:
    return f"{rate.value:.3f} ({rate.low:.3f}-{rate.high:.3f})" if rate.n else "-"


def _licence(session: Session) -> str:
    """The licence that the card of the base names; empty if it has none."""
    card = weights_folder(session.base.model, session.store.config.revision) / CARD
    if not card.is_file():
        return ""
    text = card.read_text(encoding="utf-8", errors="replace")
    match = re.match(r"---\n.*?^license: *([\w.-]+) *$.*?^---$", text, re.DOTALL | re.MULTILINE)
    return match[1] if match else ""


def _use(kind: Kind, name: str) -> str:
    """How to load an export that is called ``name``, as code."""
    file = f"{PurePath(name).name}.gguf"
    return _USE[kind].replace("FOLDER", repr(name)).replace("FILE", repr(file))


def _metadata(session: Session, kind: Kind) -> str:
    """The metadata block, as YAML."""
    from huggingface_hub import ModelCardData

    config = session.store.config
    on_hub, merged = bool(config.revision), kind in ("merged", "gguf")
    values: dict[str, Any] = {
        "base_model": config.base if on_hub else None,
        "base_model_relation": ("finetune" if merged else "adapter") if on_hub else None,
        "library_name": _LIBRARY.get(kind, "transformers"),
        "pipeline_tag": "text-generation",
        "license": _licence(session) or None,
        "tags": ["model-editing", "knowledge-editing", config.method],
    }
    text: str = ModelCardData(**{key: v for key, v in values.items() if v is not None}).to_yaml()
    return text.strip()


def _cell(text: str) -> str:
    """``text`` inside a table of Markdown: it stays in its cell, and nothing in it is markup."""
    escaped = html.escape(printable(text), quote=False)
    for character in "\\`*_[]|":
        escaped = escaped.replace(character, f"\\{character}")
    return escaped


@cache
def _templates() -> Environment:
    # The page is Markdown: cells are escaped by `cell`, and the rest is our own text.
    templates = Environment(
        loader=PackageLoader("editcli.report"), undefined=StrictUndefined, autoescape=False
    )
    templates.filters["cell"] = _cell
    return templates
