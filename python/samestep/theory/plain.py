"""What the bounds are about: the rules' own formulas, without the options that change a step."""

from __future__ import annotations

from ..optim.optimizer import Optimizer


def plain_hyper(optimizer: Optimizer) -> dict[str, float]:
    """The hyper-parameters of an optimizer whose every step is its rule's formula, or ValueError."""
    options, group = optimizer.options, optimizer.groups[0]
    asked = {
        "several groups": len(optimizer.groups) > 1,
        "a schedule": optimizer._has_schedules,
        "weight_decay": group["weight_decay"] != 0.0,
        "maximize": options.maximize,
        "clip_norm": options.clip_norm is not None,
        "clip_value": options.clip_value is not None,
        f"{optimizer.variant}": optimizer.variant is not None,
    }
    found = [name for name, there in asked.items() if there]
    if found:
        raise ValueError(
            f"optimizer: has {', '.join(found)}; the bounds hold for the rule alone, so check one without"
        )
    return {name: value for name, value in group.items() if name != "weight_decay"}
