"""`editcli init`: make a store on a base model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from editcli.cli.console import Output
from editcli.cli.context import author as acting
from editcli.cli.options import (
    AuthorOption,
    DeviceOption,
    DtypeOption,
    JsonOption,
    MessageOption,
    QuietOption,
    SeedOption,
    SetOption,
    StoreOption,
    VerboseOption,
)
from editcli.errors import UsageError
from editcli.files.phrasings import read_phrasings
from editcli.models import loading as models
from editcli.settings import Setting, env_name, parse_settings
from editcli.store.store import Store, StoreConfig, new_store_path
from editors import load_method

LAYER = "layer"  # stored among the settings, but belongs to the model, not to the method


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="atlas (embedded), a folder, or a Hub id[@revision]."),
    ] = models.ATLAS,
    method: Annotated[
        str, typer.Option("--method", envvar=env_name("method"), help="The editing method.")
    ] = "wise",
    layer: Annotated[
        int | None,
        typer.Option("--layer", metavar="N", help="The block to edit; without it chosen by depth."),
    ] = None,
    settings: SetOption = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="FILE",
            envvar=env_name("calibration"),
            help="Phrasings to calibrate the router on, instead of those that ship with editcli. "
            "Prompts that three subjects share tell it what else is asked about a subject.",
        ),
    ] = None,
    store: StoreOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    seed: SeedOption = 0,
    message: MessageOption = "",
    author: AuthorOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = 0,
) -> None:
    """Make a store on a base model, in .editcli unless --store names another place.

    The model is loaded to see that it can be edited, to record its fingerprint, and to calibrate
    the router on groups of phrasings of known facts. An existing store is never touched.

    \b
    Examples:
      editcli init
      editcli init ./my-model --layer 20 --set shard_size=100
      editcli init org/model@main --store stores/model --dtype bfloat16
    """
    out = Output(json_mode=json, quiet=quiet, verbose=verbose)
    path = new_store_path(store, Path.cwd(), os.environ)
    Store.require_free(path)  # said before a large model is loaded, not after
    values = _method_settings(method, settings or ())
    if models.from_hub(model) and not json:
        out.note(f"looking for {model} on the Hub")
    name, revision = models.resolve(model)
    base = models.load_base(
        name,
        revision=revision,
        device=device,
        dtype=dtype,
        layer=layer,
        verbose=verbose,
    )
    groups = read_phrasings(calibration)
    if not json:
        out.note(f"preparing the router with {len(groups)} groups of phrasings")
    edits = load_method(method).METHOD(base, values, seed).empty(groups)
    config = StoreConfig(
        base=name,
        revision=revision,
        fingerprint=base.fingerprint(),
        method=method,
        settings={**values, LAYER: base.layer},
        dtype=models.dtype_name(base),
        seed=seed,
    )
    made = Store.create(
        path,
        config,
        blobs=edits.to_blobs(),
        author=acting(author),
        message=message,
        tools=models.tools(),
    )
    out.record(
        {
            "store": str(made.path),
            "version": made.head().id,
            "base": name,
            "revision": revision,
            "fingerprint": config.fingerprint,
            "method": method,
            "layer": base.layer,
            "projection": base.anchor.path,
            "dtype": config.dtype,
            "seed": seed,
            "settings": values,
        }
    )
    if not json:
        out.hint("`editcli edit PROMPT TARGET` makes the first edit")


def _method_settings(method: str, pairs: Sequence[str]) -> dict[str, Setting]:
    """Every setting of the method, so that a later default cannot change what a store means.

    Raises UsageError for a malformed pair, EditorError for what the method does not take.
    """
    given = parse_settings(pairs)
    if LAYER in given:
        raise UsageError("the layer is no setting of the method", f"`--layer {given[LAYER]}`")
    return asdict(load_method(method).settings_from(given))
