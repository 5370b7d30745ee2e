# INCL. `make help` lists the targets. Everything is installed into ./.venv from the hash-checked locks.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PY := .venv/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input -q
DISTRIBUTIONS := shared client services/provisioner services/agent services/tracker services/registry services/gateway services/hpo deploy/local
EDITABLE := $(addprefix -e ./,$(DISTRIBUTIONS))
SOURCES := $(addsuffix /src,$(DISTRIBUTIONS))
PYPROJECTS := $(addsuffix /pyproject.toml,$(DISTRIBUTIONS))
unexport PYTHONDONTWRITEBYTECODE
unexport PYTHONPATH

.PHONY: help demo install up test chaos check format contracts docs lock bench clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: .venv/runtime.stamp ## start the platform here, train a real model on it, and show what happens
	@$(PY) -m incl_local.demo

install: .venv/runtime.stamp ## all that runs, into ./.venv; then .venv/bin/incl works
	@echo "installed: .venv/bin/incl --help"

up: .venv/runtime.stamp ## the platform on this machine, in the foreground
	@.venv/bin/incl up

test: .venv/dev.stamp check ## all checks and all tests
	@$(PY) -m pytest -q -n 3 --dist loadfile

chaos: .venv/dev.stamp ## every victim, fault and phase on a real platform (about half an hour)
	@INCL_CHAOS=all $(PY) -m pytest -q -s tests/chaos

check: .venv/dev.stamp ## ruff, mypy --strict, import-linter, house rules, contracts
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet . || { echo "error: some files are not formatted"; echo "hint: make format"; exit 1; }
	@$(PY) tools/house.py
	@.venv/bin/lint-imports --no-cache > .venv/lint-imports.log 2>&1 || { cat .venv/lint-imports.log; exit 1; }
	@$(PY) -m mypy
	@$(PY) -m pytest -q -x tests/contract

format: .venv/dev.stamp ## format the code
	@$(PY) -m ruff format --quiet .
	@$(PY) -m ruff check --fix --quiet .

contracts: .venv/dev.stamp ## freeze new events and queries, write docs/events.md
	@$(PY) -m incl_shared.contracts docs/events.md

docs: contracts ## every generated page
	@$(PY) -m incl_cli.docs docs/cli.md
	@$(PY) -m incl_shared.auth.page docs/mechanisms/credentials.md

lock: .venv/dev.stamp ## resolve the requirements anew
	@$(PY) tools/lock.py

bench: .venv/dev.stamp ## NAME=submit|queue|fleet|start|pack|log|ingest|list|chart|fair|output|gang|chaos|faults|ask|search|sweep|sweep_large|asha: one benchmark; its last line is JSON
	@$(PY) benchmarks/run.py $(NAME)

clean: ## remove what make made (not your data)
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/bin/python:
	@command -v "$(PYTHON)" >/dev/null || { echo "error: no python3"; echo "hint: install Python 3.11 or newer"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11"; echo "hint: make PYTHON=python3.11 …"; exit 1; }
	@"$(PYTHON)" -m venv .venv || { echo "error: no venv could be made"; echo "hint: on Debian: apt-get install python3-venv"; exit 1; }

.venv/runtime.stamp: .venv/bin/python requirements.lock $(PYPROJECTS)
	@echo "installing into .venv (the first time takes about a minute)" >&2
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation $(EDITABLE)
	@$(PY) -m compileall -q $(SOURCES)
	@touch $@

.venv/dev.stamp: .venv/runtime.stamp requirements-dev.lock
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@touch $@
