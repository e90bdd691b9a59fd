# Everything from a fresh clone: `make demo` and `make test` each set up what they need first.
# On Debian they need python3, python3-venv and make, and nothing else.
#
#   TORCH=auto|cpu|cuda|none   which build of torch and torchvision; auto keeps what works, else picks for this machine
#   TORCH_INDEX=URL            take both from this package index
#   PYTHON=python3.12          the Python that makes the environment
#   VENV=.venv                 where it is made

PYTHON ?= python3
VENV ?= .venv
TORCH ?= auto
TORCH_INDEX ?=
OUT ?= demo

BIN := $(VENV)/bin
SETUP = @$(PYTHON) scripts/setup_env.py --venv "$(VENV)" --torch "$(TORCH)" --torch-index "$(TORCH_INDEX)"
# One torch thread for each of pytest's processes: more would only wait for each other.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test slow check format bench clean

help:  ## what there is to make
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | expand -t 12
	@sed -n '/^#   /s/^# *//p' Makefile | expand -t 28

setup:  ## the environment with what running needs
	$(SETUP)

setup-dev:  ## the environment with what developing needs
	$(SETUP) --extras dev

demo: setup  ## train, evaluate and report on the embedded digits: demo/report.html
	$(BIN)/rcnn demo --out "$(OUT)"

test: setup-dev  ## all tests but the slow ones
	$(PYTEST)

slow: setup-dev  ## the tests that train for minutes
	$(BIN)/python -m pytest -m slow

check: setup-dev  ## style, types and the floors that imports may not climb
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

format: setup-dev  ## let ruff put the style right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup-dev  ## the benchmarks against peers: bench.txt
	$(BIN)/python benchmarks/everything.py bench.txt

clean:  ## remove the environment and all that tools left behind
	rm -rf "$(VENV)" build dist src/*.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
