#!/usr/bin/env bash
# Build sdist and wheel, install the wheel outside the checkout and use it there: a forgotten
# subpackage or data file imports from an editable install, and is missing only here.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python -m build --outdir "$work/dist" . >"$work/build.log" 2>&1 \
  || { cat "$work/build.log" >&2; exit 1; }
python -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-deps "$work"/dist/*.whl
# The dependencies are the development environment's: on PYTHONPATH its .pth files, and with them
# the editable install, do nothing.
PYTHONPATH=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
export PYTHONPATH

checkout=$PWD
cd "$work"
venv/bin/editcli --version
venv/bin/python - "$checkout" <<'PY'
import importlib
import pkgutil
import sys
from pathlib import Path

import editcli
import editors
from editcli.files.packaged import datasets_dir


def files_of(folder, *left_out):
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file())
    return {str(f) for f in files if not {"__pycache__", *left_out} & set(f.parts)}


checkout = Path(sys.argv[1])
for package in (editcli, editors):
    home = Path(package.__file__).parent
    assert checkout not in home.parents, f"{package.__name__} comes from the checkout"
    differing = files_of(home, "_datasets") ^ files_of(checkout / package.__name__)
    assert not differing, f"files of {package.__name__} differ: {sorted(differing)}"
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and "_datasets" not in module.name:
            importlib.import_module(module.name)
data = files_of(datasets_dir())
differing = data ^ files_of(checkout / "datasets")
assert not differing, f"data files differ: {sorted(differing)}"
print(f"the wheel is whole: {len(data)} data files")
PY
