# The commands of this project. The first call makes .venv; later ones reinstall only when pyproject.toml or
# constraints.txt changed. Every recipe uses relative paths, so that the checkout may lie in a path with spaces.

PYTHON ?= python3
PRESET ?= quick
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
NEWEST := .venv-newest
# dependency groups need pip 25.1; pinned, so that an install today and one next year do the same
PIP_VERSION := 26.3
# NVIDIA's management library is asked for clocks and throttling, where there is an NVIDIA driver
EXTRAS := $(if $(shell command -v nvidia-smi 2>/dev/null),[cuda])
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
INSTALL := $(PY) $(PIP_INSTALL) --constraint constraints.txt --build-constraint constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory
.PHONY: help run test test-fast test-gpu test-newest lint format schema doctor clean course book

help: ## show this list
	@echo "make TARGET [PYTHON=python3.12] [PRESET=smoke|quick|full] [ARGS='...']"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 18

run: $(VENV)/installed ## install, then run all four experiments on what the machine has
	@$(PY) -m fuselab run --preset $(PRESET) $(ARGS)

doctor: $(VENV)/installed ## what is here, what is missing and the command that mends it
	@$(PY) -m fuselab doctor $(ARGS)

test: $(VENV)/installed-test ## the whole test suite
	@$(PY) -m pytest $(ARGS)

test-fast: $(VENV)/installed-test ## the tests that neither compile nor start processes
	@$(PY) -m pytest -m "not slow and not gpu" $(ARGS)

# From the source tree: with PYTHON given, with what that Python has and nothing installed; else in .venv. Tests start
# programs in other directories, so that the path is absolute.
ifeq ($(origin PYTHON),file)
test-gpu: $(VENV)/installed-test ## the tests that need a GPU; PYTHON=... takes that Python's packages as they are
	@$(PY) -m pytest -m gpu $(ARGS)
else
test-gpu:
	@PYTHONPATH="$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) -m pytest -m gpu $(ARGS)
endif

test-newest: $(NEWEST)/installed ## the fast tests on the newest torch that pip installs, in .venv-newest
	@$(NEWEST)/bin/python -m pytest -m "not slow and not gpu" $(ARGS)

lint: $(VENV)/installed-dev ## ruff, mypy, import contracts
	@echo "ruff check" && $(PY) -m ruff check --quiet .
	@echo "ruff format --check" && $(PY) -m ruff format --check --quiet .
	@echo "mypy" && $(PY) -m mypy
	@echo "lint-imports" && $(VENV)/bin/lint-imports --no-logo

format: $(VENV)/installed-dev ## put everything into the house's format
	@$(PY) -m ruff check --fix --quiet . && $(PY) -m ruff format --quiet .

course: $(VENV)/installed-test ## run both notebooks of the course; fails on an error, a stale figure, drift from the sources
	@$(PY) -m fuselab.course.build --execute $(ARGS)

book: $(VENV)/installed-dev ## the course and the docs as one site, without a network: build/book/index.html
	@$(PY) -m sphinx --quiet --fail-on-warning --keep-going -b html -c docs . build/book $(ARGS)
	@echo "build/book/index.html"

schema: $(VENV)/installed ## write docs/schema.json from the records
	@$(PY) -c 'import json, fuselab.records; print(json.dumps(fuselab.records.json_schema(), indent=2))' > docs/schema.json

clean: ## remove the environments and caches; runs/ stays
	rm -rf .venv .venv-newest .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist

# $(call make-venv,DIRECTORY): a fresh environment with the pinned pip
define make-venv
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	echo "fuselab needs Python 3.11 to 3.13; $(PYTHON) is $$( { $(PYTHON) --version 2>/dev/null || echo missing; } | head -n 1 )." >&2; \
	echo "  make $(or $(MAKECMDGOALS),run) PYTHON=python3.12" >&2; exit 2; }
@echo "making $(1) with $$($(PYTHON) --version)"
@$(PYTHON) -m venv --clear $(1)
@$(1)/bin/python $(PIP_INSTALL) pip==$(PIP_VERSION)
endef

$(VENV)/made:
	$(call make-venv,$(VENV))
	@touch $@

$(VENV)/installed: $(VENV)/made pyproject.toml constraints.txt
	@echo "installing fuselab$(EXTRAS) (torch with CUDA is several GB where pip finds no smaller build)"
	@$(INSTALL) --editable ".$(EXTRAS)"
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	@echo "installing the test tools"
	@$(INSTALL) --group test
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed-test
	@echo "installing the linters"
	@$(INSTALL) --group dev
	@touch $@

# What most people get: the newest of everything that we stand on. Only the test tools are pinned.
$(NEWEST)/installed: pyproject.toml constraints.txt
	$(call make-venv,$(NEWEST))
	@echo "installing fuselab with the newest torch"
	@grep -E '^(pytest|pytest-timeout|hypothesis|scipy|jsonschema|prometheus-client)==' constraints.txt > $(NEWEST)/test-tools.txt
	@$(NEWEST)/bin/python $(PIP_INSTALL) --constraint $(NEWEST)/test-tools.txt --editable . --group test
	@$(NEWEST)/bin/python -c 'import importlib.metadata as m; print("torch", m.version("torch"), "triton", m.version("triton"))'
	@touch $@
