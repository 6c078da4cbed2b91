"""Seeded faults: how many of them does the suite catch? Each is one small change of the kind that breaks
bits without breaking anything that a person would see.

    python tests/support/mutate.py [--only TEXT] [--sample N] [--json]

A copy of the tree is built and tested with each fault in turn. The check at import is taken out of the
copy, so that the score is the tests' own. Prints a line a fault, with the command that catches it,
and the score; exit 1 below 95 %. The tests that failed must pass once the faults are out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
COPY = ROOT / "build" / "mutants"
GOAL = 0.95
QUICK = "not slow and not more"  # what make test runs


class Fault(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: str = "test_golden.py"  # that should catch it; if they do not, the tests around them are tried


PRODUCT, PIECES = "csrc/contract/product.h", "csrc/isa/product.h"
LEAVES, SPREAD, TREE = "csrc/contract/leaves.h", "python/samestep/spread.py", "python/samestep/tree.py"
SPREAD_MSE = "python/samestep/problems/spread.py"
CONVOLUTION, CONVOLUTIONS = "csrc/contract/convolution.h", "csrc/isa/convolution.h"
FINGERPRINT, HASHES, STEP_CHECK = (
    "csrc/contract/fingerprint.h",
    "csrc/isa/run_hashes.h",
    "csrc/run/step_check.cpp",
)
RECORDED, RECORDS = "python/samestep/optim/recorded.py", "python/samestep/ledger/records.py"
REPLAYED = "python/samestep/replay/steps.py"
RULES, BATCHNORM, SUMS, MSE, FUNCTIONS = (
    "csrc/contract/rules.h",
    "csrc/contract/batchnorm.h",
    "csrc/contract/sums.h",
    "csrc/contract/mse.h",
    "csrc/contract/functions.h",
)
FAULTS = (
    Fault("contraction on", "CMakeLists.txt", "-ffp-contract=off", "-ffp-contract=fast"),
    Fault("reassociated mean", RULES, "m = (b1 * m) + (o1 * g);", "m = m + (o1 * (g - m));"),
    Fault("reassociated step", RULES, "w = w - (step * q);", "w = w - ((step * m) / den);"),
    Fault("reassociated square", RULES, "r = (rho * r) + (o * (g * g));", "r = (rho * r) + ((o * g) * g);"),
    Fault("reciprocal for division", RULES, "T q = m / den;", "T q = m * (T(1) / den);"),
    Fault("tail by another operation", "csrc/isa/isa.cpp",
          "step(rule, W(w[i]), W::read(g[i]), S(states[i])...);",
          "step(rule, W(w[i]), W::read(g[i]), S(states[i])...);\n"
          "  if constexpr (sizeof(*w) == 4) if (n % 16) w[n - 1] = w[n - 1] + 0;", "test_rules.py"),
    Fault("float32 for float64 in a scalar", RULES, "T(rho), T(1.0 - rho)", "T(rho), T(1) - T(rho)"),
    Fault("pow for the binary powering", RULES, "double result = 1.0;",
          "return __builtin_pow(base, static_cast<double>(t));\n  double result = 1.0;"),
    Fault("powering stops one short", RULES, "for (; t > 0; t >>= 1)", "for (; t > 1; t >>= 1)"),
    Fault("32-bit step counter", RULES, "inline HD double power(double base, long long t) {",
          "inline HD double power(double base, int t) {", "test_rules.py"),
    Fault("first step of torch's momentum", RULES, "T(momentum), t == 1}", "T(momentum), t == 0}"),
    Fault("momentum for the next momentum", RULES, "T u = (a_next * v) - t;", "T u = (a * v) - t;"),
    Fault("eps on the other side", RULES, "(root(v) * k) + eps", "(root(v) + eps) * k"),
    Fault("step counted late", "csrc/run/plan.cpp", "Index t = steps_[i] + 1;", "Index t = steps_[i] + (steps_[i] == 0);"),
    Fault("an element lost between work items", "csrc/run/plan.cpp",
          "segments.push_back({i, begin, end});", "segments.push_back({i, begin, end - (end < t.size)});"),
    Fault("guard missing in workers", "csrc/run/threads.cpp", "    FpMode mode;\n", "", "test_fp_mode.py"),
    Fault("guard missing around the scalars", "csrc/run/plan.cpp", "    FpMode mode;\n", "", "test_fp_mode.py"),
    Fault("guard flushes subnormals", "csrc/run/fp_mode.h", "kMode = 0x1f80", "kMode = 0x9fc0"),
    Fault("guard does not restore", "csrc/run/fp_mode.h", "if (__builtin_ia32_stmxcsr() != saved_)", "if (false)",
          "test_fp_mode.py"),
    Fault("guard takes any rounding", "csrc/run/fp_mode.h", "kFlags = 0x3f", "kFlags = 0x603f", "test_fp_mode.py"),
    Fault("guard leaves its exception flags", "csrc/run/fp_mode.h", "if (__builtin_ia32_stmxcsr() != saved_)",
          "if ((__builtin_ia32_stmxcsr() ^ saved_) & ~kFlags)", "test_fp_mode.py"),
    Fault("< for <= in ReLU", BATCHNORM, "if constexpr (relu) y = y <= X{} ? X{} : y;", "if constexpr (relu) y = y < X{} ? X{} : y;",
          "test_batchnorm.py"),
    Fault("max for select in ReLU", BATCHNORM, "if constexpr (relu) y = y <= X{} ? X{} : y;", "if constexpr (relu) y = y > X{} ? y : X{};",
          "test_batchnorm.py"),
    Fault("< for <= in ReLU's mask", BATCHNORM, "(xc, j) <= X{} ? X{} : dy", "(xc, j) < X{} ? X{} : dy", "test_batchnorm.py"),
    Fault("variance not shifted", BATCHNORM, "first - first == T(0) ? first : T(0)", "T(0)"),
    Fault("variance rounded too early", BATCHNORM, "double inv = 1.0 / root(var + b.eps);",
          "double inv = 1.0 / root(static_cast<double>(T(var)) + b.eps);"),
    Fault("swapped lanes", SUMS, "lane[s][j] = lane[s][j] + lane[s][j + half];",
          "lane[s][j] = lane[s][j] + lane[s][j + (half ^ 1) % half];"),
    Fault("lanes halved from the other end", SUMS, "lane[j] = lane[j] + lane[j + half * width];",
          "lane[j] = lane[j] + lane[2 * half * width - 1 - j];", "test_sums.py"),
    Fault("one block of a stream for all", SUMS, "i + b * kSumBlock, kGroups, lanes[b]", "i, kGroups, lanes[b]", "test_sums.py"),
    Fault("blocks added in a row, not in pairs", SUMS, "for (Index step = 1; step < n; step *= 2) {\n    for (Index i = 0; i + step < n; i += 2 * step) {",
          "for (Index step = 1; step < n; step += 1) {\n    for (Index i = 0; i < 1; i += 1) {"),
    Fault("the sums of blocks of another row", "csrc/run/sums.cpp", "double* row = sums + o * blocks * inner;",
          "double* row = sums + (o & ~1) * blocks * inner;", "test_sums.py"),
    Fault("sums of workers added as they come", TREE, "while first % (2 << height) == 0 and", "while", "test_tree.py"),
    Fault("a cut within a block let through", SPREAD, "if count % SUM_BLOCK:", "if count % 32:", "test_spread_sums.py"),
    Fault("rows of a batch from another worker's place", SPREAD_MSE, "local = rows[mine] - self._firsts[rank]",
          "local = rows[mine] - self._firsts[rank] * (rank != 1)", "test_spread_mse.py"),
    Fault("a mean over a worker's own rows", SPREAD_MSE, "holders, count = blocks_of(self._counts), int(self._firsts[-1])",
          "holders, count = blocks_of(self._counts), max(1, len(self._y))", "test_spread_mse.py"),
    Fault("rows that came in another order", SPREAD_MSE, "Phi[places], y[places] = came[:, :p], came[:, p]",
          "Phi[places], y[places] = came[::-1, :p], came[::-1, p]", "test_spread_mse.py"),
    Fault("a mean of leaves by a reciprocal", LEAVES, "return total / weight;", "return total * (T(1) / weight);"),
    Fault("the weight of a leaf not rounded", LEAVES, "to[i] = weighed(from[i]);", "to[i] = T(weight * from[i]);"),
    Fault("a leaf of weight zero read", LEAVES, "if (weight == 0.0) {", "if (weight == 0.0 && g == nullptr) {", "test_leaves.py"),
    Fault("a leaf lost between chunks of halves", "csrc/run/leaves.cpp", "narrow(mean, count, at(out, 2, i));",
          "narrow(mean, count - (i > begin), at(out, 2, i));", "test_leaves.py"),
    Fault("a NaN's payload in a fingerprint", FINGERPRINT, "return (x & ~is_nan) | (quiet & is_nan);", "return x;", "test_fingerprint.py"),
    Fault("blocks of a fingerprint not numbered", FINGERPRINT, "sum += mix(h ^ mix(begin + b));", "sum += mix(h);"),
    Fault("bytes behind the last one in a fingerprint", FINGERPRINT, "if ((b + 1) * kCount <= n) {", "if ((b + 1) * kCount <= n + 1) {", "test_fingerprint.py"),
    Fault("rows of a gradient out of order", MSE, "for (int k = 0; k < n; ++k) factor[k] = Doubles{} + r[k];",
          "for (int k = 0; k < n; ++k) factor[k] = Doubles{} + r[k ^ (n > 1)];"),
    Fault("a digit of a coefficient of exp, float32", FUNCTIONS, "0x1.5555555564c30p-5", "0x1.5555555764c30p-5", "test_functions.py"),
    Fault("last digit of a coefficient of exp, float64", FUNCTIONS, "0x1.5555555555559p-3", "0x1.5555555555558p-3", "test_functions.py"),
    Fault("last digit of a coefficient of log", FUNCTIONS, "0x1.5555555555555p-1", "0x1.5555555555554p-1", "test_functions.py"),
    Fault("log rounded to even before float32", FUNCTIONS, "odd_sum_of(y.high, y.low)", "y.high + y.low", "test_functions.py"),
    Fault("subnormals of log lost", FUNCTIONS, "const bool subnormal = x < 0x1p-1022;", "const bool subnormal = x < 0.0;", "test_functions.py"),
    Fault("subnormals of exp lost", FUNCTIONS, "at_most(710.0, given);\n    x = -746.0 > x ? -746.0 : x;", "at_most(710.0, given);\n    x = -708.0 > x ? -746.0 : x;", "test_functions.py"),
    Fault("sigmoid's last term lost", FUNCTIONS, "a < 0x1p-12 ? near : y", "a < 0x1p-30 ? near : y", "test_functions.py"),
    Fault("the sign of tanh's zero lost", FUNCTIONS, "with_sign_of(x, E / (E + 2.0))", "x < 0 ? -(E / (E + 2.0)) : E / (E + 2.0)", "test_functions.py"),
    Fault("the reciprocal of any number of rows", "csrc/isa/softmax.h", "(a.rows & (a.rows - 1)) == 0", "a.rows > 0", "test_softmax.py"),
    Fault("the last logit left out of the maximum", "csrc/isa/softmax.h", "for (; j < n; ++j) m = larger", "for (; j + 1 < n; ++j) m = larger", "test_softmax.py"),
    Fault("exponentials of logits not rounded", "csrc/isa/softmax.h", "[m](T z_j) { return Exp::of(z_j - m); }", "[m](T z_j) { return T(Exp::of(double(z_j) - double(m))); }", "test_softmax.py"),
    Fault("Fisher-Yates without staying", "csrc/contract/sampling.h", "(i) + 1)]", "(i))]", "test_sampling.py test_loop.py"),
    Fault("overlap not seen", "csrc/python/bind_plan.cpp", "if (!written_.admits(i, raw(g).data", "if (false && !written_.admits(i, raw(g).data", "test_optimizer.py"),
    Fault("strides that are set later not seen", "csrc/python/arrays.h", " || now.strides[d] != axes[now.nd + d]", "", "test_optimizer.py"),
    Fault("a dtype that is set later not seen", "csrc/python/arrays.h", "now.descr != dtype_.ptr() || ", "", "test_optimizer.py"),
    Fault("an item lost between threads", "csrc/run/threads.cpp", "if (i >= run.end) return false;",
          "if (i >= run.end - (n_runs_ > 1)) return false;", "test_golden.py"),
    Fault("halves rounded up from the middle", "csrc/contract/storage.h", "0x7fff + ((bits_of(x) >> 16) & 1)", "0x8000",
          "test_storage.py"),
    Fault("subnormal halves lost", "csrc/contract/storage.h", "bits < normal ? subnormal : rounded", "bits < normal ? 0 : rounded",
          "test_storage.py"),
    Fault("one random number for all", "csrc/run/pass.cpp", "std::uint16_t(words[i / 4] >> (i % 4 * 16))",
          "std::uint16_t(words[0])", "test_storage.py"),
    Fault("coupled decay left out where the rule runs alone", "csrc/run/pass.h",
          "(options.decay_of(t.group) == 0.0 && !prepares_)", "!prepares_", "test_options.py"),
    Fault("gradients not scaled under decoupled decay", "csrc/isa/isa.cpp", "prepared(w, g, false)", "g", "test_options.py"),
    Fault("a skipped step counts", "csrc/run/plan.cpp", "if (!prepare(hyper, scale)) return Outcome::nonfinite;",
          "if (!prepare(hyper, scale)) return count_step(), Outcome::nonfinite;", "test_options.py"),
    Fault("blocks of a product of another length", "csrc/contract/types.h", "kProductBlock = 256", "kProductBlock = 512"),
    Fault("a block of a product goes on from the last", PIECES, "s[r][v] = V{};",
          "s[r][v] = V{} + (to.is_first || v * lanes + lanes > to.columns ? T(0) : to.c[r * to.stride + v * lanes]);"),
    Fault("a tile's terms cut in two", PIECES, "const Index depth = terms - k < kProductBlock ? terms - k : kProductBlock;",
          "const Index most = rows > 1 ? kProductBlock : kProductBlock / 2, depth = p.k - k < most ? p.k - k : most;",
          "test_product.py"),
    Fault("a product rounded before it is added", PIECES, "fused(x, row[v], s[r][v])", "s[r][v] + (x * row[v])"),
    Fault("fused multiply-add by float64, rounded twice", PRODUCT, "(Bits)((e < 0.0) | (e > 0.0))", "(Bits)(e < e)",
          "test_product.py"),
    Fault("an even neighbour for an odd one", PRODUCT, "((Bits)s - (opposite & inexact)) | (inexact & 1)",
          "((Bits)s - (opposite & inexact & 0)) | (inexact & 1)", "test_product.py"),
    Fault("bias added before the last block", PIECES, "if (to.is_last && to.bias != nullptr) y", "if (to.is_first && to.bias != nullptr) y"),
    Fault("bias of the tail contracted", PIECES, "finish<T>(to, &sums[r][j], r, j, c + j);",
          "finish<T>(to, &sums[r][j], r, j, c + j), c[j] = to.is_last && to.bias != nullptr && !to.relu ? "
          "T(double(sums[r][j]) + double(to.bias[j])) : c[j];"),
    Fault("< for <= in a layer's ReLU", PRODUCT, "return y <= X{} ? X{} : y;", "return y < X{} ? X{} : y;", "test_product.py"),
    Fault("< for <= in the mask of a layer's ReLU", PRODUCT, "return y <= X{} ? X{} : dy;", "return y < X{} ? X{} : dy;",
          "test_product.py"),
    Fault("a column of a tile lost", "csrc/run/tiles.h", "end - column, scratch);", "end - column - (end < n_), scratch);",
          "test_product.py"),
    Fault("two threads with one memory for panels", "csrc/run/tiles.h", "if (is_taken_[i].exchange(1",
          "if (true || is_taken_[i].exchange(1", "test_product.py"),
    Fault("a row of the padding taken for the next image's", CONVOLUTIONS, "if (row < 0 || row >= v_.size[0]) return clear(count, to);",
          "if (row < 0 || row > v_.size[0]) return clear(count, to);", "test_convolution.py"),
    Fault("the padding left out of a chain", CONVOLUTION, "const Index end = up(last + shift), begin = up(first + shift);",
          "const Index end = up(last + shift), begin = up(first + shift + (tap > 0));", "test_convolution.py"),
    Fault("taps added from the last", CONVOLUTIONS, "for (Index r = 0; r < v.kernel[0]; ++r) {",
          "for (Index r = v.kernel[0] - 1; r >= 0; --r) {", "test_convolution.py"),
    Fault("the gradient of an input begins with -0", CONVOLUTIONS,
          "clear(part.columns[1] - part.columns[0], dx + c * plane + h * v.size[1] + part.columns[0]);",
          "for (Index i = part.columns[0]; i < part.columns[1]; ++i) dx[c * plane + h * v.size[1] + i] = -T(0);",
          "test_convolution.py"),
    Fault("samples' terms of a weight in another order", "csrc/run/convolution.cpp", "(i % outputs * v.samples + i / outputs)",
          "(i % outputs * v.samples + v.samples - 1 - i / outputs)", "test_convolution.py"),
    Fault("a bias of the wrong row", PIECES, "broadcast<X>(to.row_bias[r])", "broadcast<X>(to.row_bias[r & ~1])", "test_convolution.py"),
    Fault("blocks of a step's sums not numbered", HASHES, "mix(sum_of_lanes(h[k - first]) ^ mixed_number)",
          "mix(sum_of_lanes(h[k - first]))", "test_block_sums.py"),
    Fault("a step's sums of a part begin at block 0", HASHES, "mix((r.first + i) * sizeof(Kept)", "mix(i * sizeof(Kept)", "test_block_sums.py"),
    Fault("a block goes on with the hash of the last", HASHES, "    store(r.lanes[k], Words64{});\n", "",
          "test_block_sums.py"),
    Fault("a NaN's payload in a step's sums", HASHES, "if (any(found))", "if (false)", "test_block_sums.py"),
    Fault("zeros behind the last element not hashed", HASHES, "sum_of_lanes(h) + padding", "sum_of_lanes(h)", "test_block_sums.py"),
    Fault("sums of a part's options begin at block 0", "csrc/run/pass.cpp", "(tensor.first + begin) * bytes / kFingerprintBytes",
          "begin * bytes / kFingerprintBytes", "test_block_sums.py"),
    Fault("items of a recorded step cut within blocks", "csrc/run/plan.cpp", "if (!cuts_blocks_) largest_item_ = 0;  // cut again\n", "",
          "test_block_sums.py"),
    Fault("one NaN for another accused", STEP_CHECK, "if (a == b || (is_nan(contents, a) && is_nan(contents, b))) continue;",
          "if (a == b) continue;", "test_step_check.py"),
    Fault("the same blocks checked in every step", STEP_CHECK, "philox({std::uint64_t(step), 0, 0, 0}", "philox({0, 0, 0, 0}",
          "test_step_check.py"),
    Fault("the last element of a block not named", STEP_CHECK, "i < block.end - block.begin; ++i", "i + 1 < block.end - block.begin; ++i",
          "test_step_check.py"),
    Fault("states not computed again", STEP_CHECK, "for (int k = 0; k < n; ++k) {", "for (int k = 0; k < n && k < 2; ++k) {",
          "test_step_check.py"),
    Fault("a step that is wrong counts", "csrc/run/plan.cpp", "mismatch_ = *found;", "mismatch_ = *found, count_step();",
          "test_step_check.py"),
    Fault("a line for a step that was skipped", RECORDED, "if status == STEPPED:\n                self._write", "if True:\n                self._write",
          "test_recorded.py"),
    Fault("the first group's weight decay for all", RECORDED, '"weight_decay": decay}', '"weight_decay": weight_decay[0]}',
          "test_recorded.py"),
    Fault("no start after other parameters", RECORDED, "if self._steps[-1] != self.ledger.at:", "if self.ledger.at < 0:", "test_recorded.py"),
    Fault("half a line left in a ledger", "python/samestep/ledger/writer.py", "            os.ftruncate(self._file, size)\n", "",
          "test_recorded.py"),
    Fault("a step missing after a start unseen", RECORDS, "(before // header.every + 1) * header.every", "before + header.every",
          "test_recorded.py"),
    Fault("a start in the place of its step", RECORDS, "or not record.repeats(before)", "or record.is_start", "test_recorded.py test_compare.py"),
    Fault("a link of a ledger not followed", RECORDS, 'if found.get("previous") != digests[-1]:', 'if "previous" not in found:',
          "test_reading.py"),
    Fault("gradients of a replay taken on trust", REPLAYED, "only, kinds_to=1)", "only, kinds_to=0)", "test_replay.py"),
    Fault("the claimed scale of a replay left out", REPLAYED, "record, only), record.scale)", "record, only), 1.0)", "test_replay.py"),
    Fault("the claimed hyper-parameters left out", REPLAYED, "                group[name] = value\n", "                pass\n",
          "test_replay.py"),
    Fault("a replay that compares parameters alone", REPLAYED, "parted = _first_difference(ledger, record.tensors, stepped, only, kinds_from=1)",
          "parted = _first_difference(ledger, record.tensors, stepped, only, kinds_from=1, kinds_to=2)", "test_replay.py"),
    Fault("a script ended by another ledger", "python/samestep/ledger/watch.py", "step == self.step and os.path.basename(path) == self.name",
          "step == self.step", "test_scripts.py"),
    Fault("pool not rebuilt in a child", "csrc/run/threads.cpp", "  pool.store(nullptr);\n", "", "test_threads.py"),
)  # fmt: skip
# What looks at bits: the rest of the suite is about words, pages and other programs.
AROUND = (
    "csrc",
    "backends",
    "optim",
    "ledger",
    "replay",
    "problems",
    "proof",
    "test_train.py",
    "test_loop.py",
)


def make_copy() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    for folder in (
        "python",
        "tests",
    ):  # files that have moved since the last copy would be found in both places
        shutil.rmtree(COPY / folder, ignore_errors=True)
    for name in listed.splitlines():
        target, source = COPY / name, ROOT / name
        if not source.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_bytes() != source.read_bytes():
            shutil.copyfile(source, target)
    backend = COPY / "python" / "samestep" / "backends" / "cpu.py"
    backend.write_text(
        backend.read_text(encoding="utf-8").replace("\n_self_check()\n", "\n"), encoding="utf-8"
    )


def build() -> subprocess.CompletedProcess[str]:
    """The extension, beside the copy's Python files; little optimized, which changes no bit, but enough
    to fuse what may be fused."""
    bin_folder = Path(sys.executable).parent
    path = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    cmake = shutil.which("cmake", path=path) or "cmake"
    import pybind11

    import samestep

    isas = ";".join(samestep.info()["isas"])  # no test runs the others
    configure = [
        cmake, "-S", str(COPY), "-B", str(COPY / "out"), "-DSKBUILD=ON", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -fexpensive-optimizations",
        f"-DSAMESTEP_ISAS={isas}", f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    ]  # fmt: skip
    if not (COPY / "out" / "CMakeCache.txt").exists():
        subprocess.run(configure, check=True, capture_output=True, encoding="utf-8")
    done = subprocess.run(
        [cmake, "--build", str(COPY / "out"), "-j", "2", "--target", "_core"],
        capture_output=True,
        encoding="utf-8",
    )
    name = f"_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    if done.returncode == 0:
        shutil.copyfile(COPY / "out" / name, COPY / "python" / "samestep" / name)
    return done


def failures(paths: Sequence[str], marked: str) -> list[str] | None:
    """The first tests that fail; all paths, where the suite hangs or dies; None where it passes. Half an hour
    of it is no sign of a slow machine.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "-p", "no:cacheprovider", "--no-header"]
    command.append("--ignore=tests/backends/gpu")  # it is proved on the host, in a build of its own
    try:
        done = subprocess.run(
            [*command, "-m", marked, *paths],
            cwd=COPY,
            env={**os.environ, "PYTHONPATH": str(COPY / "python")},
            capture_output=True,
            encoding="utf-8",
            timeout=1800,
        )
    except subprocess.TimeoutExpired:
        return list(paths)
    if done.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return None
    return re.findall(r"^(?:FAILED|ERROR) (\S+?(?:\[.*?\])?)(?= - |$)", done.stdout, re.MULTILINE) or list(
        paths
    )


def files_of(tests: Sequence[str]) -> list[str]:
    return [str(path.relative_to(COPY)) for name in tests for path in (COPY / "tests").rglob(name)]


def caught(fault: Fault) -> tuple[str, list[str]]:
    """The command whose tests fail with the fault in the tree, or an empty text, and those tests."""
    file = COPY / fault.file
    right = file.read_text(encoding="utf-8")
    if fault.old not in right:
        raise SystemExit(f"{fault.name}: {fault.file} no longer holds {fault.old!r}")
    file.write_text(right.replace(fault.old, fault.new), encoding="utf-8")
    try:
        if build().returncode:
            return "the compiler", []
        for command, tests, marked in (
            (f"make test, {fault.tests}", fault.tests.split(), QUICK),
            (f"make test-all, {fault.tests}", fault.tests.split(), f"not ({QUICK})"),
            ("make test", AROUND, QUICK),
            ("make test-all", AROUND, f"not ({QUICK})"),
        ):
            if found := failures(files_of(tests), marked):
                return command, found
        return "", []
    finally:
        file.write_text(right, encoding="utf-8")


def chosen(only: str, sample: int | None) -> list[Fault]:
    """Every fault with the text in its name, or so many of them, other ones at each commit."""
    faults = [fault for fault in FAULTS if only in fault.name]
    if sample is None:
        return faults
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    ).stdout
    return random.Random(head).sample(faults, min(sample, len(faults)))


def main() -> int:
    parser = argparse.ArgumentParser(description="Score the suite on seeded faults.")
    parser.add_argument("--only", default="", help="faults with this in their name")
    parser.add_argument("--sample", type=int, help="so many of them, chosen by the commit")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True).returncode:
        print("SKIPPED: no git checkout, whose files could be copied, and so no seeded faults")
        return 0 if options.sample else 1
    faults = chosen(options.only, options.sample)
    make_copy()
    caught_by: dict[str, str] = {}
    failed: set[str] = set()
    for fault in faults:
        start = time.monotonic()
        by, found = caught(fault)
        caught_by[fault.name] = by
        failed.update(found)
        if not options.json:
            verdict = f"caught by {by}" if by else "SURVIVED"
            print(f"{fault.name:54} {verdict} ({time.monotonic() - start:.0f} s)", flush=True)
    done = build()
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    if failed and (still := failures(sorted(failed), "")):
        raise SystemExit(
            f"they fail in the tree without a fault as well, and show nothing: {', '.join(still)}"
        )
    n_caught = sum(map(bool, caught_by.values()))
    score = n_caught / len(caught_by)
    quick = sum(
        by.startswith(("the compiler", "make test,")) or by == "make test" for by in caught_by.values()
    )
    if options.json:
        print(json.dumps({"score": score, "caught": caught_by}, indent=2))
    else:
        print(f"mutation score: {n_caught} of {len(caught_by)}, {score:.0%}; make test alone: {quick}")
    return 0 if score >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
