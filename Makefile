# make demo · make test · make test-torch · make lint · make clean
# Each sets up what it needs in .venv. PYTHON chooses the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE \
	$(wildcard csrc/*) $(shell find python -name '*.py' -o -name '*.pyi' -o -name '*.json' -o -name '*.html' -o -name '*.css' -o -name '*.js')

.PHONY: demo test test-torch lint clean

demo: .venv/demo.installed
	$(BIN)/samestep demo

test: .venv/test.installed lint
	$(BIN)/pytest -rs -n auto --dist worksteal tests samestep

# PyTorch's drop-ins, against torch itself and its own database of cases.
test-torch: .venv/torch-test.installed
	$(BIN)/pytest -rs -n auto --dist worksteal tests/test_torch_*.py samestep.torch

lint: .venv/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*.cpp csrc/*.cu tests/native/* bench/*.h bench/*.cpp

clean:
	rm -rf .venv build

# An install is redone when a source is newer than its mark; CMake then rebuilds what has changed. The other extra's
# mark goes with it, since both describe the one installed package.
.venv/%.installed: $(SOURCES) | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check --quiet '.[$*]'
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
