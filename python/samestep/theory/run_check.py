"""After a run: every bound that is known for its rule, compared with the loss of every recorded step."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backends import in_main_memory
from ..result import Result
from .bound_check import RunCheck
from .checks import check_problem, is_problem
from .run_bounds import bounds_of
from .run_facts import RunFacts


def check_run(problem: Any, result: Result) -> RunCheck:
    """Compares a run of minimize() with the bounds of its rule, step by step.

    With G_t = L(w_t) - L*, D = |w_0 - w*| to the nearest minimum and mu, the smallest positive curvature:

    ================  ===========================================================  ====================
    rule, name        bound                                                        promised for
    ================  ===========================================================  ====================
    ``SGD``
    descent           G_t <= G at the recorded step before                         lr <= 2/beta
    gap 2LD2/(t+1)    the three of gap_bounds with L = 1/lr                        lr <= 1/beta, convex
    gap 2LD2/(t+4)
    gap LD2/(4t+2)
    gap, any lr       1/G_t >= 1/G_0 + t lr (1 - lr beta/2)/D^2                    lr < 2/beta, convex
    PL                G_t <= (1 - 2 mu lr (1 - lr beta/2))^t G_0                   lr < 2/beta
    spectrum          G_t <= max_i (1 - lr lambda_i)^(2t) G_0                      every lr, quadratic
    gradient          |g_T| <= D/(lr (T + 1)), at the end T alone                  lr <= 1/beta, convex
    modes             G_t = sum_i lambda_i e_i,t^2/2, e_i by recursion             every lr, quadratic
    ``Momentum``
    start             G_t <= G_0                                                   lr <= 2(1-a)/beta
    modes             as above                                                     every lr, quadratic
    ``NAG``
    start             G_t <= (1 + a^2 lr beta) G_0, at the look-ahead points       lr <= 1/beta, a <= 1,
                                                                                   convex
    modes             as above                                                     every lr, quadratic
    adaptive rules
    reach             sqrt G_t <= sqrt G_0 + sqrt(p beta/2) t cap lr               every lr with a cap
    ================  ===========================================================  ====================

    "modes" is no bound but the exact solution, mode by mode: it tells a run that does what the theory of
    its rule says from one that does not, on both sides of the edge.

    All of them but "reach" are about full gradients, constant hyper-parameters and a start at rest. Of a run
    with batches, with other hyper-parameters at its end than at its start, or with a velocity at its start
    they are shown but not promised; "modes" alone allows for the velocity. A schedule is refused. lr, rounded
    to the problem's dtype, may lie above 1/beta by that rounding: it counts as the 1/beta that was asked for.

    problems.MSE is convex and quadratic and knows every number. Another problem is compared with the bounds
    whose numbers it knows: ``beta`` always; L* from ``optimum``, D from ``minimizer()``, mu from ``mu``;
    ``convex`` says whether it is. The numbers are believed: where a bound breaks, a number may be wrong.

    Rounding: a gap is a difference of losses. It is known up to 8p units in the last place of the largest of
    c |y|^2/2, L(w_0) and L, and up to 4t of L, in the problem's dtype; for another problem than MSE, |L*|
    replaces c |y|^2/2. "modes" allows for the square root of the dtype's precision as well; "modes" and
    "spectrum" allow for the growth of the start's rounding. A bound that is larger than the dtype's largest
    number, or so large that the sum behind the loss overflows, is never broken; and where the loss at w_0
    already overflows, nothing is promised.

    Args:
        problem: the problem of the run: problems.MSE, problems.Function, or another with a ``beta``.
        result: what minimize() returned for it.

    Returns:
        RunCheck; print it for the table. Its ``ok`` is None where nothing was promised.

    Raises:
        TypeError: problem is no problem or knows no beta, without which there is no bound; or result is no
            Result.
        ValueError: the result is of another problem, or of an optimizer with options that change its steps;
            or a loss of the run is below the problem's ``optimum``.

    Source:
        The notes' bounds, corrected; see the functions named. "gap, any lr" and "PL" put the descent lemma
        into G <= |g| D and into |g|^2/2 >= mu G; "start" is the fall of L + a|v|^2/(2 lr) and of
        L + |v|^2/(2 lr); "reach" puts |g|^2 <= 2 beta G, which holds for every smooth loss, into the
        gradient of sqrt G: it is at most sqrt(beta/2).

    Example:
        >>> import numpy as np, samestep as ss
        >>> Phi = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
        >>> problem = ss.problems.MSE(Phi, np.array([1.0, 2.0, 4.0]))
        >>> run = ss.minimize(problem, np.zeros(2), lambda w: ss.SGD(w, lr=0.25), steps=20)
        >>> check = ss.theory.check_run(problem, run)
        >>> check.ok, check["descent"].holds, round(check["gap LD2/(4t+2)"].tightness, 3)
        (True, True, 0.715)
    """
    if not is_problem(problem) or getattr(problem, "beta", None) is None:
        raise TypeError(
            f"problem: got {type(problem).__name__}, expected problems.MSE or another that knows its beta, "
            "of which every bound is formed; pass problems.Function(..., beta=...)"
        )
    check_problem(problem, "loss", "gradient", "dimension", "dtype", "size")
    for name in ("w0", "start", "losses", "recorded"):
        if not hasattr(result, name):
            raise TypeError(f"result: got {type(result).__name__}, expected what minimize() returned")
    if result.w0.shape != (problem.dimension,) or result.w0.dtype != problem.dtype:
        raise ValueError(
            f"result: got a run of {result.w0.dtype} {result.w0.shape}, expected {problem.dtype} "
            f"{(problem.dimension,)} as the problem"
        )
    # A run that diverges has infinite losses and bounds that overflow; neither deserves a warning.
    with np.errstate(all="ignore"):
        first = in_main_memory(problem.loss(result.w0))
        if first != result.losses[0] and not np.isnan(first):
            raise ValueError(
                f"result: its first loss is {result.losses[0]}, expected the problem's at w0, {first}"
            )
        facts = RunFacts(problem, result)
        bounds = tuple(bounds_of(facts))
    return RunCheck(result.optimizer.rule, bounds, result.diverged, tuple(facts.unknown))
