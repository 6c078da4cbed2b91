"""The CPU backend: compiled kernels, their instruction set and threads, and the check at import."""

from __future__ import annotations

import os
import warnings
from typing import Any

from .. import _core
from .._core import (
    Mse,
    Plan,
    Trainer,
    add_leaves,
    average_leaves,
    batchnorm_backward,
    batchnorm_backward_apply,
    batchnorm_backward_blocks,
    batchnorm_forward,
    batchnorm_forward_apply,
    batchnorm_forward_blocks,
    batchnorm_inference,
    block_sums,
    canonical_sum,
    clipped_scale,
    conv2d,
    conv2d_backward,
    exp,
    fingerprint,
    finish_fingerprints,
    global_norm,
    linear,
    linear_backward,
    log,
    norm_of,
    pair_sums,
    sigmoid,
    softmax_cross_entropy,
    tanh,
    update_running,
    weigh_leaf,
)
from .arrays import (
    Array,
    assign,
    contiguous,
    copy,
    empty,
    empty_like,
    from_host,
    gradient_views,
    read_only_copy,
    to_host,
    zeros_like,
)
from .face import RuleRow

__all__ = [
    "Mse",
    "Plan",
    "Trainer",
    "add_leaves",
    "assign",
    "average_leaves",
    "batchnorm_backward",
    "batchnorm_backward_apply",
    "batchnorm_backward_blocks",
    "batchnorm_forward",
    "batchnorm_forward_apply",
    "batchnorm_forward_blocks",
    "batchnorm_inference",
    "block_sums",
    "canonical_sum",
    "clipped_scale",
    "contiguous",
    "conv2d",
    "conv2d_backward",
    "copy",
    "empty",
    "empty_like",
    "exp",
    "fingerprint",
    "finish_fingerprints",
    "from_host",
    "get_num_threads",
    "global_norm",
    "gradient_views",
    "info",
    "linear",
    "linear_backward",
    "log",
    "norm_of",
    "pair_sums",
    "read_only_copy",
    "rule",
    "rules",
    "set_isa",
    "set_num_threads",
    "sigmoid",
    "softmax_cross_entropy",
    "tanh",
    "to_host",
    "update_running",
    "use_openmp_of",
    "weigh_leaf",
    "widened",
    "zeros_like",
]


def widened(w: Array, low: Array | None = None) -> Array:
    """A copy of a parameter in the type of the arithmetic; ``low``: its lower halves."""
    from .reference import storage  # here: the reference imports this module

    return storage.widened(w, low)


CONTRACT = 2  # version of the bit contract
MOST_THREADS = 1024
OPTIONAL = ("sklearn", "matplotlib", "tqdm", "safetensors", "ml_dtypes")


def rules() -> list[RuleRow]:
    """The registry of rules, in the order of the tables."""
    return [RuleRow(*row) for row in _core.rules()]


_ROWS = {(row.family, row.form, row.variant): row for row in rules()}


def rule(family: str, form: str | None = None, variant: str | None = None) -> RuleRow:
    """The row of these tokens; KeyError if there is none."""
    return _ROWS[family, form, variant]


def set_isa(name: str) -> None:
    """Chooses the instruction set of all kernels, for every thread of the process.

    It changes speed, never bits. The environment variable ``SAMESTEP_ISA`` sets it at import.

    Args:
        name: one of ``info()["isas"]``.

    Raises:
        TypeError: the name is no text.
        ValueError: the name is unknown, or the machine does not have the instruction set.

    Example:
        >>> import samestep as ss
        >>> before = ss.info()["isa"]
        >>> ss.set_isa("baseline")
        >>> ss.info()["isa"]
        'baseline'
        >>> ss.set_isa(before)
    """
    if not isinstance(name, str):
        raise TypeError(f"isa: got {name!r}, expected the name of one: {', '.join(_core.isas())}")
    if not _core.set_isa(name):
        why = " (switched off: it failed the check at import)" if name in withdrawn else ""
        isas = ", ".join(_core.isas())
        raise ValueError(f"isa: got {name!r}{why}, expected one that this machine has: {isas}")


def set_num_threads(n: int) -> None:
    """Sets how many threads a step may use, the caller among them.

    It changes speed, never bits. The default is the number of processors that the affinity mask and the
    cgroup quota grant. The environment variable ``SAMESTEP_THREADS`` sets it at import.

    Args:
        n: 1 to 1024.

    Raises:
        TypeError: n is no whole number.
        ValueError: n is below 1 or above 1024.

    Example:
        >>> import samestep as ss
        >>> before = ss.get_num_threads()
        >>> ss.set_num_threads(1)
        >>> ss.get_num_threads()
        1
        >>> ss.set_num_threads(before)
    """
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n: got {type(n).__name__}, expected a whole number of threads")
    n = n.__index__()
    if not 1 <= n <= MOST_THREADS:
        raise ValueError(f"n: got {n}, expected 1 to {MOST_THREADS} threads")
    _core.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that a step may use.

    Example:
        >>> import samestep as ss
        >>> ss.get_num_threads() >= 1
        True
    """
    return _core.get_num_threads()


def use_openmp_of(library: str) -> bool:
    """From now on large jobs run on the OpenMP threads of a library that is loaded, by its file's name.

    False: it is not loaded, its runtime is not libgomp, this is a forked child, or ``SAMESTEP_POOL=own``
    forbids it; the package's own threads go on. They also do the work in later forks, inside parallel
    regions, and where the library has fewer threads than a step may use.
    """
    return os.environ.get("SAMESTEP_POOL") != "own" and _core.use_openmp_of(library)


def info() -> dict[str, Any]:
    """What runs on this machine, and what a bug report needs.

    Returns:
        A dict: ``version`` of samestep; ``contract``, the version of the bit contract; ``isa``, the
        instruction set in use; ``isas``, all that the machine has, the best first; ``withdrawn``, those
        that failed the check at import; ``threads``; ``pool``, whose threads these are: "own", or the library
        whose OpenMP runs large jobs; ``compile_flags``; ``optional``, the versions of optional packages, None
        for those that are not installed.

    Example:
        >>> import samestep as ss
        >>> ss.info()["contract"]
        2
    """
    return {
        "version": _version_of("samestep"),
        "contract": CONTRACT,
        "isa": _core.get_isa(),
        "isas": _core.isas(),
        "withdrawn": list(withdrawn),
        "threads": _core.get_num_threads(),
        "pool": _core.openmp_library() or "own",
        "compile_flags": _core.compile_flags,
        "optional": {name: _version_of(name) for name in OPTIONAL},
    }


def _version_of(module: str) -> str | None:
    from importlib import metadata, util  # here: they would double the time of `import samestep`

    if util.find_spec(module) is None:
        return None
    distribution = {"sklearn": "scikit-learn"}.get(module, module)
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"


# The hashes that _core.self_check() returns if the kernels keep the contract. A kernel without an entry here
# is not checked at import.
SELF_CHECK = {
    rule("sgd").name: 0x8FA9E04DFE25B233,
    rule("momentum", "heavy_ball").name: 0xB377F34CE2761BF5,
    rule("momentum", "torch").name: 0x33FFE28FB8D2E65C,
    rule("momentum", "torch", "dampened").name: 0x0E4B4F5B7BAA31C2,
    rule("nag", "look_ahead").name: 0xA9D11587901C77C7,
    rule("nag", "torch").name: 0x263E2E18C86B55E3,
    rule("adagrad", "outside").name: 0x016107D7BA13B59B,
    rule("adagrad", "inside").name: 0x8CB46FAE77874B06,
    rule("rmsprop", "outside").name: 0x333F435B65E57282,
    rule("rmsprop", "inside").name: 0x41A78E9581876B37,
    rule("rmsprop", "outside", "centered").name: 0x7EB382AC6CAC8F0B,
    rule("rmsprop", "inside", "centered").name: 0xE5F87AE36B7641B2,
    rule("rmsprop", "outside", "momentum").name: 0xD84C7621F634FE1E,
    rule("rmsprop", "inside", "momentum").name: 0x21860C827231B636,
    rule("rmsprop", "outside", "centered_momentum").name: 0x6E8402613EDF5B95,
    rule("rmsprop", "inside", "centered_momentum").name: 0xEBCECCEAFE1313E2,
    rule("adam", "outside").name: 0x7A03DE4BBDBDE16E,
    rule("adam", "inside").name: 0xAEACEBD154492998,
    rule("adam", "outside", "amsgrad").name: 0x08DBEBA2968E4502,
    rule("adam", "inside", "amsgrad").name: 0x9E7E68D4747B97E0,
    "options": 0x001E09F56E6F4EF4,
    "sum": 0x108D11D2F2C17E51,
    "leaves": 0x52B2030EBAF3FC8E,
    "batchnorm": 0x52B76EA7E8D54319,
    "linear": 0x7B40B189E700AB08,
    "mse": 0xDBE33ADCDB0D720E,
    "functions": 0x9D482F6933DA1B78,
    "fingerprint": 0x1A594D13D1CF7126,
}


withdrawn: list[str] = []  # the instruction sets that failed the check at import


def _self_check() -> None:
    """Runs the kernels of every instruction set on a few numbers, in less than a millisecond. Those of a
    miscompiled build or a broken machine, whose bits are not those of the contract, are withdrawn.
    """
    for isa in _core.isas():
        _core.set_isa(isa)
        wrong = [name for name, found in _core.self_check() if found != SELF_CHECK.get(name, found)]
        if wrong:
            _core.withdraw_isa(isa)
            withdrawn.append(isa)
            kept = " It is the last there is and stays in use." if isa in _core.isas() else ""
            warnings.warn(
                f"the {isa} kernels of {', '.join(wrong)} do not give the bits of contract {CONTRACT} on "
                f"this machine and are switched off.{kept} `samestep verify` tells more.",
                RuntimeWarning,
                stacklevel=2,
            )
    _core.set_isa(_core.isas()[0])


def _apply_environment() -> None:
    """Reads SAMESTEP_ISA, SAMESTEP_THREADS, SAMESTEP_TUNE and, for use_openmp_of(), SAMESTEP_POOL."""
    tune = os.environ.get("SAMESTEP_TUNE")
    if tune not in (None, "", "0", "1"):
        raise ValueError(f"SAMESTEP_TUNE: got {tune!r}, expected '0' or '1'")
    _core.set_tuning(tune != "0")
    pool = os.environ.get("SAMESTEP_POOL")
    if pool not in (None, "", "own"):
        raise ValueError(f"SAMESTEP_POOL: got {pool!r}, expected 'own', or nothing")
    isa = os.environ.get("SAMESTEP_ISA")
    if isa:
        try:
            set_isa(isa)
        except ValueError as error:
            raise ValueError(f"SAMESTEP_ISA: {error}") from None
    threads = os.environ.get("SAMESTEP_THREADS")
    if threads:
        if not threads.isdecimal():
            raise ValueError(f"SAMESTEP_THREADS: got {threads!r}, expected a whole number of threads")
        try:
            set_num_threads(int(threads))
        except ValueError as error:
            raise ValueError(f"SAMESTEP_THREADS: {error}") from None


_self_check()
_apply_environment()
