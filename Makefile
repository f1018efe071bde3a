# `make` alone lists what there is. PYTHON picks the interpreter (3.10 to 3.12) that .venv is made with.
PYTHON ?= python3
MODEL ?= convit
PORT ?= 8040
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/run.stamp  ## make .venv and install what passl runs on

demo: .venv/run.stamp  ## train on real digits, evaluate, draw the curves (MODEL=convit or cvt)
	@bash tools/demo.sh $(BIN) $(MODEL) $(PORT)

test: .venv/dev.stamp  ## run every test
	$(BIN)/python -m pytest

lint: .venv/dev.stamp  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/dev.stamp  ## put the code into the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove .venv and caches; runs/ stays
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache build *.egg-info
	find passl tools tests -name __pycache__ -prune -exec rm -rf {} +

.venv/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 13) else f"passl needs Python 3.10 to 3.12, not {v[0]}.{v[1]}; name one by make PYTHON=python3.11")'
	@echo "installing into .venv ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/dev.stamp: .venv/run.stamp tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@
