# make demo · make test · make test-all · make test-torch · make test-jax · make debug · make bench · make docs · make lint
# make wheels · make test-wheels · make test-other-systems · make test-free-threaded · make clean
# Each sets up what it needs in .venv. PYTHON chooses the interpreter that .venv is made with.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := pyproject.toml CMakeLists.txt README.md LICENSE $(wildcard licenses/*) \
	$(shell find csrc -type f) $(shell find python -name '*.py' -o -name '*.pyi' -o -name '*.json' -o -name '*.html' -o -name '*.css' -o -name '*.js')

.PHONY: demo test test-all test-torch test-jax test-free-threaded debug bench docs lint wheels test-wheels \
	test-other-systems clean

demo: .venv/demo.installed
	$(BIN)/samestep demo

# What every change runs, in some five minutes on two cores: the grid of rules on the best instruction set, the
# certificate on all, and no test that compiles kernels again, the GPU's among them. The drop-ins have commands of their
# own, also where torch and jax are installed.
APART := --ignore=tests/torch --ignore=tests/jax --ignore-glob='*/samestep/torch/*' --ignore-glob='*/samestep/jax/*'
test: .venv/test.installed lint
	$(BIN)/pytest -rs -n auto --dist worksteal -m "not slow and not more" $(APART) tests samestep

# Everything, some 40 minutes on two cores: other compilers, processors and sanitizers as well, PyTorch's
# drop-ins and processes of torch.distributed and MPI where these can be installed, and a sample of the seeded faults,
# each of which must fail a test.
test-all: .venv/test.installed lint
	$(MAKE) .venv/mpi-test.installed || echo "SKIPPED: MPI could not be installed, and so nothing was tested under mpirun"
	$(BIN)/pytest -rs -n auto --dist worksteal $(APART) tests samestep
	if $(MAKE) .venv/torch-test.installed; then $(MAKE) test-torch; \
	else echo "SKIPPED: torch could not be installed, and so its drop-ins were not tested"; fi
	if $(MAKE) .venv/jax-test.installed; then $(MAKE) test-jax; \
	else echo "SKIPPED: jax could not be installed, and so its optimizers were not tested"; fi
	$(BIN)/python tests/support/mutate.py --sample 4

# The drop-ins, against torch itself and its own database of cases, and workers that torch.distributed joins. Threads of
# OpenMP that wait do not spin: the tests of the other processes run.
test-torch: .venv/torch-test.installed
	OMP_WAIT_POLICY=passive $(BIN)/pytest -rs -n auto --dist worksteal tests/parallel/test_processes.py \
	  tests/parallel/test_parallel_examples.py samestep.parallel.torch_group tests/torch samestep.torch

# On a CPython without a global interpreter lock: each test in two threads at once, but those that cannot be, which say
# why with -v. FREE_PYTHON: 3.13t or later; tools/interpreters.py builds 3.13t and 3.14t, and the newest one is taken.
# FREE_TESTS: what to run. glibc gives large arrays back when they are freed; else each of the tests' threads leaves
# megabytes behind.
FREE_PYTHON ?= $(or $(lastword $(sort $(wildcard build/pythons/3.*t/bin/python3.*t))),build/pythons/3.14t/bin/python3.14t)
FREE_TESTS ?= -m "not slow" --ignore=tests/torch tests samestep
FREE := build/free-threaded/bin
test-free-threaded: build/free-threaded/installed
	PYTHON_GIL=0 MALLOC_MMAP_THRESHOLD_=131072 $(FREE)/pytest -rs -n 2 --dist worksteal --parallel-threads=2 --iterations=1 $(FREE_TESTS)

build/free-threaded/installed: $(SOURCES)
	$(FREE_PYTHON) -m venv build/free-threaded
	$(FREE)/pip install --disable-pip-version-check --quiet --only-binary :all: numpy ml_dtypes scipy scikit-learn tqdm \
	  matplotlib packaging pytest pytest-run-parallel pytest-xdist hypothesis # safetensors has no wheel for it
	$(FREE)/pip install --disable-pip-version-check --quiet .
	touch $@

# The optimizers in JAX, against samestep's own, and the tests that optax has for its.
test-jax: .venv/jax-test.installed
	$(BIN)/pytest -rs -n auto --dist worksteal tests/jax samestep.jax

# The core at -O1 with debug information, and the sanitizers of addresses and undefined behaviour. TESTS: what to run.
# A sanitizer ends the process, and with it what pytest has captured; --capture=sys leaves its report on the screen.
TESTS ?= tests/backends/test_rules.py tests/optim/test_optimizer.py
SANITIZERS := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
debug: .venv/test.installed
	$(BIN)/pip install --disable-pip-version-check --quiet --no-deps --upgrade --target build/debug/site \
	  -C build-dir=build/debug/cmake -C cmake.build-type=Debug -C install.strip=false \
	  -C cmake.define.CMAKE_CXX_FLAGS="$(SANITIZERS)" .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so.6)" ASAN_OPTIONS=detect_leaks=0 \
	  PYTHONPATH=build/debug/site $(BIN)/pytest -p no:cacheprovider --capture=sys $(TESTS)

# The kernels without Python. BENCH: --quick, --cold, --threads N, --json FILE.
BENCH ?= --json build/bench/kernels.json
bench: .venv/test.installed
	$(BIN)/cmake -S . -B build/bench -DSAMESTEP_BENCH=ON $(SKBUILD_CMAKE_DEFINE:%=-D%) >/dev/null
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

# Of the commit, into build/wheels/dist: manylinux and musllinux, x86_64 and aarch64, for each CPython on the PATH.
# WHEELS: --python PATH ..., --platform NAME ..., --jobs N, --twice (each is built again, and has the same hash).
WHEELS ?=
wheels:
	$(PYTHON) tools/wheels.py $(WHEELS)

# Each of them prints the certificate where there is no compiler: here, or under qemu; ONLY: a word of their names.
ONLY ?=
test-wheels:
	$(PYTHON) tools/test_wheels.py --only "$(ONLY)"

# The core for Windows and macOS, by zig, into build/other-systems; Windows on x86_64 runs, under wine. OTHER: --compile,
# --only WORD.
OTHER ?=
test-other-systems:
	$(PYTHON) tools/other_systems.py $(OTHER)

clean:
	rm -rf .venv build

# An install is redone when a source is newer than its mark, and CMake then rebuilds what has changed: in an isolated
# environment, new for each install, scikit-build-core would begin from nothing.
# Where jax is, the core is compiled for it, whatever the install is for.
.venv/%.installed: export SAMESTEP_JAX = $(if $(filter jax-test,$*)$(wildcard .venv/jax-test.installed),1,0)
.venv/%.installed: $(SOURCES) .venv/build.tools | $(BIN)/python
	test $$SAMESTEP_JAX = 0 || $(BIN)/pip install --disable-pip-version-check --quiet 'jaxlib>=0.10'
	$(BIN)/pip install --disable-pip-version-check --quiet --no-build-isolation --check-build-dependencies '.[$*]'
	touch $@

.venv/build.tools: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --disable-pip-version-check --quiet scikit-build-core pybind11 cmake ninja
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv .venv
