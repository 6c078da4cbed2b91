"""The rows of a batch: the same draws from the same seed, on every machine and for ever."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LARGEST = np.uint64(2**64 - 1)


def _check_integer(name: str, value: int) -> int:
    """The value as Python's int, which never overflows."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name}: got {type(value).__name__}, expected an integer")
    return int(value)


class Sampler:
    """Uniform integers from a counter-based generator.

    NumPy promises the raw words of its Philox, but not the draws that its Generator makes of them. So the
    step from words to draws is fixed here, and is simple enough for any language:

    * Word i = 0, 1, ... is element i mod 4 of Philox4x64-10 at counter (i div 4 + 1, 0, 0, 0) with
      key (seed, 0).
    * A draw from {0..n-1} reads words until one is below 2^64 - (2^64 mod n). The draw is that word mod n.
      The words above are skipped, since they would make small numbers more likely.
    * Every draw continues after the last word of the draw before; n = 1 uses up a word like any other n.

    Args:
        seed: 0 to 2^64 - 1.

    Raises:
        TypeError: the seed is no integer.
        ValueError: the seed is out of range.

    Source:
        Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011), for Philox.

    Example:
        >>> from samestep.backends.reference.sampling import Sampler
        >>> sampler = Sampler(seed=0)
        >>> sampler.shuffle(5)
        array([1, 3, 0, 2, 4])
        >>> sampler.draws(4, 100)
        array([ 3, 25, 67, 96])
    """

    def __init__(self, seed: int) -> None:
        seed = _check_integer("seed", seed)
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed: got {seed}, expected 0 to 2^64 - 1")
        self._philox = np.random.Philox(key=seed)

    def shuffle(self, n: int) -> npt.NDArray[np.int64]:
        """A permutation of 0..n-1; all permutations are equally likely.

        For i = n-1 down to 1, elements i and j are swapped, with j drawn from {0..i}.

        Args:
            n: the length, 0 or more.

        Returns:
            shape (n,), int64.

        Raises:
            TypeError: n is no integer.
            ValueError: n is negative.

        Source:
            Durstenfeld, Algorithm 235 (1964): the shuffle of Fisher and Yates.

        Example:
            >>> from samestep.backends.reference.sampling import Sampler
            >>> sorted(Sampler(seed=7).shuffle(4).tolist())
            [0, 1, 2, 3]
        """
        n = _check_integer("n", n)
        if n < 0:
            raise ValueError(f"n: got {n}, expected 0 or more")
        order = list(range(n))
        partners = self._draw(np.arange(n, 1, -1, dtype=np.uint64)).tolist()
        for i, j in zip(range(n - 1, 0, -1), partners, strict=True):
            order[i], order[j] = order[j], order[i]
        return np.array(order, dtype=np.int64)

    def draws(self, m: int, n: int) -> npt.NDArray[np.int64]:
        """m independent draws from {0..n-1}; all values are equally likely.

        Args:
            m: the number of draws, 0 or more.
            n: the number of values, 1 to 2^63 - 1.

        Returns:
            shape (m,), int64.

        Raises:
            TypeError: m or n is no integer.
            ValueError: m or n is out of range.

        Example:
            >>> from samestep.backends.reference.sampling import Sampler
            >>> Sampler(seed=7).draws(3, 1)
            array([0, 0, 0])
        """
        m, n = _check_integer("m", m), _check_integer("n", n)
        if m < 0:
            raise ValueError(f"m: got {m}, expected 0 or more")
        if not 1 <= n < 2**63:
            raise ValueError(f"n: got {n}, expected 1 to 2^63 - 1")
        return self._draw(np.full(m, n, dtype=np.uint64))

    def _draw(self, n: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """For k = 0, 1, ... in this order a draw from {0..n[k]-1}."""
        # excess = 2^64 mod n; 64 bits cannot hold 2^64 itself.
        excess = (_LARGEST % n + np.uint64(1)) % n
        largest_accepted = _LARGEST - excess
        words = self._words(len(n))
        while (words > largest_accepted).any():
            first = int(np.argmax(words > largest_accepted))
            words = np.concatenate([words[:first], words[first + 1 :], self._words(1)])
        return (words % n).astype(np.int64)

    def _words(self, count: int) -> npt.NDArray[np.uint64]:
        words: npt.NDArray[np.uint64] = self._philox.random_raw(count)
        return words
