"""The model card of an export: README.md, with the metadata that the Hub reads."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from editcli import __version__
from editcli.cli.console import printable
from editcli.store.records import StoreConfig, Version
from editcli.wording import counted
from editors import Fact

LISTED = 20  # facts in the table

_USE = {
    "adapter": "import editcli\n\nloaded = editcli.load(FOLDER)  # .model, .tokenizer, .explain",
    "remote-code": "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    "model = AutoModelForCausalLM.from_pretrained(FOLDER, trust_remote_code=True)\n"
    "tokenizer = AutoTokenizer.from_pretrained(FOLDER, trust_remote_code=True)\n"
    "print(model.edits.explain(PROMPT).why)",
    "merged": "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    "model = AutoModelForCausalLM.from_pretrained(FOLDER)\n"
    "tokenizer = AutoTokenizer.from_pretrained(FOLDER)",
}


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """The scores of one form of the edited model, as text."""

    name: str
    reliability: str
    generalization: str
    near: str
    far: str


@dataclass(frozen=True, slots=True)
class CardScores:
    """``measured``: on how many facts."""

    measured: int
    rows: Sequence[ScoreRow]


@dataclass(frozen=True, slots=True)
class CardContent:
    """What a card says. ``kind``: of the export; ``facts``: those in force; ``private``: they are
    not listed; ``licence``: of the base, empty if not known; ``exact``: the export answers as the
    version does."""

    name: str
    kind: str
    config: StoreConfig
    version: Version
    facts: Sequence[Fact]
    private: bool
    licence: str
    exact: bool
    scores: CardScores | None = None


def render_card(content: CardContent) -> str:
    """The card, as Markdown."""
    config = content.config
    return (
        _templates()
        .get_template("card.md")
        .render(
            metadata=_metadata(content),
            name=content.name,
            kind=content.kind,
            base=PurePath(config.base).name or config.base,
            facts=content.facts,
            private=content.private,
            listed=LISTED,
            use=_USE[content.kind],
            scores=content.scores,
            version=content.version,
            generator=__version__,
            method=config.method,
            settings=json.dumps(dict(config.settings), sort_keys=True),
            layer=config.layer,
            seed=config.seed,
            fingerprint=config.fingerprint,
            exact=content.exact,
            counted=counted,
        )
    )


def _metadata(content: CardContent) -> str:
    """The metadata block, as YAML."""
    from huggingface_hub import ModelCardData

    on_hub = bool(content.config.revision)
    merged = content.kind == "merged"
    values: dict[str, Any] = {
        "base_model": content.config.base if on_hub else None,
        "base_model_relation": ("finetune" if merged else "adapter") if on_hub else None,
        "library_name": "editcli" if content.kind == "adapter" else "transformers",
        "pipeline_tag": "text-generation",
        "license": content.licence or None,
        "tags": ["model-editing", "knowledge-editing", content.config.method],
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
