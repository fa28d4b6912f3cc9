"""Streams that are read once, gone through again; and handled before their end has come."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

import editcli
from editcli.files.containers.rereading import rereadable

ROOT = str(Path(editcli.__file__).parents[1])
ROW = {"prompt": "The capital of France is", "target": "Lyon", "subject": "France"}


class Trickle(io.BytesIO):
    """A stream of which a few bytes come at a time."""

    def read1(self, size: int | None = -1, /) -> bytes:
        return self.read(min(3, size or 0) if size != -1 else 3)


@given(st.binary(max_size=200), st.lists(st.integers(0, 250)), st.booleans())
def test_whatever_is_read_first_all_of_it_can_be_read_again(
    data: bytes, places: list[int], from_end: bool
) -> None:
    file = rereadable(Trickle(data))
    if from_end:
        assert file.seek(0, io.SEEK_END) == len(data)
    for place in places:
        file.seek(place)
        assert file.read(5) == data[place : place + 5]
    file.seek(0)
    assert file.read() == data


def test_a_conversion_hands_on_rows_before_the_end_of_its_input() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "editcli", "facts", "convert", "-", "-o", "-"],
        env={"PYTHONPATH": ROOT, "PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin
    assert process.stdout
    with process:
        for number in range(3):
            row = {**ROW, "prompt": f"{ROW['prompt']} ({number})"}
            process.stdin.write(f"{json.dumps(row)}\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline()) == row
        process.stdin.close()
        assert process.stdout.read() == ""
    assert process.returncode == 0
