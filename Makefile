# Both commands set everything up first: the package in .venv, the upstreams in
# the user's cache directory.
PYTHON ?= $(shell for p in python3 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin

.PHONY: demo test lint unit fuzz bench pins
demo: $(BIN)/.ready
	@$(BIN)/shim setup
	@$(BIN)/shim demo

test: lint
	$(BIN)/shim setup
	$(BIN)/pytest

lint: $(BIN)/.ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

unit: $(BIN)/.ready
	$(BIN)/pytest -m "not upstream"

# Fifty times the inputs that `test` gives the readers, and others each time.
fuzz: $(BIN)/.ready
	EVALSHIM_FUZZ=5000000 $(BIN)/pytest tests/test_fuzz.py --timeout 0

# Hours; `make bench ARGS=--quick` takes minutes. bench/README.md has the rest.
bench: $(BIN)/.ready
	@$(BIN)/shim setup
	$(BIN)/python -m bench $(ARGS)

$(BIN)/.ready: pyproject.toml
	@test -n "$(PYTHON)" || { echo "evalshim needs Python 3.10, 3.11 or 3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

# From the index alone: a local wheel would hide what a CUDA torch brings along.
pins: $(BIN)/.ready
	cd evalshim/pins && for b in vlmeval opencompass; do \
		env -u PIP_FIND_LINKS -u UV_FIND_LINKS ../../$(BIN)/uv pip compile --quiet --universal \
			--python-version 3.10 --no-header --no-annotate --upgrade \
			--overrides overrides.txt $$b.in -o $$b.txt; done
