"""AdaGrad and Adam as the slides print them (B20, B21), along a constant gradient."""

import numpy as np
import pytest

import samestep as ss

BACKENDS = pytest.mark.parametrize("backend", ["cpu", "reference"])


def moves(make, g, steps):
    """What each of so many steps along the same gradient takes off a weight of 0."""
    w, seen = np.zeros(1), []
    opt = make(w)
    for _ in range(steps):
        before = w[0]
        opt.step(np.array([g]))
        seen.append(before - w[0])
    return np.array(seen)


@BACKENDS
@pytest.mark.parametrize("g", [3.0, -1e-3])
def test_adagrad_slows_down_as_one_over_the_root_of_k(backend, g):
    """Algorithm 8.4: r = k g^2, so step k is lr/sqrt k."""
    found = moves(lambda w: ss.AdaGrad(w, lr=0.1, eps=0.0, backend=backend), g, 100)
    assert found * np.sign(g) == pytest.approx(0.1 / np.sqrt(np.arange(1, 101)), rel=1e-12)
    assert abs(found[[0, 3, 99]]) == pytest.approx([0.1, 0.05, 0.01], rel=1e-12)


@BACKENDS
def test_adagrads_small_constant_stands_in_where_the_square_vanishes(backend):
    """A subnormal g has g^2 = 0: outside the root, eps leaves lr g/eps; inside, lr g/sqrt eps."""
    g = 2.0**-1060
    outside = moves(lambda w: ss.AdaGrad(w, lr=0.5, eps=2.0**-20, backend=backend), g, 2)
    inside = moves(
        lambda w: ss.AdaGrad(w, lr=0.5, eps=2.0**-20, eps_placement="inside", backend=backend), g, 2
    )
    assert outside.tolist() == [2.0**-1041] * 2
    assert inside.tolist() == [2.0**-1051] * 2


@BACKENDS
@pytest.mark.parametrize("g", [3.0, -1e-3])
def test_adam_steps_by_lr_whatever_the_gradient(backend, g):
    """Algorithm 8.7 with its moments updated: both corrected ones are those of g at every k."""
    found = moves(lambda w: ss.Adam(w, lr=1.0, eps=0.0, backend=backend), g, 300)
    assert found * np.sign(g) == pytest.approx(1.0, rel=1e-11)


def printed_adam(g, steps, feed_back):
    """The slide's lines: its hats stand on the biased moments too, so that s and r are never written.

    With feed_back, what ends up under the hats is taken for s and r.
    """
    s = r = 0.0
    seen = []
    for t in range(1, steps + 1):
        s_hat = (0.9 * s + 0.1 * g) / (1 - 0.9**t)
        r_hat = (0.999 * r + 0.001 * g * g) / (1 - 0.999**t)
        if feed_back:
            s, r = s_hat, r_hat
        seen.append(s_hat / np.sqrt(r_hat))
    return seen


def test_the_printed_adam_is_wrong_however_it_is_read():
    right = moves(lambda w: ss.Adam(w, lr=1.0, eps=0.0), 1.0, 5)
    assert right == pytest.approx([1, 1, 1, 1, 1], rel=1e-12)
    assert printed_adam(1.0, 5, feed_back=False) == pytest.approx([1, 0.744, 0.639, 0.581, 0.545], abs=5e-4)
    assert printed_adam(1.0, 3, feed_back=True) == pytest.approx([1, 0.235, 0.0437], abs=5e-4)


@pytest.mark.parametrize("betas", [(1.0, 0.999), (0.9, 1.0)])
def test_a_decay_of_1_is_refused(betas):
    """The slide's range [0, 1] is closed; at 1 the moment stays 0 and its correction divides by 0."""
    with pytest.raises(ValueError, match=r"expected a number in \[0, 1\)"):
        ss.Adam(np.zeros(1), betas=betas)
