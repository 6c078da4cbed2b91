"""Functions that are no least squares, as problems for minimize(): what the texts' bounds are tried on."""

import numpy as np

import samestep as ss
from samestep.problems import MSE

PHI5 = np.array([[1.0, 0, 2, 0, 1], [0, 1, 0, 1, 1], [1, 1, 0, 0, -1]])
Y3 = np.array([3.0, -2.0, 1.0])


class Function:
    """A loss and its gradient, over all of the one example that there is."""

    size = 1
    dtype = np.dtype(np.float64)

    def __init__(self, loss, gradient, dimension):
        self.loss, self.dimension = loss, dimension
        self._gradient = gradient

    def gradient(self, w, rows=None):
        return np.asarray(self._gradient(w), np.float64)


def wells():
    """sum w^2/(1 + w^2): curvatures in [-1/2, 2], so beta = 2; not convex."""
    return Function(
        lambda w: float(np.sum(w * w / (1 + w * w))), lambda w: 2 * w / (1 + w * w) ** 2, dimension=3
    )


def huber(kink):
    """w^2/2 up to the kink, then straight: beta = 1."""
    return Function(
        lambda w: float(w[0] ** 2 / 2 if abs(w[0]) <= kink else kink * abs(w[0]) - kink**2 / 2),
        lambda w: np.clip(w, -kink, kink),
        dimension=1,
    )


def valley():
    """(w1 w2 - 1)^2/2: its minima are a hyperbola, the sharpness there |w|^2."""
    return Function(
        lambda w: float((w[0] * w[1] - 1) ** 2 / 2), lambda w: (w[0] * w[1] - 1) * w[::-1], dimension=2
    )


def rosenbrock():
    return Function(
        lambda w: float((1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2),
        lambda w: [-2 * (1 - w[0]) - 400 * w[0] * (w[1] - w[0] ** 2), 200 * (w[1] - w[0] ** 2)],
        dimension=2,
    )


def lessard():
    """A strongly convex function, m = 1, L = 25, on which the heavy ball tuned for quadratics cycles."""

    def gradient(w):
        x = w[0]
        return np.array([25 * x if x < 1 else x + 24 if x < 2 else 25 * x - 24])

    def loss(w):
        x = w[0]
        if x < 1:
            return 12.5 * x * x
        return 12.5 + (x * x / 2 + 24 * x - 24.5 if x < 2 else 12.5 * x * x - 24 * x + 23.5)

    return Function(loss, gradient, dimension=1)


class Sine(Function):
    """|F - y|^2/2 with F = z + s sin z, z = Phi w: PL* with curvatures below 0.

    On the loss's sublevel set mu = (1 - s)^2 lambda_min(K) and beta = ((1 + s)^2 + s sqrt(2 L0))
    lambda_max(K), K = Phi Phi'.
    """

    def __init__(self, Phi=PHI5, y=Y3, s=0.5):
        self.Phi, self.y, self.s = Phi, y, s
        super().__init__(self._loss, self._slope, Phi.shape[1])

    def _residual(self, z):
        return z + self.s * np.sin(z) - self.y

    def _loss(self, w):
        return float(np.sum(self._residual(self.Phi @ w) ** 2) / 2)

    def jacobian(self, w):
        return (1 + self.s * np.cos(self.Phi @ w))[:, None] * self.Phi

    def _slope(self, w):
        return self.jacobian(w).T @ self._residual(self.Phi @ w)

    def hessian(self, w):
        z = self.Phi @ w
        J = self.jacobian(w)
        return J.T @ J + self.Phi.T @ ((-self.s * np.sin(z) * self._residual(z))[:, None] * self.Phi)


def interpolating(scale="half_sum"):
    """Three rows, five weights: every y is fitted."""
    return MSE(PHI5, Y3, scale)


def path(problem, make, steps, w0):
    """The weights after 0, 1, ..., steps steps: shape (steps + 1, p)."""
    seen = []
    ss.minimize(
        problem,
        np.array(w0, np.float64),
        make,
        steps=steps,
        callback=lambda step, w, loss: seen.append(w.copy()),
    )
    return np.array(seen)


def logistic(**known):
    """mu-regularised logistic regression on 200 points, and what of it is known: smooth, strongly convex."""
    random = np.random.RandomState(0)
    X, mu = random.standard_normal((200, 5)), 0.05
    y = np.sign(X @ random.standard_normal(5) + 0.5 * random.standard_normal(200))
    beta = float(np.linalg.eigvalsh(X.T @ X / 200)[-1]) / 4 + mu

    def gradient(w):
        return -(X.T @ (y / (1 + np.exp(y * (X @ w))))) / 200 + mu * w

    return ss.problems.Function(
        lambda w: float(np.logaddexp(0, -y * (X @ w)).mean() + mu / 2 * (w @ w)),
        gradient,
        5,
        **{"beta": beta, "mu": mu, **known},
    )
