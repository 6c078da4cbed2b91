#!/usr/bin/env bash
# Everything that needs a GPU, in one command and under ten minutes. No GPU has run it so far. In stages: the golden
# digests; a billion random words through every rule, beside the CPU; the certificate; the tests marked gpu; speed. Each
# writes what it finds at once, is stopped when its time is up, and the next one begins whether it failed or not;
# summary.txt has a line for each.
#
#     PYTHON=python3 bench/gpu.sh [FOLDER]     results go to FOLDER, or build/gpu/results
#
# PYTHON names an interpreter, best one that has CuPy, and torch for its columns. What it lacks otherwise, pip installs
# into build/gpu/site: this package, pytest, and CuPy with NVIDIA's compiler NVRTC (CUPY='cupy-cuda13x[ctk]' for a driver of
# CUDA 13). A machine without a network takes them from a folder of wheels. Make it where there is one, with the same
# Python and on the same kind of processor, and carry it there:
#
#     python3 -m pip download -d wheels 'cupy-cuda12x[ctk]' numpy ml_dtypes pytest hypothesis expecttest \
#       scikit-build-core pybind11 cmake ninja
#     PIP_NO_INDEX=1 PIP_FIND_LINKS="$PWD/wheels" bench/gpu.sh
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
results=${1:-build/gpu/results}
mkdir -p "$results" build/gpu/site
export PYTHONPATH="$PWD/build/gpu/site" PYTHONUNBUFFERED=1 SAMESTEP_CACHE="$PWD/build/gpu/cache"
install() { "$python" -m pip install --quiet --upgrade --target build/gpu/site "$@"; }

"$python" -c 'import cupy' 2>/dev/null || install "${CUPY:-cupy-cuda12x[ctk]}" || exit
"$python" -c 'import cupy; cupy.cuda.runtime.getDeviceCount()' || exit # a GPU, or an error that says why there is none
isolation=()
if "$python" -c 'import pybind11, scikit_build_core' 2>/dev/null; then isolation=(--no-build-isolation); fi
install --no-deps "${isolation[@]}" . || exit
for package in numpy ml_dtypes pytest hypothesis expecttest; do
  "$python" -c "import $package" 2>/dev/null || install "$package" || exit
done

: >"$results/summary.txt"
failed=0
stage() { # NAME SECONDS COMMAND...
  local name=$1 limit=$2 code=0 begin=$SECONDS
  shift 2
  timeout "$limit" "$@" 2>&1 | tee "$results/$name.txt" || code=$?
  case $code in
    0) code=passed ;;
    124) code="stopped after $limit s" failed=1 ;;
    *) code="failed with status $code" failed=1 ;;
  esac
  echo "$name: $code, $((SECONDS - begin)) s" | tee -a "$results/summary.txt"
}

gpu_tests=("$python" -m pytest -q -rs -m gpu -W default tests/backends/gpu/test_gpu_device.py -k)
stage digests 130 "${gpu_tests[@]}" golden_digests
stage words 120 "$python" bench/bench_gpu_words.py "${WORDS:-1000000000}" --json "$results/words.json"
stage verify 60 "$python" -m samestep verify
stage tests 100 "${gpu_tests[@]}" "not golden_digests and not random_words and not verify" \
  tests/torch/test_torch_gpu_device.py
stage speed 120 "$python" bench/bench_gpu.py --json "$results/speed.json"
exit $failed
