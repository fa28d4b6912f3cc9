"""The database of a store: one SQLite file, opened so that a hostile one can do no harm.

Rows are only ever added; `purge` alone empties some. SQLite's rollback journal makes each change
whole or nothing, also on network file systems, where its write-ahead log does not work, and it
leaves one file where nothing was killed. Readers page through what is long, so that no reader holds
up a writer for more than a moment.

What is emptied is overwritten, but copies of it may stay where SQLite moved rows about. `tidy`
makes the file anew without them; `PRAGMA user_version` says that this is still to be done.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from editcli.store.files import atomic
from editors import EditorError

DAMAGED = "`editcli verify` lists the damage"
"""The hint of every error about damage."""

WAIT_S = 60  # for another process, which holds the file for moments
CACHE_KIB = 65_536
_MAGIC = bytes.fromhex("d9d505f920a163d7")  # of a journal, see sqlite.org/fileformat2.html
LONGEST_BYTES = 1 << 27  # of a row; facts are short, and saved scores are not longer

# `event`: the history; `line` is what is chained, `hash` is its SHA-256, and the other columns
# repeat what is in it.
# `record`: what an event added, in order. `leaf` is a hash of a record with its salt, and what the
# history vouches for. So a record can be emptied, and only its leaf stays.
SCHEMA = {
    "event": """CREATE TABLE event (
  seq INTEGER PRIMARY KEY, made INTEGER UNIQUE, parent INTEGER, tag TEXT, line TEXT NOT NULL,
  hash TEXT NOT NULL
) STRICT""",
    "record": """CREATE TABLE record (
  key INTEGER PRIMARY KEY, event INTEGER NOT NULL, kind TEXT NOT NULL, leaf BLOB NOT NULL,
  entry INTEGER, other INTEGER, name TEXT, digest TEXT, salt TEXT, body TEXT
) STRICT""",
    "record_event": "CREATE INDEX record_event ON record (event, kind)",
    "record_entry": "CREATE INDEX record_entry ON record (entry) WHERE entry IS NOT NULL",
    "record_other": "CREATE INDEX record_other ON record (other) WHERE other IS NOT NULL",
    "record_digest": "CREATE INDEX record_digest ON record (digest) WHERE digest IS NOT NULL",
    "record_name": "CREATE INDEX record_name ON record (kind, name) WHERE name IS NOT NULL",
}
# Only where the history is signed: the signature of each line.
SIGNATURE = "CREATE TABLE signature (seq INTEGER PRIMARY KEY, made BLOB NOT NULL) STRICT"
SIGNED = {**SCHEMA, "signature": SIGNATURE}


def create(path: Path, *, signed: bool = False) -> None:
    """Make an empty database at `path`, with room for signatures if it is ``signed``. Raises
    EditorError."""
    with explained("making the store"), closing(_connected(path, "rwc")) as database:
        database.execute("PRAGMA page_size = 4096")
        database.execute("PRAGMA journal_mode = DELETE")
        database.execute("BEGIN IMMEDIATE")
        for statement in (SIGNED if signed else SCHEMA).values():
            database.execute(statement)
        database.execute("COMMIT")


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """The database at `path`, in a state that does not change while the block runs.

    What a killed writer left unfinished is rolled back; where the folder cannot be written, in a
    copy. Raises EditorError where the file is missing, is no database of a store, or is damaged.
    """
    with explained("reading the store"):
        try:
            database = _opened(path, "ro")
        except sqlite3.OperationalError as error:
            if not _unfinished(path).exists():
                raise error from None
            with _recovered(path) as database:
                yield database
            return
        with closing(database):
            yield database


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """The database at `path` for a change; transactions are the caller's. Errors as `reading`."""
    with explained("opening the store"):
        database = _opened(path, "rw")
    with closing(database):
        database.execute("COMMIT")
        yield database


def untidy(database: sqlite3.Connection) -> None:
    """Say, within a change, that the file holds copies that have to go."""
    database.execute("PRAGMA user_version = 1")


def is_untidy(database: sqlite3.Connection) -> bool:
    """Whether :func:`untidy` was called, perhaps by a process that was killed, and :func:`tidy` was
    not since."""
    return bool(database.execute("PRAGMA user_version").fetchone()[0])


def tidy(database: sqlite3.Connection) -> None:
    """Make the file anew where it :func:`is_untidy`."""
    if is_untidy(database):
        database.execute("VACUUM")
        database.execute("PRAGMA user_version = 0")


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an error of SQLite inside the block into an EditorError, which says `what` was done;
    also the error of a text or number that it cannot hold."""
    try:
        yield
    except (sqlite3.DatabaseError, OverflowError, UnicodeError) as error:
        name = getattr(error, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            raise EditorError(
                f"no space left on the disk while {what}; nothing was changed",
                "make room, and run the command again",
            ) from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise EditorError(
                f"{what} failed: another process has held the store for {WAIT_S} s", "try again"
            ) from error
        hint = DAMAGED if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) else ""
        raise EditorError(f"{what} failed: {error}", hint) from error


def _opened(path: Path, mode: str) -> sqlite3.Connection:
    """A connection with a transaction begun, and the schema compared. Raises EditorError."""
    if not path.is_file():
        raise EditorError(f"{path} is missing", DAMAGED)
    foreign = EditorError(f"{path} is not the database of a store", DAMAGED)
    with atomic.explained("opening the store"):
        if _names_another_file(_unfinished(path)):
            raise foreign
    database = _connected(path, mode)
    try:
        database.execute("BEGIN")
        # Views and triggers of somebody else would run with our statements.
        held = database.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        journal = database.execute("PRAGMA journal_mode").fetchone()[0]
        known = (sorted(SCHEMA.items()), sorted(SIGNED.items()))
        if sorted(held) not in known or journal != "delete":
            raise foreign
    except BaseException:
        database.close()
        raise
    return database


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    database = sqlite3.connect(address, uri=True, timeout=WAIT_S, isolation_level=None)
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST_BYTES)
    pragmas = (
        *("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"),
        *("synchronous = EXTRA", "secure_delete = ON", f"cache_size = -{CACHE_KIB}"),
        "temp_store = MEMORY",
    )
    try:
        for pragma in pragmas:
            database.execute(f"PRAGMA {pragma}")
    except BaseException:
        database.close()
        raise
    return database


def _unfinished(path: Path) -> Path:
    """The journal with which a change that was cut off is rolled back."""
    return path.with_name(f"{path.name}-journal")


def _names_another_file(journal: Path) -> bool:
    """Whether SQLite would look into another file, and delete it, once `journal` is rolled back: a
    journal of several databases names one at its end, and no store writes such a journal."""
    try:
        with atomic.opened(journal) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - len(_MAGIC)))
            return file.read() == _MAGIC
    except FileNotFoundError:
        return False


@contextmanager
def _recovered(path: Path) -> Iterator[sqlite3.Connection]:
    """The database after the change that was cut off is rolled back, in the store itself where it
    can be written."""
    try:
        database = _opened(path, "rw")
    except sqlite3.OperationalError:
        with TemporaryDirectory() as folder:
            copy = Path(folder, path.name)
            shutil.copyfile(path, copy)
            shutil.copyfile(_unfinished(path), _unfinished(copy))
            with closing(_opened(copy, "rw")) as database:
                yield database
        return
    with closing(database):
        yield database
