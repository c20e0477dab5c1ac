# The targets build what they need first: `make course` on a fresh checkout is enough.
PYTHON ?= python3
BIN := .venv/bin
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url

.PHONY: setup setup-dev course test lab figures bench-cpu bench-gpu lint pins clean

setup: .venv/course
setup-dev: .venv/dev

course: .venv/course
	$(BIN)/python -m helpers notebooks --profile smoke
	@echo "The executed notebooks are in build/notebooks; 'make lab' opens the course in JupyterLab."

test: .venv/dev
	$(BIN)/python -m pytest tests/test_gpu.py
	CUDA_VISIBLE_DEVICES= $(BIN)/python -m pytest --ignore tests/test_gpu.py

lab: .venv/course
	cd notebooks && ../$(BIN)/jupyter lab 00_start_here.ipynb

figures: .venv/course
	$(BIN)/python -m helpers figures
	$(BIN)/python -m helpers results

bench-cpu: .venv/course
	$(BIN)/python benchmarks/cpu.py

bench-gpu: .venv/course
	$(BIN)/python benchmarks/gpu.py

lint: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check

pins: .venv/dev
	$(COMPILE) $(UPGRADE) pyproject.toml --output-file requirements.txt
	$(COMPILE) $(UPGRADE) pyproject.toml --extra dev --constraints requirements.txt --output-file requirements-dev.txt

clean:
	test ! -d build || find build -mindepth 1 -maxdepth 1 -not -name runs -exec rm -r {} +
	rm -rf .venv
	@echo "What you recorded in build/runs is left; remove it by hand."

.venv/course: requirements.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@echo "Installing the course into .venv: a few minutes, in which nothing is printed, and 6 GB."
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --require-hashes -r requirements.txt
	$(BIN)/pip install --quiet --no-deps --editable .
	touch $@

.venv/dev: .venv/course requirements-dev.txt
	$(BIN)/pip install --quiet --require-hashes -r requirements-dev.txt
	touch $@
