# `make demo` and `make test` work on a machine that has only Python 3.11: the first one that runs makes .venv.
SHELL := /bin/bash
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# One test process a core; tests/conftest.py says which tests stay together.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadgroup

.PHONY: install demo test test-all lint format bench constraints clean help

help:
	@echo "make demo      train both architectures on number words, export, verify, generate, compare (about 5 minutes)"
	@echo "make test      the tests without the slow ones"
	@echo "make test-all  every test"
	@echo "make lint      ruff, mypy, import contracts"
	@echo "make bench     speed beside transformers, CTranslate2, optimum-onnx, onnxruntime-genai, llama.cpp (an hour and more)"
	@echo "make install   $(VENV) with everything the above need"
	@echo "make clean     remove $(VENV), caches and build outputs"

install: $(READY)

# The stamp is newer than what it was made from, or the environment is brought up to date.
$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "litseq needs Python 3.11 or newer; found: $$("$(PYTHON)" --version). Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,serve,dev]'
	touch $@

demo: $(READY)
	$(BIN)/litseq demo --out runs/demo --gallery exports --force

test: $(READY)
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL)

test-all: $(READY)
	$(BIN)/python -m pytest $(PARALLEL)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	PYTHON="$(PYTHON)" benchmarks/peers/setup.sh
	$(BIN)/python benchmarks/peers --out docs

# From a fresh environment, so that nothing of an old one is pinned.
constraints:
	rm -rf $(VENV)-constraints
	"$(PYTHON)" -m venv $(VENV)-constraints
	$(VENV)-constraints/bin/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0' '.[train,serve,bench,dev]'
	{ sed -n '/^#/p' constraints.txt; $(VENV)-constraints/bin/python -m pip freeze --exclude litseq | sed 's/+cpu$$//'; } > constraints.new
	mv constraints.new constraints.txt
	rm -rf $(VENV)-constraints

clean:
	rm -rf $(VENV) $(VENV)-light benchmarks/peers/environments .pytest_cache .mypy_cache .ruff_cache .import_linter_cache build dist runs
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
