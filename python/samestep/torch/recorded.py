"""The record of any torch optimizer's steps."""

from __future__ import annotations

from typing import Any

import torch

from ..ledger.records import Path
from .named import Names
from .optimizer import NativeOptimizer
from .recording import Recording


def record(
    optimizer: torch.optim.Optimizer,
    path: Path,
    *,
    names: Names | None = None,
    every: int = 1,
    state: bool = True,
    sync: bool = False,
    merkle: bool = False,
    append: bool = False,
) -> Recording:
    """Writes what every further step of any torch optimizer computes into a file, a line a step.

    Of each parameter the line has ``samestep.fingerprint`` of the gradient as it was handed in, and of the
    parameter and its states after the step; besides, the hyper-parameters in use. Nothing in it says where or
    how a step was computed: equal runs write equal files, and ``samestep diff`` finds where two part.

    Complex values count as pairs, tensors on other devices are copied, of a DTensor the whole is gathered:
    every process then records, each into a file of its own. The kinds of states are those that are there
    after the first step; of one that a parameter does not have, the fingerprint is that of no element.
    Samestep's own optimizers make the fingerprints in the step; so does their method ``record``.

    Args:
        optimizer: of ``torch.optim``, ``samestep.torch`` or derived from ``torch.optim.Optimizer``.
        path: of a new file, by custom ``*.jsonl``; ``*.jsonl.gz`` is compressed. The first step makes it.
        names: what the parameters are called: ``model.named_parameters()``, or a dict. By default, as the
            optimizer was told by ``named_parameters()``, or by group and place, "params[0][3]".
        every: steps from one line to the next.
        state: whether the states are recorded too.
        sync: whether each line is waited for until it is on the disk.
        merkle: whether each line has the Merkle root of its tensors, so that one can be checked alone.
        append: go on with a file of the same optimizer, if it is there, such as after a checkpoint.

    Returns:
        The recording, a context manager that ends it: ``note`` adds the loss to a line.

    Raises:
        FileExistsError: the file is there, and ``append`` is not asked for.
        OSError: the file cannot be written; a step raises it once it has been made.
        TypeError, ValueError: a parameter has no name, or is of no type that has fingerprints; a step raises
            it if the parameters are no longer those that were recorded.
        LedgerError, ValueError: the file to go on with is not whole, or of other parameters; the first step
            raises it.

    Example:
        >>> import os, tempfile, torch, samestep as ss, samestep.torch
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "run.jsonl")
        ...     with ss.torch.record(optimizer, path, names=layer.named_parameters()) as recording:
        ...         loss = layer(torch.ones(3)).sum()
        ...         loss.backward()
        ...         recording.note(loss=loss)
        ...         optimizer.step()
        ...     found = ss.ledger.read_ledger(path)
        >>> found.header.rule, found.header.kinds
        ('torch.optim.Adam', ('gradient', 'parameter', 'exp_avg', 'exp_avg_sq'))
        >>> list(found.header.tensors), found.records[-1].hyper[0]["beta2"]
        (['weight', 'bias'], 0.999)
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer: got {type(optimizer).__name__}, expected a torch.optim.Optimizer")
    how: dict[str, Any] = {"every": every, "state": state, "sync": sync, "merkle": merkle, "append": append}
    recording: Recording
    if isinstance(optimizer, NativeOptimizer):
        recording = optimizer.record(path, names=names, **how)
    else:
        recording = Recording(optimizer, path, names=names, **how)
        recording.hook()
    return recording
