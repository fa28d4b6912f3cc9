"""Signed histories: every line is signed, whoever has no key cannot write, and a history that was
rewritten with rebuilt hashes is found out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from tiny_stores import CONFIG, PARIS, PARIS_AGAIN, ROME, content, framed, json_of, run, shard

from editcli.store.changes import Changes
from editcli.store.signatures import Signer
from editcli.store.store import Store
from editors import EditorError

pytestmark = pytest.mark.skipif(
    util.find_spec("cryptography") is None, reason="cryptography is not installed"
)


def save_key(path: Path, *, kind: str = "OpenSSH", password: bytes = b"") -> Path:
    """`path`, now with a new private key, and `path`.pub with its public key."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    form = s.PrivateFormat.OpenSSH if kind == "OpenSSH" else s.PrivateFormat.PKCS8
    lock = s.BestAvailableEncryption(password) if password else s.NoEncryption()
    path.write_bytes(key.private_bytes(s.Encoding.PEM, form, lock))
    public = key.public_key().public_bytes(s.Encoding.OpenSSH, s.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b" me@here\n")
    return path


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = save_key(tmp_path / "key")
    monkeypatch.setenv("EDITCLI_SIGN", str(path))
    monkeypatch.chdir(tmp_path)
    return path


def signed(path: Path, key: Path, **options: Any) -> Store:
    """A store with some events whose history is signed."""
    signer = Signer.read(key)
    config = replace(CONFIG, signer=signer.public)
    store = Store.create(path, config, Changes(blobs=framed()), signer=signer, who="ann")
    _change(store, signer)
    return store


def _change(store: Store, signer: Signer | None = None) -> None:
    with store.writing(signer=signer) as change:
        change.publish("apply", Changes([PARIS, ROME], blobs=shard(0, [PARIS, ROME])), who="ann")
        change.tag("good", who="ann")
        closed: dict[str, str | None] = {PARIS.id: PARIS_AGAIN.id}
        change.publish("edit", Changes([PARIS_AGAIN], closed=closed, blobs=shard(1, [PARIS_AGAIN])))


def rewrite(store: Store, change: Callable[[dict[str, Any]], None], seq: int = 2) -> None:
    """Change a line of the history, and rebuild all hashes, so that everything fits."""
    with closing(sqlite3.connect(store.path / "store.db", isolation_level=None)) as base:
        rows = base.execute("SELECT seq, line, hash FROM event ORDER BY seq").fetchall()
        previous = rows[0][2]
        for number, line, _ in rows[1:]:
            record = json.loads(line)
            record["previous"] = previous
            if number == seq:
                change(record)
            text = json.dumps(record, ensure_ascii=False)
            previous = sha256(text.encode()).hexdigest()
            base.execute(
                "UPDATE event SET line = ?, hash = ? WHERE seq = ?", (text, previous, number)
            )


def found(store: Store) -> list[str]:
    return [f"{problem.what}: {problem.detail}" for problem in store.verify()]


@pytest.mark.parametrize("kind", ["OpenSSH", "PKCS8"])
def test_every_line_is_signed_whatever_wrote_it(key: Path, tmp_path: Path, kind: str) -> None:
    save_key(key, kind=kind)
    store = signed(tmp_path / ".editcli", key)
    for words in (
        ["tag", "better"],
        ["checkout", "v2"],
        ["config", "set", "minima.locality", "0.5"],
    ):
        result = run(*words)
        assert result.exit_code == 0, result.stderr
    assert found(store) == []
    with closing(sqlite3.connect(store.path / "store.db")) as base:
        tables = ("signature", "event")
        lines = [base.execute(f"SELECT seq FROM {t} ORDER BY seq").fetchall() for t in tables]
    assert lines[0] == lines[1] != []
    assert run("verify", "--no-base", "--signed-by", f"{key}.pub").exit_code == 0


def test_whoever_has_no_key_or_another_writes_nothing(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = signed(tmp_path / ".editcli", key)
    before = content(store.path)
    monkeypatch.delenv("EDITCLI_SIGN")
    refused = run("tag", "mine")
    assert refused.exit_code == 1
    assert "no key is named" in refused.stderr
    assert "`--sign FILE`" in refused.stderr
    other = save_key(tmp_path / "other")
    assert (
        "the key that is named is ssh-ed25519 ..." in run("tag", "x", "--sign", str(other)).stderr
    )
    with pytest.raises(EditorError, match="no key is named"), store.writing():
        pass
    assert content(store.path) == before
    assert run("log").exit_code == 0
    assert run("tag", "mine", "--sign", str(key)).exit_code == 0


def test_a_history_that_was_rewritten_is_found_by_its_signatures_and_by_its_tip(
    key: Path, tmp_path: Path
) -> None:
    plain = Store.create(tmp_path / "plain", CONFIG, Changes(blobs=framed()), who="ann")
    _change(plain)
    store = signed(tmp_path / ".editcli", key)
    tips = [
        json_of(run("verify", "--no-base", "--json", "--store", str(s.path)))["tip"]
        for s in (plain, store)
    ]
    for one in (plain, store):
        rewrite(one, lambda line: line.update(who="mallory"))
    assert found(plain) == []  # all hashes fit
    assert found(store) == [
        "store.db: line 2 of the history is not signed with the key of the store, and 2 more"
    ]
    for one, tip in zip((plain, store), tips, strict=True):
        words = ["verify", "--no-base", "--store", str(one.path), "--expect", tip]
        assert run(*words).exit_code == 1
        assert "its tip is" in run(*words).stdout


def test_a_history_that_is_signed_anew_with_another_key_is_found_by_the_public_key(
    key: Path, tmp_path: Path
) -> None:
    other = save_key(tmp_path / "other")
    signed(tmp_path / ".editcli", other)
    assert run("verify", "--no-base").exit_code == 0
    result = run("verify", "--no-base", "--signed-by", f"{key}.pub")
    assert (result.exit_code, "it is signed with ssh-ed25519" in result.stdout) == (1, True)
    unsigned = Store.create(tmp_path / "plain", CONFIG, Changes(blobs=framed()))
    words = ["verify", "--no-base", "--store", str(unsigned.path)]
    assert "it is signed with no key" in run(*words, "--signed-by", f"{key}.pub").stdout


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM signature WHERE seq = 3", "line 3 of the history is not signed with"),
        ("UPDATE signature SET made = x'00' WHERE seq = 1", "line 1 of the history is not signed"),
        ("INSERT INTO signature VALUES (99, x'00')", "1 of the signatures belong to no line"),
        ("DROP TABLE signature", "no line of the history is signed, and config.toml names a key"),
    ],
)
def test_signatures_that_were_changed_are_named(
    key: Path, tmp_path: Path, statement: str, said: str
) -> None:
    store = signed(tmp_path / ".editcli", key)
    with closing(sqlite3.connect(store.path / "store.db", isolation_level=None)) as base:
        base.execute(statement)
    assert [text for text in found(store) if said in text]


def test_a_purge_keeps_the_signatures_good(key: Path, tmp_path: Path) -> None:
    store = signed(tmp_path / ".editcli", key)
    gone = {"shard-0001.safetensors": None}
    with store.writing(signer=Signer.read(key)) as change:
        change.purge([PARIS_AGAIN.id], Changes(closed={PARIS_AGAIN.id: None}, blobs=gone))
    assert found(store) == []


def test_a_key_that_cannot_sign_is_told_of(key: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key

    other = generate_private_key(SECP256R1())
    of_another_kind = tmp_path / "ec"
    of_another_kind.write_bytes(
        other.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    )
    (tmp_path / "junk").write_text("junk")
    cases = {
        save_key(tmp_path / "locked", kind="PKCS8", password=b"word"): "protected by a passphrase",
        of_another_kind: "of another kind than Ed25519",
        tmp_path / "junk": "holds no private key",
        tmp_path / "none": "no such file",
    }
    for path, why in cases.items():
        with pytest.raises(EditorError, match=why):
            Signer.read(path)


def test_init_signs_and_verify_checks(
    key: Path, model_folder: Path, calibration: Path, tmp_path: Path
) -> None:
    made = run("init", str(model_folder), "--calibration", str(calibration), "--sign", str(key))
    assert made.exit_code == 0, made.stderr
    store = Store.open(tmp_path / ".editcli")
    assert store.config.signer == Signer.read(key).public
    assert run("verify", "--signed-by", store.config.signer).exit_code == 0
