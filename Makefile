# Two commands do all the set-up: `make demo` runs the main job, `make test` passes the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# torch comes first and by its exact version: an open range would pull in another build of it.
TORCH ?= torch==2.13.0
# Where pip finds torch, if not where it finds the rest: `make install TORCH_FLAGS="--index-url …"`.
TORCH_FLAGS ?=
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: install demo test test-slow test-soak check format clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.12 …")'
	@echo "setting up $(VENV): about two minutes and 2.5 GB, once"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) $(TORCH) $(TORCH_FLAGS)
	@$(PIP) --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	@$(BIN)/python -m jobs.demo

test: install
	@$(BIN)/python -m pytest -m "not slow and not soak"

# What takes minutes: killed processes, lost nodes, stores that misbehave, a cluster.
test-slow: install
	@$(BIN)/python -m pytest -m slow --durations=15

# What takes longer than CI has.
test-soak: install
	@$(BIN)/python -m pytest -m soak

check: install
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: install
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) demo build *.egg-info .mypy_cache .ruff_cache .pytest_cache
