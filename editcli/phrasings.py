"""Files of phrasings to calibrate a router on: lines of `{"subject": ..., "prompts": [...]}`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import jsonlines

from editcli.errors import UsageError
from editcli.paths import datasets_dir
from editors import EditorError

if TYPE_CHECKING:
    from editors.calibration import Phrasings


def read_phrasings(path: Path | None) -> list[Phrasings]:
    """The groups in `path`; without one, those that ship with editcli.

    Raises UsageError for a file that cannot be read, naming the first bad line.
    """
    from editors.calibration import Phrasings

    source = datasets_dir() / "calibration.jsonl" if path is None else path
    groups: list[Phrasings] = []
    try:
        with jsonlines.open(source) as lines:
            for number, row in enumerate(lines.iter(type=dict, skip_empty=True), start=1):
                try:
                    groups.append(Phrasings.from_dict(row))
                except EditorError as error:
                    raise UsageError(f"{source}:{number}: {error.message}") from error
    except jsonlines.InvalidLineError as error:
        raise UsageError(f"{source}:{error.lineno}: not a JSON object") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{source} cannot be read: {error}") from error
    return groups
