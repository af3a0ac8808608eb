# Needs only Python 3.11 or later, make and git. Everything is installed into $(VENV).
PYTHON ?= python3
VENV ?= .venv
RUN_DIR ?= runs/demo
JOBS ?= 2

BIN := $(VENV)/bin

.PHONY: help demo ablation test test-all test-exhaustive lint format wheel clean

help:
	@echo "make demo      train a teacher and students, draw the cascade's curves (minutes; $(RUN_DIR)/report.html)"
	@echo "make ablation  the demo with the keep-rule ablations (teacher, student, random)"
	@echo "make test      lint, types and tests"
	@echo "make test-all  the same with the exhaustive tests: every mesh, several processes, a SLURM cluster"
	@echo "make lint      ruff and pyright"
	@echo "make format    ruff format and import order"
	@echo "make wheel     build the wheel into dist/"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "cat-jax needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1): try make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

# A stamp per set of extras: installed again only when pyproject.toml changes.
$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing cat-jax[$*] into $(VENV): a few gigabytes, some minutes the first time."
	$(BIN)/python -m pip install --quiet --editable '.[$*]'
	@touch $@

demo: $(VENV)/.installed-demo
	$(BIN)/cat-jax run --gin_file=runs/demo.gin --gin.RUN_DIR='"$(RUN_DIR)"' --gin.JOBS=$(JOBS)

ablation: $(VENV)/.installed-demo
	$(BIN)/cat-jax run --gin_file=runs/demo_ablation.gin --gin.RUN_DIR='"runs/ablation"' --gin.JOBS=$(JOBS)

PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: lint
	$(PYTEST) -m "not exhaustive"

test-exhaustive: $(VENV)/.installed-test
	$(PYTEST) -m exhaustive

test-all: test test-exhaustive

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(BIN)/python
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist runs .pytest_cache *.egg-info
