# The project's commands. `make run` and `make test` do all of their own set-up.

PYTHON := .venv/bin/python
PORT ?= 8000
export PATH := $(CURDIR)/.venv/bin:$(PATH)
MAKEFLAGS += --no-print-directory

.PHONY: help run test lint conformance soak bench setup-run setup-test setup-bench clean

help:
	@echo "make run          start the server with the demo page and live data on 127.0.0.1:$(PORT)"
	@echo "make test         lint, types and the whole test suite"
	@echo "make lint         only ruff and mypy"
	@echo "make conformance  the protocol suites of others (EVERYWIRE_SUITES says where they are)"
	@echo "make soak         what is too long for the suite"
	@echo "make bench        the figures: ours beside its peers"
	@echo "make clean        remove what the other commands made"

setup-run:
	@tools/setup.sh run

setup-test:
	@tools/setup.sh test

setup-bench:
	@tools/setup.sh bench

run: setup-run
	@exec $(PYTHON) -m everywire serve --dev --host 127.0.0.1 --port $(PORT) --feed machine

lint: setup-test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy --strict

# pytest comes last, so that the last line printed is its count of tests. Most tests wait for something most of
# the time; those that keep a core busy (browsers, the lab) are a group of their own, one after the other.
test: lint
	$(PYTHON) -m pytest -n 3 --dist loadgroup

conformance: setup-test
	$(PYTHON) tests/conformance/run.py

soak: setup-test
	$(PYTHON) -m pytest tests/soak

bench: setup-bench
	$(PYTHON) -m everywire.lab
	$(PYTHON) -m everywire.lab.brokers

clean:
	rm -rf .venv build dist lab/build results .mypy_cache .pytest_cache .ruff_cache .hypothesis
	rm -rf tests/browser/node_modules lab/peers/node_modules
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +
