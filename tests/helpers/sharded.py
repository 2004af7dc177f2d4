"""finetune.py whose processes on CPUs count as those of GPUs: accelerate spreads models over these alone,
and all else of FSDP is the same."""

import sys
from pathlib import Path

from accelerate.state import PartialState
from accelerate.utils import DistributedType

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import finetune
from diffusion import errors

initialise = PartialState.__init__


def as_gpus(self, *args, **kwargs):
    initialise(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = as_gpus
errors.run(finetune.main)
