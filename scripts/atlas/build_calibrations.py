"""Build the calibrations of scope signals that ship with editcli, so that `init` need not.

    python scripts/atlas/build_calibrations.py            # writes datasets/calibrations/
    python scripts/atlas/build_calibrations.py --check    # fails where the files hold other values
    python scripts/atlas/build_calibrations.py --trained  # also what trains for half an hour

One file for each recipe that `editcli init` has with a base that ships, the default settings of a
routed method, and the shipped phrasings. Methods with equal settings of scope share a file. The
signals of `TRAINED` have one file for all bases, which is left as it is without `--trained`. The
bytes are equal for equal versions of torch and a like CPU. Sums depend on both in their last bits,
so that `--check` allows `ROUNDING`.
"""

from __future__ import annotations

import argparse
import sys

import torch
from safetensors.torch import load

from editcli.files.corpus import read_corpus
from editcli.files.packaged import ShippedCalibrations, datasets_dir
from editcli.models.loading import load_base
from editcli.models.locations import ATLAS
from editors import METHODS
from editors.scope.base import ByteCache
from editors.scope.fact_scope import FactScope
from editors.scope.settings import ScopeSettings

BASES = (ATLAS,)
TRAINED = ("sentence",)  # signals whose calibration depends on no base
TARGET = datasets_dir() / "calibrations"
ROUNDING = 1e-5  # of the largest value of a tensor


class MemoryCache:
    """A cache that holds what is put into it, by key. ``known``: what it says for other keys."""

    def __init__(self, known: ByteCache | None = None) -> None:
        self.payloads: dict[str, bytes] = {}
        self._known = known

    def get(self, key: str) -> bytes | None:
        if key not in self.payloads and self._known and (payload := self._known.get(key)):
            self.payloads[key] = payload
        return self.payloads.get(key)

    def put(self, key: str, payload: bytes) -> None:
        self.payloads[key] = payload


def calibrations(*, trained: bool) -> dict[str, bytes]:
    """By file name, the calibration of every base for every routed method, and of the signals of
    ``TRAINED``; ``trained``: these are trained, and not taken as they are."""
    cache, corpus = MemoryCache(), read_corpus()
    base = load_base(ATLAS, device="cpu")
    for name in TRAINED:
        of_signal = MemoryCache(None if trained else ShippedCalibrations())
        FactScope(base, ScopeSettings(scope=name)).start(corpus, of_signal)
        cache.payloads |= of_signal.payloads
    for name in BASES:
        for method in METHODS.names():
            spec = METHODS.load(method)
            if spec.routed:
                base = load_base(name, device="cpu", edits=spec.edits)
                spec.build(base, {}, seed=0).start(corpus, cache)
    return {f"{key}.safetensors": payload for key, payload in cache.payloads.items()}


def alike(payload: bytes, other: bytes) -> bool:
    """Whether two calibrations hold the same tensors, but for the rounding of sums."""
    a, b = load(payload), load(other)
    return a.keys() == b.keys() and all(_close(a[name], b[name]) for name in a)


def _close(a: torch.Tensor, b: torch.Tensor) -> bool:
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    return torch.allclose(a, b, rtol=0, atol=ROUNDING * float(b.abs().max()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare the files; write nothing")
    parser.add_argument(
        "--trained", action="store_true", help="train the signals of all bases, too"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)  # more of them add up in another order on some machines
    built = calibrations(trained=args.trained)
    present = {path.name: path.read_bytes() for path in TARGET.glob("*.safetensors")}
    if args.check:
        problems = [f"{name} is missing" for name in sorted(built.keys() - present.keys())]
        problems += [f"{name} is of no recipe" for name in sorted(present.keys() - built.keys())]
        shared = sorted(built.keys() & present.keys())
        problems += [
            f"{name} has other values" for name in shared if not alike(built[name], present[name])
        ]
        for problem in problems:
            print(f"{TARGET.name}/{problem}", file=sys.stderr)
        return 1 if problems else 0
    TARGET.mkdir(exist_ok=True)
    for name in present.keys() - built.keys():
        (TARGET / name).unlink()
    for name, payload in built.items():
        (TARGET / name).write_bytes(payload)
        print(f"{TARGET.name}/{name}: {len(payload)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
