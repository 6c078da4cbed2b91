"""An optimizer whose state is spread over workers, and whose bits do not show how many there are."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from .. import backends
from ..arguments import whole_number
from ..backends import arrays
from ..backends.arrays import Array
from ..optim.gradients import Structure, check_scale
from ..optim.optimizer import Optimizer
from ..optim.plan import next_hyper
from ..spread import check_same, do_together
from ..tree import ranges
from . import checkpoint
from .agreement import agree
from .exchange import Exchange
from .groups import Group, WorkerLost, check_group
from .leaf_sums import LeafSums, total_weight
from .parts import Parts, check_param
from .recorded import Recorded


class Sharded(Recorded):
    """An optimizer for a step of M leaves, spread over the workers of a group (ZeRO, stage 1).

    A leaf is a micro-batch with a number from 0 to M - 1. The step's gradient is

        g = (weight_0*g_0 + weight_1*g_1 + ...)/(weight_0 + weight_1 + ...)

    where products, sums and the quotient are rounded to the parameter's type (float32 for 16 bits) and the
    sums are taken of neighbours, 0+1, 2+3, ..., then of these, an odd last one going up as it is. How many
    workers there are, and who computes which leaf, cannot be seen in the parameters; M and the leaves can.

    Every worker has all parameters. It computes the gradients of its own leaves, keeps the state of its own
    part of the elements, steps these, and gets the others.

    Args:
        make_optimizer: called once with the worker's own part of ``params``: the same structure, each array
            flat and cut, some of them empty. Returns one of samestep's optimizers of it. Every worker makes
            the same one. Its ``clip_norm`` and ``nonfinite`` go by the gradients of all workers together.
        params: an array, or nested lists, tuples and dicts of arrays, in C order; the same on every worker,
            in main memory or on one GPU. ``step`` overwrites them. Who changes them between steps does so on
            every worker alike: each takes the elements of its own part from its own arrays, and nobody
            compares the others. The first step does compare all of them.
        group: the worker's place among all: see ``samestep.parallel``.
        leaves: M, the same in every step and on every worker: at least as many as there will ever be workers,
            best a power of two.

    Attributes:
        leaves: the numbers of this worker's leaves, a range.
        optimizer: of this worker's part; set ``lr`` and the like there, on every worker alike.

    Raises:
        TypeError, ValueError: an argument does not fit, or differs between workers; raised on all of them.

    Source:
        Rajbhandari et al., ZeRO: memory optimizations toward training trillion parameter models (2020), for
        the spread state. docs/numerics.md, "Leaves", for the order of additions.

    Example:
        >>> import numpy as np, samestep as ss
        >>> def train(group):
        ...     w = np.ones(3000, np.float32)
        ...     opt = ss.parallel.Sharded(lambda part: ss.Adam(part, lr=0.1), w, group, leaves=4)
        ...     for _ in range(3):
        ...         for leaf in opt.leaves:
        ...             opt.add(leaf, (leaf + 1)*w)
        ...         opt.step()
        ...     return ss.digest([w])
        >>> alone, three = ss.parallel.run_threads(1, train), ss.parallel.run_threads(3, train)
        >>> alone[0] == three[0] == three[1] == three[2]
        True
    """

    def __init__(
        self, make_optimizer: Callable[[Any], Optimizer], params: Any, group: Group, *, leaves: int
    ) -> None:
        self._group = check_group(group)

        def make() -> None:
            self._leaves = whole_number("leaves", leaves, at_least=1)
            given, names = arrays.flatten(params, "params")
            self._structure = Structure(params, len(given), "grads")
            backend, given = backends.choose_backend("auto", {}, dict(zip(names, given, strict=True)))
            self._params = [check_param(name, w) for name, w in zip(names, given, strict=True)]
            arrays.check_disjoint(zip(names, self._params, strict=True))
            self._names = names
            self._grad_names = ["grads" + name.removeprefix("params") for name in names]
            self._leaf_sums = LeafSums(
                self._params,
                self._leaves,
                ranges(self._leaves, group.size)[group.rank],
                backends.module(backend),
            )
            self._exchange = Exchange(group, self._leaves, self._leaf_sums.vector, self._leaf_sums.add)
            self._parts = Parts(self._params, backend, self._exchange.parts, group)
            self.leaves = self._exchange.ranges[group.rank]
            self._take_over(make_optimizer(self._structure.unflatten(self._parts.own)))

        try:
            _, facts = do_together(group, make, lambda _: self._facts())
            self._token = facts[0].pop("token")  # worker 0's: tells this optimizer from others of the group
            for name in facts[0]:
                check_same(name, "the value", [each[name] for each in facts], "make all alike")
            self._group.meet(self._leaf_sums.vector.like)
        except BaseException:
            if "optimizer" in vars(self):  # it is ours, and so are its files in state_dir
                self.optimizer._store.remove_files()
            raise
        self._is_usable, self._began_alike = True, False

    def _take_over(self, optimizer: Optimizer) -> None:
        """What goes by all gradients is decided here: the optimizer's own step sees a part of them."""
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"make_optimizer: returned {type(optimizer).__name__}, expected one of samestep's optimizers"
            )
        owned = [param.array for param in optimizer._params]
        if len(owned) != len(self._parts.own) or any(
            a is not b for a, b in zip(owned, self._parts.own, strict=True)
        ):
            raise ValueError(
                "make_optimizer: returned an optimizer of other arrays, or in another order, expected one of "
                "all arrays that it is given"
            )
        self.optimizer = optimizer
        options = optimizer.options
        if options.zero_grads:
            raise ValueError("zero_grads: got True, expected False: the gradients of leaves are only read")
        if options.stochastic_rounding is not None:
            raise ValueError(
                "stochastic_rounding: the random bits go by an element's place in its array, which is cut "
                "here; use master='split'"
            )
        self._leaf_sums.module = optimizer._module
        for param, piece in zip(optimizer._params, self._parts.pieces, strict=True):
            param.first = piece.begin if piece.blocks else 0
        optimizer._decides = False
        optimizer._bind()

    def _facts(self) -> dict[str, Any]:
        """What has to be the same on every worker, and a token."""
        return {
            "token": secrets.token_hex(4),
            "leaves": self._leaves,
            "params": [[w.dtype.name, list(w.shape)] for w in self._params],
            "params on a GPU": self.optimizer.backend == "cuda",
            "make_optimizer": self.optimizer.rule,
            "options": self.optimizer.options.arguments(),
        }

    def _check_usable(self) -> None:
        if not self._is_usable:
            raise RuntimeError(
                "a worker was lost, or a step, save or load was broken off: start again with a new group, a "
                "new optimizer and load()"
            )

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """What all workers do, or none: an error in it is raised on all of them.

        After a loss or an interrupt it is not known how far the others are, and nothing can follow.
        """
        self._check_usable()
        self._is_usable = False
        try:
            yield
        except WorkerLost:
            raise
        except Exception:
            self._is_usable = True
            raise
        self._is_usable = True

    @property
    def params(self) -> list[Array]:
        """The parameters, as arrays that are the caller's own; on a GPU CuPy's views of these."""
        return list(self._params)

    @property
    def t(self) -> int:
        """How many steps have been made."""
        return self.optimizer.t

    @property
    def skipped(self) -> bool:
        """Whether the last step was left out for a gradient that is not finite."""
        return self._skipped

    _skipped = False

    def __repr__(self) -> str:
        return f"Sharded({self.optimizer!r}, leaves={self._leaves}, group={self._group!r})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "Sharded: cannot be copied or pickled, as it belongs to this process's group; save its state, "
            "and make another in the new place"
        )

    # ---- leaves ----

    def add(self, leaf: int, grads: Any, *, weight: float = 1.0) -> None:
        """Adds the gradients of one of this worker's leaves to the step, in any order. They are only read.

        Args:
            leaf: its number, one of ``leaves``.
            grads: in the structure of ``params``, each with its parameter's shape and dtype, in any layout,
                and where that is; on a GPU of any library. None, for one or for all, counts as zeros; a
                parameter that has none in any leaf is skipped by the step.
            weight: what the leaf counts, such as its number of examples if the gradient is of their mean; a
                finite number of 0 or more. A leaf of weight 0 counts nothing, whatever its gradients hold: a
                last batch with too few examples is made of the same number of leaves, some of weight 0.

        Raises:
            TypeError, ValueError: it is not this worker's leaf or was added before, a gradient or the weight
                does not fit; nothing has been added.
            RuntimeError: a worker was lost before.
        """
        self._check_usable()
        if grads is None:
            flat: Any = [None] * len(self._params)
        else:
            flat = self._structure.flatten(grads)
        self._leaf_sums.put(leaf, flat, weight, self._grad_names)

    # ---- the step ----

    def step(self, *, scale: float = 1.0) -> float | None:
        """Makes one step in place, once the leaves of all workers are there. Every worker calls it.

        Args:
            scale: the gradients count so many times: 1/loss_scale. A finite number, the same on every worker.

        Returns:
            The norm of all gradients together, ``scale`` times, before clipping, if ``clip_norm`` is set.

        Raises:
            TypeError, ValueError: leaves are missing, all weights are 0, a schedule or ``scale`` does not
                fit, or hyper-parameters, ``scale`` or, at first, parameters differ between workers, or some
                step another optimizer; raised on all. The leaves stay, and nothing has been changed.
            FloatingPointError: a gradient is not finite and ``nonfinite`` is "raise"; likewise on all of
                them, and the leaves are gone.
            WorkerLost: a worker is gone. No parameter has been changed, here or on any worker that is left.
            RuntimeError: a worker could not step; likewise, and nothing can follow. Or one was lost before.
        """
        sums = self._leaf_sums
        with self._together():
            error, following, hyper = None, None, b""
            try:
                scale = check_scale(scale, any(w.dtype.itemsize <= 4 for w in self._params))
                following = next_hyper(self.optimizer)
                decay = self.optimizer._weight_decay
                noted = None if self._ledger is None else self._ledger.plan()
                hyper = repr((self._token, following[1], decay, self.t, scale, noted)).encode()
            except Exception as found:
                error = found
            flags = np.append(sums.has_gradient, self._ledger is not None and self._ledger.lacks_line)
            weights, flags = agree(self._group, self._exchange.ranges, sums.weights, flags, hyper, error)
            has_gradient = flags[:-1]
            self._check_beginning()
            host = backends.host_module(self.optimizer.backend)
            weight = total_weight(weights, host, sums.narrowest)
            if self._ledger is not None:
                self._ledger.begin(bool(flags[-1]))
        self._is_usable = False  # until the step is whole
        assert following is not None  # else all have raised the error
        norm = self._step(weight, has_gradient, scale, following)
        self._is_usable = True
        if self._ledger is not None and not self._skipped:
            self._ledger.end(following, scale, has_gradient)
        if self._skipped and self.optimizer.options.nonfinite == "raise":
            raise FloatingPointError("grads: infinite or NaN in some leaf; nothing was changed")
        return norm

    def _check_beginning(self) -> None:
        """Raises on every worker unless all begin with the same parameters."""
        if self._began_alike:
            return
        fingerprints = [f"{self.optimizer._module.fingerprint(w):016x}" for w in self._params]
        for name, *found in zip(self._names, *self._group.all_gather_json(fingerprints), strict=True):
            check_same(name, "values of fingerprint", found, "seed all alike, or load one checkpoint on all")
        self._began_alike = True

    def _step(self, weight: float, has_gradient: Array, scale: float, following: Any) -> float | None:
        exchange, leaf_sums = self._exchange, self._leaf_sums
        sums = leaf_sums.take(exchange.nodes[self._group.rank])
        total = exchange.sum(sums, leaf_sums.buffer, leaf_sums.give_back)
        first, last = exchange.parts[self._group.rank]
        leaf_sums.divide(total, weight, first, last)
        grads = [
            leaf_sums.stored(leaf_sums.vector.view(total, piece), piece.param)
            if has_gradient[piece.param]
            else None
            for piece in leaf_sums.vector.pieces(first, last)
        ]
        norm, admitted = self._parts.admit(grads, self.optimizer.options, scale, self.optimizer.backend)
        self._skipped = admitted is None
        if admitted is not None:
            step_sums = self.optimizer._step_sums
            self._parts.step(self.optimizer, grads, admitted, following, total, step_sums)
        leaf_sums.give_back([total])
        leaf_sums.start()
        return norm if self.optimizer.options.clip_norm is not None else None

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """What the optimizer of all parameters in one process would return; every worker calls it.

        ``optimizer.load_state_dict`` takes it, and so does ``load_state_dict`` with any number of workers.
        """
        with self._together():
            whole = {
                name: [backends.in_main_memory(a) for a in self._parts.gather(parts)]
                for name, parts in self.optimizer.state.items()
            }
        return {**self.optimizer.state_dict(), "state": whole}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what ``state_dict`` returned, of any number of workers or of one optimizer alone.

        Raises:
            TypeError, ValueError: it does not fit; nothing has been changed.
        """
        if isinstance(state_dict, Mapping) and isinstance(state_dict.get("state"), Mapping):
            state_dict = {**state_dict, "state": self._parts.cut_state(state_dict["state"])}
        self.optimizer.load_state_dict(state_dict)
        self._leaf_sums.start()
        self._wait()

    def _wait(self) -> None:
        """On a GPU, other streams may read next what was loaded on this one."""
        if self.optimizer.backend == "cuda":
            w: Any = self._params[0]
            backends.module("cuda").wait_for(w.device.id)

    @property
    def ema(self) -> list[Array]:
        """The running averages of all parameters, whole; empty unless asked for with ``ema``.

        Every worker reads it together.
        """
        with self._together():
            return self._parts.gather(self.optimizer.ema)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes parameters and state into a folder that all workers reach, whole or not at all.

        Every worker writes a file with its own part. Once all are there, one file with the facts is moved
        into place, and the files of an older checkpoint are removed.

        Args:
            path: of the folder; it is made if it is not there.

        Raises:
            OSError, TypeError, ValueError: a file cannot be written, or worker 0 does not find those of the
                others; raised on all, and the old checkpoint stays.
            WorkerLost: a worker is gone; the folder has the old checkpoint or the new one, whole.
        """
        with self._together():
            checkpoint.save(self, path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Takes over parameters and state of a checkpoint that any number of workers wrote.

        Every worker calls it. Training goes on with the same bits. Leaves added before are forgotten.

        Args:
            path: of the folder.

        Raises:
            OSError, TypeError, ValueError: a file is missing, cut off or altered, or does not fit the
                optimizer; raised on all workers, and nothing has been changed.
        """
        with self._together():
            checkpoint.load(self, path)
            self._wait()
