#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under ten minutes: the tests marked gpu, the certificate, the
# benchmark. PYTHON names an interpreter that has CuPy, and torch for its columns; what it lacks otherwise, pip installs
# into build/gpu (with PIP_NO_INDEX and PIP_FIND_LINKS set, from a folder of wheels).
#
#     PYTHON=python3 bench/gpu.sh [FOLDER]     results go to FOLDER, or build/gpu/results
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=${1:-build/gpu/results}
mkdir -p "$results" build/gpu/site
"$python" -c 'import cupy; cupy.cuda.runtime.getDeviceCount()' # a GPU and CuPy, or an error that says why not

isolation=()
if "$python" -c 'import pybind11, scikit_build_core' 2>/dev/null; then isolation=(--no-build-isolation); fi
"$python" -m pip install --quiet --upgrade --no-deps "${isolation[@]}" --target build/gpu/site .
"$python" -c 'import pytest' 2>/dev/null || "$python" -m pip install --quiet --target build/gpu/site pytest
export PYTHONPATH="$PWD/build/gpu/site" PYTHONUNBUFFERED=1 SAMESTEP_CACHE="$PWD/build/gpu/cache"

failed=0
timeout 300 "$python" -m pytest -q -rs -m gpu -W default tests/backends/gpu/test_gpu_device.py 2>&1 | tee "$results/tests.txt" || failed=1
timeout 120 "$python" -m samestep verify 2>&1 | tee "$results/verify.txt" | tail -n 2 || failed=1
timeout 150 "$python" bench/bench_gpu.py --json "$results/bench.json" 2>&1 | tee "$results/bench.txt" || failed=1
exit $failed
