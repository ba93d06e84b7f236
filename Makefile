# `make demo` and `make test` need Python 3.10+ (with venv) and nothing else; all they install goes
# into .venv. Another interpreter: make PYTHON=python3.12 demo

PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e

# A user's pip may be set to --user installs, which pip refuses inside a virtual environment.
export PIP_USER := 0

# Two pips at once in one environment would break it.
.NOTPARALLEL:
.PHONY: help venv demo test lint types docs bench clean

help:  ## show this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' Makefile

venv: .venv/.dev  ## set up .venv with all that tests and docs need

demo: .venv/.run  ## the main job: differentiate, draw, train the disk classifier
	$(BIN)/python -m tinygrad_ee559 demo

# A process per core; whoever is done takes over tests of another. Coverage is reported before
# pytest's closing line, which stays the last one of the output.
test: lint types  ## lint, types, then all tests with coverage
	$(BIN)/python -m pytest -n auto --dist worksteal --cov

lint: .venv/.dev  ## ruff
	$(BIN)/python -m ruff check

types: .venv/.dev  ## mypy --strict on the package
	$(BIN)/python -m mypy

docs: .venv/.dev  ## build the documentation into build/docs
	$(BIN)/python -m sphinx -W --keep-going docs build/docs

bench: .venv/.bench  ## measure against PyTorch and other engines
	$(BIN)/python -m benchmarks

clean:  ## remove all that make has made, .venv too
	rm -rf .venv build dist *.egg-info .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps in .venv: .python, it exists; .run, .dev, .bench, what is installed in it. An install is
# repeated when the files that decide it have changed.

PACKAGING := setup.py setup.cfg pyproject.toml constraints.txt

.venv/.python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("tinygrad_ee559 needs Python 3.10 or newer, and $(PYTHON) is %d.%d: name another one with make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.run: .venv/.python $(PACKAGING)
	$(INSTALL) .
	touch $@

# Comprises all that .run stands for.
.venv/.dev: .venv/.python $(PACKAGING)
	$(INSTALL) '.[test,docs]'
	touch .venv/.run $@

.venv/.bench: .venv/.python $(PACKAGING)
	$(INSTALL) '.[bench]'
	touch .venv/.run $@
