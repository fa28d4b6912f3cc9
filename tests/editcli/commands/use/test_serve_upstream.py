"""`editcli serve --upstream`: a store in front of engines that know nothing of edits."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from tiny_edits import FACTS
from tiny_servers import (
    TOKENS,
    asked,
    complete,
    read,
    require_answers_of_ask,
    serving,
    shuffled,
)
from tiny_stores import run, save_facts
from tiny_upstreams import (
    CHATS,
    EDITED,
    ELSEWHERE,
    HAMLET,
    ITALY,
    PERU,
    PROMPTS,
    AdapterEngine,
    Recorder,
    answering,
    free_port,
    fronting,
    needs_encoder,
)

from editcli.cli.options import Invocation
from editcli.store.store import Store
from editors import EditorError
from editors.heads.pruning import Head, HeadMask, HeadPruning

openai = pytest.importorskip("openai", reason="the client is a development dependency")
for _package in ("fastapi", "httpx"):
    pytest.importorskip(_package, reason="the extra `serve` is not installed")


# --- answers --------------------------------------------------------------------------------------


@needs_encoder
def test_in_context_in_front_of_the_base_answers_as_ask_does(in_context: Store) -> None:
    with (
        serving(in_context) as engine,
        fronting(in_context, engine.url, model="base") as front,
        front.client() as client,
    ):
        require_answers_of_ask(client, shuffled(["HEAD", "base", "v0001"], PROMPTS, 48), 16)


@needs_encoder
@pytest.mark.parametrize("naming", ["name", "llama.cpp"])
def test_adapters_answer_as_the_shards_that_they_were_made_of(
    low_rank: Store, atlas: Path, tmp_path: Path, naming: str
) -> None:
    pytest.importorskip("peft", reason="the extra `peft` is not installed")
    exported = run("export", "HEAD", str(tmp_path / "export"), "--as", "lora", "--device", "cpu")
    assert exported.exit_code == 0, exported.stderr
    engine = AdapterEngine(atlas, tmp_path / "export")
    assert len(engine.names) == len(EDITED)
    with (
        answering(engine) as url,
        fronting(low_rank, url, adapters=naming) as front,
        front.client() as client,
    ):
        require_answers_of_ask(client, shuffled(["HEAD", "base"], PROMPTS, 24), 16)
        prompts = [HAMLET.prompt, ELSEWHERE, ITALY.prompt, PERU.prompt]
        options = {"model": front.name, "prompt": prompts, "max_tokens": TOKENS}
        together = client.completions.create(**options)
        alone = [complete(client, front.name, prompt).parse() for prompt in prompts]
        texts = [one.choices[0].text for one in alone]
        assert [choice.text for choice in together.choices] == texts
        assert [choice.index for choice in together.choices] == [*range(4)]
        tokens = sum(one.usage.completion_tokens for one in alone)
        assert together.usage.completion_tokens == tokens
        facts = [decision["fact"] for decision in together.editcli["decisions"]]
        assert facts == [HAMLET.id, None, ITALY.id, PERU.id]
        streamed, used = dict.fromkeys(range(4), ""), []
        for chunk in client.completions.create(
            **options, stream=True, stream_options={"include_usage": True}
        ):
            used += [chunk.usage] if chunk.usage else []
            for choice in chunk.choices:
                streamed[choice.index] += choice.text
        assert [*streamed.values()] == texts
        assert [usage.completion_tokens for usage in used] == [tokens]


@needs_encoder
@pytest.mark.slow
def test_the_server_of_transformers_answers_as_ask_does(in_context: Store, atlas: Path) -> None:
    port = free_port()
    words = ["serve", str(atlas), "--device", "cpu", "--dtype", "float32", "--port", str(port)]
    code = "from transformers.cli.transformers import main; main()"
    expected = asked(PROMPTS)
    with subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as engine:
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            with (
                fronting(in_context, f"http://127.0.0.1:{port}/v1", model=str(atlas)) as front,
                front.client() as client,
            ):
                for stream in (False, True):
                    found = [
                        read(complete(client, front.name, prompt, stream=stream, temperature=0))
                        for prompt in PROMPTS
                    ]
                    answers = [text.strip() for text, _, _ in found]
                    assert answers == [record["answer"] for record in expected]
                    facts = [decision["fact"] for _, _, decision in found]
                    assert facts == [record["fact"] for record in expected]
        finally:
            engine.terminate()


def wait_for(url: str) -> None:
    """Return once there is a page at `url`."""
    deadline = time.monotonic() + 300
    while True:
        try:
            with urlopen(url):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.2)


@needs_encoder
def test_no_weights_of_the_base_are_needed(in_context: Store, atlas: Path) -> None:
    weights = atlas / "model.safetensors"
    with serving(in_context) as engine:
        hidden = weights.rename(atlas / "hidden")
        try:
            with fronting(in_context, engine.url, model="base") as front, front.client() as client:
                claimed = read(complete(client, front.name, HAMLET.prompt))[2]
        finally:
            hidden.rename(weights)
    assert claimed["fact"] == HAMLET.id


# --- stores and options ---------------------------------------------------------------------------


def test_a_store_that_needs_the_base_is_refused_with_the_next_step(
    tmp_path: Path, model_folder: Path, calibration: Path
) -> None:
    by_states, low_rank = ["--scope", "key"], ["--set", "memory=low-rank"]
    refused = {
        ("--method", "in-context", *by_states): ("scope signal 'key' decides", "--scope sentence"),
        (*by_states, *low_rank): ("scope signal 'key' decides", "--scope sentence"),
        (*by_states, *low_rank, "--set", "merge_every=2"): ("merged by 2", "merge_every=0"),
        (*by_states,): ("memory=masked", "--set memory=low-rank"),
        ("--method", "ft-m"): ("edits of ft-m cannot be put in front", "--as merged"),
    }
    for number, (options, (reason, hint)) in enumerate(refused.items()):
        place = ["--store", str(tmp_path / str(number)), "--calibration", str(calibration)]
        made = run("init", str(model_folder), *options, *place)
        assert made.exit_code == 0, made.stderr
        with (
            pytest.raises(EditorError) as caught,
            fronting(Store.open(tmp_path / str(number)), "http://127.0.0.1:1/v1"),
        ):
            pass
        assert reason in caught.value.message
        assert hint in caught.value.hint


@needs_encoder
def test_a_version_with_pruned_heads_is_refused(in_context: Store) -> None:
    from editcli.operations.session import Session

    session = Session.open(Invocation(store=in_context.path, device="cpu"), in_context)
    state = session.state()
    pruning = HeadPruning("memory", HeadMask((Head(1, 0),)), state.edits)
    with in_context.writing("editcli conflict resolve") as change:
        session.publish(change, "resolve", state, replace(state, pruning=pruning))
    result = run("serve", "--upstream", "http://127.0.0.1:1/v1", "--port", "0")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "error: heads are pruned in this version" in result.stderr
    assert "hint: `editcli undo --heads`" in result.stderr
    with (
        fronting(in_context, "http://127.0.0.1:1/v1", "v0002", model="m") as front,
        front.client() as client,
        pytest.raises(openai.InternalServerError, match="heads are pruned in this version"),
    ):
        complete(client, "HEAD", HAMLET.prompt)


# --- running --------------------------------------------------------------------------------------


@needs_encoder
def test_an_adapter_that_the_upstream_lacks_is_an_error_and_not_an_answer(
    low_rank: Store, recorder: Recorder, capfd: pytest.CaptureFixture[str]
) -> None:
    for naming in ("name", "llama.cpp"):

        async def without(request: Any, naming: str = naming) -> Any:
            if request.url.path == "/lora-adapters":
                return [{"id": 0, "path": "shard-00010.gguf"}, {"id": 1, "path": "my-shard-0009"}]
            return await recorder(request)

        with (
            answering(without) as url,
            fronting(low_rank, url, adapters=naming) as front,
            front.client() as client,
        ):
            with pytest.raises(openai.InternalServerError) as failed:
                complete(client, front.name, HAMLET.prompt)
            assert (failed.value.status_code, failed.value.code) == (503, "adapter_missing")
            assert "the upstream has no adapter shard-0000" in failed.value.message
            assert complete(client, front.name, ELSEWHERE).parse().choices[0].text == "yes"
            assert [model.id for model in client.models.list()] == [
                *(front.name, "base", "v0002", "the-base")
            ]
            other = complete(client, "v0001", ELSEWHERE).parse()  # without edits, so without shards
            assert other.editcli["version"] == "v0001"
        said = capfd.readouterr().err
        assert "warning: the upstream lacks 3 adapters, such as shard-0000" in said
    weights = [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.0}]
    assert recorder.bodies[-1]["lora"] == weights
    assert recorder.bodies[-1]["cache_prompt"] is False


@needs_encoder
def test_adapters_of_one_version_answer_for_no_other(low_rank: Store, recorder: Recorder) -> None:
    assert run("undo", PERU.id).exit_code == 0
    with (
        answering(recorder) as url,
        fronting(low_rank, url) as front,
        front.client() as client,
    ):
        with pytest.raises(openai.BadRequestError, match="only v0003 can be asked"):
            complete(client, "v0002", PERU.prompt)
        reply = complete(client, "v0003", PERU.prompt).parse()
    [decision] = reply.editcli["decisions"]
    assert (decision["edited"], decision["fact"], decision["closed"]) == (False, None, True)


@needs_encoder
def test_reload_takes_a_new_version_and_drops_no_request(
    in_context: Store, recorder: Recorder
) -> None:
    with (
        answering(recorder) as url,
        fronting(in_context, url, reload=True) as front,
        front.client() as client,
    ):
        over, seen = threading.Event(), set[tuple[str, bool]]()

        def ask_on() -> None:
            while not over.is_set():
                reply = complete(client, front.name, "The capital of Chile is").parse()
                seen.add((reply.editcli["version"], reply.editcli["decisions"][0]["edited"]))

        with ThreadPoolExecutor(4) as threads:
            asking = [threads.submit(ask_on) for _ in range(4)]
            made = run("edit", "The capital of Chile is", "Arica", "-s", "Chile", "--device", "cpu")
            assert made.exit_code == 0, made.stderr
            deadline = time.monotonic() + 30
            while ("v0003", True) not in seen and time.monotonic() < deadline:
                time.sleep(0.05)
            over.set()
            for one in asking:
                one.result()  # none was dropped
    assert seen == {("v0002", False), ("v0003", True)}


@needs_encoder
def test_metrics_count_claims_and_the_tokens_of_the_upstream(
    in_context: Store, recorded: tuple[Any, str]
) -> None:
    client, name = recorded
    for prompt in (HAMLET.prompt, CHATS[0], ELSEWHERE):
        complete(client, name, prompt)
    with urlopen(str(client.base_url).removesuffix("/v1/") + "/metrics") as page:
        lines = page.read().decode().splitlines()
    for counted in (
        'editcli_requests_total{path="/v1/completions",status="200"} 2',
        f'editcli_claims_total{{fact="{HAMLET.id}"}} 2',
        'editcli_answers_total{version="v0002"} 3',
        'editcli_tokens_total{kind="prompt"} 21',
        'editcli_tokens_total{kind="completion"} 3',
    ):
        assert counted in lines


def test_a_prompt_that_cannot_be_read_fails_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    toy_package: Path,
    model_folder: Path,
    recorder: Recorder,
) -> None:
    """Chats, beside texts, for a tokenizer that has no chat template; with a signal of another
    package."""
    monkeypatch.chdir(tmp_path)
    facts = save_facts(tmp_path / "facts.jsonl", FACTS)
    made = run("init", str(model_folder), "--method", "in-context", "--scope", "toy-encoder")
    assert made.exit_code == 0, made.stderr
    assert run("apply", str(facts)).exit_code == 0
    store = Store.open(tmp_path / ".editcli")
    with answering(recorder) as url, fronting(store, url) as front, front.client() as client:

        def ask(number: int) -> str | None:
            text = FACTS[number % 4].prompt
            if number % 3:
                return str(read(complete(client, front.name, text))[2]["fact"])
            with pytest.raises(openai.BadRequestError, match="no chat template"):
                complete(client, front.name, [{"role": "user", "content": text}])
            return None

        with ThreadPoolExecutor(16) as threads:
            found = [*threads.map(ask, range(48))]
    assert found == [None if n % 3 == 0 else FACTS[n % 4].id for n in range(48)]
