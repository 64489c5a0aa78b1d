# Everything runs in .venv, which the first target sets up from constraints.txt with plain pip.
#   make demo    optimise one of the five examples for the RTX 4090 (no GPU needed)
#   make test    lint, types and all tests
#   make lint    lint and types alone
#   make soak    mutants, fuzzed inputs, kills, false alarms (on a GPU): the full counts, hours on two cores
# A GPU machine wants the CUDA build of torch: make test TORCH=torch==2.13.0

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The CPU build of the tested torch, by its local version: pip then either finds it or stops; it never takes a CUDA build.
TORCH ?= torch==$(shell sed -n 's/^torch==//p' constraints.txt)+cpu
JOBS ?= 2
DEMO_OUT := runs/demo

.PHONY: demo test lint soak clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/tilewright optimize examples/documents/multiply_global_mean.txt \
		--reference examples/multiply_global_mean.py --gpu 4090 --out $(DEMO_OUT)

# Types are checked beside the tests, which leave a core idle now and then.
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/mypy >$(VENV)/mypy.log 2>&1 & types=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -n $(JOBS) --dist worksteal; tests=$$?; \
	wait $$types; types=$$?; cat $(VENV)/mypy.log; \
	exit $$((tests > types ? tests : types))

soak: $(STAMP)
	$(BIN)/python -m benchmarks.soak all --jobs $(JOBS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$(TORCH)" || { echo "pip does not find $(TORCH): give it an index that has it (PIP_EXTRA_INDEX_URL), or take another build (make TORCH=torch==2.13.0)" >&2; exit 1; }
	$(BIN)/pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
