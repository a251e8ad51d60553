# `make demo` installs monosem and runs the embedded default; `make test` installs everything and runs all tests.
PYTHON ?= python3
BIN := .venv/bin
REFEREE := .venv-referee/bin/python
SPREAD := --numprocesses 2 --dist loadfile
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test referee lint docs clean

demo: .venv/demo
	$(BIN)/monosem run recipes/demo.toml

test: .venv/dev referee
	$(BIN)/pytest $(SPREAD) -m "not model and not slow and not browser"
	$(BIN)/pytest $(SPREAD) -m "slow and not model and not browser"
	$(BIN)/pytest -m "model and not browser"
	$(BIN)/pytest -m browser

# Meta's own code, which some tests ask, in an environment of its own.
referee: .venv-referee/ready

lint: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright
	$(BIN)/python docs/cli.py --check

docs: .venv/dev
	$(BIN)/python docs/cli.py

clean:
	rm -rf .venv .venv-referee build dist

.venv/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	touch $@

.venv/dev: .venv/demo
	$(PIP) --editable ".[dev,wandb,hub,app]"
	touch $@

# fairscale is built with the torch that is there: that of .venv, which a path file makes visible, so that it is not
# installed twice.
.venv-referee/ready: tests/lm/referee/requirements.txt .venv/dev
	$(BIN)/python -m venv --clear .venv-referee
	$(REFEREE) -m pip install --quiet --disable-pip-version-check --constraint $< setuptools
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
		> $$($(REFEREE) -c "import sysconfig; print(sysconfig.get_path('purelib'))")/main.pth
	$(REFEREE) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --requirement $<
	touch $@
