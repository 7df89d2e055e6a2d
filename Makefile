# Two commands do everything on a fresh machine: `make run` and `make test`. Each makes .venv when it is missing.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { command -v $$p; break; }; done)
BIN := .venv/bin
READY := $(BIN)/gridflow
PACKAGES := .venv/.ready
# Stages say `python`: the one of .venv, activated or not. Nothing that we start phones home.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export RAY_USAGE_STATS_ENABLED := 0
export YOLO_OFFLINE := true

# The tests run in two processes: one for those of the flows, which share a server and a pipeline, one for the others.
TWO := -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help run repro study ui test test-unit test-all test-slow test-nightly chaos lint format install clean

help: ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

run: $(READY) ## Run the pipeline (the main job): data in, model, predictions and report out
	@gridflow run $(ARGS)
	@test -z "$$(git status --porcelain dvc.lock params.yaml 2>/dev/null)" || echo -e \
		"\nTo keep this result in git: git add dvc.lock params.yaml && git commit -m 'Results of a run'; to share it: dvc push"

repro: $(READY) ## Run the same pipeline by DVC alone (dvc repro)
	@gridflow run --check && dvc repro $(ARGS)

study: $(READY) ## Measure the lecture's claims on small networks -> data/reports/study.html (about five minutes)
	@cmp -s study/pipeline.yaml study/dvc.yaml || cp study/pipeline.yaml study/dvc.yaml
	@gridflow run study/dvc.yaml:study_page $(ARGS)

ui: $(READY) ## Start the Prefect UI and serve the deployments
	@gridflow ui

test: $(READY) ## The tests: unit, data, model, flows (about a quarter of an hour on 2 cores)
	@python -m pytest $(TWO) -m "not slow and not nightly" $(ARGS)

test-unit: $(READY) ## The unit part of the tests (about two minutes)
	@python -m pytest $(TWO) -m "not slow and not nightly" tests/architecture tests/cnn_core tests/tasks $(ARGS)

test-slow: $(READY) ## The slow tests alone: kills, clusters, browsers, large inputs (about half an hour)
	@python -m pytest $(TWO) -m "slow and not nightly" $(ARGS)

test-nightly: $(READY) ## The tests that take minutes each, then `make chaos`; not part of test-all
	@python -m pytest $(TWO) -m nightly $(ARGS)
	@python -m bench.chaos

chaos: $(READY) ## 200 faults on a whole pipeline: what recovers, what is lost, what is left behind (hours)
	@python -m bench.chaos $(ARGS)

test-all: test test-slow ## All tests but the nightly ones

lint: $(READY) ## Check style, format and types
	@ruff check . && ruff format --check . && mypy

format: $(READY) ## Mend style and format
	@ruff check --fix . ; ruff format .

install: $(READY) ## Make .venv with everything in it (run and test do so by themselves)

# The command is the launcher's text below the line that names this environment's Python.
$(READY): flows/launcher.py $(PACKAGES)
	@{ echo "#!$(CURDIR)/$(BIN)/python"; cat $<; } > $@ && chmod +x $@
	@echo "The command is $(BIN)/gridflow; after \`source $(BIN)/activate\` it is gridflow. See gridflow --help."

$(PACKAGES): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Gridflow needs Python 3.11 or 3.12 on the PATH (or make PYTHON=/path/to/python)"; exit 1; }
	@command -v git >/dev/null || { echo "error: Gridflow needs git"; exit 1; }
	@test -x $(BIN)/python || { echo "Making .venv with $(PYTHON) ..."; $(PYTHON) -m venv .venv || { \
		echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; rm -rf .venv; exit 1; }; }
	@echo "Installing the packages of constraints.txt into .venv (about 7 GB; a few minutes) ..."
	@$(BIN)/python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb')); \
		print(*p['project']['dependencies'], *p['dependency-groups']['dev'], sep='\n')" > .venv/requirements.txt
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -r .venv/requirements.txt
	@touch $@

clean: ## Remove unfinished runs, logs, caches of tools; old experiments and results: gridflow clean --older-than 30d
	@test ! -d .gridflow || python -m flows.cli clean
	rm -rf .pytest_cache .ruff_cache .hypothesis
	find cnn_core tasks flows tests bench -name __pycache__ -prune -exec rm -rf {} +
