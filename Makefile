# Every target works from a bare checkout: set-up runs first and is a no-op once done.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON := .venv/bin/python
PYTEST ?=# more arguments for pytest, such as PYTEST='-n 2 --dist loadfile' or PYTEST=tests/p2p

.PHONY: help setup demo test check bench demo-model format clean

help:  ## show these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv with everything in it, llama.cpp compiled for this machine
	@bash deploy/setup.sh

demo: setup  ## run a swarm of four daemons here, kill one in mid-answer, and show that nobody noticed
	@$(PYTHON) -m cli.demo

test: setup  ## run every test
	@$(PYTHON) -m pytest $(PYTEST)

check: setup  ## format, lint, types, and which package may import which
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy
	$(PYTHON) -m pytest -q tests/test_imports.py tests/test_house.py

bench: setup  ## measure a swarm on this machine beside its engine called directly
	@$(PYTHON) -m benchmarks

demo-model: setup  ## make the corpus of tether-demo, train it again, and print its scores
	$(PYTHON) -m pip install --quiet --editable '.[train]'
	$(PYTHON) -m inference.demo.train

format: setup  ## lay the code out and mend what the linter can
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

clean:  ## remove .venv, caches and results
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis benchmarks/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
