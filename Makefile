# Two commands do everything on a fresh machine with Python 3.11 or newer: `make quickstart` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The warning that is silenced tells of editable installs in general, to whoever sets up for the first time.
INSTALL := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check
CODE := pagecast sim workloads gpu_backend tests setup.py

.DEFAULT_GOAL := help
.PHONY: help quickstart simulate compare test test-all test-compiled test-gpu wheel check format bench bench-compiled fault-table papers accuracy tables kernels crosscheck clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 15

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "pagecast needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + \
	  ": say which one to use, as in make PYTHON=python3.12 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/pip
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/pip
	$(INSTALL) --editable '.[dev]'
	@touch $(VENV)/.installed $@

$(VENV)/.installed-gpu: pyproject.toml | $(BIN)/pip
	$(INSTALL) --editable '.[gpu]'
	@touch $(VENV)/.installed $@

# A cross-check that does not hold (1) is an answer, on a machine that is busy with something else a likely one.
quickstart: $(VENV)/.installed-gpu ## set up, simulate configs/quickstart.yaml, then serve it on this machine and compare
	$(BIN)/pagecast simulate configs/quickstart.yaml
	$(BIN)/pagecast crosscheck configs/quickstart.yaml --quick --repeats 2 || test $$? -eq 1

CONFIG ?= configs/quickstart.yaml
simulate: $(VENV)/.installed ## simulate CONFIG=...
	$(BIN)/pagecast simulate $(CONFIG)

compare: $(VENV)/.installed ## static, dynamic and continuous batching on the same requests, three rows
	$(BIN)/pagecast simulate configs/batching.yaml \
	  --vary 'engine.batching={kind: static, max_batch_size: 32}' \
	  --vary 'engine.batching={kind: dynamic, max_batch_size: 32, max_wait: 200 ms}' \
	  --vary 'engine.batching={kind: continuous}'

test: $(VENV)/.installed-dev ## the fast tests
	$(BIN)/python -m pytest -q -n 2 -m 'not slow and not gpu'

test-all: $(VENV)/.installed-dev ## all tests but those that need a GPU, with thousands of examples each
	HYPOTHESIS_PROFILE=nightly $(BIN)/python -m pytest -q -n 2 -m 'not gpu'

test-gpu: $(VENV)/.installed-dev ## tests that need a CUDA device
	$(BIN)/python -m pytest -q -m gpu

wheel: $(VENV)/.installed-dev ## build dist/*.whl with the core compiled; plain without a C compiler or with PAGECAST_PURE=1
	rm -rf dist
	$(BIN)/python -m build --outdir dist

test-compiled: wheel ## build the wheel, and run tests of decisions, properties and bytes against it
	$(BIN)/python -m tests.compiled dist/pagecast-*.whl

check: $(VENV)/.installed-dev ## format, lint, types, spelling
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/codespell --skip "*/checkpoints/*" $(CODE) README.md CONTRIBUTING.md CHANGELOG.md configs

format: $(VENV)/.installed-dev ## let ruff format and mend
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

bench: $(VENV)/.installed-dev ## speed of the simulator, written to results/bench.md
	$(BIN)/python -m tests.bench.bench_simulation

bench-compiled: wheel ## what compiling brings, written to results/bench_compiled.md
	$(BIN)/python -m tests.bench.bench_compiled dist/pagecast-*.whl

fault-table: $(VENV)/.installed-dev ## which claim finds which planted fault, written to sim/testing/README.md
	$(BIN)/python -m tests.testing.fault_table

papers: $(VENV)/.installed-dev ## published tables beside ours, written to results/papers.md
	$(BIN)/python -m tests.bench.papers

accuracy: $(VENV)/.installed-dev ## predicted against measured times, written to results/accuracy.md; needs the traces
	$(BIN)/python -m tests.bench.accuracy

tables: $(VENV)/.installed-dev ## curves against measured tables of every GPU, written to results/tables.md; fetches 82 MB
	$(INSTALL) --editable '.[tables]'
	$(BIN)/python -m tests.bench.tables

kernels: $(VENV)/.installed-dev ## what the GPU kernels move and compile to, counted without a GPU, written to results/kernels.md
	$(BIN)/python -m tests.bench.kernels

crosscheck: $(VENV)/.installed-dev ## replay and simulate configs/crosscheck on this machine (half an hour), written to results/crosscheck.md
	$(BIN)/python -m tests.bench.crosschecks

clean: ## remove what was made, but not results
	rm -rf $(VENV) .venv-ci build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
