"""A gradient transformation of optax that is a step of one of samestep's optimizers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .call import step_arrays
from .numbers import Arguments
from .packages import jax, optax

jnp = jax.numpy

DTYPES = ("float32", "float64", "float16", "bfloat16")


class State(NamedTuple):
    """What an optimizer keeps from one step to the next.

    Attributes:
        count: how many steps have been made, int32; a step that ``nonfinite="skip"`` left out does not count.
        states: by the name that it has in ``samestep.Optimizer.state``, a pytree like the parameters.
    """

    count: Any
    states: dict[str, Any]


class Transformation(optax.GradientTransformationExtraArgs):  # type: ignore[misc]
    """An ``optax.GradientTransformation`` that also makes whole steps.

    ``init(params)`` makes the ``State``. ``update(grads, state, params)`` returns what is to be added to the
    parameters, and the next state, as optax has it.
    """

    def step(self, grads: Any, params: Any, state: State) -> tuple[Any, State]:
        """Makes one step: under ``jax.jit`` with params and state donated, in their memory.

        The order of the arguments is that of the results, and should be so in a function of your own: JAX
        pairs donated arguments with results of the same shape in the order of both, and each pair that is of
        two different arrays costs copies.

        Args:
            grads: a pytree like ``params``, with the same shapes and dtypes.
            params: a pytree of arrays, float32, float64, float16 or bfloat16.
            state: what ``init`` or the step before returned.

        Returns:
            The parameters and the state after the step, in the bits of the class of ``samestep``.

        Raises:
            TypeError, ValueError: a parameter, gradient or state does not fit, or a number is out of range.

        Example:
            >>> import jax, jax.numpy as jnp, samestep.jax
            >>> optimizer = samestep.jax.sgd(lr=0.25)
            >>> params = {"w": jnp.array([1.0, -2.0])}
            >>> state = optimizer.init(params)
            >>> step = jax.jit(optimizer.step, donate_argnums=(1, 2))
            >>> params, state = step({"w": jnp.array([4.0, 4.0])}, params, state)
            >>> params["w"], int(state.count)
            (Array([ 0., -3.], dtype=float32), 1)
        """
        maker: Steps = self.update.__self__
        return maker.step(grads, params, state)


class Steps:
    """What a transformation's functions are made of: an optimizer of samestep and its arguments."""

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        arguments.resolve([], None)  # says now what does not fit

    def init(self, params: Any) -> State:
        """The state before the first step."""
        leaves = arrays_of("params", params)
        found = self.arguments.resolve([leaf.dtype for leaf in leaves], None)

        def first(name: str, leaf: Any) -> Any:
            dtype = found.state_dtype(name, jnp.result_type(leaf))
            if name in ("ema", "master"):
                return jnp.array(leaf, dtype, copy=True)
            return jnp.full_like(leaf, found.initial.get(name, 0.0), dtype)

        names = found.state_names
        states = {name: jax.tree.map(lambda leaf, name=name: first(name, leaf), params) for name in names}
        return State(jnp.zeros([], jnp.int32), states)

    def step(self, grads: Any, params: Any, state: State) -> tuple[Any, State]:
        """The parameters and the state after a step."""
        if not isinstance(state, State):
            raise TypeError(
                f"state: got {type(state).__name__}, expected State; call step(grads, params, state)"
            )
        leaves = arrays_of("params", params)
        tree = jax.tree.structure(params)
        found = self.arguments.resolve([leaf.dtype for leaf in leaves], state.count)
        names = found.state_names
        if set(state.states) != set(names):
            raise ValueError(
                f"state: got one of {', '.join(state.states) or 'no states'}, expected "
                f"{', '.join(names) or 'none'}, as init of this optimizer makes it"
            )
        written = [leaves]
        for name in names:
            dtypes = [found.state_dtype(name, leaf.dtype) for leaf in leaves]
            written.append(like_params(f"state.states[{name!r}]", state.states[name], leaves, tree, dtypes))
        flat = like_params("grads", grads, leaves, tree, [leaf.dtype for leaf in leaves])
        count = jnp.asarray(state.count)
        if count.shape != () or count.dtype.name not in ("int32", "int64"):
            raise TypeError(f"state.count: got {count.dtype} {count.shape}, expected one int32 or int64")
        count, (leaves, *states) = step_arrays(found, count, written, flat)
        trees = {name: jax.tree.unflatten(tree, made) for name, made in zip(names, states, strict=True)}
        return jax.tree.unflatten(tree, leaves), State(count, trees)

    def update(self, grads: Any, state: State, params: Any = None, **_: Any) -> tuple[Any, State]:
        """What is to be added to the parameters, and the state after the step.

        The last line of every rule is w - u or w + u. On w = -0 it leaves what it adds, signs of zeros
        included, and the sum with the parameter is then the step's to the last bit. Where more is done with
        the parameter, the difference between the stepped one and itself is added, whose rounding may show in
        the sum.
        """
        leaves = arrays_of("grads", grads)
        found = self.arguments.resolve([leaf.dtype for leaf in leaves], state.count)
        if found.needs_params or any(leaf.dtype.itemsize < 4 for leaf in leaves):
            if params is None:
                raise ValueError(
                    "params: got None, expected the parameters: with weight_decay, ema, master or 16 bits "
                    "a step depends on them"
                )
            stepped, state = self.step(grads, params, state)
            return jax.tree.map(lambda new, old: new - old, stepped, params), state
        nothing = jax.tree.map(lambda g: jnp.full_like(g, -0.0), grads)
        return self.step(grads, nothing, state)


def arrays_of(name: str, tree: Any) -> list[Any]:
    """The leaves as arrays of a type that a step takes."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)  # a shape will do for init
        if array.dtype.name not in DTYPES:
            place = name + jax.tree_util.keystr(path)
            raise TypeError(f"{place}: got {array.dtype}, expected {', '.join(DTYPES[:-1])} or {DTYPES[-1]}")
        found.append(array)
    return found


def like_params(name: str, tree: Any, leaves: list[Any], structure: Any, dtypes: list[Any]) -> list[Any]:
    """The leaves of a pytree that has the structure and the shapes of the parameters."""
    if jax.tree.structure(tree) != structure:
        raise ValueError(
            f"{name}: got {jax.tree.structure(tree)}, expected {structure}, as the parameters have it"
        )
    found = []
    paths = jax.tree_util.tree_leaves_with_path(tree)
    for (path, leaf), param, dtype in zip(paths, leaves, dtypes, strict=True):
        array = jnp.asarray(leaf)
        if array.shape != param.shape or array.dtype != dtype:
            place = name + jax.tree_util.keystr(path)
            raise TypeError(
                f"{place}: got {array.dtype} {array.shape}, expected {np.dtype(dtype)} {param.shape}, "
                "as for its parameter"
            )
        found.append(array)
    return found


def transformation(kind: Any, arguments: Mapping[str, Any]) -> Transformation:
    """The transformation that makes the steps of an optimizer of that class."""
    steps = Steps(Arguments(kind, arguments))
    return Transformation(steps.init, steps.update)
