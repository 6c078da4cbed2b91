"""Before a run: whether the step size lies below the method's stability edge, and by what factor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

from ..optim.optimizer import Optimizer
from ..problems.mse import is_least_squares
from .checks import known
from .edges import heavy_ball_edge, look_ahead_edge, sgd_edge
from .plain import plain_hyper

_EDGES: dict[str, tuple[str, Callable[..., float]]] = {
    "sgd": ("2/beta", sgd_edge),
    "momentum": ("2(1+a)/beta", heavy_ball_edge),
    "nag": ("(2+2a)/((1+2a)beta)", look_ahead_edge),
}


@dataclass(frozen=True)
class StepSizeCheck:
    """What is known about a step size before a run.

    Attributes:
        rule: the optimizer's rule, such as ``"nag_look_ahead"``.
        lr: its step size.
        beta: the largest curvature of the loss, its scale included; of batches, that of the mean step.
        edge: from this step size on the method diverges on a quadratic, from all but special starts;
            None: there is no such number, or none is known.
        formula: of the edge, or of the sufficient step size of an adaptive rule.
        sufficient: every lr below it lowers the loss at every step, whatever the loss; None: no such number
            is known.
        cap: an adaptive rule moves no weight by more than cap lr in a step; None for the others, and
            where it has no cap.
        quadratic: whether the loss is known to be one: problems.MSE. Of other losses the edge says nothing.
        batches: whether the steps go along batches.
        from_rest: up to this lr a run from rest never rises above its start, whatever the loss
            (``Momentum``; ``NAG`` if the loss is known to be convex, up to the look-ahead); None: no such
            number is known.
    """

    rule: str
    lr: float
    beta: float
    edge: float | None
    formula: str | None
    sufficient: float | None
    cap: float | None
    quadratic: bool = True
    batches: bool = False
    from_rest: float | None = None

    @property
    def factor(self) -> float | None:
        """lr/edge: below 1 is stable on a quadratic. None without an edge."""
        if self.edge is None:
            return None
        return self.lr / self.edge if self.edge > 0.0 else inf

    @property
    def below(self) -> bool | None:
        """Whether lr < edge, two numbers compared; None without an edge. What follows is ``converges``."""
        return None if self.edge is None else self.lr < self.edge

    @property
    def converges(self) -> bool | None:
        """Whether the run converges: True or False of a quadratic, whose run the edge decides; else None.

        Of batches None on both sides of it: their spread decides, and a run may converge where the mean of
        all runs diverges. With an lr of 0 there is no step: False.
        """
        if not self.quadratic or self.edge is None:
            return None
        if self.lr == 0.0:
            return False
        return None if self.batches else self.lr < self.edge

    def __str__(self) -> str:
        if self.edge is None:
            return self._adaptive()
        if self.lr == 0.0:
            return f"{self.rule}: lr 0: the weights stay where they are"
        if self.edge == 0.0:
            on = "" if self.quadratic else " on a quadratic, and nothing is known of others"
            return f"{self.rule}: no step size is stable with a momentum of 1 or more{on}"
        share = "of" if self.below else "times"
        lead = (
            f"{self.rule}: lr {self.lr:g} is {self.factor:.6g} {share} the edge {self.edge:.6g} = "
            f"{self.formula}"
        )
        if self.quadratic:
            if not self.below:
                mean = "the mean over independent batches diverges"
                return f"{lead}: not below it, {mean if self.batches else 'does not converge'}; lower lr"
            mean = " in the mean; the spread of batches can need a smaller one" if self.batches else ""
            return f"{lead}: stable{mean}"
        on = "stable on a quadratic" if self.below else "not below it, diverges on a quadratic"
        return f"{lead}: {on} of this curvature; {self._of_other_losses()}"

    def _of_other_losses(self) -> str:
        """What beta promises where the loss is no quadratic."""
        if self.batches:
            return "of another loss nothing is known along batches"
        if self.sufficient is not None:
            if self.lr < self.sufficient:
                return "any smooth loss is lowered by every step"
            return "any smooth loss is sure to be lowered by every step only below it"
        if self.from_rest is None:
            return "of another loss nothing is known" + (
                "; if it is convex, hand that in" if self.rule.startswith("nag") else ""
            )
        limit = "2(1-a)/beta" if self.rule.startswith("momentum") else "1/beta"
        known = f"{limit} = {self.from_rest:.6g}"
        if self.lr <= self.from_rest:
            where = "" if self.rule.startswith("momentum") else " at its iterates"
            return f"up to {known} this loss never rises above its start{where}, from rest"
        return f"of another loss nothing is known above {known}: it may cycle for ever or diverge"

    def _adaptive(self) -> str:
        text = f"{self.rule}: no fixed edge, since the step adapts to the gradients"
        if self.cap is not None:
            text += f"; no weight moves by more than {self.cap:.4g} lr = {self.cap * self.lr:.4g} in a step"
        if self.sufficient is None:
            return text
        if self.lr < self.sufficient:
            return f"{text}; below {self.formula} = {self.sufficient:.4g}, so every step lowers the loss"
        later = "grow shorter for good" if self.rule.startswith("adagrad") else "may go on at that length"
        return (
            f"{text}; every step is sure to lower the loss only below {self.formula} = "
            f"{self.sufficient:.4g}: above, the first ones can raise it, and they {later}"
        )


def check_step_size(problem: Any, optimizer: Optimizer, batch_size: int | None = None) -> StepSizeCheck:
    """Holds lr against the edge of the optimizer's rule on a quadratic with the problem's beta.

    ====================================  ====================  =================  ====================
    rule                                  edge, of a quadratic  sufficient         from_rest
    ====================================  ====================  =================  ====================
    ``SGD``                               2/beta                2/beta             none
    ``Momentum``, both forms              2(1+a)/beta           none               2(1-a)/beta
    ``NAG``, both forms                   (2+2a)/((1+2a)beta)   none               1/beta, convex losses
    ``AdaGrad``, ``RMSProp``, eps outside none                  2 eps/beta         none
    the same with eps inside              none                  2 sqrt(eps)/beta   none
    ``Adam``, both placements             none                  none               none
    ====================================  ====================  =================  ====================

    The edge decides on a quadratic such as problems.MSE, and on nothing else: another loss of the same
    beta may converge far above it, where it is flat at its minimum, and under momentum cycle for ever
    below it (Lessard, Recht and Packard). What beta promises of every loss is the rest of the table. By
    the descent lemma gradient descent lowers any smooth loss, convex or not, at every step for
    lr < 2/beta; the heavy ball never rises above its start for lr <= 2(1-a)/beta.

    With a constant lr the torch forms step like the others and have the same edges. With a
    ``momentum_next`` a' of its own NAG's is (2+2a)/((1+a+a')beta).

    An adaptive rule divides by the size of its past gradients: its step in weight i is lr D_i g_i, where D_i
    grows as the gradients vanish, to at most 1/eps (outside) or 1/sqrt(eps) (inside). Below the edge of that
    largest D every step of AdaGrad and RMSProp lowers the loss, from
    L(w+) <= L - g'D(1 - lr max(D) beta/2)g lr; a run far above it may do as well. What always holds is a
    cap on how far a step moves a weight:

    ===========  ===============================================================================
    rule         cap, in units of lr
    ===========  ===============================================================================
    ``AdaGrad``  1
    ``RMSProp``  1/sqrt(1 - rho)
    ``Adam``     (1 - beta1)/sqrt((1 - beta2)(1 - beta1^2/beta2)) by Cauchy-Schwarz, if
                 beta1^2 < beta2, else none; and never less than 1
    ===========  ===============================================================================

    Steps along independent batches have the same edge in the mean: beyond it E w diverges, though almost
    every run may converge. Those of a shuffle are not independent. The spread of batches can need smaller
    steps, see sgd_step_interpolation, and nothing suffices. With the scales ``half_sum`` and ``sum`` a
    batch's gradient is in the mean only the m/N-th part of the full one, and so is its beta.

    Args:
        problem: problems.MSE, problems.Function or any other with a number ``beta``: the smoothness of its
            loss, loss scale included; not the curvature at one w, which may be smaller.
        optimizer: any of the six.
        batch_size: m, the rows a step; None: all of them.

    Returns:
        StepSizeCheck; print it for a sentence. A loss without curvature, beta 0, has the edge infinity.

    Raises:
        TypeError: no optimizer, or a problem without a beta.
        ValueError: beta is negative or not finite, a batch_size below 1, an optimizer with options that
            change its steps, such as weight decay.

    Source:
        The notes' step bound. docs/theory/momentum.md derives the edges, docs/theory/adaptive.md the caps;
        for Adam's cap in special cases see Kingma and Ba (2015), section 2.1.

    Example:
        >>> import numpy as np, samestep as ss
        >>> problem = ss.problems.MSE(np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), np.zeros(3))
        >>> check = ss.theory.check_step_size(problem, ss.Momentum(np.zeros(2), lr=0.75, momentum=0.5))
        >>> check.below, check.converges, round(check.edge, 9), round(check.factor, 9)
        (True, True, 1.0, 0.75)
        >>> print(ss.theory.check_step_size(problem, ss.SGD(np.zeros(2), lr=1.0)))
        sgd: lr 1 is 1.5 times the edge 0.666667 = 2/beta: not below it, does not converge; lower lr
        >>> own = ss.problems.Function(lambda w: float(np.cos(w).sum()), lambda w: -np.sin(w), 2, beta=1.0)
        >>> check = ss.theory.check_step_size(own, ss.Momentum(np.zeros(2), lr=1.5, momentum=0.5))
        >>> check.below, check.converges, check.from_rest
        (True, None, 1.0)
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"optimizer: got {type(optimizer).__name__}, expected an optimizer such as ss.SGD")
    beta = known(problem, "beta")
    quadratic, batches = is_least_squares(problem), batch_size is not None
    if batch_size is not None:
        if batch_size < 1:
            raise ValueError(f"batch_size: got {batch_size}, expected 1 or more, or None")
        if getattr(problem, "scale", None) in ("half_sum", "sum"):
            beta *= batch_size / problem.size
    hyper = plain_hyper(optimizer)
    lr, family = hyper["lr"], optimizer.family
    if family in _EDGES:
        formula, edge_of = _EDGES[family]
        momenta = {name: value for name, value in hyper.items() if name != "lr"}
        a = momenta.get("momentum", 0.0)
        ahead = momenta.get("momentum_next", a)
        if ahead != a:
            formula = "(2+2a)/((1+a+a')beta)"
        edge = 0.0 if a >= 1.0 else edge_of(beta, **momenta) if beta > 0.0 else inf
        sufficient = edge if family == "sgd" and not batches else None
        from_rest = None
        if not batches and a < 1.0:
            if family == "momentum":
                from_rest = 2.0 * (1.0 - a) / beta if beta > 0.0 else inf
            elif family == "nag" and ahead == a and (quadratic or getattr(problem, "convex", None)):
                from_rest = 1.0 / beta if beta > 0.0 else inf
        return StepSizeCheck(
            optimizer.rule, lr, beta, edge, formula, sufficient, None, quadratic, batches, from_rest
        )
    cap = step_cap(family, hyper)
    if family not in ("adagrad", "rmsprop") or batches:
        return StepSizeCheck(optimizer.rule, lr, beta, None, None, None, cap, quadratic, batches)
    smallest = hyper["eps"] if optimizer.form == "outside" else sqrt(hyper["eps"])
    formula = "2 eps/beta" if optimizer.form == "outside" else "2 sqrt(eps)/beta"
    sufficient = 2.0 * smallest / beta if beta > 0.0 else inf
    return StepSizeCheck(optimizer.rule, lr, beta, None, formula, sufficient, cap, quadratic, batches)


def step_cap(family: str, hyper: dict[str, float]) -> float | None:
    """The most that a step moves a weight, in units of lr; None: no such number.

    Each from what the present gradient alone leaves in the denominator: r >= g^2 for AdaGrad,
    r >= (1 - rho) g^2 for RMSProp. For Adam, by Cauchy-Schwarz, m^2 <= v (1 - beta1)^2/(1 - beta2)
    sum_k (beta1^2/beta2)^k; corrected for the start that is 1 after one step, and never more than in the
    limit (tried over a grid of decays).
    """
    if family == "adagrad":
        return 1.0
    if family == "rmsprop":
        return 1.0 / sqrt(1.0 - hyper["rho"])
    if family == "adam":
        beta1, beta2 = hyper["beta1"], hyper["beta2"]
        if beta1 * beta1 >= beta2:
            return None if beta1 > 0.0 else 1.0
        return max(1.0, (1.0 - beta1) / sqrt((1.0 - beta2) * (1.0 - beta1 * beta1 / beta2)))
    return None
