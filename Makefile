# Every target builds .venv by itself. TORCH=default takes the platform's own torch instead of the CPU build.
# CONFIG=file.yaml gives `make full` parameters that differ from those of its size.
PYTHON ?= python3
TORCH ?= cpu
PORT ?= 3000
VENV := .venv
BIN := $(VENV)/bin
DAGSTER_HOME ?= $(CURDIR)/.dagster
ATOMVISION_ROOT ?= $(CURDIR)/.atomvision
REQUIREMENTS := pyproject.toml $(wildcard requirements/*)

export DAGSTER_HOME ATOMVISION_ROOT
export DGLBACKEND = pytorch
export DAGSTER_DISABLE_TELEMETRY = 1
export SPGLIB_WARNING = OFF
export SPGLIB_OLD_ERROR_HANDLING = 0
export PYTHONUNBUFFERED = 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo full ui test test-all check bench doctor format clean
.DEFAULT_GOAL := help

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

demo: $(VENV)/.base $(DAGSTER_HOME)/dagster.yaml ## Materialise the whole graph on the embedded structures
	$(BIN)/python -m dagster_project.run demo

full: $(VENV)/.base $(DAGSTER_HOME)/dagster.yaml ## The same on the real databases found under ATOMVISION_SOURCES
	$(BIN)/python -m dagster_project.run full $(if $(CONFIG),--config $(CONFIG))

ui: $(VENV)/.base $(DAGSTER_HOME)/dagster.yaml ## Dagster's webserver and daemon on this machine's loopback
	ATOMVISION_AUTOMATION=RUNNING $(BIN)/dagster dev -w workspace.yaml -h 127.0.0.1 -p $(PORT)

test: $(VENV)/.dev ## The fast test tiers
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow and not gpu" $(PYTEST_ARGS)

test-all: $(VENV)/.dev ## Everything, slow proofs included
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

check: $(VENV)/.dev ## Lint, format, import direction, types, definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(VENV)/.bench ## Speed as ratios against named peers in the same run
	$(BIN)/atomvision bench

doctor: $(VENV)/.base ## What is installed, reachable and missing
	$(BIN)/atomvision doctor

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and caches; published data stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(DAGSTER_HOME)/dagster.yaml: dagster_project/deploy/dagster.yaml
	mkdir -p $(DAGSTER_HOME)
	cp $< $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python $(REQUIREMENTS)
	$(BIN)/python requirements/install.py --torch $(TORCH)
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(BIN)/python requirements/install.py --torch $(TORCH) --extra dev
	touch $@

$(VENV)/.bench: $(VENV)/.base
	$(BIN)/python requirements/install.py --torch $(TORCH) --extra bench
	touch $@
