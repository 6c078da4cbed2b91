"""examples/compare_algorithms.py against the published scripts' end points (A15, B18)."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import samestep as ss

PATH = Path(__file__).parents[2] / "examples" / "compare_algorithms.py"


@pytest.fixture(scope="module")
def compare():
    spec = importlib.util.spec_from_file_location("compare_algorithms", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("momentum", "end", "loss"),
    [
        (0.9, (0.99513803, 0.99028019), 2.367680e-5),
        (0.5, (0.83385528, 0.69458124), 2.765785e-2),
        (0.0, (0.70440890, 0.49479485), 8.756927e-2),
    ],
)
def test_rosenbrock(compare, momentum, end, loss):
    w = compare.rosenbrock(momentum)
    assert w == pytest.approx(end, abs=5e-9)
    assert ss.problems.Rosenbrock().loss(w) == pytest.approx(loss, rel=2e-7)


@pytest.mark.parametrize(
    ("lr", "end"), [(0.005, (0.53590921, 0.28487846)), (0.0025, (0.40043888, 0.15741860))]
)
def test_a_geometric_decay_stalls(compare, lr, end):
    assert compare.decaying(lr) == pytest.approx(end, abs=5e-9)
    # No further: all steps from k on together are lr 0.99^k/0.01.
    assert compare.decaying(lr, 8000) == pytest.approx(compare.decaying(lr), abs=1e-14)


def test_the_line(compare):
    problem = compare.line()
    assert problem.minimizer() == pytest.approx([1.99609645, -0.99338344], abs=5e-9)
    assert problem.eigenvalues == pytest.approx([0.34556432, 1.00156349], abs=5e-9)


@pytest.mark.parametrize(
    ("name", "distance", "within"),
    [
        ("online, lr 0.05", 0.0292, 5e-5),
        ("online, lr 1/(10 + 0.33 k)", 0.01146, 5e-6),
        ("16 a step, lr 0.05", 0.00125, 5e-6),
    ],
)
def test_online_and_by_mini_batches(compare, name, distance, within):
    batch_size, lr = compare.RUNS[name]
    away = np.linalg.norm(compare.stochastic(batch_size, lr) - compare.line().minimizer())
    assert away == pytest.approx(distance, abs=within)


def test_weighted_points():
    """Of the same collection: f = (1/5) sum c_i (x - x_i)^2 + (y - y_i)^2, lr 0.01 from (6, 6)."""
    points = np.array([(1, 1), (2, 0), (3, 1), (2, 3), (1, 2)], float)
    roots = np.sqrt([1, 2, 3, 2, 4])
    Phi = np.zeros((10, 2))
    Phi[:5, 0], Phi[5:, 1] = roots, 1
    y = np.concatenate([roots * points[:, 0], points[:, 1]])
    problem = ss.problems.MSE(Phi, y, scale="sum")
    assert problem.minimizer() == pytest.approx([22 / 12, 7 / 5])
    run = ss.minimize(problem, np.array([6.0, 6.0]), lambda w: ss.SGD(w, lr=0.01 / 5), steps=1000)
    assert run.w == pytest.approx([1.83333333, 1.40000001], abs=5e-9)


def test_it_prints_what_it_found(compare, capsys):
    compare.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 10
    assert "(0.99513803, 0.99028019)" in printed[3]
    assert printed[-1].endswith("0.00125 away")
