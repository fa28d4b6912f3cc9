"""The configuration that is in force: its hash is in the history, and its text among the blobs.

`config.toml` is what is read. It is written after the change that brings it is committed; where a
process was killed in between, the text among the blobs is in force.
"""

from __future__ import annotations

import json
import sqlite3
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from editcli.store.files import atomic
from editcli.store.files.layout import Layout
from editcli.store.files.lock import locked
from editcli.store.records import CONFIG, FREE, RESTORE_CONFIG, StoreConfig, now
from editcli.store.tables import database, history
from editcli.wording import listed
from editors import EditorError

SHOWN = 4  # keys in an error
LONGEST = 60  # of a value in a message


def digest_in_force(base: sqlite3.Connection) -> str:
    """The SHA-256 of the configuration that the history says is in force."""
    # Releases before 0.3 write it in events that make versions only.
    return (
        history.last_event(base).config
        or history.events(base, "made = (SELECT max(made) FROM event)")[0].config
    )


def is_recorded(base: sqlite3.Connection, digest: str) -> bool:
    """Whether a configuration with this SHA-256 was in force at some time, and its text kept."""
    rows = base.execute(
        "SELECT 1 FROM record WHERE kind = 'blob' AND name = ? AND digest = ? LIMIT 1",
        (CONFIG, digest),
    )
    return rows.fetchone() is not None


def text_of(layout: Layout, digest: str) -> bytes | None:
    """The text of the configuration with this SHA-256; None where it was not kept, as before
    release 0.3, is damaged, or cannot be read."""
    data = None
    with suppress(OSError):
        data = atomic.read(layout.blobs / digest)
    return data if data is not None and sha256(data).hexdigest() == digest else None


def read(layout: Layout) -> bytes:
    """The text that is in force; where the database is damaged, which `verify` tells, what
    `config.toml` says. Raises EditorError."""
    with atomic.explained("opening the store"):
        found = layout.config.read_bytes()
    with suppress(EditorError), database.reading(layout.database) as base:
        return _in_force(layout, base, found)
    return found


def write(layout: Layout, text: bytes) -> None:
    """Put ``text`` into `config.toml`. Raises EditorError."""
    with atomic.explained("writing config.toml"):
        atomic.write(layout.config, text)
        atomic.sync_directory(layout.root)


@database.explained("reading the configuration")
def require_in_force(layout: Layout, base: sqlite3.Connection, opened: bytes) -> None:
    """For a writer: write what a killed process has not come to write. Raises EditorError where
    `config.toml` was changed by hand, naming the keys, or another command has changed it since it
    said ``opened``."""
    with atomic.explained("reading config.toml"):
        found = layout.config.read_bytes()
    wanted = _in_force(layout, base, found)
    if wanted != found:
        write(layout, wanted)
    if problems := [*changed_keys(layout, base, wanted)]:
        raise EditorError(
            f"config.toml was changed by hand: {listed(problems, SHOWN)}",
            f"{RESTORE_CONFIG}; `editcli config set KEY VALUE` changes what may change",
        )
    if wanted != opened:
        raise EditorError(
            "the configuration of the store was changed meanwhile", "run the command again"
        )


def restore(path: Path, command: str) -> None:
    """Write the `config.toml` of the store at ``path`` as it is recorded; ``command`` holds the
    lock. Raises EditorError where the text was not kept."""
    layout = Layout(path)
    layout.require_plain()
    with locked(layout.lock, command, now(), 0), database.reading(layout.database) as base:
        text = text_of(layout, digest_in_force(base))
        if text is None:
            raise EditorError(
                "the text of the configuration is not kept: an older release made the store",
                "restore `config.toml` from a copy of the store",
            )
        write(layout, text)


def _in_force(layout: Layout, base: sqlite3.Connection, found: bytes) -> bytes:
    """The text in force, where `config.toml` says ``found``: that, or what a process that was
    killed has not come to write."""
    digest, wanted = sha256(found).hexdigest(), digest_in_force(base)
    if digest == wanted or not is_recorded(base, digest):
        return found
    return text_of(layout, wanted) or found


def changed_keys(layout: Layout, base: sqlite3.Connection, found: bytes) -> Iterator[str]:
    """What ``found`` says in place of what is in force, one sentence for each key."""
    digest, wanted = sha256(found).hexdigest(), digest_in_force(base)
    if digest == wanted:
        return
    text = text_of(layout, wanted)
    if text is None:
        yield f"its hash is {digest[:12]}, and the history records {wanted[:12]}"
        return
    old, new = _flat(text), _flat(found)
    same = True
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            same = False
            yield f"{key} is {_shown(new, key)}, and {_shown(old, key)} is recorded"
    if same:
        yield "it says the same in other words"


def signer(layout: Layout, base: sqlite3.Connection, found: bytes) -> str:
    """The public key that the history is signed with, as is recorded; where no text is, as
    ``found``, the text of `config.toml`, says. Empty if it is not signed."""
    text = None
    with suppress(EditorError):  # of a last line that is damaged
        text = text_of(layout, digest_in_force(base))
    return str(_flat(found if text is None else text).get("signer", ""))


@database.explained("reading the configuration")
def needed_for(layout: Layout, base: sqlite3.Connection, digest: str) -> bytes | None:
    """The text of the configuration with this SHA-256; None where the one in force says the same of
    all that a version depends on. Raises EditorError where it was not kept."""
    if digest == (current := digest_in_force(base)):
        return None
    texts = [text_of(layout, known) for known in (digest, current)]
    if texts[0] is None or texts[1] is None:
        raise EditorError(
            "the version was made under another configuration, which is not kept",
            "use a version that was made later",
        )
    wanted, now = (asdict(StoreConfig.from_toml(text)) for text in texts if text is not None)
    for known in ("files", "structure"):
        if not (wanted[known] and now[known]):  # made before release 0.3, which told nothing
            wanted[known] = now[known]
    same = all(wanted[key] == now[key] for key in wanted if key not in FREE)
    return None if same else texts[0]


def _flat(text: bytes) -> dict[str, Any]:
    """The values by their keys, with dots between those of tables; empty for what is no TOML."""
    try:
        return dict(leaves(tomllib.loads(text.decode())))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return {}


def leaves(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """The values in a table and the tables in it, each under its keys with dots between them;
    ``above``: what comes before them."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "absent"
    text = json.dumps(values[key], ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
