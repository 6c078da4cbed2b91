"""What high-dimensional losses look like: random Hessians, a spin glass, deep linear networks."""

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
