"""GGUF files: their header, and copies that hold a part of a file.

A library takes seconds to read the vocabulary of a header, and reads it again for each thing that
it looks for. So whatever needs no vocabulary gets a copy without one, and the tokenizer gets a copy
without tensors.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from editors import EditorError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 counts in 32 bits
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
NUMBERS |= {12: "d"}
TEXT, ARRAY = 8, 9
ALIGNMENT = 32  # of the tensors, unless the header says otherwise
CHUNK = 1 << 24  # bytes that are copied at once
_VOCABULARY = "tokenizer."
_READABLE = "name a GGUF file that you may read"

Value = bool | int | float | str | list["Value"]


@dataclass(frozen=True, slots=True)
class Tensor:
    """An entry of the table of tensors. ``shape`` is as stored, the fastest dimension first;
    ``kind`` is the number of the type of its values; ``start`` counts the bytes from where the
    tensors begin."""

    name: str
    shape: tuple[int, ...]
    kind: int
    start: int

    @property
    def size(self) -> int:
        """The number of values."""
        return prod(self.shape)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """A GGUF file whose header has been read. ``metadata`` holds its keys and values, ``tensors``
    its table of tensors, and ``data_start`` is the byte at which the tensors begin."""

    path: Path
    metadata: Mapping[str, Value]
    tensors: Sequence[Tensor]
    data_start: int
    _version: int
    _entries: Mapping[str, bytes]  # each key with its value, as they stand in the file
    _table: bytes

    @classmethod
    def open(cls, path: Path) -> GgufFile:
        """Read the header of the file at ``path``.

        Raises:
            EditorError: the file cannot be read, is no GGUF file, is of a version that is not
                known, or ends within its header.
        """
        try:
            with path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise EditorError(f"{path} is not a GGUF file", _READABLE)
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    return cls._read(path, _Cursor(data))
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise EditorError(f"cannot read {path}: {reason}", _READABLE) from error
        except (struct.error, IndexError, ValueError, RecursionError) as error:
            raise EditorError(
                f"the header of {path} is cut short or damaged", "fetch the file again"
            ) from error

    @classmethod
    def _read(cls, path: Path, cursor: _Cursor) -> GgufFile:
        cursor.position = len(MAGIC)
        version = cursor.number("I")
        if version not in VERSIONS:
            raise EditorError(
                f"{path} is in version {version} of GGUF, which is not read",
                "fetch a newer file of the model: version 3 is the usual one",
            )
        tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
        metadata: dict[str, Value] = {}
        entries: dict[str, bytes] = {}
        for _ in range(key_count):
            start = cursor.position
            key = cursor.text()
            metadata[key] = cursor.value(cursor.number("I"))
            entries[key] = cursor.data[start : cursor.position]
        start = cursor.position
        tensors = tuple(cursor.tensor() for _ in range(tensor_count))
        table = cursor.data[start : cursor.position]
        data_start = _aligned(cursor.position, metadata)
        return cls(path, metadata, tensors, data_start, version, entries, table)

    @property
    def vocabulary_size(self) -> int | None:
        """The number of rows of the token embeddings; None if the file has none."""
        found = (
            tensor for tensor in self.tensors if tensor.name == "token_embd.weight" and tensor.shape
        )
        return next((tensor.shape[-1] for tensor in found), None)

    def write_outline(self, path: Path) -> None:
        """Write a copy to ``path`` whose vocabulary is empty, and whose tensors are a hole, which
        takes no room on most file systems. Raises OSError."""
        self._write(path, self._without_vocabulary(), self._table, len(self.tensors))
        os.truncate(path, path.stat().st_size + self.path.stat().st_size - self.data_start)

    def write_weights(self, path: Path) -> None:
        """Write a copy to ``path`` whose vocabulary is empty. Raises OSError."""
        self._write(path, self._without_vocabulary(), self._table, len(self.tensors))
        with self.path.open("rb") as source, path.open("ab") as copy:
            source.seek(self.data_start)
            shutil.copyfileobj(source, copy, CHUNK)

    def write_vocabulary(self, path: Path) -> None:
        """Write a copy to ``path`` without tensors. Raises OSError."""
        self._write(path, self._entries, b"", 0)

    def _without_vocabulary(self) -> dict[str, bytes]:
        return {
            key: _emptied(key) if self._is_vocabulary(key) else entry
            for key, entry in self._entries.items()
        }

    def _is_vocabulary(self, key: str) -> bool:
        return key.startswith(_VOCABULARY) and isinstance(self.metadata[key], list)

    def _write(self, path: Path, entries: Mapping[str, bytes], table: bytes, count: int) -> None:
        counts = struct.pack("<IQQ", self._version, count, len(entries))
        header = b"".join([MAGIC, counts, *entries.values(), table])
        path.write_bytes(header.ljust(_aligned(len(header), self.metadata), b"\0"))


@dataclass(slots=True)
class _Cursor:
    """Reads values one after the other."""

    data: mmap.mmap
    position: int = 0

    def number(self, code: str) -> int:
        return int(self.numbers(code, 1)[0])

    def numbers(self, code: str, count: int) -> tuple[int | float | bool, ...]:
        form = f"<{count}{code}"
        values = struct.unpack_from(form, self.data, self.position)
        self.position += struct.calcsize(form)
        return values

    def text(self) -> str:
        length = self.number("Q")
        start, self.position = self.position, self.position + length
        if self.position > len(self.data):
            raise IndexError
        return self.data[start : self.position].decode(errors="replace")

    def value(self, kind: int) -> Value:
        if kind == TEXT:
            return self.text()
        if kind != ARRAY:
            return self.numbers(_code(kind), 1)[0]
        kind, count = self.number("I"), self.number("Q")
        if kind in NUMBERS:
            return list(self.numbers(_code(kind), count))
        return [self.value(kind) for _ in range(count)]

    def tensor(self) -> Tensor:
        name = self.text()
        shape = tuple(map(int, self.numbers("Q", self.number("I"))))
        return Tensor(name, shape, self.number("I"), self.number("Q"))


def _code(kind: int) -> str:
    if kind not in NUMBERS:
        raise ValueError(f"no such type: {kind}")
    return NUMBERS[kind]


def _emptied(key: str) -> bytes:
    """The entry of ``key`` as an array of no texts."""
    name = key.encode()
    return struct.pack(f"<Q{len(name)}sIIQ", len(name), name, ARRAY, TEXT, 0)


def _aligned(position: int, metadata: Mapping[str, Value]) -> int:
    """The first byte from ``position`` on at which tensors may begin."""
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"no alignment: {alignment!r}")
    return -(-position // alignment) * alignment
