"""What a shell completes: versions, tags, facts, authors and names that a registry has.

A completion is silent: without a store, or with one that cannot be read, there is nothing to
complete. No model is needed, and no torch. A shell may run what it is given, so values are plain
words, and texts of facts are reduced to letters and a few signs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

from typer import Context

from editcli.files.formats.registry import FORMATS
from editcli.models.locations import ATLAS, SMOLLM2
from editcli.store.files.layout import find_store
from editcli.store.store import Store
from editcli.store.tables.listing import Wanted
from editors import METHODS
from editors.scope.registry import SIGNALS

Item = tuple[str, str]
"""A word, and what it means."""

Completer = Callable[..., list[Item]]

MOST = 100  # words that are offered
HELP_LENGTH = 60
PLAIN = re.compile(r"[\w.~@+=/:-]+")  # words that no shell reads as anything else
_SIGNS = re.compile(r"[^\w .,?!-]+")

OPERATIONS = (
    *(
        "init",
        "edit",
        "apply",
        "undo",
        "purge",
        "compact",
        "config",
        "rebase",
        "resolve",
        "check",
        "tag",
        "checkout",
    ),
)
DEVICES = ("auto", "cpu", "cuda", "mps", "spread")
DTYPES = ("auto", "float32", "bfloat16", "float16", "8bit", "4bit")


def _offered(found: Iterable[Item], incomplete: str) -> list[Item]:
    """The plain words among them that begin so."""
    begun = (
        (word, " ".join(_SIGNS.sub(" ", meaning).split())[:HELP_LENGTH])
        for word, meaning in found
        if word.startswith(incomplete) and PLAIN.fullmatch(word)
    )
    return list(islice(begun, MOST))


def words(*choices: str) -> Completer:
    """Completes one of these words."""

    def complete(incomplete: str) -> list[Item]:
        return _offered(((choice, "") for choice in choices), incomplete)

    return complete


def _of_store(find: Callable[[Store, str], Iterable[Item]]) -> Completer:
    """Completes what ``find`` finds in the store that the command would use."""

    def complete(context: Context, incomplete: str) -> list[Item]:
        try:
            named = context.params.get("store")
            path = find_store(Path(named) if named else None, Path.cwd(), os.environ)
            return _offered(find(Store.open(path), incomplete), incomplete)
        except Exception:  # whatever is wrong, a shell's line is no place to say it
            return []

    return complete


def _versions(store: Store, _: str) -> Iterator[Item]:
    versions = {version.id: version for version in reversed(store.versions())}
    for name, version in store.refs().items():
        yield name, version
    for name, made in versions.items():
        yield name, f"{made.operation} {made.message or ''}"


def _tags(store: Store, _: str) -> Iterator[Item]:
    return ((name, version) for name, version in store.refs().items() if name != "HEAD")


def _facts(store: Store, incomplete: str) -> Iterator[Item]:
    """The facts in force; with a few letters of an id, those alone are read."""
    head = store.head()
    if incomplete:
        entries = (store.entry(head, fact) for fact in store.ids_beginning(incomplete))
        facts = (entry.fact for entry in entries if entry)
    else:
        facts = (listed.fact for listed in store.list_facts(head, Wanted()))
    return ((fact.id, f"{fact.prompt} {fact.target}") for fact in facts if fact)


def _known_facts(store: Store, incomplete: str) -> Iterator[Item]:
    """The facts in force or not."""
    head = store.head()
    pasts = (store.past(head, fact) for fact in store.ids_beginning(incomplete))
    found = ((past.fact.id, past.fact.prompt) for past in pasts if past)
    return found if incomplete else _facts(store, incomplete)


def _authors(store: Store, _: str) -> Iterator[Item]:
    authors: dict[str, int] = {}
    for event, _message in store.history():
        authors[event.who] = authors.get(event.who, 0) + 1
    ranked = sorted(authors.items(), key=lambda item: -item[1])
    return ((who, f"{number} entries") for who, number in ranked)


complete_version = _of_store(_versions)
complete_tag = _of_store(_tags)
complete_fact = _of_store(_known_facts)
complete_author = _of_store(_authors)
complete_version_or_fact = _of_store(
    lambda store, incomplete: [*_versions(store, incomplete), *_known_facts(store, incomplete)]
)
complete_fact_or_version = _of_store(
    lambda store, incomplete: [*_facts(store, incomplete), *_versions(store, incomplete)]
)
complete_operation = words(*OPERATIONS)
complete_device = words(*DEVICES)
complete_dtype = words(*DTYPES)
complete_model = words(ATLAS, SMOLLM2)


def complete_method(incomplete: str) -> list[Item]:
    """Completes an editing method."""
    return _offered(((name, METHODS.load(name).title) for name in METHODS.names()), incomplete)


def complete_format(incomplete: str) -> list[Item]:
    """Completes a format of fact files."""
    return _offered(((name, FORMATS.load(name).title) for name in FORMATS.names()), incomplete)


def complete_scope(incomplete: str) -> list[Item]:
    """Completes a scope signal."""
    return _offered(((name, "") for name in SIGNALS.names()), incomplete)


def complete_setting(context: Context, incomplete: str) -> list[Item]:
    """Completes a setting of the method, with a value where that is one of some words."""
    spec = METHODS.load(str(context.params.get("method") or "wise"))
    types = get_type_hints(spec.settings)
    choices = {key: get_args(kind) for key, kind in types.items() if get_origin(kind) is Literal}
    choices["profile"] = tuple(getattr(spec.settings, "PROFILES", ()))
    choices["scope"] = SIGNALS.names()
    found = [
        (f"{key}={value}", f"by default {default}")
        for key, default in spec.all_settings({}).items()
        for value in choices.get(key) or ("",)
    ]
    return _offered(found, incomplete)
