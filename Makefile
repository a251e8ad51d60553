# `make demo` installs monosem and runs the embedded default; `make test` installs everything and runs all tests.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint docs clean

demo: .venv/demo
	$(BIN)/monosem run recipes/demo.toml

test: .venv/dev
	$(BIN)/pytest -m "not model and not slow"
	$(BIN)/pytest -m "model or slow"

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python docs/cli.py --check

docs: .venv/dev
	$(BIN)/python docs/cli.py

clean:
	rm -rf .venv build dist

.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/dev: .venv/demo
	$(PIP) --editable ".[dev,wandb,hub]"
	touch $@
