"""The adaptive rules: what they do to constant, scaled and sparse gradients (A17 - A19, B20, B21)."""

import numpy as np
import pytest

import samestep as ss
from samestep.theory import check_step_size
from text_problems import fixed

BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference"])


def moves(opt, gradients):
    """How far each step moves the one weight."""
    (w,) = opt.params
    seen = []
    for g in gradients:
        before = w[0]
        opt.step(np.array([g], w.dtype))
        seen.append(w[0] - before)
    return np.array(seen)


class TestScaling:
    """f -> c f changes nothing: the rules divide by root mean squares, which are no second derivatives."""

    @BACKENDS
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("rule", [ss.RMSProp, ss.Adam, ss.AdaGrad])
    @pytest.mark.parametrize("placement", ["outside", "inside"])
    def test_sixteen_times_the_gradient_makes_the_same_bits(self, rule, dtype, placement, backend):
        w, scaled = np.full(2, 0.3, dtype), np.full(2, 0.3, dtype)
        a, b = (rule(x, lr=0.1, eps=0.0, eps_placement=placement, backend=backend) for x in (w, scaled))
        problem = fixed(dtype)
        for _ in range(50):
            g = problem.gradient(w)
            a.step(g)
            b.step(dtype(16) * g)
            assert w.tobytes() == scaled.tobytes()
        assert np.abs(w - dtype(0.3)).max() > 0.5

    def test_gradient_descent_is_not_so(self):
        w, scaled = np.zeros(2), np.zeros(2)
        ss.SGD(w, lr=0.1).step(fixed().gradient(w))
        ss.SGD(scaled, lr=0.1).step(16 * fixed().gradient(scaled))
        assert scaled == pytest.approx(16 * w)


class TestRMSProp:
    @BACKENDS
    def test_a_constant_gradient_starts_with_long_steps(self, backend):
        seen = moves(ss.RMSProp(np.zeros(1), lr=1.0, rho=0.9, eps=0.0, backend=backend), [-2.0] * 50)
        k = np.arange(1, 51)
        assert seen == pytest.approx(1 / np.sqrt(1 - 0.9**k), rel=1e-12)
        assert seen[0] == pytest.approx(3.16227766, abs=5e-9)
        assert seen[-1] == pytest.approx(1.00258689, abs=5e-9)

    def test_the_placement_of_eps(self):
        for placement, expected in (
            ("inside", 1 / np.sqrt(0.1 + 0.01)),
            ("outside", 1 / (np.sqrt(0.1) + 0.01)),
        ):
            opt = ss.RMSProp(np.zeros(1), lr=1.0, rho=0.9, eps=0.01, eps_placement=placement)
            assert moves(opt, [-1.0])[0] == pytest.approx(expected, rel=1e-14)

    def test_the_notes_squared_numerator_only_ever_moves_down(self):
        """w - g^2/sqrt(E + eps), and no learning rate: with g = -2 it goes down by 6.3 instead of up."""
        g, gamma = -2.0, 0.9
        literal = -(g * g) / np.sqrt((1 - gamma) * g * g + 1e-6)
        assert literal == pytest.approx(-6.3, abs=0.05)
        assert moves(ss.RMSProp(np.zeros(1), lr=1.0, rho=gamma), [g])[0] == pytest.approx(3.16, abs=5e-3)
        w, E = 1.0, 0.0
        for _ in range(50):  # on L = (w - 2)^2/2, from 1: away from the minimum, for good
            E = gamma * E + (1 - gamma) * (w - 2) ** 2
            w -= (w - 2) ** 2 / np.sqrt(E + 1e-6)
        assert w < -1e3


class TestAdam:
    @BACKENDS
    def test_a_constant_gradient_makes_steps_of_lr(self, backend):
        for betas in ((0.9, 0.999), (0.0, 0.9)):
            seen = moves(ss.Adam(np.zeros(1), lr=0.1, betas=betas, eps=0.0, backend=backend), [3.0] * 2000)
            assert seen == pytest.approx(-0.1, rel=1e-11)

    def test_the_placement_of_eps(self):
        """Inside, 1e-8 acts as 1e-4 does outside."""
        for g, placement, expected in (
            (1e-6, "outside", 0.990),
            (1e-6, "inside", 0.0100),
            (1e-4, "outside", 0.99990),
            (1e-4, "inside", 0.70711),
        ):
            seen = moves(ss.Adam(np.zeros(1), lr=1.0, eps=1e-8, eps_placement=placement), [-g])
            assert seen[0] == pytest.approx(expected, rel=1e-3)

    def test_the_papers_second_way_of_writing_it(self):
        """lr sqrt(1 - beta2^t)/(1 - beta1^t) m/(sqrt v + e): the same for e = eps sqrt(1 - beta2^t)."""
        rng = np.random.RandomState(0)
        opt = ss.Adam(np.zeros(1), lr=0.1, eps=1e-3)
        m = v = w = 0.0
        for t in range(1, 200):
            g = rng.standard_normal()
            opt.step(np.array([g]))
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
            start = np.sqrt(1 - 0.999**t)
            w -= 0.1 * start / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-3 * start)
        assert opt.params[0][0] == pytest.approx(w, rel=1e-12)

    def test_after_a_long_rest_a_step_is_as_long_as_kingma_and_ba_say(self):
        seen = moves(ss.Adam(np.zeros(1), lr=1.0, eps=1e-100), [0.0] * 5000 + [-1.0])
        assert seen[-1] == pytest.approx(3.15164, abs=5e-5)
        assert 0.1 / np.sqrt(0.001) == pytest.approx(3.16228, abs=5e-6)

    def test_the_notes_decay_of_v_lets_the_steps_grow_tenfold(self):
        """v decayed by delta = 0.9 in place of gamma = 0.999."""
        delta, gamma, m, v, steps = 0.9, 0.999, 0.0, 0.0, []
        for k in range(1, 20001):
            m, v = delta * m + (1 - delta), delta * v + (1 - gamma)
            steps.append(m / (1 - delta**k) / np.sqrt(v / (1 - gamma**k)))
        assert [steps[k - 1] for k in (1, 2, 10, 100, 1000)] == pytest.approx(
            [1, 1.0257, 1.2363, 3.0856, 7.9518], abs=5e-5
        )
        assert steps[-1] == pytest.approx(np.sqrt((1 - delta) / (1 - gamma)), rel=1e-6)  # 10, not 1

    def test_the_slides_moments_that_are_never_updated_let_the_steps_shrink(self):
        """s^ = (rho1 s + (1 - rho1) g)/(1 - rho1^t) with s = 0 for ever; with s = s^ fed back it is worse."""

        def literal(feed_back):
            s = r = 0.0
            steps = []
            for t in range(1, 6):
                s_hat = (0.9 * s + 0.1) / (1 - 0.9**t)
                r_hat = (0.999 * r + 0.001) / (1 - 0.999**t)
                steps.append(s_hat / np.sqrt(r_hat))
                if feed_back:
                    s, r = s_hat, r_hat
            return steps

        assert literal(False) == pytest.approx([1, 0.744, 0.639, 0.581, 0.545], abs=1e-3)
        right = moves(ss.Adam(np.zeros(1), lr=1.0, eps=0.0), [-1.0] * 5)
        assert right == pytest.approx(1, rel=1e-12)
        assert literal(True)[:3] == pytest.approx([1, 0.2353, 0.0437], abs=5e-5)

    @pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.6), (0.9, 0.85), (0.0, 0.9), (0.99, 0.999)])
    def test_no_step_is_longer_than_the_cap_and_one_comes_near(self, betas):
        beta1, beta2 = betas
        cap = check_step_size(fixed(), ss.Adam(np.zeros(1), lr=1.0, betas=betas)).cap
        rng = np.random.RandomState(0)
        # After a long rest, gradients in the ratio for which Cauchy-Schwarz is an equality.
        n = int(46 / abs(np.log(beta1 / beta2))) if beta1 else 0
        worst = np.append(np.full(4000, 1e-100), (beta1 / beta2) ** np.arange(n, -1.0, -1.0))
        for gradients in (rng.standard_normal(300), rng.standard_cauchy(300), np.ones(300), worst):
            seen = np.abs(moves(ss.Adam(np.zeros(1), lr=1.0, betas=betas, eps=0.0), gradients))
            assert seen.max() <= cap * (1 + 1e-9)
        assert seen.max() > 0.98 * cap

    def test_without_a_cap(self):
        assert check_step_size(fixed(), ss.Adam(np.zeros(1), lr=1.0, betas=(0.9, 0.8))).cap is None


class TestAdaGrad:
    @BACKENDS
    def test_a_constant_gradient_makes_steps_of_lr_over_the_root_of_k(self, backend):
        seen = moves(ss.AdaGrad(np.zeros(1), lr=0.1, eps=0.0, backend=backend), [-7.0] * 100)
        assert seen == pytest.approx(0.1 / np.sqrt(np.arange(1, 101)), rel=1e-12)
        assert seen[[0, 3, 99]] == pytest.approx([0.1, 0.05, 0.01], rel=1e-12)
