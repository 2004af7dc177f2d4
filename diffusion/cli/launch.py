"""Whether a launcher started this process as one of several."""

import os

# Only these launchers set these: torchrun and accelerate, deepspeed.
_MARKS = ("TORCHELASTIC_RUN_ID", "CROSS_RANK")
# What others say themselves, beside the RANK and WORLD_SIZE that a script of theirs sets from it:
# Open MPI, the MPI of Intel and MPICH, MVAPICH, Slurm.
_OWN = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
)


def launched() -> bool:
    """Whether the variables RANK and WORLD_SIZE are those of a launcher; otherwise they are left over in
    the shell, or typed."""
    place = [os.environ.get("RANK"), os.environ.get("WORLD_SIZE")]
    if any(name in os.environ for name in _MARKS):
        return True
    return None not in place and any(list(map(os.environ.get, own)) == place for own in _OWN)


def is_first() -> bool:
    """Whether this is the first of several processes, or the only one."""
    world, rank = (os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK"))
    other = world.isdigit() and rank.isdigit() and 0 < int(rank) < int(world)
    return not (other and launched())
