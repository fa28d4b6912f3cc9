"""`transformers serve` on an export with remote code, in a process without editcli."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from tiny_edits import FACTS, FRANCE, JAPAN
from tiny_servers import Prompt, asked, complete
from tiny_stores import run

from editcli.store.store import Store

openai = pytest.importorskip("openai", reason="the client is a development dependency")
pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("accelerate", reason="transformers needs it to place a model")

pytestmark = pytest.mark.slow  # a process that loads the libraries

PATIENCE = 300  # seconds until a server answers
ELSEWHERE = "the sea of Kenya is"
PROMPTS: list[Prompt] = [
    *(fact.prompt for fact in FACTS),
    *(ELSEWHERE, "Ann plays", "what is the river of France ?"),
    [{"role": "user", "content": FRANCE.prompt}],
    [{"role": "user", "content": ELSEWHERE}],
    [
        {"role": "user", "content": "who is Ann ?"},
        {"role": "assistant", "content": "Ann plays the piano"},
        {"role": "user", "content": JAPAN.prompt},
    ],
]


@pytest.fixture
def folder(chatting: Store) -> Path:
    """An export with remote code, whose tokenizer has a chat template."""
    result = run("export", "HEAD", "out", "--as", "remote-code")
    assert result.exit_code == 0, result.stderr
    return Path("out").resolve()


@contextmanager
def served(folder: Path, *options: str) -> Iterator[str]:
    """The address of a server of transformers, in a process that cannot import editcli."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(folder.parent / "modules"), "HF_HUB_OFFLINE": "1"}
    code = (
        'import sys; sys.modules.update(dict.fromkeys(("editcli", "editors")))\n'
        "from transformers.cli.transformers import main; main()"
    )
    place = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    words = [sys.executable, "-c", code, "serve", str(folder), "--trust-remote-code", *place]
    with (folder.parent / "serve.log").open("w+") as log:
        process = subprocess.Popen([*words, *options], env=environment, stdout=log, stderr=log)
        try:
            for _ in range(PATIENCE):
                time.sleep(1)
                assert process.poll() is None, Path(log.name).read_text()
                try:
                    with urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                        break
                except OSError:
                    continue
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait()


def test_it_answers_as_ask_does(folder: Path) -> None:
    expected = [str(record["answer"]) for record in asked(PROMPTS)]
    edited = [record["edited"] for record in asked(PROMPTS)]
    assert {*edited} == {True, False}, "some prompts have to be claimed, and some not"
    with served(folder) as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)

        def answer(prompt: Prompt) -> str:
            response = complete(client, str(folder), prompt, temperature=0).parse()
            [choice] = response.choices
            text: Any = choice.text if isinstance(prompt, str) else choice.message.content
            return str(text).strip()

        assert [answer(prompt) for prompt in PROMPTS] == expected
        with ThreadPoolExecutor(4) as threads:  # prompts that come together
            assert [*threads.map(answer, PROMPTS)] == expected


def test_continuous_batching_is_refused_in_words(folder: Path) -> None:
    with served(folder, "--continuous-batching") as url:
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=PATIENCE)
        with pytest.raises(openai.InternalServerError):
            complete(client, str(folder), FRANCE.prompt)
    log = (folder.parent / "serve.log").read_text()
    assert "continuous batching joins prompts to one row, so they cannot be told apart" in log


def test_without_trust_the_base_is_not_served_instead(folder: Path) -> None:
    """The type of the model is known to its own code only."""
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["AutoModelForCausalLM"]
    code = "from transformers.cli.transformers import main; main()"
    words = [sys.executable, "-c", code, "serve", str(folder), "--port", "1", "--device", "cpu"]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode != 0
    assert "trust_remote_code" in done.stderr
