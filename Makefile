# Two commands for a fresh machine: `make quickstart` and `make test`. Both build .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test typecheck results docs clean

quickstart: .venv/runtime
	$(BIN)/python quickstart.py

test: .venv/development
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

typecheck: .venv/development
	$(BIN)/mypy

.venv/runtime: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/development: .venv/runtime requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

results: .venv/runtime
	$(BIN)/python benchmarks/reproduce.py

docs: .venv/runtime
	$(BIN)/python -m docs.make_pages

clean:
	rm -rf .venv results
