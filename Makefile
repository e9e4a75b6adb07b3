# Two commands for a fresh machine: `make quickstart` and `make test`. Both build .venv first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test results tables figures clean

quickstart: .venv/runtime
	$(BIN)/python quickstart.py

test: .venv/development
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist loadfile

.venv/runtime: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/development: .venv/runtime requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

results: .venv/runtime
	$(BIN)/python benchmarks/reproduce.py
	$(MAKE) tables figures

tables: .venv/runtime
	$(BIN)/python benchmarks/readme_tables.py

FIGURES := $(addprefix docs/results/, \
	mnist_masked_band.json interval_mnist_p22.json interval_mnist_p55.json mnist_masked_band_training.jsonl)

figures: .venv/runtime
	$(BIN)/python figures.py $(FIGURES) --out docs/figures

clean:
	rm -rf .venv results
