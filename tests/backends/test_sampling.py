"""The sampler: its stream word for word, its draws rule by rule, and the variances of B13."""

import itertools
from collections import Counter

import numpy as np
import pytest

from samestep.backends.reference.sampling import Sampler
from text_problems import small

MASK = 2**64 - 1


def philox_words(seed, count):
    """Philox4x64-10 in Python integers, from the paper's description."""
    words = []
    for block in range(-(-count // 4)):
        x, key = [block + 1, 0, 0, 0], [seed, 0]
        for _ in range(10):
            a, b = 0xD2E7470EE14C6C93 * x[0], 0xCA5A826395121157 * x[2]
            x = [(b >> 64) ^ x[1] ^ key[0], b & MASK, (a >> 64) ^ x[3] ^ key[1], a & MASK]
            key = [(key[0] + 0x9E3779B97F4A7C15) & MASK, (key[1] + 0xBB67AE8584CAA73B) & MASK]
        words += x
    return words[:count]


def drawn(words, n):
    """The next draw from {0..n-1}, as the docstring words it."""
    return next(word for word in words if word < 2**64 - 2**64 % n) % n


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**64 - 1])
def test_the_stream_is_the_documented_one(seed):
    # n = 2^63 - 1 keeps all but the top of a word and throws none but two away.
    n = 2**63 - 1
    words = iter(philox_words(seed, 11))
    assert Sampler(seed).draws(9, n).tolist() == [drawn(words, n) for _ in range(9)]


@pytest.mark.parametrize("n", [1, 2, 3, 442, 2**62, 2**62 + 1, 3 * 2**60 + 7])
def test_draws_throw_away_the_words_that_would_favour_small_numbers(n):
    # Of the large n: none of the words, one in four, one in sixteen.
    words = iter(philox_words(7, 200))
    assert Sampler(7).draws(100, n).tolist() == [drawn(words, n) for _ in range(100)]


@pytest.mark.parametrize("n", [0, 1, 2, 10, 442])
def test_shuffle_is_fisher_and_yates(n):
    words = iter(philox_words(3, 500))
    expected = list(range(n))
    for i in range(n - 1, 0, -1):
        j = drawn(words, i + 1)
        expected[i], expected[j] = expected[j], expected[i]
    order = Sampler(3).shuffle(n)
    assert order.dtype == np.int64
    assert order.tolist() == expected


def test_a_shuffle_with_thrown_away_words(monkeypatch):
    # 2^64 mod 3 is 1: the largest word of all is the one that no draw from {0..2} takes.
    words = iter([2**64 - 1, 2**64 - 1, 4, 3])
    sampler = Sampler(0)
    monkeypatch.setattr(
        sampler, "_words", lambda count: np.array([next(words) for _ in range(count)], np.uint64)
    )
    assert sampler.shuffle(3).tolist() == [0, 2, 1]  # j = 4 mod 3 at i = 2, j = 3 mod 2 at i = 1
    assert next(words, None) is None


def test_the_stream_goes_on_from_call_to_call():
    whole, parts = Sampler(5), Sampler(5)
    pieces = [parts.draws(m, 100) for m in (1, 0, 6, 3)]
    assert np.concatenate(pieces).tolist() == whole.draws(10, 100).tolist()
    assert parts.shuffle(5).tolist() == whole.shuffle(5).tolist()


def test_all_permutations_come_up_equally_often():
    sampler, rounds = Sampler(11), 6000
    seen = Counter(tuple(sampler.shuffle(3)) for _ in range(rounds))
    expected = rounds / 6
    assert len(seen) == 6
    # Chi-square, 5 degrees of freedom: above 20.5 once in a thousand seeds.
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 20.5


def test_a_round_of_draws_misses_a_third_of_the_rows():
    sampler, n, rounds = Sampler(2), 442, 400
    seen = np.mean([len(set(sampler.draws(n, n).tolist())) / n for _ in range(rounds)])
    expected = 1 - (1 - 1 / n) ** n
    assert expected == pytest.approx(0.632537, abs=5e-7)
    assert seen == pytest.approx(expected, abs=0.003)  # 4 standard deviations


@pytest.mark.parametrize(
    ("m", "with_replacement", "without"),
    [(1, 1.06307086, 1.06307086), (2, 0.53153543, 0.42522834), (3, 0.35435695, 0.21261417)],
)
def test_variance_of_the_batch_gradient(m, with_replacement, without):
    problem, w = small()
    full = problem.gradient(w)
    spread = np.mean([np.sum((problem.gradient(w, np.array([i])) - full) ** 2) for i in range(6)])

    def variance(batches):
        return np.mean([np.sum((problem.gradient(w, np.array(b)) - full) ** 2) for b in batches])

    independent = variance(itertools.product(range(6), repeat=m))
    distinct = variance(itertools.combinations(range(6), m))
    assert independent == pytest.approx(with_replacement, abs=5e-9)
    assert distinct == pytest.approx(without, abs=5e-9)
    assert independent == pytest.approx(spread / m, rel=1e-12)
    assert distinct == pytest.approx(spread / m * (6 - m) / 5, rel=1e-12)


@pytest.mark.parametrize("m", [2, 3])
def test_the_sampler_has_these_variances(m):
    problem, w = small()
    full, rounds = problem.gradient(w), 4000
    sampler = Sampler(1)

    def deviation(rows):
        return np.sum((problem.gradient(w, rows) - full) ** 2)

    independent = np.mean([deviation(sampler.draws(m, 6)) for _ in range(rounds)])
    distinct = np.mean([deviation(sampler.shuffle(6)[:m]) for _ in range(rounds)])
    assert independent == pytest.approx(1.06307086 / m, rel=0.06)
    assert distinct == pytest.approx(1.06307086 / m * (6 - m) / 5, rel=0.06)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, r"seed: got float", lambda: Sampler(1.0)),
        (TypeError, r"seed: got bool", lambda: Sampler(True)),
        (ValueError, r"seed: got -1, expected 0 to 2\^64 - 1", lambda: Sampler(-1)),
        (ValueError, r"seed: got 18446744073709551616", lambda: Sampler(2**64)),
        (ValueError, r"n: got -1", lambda: Sampler(0).shuffle(-1)),
        (TypeError, r"n: got float, expected an integer", lambda: Sampler(0).shuffle(2.0)),
        (TypeError, r"n: got bool, expected an integer", lambda: Sampler(0).shuffle(True)),
        (TypeError, r"n: got float, expected an integer", lambda: Sampler(0).draws(3, 2.5)),
        (TypeError, r"m: got bool, expected an integer", lambda: Sampler(0).draws(True, 5)),
        (ValueError, r"m: got -1", lambda: Sampler(0).draws(-1, 5)),
        (ValueError, r"n: got 0, expected 1 to 2\^63 - 1", lambda: Sampler(0).draws(1, 0)),
        (ValueError, r"n: got 9223372036854775808", lambda: Sampler(0).draws(1, 2**63)),
    ],
)
def test_draws_that_cannot_be(error, message, call):
    with pytest.raises(error, match=message):
        call()


def test_counts_may_be_narrow_integers():
    assert Sampler(1).shuffle(np.uint8(200)).tolist() == Sampler(1).shuffle(200).tolist()
    assert Sampler(1).draws(np.int8(9), np.int8(100)).tolist() == Sampler(1).draws(9, 100).tolist()
