"""The same training, however its batches are split."""

import pytest
import torch
from helpers.training import RUN, SIZE, fork_two, losses, split, state
from safetensors.torch import load_file

from diffusion.data import packing


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["nelbo", "mean"])
def test_accumulation_changes_nothing(run, seen, loss):
    runs = {}
    for rows, accumulation in ((8, 1), (2, 4)):
        seen.clear()
        flags = ["--max_steps", 12, "--loss", loss, *split(rows, accumulation)]
        out, _ = run(*flags, name=str(rows))
        times = torch.cat([batch["t"] for batch in seen]).view(12, 8)
        ids = torch.cat([batch["input_ids"] for batch in seen])
        runs[rows] = (times, ids, losses(out))
    assert torch.equal(runs[8][0], runs[2][0])
    assert torch.equal(runs[8][1], runs[2][1])
    for step, value in runs[8][2].items():
        assert runs[2][2][step] == pytest.approx(value, rel=2e-5)
    # One rate in each eighth, in every step.
    strata = (runs[8][0] * 8).floor().sort(dim=1).values
    assert (strata == torch.arange(8.0)).all()


@pytest.mark.slow
def test_two_processes_are_one_with_twice_the_batch(train, text, tmp_path):
    """Over more than one epoch, with accumulation and soft-masking, for which all batches go through
    the model twice: half of a batch cannot."""
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", "16", "--ema", "0.9", "--soft_masking",
             "--soft_share", "1", "--eval_strategy", "steps", "--eval_steps", "8",
             "--save_strategy", "steps", "--save_steps", "8"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    processes = fork_two([*flags, *split(2, 2), "--output_dir", two], tmp_path)
    code, _ = train(*flags, *split(8, 1), "--output_dir", one)
    assert code == 0
    assert [run.ends() for run in processes] == [0, 0], processes[0].said
    said = "".join(run.said for run in processes)
    assert said.count("training a byte-level BPE") == 1  # the other process takes that one

    assert state(two)["epoch"] == state(one)["epoch"] > 1
    first, second = losses(one), losses(two)
    assert first.keys() == second.keys()
    for step in first:
        assert second[step] == pytest.approx(first[step], rel=2e-5)
    for name in ("model.safetensors", "checkpoint-16/model.safetensors"):
        a, b = load_file(one / name), load_file(two / name)
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-5)
    bounds = [[e["eval_nats_per_token"] for e in state(f)["log_history"] if "eval_loss" in e]
              for f in (one, two)]  # fmt: skip
    assert bounds[0] == pytest.approx(bounds[1], rel=1e-5)
    assert (two / "tokenizer.json").read_bytes() == (one / "tokenizer.json").read_bytes()


def test_a_sharded_loader_resumed_within_an_epoch_draws_that_epoch(text):
    """What two processes see after a resume; accelerate's loader alone would start epoch 0."""
    from accelerate.data_loader import BatchSamplerShard, skip_first_batches
    from torch.utils.data import BatchSampler, DataLoader

    def loader(sampler, rank):
        batches = BatchSamplerShard(BatchSampler(sampler, 2, drop_last=False), 2, rank)
        blocks = packing.Blocks(torch.arange(22)[:, None])
        return DataLoader(
            blocks, batch_sampler=batches, collate_fn=lambda b: [f["draw"] for f in b]
        )

    for rank in (0, 1):
        sampler = packing.DrawSampler(22, 4, seed=0)  # 20 draws an epoch
        sampler.start_at(28)  # 2 of the 5 global batches of epoch 1 are done
        rest = list(skip_first_batches(loader(sampler, rank), 2))
        assert rest == [[28 + 4 * i + 2 * rank, 29 + 4 * i + 2 * rank] for i in range(3)]
