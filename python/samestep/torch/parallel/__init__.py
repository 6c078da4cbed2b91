"""Any number of workers, one digest, for torch's training loops: see ``samestep.parallel``.

ddp             steps of M leaves for a model that every worker has whole
LeafSync        what it returns: ``leaves``, ``leaf``, ``reduce``
"""

from .batchnorm import sync_batchnorm
from .ddp import ddp
from .fsdp import ReduceScatter, fsdp
from .sharded import Sharded
from .sync import LeafSync

__all__ = ["LeafSync", "ReduceScatter", "Sharded", "ddp", "fsdp", "sync_batchnorm"]
