#!/usr/bin/env bash
# Build sdist and wheel, install the wheel outside the checkout and use it there: a forgotten
# subpackage or data file imports from an editable install, and is missing only here.
set -euo pipefail
cd "$(dirname "$0")/.."

place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

python -m build --outdir "$place/dist" . >"$place/build.log" 2>&1 \
  || { cat "$place/build.log" >&2; exit 1; }
python -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --no-deps "$place"/dist/*.whl
# The dependencies are the development environment's: on PYTHONPATH its .pth files, and with them
# the editable install, do nothing.
PYTHONPATH=$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
export PYTHONPATH

checkout=$PWD
cd "$place"
venv/bin/editcli --version
venv/bin/python - "$checkout" <<'PY'
import importlib
import pkgutil
import sys
from pathlib import Path

import editcli
import editors
from editcli.paths import datasets_dir

checkout = Path(sys.argv[1])
for package in (editcli, editors):
    home = Path(package.__file__).parent
    assert checkout not in home.parents, f"{package.__name__} comes from the checkout"
    found = {str(f.relative_to(home)) for f in home.rglob("*") if f.suffix in (".py", ".typed", ".txt")}
    source = checkout / package.__name__
    wanted = {
        str(f.relative_to(source)) for f in source.rglob("*") if f.suffix in (".py", ".typed", ".txt")
    }
    assert wanted <= found, f"not in the wheel: {sorted(wanted - found)}"
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__") and "_datasets" not in module.name:
            importlib.import_module(module.name)
data = checkout / "datasets"
wanted = {str(f.relative_to(data)) for f in data.rglob("*") if f.is_file()}
found = {str(f.relative_to(datasets_dir())) for f in datasets_dir().rglob("*") if f.is_file()}
assert wanted == found, f"data files differ: {sorted(wanted ^ found)}"
print(f"the wheel is whole: {len(found)} data files")
PY
