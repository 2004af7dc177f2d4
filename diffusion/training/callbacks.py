"""What happens at certain moments of the Trainer's loop."""

import signal
import time

import torch
from transformers import TrainerCallback, TrainerState

from diffusion.cli.console import STOPS, let_go_of_terminal, say


class StopOnSignal(TrainerCallback):
    """While training, the first Ctrl-C (or SIGTERM, or SIGHUP) lets the step finish and saves; another one
    stops at once. With several processes all stop after the same step."""

    def __init__(self):
        self.stopped = False
        self._asked: float | None = None  # when
        self._before = {}

    def on_train_begin(self, args, state, control, **kwargs):
        for number in STOPS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                self._before[number] = signal.signal(number, self._receive)

    def on_train_end(self, args, state, control, **kwargs):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number, frame):
        if number == getattr(signal, "SIGHUP", None):
            let_go_of_terminal()
        if self._asked is None:
            self._asked = time.monotonic()
            say("\nstopping after this step; its checkpoint is kept")
        elif time.monotonic() - self._asked > 1:  # a launcher repeats the terminal's Ctrl-C
            raise KeyboardInterrupt

    def on_step_end(self, args, state, control, **kwargs):
        self.stopped = self._asked is not None
        if args.world_size > 1:
            anyone = torch.tensor(float(self.stopped), device=args.device)
            torch.distributed.all_reduce(anyone, torch.distributed.ReduceOp.MAX)
            self.stopped = bool(anyone)
        if self.stopped:
            control.should_save = control.should_training_stop = True


class EarlyStopping(TrainerCallback):
    """Ends a training after ``patience`` evaluations in a row without a lower validation bound. It
    remembers nothing, but reads the log: a run that goes on counts as the one that was stopped."""

    def __init__(self, patience: int):
        self.patience = patience

    def exhausted(self, state: TrainerState) -> bool:
        """Whether the log of a run is one of a run that has ended so."""
        bounds = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        before, since = bounds[: -self.patience], bounds[-self.patience :]
        return bool(before) and min(since) >= min(before)

    def on_evaluate(self, args, state, control, **kwargs):
        if self.exhausted(state) and not control.should_training_stop:
            say(
                f"ending early at step {state.global_step}: no lower validation bound in "
                f"{self.patience} evaluations"
            )
            control.should_training_stop = True
