"""Variables of launchers, and what is left over from them, against the flags of a run."""

import os
import socket
import subprocess
import sys

import pytest
import torch
from helpers.training import ROOT

from diffusion.training import environment
from diffusion.training.trainer import DiffusionTrainer

# All that a launcher sets, with a port at which nobody listens.
SET = {
    "RANK": "0",
    "LOCAL_RANK": "0",
    "WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "1",
}

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
    "a later local rank": ({"LOCAL_RANK": "1", "RANK": "1"}, [], ("LOCAL_RANK 1", "unset")),
    "others that nobody started": ({"WORLD_SIZE": "2", "RANK": "0"}, [], ("WORLD_SIZE 2", "unset")),
    "a rank beyond the last": ({**SET, "RANK": "2"}, [], ("RANK 2", "contradict")),
    "no number": ({"WORLD_SIZE": "two"}, [], ("WORLD_SIZE 'two'", "no number")),
    "a port that is none": ({**SET, "MASTER_PORT": "tcp"}, [], ("MASTER_PORT 'tcp'", "no number")),
    "all of another job": (SET, [], ("no launcher set them", "RANK 0, LOCAL_RANK 0, WORLD_SIZE 2")),
    "those of its second process": ({**SET, "RANK": "1"}, [], ("no launcher set them", "RANK 1")),
    "in a shell of Slurm": ({**SET, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"}, [],
                            ("no launcher set them",)),
    "in a shell of MPI": ({**SET, "PMI_RANK": "1", "PMI_SIZE": "2"}, [], ("no launcher set them",)),
    "of a torchrun that has ended": (
        {**SET, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"}, [],
        ("does not answer any more",)),
    "the same with a port beyond all": (
        {**SET, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True",
         "MASTER_PORT": "99999"}, [], ("does not answer any more", "MASTER_PORT 99999")),
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


LAUNCHED = {
    "torchrun with a store of the script": {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "False"},
    "deepspeed": {"CROSS_RANK": "0", "CROSS_SIZE": "1"},
    "Open MPI": {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2"},
    "Intel MPI": {"PMI_RANK": "0", "PMI_SIZE": "2"},
    "Slurm": {"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "2"},
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHED)
def test_a_launcher_is_known_by_what_it_alone_sets(monkeypatch, launcher):
    for name, value in {**SET, **LAUNCHED[launcher]}.items():
        monkeypatch.setenv(name, value)
    environment.check_processes()
    assert os.environ["WORLD_SIZE"] == "2"


def test_torchrun_listens(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as agent:
        port = str(agent.getsockname()[1])
        agents = {"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "True"}
        for name, value in {**SET, **agents, "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        environment.check_processes()


@pytest.mark.parametrize("variables", [{"LOCAL_RANK": "0"}, {**SET, "WORLD_SIZE": "1"}], ids=len)
def test_variables_of_a_single_process_are_ignored(run, monkeypatch, variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    said = run("--max_steps", 1)[1]
    assert "note: trains in one process; variables that no launcher set are ignored: " in said
    assert "LOCAL_RANK 0" in said and not torch.distributed.is_initialized()


# Says what a line on screen says, and how many threads there are then, which the kernel counts.
COUNT = """
import os, torch
from diffusion import hardware
hardware.use_all_cores()
before = len(os.listdir("/proc/self/task"))
torch.exp(torch.zeros(2_000_000))
print(hardware.describe(torch.device("cpu"), torch.float32).split(", ")[1].split()[0])
print(1 + len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="counts threads as Linux does")
def test_the_threads_that_are_named_are_those_that_compute():
    cores = len(os.sched_getaffinity(0))
    expected = {"1,2": 1, "-1": cores}
    counts = {
        threads: subprocess.Popen(
            [sys.executable, "-c", COUNT], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": threads},
        )
        for threads in expected
    }  # fmt: skip
    for threads, count in counts.items():
        said, err = count.communicate(timeout=300)
        assert said.split() == [str(expected[threads])] * 2 and "Traceback" not in err, threads
