"""A base as a store would record it, compared with the one that a store has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from editcli.models.loading import code_of
from editcli.models.locations import find_model, resolve
from editcli.models.recorded.base_files import differing, digests_of
from editcli.models.recorded.structure import Structure, differences, structure_of
from editcli.store.files.digests import remembered_digests
from editcli.store.records import Choice, StoreConfig


@dataclass(frozen=True, slots=True)
class FoundBase:
    """A base, by what :class:`~editcli.store.records.StoreConfig` says of one."""

    base: str
    revision: str
    adapter: Choice
    remote_code: str
    files: dict[str, str]
    structure: Structure

    @staticmethod
    def of(model: str, adapter: Choice, *, trusts_code: bool) -> FoundBase:
        """The base called ``model``, as the user writes it; no weights are loaded. ``adapter``:
        what the user says of an adapter beside weights; ``trusts_code``: whether code that comes
        with the model may be run.

        Raises:
            EditorError: there is no such model, or it cannot be a base.
        """
        name, revision = resolve(model)
        code = code_of(name, revision, adapter) if trusts_code else ""
        with remembered_digests() as known:
            files = digests_of(find_model(name, revision), adapter, known)
        structure = structure_of(name, revision, adapter, code)
        return FoundBase(name, revision, adapter, code, files, structure)

    def problems(self, config: StoreConfig) -> list[str]:
        """What of it differs from the base of a store, one sentence each; what the store does not
        record is not compared. The names of files in another folder do not matter."""
        texts = differing(config.files, self.files, self.adapter) if config.files else []
        if sorted(config.files.values()) == sorted(self.files.values()):
            texts = []
        if self.remote_code != config.remote_code:
            texts.append("the code that comes with it is not the code that the store may run")
        if config.structure:
            texts += differences(config.structure, self.structure)
        return texts

    def in_place_of(self, config: StoreConfig) -> StoreConfig:
        """``config`` with this base."""
        return replace(
            config,
            base=self.base,
            revision=self.revision,
            adapter=self.adapter,
            remote_code=self.remote_code,
            files=self.files,
            structure=self.structure,
        )

    @property
    def shown(self) -> str:
        """The name of the base, for messages."""
        return Path(self.base).name if Path(self.base).is_absolute() else self.base
