# Two commands do everything on a Debian or Ubuntu machine with Python 3.10 or later, make, and root or sudo: make demo, make test.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# Most tests wait for a server or a line to come back: on two cores a fourth process still shortens the run.
PYTEST = $(BIN)/python -m pytest --numprocesses $(JOBS) --dist worksteal
JOBS ?= 4

.DEFAULT_GOAL := help
.PHONY: help demo deb dist release test test-all soak simulate bench lint clean compiled test-oldest

help:  ## shows this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/demo.stamp compiled  ## a private database, 2,500 real studies, a central index and a simulated archive (DEMO_SECONDS=20: ends by itself)
	tests/setup_servers.sh any
	$(BIN)/python -m extras.demo

test: $(VENV)/test.stamp compiled  ## all tests but the longest, on real servers (TESTS=tests/unit: some of them)
	tests/setup_servers.sh
	$(PYTEST) -m "not soak" $(TESTS)

test-all: $(VENV)/test.stamp compiled  ## all tests
	tests/setup_servers.sh all
	$(PYTEST) $(TESTS)

test-oldest: $(VENV)/bin/python  ## with the lowest versions that pyproject.toml allows: the unit tests, and a run on each server
	tests/setup_servers.sh
	$(PYTHON) -m venv --clear $(OLDEST)
	$(PYTHON) -m tests.oldest > $(OLDEST)/lowest.txt
	$(OLDEST)/bin/pip install --quiet --disable-pip-version-check --editable '.[central]' hypothesis pytest pytest-timeout pytest-xdist --constraint $(OLDEST)/lowest.txt
	$(OLDEST)/bin/python -m pytest --numprocesses $(JOBS) tests/unit tests/integration/test_run.py tests/integration/test_binlog.py

OLDEST ?= .venv-oldest

soak: $(VENV)/test.stamp compiled  ## idle, then 5 studies a second, then random faults, with memory (MINUTES=30)
	tests/setup_servers.sh
	CDC_INDEXER_TEST_MINUTES=$(MINUTES) $(BIN)/python -m pytest tests/faults/test_soak.py -s

MINUTES ?= 30

simulate: $(VENV)/test.stamp  ## the core in played worlds (SEEDS=100000; SEED=7: one, cut down and told; MUTANTS=1: how strong that is)
	$(BIN)/python -m tests.simulation$(if $(MUTANTS),.mutants) $(if $(SEED),--seed $(SEED)) $(if $(MUTANTS),,$(if $(SEED),,--seeds $(SEEDS)))

SEEDS ?= 10000

bench: $(VENV)/bench.stamp compiled  ## measures ours and a plain script side by side (QUICK=1: a minute; CASES="big far": some)
	tests/setup_servers.sh bench
	$(BIN)/python -m benchmarks $(CASES)

deb:  ## Debian packages for the release of Debian that this machine has, in dist/
	tests/setup_servers.sh deb
	debian/build

dist: | $(VENV)/bin/python  ## wheel and source, in dist/
	$(BIN)/pip install --quiet --disable-pip-version-check build
	$(BIN)/python -m build --outdir dist .

release:  ## heading of CHANGELOG.md, version and tag (VERSION=1.2.0)
	$(PYTHON) -m extras.release $(VERSION)

lint: $(VENV)/test.stamp  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:  ## removes what make made here; servers for the tests: tests/setup_servers.sh remove
	rm -rf $(VENV) $(OLDEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info

$(VENV)/bin/python:
	tests/setup_servers.sh tools
	$(PYTHON) -m venv $(VENV)

# As pip does it with a package that isn't editable: where PYTHONDONTWRITEBYTECODE is set each start would compile it anew.
compiled: | $(VENV)/bin/python
	@$(BIN)/python -m compileall -q cdc_indexer

# Installed anew when pyproject.toml changes: .venv/demo.stamp with the extra [demo], test.stamp with [test], bench.stamp with [bench].
$(VENV)/%.stamp: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@
