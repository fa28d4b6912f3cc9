"""Signatures of the history: Ed25519, one for each line, over the line's hash.

A line carries the hash of the line before it, so whoever rewrites one has to sign all that follow.
A signature lies beside its line and is no part of it: what is signed is then fixed, and stays so
when a purge empties records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcli.store.files import atomic
from editors import EditorError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGN_VARIABLE = "EDITCLI_SIGN"  # the file with the private key
KIND = "ssh-ed25519"
HOW_TO_MAKE = "`ssh-keygen -t ed25519 -N '' -f FILE` makes one"
NAME_IT = f"`--sign FILE`, or `{SIGN_VARIABLE}=FILE editcli ...`, names the private key"


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key. ``public``: its public key, as OpenSSH writes it, without a comment."""

    public: str
    _key: Ed25519PrivateKey = field(repr=False)

    @staticmethod
    def read(path: Path) -> Signer:
        """The private key in a file, as OpenSSH or in PEM. Raises EditorError where there is none,
        it is of another kind, or a passphrase protects it."""
        _require_package()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        with atomic.explained("reading the key"):
            data = path.read_bytes()
        of_ssh = b"BEGIN OPENSSH PRIVATE KEY" in data
        load: Any = (
            serialization.load_ssh_private_key if of_ssh else serialization.load_pem_private_key
        )
        try:
            key = load(data, password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm) as error:
            protected = isinstance(error, TypeError)  # as cryptography documents
            raise EditorError(
                f"{path} is protected by a passphrase"
                if protected
                else f"{path} holds no private key that can be read",
                f"a key without a passphrase is needed: {HOW_TO_MAKE}",
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise EditorError(f"{path} holds a key of another kind than Ed25519", HOW_TO_MAKE)
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        return Signer(public.decode(), key)

    def sign(self, digest: str) -> bytes:
        """The signature of the line with the hash ``digest``."""
        return self._key.sign(_message(digest))


def read_public(named: str) -> str:
    """The public key that a user names: a file of OpenSSH's, or its text. Raises EditorError."""
    text = named
    if not named.startswith(KIND):
        with atomic.explained("reading the key"):
            text = Path(named).read_text(encoding="utf-8", errors="replace")
    parts = text.split()
    if len(parts) < 2 or parts[0] != KIND:
        raise EditorError(
            f"{named} is no public key of Ed25519", "the file whose name ends with .pub holds it"
        )
    public = " ".join(parts[:2])
    _public(public)
    return public


def required(public: str, signer: Signer | None) -> Signer | None:
    """``signer``, who has the key ``public`` of a store; None where its history is not signed
    (empty). Raises EditorError where there is no signer, or one with another key."""
    if not public:
        return None
    if signer is None:
        raise EditorError("the history of this store is signed, and no key is named", NAME_IT)
    if signer.public != public:
        raise EditorError(
            f"the history of this store is signed with {_shown(public)}, "
            f"and the key that is named is {_shown(signer.public)}",
            NAME_IT,
        )
    return signer


def add(base: sqlite3.Connection, seq: int, digest: str, signer: Signer) -> None:
    """Sign line ``seq`` of the history, which has the hash ``digest``."""
    base.execute("INSERT INTO signature VALUES (?, ?)", (seq, signer.sign(digest)))


def problems(base: sqlite3.Connection, public: str) -> Iterator[str]:
    """What is wrong with the signatures of a store whose key is ``public`` (empty: it is not
    signed), the first line first, in one sentence."""
    held = base.execute("SELECT 1 FROM sqlite_schema WHERE name = 'signature'").fetchone()
    if not public:
        if held:
            yield "lines of the history are signed, and config.toml names no key"
        return
    if not held:
        yield "no line of the history is signed, and config.toml names a key"
        return
    bad = [*_bad(base, _public(public))]
    if bad:
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield f"line {bad[0]} of the history is not signed with the key of the store{more}"
    (left,) = base.execute(
        "SELECT count(*) FROM signature WHERE seq NOT IN (SELECT seq FROM event)"
    ).fetchone()
    if left:
        yield f"{left} of the signatures belong to no line of the history"


def _bad(base: sqlite3.Connection, key: Ed25519PublicKey) -> Iterator[int]:
    from cryptography.exceptions import InvalidSignature

    rows = base.execute(
        "SELECT e.seq, e.hash, s.made FROM event AS e LEFT JOIN signature AS s ON s.seq = e.seq "
        "ORDER BY e.seq"
    )
    for seq, digest, made in rows:
        try:
            key.verify(made or b"", _message(digest))
        except InvalidSignature:
            yield seq


def _public(text: str) -> Ed25519PublicKey:
    """The key that OpenSSH writes so. Raises EditorError."""
    _require_package()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        key = load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise EditorError(f"{_shown(text)} is no public key of Ed25519") from error
    if not isinstance(key, Ed25519PublicKey):
        raise EditorError(f"{_shown(text)} is no public key of Ed25519")
    return key


def _message(digest: str) -> bytes:
    """What is signed; the words keep a signature from being one of something else."""
    return f"editcli, a line of a history: {digest}".encode()


def _shown(public: str) -> str:
    return f"{KIND} ...{public[-12:]}"


def _require_package() -> None:
    if find_spec("cryptography") is None:
        raise EditorError(
            "signatures need the package cryptography, which is not installed",
            "`pip install 'editcli[sign]'`",
        )
