"""What high-dimensional losses look like: random Hessians, spin glasses, deep linear networks.

Random Hessians
    coin_minimum_probability   2^-d: a coin for each eigenvalue
    goe_minimum_probability    of a GOE matrix without negative eigenvalues, for d = 1, 2, 3
    goe_minimum_frequency      the same by counting
    goe_eigenvalues            of one such matrix
    semicircle_density         their law
    semicircle_fraction        how much of it is positive once it is shifted

Spin glasses
    SpinGlass                  one landscape of n spins, p of which interact
    pspin_index                the law of the index at an energy
    pspin_critical_points      those that Newton's method finds: CriticalPoints
    pspin_descent              the energies at which gradient descent ends

Deep linear networks
    DeepLinear                 two linear layers, square or not, fitted to a target matrix
    deep_linear                gradient descent on them
    mode_strength              how a mode is learned in time
"""

from .hessians import (
    coin_minimum_probability,
    goe_eigenvalues,
    goe_minimum_frequency,
    goe_minimum_probability,
    semicircle_density,
    semicircle_fraction,
)
from .linear_networks import DeepLinear, deep_linear, mode_strength
from .spin_glass import CriticalPoints, SpinGlass, pspin_critical_points, pspin_descent, pspin_index

__all__ = [
    "CriticalPoints",
    "DeepLinear",
    "SpinGlass",
    "coin_minimum_probability",
    "deep_linear",
    "goe_eigenvalues",
    "goe_minimum_frequency",
    "goe_minimum_probability",
    "mode_strength",
    "pspin_critical_points",
    "pspin_descent",
    "pspin_index",
    "semicircle_density",
    "semicircle_fraction",
]


def __dir__() -> list[str]:
    """Without the modules that the functions are in."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
