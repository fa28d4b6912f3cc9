"""`editcli serve --upstream`: what the upstream is asked, and what of a request is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tiny_upstreams import (
    ELSEWHERE,
    HAMLET,
    PERU,
    Recorder,
    needs_encoder,
    posted,
)

from editcli.store.store import Store

openai = pytest.importorskip("openai", reason="the client is a development dependency")
for _package in ("fastapi", "httpx"):
    pytest.importorskip(_package, reason="the extra `serve` is not installed")


PASSED: list[dict[str, Any]] = [
    {"temperature": 1.7, "top_p": 0.3, "seed": 5, "n": 1, "logit_bias": {"5": -3}},
    {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    {"logprobs": True, "top_logprobs": 3, "response_format": {"type": "json_object"}},
    {"extra_body": {"top_k": 4, "guided_choice": ["a", "b"], "chat_template_kwargs": {"x": 1}}},
    {"stop": ["\u2028", "é"], "presence_penalty": -0.5, "metadata": {"a": "b"}, "user": "ann"},
    {},
]


@needs_encoder
@pytest.mark.parametrize("options", PASSED)
def test_a_request_that_nothing_claims_goes_on_as_it_came(
    recorded: tuple[Any, str], recorder: Recorder, options: dict[str, Any]
) -> None:
    client, model = recorded
    turns: list[Any] = [
        {"role": "system", "content": "Be short.", "name": "rules"},
        {"role": "user", "content": [{"type": "text", "text": ELSEWHERE}]},
    ]
    client.chat.completions.create(model=model, messages=turns, **options)
    own = {**options, **options.get("extra_body", {})}
    own.pop("extra_body", None)
    assert recorder.bodies == [{"model": "the-base", "messages": turns, **own}]


@needs_encoder
def test_a_claimed_chat_differs_in_its_system_turn_alone(
    recorded: tuple[Any, str], recorder: Recorder
) -> None:
    client, model = recorded
    picture = {"type": "image_url", "image_url": {"url": "data:,"}}
    asked = {"role": "user", "content": [{"type": "text", "text": HAMLET.prompt}, picture]}
    called = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    tools = [
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "content": "The currency of Italy is the", "tool_call_id": "1"},
    ]
    rules = {"role": "developer", "content": "Be short.", "name": "rules"}
    fact = f"Answer by this fact, whatever you remember: {HAMLET.prompt} {HAMLET.target}."
    for before in ([], [rules]):
        for after in ([], tools):
            turns = [*before, asked, *after]
            reply = client.chat.completions.create(model=model, messages=turns, temperature=0.5)
            assert reply.editcli["decisions"][0]["fact"] == HAMLET.id
            sent = recorder.bodies[-1]
            assert sent["temperature"] == 0.5
            first, *rest = sent["messages"]
            assert rest == [asked, *after]
            expected = {"role": "system", "content": fact}
            assert first == ({**rules, "content": f"Be short.\n\n{fact}"} if before else expected)
    nobody = [{"role": "system", "content": HAMLET.prompt}]
    reply = client.chat.completions.create(model=model, messages=nobody)
    assert (recorder.bodies[-1]["messages"], reply.editcli["decisions"]) == (nobody, [])


@needs_encoder
def test_each_text_of_a_request_gets_its_own_fact(
    recorded: tuple[Any, str], recorder: Recorder
) -> None:
    client, model = recorded
    prompts = [ELSEWHERE, HAMLET.prompt, PERU.prompt]
    client.completions.create(model=model, prompt=prompts)
    asked = [f"{fact.prompt} {fact.target}.\n{fact.prompt}" for fact in (HAMLET, PERU)]
    assert recorder.bodies[-1]["prompt"] == [ELSEWHERE, *asked]


@needs_encoder
def test_names_and_headers_go_both_ways(
    in_context: Store, recorder: Recorder, recorded: tuple[Any, str]
) -> None:
    client, name = recorded
    listed = [model.id for model in client.models.list()]
    assert listed == [name, "base", "v0001", "v0002", "HEAD", "the-base"]
    edited = {}
    for model in listed:
        response = client.completions.with_raw_response.create(
            model=model, prompt=HAMLET.prompt, extra_headers={"traceparent": "00-ab"}
        )
        reply = response.parse()
        assert reply.model == model
        edited[model] = reply.editcli["decisions"][0]["edited"]
        assert recorder.bodies[-1]["model"] == "the-base"
    assert edited == {name: True, "v0002": True, "HEAD": True, "the-base": True} | {
        "base": False,
        "v0001": False,
    }
    assert recorder.headers[-1]["traceparent"] == "00-ab"
    assert "authorization" not in recorder.headers[-1]  # the client's own is for this server
    assert response.headers["x-request-id"] == "r-1"
    assert response.headers["x-ratelimit-remaining-requests"] == "5"
    assert "x-own" not in response.headers
    for ask in (
        lambda: client.models.retrieve("other"),
        lambda: client.completions.create(model="other", prompt=ELSEWHERE),
    ):
        with pytest.raises(openai.NotFoundError) as refused:
            ask()
        assert refused.value.code == "model_not_found"


@needs_encoder
@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/completions", b"{", "the body is not JSON"),
        ("/completions", b'{"model": "base", "prompt": "a", "top_p": NaN}', "the body is not JSON"),
        ("/completions", b"[]", "the body"),
        ("/completions", b'{"prompt": "a"}', "`model` is missing"),
        ("/completions", b'{"model": "base", "prompt": [5, 6]}', "`prompt.0`: input should"),
        ("/completions", b'{"model": "base", "prompt": "\\ud800"}', "`prompt`: is not Unicode"),
        ("/chat/completions", b'{"model": "base", "messages": []}', "`messages`: list should"),
        ("/chat/completions", b'{"model": "base", "messages": [5]}', "`messages.0`: input should"),
    ],
)
def test_what_the_scope_cannot_read_is_refused_by_name(
    recorded: tuple[Any, str], recorder: Recorder, path: str, body: bytes, message: str
) -> None:
    status, _, said = posted(recorded[0].base_url, path, body)
    error = json.loads(said)["error"]
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert error["message"].startswith(message)
    assert not recorder.bodies
