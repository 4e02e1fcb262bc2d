# Everything runs from .venv, which is made here from Python 3.11+ and a package index, and made anew when pyproject.toml changes.

PYTHON ?= python3
KEEP ?=
BIN := .venv/bin
# Two stamps: `make demo` need not wait for the development tools.
DAEMON := .venv/.daemon-installed
DEV := .venv/.dev-installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
.DELETE_ON_ERROR:
.PHONY: help demo test check format bench chaos clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

demo: $(DAEMON) ## run real tools against a daemon and show what was recorded; KEEP=1 leaves the daemon running
	@$(BIN)/skillmeter demo $(if $(filter-out 0,$(KEEP)),--keep)

test: $(DEV) ## every test but the long random kills
	@$(BIN)/python -m pytest

check: $(DEV) ## ruff, mypy and the import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV) ## put the code into ruff's layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV) ## measure: every script in bench/
	@set -e; for script in bench/*.py; do echo "==> $$script"; $(BIN)/python "$$script"; done

chaos: $(DEV) ## random kills, interruptions and full disks for half an hour, and the guarantees at a larger scale
	@$(BIN)/python -m pytest -m chaos --timeout 3600
	@SKILLMETER_TEST_SCALE=5 $(BIN)/python -m pytest --timeout 3600 tests/guarantees/test_spool.py tests/guarantees/test_storm.py \
	  tests/guarantees/test_interruptions.py tests/guarantees/test_processes.py tests/guarantees/test_client_kills.py

clean: ## remove .venv and what tools left behind
	rm -rf .venv dist build .demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(DAEMON): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'skillmeter needs Python 3.11 or newer: make PYTHON=python3.12 ...' >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --editable '.[daemon]'
	@touch $@

$(DEV): $(DAEMON)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@
