"""A class derived from MSE that overrides loss or gradient: nobody takes it for a quadratic."""

import numpy as np
import pytest

import samestep as ss
from samestep.problems import MSE
from samestep.problems.mse import is_least_squares

PHI, Y = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.array([1.0, 2.0, 4.0])


class Named(MSE):
    """Overrides nothing that the theory reads."""

    def __repr__(self):
        return "Named"


class Quartic(MSE):
    """The fourth power of |w| on top."""

    def loss(self, w):
        return super().loss(w) + float(w @ w) ** 2 / 4

    def gradient(self, w, rows=None):
        return super().gradient(w, rows) + float(w @ w) * w


class Bounded(Quartic):
    """Knows a smoothness of its own, for |w| <= 4."""

    beta = 3.0 + 3 * 16.0


def test_what_is_least_squares():
    assert is_least_squares(MSE(PHI, Y))
    assert is_least_squares(Named(PHI, Y))
    assert not is_least_squares(Quartic(PHI, Y))
    assert not is_least_squares(ss.problems.Rosenbrock())


def test_the_edge_needs_a_beta_of_the_other_loss():
    optimizer = ss.SGD(np.zeros(2), 1.0)
    assert ss.theory.check_step_size(Named(PHI, Y), optimizer).converges is False
    with pytest.raises(TypeError, match="got Quartic without a beta of its own"):
        ss.theory.check_step_size(Quartic(PHI, Y), optimizer)
    found = ss.theory.check_step_size(Bounded(PHI, Y), optimizer)
    assert (found.below, found.converges) == (False, None)


def test_a_run_is_held_to_no_number_of_the_quadratic():
    run = ss.minimize(Quartic(PHI, Y), np.zeros(2), lambda w: ss.SGD(w, 0.01), steps=50)
    with pytest.raises(TypeError, match="got Quartic without a beta of its own"):
        ss.theory.check_run(Quartic(PHI, Y), run)
    problem = Bounded(PHI, Y)
    run = ss.minimize(problem, np.zeros(2), lambda w: ss.SGD(w, 0.01), steps=50)
    found = ss.theory.check_run(problem, run)
    assert found.ok
    assert not any(line in str(found) for line in ("PL", "spectrum", "modes"))


def test_the_pl_constant_of_another_loss_is_not_known():
    with pytest.raises(TypeError, match="got Quartic without a mu of its own"):
        ss.theory.pl_constant(Quartic(PHI, Y))


def test_powers_of_the_hessian_need_the_loss_of_mse():
    with pytest.raises(TypeError, match=r"got Quartic, expected problems\.MSE or a Hessian"):
        ss.theory.beta(Quartic(PHI, Y), "power")


def test_the_empirical_risk_is_the_mean_of_squares_whatever_the_loss():
    w = np.ones(2)
    assert ss.problems.empirical_risk(Quartic(PHI, Y), w) == ss.problems.empirical_risk(MSE(PHI, Y), w)


@pytest.mark.parametrize("name", ["loss", "gradient"])
def test_a_method_that_was_set_is_called(name):
    problem, calls = MSE(PHI, Y), []
    original = getattr(problem, name)

    def watched(*args):
        calls.append(args)
        return original(*args)

    setattr(problem, name, watched)
    ss.minimize(problem, np.zeros(2), lambda w: ss.SGD(w, 0.1), steps=3)
    assert len(calls) >= 3
