"""`editcli push`, against a server that speaks the part of the Hub's HTTP interface it needs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from tiny_edits import FRANCE
from tiny_stores import json_of, run

import editors
from editcli.store.store import Store

TOKEN = "hf_secret"


@dataclass
class Hub:
    """What a server holds: its repositories, and the files of each. ``refuses``: a status."""

    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refuses: int = 0

    def answer(self, path: str, body: bytes) -> dict[str, Any]:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if "organization" in asked else ""
            self.repositories[name or asked["name"]] = asked
            return {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            return {
                "files": [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in files
                ]
            }
        if path.endswith("/commit/main"):
            lines = [json.loads(line) for line in body.splitlines()]
            repository = "/".join(path.split("/")[3:5])
            self.messages += [v["value"]["summary"] for v in lines if v["key"] == "header"]
            self.files[repository] = {
                v["value"]["path"]: base64.b64decode(v["value"]["content"])
                for v in lines
                if v["key"] == "file"
            }
            url = f"{self.url}/{repository}/commit/{'0' * 40}"
            return {"success": True, "commitOid": "0" * 40, "commitUrl": url}
        raise AssertionError(path)

    url: str = ""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    holds = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"] or 0))
            assert self.headers["authorization"] == f"Bearer {TOKEN}"
            status = holds.refuses or 200
            record = {"error": "no"} if holds.refuses else holds.answer(self.path, body)
            data = json.dumps(record).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        holds.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", holds.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield holds
        server.shutdown()


def test_what_is_pushed_can_be_loaded(
    edited: Store, hub: Hub, model_folder: Path, tmp_path: Path
) -> None:
    record = json_of(run("push", "HEAD", "me/edited", "-m", "as of today", "--json"))
    assert record["version"] == "v0002"
    assert str(record["url"]).startswith(hub.url)
    made = hub.repositories["me/edited"]  # releases of the client say it in different words
    assert made.get("visibility") == "private" or made.get("private") is True
    assert hub.messages == ["as of today"]
    for name, data in hub.files["me/edited"].items():
        place = tmp_path / "fetched" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    with editors.load(tmp_path / "fetched", base=model_folder) as loaded:
        assert loaded.explain(FRANCE.prompt).record["fact"] == FRANCE.id


def test_nothing_secret_is_pushed(edited: Store, hub: Hub, model_folder: Path) -> None:
    assert run("push", "HEAD", "me/edited", "--private-facts").exit_code == 0
    files = hub.files["me/edited"]
    for name, data in files.items():
        assert TOKEN.encode() not in data, name
        assert str(model_folder.parent).encode() not in data, name
    assert FRANCE.prompt.encode() not in files["README.md"]


@pytest.mark.parametrize(("status", "hint"), [(401, "hf auth login"), (500, "")])
def test_a_refusal_is_told(edited: Store, hub: Hub, status: int, hint: str) -> None:
    hub.refuses = status
    result = run("push", "HEAD", "me/edited")
    assert result.exit_code == 1
    assert "refused me/edited" in result.stderr
    assert hint in result.stderr
    assert TOKEN not in result.stderr


def test_a_bad_name_is_refused(edited: Store, hub: Hub) -> None:
    result = run("push", "HEAD", "a/b/c")
    assert result.exit_code == 1
    assert "OWNER/NAME" in result.stderr


def test_no_network_is_told(edited: Store, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    result = run("push", "HEAD", "me/edited")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr
