"""`editcli methods`: each method with what it promises, in text and as JSON."""

from __future__ import annotations

import json

from tiny_stores import run

from editors import METHODS


def test_methods_lists_each_method_with_its_promises() -> None:
    result = run("methods")
    assert (result.exit_code, result.stderr) == (0, "")
    head, *lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert head == ["method", "answers", "undo", "what it is", "cost"]
    assert [line[:3] for line in lines] == [
        ["ft-m", "always on", "retraining"],
        ["in-context", "routed", "exact"],
        ["wise", "routed", "exact"],
    ]
    for name, _, _, what, cost in lines:
        spec = METHODS.load(name)
        assert what == spec.title != ""
        assert cost == spec.cost != ""


def test_methods_as_json_has_every_setting_with_its_default() -> None:
    result = run("methods", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["method"] for record in records] == list(METHODS.names())
    keys = {"schema", "method", "title", "reference", "routed", "undo", "cost", "settings"}
    for record in records:
        assert set(record) == keys
        assert record["settings"] == METHODS.load(record["method"]).all_settings({})
    routed = {record["method"]: (record["routed"], record["undo"]) for record in records}
    assert routed == {
        "ft-m": (False, "retraining"),
        "in-context": (True, "exact"),
        "wise": (True, "exact"),
    }
    [wise] = [record for record in records if record["method"] == "wise"]
    assert (wise["settings"]["profile"], wise["settings"]["scope"]) == ("robust", "key")


def test_quiet_prints_names_that_init_takes() -> None:
    result = run("methods", "-q")
    assert (result.stdout, result.stderr) == ("ft-m\nin-context\nwise\n", "")


def test_methods_needs_no_store_and_takes_no_option_of_one() -> None:
    assert run("methods", "--store", "anywhere").exit_code == 2
