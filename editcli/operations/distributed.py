"""Several processes on one ``apply``: what torchrun tells each of them, and where they wait.

Units of work do not depend on each other, so each process trains some and leaves them in the
store's journal, as an interrupted run does. The first process then finds all of them there, and
publishes. One that dies takes nothing with it but the unit in its hands.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

# A job's shell may export WORLD_SIZE and RANK of its own; this variable is torchrun's alone.
LAUNCHED = "TORCHELASTIC_RUN_ID"


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process is ``number`` of ``count``, and ``local`` on its machine."""

    number: int = 0
    count: int = 1
    local: int = 0

    @staticmethod
    def of(environment: Mapping[str, str]) -> Ranks:
        """What torchrun says in the environment; one process where it did not start this one."""
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
        """This process speaks, and writes the version."""
        return self.number == 0

    def takes(self, unit: int) -> bool:
        """Whether unit of work number ``unit`` is this process's to train."""
        return unit % self.count == self.number

    def device(self, name: str) -> str:
        """The device for ``--device name``: with "auto", each process on a machine has its own."""
        import torch

        if self.count > 1 and name == "auto" and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return name

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave ``with`` when all processes have come to its end."""
        if self.count == 1:
            yield
            return
        from datetime import timedelta

        import torch.distributed as distributed

        # Only ever waited on, so the backend for CPUs does wherever the model is. A unit may take
        # hours, and a process that dies is noticed by torchrun.
        distributed.init_process_group("gloo", timeout=timedelta(days=7))
        try:
            yield
            distributed.barrier()
        finally:
            distributed.destroy_process_group()
