# `make demo` and `make test` set up everything on a fresh machine with Python 3.11 or later, make and git.
PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-all lint clean

demo: .venv/installed  ## train FCOS on a built-in data set in a few minutes
	$(BIN)/python train.py experiment=shapes_demo

test: .venv/installed  ## all tests but the slow ones, which are counted at the end
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile -m "not slow"

test-all: .venv/installed  ## the whole suite
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

lint: .venv/installed  ## format, style, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

.venv/installed: pyproject.toml constraints.txt
	@echo "Installing into .venv: some minutes, 6 GB with PyTorch's CUDA libraries."
	@$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

clean:
	rm -rf .venv build src/*.egg-info
