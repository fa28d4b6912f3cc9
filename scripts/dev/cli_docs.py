"""Write docs/cli.md from the help texts; with --check, fail when it is out of date."""

from __future__ import annotations

import sys
from pathlib import Path

from typer.testing import CliRunner

from editcli.app import app, command_paths

TARGET = Path(__file__).resolve().parents[2] / "docs" / "cli.md"


def render() -> str:
    """The page: every command's help as it stands on a terminal 80 columns wide."""
    parts = [
        "# Commands\n",
        "Written by `make docs` from `editcli --help`; edit the help texts instead.\n",
    ]
    for path in command_paths():
        name = " ".join(("editcli", *path))
        help_text = CliRunner().invoke(
            app, [*path, "--help"], prog_name="editcli", env={"COLUMNS": "80"}
        )
        parts.append(f"## {name}\n\n```text\n{help_text.stdout.rstrip()}\n```\n")
    return "\n".join(parts)


def main() -> int:
    text = render()
    if "--check" in sys.argv[1:]:
        current = TARGET.read_text(encoding="utf-8") if TARGET.exists() else ""
        if current != text:
            print("docs/cli.md is out of date: run `make docs`", file=sys.stderr)
            return 1
        return 0
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
