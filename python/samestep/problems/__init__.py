"""Problems to minimise: a loss, its gradient, and what is known about both. No optimizers here."""

from .higham import Higham
from .hyperbola import Hyperbola
from .mse import MSE, Float64s, Floats, Integers, Scale
from .quartic import Quartic
from .risk import empirical_risk, test_risk
from .rosenbrock import Rosenbrock

__all__ = [
    "MSE",
    "Float64s",
    "Floats",
    "Higham",
    "Hyperbola",
    "Integers",
    "Quartic",
    "Rosenbrock",
    "Scale",
    "empirical_risk",
    "test_risk",
]
