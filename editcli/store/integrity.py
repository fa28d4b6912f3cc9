"""Is a store as it was written? Checks every hash, every link, and that nothing else lies in it.

Readers take no lock. So files are read in an order in which a store looks sound while a process
writes to it: HEAD, the tags, the folders, and last the history that accounts for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from editcli.store import atomic, history
from editcli.store.layout import Layout
from editcli.store.records import DIGEST, Version, version_id


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: `what` is the file or model at fault, `detail` says what is wrong with it."""

    what: str
    detail: str


def verify(layout: Layout) -> Iterator[Problem]:
    """Everything that is wrong with the store; nothing where it is sound.

    What a killed process leaves is no problem: temporary files, unreferenced blobs, the manifest of
    a version never committed, half a line at the end of the history, refs one step behind it.
    Raises OSError when the store cannot be read.
    """
    head = atomic.read(layout.head)
    tag_files = {name: atomic.read(layout.refs / name) for name in _names(layout.refs) - {"HEAD"}}
    listed = _names(layout.versions)
    chain = history.parse(atomic.read(layout.history) or b"", head)
    if head is None:
        yield Problem("refs/HEAD", "is missing")
    for text in chain.problems:
        yield Problem(*text.split(": ", 1))
    if head and not chain.problems:
        yield from _tag_problems(tag_files, chain)
    digests = history.manifests(chain.events)
    versions: list[Version] = []
    earlier: set[str] = set()
    for name, digest in digests.items():
        what = f"versions/{name}.json"
        data = atomic.read(layout.manifest(name))
        if name != version_id(len(earlier) + 1):
            yield Problem(what, f"is out of order after {len(earlier)} versions")
        if data is None:
            yield Problem(what, "is missing")
        elif sha256(data).hexdigest() != digest:
            yield Problem(what, "does not have the hash in the history")
        else:
            versions.append(Version.from_bytes(data))
            if versions[-1].parent not in (earlier or {""}):
                yield Problem(what, f"names an unknown parent, {versions[-1].parent!r}")
        earlier.add(name)
    # A process that was killed just before the commit leaves the next manifest without a line.
    allowed = {f"{name}.json" for name in (*digests, version_id(len(digests) + 1))}
    for name in sorted(listed - allowed) if not chain.problems else ():
        yield Problem(f"versions/{name}", "is in no history")
    if versions and sha256(atomic.read(layout.config) or b"").hexdigest() != versions[-1].config:
        yield Problem("config.toml", f"does not have the hash that {versions[-1].id} records")
    yield from _blob_problems(layout.blobs, versions)


def _tag_problems(files: Mapping[str, bytes | None], chain: history.Chain) -> Iterator[Problem]:
    settled = history.tags(chain.events[: chain.vouched])
    moving = [(event.tag, event.version) for event in chain.events[chain.vouched :]]
    for name in sorted({*files, *settled}):
        allowed = {settled.get(name), *(version for tag, version in moving if tag == name)}
        held = files.get(name)
        if held is None:
            yield Problem(f"refs/{name}", "is missing")
        elif held not in {f"{version}\n".encode() for version in allowed if version}:
            recorded = settled.get(name, "nothing")
            yield Problem(f"refs/{name}", f"holds {held[:40]!r}, the history says {recorded}")


def _blob_problems(folder: Path, versions: list[Version]) -> Iterator[Problem]:
    users: dict[str, str] = {}
    for version in versions:
        for name, digest in version.blobs.items():
            users.setdefault(digest, f" ({name!r} of {version.id} and later)")
    for digest in sorted(users.keys() | _names(folder)):
        used = users.get(digest, "")
        if not DIGEST.fullmatch(digest):
            yield Problem(f"blobs/{digest}", f"is not a blob{used}")
            continue
        try:
            with (folder / digest).open("rb") as file:
                actual = file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            if used:  # else a process removed the file between listing and reading
                yield Problem(f"blobs/{digest}", f"is missing{used}")
            continue
        if actual != digest:
            yield Problem(f"blobs/{digest}", f"is damaged: its hash is {actual[:12]}{used}")


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    return {path.name for path in folder.iterdir() if not path.name.startswith(atomic.TEMP_PREFIX)}
