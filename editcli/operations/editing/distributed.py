"""Several processes on one ``apply``: what torchrun sets for each of them, and where they wait.

Units of work do not depend on each other, so each process trains some of them and leaves these in
the store's journal, as an interrupted run does. The first process then reads all units from the
journal and publishes. A process that dies loses only the unit that it was training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from editors import EditorError

# A job's shell may export WORLD_SIZE and RANK of its own; this variable is torchrun's alone.
LAUNCHED = "TORCHELASTIC_RUN_ID"
# Processes of a job start together. A shell that was started inside one may have its variables.
MEETING_S = 900.0
UNIT_DAYS = 7  # a unit may take hours, and torchrun notices a process that dies


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process: its ``number`` among ``count`` processes, and ``local`` among those on its
    machine."""

    number: int = 0
    count: int = 1
    local: int = 0

    @staticmethod
    def of(environment: Mapping[str, str]) -> Ranks:
        """The ranks that torchrun sets in the environment; one process where torchrun is not
        used."""
        if LAUNCHED not in environment:
            return Ranks()
        try:
            count = int(environment["WORLD_SIZE"])
            number = int(environment["RANK"])
            return Ranks(number, count, int(environment.get("LOCAL_RANK", number)))
        except (KeyError, ValueError):
            return Ranks()

    @property
    def leads(self) -> bool:
        """Whether this process prints, and writes the version."""
        return self.number == 0

    def takes(self, unit: int) -> bool:
        """Whether this process trains the unit of work with number ``unit``."""
        return unit % self.count == self.number

    def device(self, name: str) -> str:
        """The device for ``--device name``: with "auto", each process on a machine has its own."""
        import torch

        if self.count > 1 and name == "auto" and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return name

    @contextmanager
    def together(self) -> Iterator[None]:
        """Wait at the end of ``with`` until every process has reached it.

        Raises:
            EditorError: the others do not even reach its beginning.
        """
        if self.count == 1:
            yield
            return
        from datetime import timedelta

        import torch.distributed as distributed

        # Processes only wait for each other, so the backend for CPUs does wherever the model is.
        try:
            distributed.init_process_group("gloo", timeout=timedelta(seconds=MEETING_S))
        except (RuntimeError, ValueError) as error:
            raise EditorError(
                f"{LAUNCHED} says that this is process {self.number + 1} of {self.count} which "
                f"torchrun has started, and the others do not answer: {error}",
                f"`unset {LAUNCHED}` where it is not",
            ) from error
        try:
            group = distributed.new_group(backend="gloo", timeout=timedelta(days=UNIT_DAYS))
            yield
            distributed.barrier(group)
        finally:
            distributed.destroy_process_group()
