"""Work shared by the processes that `accelerate launch` starts."""

import os
from collections.abc import Callable, Sequence

from diffusion.cli import console
from diffusion.training.environment import check_processes


class Processes:
    """The processes that `accelerate launch` has started; mostly it is one."""

    def __init__(self, device: str):
        check_processes()
        self.world = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.device = device
        if self.world > 1:
            import torch
            from accelerate import PartialState

            PartialState(cpu=device == "cpu" or not torch.cuda.is_available())
            if device == "auto" and torch.cuda.is_available():
                local = int(os.environ.get("LOCAL_RANK", 0))
                self.device = f"cuda:{local % torch.cuda.device_count()}"

    def spread(self, items: Sequence, work: Callable) -> list:
        """[work(item), ...] with each process doing its share; all get all. An item is done by one
        process whole, so how many there are changes no result."""
        mine = [(i, work(items[i])) for i in range(self.rank, len(items), self.world)]
        if self.world > 1:
            from accelerate.utils import gather_object

            mine = gather_object(mine)
        return [result for _, result in sorted(mine, key=lambda pair: pair[0])]

    def agree(self, value):
        """The value of the first process."""
        if self.world == 1:
            return value
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    def say(self, message: str) -> None:
        if self.rank == 0:
            console.say(message)

    def end(self) -> None:
        if self.world > 1:  # a process that just ends may take the others down with it
            import torch

            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
