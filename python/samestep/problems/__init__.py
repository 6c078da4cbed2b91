"""Problems to minimise: a loss, its gradient, and what is known about them. No optimizers here.

Least squares
    MSE               L(w) = (c/2) |Phi w - y|^2, computed by the kernels; all its curvatures are known

Your own loss
    Function          a loss and its gradient as functions, with beta, mu, optimum, minimizer

Formulas
    Rosenbrock        the valley (1 - w1)^2 + 100 (w2 - w1^2)^2
    Hyperbola         (w1 w2 - target)^2/2: two linear layers of one weight, a curve of minima
    Quartic           convex, but no quadratic
    Higham            a small network of sigmoids on ten points of the plane, or on your points

Risks
    empirical_risk    the mean squared error over the examples that w is fitted to
    test_risk         the same over held-out examples

minimize() accepts any object with the attributes of ``Problem``: ``size``, ``dimension``, ``dtype``,
``loss(w)`` and ``gradient(w, rows=None)``.
"""

from .examples import Float64s, Floats, Integers, Scale
from .function import Function
from .higham import Higham
from .hyperbola import Hyperbola
from .mse import MSE
from .problem import Problem
from .quartic import Quartic
from .risk import empirical_risk, test_risk
from .rosenbrock import Rosenbrock

__all__ = [
    "MSE",
    "Float64s",
    "Floats",
    "Function",
    "Higham",
    "Hyperbola",
    "Integers",
    "Problem",
    "Quartic",
    "Rosenbrock",
    "Scale",
    "empirical_risk",
    "test_risk",
]


def __dir__() -> list[str]:
    """The public names, without the modules in which the problems are defined."""
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
