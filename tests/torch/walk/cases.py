"""The registry of cases, and the verdict on each: the same case with torch's classes and with samestep's."""

from __future__ import annotations

import contextlib
import importlib
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import samestep

from .sides import KINDS, LAYERS, Side, passes

WORKS = "works as torch"
BITS = f"{WORKS}, bits of eager mode"
REFUSED = "refused by name"
REFUSED_BY_TOOL = "refused by the tool"
LEFT = "left as it is"
NOT_IN_TORCH = "not in torch"
WORKS_ALONE = f"works; {NOT_IN_TORCH}"
NOT_INSTALLED = "not installed"
DIFFERS = "differs"
NEVER_INSTALLED = ("torchao",)  # not among the packages of the tests
VERDICTS = {
    WORKS: "the same results, gradients, state and names as with torch's own classes, to rounding",
    BITS: "this, and samestep's classes have the bits that they have without the tool",
    REFUSED: "an error names samestep's class, before anything is changed, and mostly what to do: "
    "`samestep.torch.convert(model, back=True)`",
    REFUSED_BY_TOOL: "the tool's own error, for it takes torch.nn's classes alone",
    LEFT: "the result is right, but the tool, which removes a batch norm of torch.nn, has left the layer in",
    NOT_IN_TORCH: "the tool refuses torch's own classes as well",
    WORKS_ALONE: "the tool refuses torch's own classes, and takes samestep's",
    NOT_INSTALLED: "the package named is not there, and nothing was tried",
    DIFFERS: "another result, without an error: a fault. None is known",
}
"""What can be said of a tool, and what that means."""

_SOURCE = str(Path(samestep.__file__).parent)


@dataclass(frozen=True)
class Case:
    """A tool and a function that uses it: what it returns must be the same for both libraries."""

    tool: str
    area: str
    run: Callable[[Side], Any]
    kinds: Sequence[str]
    covers: Sequence[str]
    needs: Sequence[str]
    not_in_torch: str | None
    refusal: str | None
    bits: bool
    slow: bool
    dtype: torch.dtype
    processes: int


CASES: list[Case] = []


def case(
    tool: str,
    kinds: Sequence[str] = LAYERS,
    *,
    covers: Sequence[str] = (),
    needs: Sequence[str] = (),
    not_in_torch: str | None = None,
    refusal: str | None = None,
    bits: bool = False,
    slow: bool = False,
    dtype: torch.dtype = torch.float64,
    processes: int = 1,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function of a ``Side``.

    Args:
        tool: the dotted name of the tool, perhaps with the arguments that matter: "torch.compile, dynamic".
        kinds: of KINDS, what takes the place of torch's.
        covers: dotted names of further tools that the function uses.
        needs: packages.
        not_in_torch: what the error says with torch's own classes, where the tool does not take these.
        refusal: what the tool's own error says of samestep's classes, where it does not name them.
        bits: whether the case checks, by ``same_bits``, that the layer keeps its bits of eager mode.
        slow: whether it takes ten seconds or more.
        dtype: of the networks; in float64 rounding is small enough for a narrow comparison.
        processes: 2 where both ranks of a group run the case; see ranks.py.
    """

    def register(run: Callable[..., Any]) -> Callable[..., Any]:
        area = run.__module__.rpartition(".")[2]
        assert tool not in [known.tool for known in CASES], tool
        CASES.append(
            Case(tool, area, run, kinds, covers, needs, not_in_torch, refusal, bits, slow, dtype, processes)
        )
        return run

    return register


def rebuild(
    tool: str,
    *,
    modes: Sequence[str] = ("eval", "train"),
    bits: bool = False,
    backward: bool = True,
    **more: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function of a network and its input that returns what can be called in the network's place.

    Args:
        tool: as in ``case``, like all other arguments.
        modes: of the network.
        bits: whether results, gradients and state have the bits of samestep's layer itself.
        backward: whether what is returned has gradients.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(side: Side) -> Any:
            found = {}
            for mode in modes:
                network, x = side.network().train(mode == "train"), side.images()
                eager = passes(side.network().train(mode == "train"), x, backward)
                found[mode] = passes(function(network, x), x, backward, network)
                if bits and side.ours:
                    same_bits(found[mode], eager)
            return found

        run.__module__ = function.__module__
        case(tool, bits=bits, **more)(run)
        return function

    return register


@dataclass
class Fused:
    """What a fuser made of a network: its result, and how many batch norms are left in it."""

    y: Any
    left: int


def fuse(tool: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function of a network and its input that returns the network without its batch norm."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(side: Side) -> Fused:
            fused = function(side.network().eval(), side.images())
            norms = [m for m in fused.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
            with torch.no_grad():
                return Fused(fused(side.images()), len(norms))

        run.__module__ = function.__module__
        case(tool, **more)(run)
        return function

    return register


class OtherBitsError(AssertionError):
    """A tool gave samestep's layer other bits than it has in eager mode."""


def same_bits(found: Any, eager: Any) -> None:
    """Raises OtherBitsError. Of dicts what both have is compared: a tool may drop what it does not use."""
    if isinstance(eager, dict):
        for name in eager.keys() & found.keys():
            same_bits(found[name], eager[name])
    elif isinstance(eager, (list, tuple)):
        for one, two in zip(found, eager, strict=True):
            same_bits(one, two)
    elif isinstance(eager, torch.Tensor):
        if not torch.equal(found, eager):
            raise OtherBitsError(f"{(found - eager).abs().max()} apart")
    elif found != eager:
        raise OtherBitsError(f"{found}, and {eager} in eager mode")


def difference(found: Any, expected: Any, where: str = "") -> str:
    """What differs by more than rounding, in words; "" for nothing."""
    if isinstance(expected, torch.Tensor) and isinstance(found, torch.Tensor):
        if expected.is_floating_point() != found.is_floating_point():
            return f"{where}: {found.dtype}, expected {expected.dtype}"
        narrow = torch.float32 in (found.dtype, expected.dtype)
        rtol, atol = (2e-4, 2e-5) if narrow else (1e-8, 1e-10)
        try:
            torch.testing.assert_close(found.double(), expected.double(), rtol=rtol, atol=atol)
        except AssertionError as error:
            return f"{where}: {str(error).splitlines()[0]}"
        return ""
    if isinstance(expected, dict) and isinstance(found, dict):
        if list(expected) != list(found):
            return f"{where}: keys {list(found)}, expected {list(expected)}"
        pairs = [(str(key), found[key], value) for key, value in expected.items()]
    elif isinstance(expected, (list, tuple)) and isinstance(found, (list, tuple)):
        if len(expected) != len(found):
            return f"{where}: {len(found)} items, expected {len(expected)}"
        pairs = [(str(i), a, b) for i, (a, b) in enumerate(zip(found, expected, strict=True))]
    elif isinstance(expected, float) and isinstance(found, float):
        return difference(torch.tensor(found).double(), torch.tensor(expected).double(), where)
    elif isinstance(expected, Fused) and isinstance(found, Fused):
        return difference(vars(found), vars(expected), where)
    else:
        return "" if found == expected else f"{where}: {found!r}, expected {expected!r}"
    words = (difference(a, b, f"{where}.{name}" if where else name) for name, a, b in pairs)
    return next(filter(None, words), "")


def missing(one: Case) -> str:
    """The first package that a case needs and that is not installed; "" for none."""
    for package in one.needs:
        try:
            importlib.import_module(package)
        except ImportError:
            return package
    return ""


def judge(one: Case, kind: str) -> tuple[str, str]:
    """The verdict on a case for one of its kinds, and the reason for it."""
    if missing(one):
        return f"{NOT_INSTALLED}: {missing(one)}", ""
    by_class = {name: _judge(one, kind, name) for name in KINDS[kind]}
    found = list(by_class.values())
    if len({verdict for verdict, _ in found}) == 1:
        return found[0]
    return DIFFERS, f"between classes: {by_class}"


def verdicts(one: Case) -> tuple[tuple[str, ...], list[str]]:
    """The verdict for each of KINDS, "" where the case does not use it, and why some are "differs"."""
    cells, reasons = [], []
    with _one_thread():
        for kind in KINDS:
            verdict, reason = judge(one, kind) if kind in one.kinds else ("", "")
            cells.append(verdict)
            if verdict == DIFFERS:
                reasons.append(f"{one.tool}, {kind}: {reason}")
    return tuple(cells), reasons


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The networks are so small that threads would only wait for each other."""
    before = torch.get_num_threads(), samestep.get_num_threads()
    torch.set_num_threads(1)
    samestep.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        samestep.set_num_threads(before[1])


def _judge(one: Case, kind: str, name: str) -> tuple[str, str]:
    results: dict[bool, Any] = {}
    for ours in (False, True):
        torch.manual_seed(0)
        try:
            results[ours] = one.run(Side(ours, kind == "relu", name, one.dtype))
        except Exception as error:
            results[ours] = error
    theirs, found = results[False], results[True]
    takes_torch = not isinstance(theirs, Exception)
    if not takes_torch and (one.not_in_torch is None or not re.search(one.not_in_torch, str(theirs))):
        return DIFFERS, f"with torch's own classes: {_in_short(theirs)}"
    if takes_torch and one.not_in_torch is not None:
        return DIFFERS, "the case says that torch refuses its own classes, and it does not"
    if isinstance(found, Exception):
        if not takes_torch:
            return NOT_IN_TORCH, ""
        if one.refusal is not None and re.search(one.refusal, str(found)):
            return REFUSED_BY_TOOL, ""
        return (REFUSED, "") if names_samestep(found) else (DIFFERS, _in_short(found))
    if not takes_torch:
        return WORKS_ALONE, ""
    if isinstance(found, Fused) and found.left > theirs.left:
        words = difference(found.y, theirs.y)
        return (DIFFERS, words) if words else (LEFT, "")
    words = difference(found, theirs)
    if words:
        return DIFFERS, words
    return (BITS if one.bits else WORKS), ""


def _in_short(error: BaseException) -> str:
    """The error and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__}: {error} {[f'{f.filename}:{f.lineno}' for f in frames]}"


def names_samestep(error: BaseException) -> bool:
    """Whether an error is the package's own, or has a class of the package in its text."""
    if isinstance(error, OtherBitsError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return "samestep" in str(error) or frames[-1].filename.startswith(_SOURCE)
