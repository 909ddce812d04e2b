PYTHON ?= python3
VENV ?= .venv

PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
EVALUATION := $(VENV)/evaluation/.installed
DOCS := $(VENV)/.installed-docs

.PHONY: help demo test test-slow test-long lint docs notebook env clean

help:
	@echo "make demo       install everything and run the demonstration"
	@echo "make test       run the fast tests"
	@echo "make test-slow  run the tests marked slow, which CI does too"
	@echo "make test-long  run the tests marked long, which it does not"
	@echo "make lint       check style, formatting and types"
	@echo "make docs       build the documentation into build/site"
	@echo "make notebook   execute the notebook"
	@echo "make env        only install, into $(VENV)"
	@echo "make clean      remove $(VENV), caches and build outputs"
	@echo
	@echo "PYTHON=python3.13 picks the interpreter, VENV=DIR another environment."

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not one. Name one: make PYTHON=python3.13 ..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(EVALUATION): requirements-evaluation.txt $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/evaluation -r $<
	@touch $@

$(DOCS): requirements-docs.txt $(STAMP)
	$(PY) -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

env: $(STAMP)

demo: $(STAMP)
	$(PY) main.py --workdir=runs/demo-$$(date +%Y%m%d-%H%M%S)

test: $(EVALUATION)
	$(PY) -m pytest -n 2 --dist worksteal

# pytest exits with 5 when no test is marked slow.
test-slow: $(EVALUATION)
	$(PY) -m pytest -n 2 --dist worksteal -m "slow and not long" || [ $$? -eq 5 ]

test-long: $(EVALUATION)
	$(PY) -m pytest -n 2 --dist worksteal -m long

lint: $(STAMP)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict
	@echo "documentation  build/site/index.html"

notebook: $(DOCS)
	$(VENV)/bin/jupyter-execute examples/gsto.ipynb

# VENV may name any folder, so only what looks like an environment is removed.
clean:
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
