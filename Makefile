# `make` alone lists what there is. PYTHON picks the interpreter (3.10 to 3.12) that .venv is made with.
PYTHON ?= python3
MODEL ?= convit
PORT ?= 8040
KILLS ?= 50
FAULTS ?= 40
SEED ?= 0
JOBS ?= auto
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help setup demo study study-timm chaos bench test test-cpus test-parity test-integrations docs lint format clean

help:
	@echo "To use passl:"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "To develop it:"
	@awk -F ':.*#dev ' '/^[a-z-]+:.*#dev / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/run.stamp  ## make .venv and install passl and what it needs

demo: .venv/run.stamp  ## train on real digits, evaluate, draw the run on one page (MODEL=convit or cvt)
	@bash tools/demo.sh $(BIN) $(MODEL) $(PORT)

clean:  ## remove the environments and caches; runs/ stays
	rm -rf .venv .venv-parity .venv-integrations .venv-bench .pytest_cache .ruff_cache .mypy_cache build *.egg-info
	find passl tools tests benchmarks studies -name __pycache__ -prune -exec rm -rf {} +

test: .venv/dev.stamp  #dev run every test, a process per core (or JOBS=N)
	$(PYTEST)

lint: .venv/dev.stamp  #dev check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/dev.stamp  #dev write docs/transforms.md and docs/datasets.md from docstrings
	$(BIN)/python docs/entries.py

format: .venv/dev.stamp  #dev format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test-cpus: .venv/dev.stamp  #dev run the numerical tests under the instruction sets of other processors
	bash tests/cpus.sh $(PYTEST) -q

test-parity: .venv-parity/stamp  #dev compare full-size networks with timm and transformers
	.venv-parity/bin/python -m pytest tests/parity

test-integrations: .venv-integrations/stamp  #dev train in PaddleSeg and PaddleDetection (a quarter of an hour)
	.venv-integrations/bin/python -m pytest -s tests/integrations

chaos: .venv/run.stamp  #dev kill runs and single ranks, resume, compare (KILLS=50 FAULTS=40 SEED=0)
	$(BIN)/python tests/stress/chaos.py --kills $(KILLS) --seed $(SEED)
	$(BIN)/python tests/stress/ranks.py --faults $(FAULTS) --seed $(SEED)

bench: .venv/bench.stamp .venv-bench/stamp  #dev measure speed and memory beside timm, transformers, OpenVINO
	$(BIN)/python benchmarks/peers.py --write docs/benchmarks.md

study: .venv/run.stamp  #dev train ConViT and three variants on parts of Fashion-MNIST (three to four hours; the same call continues)
	$(BIN)/python studies/fashion/run.py

study-timm: .venv-parity/stamp  #dev train a ConViT with passl and with timm on the same batches (about an hour; the same call continues)
	.venv-parity/bin/python studies/timm_training/run.py

.venv/run.stamp: requirements.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 10) <= v < (3, 13) else f"passl needs Python 3.10 to 3.12, not {v[0]}.{v[1]}; name one by make PYTHON=python3.11")'
	@echo "installing into .venv ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

.venv/dev.stamp: .venv/run.stamp tests/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

.venv-parity/stamp: requirements.txt tests/requirements.txt tests/parity/requirements.txt
	@$(PYTHON) -m venv .venv-parity
	@.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt -r tests/parity/requirements.txt
	@.venv-parity/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0 timm==1.0.31
	@touch $@

.venv-integrations/stamp: requirements.txt tests/requirements.txt tests/integrations/requirements.txt
	@$(PYTHON) -m venv .venv-integrations
	@.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt -r tests/integrations/requirements.txt
	@.venv-integrations/bin/python -m pip install --quiet --disable-pip-version-check --no-deps paddleseg==2.8.0 paddledet==2.6.0
	@touch $@

.venv/bench.stamp: .venv/run.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check paddle2onnx openvino || echo "no OpenVINO here: its rows will say so"
	@touch $@

.venv-bench/stamp: benchmarks/requirements.txt
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-deps torchvision==0.28.0 timm==1.0.31
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check openvino || echo "no OpenVINO here: its rows will say so"
	@touch $@
