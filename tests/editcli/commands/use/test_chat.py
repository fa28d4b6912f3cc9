"""`editcli chat`: turns are answered as `ask` answers them, and corrections become versions."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny_edits import FRANCE, FRANCE_AGAIN, JAPAN
from tiny_servers import LONG, TALK, TOKENS, asked
from tiny_stores import blobs_in, changed_by, content, json_of, run

import editcli
from editcli.store.edits import edits_of
from editcli.store.store import Store

SHORT = ("--max-new-tokens", str(TOKENS))
QUESTIONS = [FRANCE.prompt, "who is Ann ?", JAPAN.prompt, "Bob lives in"]
PLAIN_NOTE = "the model has no chat template: it is asked plain, each turn by itself\n"


def chat(lines: Sequence[str], *options: str) -> Any:
    return run("chat", *SHORT, *options, stdin="".join(f"{line}\n" for line in lines))


def records_of(lines: Sequence[str], *options: str, code: int = 0) -> list[dict[str, Any]]:
    """The records of a chat of these lines, by JSON."""
    result = chat(lines, "--json", *options)
    assert result.exit_code == code, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def turns_of(questions: Sequence[str], answers: Sequence[str], system: str | None) -> list[Any]:
    """The chat that leads to the last of ``questions``."""
    said: list[Any] = [] if system is None else [{"role": "system", "content": system}]
    for question, answer in zip(questions[:-1], answers, strict=False):
        said += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*said, {"role": "user", "content": questions[-1]}]


@pytest.mark.parametrize("system", [None, "who is it"])
def test_each_turn_is_answered_as_ask_answers_all_turns_so_far(
    chatting: Store, system: str | None
) -> None:
    options = [] if system is None else ["--system", system]
    found = records_of(QUESTIONS, *options)
    assert [record.pop("line") for record in found] == [1, 2, 3, 4]
    answers = [record["answer"] for record in found]
    assert len({*answers}) > 1
    chats = [turns_of(QUESTIONS[: n + 1], answers, system) for n in range(len(QUESTIONS))]
    assert found == asked(chats)
    first = json_of(run("ask", QUESTIONS[0], "--chat", "--json", *SHORT, *options))
    assert first == found[0]


def test_people_read_the_answers_alone(chatting: Store) -> None:
    result = chat(QUESTIONS)
    assert result.stdout.splitlines() == [record["answer"] for record in records_of(QUESTIONS)]
    assert {*result.stderr.splitlines()} <= {
        "the answer is cut off; `--max-new-tokens` sets how long it may be"
    }


def test_without_a_chat_template_each_turn_is_asked_plain_and_it_says_so_once(
    edited: Store,
) -> None:
    found = records_of(QUESTIONS)
    assert [{k: v for k, v in record.items() if k != "line"} for record in found] == asked(
        QUESTIONS
    )
    result = chat(QUESTIONS, "--quiet")
    assert result.stdout.splitlines() == [record["answer"] for record in found]
    assert chat(QUESTIONS).stderr.count(PLAIN_NOTE) == 1
    refused = chat(QUESTIONS, "--system", "who is it")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "has no chat template" in refused.stderr
    later = chat(["/system who is it", FRANCE.prompt])
    assert (later.exit_code, later.stdout) == (4, "Rome\n")
    assert "<stdin>:1: the model has no chat template, so there is no system turn" in later.stderr


def test_a_version_answers_and_the_base_beside_it(edited: Store) -> None:
    base = json_of(run("ask", FRANCE.prompt, "--base", "--json", *SHORT))
    found = records_of([FRANCE.prompt, "/base", JAPAN.prompt])
    assert [record["answer"] for record in found] == ["Rome", base["answer"], JAPAN.target]
    assert {**found[1], "line": 2} == {**base, "line": 2}
    assert chat([FRANCE.prompt], "--version", "v0001").stdout == f"{base['answer']}\n"


def test_why_says_what_ask_says(edited: Store) -> None:
    for prompt in (FRANCE.prompt, "the river of France is"):
        why = run("ask", prompt, *SHORT).stderr.splitlines()[-1]
        assert chat([prompt, "/why"]).stdout.splitlines()[1:] == [why]
        [_, record] = records_of([prompt, "/why"])
        assert record == {"schema": 2, "line": 2, "why": [why]}


def test_a_system_turn_and_a_new_chat_change_what_the_model_sees(chatting: Store) -> None:
    lines = [QUESTIONS[1], "/system who is it", QUESTIONS[2], "/new", QUESTIONS[3], "/system"]
    found = [record["answer"] for record in records_of([*lines, "/new", QUESTIONS[0]])]
    chats = [
        turns_of([QUESTIONS[1]], [], None),
        turns_of(QUESTIONS[1:3], found[:1], "who is it"),
        turns_of([QUESTIONS[3]], [], "who is it"),
        turns_of([QUESTIONS[0]], [], None),
    ]
    assert found == [record["answer"] for record in asked(chats)]


def test_help_lists_every_command_and_quit_reads_no_further(edited: Store) -> None:
    result = chat(["/help", "/quit", FRANCE.prompt])
    assert result.exit_code == 0
    listed = [line.split()[0] for line in result.stdout.splitlines()]
    assert listed == ["/system", "/base", "/why", "/edit", "/new", "/help", "/quit", "//..."]
    told = chat([name for name in listed if name.isalpha()])
    assert told.exit_code == 0


def test_lines_that_cannot_be_answered_are_named_and_left_out(edited: Store) -> None:
    lines = ["/bse", "/why", "/base", "/edit Lima", "the " * 130, "", FRANCE.prompt, "//sea"]
    result = chat(lines)
    assert result.exit_code == 4
    assert result.stdout.splitlines()[0] == "Rome"
    assert len(result.stdout.splitlines()) == 2
    for number, message in (
        (1, "there is no command /bse"),
        (2, "nothing has been asked yet"),
        (3, "nothing has been asked yet"),
        (4, "nothing has been asked yet"),
        (5, "a prompt has 131 tokens, and the model takes 128 with its answer"),
    ):
        assert f"warning: <stdin>:{number}: {message}" in result.stderr
    [*_, record] = records_of(["//sea"])
    assert record["answer"] == asked(["/sea"])[0]["answer"]


# --- corrections ----------------------------------------------------------------------------------


def test_a_correction_is_a_version_that_answers_from_then_on(edited: Store) -> None:
    lines = [FRANCE.prompt, f"/edit {FRANCE_AGAIN.target} -s France", FRANCE.prompt, "/why"]
    result = chat(lines, "--author", "ann", "-m", "Rome was wrong")
    assert result.exit_code == 0, result.stderr
    before, done, fact, after, why = result.stdout.splitlines()
    assert (before, after) == (FRANCE.target, FRANCE_AGAIN.target)
    assert done.startswith("v0003: edited in place of an older edit in ")
    assert fact == f"fact {FRANCE_AGAIN.id}"
    assert f"fact {FRANCE_AGAIN.id}" in why
    head = edited.head()
    assert (head.id, head.operation, head.who) == ("v0003", "edit", "ann")
    assert head.message == "Rome was wrong"
    assert changed_by(edited) == {"added": (FRANCE_AGAIN.id,), "superseded": (FRANCE.id,)}
    assert edits_of(edited).find(FRANCE_AGAIN.id).subject == "France"
    assert edited.verify() == []
    assert run("ask", FRANCE.prompt).stdout == f"{FRANCE_AGAIN.target}\n"


def test_a_correction_is_the_version_that_edit_makes(edited: Store) -> None:
    other = Store.open(Path(shutil.copytree(edited.path, "other")))
    said = ["the sea of Spain is", "red", "-s", "Spain", "--author", "ann"]
    assert run("edit", *said, "--store", str(other.path)).exit_code == 0
    lines = [FRANCE.prompt, JAPAN.prompt, said[0], f"/edit {' '.join(said[1:4])}"]
    assert chat(lines, *said[4:]).exit_code == 0
    assert blobs_in(edited) == blobs_in(other)


def test_a_correction_stands_in_the_turns(chatting: Store) -> None:
    lines = [FRANCE.prompt, "/edit Lima -s France", "Bob lives in"]
    first, edit, second = records_of(lines)
    assert edit["version"] == "v0003"
    assert edit["line"] == 2
    assert first["answer"] != "Lima"
    [expected] = asked([turns_of([FRANCE.prompt, "Bob lives in"], ["Lima"], None)])
    assert {**expected, "line": 3} == second


def test_without_a_subject_a_hint_says_what_is_missed(edited: Store) -> None:
    result = chat(["the sea is", "/edit red"])
    assert result.exit_code == 0
    assert "hint: without a subject" in result.stderr
    assert "`/edit ANSWER -s SUBJECT` names what the fact is about" in result.stderr
    [fact] = [fact for fact in edits_of(edited).in_force() if fact.prompt == "the sea is"]
    assert (fact.target, fact.subject) == ("red", None)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ("/edit", "target: must not be empty"),
        ("/edit Lima -s Franc", "subject: 'Franc' does not occur in the prompt"),
        ("/edit Rome </s>", "target: '</s>' is a special token of the model"),
    ],
)
def test_a_correction_that_is_no_fact_changes_nothing_and_the_chat_goes_on(
    edited: Store, edit: str, message: str
) -> None:
    before = content(edited.path)
    result = chat([FRANCE.prompt, edit, FRANCE.prompt])
    assert (result.exit_code, result.stdout) == (4, "Rome\nRome\n")
    assert f"warning: <stdin>:2: {message}" in result.stderr
    assert content(edited.path) == before


def test_a_locked_store_cannot_be_corrected_and_says_by_whom(edited: Store) -> None:
    with edited.writing("editcli apply monday.jsonl"):
        result = chat([FRANCE.prompt, "/edit Lima -s France", FRANCE.prompt])
    assert (result.exit_code, result.stdout) == (4, "Rome\nRome\n")
    assert "store is locked by pid " in result.stderr
    assert edited.head().id == "v0002"


def test_only_head_is_corrected(edited: Store) -> None:
    lines = [FRANCE.prompt, "/edit Lima -s France"]
    result = chat(lines, "--version", "v0001")
    assert result.exit_code == 4
    assert "this chat is with v0001, and an edit would change v0002" in result.stderr
    assert "`editcli checkout v0001`" in result.stderr
    assert edited.head().id == "v0002"


# --- on a terminal --------------------------------------------------------------------------------


STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # what moves a cursor or changes colours


class Terminal:
    """`editcli chat` on a terminal of its own."""

    def __init__(self, *options: str) -> None:
        import fcntl
        import pty
        import termios

        self._side, theirs = pty.openpty()
        root = str(Path(editcli.__file__).parents[1])
        self._program = subprocess.Popen(
            [sys.executable, "-m", "editcli", "chat", *options],
            env={**os.environ, "PYTHONPATH": root, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self._seen = ""

    def type(self, keys: str) -> None:
        os.write(self._side, keys.encode())

    def until(self, text: str, seconds: float = 60) -> str:
        """What is shown up to ``text``, which must come."""
        import select

        deadline = time.monotonic() + seconds
        while text not in self._seen:
            assert time.monotonic() < deadline, self._seen
            if select.select([self._side], [], [], 0.1)[0]:
                self._seen += os.read(self._side, 4096).decode()
                self._seen = STEERING.sub("", self._seen)
        shown, _, self._seen = self._seen.partition(text)
        return shown

    def ended(self) -> int:
        return self._program.wait(60)


UP, ENTER, CTRL_C, CTRL_D = "\x1b[A", "\r", "\x03", "\x04"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no terminals of this kind")
def test_on_a_terminal_lines_are_edited_and_ctrl_c_stops_an_answer(talkative: Store) -> None:
    begun = json_of(run("ask", TALK, "--json", "--max-new-tokens", "10"))["answer"]
    terminal = Terminal("--max-new-tokens", str(LONG))
    terminal.until("Ctrl-D leaves")
    terminal.until(">")
    terminal.type(f"{TALK}{ENTER}")
    terminal.until(begun)
    terminal.type(CTRL_C)
    terminal.until("stopped")
    terminal.until(">")
    terminal.type(f"{UP}{ENTER}")  # the same again
    terminal.until(begun)
    terminal.type(CTRL_C)
    terminal.until("stopped")
    terminal.until(">")
    terminal.type(f"Ann plays{CTRL_C}")  # throws the line away
    terminal.until(">")
    terminal.type(CTRL_D)
    assert terminal.ended() == 0


@pytest.mark.slow
def test_ctrl_c_while_lines_are_piped_interrupts(edited: Store) -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "editcli", "chat"],
        env={**os.environ, "PYTHONPATH": str(Path(editcli.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with program:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(f"{FRANCE.prompt}\n")
        program.stdin.flush()
        assert program.stdout.readline() == "Rome\n"
        # The end of the input would end it as well, so the input stays open. Python drops an
        # interrupt that comes while it frees an object; a user would press the keys once more.
        for _ in range(20):
            program.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                program.wait(timeout=3)
                break
        assert program.returncode == 130
        assert program.stderr is not None
        assert program.stderr.read().endswith("error: interrupted\n")
