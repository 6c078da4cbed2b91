"""Compares optimizers: on Rosenbrock's valley, then one example at a time on the simplest problem.

python examples/compare_algorithms.py

Gradient descent, momentum and a decaying step on a valley; then a straight line through 200 noisy points,
first online, one point a step, then by mini-batches.
"""

from collections.abc import Callable

import numpy as np

import samestep as ss


def rosenbrock(momentum: float, steps: int = 1000) -> np.ndarray:
    """The heavy ball's weights after steps with lr 0.001 from (0.4, -0.2); momentum 0 is gradient descent."""
    problem = ss.problems.Rosenbrock()
    start = np.array([0.4, -0.2])
    return ss.minimize(problem, start, lambda w: ss.Momentum(w, lr=1e-3, momentum=momentum), steps=steps).w


def decaying(lr: float, steps: int = 4000) -> np.ndarray:
    """Gradient descent from (0.2, -0.2) with step sizes lr 0.99^k. Their sum is finite, so that it stalls."""
    problem = ss.problems.Rosenbrock()
    w = np.array([0.2, -0.2])
    optimizer = ss.SGD(w, lr=lr)
    for k in range(steps):
        optimizer.lr = lr * 0.99**k
        optimizer.step(problem.gradient(w))
    return w


def line() -> ss.problems.MSE:
    """y = 2x - 1 through 200 points with noise 0.1: two weights, slope and intercept."""
    random = np.random.RandomState(42)
    x = random.uniform(-1, 1, 200)
    y = 2 * x - 1 + 0.1 * random.standard_normal(200)
    return ss.problems.MSE(np.column_stack([x, np.ones(200)]), y, scale="half_mean")


def stochastic(batch_size: int, lr: Callable[[int], float], steps: int = 5000) -> np.ndarray:
    """The weights after steps along the mean gradients of points that are drawn at random."""
    problem = line()
    draws = np.random.RandomState(7).randint(0, problem.size, (steps, batch_size))
    w = np.zeros(2)
    optimizer = ss.SGD(w, lr=lr(0))
    for k, rows in enumerate(draws):
        optimizer.lr = lr(k)
        optimizer.step(problem.gradient(w, rows))
    return w


RUNS = {
    "online, lr 0.05": (1, lambda k: 0.05),
    "online, lr 1/(10 + 0.33 k)": (1, lambda k: 1 / (10 + 0.33 * k)),
    "16 a step, lr 0.05": (16, lambda k: 0.05),
}


def main() -> None:
    valley = ss.problems.Rosenbrock()
    print("Rosenbrock's valley, least at (1, 1)")
    for momentum in (0.0, 0.5, 0.9):
        w = rosenbrock(momentum)
        print(f"  momentum {momentum:3}       ({w[0]:.8f}, {w[1]:.8f})  f {valley.loss(w):.6e}")
    for lr in (0.005, 0.0025):
        w = decaying(lr)
        print(f"  lr {lr:6} 0.99^k   ({w[0]:.8f}, {w[1]:.8f})  f {valley.loss(w):.6e}")
    best = line().minimizer()
    print(f"A line through 200 points, least squares ({best[0]:.8f}, {best[1]:.8f}); 5000 steps end")
    for name, (batch_size, schedule) in RUNS.items():
        print(f"  {name:28} {np.linalg.norm(stochastic(batch_size, schedule) - best):.5f} away")


if __name__ == "__main__":
    main()
