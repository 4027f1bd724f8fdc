# Every target works from a bare checkout: set-up runs first, and does nothing once it is done.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV := .venv/bin/python
ARGS ?=# more arguments for what a target runs, such as make test ARGS='tests/p2p -k rpc'

.PHONY: help setup demo test check fuzz bench demo-model format clean

help:  ## show these lines
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## make .venv with everything in it, llama.cpp compiled for this machine
	@bash deploy/setup.sh

demo: setup  ## run four daemons here, kill one in mid-answer, and show that nobody noticed
	@$(VENV) -m cli.demo $(ARGS)

test: setup  ## run every test
	@$(VENV) -m pytest $(ARGS)

check: setup  ## format, lint, types, and which package may import which
	$(VENV) -m ruff format --check .
	$(VENV) -m ruff check .
	$(VENV) -m mypy
	$(VENV) -m pytest -q tests/test_imports.py tests/test_house.py

bench: setup  ## measure a swarm on this machine beside its engine called directly
	@$(VENV) -m pip install --quiet --editable '.[bench]'
	@$(VENV) -m benchmarks $(ARGS)

fuzz: setup  ## give every parser of outside bytes 20,000 drawn inputs, and two yamux sessions as many conversations
	.venv/bin/python -m pytest -q --hypothesis-profile=fuzz -m hypothesis -k "any_ or whatever or hostile or two_sessions" \
		tests/test_parsers.py tests/p2p tests/topics tests/inference tests/tetherd/gateway tests/tetherd/http tests/tetherd/identity

bench-%: setup  ## measure one thing of it, such as bench-join
	@$(VENV) -m pip install --quiet --editable '.[bench]'
	@$(VENV) -m benchmarks $* $(ARGS)

demo-model: setup  ## make the corpus of tether-demo, train it again, and print its scores
	$(VENV) -m pip install --quiet --editable '.[train]'
	$(VENV) -m inference.demo.train $(ARGS)
	$(VENV) -m inference.demo.evaluate

format: setup  ## lay the code out and mend what the linter can
	$(VENV) -m ruff format .
	$(VENV) -m ruff check --fix .

clean:  ## remove .venv, caches and results
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis benchmarks/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
