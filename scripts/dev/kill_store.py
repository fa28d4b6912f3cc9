"""Kill every command that writes, at random moments, and count what is lost.

    python scripts/dev/kill_store.py                    # 500 kills of each command; an hour
    python scripts/dev/kill_store.py --kills 50 --only edit --only "undo --purge"
    python scripts/dev/kill_store.py --atlas --kills 50

Each command is forked from a process that has imported everything, and runs as `editcli` does, on a
copy of a store on a tiny model. It gets SIGKILL at a random moment: a part of the kills from its
start on, all others from the moment on at which it is about to take the lock; of these, a third is
aimed at the time in which it holds the lock, and a third at its commit. Then the store has to be
sound, and as it was before or as it is after the command; after, if the command has said so. The
next command that writes has to leave no traces of the kill. With --atlas, edits are trained on the
embedded model.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from kills import Killer, Tally
from writing_commands import (
    atlas_commands,
    make_atlas_store,
    make_stores,
    writing_commands,
)

ROUND = 50  # kills of a command, before it is the next command's turn
WHOLE = 3  # of these, from the start of the command on
STORES = {
    "tiny": (make_stores, writing_commands),
    "atlas": (make_atlas_store, atlas_commands),
}
COLUMNS = ("command", "kills", "in the lock", "in a commit", "kept", "lost", "unclean")


def table(tallies: Sequence[Tally]) -> str:
    rows: list[Sequence[object]] = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)]]
    for tally in tallies:
        wrong = (len(tally.lost), len(tally.unclean))
        rows.append(
            (tally.command, tally.kills, tally.locked, tally.committing, tally.kept, *wrong)
        )
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill commands that write; count what is lost.")
    parser.add_argument("--kills", type=int, default=500, help="kills of each command")
    parser.add_argument("--minutes", type=float, default=600, help="begin no round after so long")
    parser.add_argument("--only", action="append", help="a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atlas", action="store_true", help="train on the embedded model")
    parser.add_argument("--folder", type=Path, help="where the stores are made")
    args = parser.parse_args()
    end = time.monotonic() + 60 * args.minutes
    make, commands = STORES["atlas" if args.atlas else "tiny"]
    with TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        maker = multiprocessing.get_context("fork").Process(target=make, args=(folder,))
        maker.start()  # apart, so that this process stays small, and is forked fast
        maker.join()
        chosen = [c for c in commands(folder) if not args.only or c.name in args.only]
        killers = [Killer(command, folder / str(n), args.seed) for n, command in enumerate(chosen)]
        told = dict.fromkeys(range(len(killers)), 0)
        while any(killer.tally.kills < args.kills for killer in killers):
            for number, killer in enumerate(killers):
                times = min(ROUND, args.kills - killer.tally.kills)
                if times <= 0 or time.monotonic() > end:
                    continue
                whole = times if killer.command.name == "migrate" else min(WHOLE, times)
                if whole:
                    killer.kill(whole)
                if times > whole:
                    killer.kill_writing(times - whole)
                wrong = [*killer.tally.lost, *killer.tally.unclean]
                for text in wrong[told[number] :]:
                    print(json.dumps([killer.command.name, text]), file=sys.stderr, flush=True)
                told[number] = len(wrong)
                print(killer.tally.command, killer.tally.kills, file=sys.stderr, flush=True)
            if time.monotonic() > end:
                break
        tallies = [killer.tally for killer in killers]
        print(table(tallies))
    sys.exit(any(tally.lost or tally.unclean for tally in tallies))


if __name__ == "__main__":
    main()
