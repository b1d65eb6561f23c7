# Two commands do everything: `make demo` and `make test`. Each works from a fresh clone.
PYTHON ?= python3
BIN := .venv/bin
RUN_TESTS := $(BIN)/python -m pytest
# Half of the time the tests wait for servers and child processes: a few files run at the same time.
IN_PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile

.PHONY: setup demo test test-all coverage docs lint clean

setup: .venv/ready

.venv/ready: .venv/demo-ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# Only what the demo uses, compiled when it is first read. torch comes first and by its exact version, so that what needs
# it brings no other one.
.venv/demo-ready: pyproject.toml constraints.txt
	@echo 'Setting up .venv: one to two minutes if the packages are in the cache'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[local]'
	touch $@

demo: .venv/demo-ready
	$(BIN)/embedfit demo --run runs/demo

test: setup lint
	$(RUN_TESTS) $(IN_PARALLEL)

test-all: setup lint
	HYPOTHESIS_PROFILE=random $(RUN_TESTS) -m '' $(IN_PARALLEL)

coverage: setup
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage report --skip-covered

# The documentation site, in site/. It loads nothing from elsewhere, neither when it is built nor when it is read.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis site
