# Two commands for a fresh machine: `make quickstart` and `make test`. Both build .venv first.

PYTHON ?= python3
BIN := .venv/bin
DATA ?= data

.PHONY: quickstart test test-oldest typecheck results results-locked tables figures pages docs clean

quickstart: .venv/runtime
	$(BIN)/python quickstart.py

test: .venv/development
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -n 2 --dist worksteal

typecheck: .venv/development
	$(BIN)/mypy

.venv/runtime: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@

.venv/development: .venv/runtime requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	touch $@

test-oldest: .venv-oldest/development
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal

.venv-oldest/development: requirements-oldest.txt requirements.txt
	python3.11 -m venv --clear .venv-oldest
	.venv-oldest/bin/pip install --quiet -r requirements.txt -r requirements-oldest.txt
	touch $@

# make results DATA=DIR: into results/, which git ignores; `tables`, `figures` and `pages` rewrite what git keeps.
results: .venv/runtime
	$(BIN)/python benchmarks/reproduce.py --data "$(DATA)" --output results

tables: .venv/runtime
	$(BIN)/python benchmarks/readme_tables.py

FIGURES := $(addprefix docs/results/, \
	cifar_joint_test.json cifar_masked_band.json mnist_joint_test_quarter.json mnist_joint_8x6_test.json \
	mnist_masked_band.json \
	interval_mnist_p22.json interval_mnist_p55.json mnist_masked_band_training.jsonl)

ALARMS := $(addprefix docs/results/, imagenet_lite0_2.json imagenet_lite0_2_k3.json imagenet_lite2_2.json)

figures: .venv/runtime
	$(BIN)/python figures.py $(FIGURES) --out docs/figures
	$(BIN)/python figures.py $(ALARMS) --out docs/figures/pretrained

pages: .venv/runtime
	$(BIN)/python -m docs.make_pages
	$(BIN)/python -m docs.make_field

docs: .venv/development pages
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site . site
	@echo site/docs/site/index.html

results-locked: .venv-locked/runtime
	.venv-locked/bin/python benchmarks/reproduce.py --data "$(DATA)" --output results

.venv-locked/runtime: requirements.lock
	python3.11 -m venv --clear .venv-locked
	.venv-locked/bin/pip install --quiet --require-hashes --no-deps -r requirements.lock
	touch $@

clean:
	rm -rf .venv .venv-oldest .venv-locked results site
