"""`editcli serve`: what the real client of OpenAI's API gets from a real server."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from tiny_edits import FACTS, FRANCE, FRANCE_AGAIN, JAPAN
from tiny_servers import (
    LONG,
    TALK,
    TOKENS,
    Prompt,
    Server,
    asked,
    complete,
    read,
    require_answers_of_ask,
    serving,
    shuffled,
)
from tiny_stores import content, place_of, run

import editcli
from editcli.store.store import Store

openai = pytest.importorskip("openai", reason="the client is a development dependency")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

ELSEWHERE = "the sea of Kenya is"
CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": FRANCE.prompt}],
    [{"role": "system", "content": "who is it"}, {"role": "user", "content": ELSEWHERE}],
    [
        {"role": "user", "content": "who is Ann ?"},
        {"role": "assistant", "content": "Ann plays the piano"},
        {"role": "user", "content": JAPAN.prompt},
    ],
]
PROMPTS: list[Prompt] = [
    *(fact.prompt for fact in FACTS),
    *(ELSEWHERE, "Ann plays", "what is the river of France ?", "Bob"),
    *CHATS,
]


@pytest.fixture
def server(chatting: Store) -> Iterator[Server]:
    """Of the store with four facts, whose tokenizer has a chat template."""
    with serving(chatting) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with server.client() as client:
        yield client


def test_mixed_requests_at_once_are_answered_as_ask_answers_each(client: Any) -> None:
    require_answers_of_ask(client, shuffled(["HEAD", "base", "v0001"], PROMPTS, 80), 16)


@pytest.mark.parametrize("method", ["in-context", "ft-m"])
def test_every_method_is_served(edited_by: Callable[[str], Store], method: str) -> None:
    prompts = [prompt for prompt in PROMPTS if isinstance(prompt, str)]
    with serving(edited_by(method)) as server, server.client() as client:
        require_answers_of_ask(client, shuffled(["HEAD", "base", "v0001"], prompts, 20), 8)


def test_models_are_the_store_its_versions_and_the_base(edited: Store, chat_model: Path) -> None:
    assert run("tag", "good", "v0001").exit_code == 0
    with serving(edited) as server, server.client() as client:
        listed = [model.id for model in client.models.list()]
        assert listed == [server.name, "base", "v0001", "v0002", "HEAD", "good"]
        assert server.name == edited.path.parent.name
        assert client.models.retrieve("good").id == "good"
        texts = {name: read(complete(client, name, FRANCE.prompt))[0] for name in listed}
        assert texts[server.name] == texts["v0002"] == FRANCE.target
        assert texts["base"] == texts["v0001"] == texts["good"] != FRANCE.target
        for ask in (
            lambda: complete(client, "better", FRANCE.prompt),
            lambda: client.models.retrieve("better"),
        ):
            with pytest.raises(openai.NotFoundError) as refused:
                ask()
            assert refused.value.code == "model_not_found"
            for name in (server.name, "base", "v0001 to v0002", "good"):
                assert name in refused.value.message


def test_a_version_that_is_named_is_the_one_that_is_served(edited: Store) -> None:
    with serving(edited, "v0001") as server, server.client() as client:
        response = complete(client, server.name, FRANCE.prompt)
        assert response.parse().editcli["version"] == "v0001"
        assert read(response)[2]["edited"] is False


def test_serving_writes_nothing_and_waits_for_no_writer(chatting: Store) -> None:
    before = content(chatting.path)
    with (
        chatting.writing("editcli apply monday.jsonl"),
        serving(chatting, reload=True) as server,
        server.client() as client,
    ):
        assert read(complete(client, server.name, FRANCE.prompt))[0] == FRANCE.target
    assert content(chatting.path) == before


# --- what a request may ask ----------------------------------------------------------------------


def test_usage_counts_the_tokens_of_prompt_and_answer(client: Any, server: Server) -> None:
    for stream in (False, True):
        options: dict[str, Any] = {"stream": stream}
        if stream:
            options["stream_options"] = {"include_usage": True}
        for prompt, tokens in ((FRANCE.prompt, 6), (CHATS[0], 7)):
            parsed = complete(client, server.name, prompt, **options).parse()
            usage = [*parsed][-1].usage if stream else parsed.usage
            # "Rome" and the token that ends the answer.
            assert (usage.prompt_tokens, usage.completion_tokens) == (tokens, 2)
            assert usage.total_tokens == tokens + 2


def test_several_prompts_are_routed_each_by_itself(client: Any, server: Server) -> None:
    prompts = [ELSEWHERE, FRANCE.prompt, JAPAN.prompt]
    response = client.completions.with_raw_response.create(
        model=server.name, prompt=prompts, n=2, max_tokens=TOKENS
    )
    parsed = response.parse()
    expected = [record["answer"] for record in asked(prompts) for _ in range(2)]
    assert [choice.text for choice in parsed.choices] == expected
    assert [choice.index for choice in parsed.choices] == [*range(6)]
    decided = [decision["fact"] for decision in parsed.editcli["decisions"]]
    assert decided == [None, FRANCE.id, JAPAN.id]
    assert response.headers["x-editcli-facts"] == f"{FRANCE.id},{JAPAN.id}"


def test_a_seed_repeats_samples_and_choices_differ(client: Any, server: Server) -> None:
    def sampled(seed: int, **options: Any) -> list[str]:
        parsed = complete(
            client, server.name, ELSEWHERE, temperature=1.5, n=4, seed=seed, **options
        ).parse()
        return [choice.text for choice in parsed.choices]

    first = sampled(1)
    assert len({*first}) > 1
    with ThreadPoolExecutor(8) as threads:  # beside others
        others = [*threads.map(sampled, [1, 2, 3, 1])]
    assert others[0] == others[3] == first
    assert first not in others[1:3]
    greedy = asked([ELSEWHERE])[0]["answer"]
    assert sampled(1, top_p=0.0) == [greedy] * 4


def test_a_stop_ends_an_answer_before_it(client: Any, server: Server) -> None:
    words = asked([ELSEWHERE])[0]["answer"].split()
    stop = next(
        word for word in words if word not in words[: words.index(word)] and word != words[0]
    )
    for stream in (False, True):
        text, reason, _ = read(
            complete(client, server.name, ELSEWHERE, stop=["never", stop], stream=stream)
        )
        assert (text.split(), reason) == (words[: words.index(stop)], "stop")


def test_an_answer_ends_at_its_length(client: Any, server: Server) -> None:
    parsed = complete(client, server.name, ELSEWHERE, max_tokens=3).parse()
    assert parsed.choices[0].finish_reason == "length"
    assert parsed.usage.completion_tokens == 3
    assert parsed.choices[0].text == asked([ELSEWHERE], "--max-new-tokens", "3")[0]["answer"]


UNSUPPORTED: list[dict[str, Any]] = [
    *({"presence_penalty": 0.5}, {"frequency_penalty": -1}, {"logit_bias": {"5": 1.0}}),
    *({"temperature": -1}, {"temperature": 2.5}, {"top_p": 1.5}, {"n": 0}, {"seed": -1}),
    *({"max_tokens": 0}, {"stop": ["a", "b", "c", "d", "e"]}, {"stop": ""}),
    {"stream_options": {"include_usage": True}},
    *({"extra_body": {"top_k": 5}}, {"extra_body": {"best_of": 3}}),
    *({"logprobs": 2}, {"echo": True}, {"suffix": "the end"}),
]
UNSUPPORTED_CHATS: list[dict[str, Any]] = [
    {"tools": [{"type": "function", "function": {"name": "f"}}]},
    {"response_format": {"type": "json_object"}},
    {"logprobs": True},
    {"max_tokens": 4, "max_completion_tokens": 5},
    {"messages": []},
    {"messages": [{"role": "tool", "content": "a", "tool_call_id": "b"}]},
    {"messages": [*CHATS[0], {"role": "assistant", "content": "the"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]},
    {"messages": [{"role": "user", "content": 5}]},
]


def test_what_is_not_supported_is_refused_by_name(client: Any, server: Server) -> None:
    def refusal(ask: Callable[..., Any], **options: Any) -> Any:
        with pytest.raises(openai.BadRequestError) as refused:
            ask(model=server.name, **options)
        assert refused.value.type == "invalid_request_error"
        return refused.value

    for options in UNSUPPORTED:
        error = refusal(client.completions.create, **{"prompt": ELSEWHERE, **options})
        name = next(iter(options.get("extra_body", options)))
        assert name in error.message
    for options in UNSUPPORTED_CHATS:
        messages = options.get("messages", CHATS[0])
        error = refusal(client.chat.completions.create, **{**options, "messages": messages})
        assert next(iter(options)) in error.message or "last message" in error.message
    for prompt in ([5, 6, 7], [], 5, ["a"] * 1025):
        assert "prompt" in refusal(client.completions.create, prompt=prompt).message
    too_long = refusal(client.completions.create, prompt="the " * 130 + "sea is")
    assert too_long.code == "context_length_exceeded"
    assert "a prompt has 133 tokens, and the model takes 128" in too_long.message


def test_values_that_ask_for_nothing_are_taken(client: Any, server: Server) -> None:
    nothing: dict[str, Any] = {"presence_penalty": 0, "frequency_penalty": 0.0, "user": "ann"}
    nothing |= {"logit_bias": {}, "stop": None, "seed": None, "n": 1, "top_p": 1}
    [text] = [record["answer"] for record in asked([ELSEWHERE])]
    more = {"echo": False, "suffix": None, "best_of": 1, "logprobs": None}
    assert read(complete(client, server.name, ELSEWHERE, **nothing, **more))[0] == text
    parts = [{**CHATS[0][0], "content": [{"type": "text", "text": FRANCE.prompt}]}]
    more = {"tools": [], "response_format": {"type": "text"}, "logprobs": False, "store": False}
    expected = asked(CHATS[:1])[0]["answer"]
    assert read(complete(client, server.name, parts, **nothing, **more))[0] == expected
    called_system = [{**CHATS[1][0], "role": "developer"}, CHATS[1][1]]
    assert read(complete(client, server.name, called_system))[0] == asked(CHATS[1:2])[0]["answer"]


def test_without_a_chat_template_chats_are_refused(edited: Store) -> None:
    with serving(edited) as server, server.client() as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError, match="no chat template"):
                complete(client, server.name, CHATS[0], stream=stream)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/completions", b"{", 400, "the body is not JSON"),
        ("/completions", b"[]", 400, "the body"),
        ("/completions", b'{"prompt": "a"}', 400, "`model` is missing"),
        (
            "/completions",
            b'{"model": "base", "prompt": "\\ud800"}',
            400,
            "`prompt`: is not Unicode",
        ),
        ("/completions", b'{"model": "base", "prompt": ["a", 5]}', 400, "`prompt.1`: input should"),
        ("/embeddings", b"{}", 404, "POST /v1/embeddings: not found"),
        ("/completions", None, 405, "GET /v1/completions: method not allowed"),
    ],
)
def test_errors_that_no_client_makes_have_the_same_form(
    server: Server, path: str, body: bytes | None, status: int, message: str
) -> None:
    place = urlsplit(server.url)
    connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
    method = "GET" if body is None else "POST"
    connection.request(method, f"/v1{path}", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    error = json.load(response)["error"]
    connection.close()
    assert response.status == status
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["message"].startswith(message)


def test_a_stream_is_server_sent_events_and_the_decision_comes_before_the_text(
    client: Any, server: Server
) -> None:
    with client.chat.completions.with_streaming_response.create(
        model=server.name, messages=CHATS[0], stream=True
    ) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        decided = response.headers["x-editcli-facts"]
        events = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in events)
    assert events[-1] == "data: [DONE]"
    chunks = [json.loads(line.removeprefix("data: ")) for line in events[:-1]]
    first = chunks[0]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert decided == (first["editcli"]["decisions"][0]["fact"] or "")
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1


# --- running --------------------------------------------------------------------------------------


def test_metrics_count_requests_and_claims(client: Any, server: Server) -> None:
    for prompt in (FRANCE.prompt, FRANCE.prompt, JAPAN.prompt, ELSEWHERE):
        complete(client, server.name, prompt)
    with pytest.raises(openai.NotFoundError):
        complete(client, "better", ELSEWHERE)
    with urlopen(server.url.removesuffix("/v1") + "/metrics") as page:
        assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
        lines = page.read().decode().splitlines()
    for line in lines:
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+\{(\w+="[^"]*",?)*\} \d+', line)
    for counted in (
        'editcli_requests_total{path="/v1/completions",status="200"} 4',
        'editcli_requests_total{path="/v1/completions",status="404"} 1',
        f'editcli_claims_total{{fact="{FRANCE.id}"}} 2',
        f'editcli_claims_total{{fact="{JAPAN.id}"}} 1',
        'editcli_answers_total{version="v0002"} 4',
    ):
        assert counted in lines


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_nobody_waits_for_is_given_up(talkative: Store, stream: bool) -> None:
    with serving(talkative) as server, server.client() as client:
        place = urlsplit(server.url)
        body = {"model": server.name, "prompt": TALK, "max_tokens": LONG, "stream": stream}
        connection = http.client.HTTPConnection(str(place.hostname), place.port, timeout=60)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        if stream:
            assert connection.getresponse().read(100)
        else:
            time.sleep(0.5)  # it has begun
        connection.close()
        assert read(complete(client, server.name, TALK, max_tokens=1))[1] == "length"


def test_reload_takes_a_new_version_and_drops_no_request(edited: Store) -> None:
    options = (FRANCE.prompt, FRANCE_AGAIN.target, "-s", "France", "--device", "cpu")
    with serving(edited, reload=True) as server, server.client() as client:
        over = threading.Event()
        seen: list[tuple[str, str]] = []

        def ask_on() -> None:
            while not over.is_set():
                parsed = complete(client, server.name, FRANCE.prompt, stream=False).parse()
                seen.append((parsed.editcli["version"], parsed.choices[0].text))

        with ThreadPoolExecutor(4) as threads:
            asking = [threads.submit(ask_on) for _ in range(4)]
            assert run("edit", *options).exit_code == 0
            deadline = time.monotonic() + 20
            while ("v0003", FRANCE_AGAIN.target) not in seen and time.monotonic() < deadline:
                time.sleep(0.05)
            over.set()
            for one in asking:
                one.result()  # none was dropped
        assert {*seen} == {("v0002", FRANCE.target), ("v0003", FRANCE_AGAIN.target)}
        assert read(complete(client, "v0002", FRANCE.prompt))[0] == FRANCE.target
        assert run("checkout", "v0001").exit_code == 0
        deadline = time.monotonic() + 20
        while complete(client, server.name, ELSEWHERE).parse().editcli["version"] != "v0001":
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_without_reload_the_version_stays(edited: Store) -> None:
    with serving(edited) as server, server.client() as client:
        assert run("checkout", "v0001").exit_code == 0
        time.sleep(1)
        assert read(complete(client, server.name, FRANCE.prompt))[0] == FRANCE.target


def test_a_new_version_that_is_damaged_is_not_served(
    edited: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("checkout", "v0001").exit_code == 0
    place_of(edited, "shard-0000.safetensors", "v0002").write_bytes(b"changed")
    with serving(edited, reload=True) as server, server.client() as client:
        assert run("checkout", "v0002").exit_code == 0
        said = ""
        deadline = time.monotonic() + 20
        while "still serving v0001" not in said and time.monotonic() < deadline:
            time.sleep(0.05)
            said += capfd.readouterr().err
        assert "warning: still serving v0001: " in said
        assert "is damaged" in said
        parsed = complete(client, server.name, ELSEWHERE).parse()
        assert parsed.editcli["version"] == "v0001"
        with pytest.raises(openai.InternalServerError, match="is damaged"):
            complete(client, "v0002", ELSEWHERE)


# --- the command ----------------------------------------------------------------------------------


def start(*options: str) -> subprocess.Popen[str]:
    """`editcli serve --port 0` as a program of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "editcli", "serve", "--port", "0", *options],
        env={**os.environ, "PYTHONPATH": str(Path(editcli.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    "ending", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_the_command_says_where_it_listens_and_ends_when_told(
    edited: Store, ending: signal.Signals
) -> None:
    with start("--json") as program:
        assert program.stdout is not None
        said = json.loads(program.stdout.readline())
        assert said.keys() == {"schema", "url", "model", "version"}
        with Server(said["url"], said["model"]).client() as client:
            text, _, _ = read(complete(client, said["model"], FRANCE.prompt))
        program.send_signal(ending)
        out, err = program.communicate(timeout=60)
    assert text == FRANCE.target
    assert (program.returncode, out, err) == (0, "", "")


def test_a_port_in_use_is_named_before_the_model_is_loaded(edited: Store) -> None:
    with serving(edited) as server:
        port = str(urlsplit(server.url).port)
        result = run("serve", "--port", port)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(
        f"error: cannot listen on port {port} of 127.0.0.1: it is in use"
    )
    assert "hint: `--port 0` takes a free port" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--version", "good"], "no version is called 'good'"),
        (["--host", "192.0.2.1"], "cannot listen on port 8000 of 192.0.2.1"),
    ],
)
def test_what_cannot_be_served_is_named(edited: Store, options: list[str], message: str) -> None:
    result = run("serve", *options)
    assert result.exit_code in (1, 2)
    assert message in result.stderr
    assert "hint: " in result.stderr


@pytest.mark.parametrize("package", ["fastapi", "uvicorn"])
def test_without_the_extra_the_hint_is_to_install_it(
    edited: Store, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    from importlib.util import find_spec

    found = lambda name: None if name == package else find_spec(name)  # noqa: E731
    monkeypatch.setattr("editcli.models.libraries.find_spec", found)
    result = run("serve")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"needs the package {package}" in result.stderr
    assert "hint: `pip install 'editcli[serve]'`" in result.stderr
