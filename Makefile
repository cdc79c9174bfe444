# make demo       a tiny network on real digits, from teacher to spiking network, in minutes on two cores
# make test       format, lint, types, layers and tests; make test-slow runs the long tests as well
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-runs test-parts test-slow format clean

demo: .venv/.installed
	$(BIN)/snn-distill convert test_resnet --dataset digits --timesteps 4 --output runs/demo --overwrite
	$(BIN)/snn-distill eval runs/demo/student.safetensors

# The networks of the tests are too small for threads, which wait for each other wherever other work runs.
test test-slow: export OMP_NUM_THREADS = 1

test: .venv/.installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) -j2 --output-sync=target --no-print-directory test-runs test-parts

# Half of the time each, side by side: what runs whole conversions, and the rest.
test-runs:
	$(BIN)/pytest tests/pipeline

test-parts:
	$(BIN)/pytest --ignore=tests/pipeline

test-slow: .venv/.installed-test
	$(BIN)/pytest -m "(slow or zoo) and not gpu"

format: .venv/.installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

# Any 3.11 or newer does; the check comes first, as pip's own message about it is long.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("snn-distill needs Python 3.11 or newer, and $(PYTHON) is %d.%d; try make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e .
	touch $@

.venv/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install -e '.[test]'
	touch $@ .venv/.installed
