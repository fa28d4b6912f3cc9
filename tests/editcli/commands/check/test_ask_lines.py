"""`editcli ask -`: a stream of prompts, answered one by one with one model."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from io import StringIO
from select import select
from typing import Any, TextIO

import pytest
from tiny_edits import FACTS, FRANCE, JAPAN
from tiny_stores import run

from editcli.app import app
from editcli.models import loading
from editcli.store.store import Store

DEADLINE = 60.0  # seconds
KENYA = "the sea of Kenya is"
TOO_LONG = "the " * 130 + "sea is"
Turn = dict[str, str]


def turns(*texts: str, system: str = "") -> list[Turn]:
    """A chat in which user and assistant say `texts` one after the other."""
    roles = ("user", "assistant")
    said = [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]
    return [*([{"role": "system", "content": system}] if system else []), *said]


def records(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def answers_to(*chats: Sequence[Turn], options: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The JSON of the answer to each chat, a line each."""
    result = run("ask", "-", "--json", *options, stdin="".join(f"{json.dumps(c)}\n" for c in chats))
    assert (result.exit_code, result.stderr) == (0, "")
    return records(result.stdout)


def test_each_line_is_answered_as_it_is_alone_with_one_model(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [*(fact.prompt for fact in FACTS), KENYA]
    alone = [records(run("ask", prompt, "--json").stdout)[0] for prompt in prompts]
    loaded: list[object] = []
    load = loading.load_weights

    def counted(*args: Any, **options: Any) -> Any:
        loaded.append(args)
        return load(*args, **options)

    monkeypatch.setattr(loading, "load_weights", counted)
    result = run("ask", "-", "--json", stdin="\n".join(prompts))
    assert (result.exit_code, result.stderr) == (0, "")
    expected = [{**record, "line": number} for number, record in enumerate(alone, start=1)]
    assert records(result.stdout) == expected
    assert len(loaded) == 1


def test_people_read_an_answer_a_line(edited: Store) -> None:
    prompts = f"{FRANCE.prompt}\r\n\n  \n{JAPAN.prompt}  \n"
    result = run("ask", "-", stdin=prompts)
    assert (result.exit_code, result.stdout) == (0, "Rome\nFrench\n")
    assert [line.partition(": ")[0] for line in result.stderr.splitlines()] == [
        f"side memory, shard 0, fact {FRANCE.id}",
        f"side memory, shard 0, fact {JAPAN.id}",
    ]
    quiet = run("ask", "-", "-q", stdin=prompts)
    assert (quiet.stdout, quiet.stderr) == ("Rome\nFrench\n", "")


def test_no_lines_have_no_answers(edited: Store) -> None:
    result = run("ask", "-", stdin="\n \n")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_lines_that_cannot_be_asked_are_named_and_the_others_answered(chatting: Store) -> None:
    lines = [
        FRANCE.prompt,
        TOO_LONG,
        "",
        json.dumps(turns("a", "b")),
        json.dumps([{"role": "user"}]),
        json.dumps([*turns("a"), 3]),
        '["the", "sea"]',  # no turns: a text like any other
        JAPAN.prompt,
    ]
    result = run("ask", "-", "--json", stdin="\n".join(lines))
    assert result.exit_code == 4
    answered = [record for record in records(result.stdout) if "answer" in record]
    assert [record["line"] for record in answered] == [1, 7, 8]
    assert [record["fact"] for record in answered] == [FRANCE.id, None, JAPAN.id]
    errors = [record for record in records(result.stdout) if "error" in record]
    told = [f"{record['line']}: {record['error']['message']}" for record in errors]
    assert [line[:40] for line in told] == [
        "2: a prompt has 133 tokens, and the mode",
        "4: the last turn has the role 'assistant",
        "5: turn 1: content: is required",
        "6: turn 2 is the number 3, not an object",
    ]


def test_the_options_hold_for_every_line(chatting: Store) -> None:
    options = ["--system", "Ann works .", "--context", "Bob sees Rome .", "--base"]
    options += ["--max-new-tokens", "5"]
    [alone] = records(run("ask", KENYA, *options, "--json").stdout)
    result = run("ask", "-", *options, "--json", stdin=f"{KENYA}\n{KENYA}\n")
    assert records(result.stdout) == [{**alone, "line": line} for line in (1, 2)]


def test_a_line_of_turns_is_a_chat(chatting: Store) -> None:
    [in_chat] = records(run("ask", KENYA, "--chat", "--json").stdout)
    [with_system] = records(run("ask", KENYA, "--system", "Ann works .", "--json").stdout)
    one, two = answers_to(turns(KENYA), turns(KENYA, system="Ann works ."))
    assert (one, two) == ({**in_chat, "line": 1}, {**with_system, "line": 2})
    assert one["answer"] != two["answer"]


def test_a_chat_keeps_its_own_system_turn(chatting: Store) -> None:
    own = turns(KENYA, system="Ann works .")
    plain, kept = answers_to(turns(KENYA), own, options=["--system", "Bob sees Paris ."])
    [given, alone] = answers_to(turns(KENYA, system="Bob sees Paris ."), own)
    assert (plain["answer"], kept["answer"]) == (given["answer"], alone["answer"])
    assert plain["answer"] != kept["answer"]


def test_a_later_turn_on_another_subject_is_not_the_earlier_ones(chatting: Store) -> None:
    about_kenya, about_france = answers_to(
        turns(FRANCE.prompt, "Rome", "the language of Kenya is"),
        turns("the language of Kenya is", "French", FRANCE.prompt),
    )
    assert about_kenya["fact"] is None
    assert about_france["score"] > about_kenya["score"]


def test_a_chat_needs_a_template(edited: Store) -> None:
    lines = [json.dumps(turns(KENYA)), FRANCE.prompt]
    result = run("ask", "-", stdin="\n".join(lines))
    assert (result.exit_code, result.stdout) == (4, "Rome\n")
    assert result.stderr.startswith("warning: <stdin>:1: the tokenizer has no chat template\n")


# --- as a conversation ------------------------------------------------------------------------


@pytest.fixture
def converse(
    edited: Store, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Callable[[TextIO, TextIO], None]], tuple[int, str]]]:
    """`converse(other)`: the exit code and stderr of `editcli ask - --json` that talks through
    pipes to `other(questions, given)`, which runs at the same time."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # may be ignored there

    def run_with(other: Callable[[TextIO, TextIO], None]) -> tuple[int, str]:
        (reads, asks), (hears, answers) = os.pipe(), os.pipe()
        monkeypatch.setattr(sys, "stderr", errors := StringIO())
        with (
            open(asks, "w") as questions,
            open(hears) as given,
            open(reads) as stdin,
            suppress(BrokenPipeError),  # of closing a pipe that nobody reads
            open(answers, "w") as stdout,
            ThreadPoolExecutor(1) as thread,
        ):
            monkeypatch.setattr(sys, "stdin", stdin)
            monkeypatch.setattr(sys, "stdout", stdout)
            talking = thread.submit(closing_on_error, other, questions, given)
            with pytest.raises(SystemExit) as ended:
                app(["ask", "-", "--json"])
            talking.result()
        return int(str(ended.value.code)), errors.getvalue()

    yield run_with
    signal.signal(signal.SIGINT, before)


def closing_on_error(other: Callable[..., None], questions: TextIO, given: TextIO) -> None:
    """`other(questions, given)`; where that fails, the command must not wait for more."""
    try:
        other(questions, given)
    except BaseException:
        questions.close()
        raise


def ask(questions: TextIO, given: TextIO, prompt: str) -> str:
    """The answer to `prompt`, which comes before another one is asked."""
    questions.write(f"{prompt}\n")
    questions.flush()
    assert select([given], [], [], DEADLINE)[0]
    return str(json.loads(given.readline())["answer"])


def test_ctrl_c_ends_the_stream_after_its_answers(converse: Any) -> None:
    said = []

    def other(questions: TextIO, given: TextIO) -> None:
        said.extend(ask(questions, given, fact.prompt) for fact in (FRANCE, JAPAN))
        main_thread = threading.main_thread().ident
        assert main_thread
        signal.pthread_kill(main_thread, signal.SIGINT)

    assert converse(other) == (130, ""), "the error is a record"
    assert said == ["Rome", "French"]


def test_a_reader_that_goes_away_ends_the_stream(converse: Any) -> None:
    said = []

    def other(questions: TextIO, given: TextIO) -> None:
        said.append(ask(questions, given, FRANCE.prompt))
        given.close()
        questions.write(f"{JAPAN.prompt}\n")
        questions.flush()

    assert converse(other) == (1, "")
    assert said == ["Rome"]
