# What needs .venv makes it first when it is missing or older than what it is made from.
# BASE_PYTHON: what .venv is made with (3.11 or 3.12). PORT: the cluster's dashboard and job submission.
BASE_PYTHON ?= python3
PORT ?= 8265
DEMO_NAME ?= demo-$(shell date +%Y%m%d-%H%M%S)
DEMO_NAME := $(DEMO_NAME)
BIN = .venv/bin
PYTHON = $(BIN)/python
STAMP = .venv/.installed
LOCK = requirements.lock
HEAD = $(PYTHON) -m l2l_ray.actors.head
SUBMIT = . .ray/env && $(BIN)/ray job submit -- python jobs/selfevolve.py

# Compiled files are kept: without them every test process, and every actor that one starts, compiles all of it again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install demo compare smoke chaos test test-slow test-gpu test-with check audit format cluster-up cluster-down clean

install: $(STAMP)

# torch first and alone: where the machine offers a CPU build of this version, that one is taken. Nothing is compiled
# ahead, which takes as long as the rest: Python compiles, and keeps, what is imported.
$(STAMP): pyproject.toml $(LOCK)
	test -x $(PYTHON) || $(BASE_PYTHON) -m venv .venv
	$(PYTHON) -m pip install -q --no-compile -c $(LOCK) torch
	$(PYTHON) -m pip install -q --no-compile -c $(LOCK) -e '.[ray,storage,dev]'
	@touch $@

# The cluster goes down whatever happens to the job; `make` ends with the job's exit code.
demo: $(STAMP)
	@trap '$(HEAD) down' EXIT; trap 'echo "stopped; continue with: make demo DEMO_NAME=$(DEMO_NAME)"; exit 130' INT TERM; \
	$(HEAD) up $(PORT) && $(SUBMIT) --resume_if_begun --name $(DEMO_NAME) --compare '["supervised","fixed_threshold"]'

# Every row of benchmarks/compare, five seeds: days on two cores. It goes on where it stopped; ARGS="--list" says how far it is,
# ARGS="--smoke" shows in minutes that it works, ARGS="--help" what else there is.
compare: $(STAMP)
	L2L_HOME=$${L2L_HOME:-$(CURDIR)/runs} $(PYTHON) -m benchmarks.compare $(ARGS)

# The whole loop, shrunk: in one process, then on Ray.
smoke: $(STAMP)
	@set -eu; home=$$(mktemp -d); trap '$(HEAD) down; rm -rf $$home' EXIT; trap 'exit 130' INT TERM; \
	$(BIN)/l2l run --preset smoke --name smoke-local --run_root $$home; \
	$(HEAD) up $(PORT); \
	$(SUBMIT) --preset smoke --name smoke-ray --run_root $$home

# Random kills and stops, seeded, on runs of the main job: half an hour or more. ARGS="--help" says what there is.
chaos: $(STAMP)
	$(PYTHON) -m benchmarks.chaos $(ARGS)

test: $(STAMP)
	$(PYTHON) -m pytest -q -n 3 --dist loadfile --no-loadscope-reorder

# Kills, hangs and damage of whole runs, a sweep that is killed, and whatever else takes minutes: half an hour.
test-slow: $(STAMP)
	$(PYTHON) -m pytest -q -m slow

test-gpu: $(STAMP)
	$(PYTHON) -m pytest -q -m gpu

# Networks, priors, selectors and the loop without Ray, under other versions of torch and transformers; by default the
# oldest that pyproject.toml allows. What libraries of another day call deprecated is no failure. 5 GB of downloads.
TORCH ?= 2.11.0
TRANSFORMERS ?= 5.17.0
OTHER = .with/torch-$(TORCH)-transformers-$(TRANSFORMERS)
test-with:
	test -x $(OTHER)/bin/python || $(BASE_PYTHON) -m venv $(OTHER)
	$(OTHER)/bin/pip install -q torch==$(TORCH) 'transformers[serving]==$(TRANSFORMERS)' -e '.[lora,onnx]' \
	  beartype hypothesis pytest pytest-timeout pytest-xdist python-multipart
	$(OTHER)/bin/python -m pytest -q -o filterwarnings=default tests/data tests/refshapes tests/prior tests/segmenter \
	  tests/selector tests/loop tests/embedded tests/test_predictor.py tests/test_saved_model.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell

# Known holes in what the lock file names. It asks PyPI's advisories, so it needs the network; with --strict, what could
# not be looked up is a failure and not a pass.
audit:
	test -x .audit/bin/pip-audit || { $(BASE_PYTHON) -m venv .audit && .audit/bin/pip install -q pip-audit; }
	.audit/bin/pip-audit --strict --no-deps --disable-pip -r $(LOCK)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(PYTHON) docs/tree.py
	$(PYTHON) docs/config_page.py
	$(PYTHON) docs/glossary_page.py
	$(PYTHON) docs/results_page.py
	$(PYTHON) deploy/monitoring/dashboard.py

cluster-up: $(STAMP)
	@$(HEAD) up $(PORT)
	@echo 'then:  .venv/bin/ray job submit -- python jobs/selfevolve.py    or:  .venv/bin/python jobs/selfevolve.py'

cluster-down:
	@$(HEAD) down

clean:
	@$(HEAD) down 2>/dev/null || true
	rm -rf .ray .audit .mypy_cache .ruff_cache .pytest_cache .hypothesis
