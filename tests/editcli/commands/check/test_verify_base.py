"""`editcli verify` names every change of a store and of its base, and nothing that changes no
answer."""

from __future__ import annotations

import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import save_adapter
from tiny_edits import FAST
from tiny_stores import PARIS, run, shard

from editcli.store.changes import Changes
from editcli.store.store import Store

OTHER_KEYS: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "hidden_act": "gelu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": True,
    "model_type": "mistral",
    "rope_parameters.rope_theta": 5e5,
    "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
    "rope_parameters.factor": 2.0,
    "quantization_config.quant_method": "awq",
}
"""Keys of the configuration of a Llama that change what it computes, with another value."""

HARMLESS: dict[str, Any] = {
    "_name_or_path": "somewhere/else",
    "transformers_version": "5.0.0",
    "use_cache": False,
    "torch_dtype": "bfloat16",
    "dtype": "bfloat16",
    "_attn_implementation": "eager",
    "pad_token_id": 9,
    "bos_token_id": 9,
    "architectures": ["Other"],
    "initializer_range": 0.3,
    "attention_dropout": 0.5,
    "output_attentions": False,
    "output_hidden_states": False,
    "return_dict": True,
    "problem_type": None,
    "id2label": {"0": "a", "1": "b"},
    "label2id": {"a": 0, "b": 1},
    "pretraining_tp": 2,
    "task_specific_params": {"a": 1},
    "chunk_size_feed_forward": 0,
    "unheard_of": {"a": [1]},
    "rope_scaling": None,
    "sliding_window_of_another_family": 4,
    "finetuning_task": "x",
    "_commit_hash": "f" * 40,
}


@pytest.fixture
def sound(model_folder: Path, calibration: Path, here: Path) -> Store:
    """A store on the model in the folder `mine`, with one fact."""
    shutil.copytree(model_folder, "mine")
    return store_on("mine", calibration)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def store_on(folder: str, calibration: Path, *options: str) -> Store:
    settings = [f"--set={key}={value}" for key, value in FAST.items()]
    words = [folder, "--calibration", str(calibration), *settings, *options]
    made = run("init", *words, "--device", "cpu")
    assert made.exit_code == 0, made.stderr
    store = Store.open(Path(".editcli").absolute())
    with store.writing() as change:
        change.publish("edit", Changes([PARIS], blobs=shard(0, [PARIS])))
    return store


def verified(*options: str) -> list[str]:
    result = run("verify", "--device", "cpu", *options)
    assert result.exit_code in (0, 1), result.stderr
    lines = result.stdout.splitlines()
    return lines if result.exit_code else []


def with_key(path: Path, key: str, value: object) -> None:
    values = json.loads(path.read_text())
    *above, last = key.split(".")
    inner = values
    for name in above:
        inner = inner.setdefault(name, {})
    inner[last] = value
    path.write_text(json.dumps(values))


# --- every change is named ------------------------------------------------------------------

Case = tuple[Path, Callable[[Path], None], str]
"""A file, a change of it, and what the line that names it begins with."""


def flips(path: Path, named: str, count: int, seed: int) -> Iterator[Case]:
    chance = random.Random(seed)
    for _ in range(count):
        place, bit = chance.randrange(path.stat().st_size), 1 << chance.randrange(8)

        def flip(file: Path, place: int = place, bit: int = bit) -> None:
            data = bytearray(file.read_bytes())
            data[place] ^= bit
            file.write_bytes(data)

        yield path, flip, named


def other_keys(path: Path) -> Iterator[Case]:
    for key, value in OTHER_KEYS.items():

        def other(file: Path, key: str = key, value: object = value) -> None:
            with_key(file, key, value)

        yield path, other, f"base model: {key}"


def other_cells(path: Path) -> Iterator[Case]:
    """One for each value in the database."""
    with closing(sqlite3.connect(path)) as base:
        for table in ("event", "record"):
            columns = [row[1] for row in base.execute(f"PRAGMA table_info({table})")]
            for number in range(base.execute(f"SELECT count(*) FROM {table}").fetchone()[0]):
                for column in columns[1:]:
                    statement = f"UPDATE {table} SET {column} = 'zz' WHERE rowid = {number + 1}"

                    def execute(file: Path, statement: str = statement) -> None:
                        with closing(sqlite3.connect(file, isolation_level=None)) as changed:
                            for value in ("'zz'", "77", "x'7a'"):  # of the type that is wanted
                                with suppress(sqlite3.IntegrityError):
                                    changed.execute(statement.replace("'zz'", value))
                                    return

                    yield path, execute, "store.db: "


def other_config(path: Path) -> Iterator[Case]:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if " = " not in line or line.startswith("format"):
            continue
        key, value = line.split(" = ")
        other = {"true": "false", "false": "true"}.get(value)
        other = other or (f'{value[:-1]}x"' if value.endswith('"') else f"1{value}")

        def write(file: Path, at: int = number, text: str = f"{key} = {other}") -> None:
            file.write_text("\n".join([*lines[:at], text, *lines[at + 1 :], ""]))

        yield path, write, "config.toml: "


def cases(store: Store) -> dict[str, list[Case]]:
    """200 changes, by what they change."""
    mine, chance = Path("mine"), random.Random(5)
    blobs = sorted((store.path / "blobs").iterdir())
    of_blobs = [case for p in blobs for case in flips(p, f"blobs/{p.name}", 20, 3)]
    tokenizers = ("tokenizer.json", "tokenizer_config.json")
    found = {
        "weights": [*flips(mine / "model.safetensors", "base model: model.safetensors has", 40, 1)],
        "tokenizer": [
            case
            for name in tokenizers
            for case in flips(mine / name, f"base model: {name} has", 20, 2)
        ],
        "structure": [*other_keys(mine / "config.json")],
        "blobs": chance.sample(of_blobs, 20),
        "config": [*other_config(store.path / "config.toml")][:40],
    }
    left = 200 - sum(map(len, found.values()))
    found["database"] = chance.sample([*other_cells(store.path / "store.db")], left)
    return found


def unnamed(chosen: list[Case]) -> list[tuple[str, list[str]]]:
    """The changes that are not named, each made by itself."""
    missed = []
    for path, change, named in chosen:
        before = path.read_bytes()
        change(path)
        # What the base is has nothing to do with a change of the store, and takes long.
        said = verified(*([] if path.parts[0] == "mine" else ["--no-base"]))
        path.write_bytes(before)
        if not any(line.startswith(named) for line in said):
            missed.append((named, said))
    return missed


def test_changes_of_every_kind_are_named(sound: Store) -> None:
    chance = random.Random(0)
    chosen = [case for found in cases(sound).values() for case in chance.sample(found, 3)]
    assert unnamed(chosen) == []
    assert verified() == []


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weights", "tokenizer", "structure", "blobs", "config"])
def test_each_of_200_changes_is_named(sound: Store, what: str) -> None:
    found = cases(sound)
    assert sum(map(len, found.values())) == 200
    assert unnamed(found[what]) == []


@pytest.mark.slow
def test_each_change_of_the_database_is_named(sound: Store) -> None:
    assert unnamed(cases(sound)["database"]) == []


def test_a_key_is_named_with_both_values_and_the_base_is_refused(sound: Store) -> None:
    with_key(Path("mine/config.json"), "rope_parameters.rope_theta", 5e5)
    assert verified() == [
        "base model: rope_parameters.rope_theta is 500000.0, and 10000.0 is recorded"
    ]
    asked = run("ask", PARIS.prompt, "--device", "cpu")
    assert asked.exit_code == 1
    assert "rope_parameters.rope_theta is 500000.0, and 10000.0 is recorded" in asked.stderr


def test_the_tokens_that_end_a_text_are_part_of_the_structure(sound: Store) -> None:
    Path("mine/generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert verified() == ["base model: eos_token_id is [2, 7], and 2 is recorded"]


@pytest.mark.skipif(util.find_spec("peft") is None, reason="peft is not installed")
def test_an_adapter_and_the_base_below_it_are_named(
    model_folder: Path, calibration: Path, here: Path
) -> None:
    shutil.copytree(model_folder, "below")
    adapter = save_adapter(Path("adapter"), Path("below").absolute())
    store_on("adapter", calibration)
    path = adapter / "adapter_config.json"
    before = path.read_bytes()
    with_key(path, "lora_alpha", 99)
    assert any(line.startswith("base model: adapter.lora_alpha is 99, and") for line in verified())
    path.write_bytes(before)
    weights, named = Path("below/model.safetensors"), "base model: base/model.safetensors has"
    [(_, flip, _)] = flips(weights, named, 1, 9)
    before = weights.read_bytes()
    flip(weights)
    assert any(line.startswith(named) for line in verified())
    weights.write_bytes(before)
    save_adapter(adapter, Path("below").absolute(), seed=1)
    assert any(line.startswith("base model: adapter_model.safetensors") for line in verified())


# --- what changes no answer is accepted -----------------------------------------------------


def test_harmless_keys_are_accepted(sound: Store) -> None:
    for key, value in HARMLESS.items():
        with_key(Path("mine/config.json"), key, value)
    assert verified() == []


@pytest.mark.slow
@pytest.mark.parametrize("key", sorted(HARMLESS))
def test_each_harmless_key_is_accepted(sound: Store, key: str) -> None:
    with_key(Path("mine/config.json"), key, HARMLESS[key])
    assert verified() == []


def test_a_configuration_that_is_saved_anew_is_accepted(sound: Store) -> None:
    from transformers import AutoConfig

    AutoConfig.from_pretrained("mine").save_pretrained("mine")
    assert verified() == []
