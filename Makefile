# The targets that continuous integration runs. PYTHON names the interpreter with ".[test]" installed, or
# ".[docs]" for the target docs.
PYTHON ?= python
WORKERS ?= -n 2 --dist loadfile

.PHONY: check format lint types contracts test test-x64 claims survey benchmarks docs

check: lint types contracts test test-x64

format:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lint:
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .

types:
	$(PYTHON) -m mypy

contracts:
	$(PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"

test:
	$(PYTHON) -m pytest $(WORKERS)

# With the process-wide flag on: everything in the rooms that open the double-precision scope, and the claims of those above.
FLAG_ROOMS = $(addprefix tests/,core duals curvature kernels)
ROOMS_ABOVE = $(addprefix tests/,arch predict train landscape paths features estimators survey)

test-x64:
	JAX_ENABLE_X64=1 $(PYTHON) -m pytest $(WORKERS) -m "not slow" $(FLAG_ROOMS)
	JAX_ENABLE_X64=1 $(PYTHON) -m pytest $(WORKERS) -m "not slow and claim" $(ROOMS_ABOVE)

claims:
	$(PYTHON) -m pytest $(WORKERS) --write-claims

survey:
	$(PYTHON) -m widescape survey

benchmarks:
	$(PYTHON) benchmarks/gram_fc.py
	$(PYTHON) benchmarks/conv.py
	$(PYTHON) benchmarks/tangent.py
	$(PYTHON) benchmarks/estimators.py
	$(PYTHON) benchmarks/landscape.py
	$(PYTHON) benchmarks/paths.py
	$(PYTHON) benchmarks/minima.py
	$(PYTHON) benchmarks/features.py

docs:
	$(PYTHON) -m sphinx -W --keep-going -n docs docs/_build
