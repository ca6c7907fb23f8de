# Two commands: `make demo` hears it, `make test` proves it. Both set up their own virtual environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Threads that spin while they wait take the cores from each other, and from ffmpeg.
export OMP_WAIT_POLICY ?= PASSIVE
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test lint types contracts pytest clean

NATIVE := hatch_build.py $(wildcard stemsplit/backends/native/*.[ch])

$(VENV)/.installed: pyproject.toml models.toml tests/oracles.txt $(NATIVE)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=23"
	$(PIP) install --quiet -e ".[test,lint]"
	$(PIP) install --quiet --no-deps -r tests/oracles.txt
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python tools/demo.py

test: $(VENV)/.installed lint types contracts pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tools/models_page.py --check || (echo "docs/models.md is stale: python tools/models_page.py"; false)

types: $(VENV)/.installed
	$(BIN)/mypy

contracts: $(VENV)/.installed
	$(BIN)/lint-imports --no-cache

# A process for each core, up to four: most tests use one thread.
pytest: $(VENV)/.installed
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis demo
