"""Variables of launchers, and what is left over from them, against the flags of a run."""

import pytest

from diffusion.training.trainer import DiffusionTrainer

REFUSED = {
    "a format against a flag": (
        {"ACCELERATE_MIXED_PRECISION": "bf16"}, ["--dtype", "float32"], ("--dtype float32", "bf16")),
    "a format that is not supported": (
        {"ACCELERATE_MIXED_PRECISION": "fp16"}, ["--dtype", "auto"], ("fp16", "not supported")),
    "another": ({"ACCELERATE_MIXED_PRECISION": "fp8"}, [], ("fp8", "not supported")),
    "a device against a flag": (
        {"ACCELERATE_TORCH_DEVICE": "cuda:1"}, ["--use_cpu"], ("--use_cpu", "cuda:1")),
    "a compiler": ({"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}, [], ("INDUCTOR", "--torch_compile")),
    "a rank": ({"RANK": "1"}, [], ("RANK 1", "unset")),
    "a local rank": ({"LOCAL_RANK": "0"}, [], ("LOCAL_RANK 0", "unset")),
    "others that nobody started": ({"WORLD_SIZE": "2", "RANK": "0"}, [], ("WORLD_SIZE 2", "unset")),
    "a rank beyond the last": (
        {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
         "MASTER_PORT": "1"}, [], ("RANK 2", "contradict")),
    "no number": ({"WORLD_SIZE": "two"}, [], ("WORLD_SIZE 'two'", "no number")),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_variables_that_contradict_are_refused(refused, monkeypatch, case):
    variables, flags, words = REFUSED[case]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    refused(flags, *words)


@pytest.mark.parametrize(
    ("variables", "flag", "format_"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "auto", "bfloat16"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, "bfloat16", "bfloat16"),
        ({"WORLD_SIZE": "1", "RANK": "0", "CUDA_VISIBLE_DEVICES": "0", "ACCELERATE_USE_CPU": "yes",
          "HF_HUB_OFFLINE": "1", "PYTHONUTF8": "0"}, "float32", "float32"),
    ],
)  # fmt: skip
def test_what_is_computed_is_what_is_said(run, monkeypatch, variables, flag, format_):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    found, compute_loss = [], DiffusionTrainer.compute_loss

    def record(self, model, inputs, *args, **kwargs):
        weight = model.backbone.model.lm_head.dense
        hook = weight.register_forward_hook(lambda *given: found.append(str(given[2].dtype)))
        try:
            return compute_loss(self, model, inputs, *args, **kwargs)
        finally:
            hook.remove()

    monkeypatch.setattr(DiffusionTrainer, "compute_loss", record)
    out, said = run("--max_steps", 1, "--dtype", flag)
    assert found == [f"torch.{format_}"]
    card = (out / "README.md").read_text()
    (time,) = (line for line in card.splitlines() if line.startswith("| wall time"))
    others = {"bfloat16", "float32"} - {format_}
    for text in (time, said):
        assert format_ in text and not any(other in text for other in others)
