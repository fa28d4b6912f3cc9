"""Draw what a command prints on a terminal as an SVG.

python scripts/dev/terminal_svg.py docs/check.svg editcli check
"""

from __future__ import annotations

import io
import os
import pty
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 80


def printed(command: list[str]) -> str:
    """All that ``command`` writes to a terminal of ``COLUMNS`` columns."""
    chunks: list[bytes] = []

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        chunks.append(data)
        return data

    os.environ.update(COLUMNS=str(COLUMNS), EDITCLI_NO_PROGRESS="1", TERM="xterm-256color")
    pty.spawn(command, read)
    return b"".join(chunks).decode().replace("\r\n", "\n")


def main() -> None:
    target, command = Path(sys.argv[1]), sys.argv[2:]
    typed = Text("$ " + " ".join(command), style="bold")
    draw(target, typed, Text.from_ansi(printed(command).rstrip("\n")))


def draw(target: Path, *shown: Text) -> None:
    """Write an SVG of a terminal of ``COLUMNS`` columns that shows these texts."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for text in shown:
        console.print(text)
    drawing = console.export_svg(title="editcli")
    # No font from the network: a page that shows the drawing must stay whole offline.
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", drawing, flags=re.DOTALL))


if __name__ == "__main__":
    main()
