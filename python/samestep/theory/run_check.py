"""After a run: every bound that is known for its rule, held against the loss of every recorded step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from ..problems import MSE, Float64s
from ..problems.function import can_call_with
from ..problems.mse import claimed, is_least_squares
from ..result import Result
from .checks import check_problem, is_problem, known
from .gaps import gap_bounds, gradient_bound
from .modes import mode_factors, mode_matrices
from .pl import pl_constant
from .plain import plain_hyper
from .step_size import step_cap


@dataclass(frozen=True, eq=False)
class BoundCheck:
    """One bound, held against a run.

    Attributes:
        name: what to call it.
        formula: it, as text.
        condition: when theory promises it, item by item.
        promised: whether that is so here.
        steps: the step numbers at which it was looked at, int64.
        measured: what was seen there: the gap L - L*, or |g|.
        bound: what it may be at most; for the check "modes", what it should be.
        rounding: how far ``measured`` may be off.
        held: whether it was so, give or take rounding.
        missing: what of the condition is not so here; empty where the bound is promised.
    """

    name: str
    formula: str
    condition: str
    promised: bool
    steps: npt.NDArray[np.int64]
    measured: Float64s
    bound: Float64s
    rounding: Float64s
    held: npt.NDArray[np.bool_]
    missing: str = ""

    @property
    def holds(self) -> bool:
        """Whether it held at every step."""
        return bool(self.held.all())

    @property
    def first_failure(self) -> int | None:
        """The first step at which it did not; None: it always did."""
        return None if self.holds else int(self.steps[np.argmin(self.held)])

    @property
    def tightness(self) -> float:
        """The largest (measured - rounding)/bound: 1 is attained, above 1 broken. 0 of no step."""
        return float(np.max(self._shares, initial=0.0))

    @property
    def tightest(self) -> int | None:
        """The step of the largest share; None without any step."""
        return int(self.steps[np.argmax(self._shares)]) if len(self.steps) else None

    @property
    def _shares(self) -> Float64s:
        with np.errstate(all="ignore"):
            sure = self.measured - self.rounding
            shares: Float64s = np.where(sure > 0.0, sure / self.bound, 0.0)
        return np.nan_to_num(shares, nan=0.0, posinf=inf)

    def __str__(self) -> str:
        verdict = "held" if self.holds else f"broken at step {self.first_failure}"
        promise = "promised" if self.promised else f"not promised (needs {self.missing})"
        return (
            f"{self.name}: {self.formula}: {verdict}, {promise}; tightest at step {self.tightest}: "
            f"{self.tightness:.4g} of the bound"
        )


@dataclass(frozen=True, eq=False)
class RunCheck:
    """What check_run found.

    Attributes:
        rule: the optimizer's rule.
        bounds: one BoundCheck for each bound of the rule that can be formed of what the problem knows.
        diverged: whether the run ended worse than it began; no bound need be broken then, if none is
            promised or the theory says so.
        unknown: what the problem would have to know for the bounds that are left out.
    """

    rule: str
    bounds: tuple[BoundCheck, ...]
    diverged: bool = False
    unknown: tuple[str, ...] = ()

    @property
    def ok(self) -> bool | None:
        """Whether every bound that theory promises held; None where it promises none."""
        promised = [check.holds for check in self.bounds if check.promised]
        return all(promised) if promised else None

    def __getitem__(self, name: str) -> BoundCheck:
        """The bound of that name."""
        for check in self.bounds:
            if check.name == name:
                return check
        raise KeyError(f"{name!r}; there are {', '.join(repr(check.name) for check in self.bounds)}")

    def __str__(self) -> str:
        promised = [check.holds for check in self.bounds if check.promised]
        verdict = f"promised bounds that held: {promised.count(True)} of {len(promised)}"
        if not promised:
            verdict = "nothing was promised"
        lines = [f"{self.rule}: {'diverged; ' if self.diverged else ''}{verdict}"]
        lines += [f"  {check}" for check in self.bounds]
        if self.unknown:
            handed = ", ".join(f"{name}=..." for name in self.unknown)
            lines.append(f"  more with what the problem does not know: problems.Function(..., {handed})")
        return "\n".join(lines)


def check_run(problem: Any, result: Result) -> RunCheck:
    """Holds a run of minimize() against the bounds of its rule, step by step.

    With G_t = L(w_t) - L*, D = |w_0 - w*| to the nearest minimum, mu the smallest curvature but 0:

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

    All of them but reach are about full gradients, hyper-parameters that stayed as they were, and a start
    at rest; where a run had batches, other hyper-parameters at its end or a velocity they are shown but not
    promised, and modes only allows for the velocity. A change of hyper-parameters is seen if the optimizer's
    present ones are not those of the start; a schedule is refused.

    problems.MSE is convex and quadratic and knows every number. Of another problem the bounds are formed
    whose numbers it knows: ``beta`` always; L* from ``optimum``, D from ``minimizer()``, mu from ``mu``;
    ``convex`` says whether it is. They are believed: a bound that breaks may be theirs.

    Rounding: a gap is a difference of losses, known to 8p units in the last place of c |y|^2/2, L(w_0) or
    L and to 4t of L, in the problem's dtype; of another problem L* stands in the place of c |y|^2/2.
    "modes" allows for the root of the dtype's precision besides; it and "spectrum" for the growth of what
    the start is not known to. A bound larger than the dtype holds, or
    so large that the sum behind the loss overflows, is never broken.

    Args:
        problem: the one that was minimised: problems.MSE, problems.Function, or another with a ``beta``.
        result: what minimize() returned for it.

    Returns:
        RunCheck; print it for the table. Its ``ok`` is None where nothing was promised.

    Raises:
        TypeError: no problem, or one that knows no beta, without which there is no bound; or no Result.
        ValueError: a result of another problem, or of an optimizer with options that change its steps; or
            the run came below the problem's ``optimum``.

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
    # A run that diverged has infinite losses, and bounds of its own that overflow: no cause for warnings.
    with np.errstate(all="ignore"):
        first = problem.loss(result.w0)
        if first != result.losses[0] and not np.isnan(first):
            raise ValueError(
                f"result: its first loss is {result.losses[0]}, expected the problem's at w0, {first}"
            )
        facts = _Facts(problem, result)
        makers = {"sgd": _sgd, "momentum": _momentum, "nag": _nag}
        bounds = tuple(makers.get(result.optimizer.family, _adaptive)(facts))
    return RunCheck(result.optimizer.rule, bounds, result.diverged, tuple(facts.unknown))


Condition = tuple[str, bool]  # in words, and whether it is met


class _Facts:
    """A run in the letters of the bounds."""

    def __init__(self, problem: Any, result: Result) -> None:
        self.problem, self.result = problem, result
        self.family = result.optimizer.family
        now = plain_hyper(result.optimizer)
        given = {name: result.start["hyper"][name] for name in now}
        # The steps are made with the hyper-parameters in the problem's dtype.
        self.hyper = {name: float(problem.dtype.type(value)) for name, value in given.items()}
        self.lr = self.hyper["lr"]
        self.a = self.hyper.get("momentum", 0.0)
        self.beta = known(problem, "beta")
        self.t = result.recorded
        self.unknown: dict[str, None] = {}  # in the order in which it was missed
        self.quadratic = is_least_squares(problem)
        self.velocity = self._velocity()
        convex = self.quadratic or bool(getattr(problem, "convex", None))
        if is_least_squares(problem):
            self._of_least_squares(problem)
        else:
            self._of_another(problem)
        self.gap0 = float(self.gaps[0])
        if self.optimum is not None:
            self.gap0 = max(self.gap0, 0.0)
        self.constant = ("constant hyper-parameters", now == given)
        self.plain = [("full gradients", result.batch_size is None), self.constant]
        self.at_rest = ("a start at rest", not self.velocity.any())
        self.convex = ("a convex loss", convex)

    def _of_least_squares(self, problem: MSE) -> None:
        self.optimum: float | None = problem.optimum
        self.mu: float | None = pl_constant(problem)
        # Half c |y|^2 is the loss at 0: what the residuals' rounding is measured by; that of steps from afar
        # is measured by the loss there.
        y = problem.y.astype(np.float64)
        self._see_losses(problem.c / 2.0 * float(y @ y), abs(self.result.losses[0]))
        # The sum of squares overflows before it is scaled.
        self.largest = float(np.finfo(problem.dtype).max) * min(1.0, problem.c / 2.0)
        # The error and the velocity, split along the eigenvectors. Where the curvature is 0 nothing moves.
        Phi = problem.Phi.astype(np.float64)
        e = self.result.w0.astype(np.float64) - problem._minimizer
        sigma, V = np.linalg.svd(Phi, full_matrices=False)[1:]
        self.curvatures = problem.c * sigma * sigma
        self.curvatures[self.curvatures < self.mu * (1.0 - 1e-9)] = 0.0
        self.error, self.velocity = V @ e, V @ self.velocity
        self.distance: float | None = _length(self.error[self.curvatures > 0.0])

    def _of_another(self, problem: Any) -> None:
        self.optimum = None if claimed(problem, "optimum") is None else float(problem.optimum)
        self.mu = None if claimed(problem, "mu") is None else known(problem, "mu")
        self._see_losses(0.0 if self.optimum is None else abs(self.optimum), abs(self.result.losses[0]))
        # A mean of so many halves overflows as much earlier.
        self.largest = float(np.finfo(problem.dtype).max) / (2.0 * problem.size)
        minimizer = claimed(problem, "minimizer")
        least = minimizer() if callable(minimizer) else minimizer
        self.distance = None
        if least is not None:
            self.distance = _length(self.result.w0.astype(np.float64) - least)
        lowest = int(np.argmin(np.nan_to_num(self.gaps + self.rounding, nan=inf)))
        if self.optimum is not None and self.gaps[lowest] < -self.rounding[lowest]:
            raise ValueError(
                f"problem.optimum: got {self.optimum}, expected the least value of the loss, which was "
                f"{self.result.losses[lowest]} at step {self.t[lowest]}"
            )

    def _see_losses(self, *sizes: float) -> None:
        """The gaps (the losses, if L* is not known), and their rounding."""
        losses = np.where(np.isfinite(self.result.losses), self.result.losses, 0.0)
        size = np.maximum.reduce([np.abs(losses), *(np.full(len(losses), size) for size in sizes)])
        size = np.where(np.isfinite(size), size, 0.0)
        eps = float(np.finfo(self.problem.dtype).eps)
        self.rounding = eps * (8.0 * self.problem.dimension * size + 4.0 * self.t * np.abs(losses))
        self.gaps = self.result.losses - (0.0 if self.optimum is None else self.optimum)

    def _velocity(self) -> Float64s:
        """v before the first step; of the torch forms it is -lr b."""
        state = self.result.start["state"]
        if "b" in state:
            velocity: Float64s = -self.lr * np.asarray(state["b"][0], np.float64)
            return velocity
        if "v" in state and self.family in ("momentum", "nag"):
            return np.asarray(state["v"][0], np.float64)
        return np.zeros(self.problem.dimension)

    def knows(self, *names: str) -> bool:
        """Whether the problem knows the numbers of a bound; remembers what it does not."""
        missed = {"minimizer": self.distance, "optimum": self.optimum, "mu": self.mu}
        lacking = [name for name in names if missed[name] is None]
        self.unknown.update(dict.fromkeys(lacking))
        return not lacking

    def below(self, limit: float, text: str, strictly: bool = False) -> Condition:
        """That lr beta is at most so much, or less."""
        s = self.lr * self.beta
        return f"lr {'<' if strictly else '<='} {text}", s < limit if strictly else s <= limit

    def upper(
        self, name: str, formula: str, conditions: Iterable[Condition], bound: Any, since: int = 1
    ) -> BoundCheck:
        """That the gap is at most so much at every recorded step; from 1 where it is G_0 at 0."""
        bound = np.broadcast_to(np.asarray(bound, np.float64), self.gaps.shape)[since:]
        t, gaps, rounding = self.t[since:], self.gaps[since:], self.rounding[since:]
        held = (gaps <= bound + rounding) | ~(bound <= self.largest)
        return _bound_check(name, formula, conditions, t, gaps, bound, rounding, held)


def _length(e: Float64s) -> float:
    """|e|; the largest float there is where its square overflows, so that bounds stay bounds."""
    return min(float(np.linalg.norm(e)), float(np.finfo(np.float64).max))


def _bound_check(
    name: str,
    formula: str,
    conditions: Iterable[Condition],
    steps: Any,
    measured: Any,
    bound: Any,
    rounding: Any,
    held: Any,
) -> BoundCheck:
    conditions = tuple(conditions)
    missing = ", ".join(text for text, met in conditions if not met)
    condition = ", ".join(text for text, _ in conditions)
    return BoundCheck(name, formula, condition, not missing, steps, measured, bound, rounding, held, missing)


def _sgd(run: _Facts) -> Iterator[BoundCheck]:
    lr, beta, t, gap0 = run.lr, run.beta, run.t, run.gap0
    s = lr * beta
    small, stable = run.below(1.0, "1/beta"), run.below(2.0, "2/beta", strictly=True)
    before = np.concatenate([run.gaps[:1], run.gaps[:-1]])
    before = before + np.concatenate([run.rounding[:1], run.rounding[:-1]])
    G = "G" if run.optimum is not None else "L"
    yield run.upper("descent", f"{G}_t <= {G} before", [*run.plain, run.below(2.0, "2/beta")], before)
    if run.knows("optimum", "minimizer"):
        D = run.distance or 0.0
        convex = [*run.plain, run.convex]
        if lr > 0.0:
            three = gap_bounds(t, 1.0 / lr, D)
            names = ("gap 2LD2/(t+1)", "gap 2LD2/(t+4)", "gap LD2/(4t+2)")
            for name, bound in zip(names, three, strict=True):
                yield run.upper(name, f"G_t <= {name[4:]}, L = 1/lr", [*convex, small], bound, since=0)
        slope = max(0.0, lr * (1.0 - s / 2.0)) / (D * D) if D > 0.0 else 0.0
        formula = "1/G_t >= 1/G_0 + t lr(1-lr beta/2)/D2"
        yield run.upper("gap, any lr", formula, [*convex, stable], gap0 / (1.0 + t * slope * gap0))
    if run.knows("optimum", "mu") and run.mu is not None and 0.0 < run.mu < inf:
        rate = 1.0 - 2.0 * run.mu * lr * (1.0 - s / 2.0)
        formula = "G_t <= (1-2mu lr(1-lr beta/2))^t G_0"
        yield run.upper("PL", formula, [*run.plain, stable], rate**t * gap0)
    if run.quadratic:
        curved = run.problem.eigenvalues > 0.0
        factor = float(np.abs(mode_factors(run.problem, lr)[curved]).max(initial=0.0))
        # G_0 is known to its rounding, which grows as G does.
        bound = factor ** (2.0 * t) * (gap0 + run.rounding[0])
        yield run.upper("spectrum", "G_t <= max(1-lr lambda)^2t G_0", run.plain, bound)
    if lr > 0.0 and run.knows("minimizer"):
        yield _gradient(run, [*run.plain, run.convex, small])
    if run.quadratic:
        yield _modes(run)


def _gradient(run: _Facts, conditions: list[Condition]) -> BoundCheck:
    """At the end alone: a run keeps no gradients."""
    T = run.t[-1:]
    gradient, w = run.problem.gradient, run.result.w
    of_all = gradient(w) if can_call_with(gradient, 1) else gradient(w, None)
    g = float(np.linalg.norm(of_all.astype(np.float64)))
    bound = np.asarray(gradient_bound(T, 1.0 / run.lr, run.distance or 0.0))
    # The rounding of g: its terms are as large as |Phi| |r|, and |r|^2 = 2 L/c.
    eps = float(np.finfo(run.problem.dtype).eps)
    rounding = np.array([sqrt(2.0 * run.beta * float(run.rounding[-1]) * 8.0 * eps)])
    measured = np.array([g])
    held = measured <= bound + rounding
    return _bound_check("gradient", "|g_T| <= D/(lr(T+1))", conditions, T, measured, bound, rounding, held)


def _momentum(run: _Facts) -> Iterator[BoundCheck]:
    conditions = [*run.plain, run.at_rest, run.below(2.0 * (1.0 - run.a), "2(1-a)/beta")]
    G = "G" if run.optimum is not None else "L"
    yield run.upper("start", f"{G}_t <= {G}_0", conditions, run.gap0)
    if run.quadratic:
        yield _modes(run)


def _nag(run: _Facts) -> Iterator[BoundCheck]:
    s, ahead = run.lr * run.beta, run.hyper.get("momentum_next", run.a)
    conditions = [
        *run.plain,
        run.at_rest,
        run.convex,
        run.below(1.0, "1/beta"),
        ("a <= 1", run.a <= 1.0),
        ("one momentum", ahead == run.a),
    ]
    if run.knows("optimum"):
        bound = (1.0 + ahead * ahead * s) * run.gap0
        yield run.upper("start", "G_t <= (1+a2 lr beta) G_0", conditions, bound)
    if run.quadratic:
        yield _modes(run)


def _adaptive(run: _Facts) -> Iterator[BoundCheck]:
    if not run.knows("optimum"):
        return
    cap = step_cap(run.family, run.hyper)
    way = inf if cap is None else run.t * cap * run.lr
    root = sqrt(run.gap0) + sqrt(run.problem.dimension * run.beta / 2.0) * way
    formula = "sqrt G_t <= sqrt G_0 + sqrt(p beta/2) t cap lr"
    conditions = [("a cap on steps", cap is not None), run.constant]
    yield run.upper("reach", formula, conditions, np.asarray(root) ** 2)


def _modes(run: _Facts) -> BoundCheck:
    """The exact solution of the recursion, to which the run has to keep."""
    momenta = {name: value for name, value in run.hyper.items() if name != "lr"}
    M = mode_matrices(run.family, run.curvatures, run.lr, **momenta)  # type: ignore[arg-type]
    x = np.stack([run.error, run.velocity], axis=-1)[..., None]
    expected, grown = np.empty(len(run.t)), np.empty(len(run.t))
    # A run that diverges may leave the dtype; what is expected from there on is never broken.
    now, moved, most = 0, np.broadcast_to(np.eye(2), M.shape), 1.0
    for i, t in enumerate(run.t):
        moved = np.linalg.matrix_power(M, int(t) - now) @ moved
        now = int(t)
        expected[i] = 0.5 * float(run.curvatures @ (moved @ x)[:, 0, 0] ** 2)
        # The start is known to its rounding, which grows as the error does.
        grown[i] = most = max(most, float((moved[:, 0] ** 2).max(initial=0.0)))
    allowed = (
        run.rounding + sqrt(np.finfo(run.problem.dtype).eps) * np.abs(expected) + grown * run.rounding[0]
    )
    held = (np.abs(run.gaps - expected) <= allowed) | ~(expected <= run.largest)
    formula = "G_t = sum lambda_i e_i,t^2/2"
    return _bound_check("modes", formula, run.plain, run.t, run.gaps, expected, allowed, held)
