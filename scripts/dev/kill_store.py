"""Kill every command that writes, at random moments, and count what is lost.

    python scripts/dev/kill_store.py                    # 500 kills of each command; an hour
    python scripts/dev/kill_store.py --kills 50 --only edit --only "undo --purge"

Each command is forked from a process that has imported everything, and runs as `editcli` does, on a
copy of a store on a tiny model. It gets SIGKILL at a random moment: a tenth of the kills from its
start on, all others from the moment on at which it is about to take the lock; of these, a third is
aimed at the time in which it holds the lock, and a third at its commit. Then the store has to be
sound, and as it was before or as it is after the command; after, if the command has said so. The
next command that writes has to leave no traces of the kill. With --atlas, edits are trained on the
embedded model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "support"))

from kills import Killer, Tally
from writing_commands import WritingCommand, atlas_commands, writing_commands

WHOLE_EVERY = 10  # kills; all others hit from that moment on at which the lock is to be taken
COLUMNS = "command kills in-the-lock in-a-commit kept lost unclean seconds"


def row(tally: Tally, seconds: float) -> str:
    numbers = (tally.kills, tally.locked, tally.committing, tally.kept)
    wrong = (len(tally.lost), len(tally.unclean))
    cells = [tally.command, *map(str, (*numbers, *wrong)), f"{seconds:.0f}"]
    return f"| {' | '.join(cells)} |"


def killed(command: WritingCommand, folder: Path, args: argparse.Namespace) -> Tally:
    """What became of a command that was killed as often as is asked."""
    killer = Killer(command, folder, args.seed)
    whole = args.kills if command.name == "migrate" else -(-args.kills // WHOLE_EVERY)
    killer.kill(whole)
    if args.kills > whole:
        killer.kill_writing(args.kills - whole)
    return killer.tally


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill commands that write; count what is lost.")
    parser.add_argument("--kills", type=int, default=500, help="kills of each command")
    parser.add_argument("--only", action="append", help="a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--atlas", action="store_true", help="train on the embedded model")
    parser.add_argument("--folder", type=Path, help="where the stores are made")
    args = parser.parse_args()
    print("|", COLUMNS.replace(" ", " | ").replace("-", " "), "|")
    print("|---" + "|---:" * COLUMNS.count(" ") + "|", flush=True)
    wrong = 0
    with TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        for command in (atlas_commands if args.atlas else writing_commands)(folder):
            if args.only and command.name not in args.only:
                continue
            begin = time.perf_counter()
            tally = killed(command, folder, args)
            print(row(tally, time.perf_counter() - begin), flush=True)
            for text in (*tally.lost, *tally.unclean):
                print(json.dumps([command.name, text]), file=sys.stderr, flush=True)
            wrong += len(tally.lost) + len(tally.unclean)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
