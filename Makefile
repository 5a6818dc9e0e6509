# Every target does its own set-up. `make demo` and `make test` are the two to know.

PYTHON ?= python3
BIN := .venv/bin
MINUTES ?= 3
SEED ?= 1

.PHONY: demo test test-faults soak up lint format compose-test bench clean

demo: .venv/.ready
	@$(BIN)/python -m workers.demo $(ARGS)

up: .venv/.ready
	@$(BIN)/python -m workers.demo --up $(ARGS)

test: .venv/.ready
	@$(BIN)/python -m pytest -n 2 --dist loadfile --ignore tests/compose -m 'not long'

test-faults: .venv/.ready
	@$(BIN)/python -m pytest tests/faults

soak: .venv/.ready
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --seed $(SEED)

lint: .venv/.ready
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: .venv/.ready
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

compose-test: .venv/.ready
	@$(BIN)/python -m pytest tests/compose

# make bench ARGS="--only hot --quick"
bench: .venv/.ready
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	@rm -rf .venv .bench bench-out .mypy_cache .pytest_cache .ruff_cache build dist

# pip below 25.1 knows no dependency groups, so it is renewed first.
.venv/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed, this is %d.%d; name another: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@echo "setting up .venv (once, about a minute)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@
