"""Draw a conversation of `editcli chat` in a real terminal, as an SVG image. Needs tmux.

python scripts/dev/chat_svg.py docs/chat.svg STORE
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from rich.text import Text
from terminal_svg import COLUMNS, draw

HEIGHT = 20
SESSION = f"editcli-chat-{os.getpid()}"
TURNS = (
    "Who wrote Macbeth?",
    "/edit Jane Austen -s Macbeth",
    "The literary work Macbeth was written by",
    "/why",
    "/base",
)
PROMPT = "> "
LONGEST_S = 60  # from a turn to the next prompt


def tmux(*words: str) -> str:
    """What a command of tmux prints."""
    return subprocess.run(["tmux", *words], check=True, capture_output=True, text=True).stdout


def screen() -> str:
    return tmux("capture-pane", "-p", "-e", "-t", SESSION)


def wait_for_prompts(count: int) -> None:
    """Wait until the screen has this many prompts; raises TimeoutError."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        lines = Text.from_ansi(screen()).plain.splitlines()
        if sum(line.startswith(PROMPT.rstrip()) for line in lines) >= count:
            return
        time.sleep(0.2)
    raise TimeoutError(screen())


def main() -> None:
    target, store = sys.argv[1:]
    size = ["-x", str(COLUMNS), "-y", str(HEIGHT)]
    command = [sys.executable, "-m", "editcli", "chat", "--store", store]
    tmux("new-session", "-d", "-s", SESSION, *size, *command)
    try:
        for number, turn in enumerate(TURNS, start=1):
            wait_for_prompts(number)
            tmux("send-keys", "-t", SESSION, "-l", turn)
            tmux("send-keys", "-t", SESSION, "Enter")
        wait_for_prompts(len(TURNS) + 1)
        draw(Path(target), Text.from_ansi(screen().rstrip()))
    finally:
        tmux("kill-session", "-t", SESSION)


if __name__ == "__main__":
    main()
