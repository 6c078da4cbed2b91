# make demo · make test · make test-all · make test-torch · make bench · make docs · make lint · make clean
# Each sets up what it needs in .venv. PYTHON chooses the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
	$(shell find csrc -type f) $(shell find python -name '*.py' -o -name '*.pyi' -o -name '*.json' -o -name '*.html' -o -name '*.css' -o -name '*.js')

.PHONY: demo test test-all test-torch bench docs lint clean

demo: .venv/demo.installed
	$(BIN)/samestep demo

# What every change runs, in some five minutes on two cores: all but the tests that compile the core again.
test: .venv/test.installed lint
	$(BIN)/pytest -rs -n auto --dist worksteal -m "not slow" tests samestep

# Everything: other compilers, processors and sanitizers as well, some half an hour.
test-all: .venv/test.installed lint
	$(BIN)/pytest -rs -n auto --dist worksteal tests samestep

# PyTorch's drop-ins, against torch itself and its own database of cases.
test-torch: .venv/torch-test.installed
	$(BIN)/pytest -rs -n auto --dist worksteal tests/torch samestep.torch

# The kernels without Python. BENCH: --quick, --cold, --threads N, --json FILE.
BENCH ?= --json build/bench/kernels.json
bench: .venv/test.installed
	$(BIN)/cmake -S . -B build/bench -DSAMESTEP_BENCH=ON >/dev/null
	$(BIN)/cmake --build build/bench --target bench_kernels bench_tax -j 2 >/dev/null
	build/bench/bench_kernels $(BENCH)
	build/bench/bench_tax $(filter --quick,$(BENCH))

# The site, into build/site; the build needs no network. Warnings fail it. `python -m http.server -d build/site` shows it.
docs: .venv/docs.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: .venv/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(shell find csrc -type f) tests/native/* bench/*.h bench/*.cpp

clean:
	rm -rf .venv build

# An install is redone when a source is newer than its mark; CMake then rebuilds what has changed.
.venv/%.installed: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check --quiet '.[$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
