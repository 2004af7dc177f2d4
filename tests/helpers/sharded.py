"""finetune.py whose processes on CPUs count as those of GPUs: accelerate spreads models over these alone,
and all else of FSDP is the same."""

import os
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
code = 0
try:
    errors.run(finetune.main)
except SystemExit as end:
    code = end.code
sys.stdout.flush()
sys.stderr.flush()
# A thread of gloo that is still at work when the interpreter is taken down aborts the process, once in a
# while: all is written by now.
os._exit(code if isinstance(code, int) else bool(code))
