"""Is a store as it was written? Checks every hash, every link, and that nothing else lies in it.

Readers take no lock. So files are read in an order in which a store looks sound while a process
writes to it: refs and folders first, then the history that accounts for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from editcli.store import history
from editcli.store.atomic import TEMP_PREFIX
from editcli.store.layout import Layout
from editcli.store.records import DIGEST, Version, is_version_id, version_id


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding: `what` is the file or model at fault, `detail` says what is wrong with it."""

    what: str
    detail: str


def verify(layout: Layout, recorded: str, fingerprint: str | None = None) -> list[Problem]:
    """Everything that is wrong with the store; empty where it is sound.

    `recorded` is the fingerprint in the store's configuration and `fingerprint` that of the base
    model that is in use (None: not compared). What a killed process leaves is no problem: temporary
    files, unreferenced blobs, the manifest of a version never committed, half a line at the end of
    the history, refs one step behind it. Raises OSError when the store cannot be read.
    """
    problems: list[Problem] = []
    tag_files = {name: _read(layout.tag(name)) for name in _names(layout.refs) if name != "HEAD"}
    anchor, findings = _anchor(layout)
    problems += findings
    listed = _names(layout.versions)
    chain = history.parse(_read(layout.history))
    problems += [Problem(*text.split(": ", 1)) for text in history.check(chain, anchor)]
    problems += _check_tags(tag_files, chain, anchor)
    versions, findings = _check_manifests(layout, chain, listed)
    problems += findings
    problems += _check_config(layout, versions)
    problems += _check_blobs(layout, versions)
    if fingerprint is not None and fingerprint != recorded:
        problems.append(
            Problem("base model", f"fingerprint is {fingerprint}, the store was made on {recorded}")
        )
    return problems


def _anchor(layout: Layout) -> tuple[history.Anchor | None, list[Problem]]:
    data = _read(layout.head)
    if not data:
        return None, [Problem("refs/HEAD", "is missing or empty")]
    try:
        return history.Anchor.from_bytes(data), []
    except ValueError:
        return None, [Problem("refs/HEAD", "cannot be read")]


def _check_tags(
    files: dict[str, bytes], chain: history.Chain, anchor: history.Anchor | None
) -> list[Problem]:
    if chain.problems or anchor is None or anchor.seq > len(chain.events):
        return []  # already reported; nothing to compare with
    settled = history.tags(chain.events[: anchor.seq])
    moving = [(event.tag, event.version) for event in chain.events[anchor.seq :]]
    problems = []
    for name in sorted({*files, *settled}):
        allowed = {settled.get(name), *(version for tag, version in moving if tag == name)}
        wanted = {f"{version}\n".encode() for version in allowed if version}
        if name not in files:
            problems.append(Problem(f"refs/{name}", "is missing"))
        elif files[name] not in wanted:
            recorded = (
                f"the history says {settled[name]}" if name in settled else "is in no history"
            )
            problems.append(Problem(f"refs/{name}", f"holds {files[name][:40]!r}, {recorded}"))
    return problems


def _check_manifests(
    layout: Layout, chain: history.Chain, listed: list[str]
) -> tuple[list[Version], list[Problem]]:
    """The sound versions, and what is wrong with the others."""
    versions: list[Version] = []
    problems: list[Problem] = []
    earlier: set[str] = set()  # ids of the versions before, in order
    for name, digest in history.manifests(chain.events).items():
        what = f"versions/{name}.json"
        if name != version_id(len(earlier) + 1):
            problems.append(Problem(what, f"is out of order after {len(earlier)} versions"))
        data = _read(layout.manifest(name))
        if not data:
            problems.append(Problem(what, "is missing or empty"))
        elif sha256(data).hexdigest() != digest:
            problems.append(Problem(what, "does not have the hash that the history records"))
        else:
            version = Version.from_bytes(data)
            versions.append(version)
            if version.parent not in earlier and (version.parent or earlier):
                problems.append(Problem(what, f"names an unknown parent {version.parent!r}"))
        earlier.add(name)
    # A process that was killed just before the commit leaves the next manifest without a line.
    allowed = {*earlier, version_id(len(earlier) + 1)}
    for name in listed:
        stem = name.removesuffix(".json")
        if chain.problems or stem in allowed:
            continue
        detail = "is in no history" if is_version_id(stem) else "is not a manifest"
        problems.append(Problem(f"versions/{name}", detail))
    return versions, problems


def _check_config(layout: Layout, versions: list[Version]) -> list[Problem]:
    if not versions or sha256(_read(layout.config)).hexdigest() == versions[-1].config:
        return []
    return [Problem("config.toml", f"does not have the hash that {versions[-1].id} records")]


def _check_blobs(layout: Layout, versions: list[Version]) -> list[Problem]:
    users: dict[str, tuple[str, str]] = {}
    for version in versions:
        for name, used_digest in version.blobs.items():
            users.setdefault(used_digest, (version.id, name))
    problems = []
    for digest in sorted(set(users) | set(_names(layout.blobs))):
        what = f"blobs/{digest}"
        version_name, name = users.get(digest, ("", ""))
        used = f" ({name!r} of {version_name} and later)" if version_name else ""
        if not DIGEST.fullmatch(digest):
            problems.append(Problem(what, "is not a blob"))
            continue
        try:
            with layout.blob(digest).open("rb") as file:
                actual = file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            if used:  # else a process removed the file between listing and reading
                problems.append(Problem(what, f"is missing{used}"))
            continue
        if actual != digest:
            problems.append(Problem(what, f"is damaged: its hash is {actual[:12]}{used}"))
    return problems


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if not p.name.startswith(TEMP_PREFIX))


def _read(path: Path) -> bytes:
    """The bytes of a file; none where it is absent."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
