"""Texts, runs and models that the tests of training share.

Most runs are in the tests' own process, or in a copy of it, where the imports cost nothing.
"""

import copy
import gc
import multiprocessing
import random
import shutil

import pytest
import torch
from helpers.training import RUN, SIZE, assert_same_weights, files, losses, one_sentence, train_here

from diffusion.training.trainer import DiffusionTrainer

# The Trainer collects garbage before each run. What the libraries have made at import is none, and
# to look through it takes longer than a tiny run.
gc.freeze()


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As OMP_NUM_THREADS=1 does at the start of a process, so that sums are the same there."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # its threads are not in a copy
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_copy_stays():
    yield
    for process in multiprocessing.active_children():
        process.kill()


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """About 100 blocks, in which words follow each other by a rule that can be learned."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 5))) for _ in range(40)]
    documents = []
    for _ in range(24):
        at, lines = draw.randrange(40), []
        for _ in range(4):
            at_line = []
            for _ in range(14):
                at = (at * 3 + draw.choice([1, 2])) % 40
                at_line.append(words[at])
            lines.append(" ".join(at_line).capitalize() + ".")
        documents.append("\n\n".join(lines))
    path = tmp_path_factory.mktemp("text") / "train.txt"
    path.write_text("\n\n\n".join(documents))
    return str(path)


@pytest.fixture
def train(capfd):
    """Runs the script here: flags -> (exit code, standard error)."""

    def train(*flags):
        capfd.readouterr()
        return train_here(*flags), capfd.readouterr().err

    return train


@pytest.fixture
def run(train, text, tmp_path):
    """Runs on that text that end well: flags -> (output folder, standard error)."""

    def run(*flags, name="out", start=SIZE):
        out = tmp_path / name
        code, err = train(*RUN, *start, "--dataset", text, "--output_dir", out, *flags)
        assert code == 0, err
        return out, err

    return run


@pytest.fixture
def resumed(run):
    """A run, and its steps from ``at`` on anew from the checkpoint there, which are the same bit for
    bit: flags -> (the folders of both, the flags of the second)."""

    def resumed(*flags, at, steps, start=SIZE):
        flags = [*flags, "--max_steps", steps, "--save_strategy", "steps", "--save_steps", at,
                 "--save_total_limit", 9]  # fmt: skip
        whole, _ = run(*flags, name="whole", start=start)
        more = ["--resume_from_checkpoint", whole / f"checkpoint-{at}"]
        rest, _ = run(*flags, *more, name="rest", start=start)
        assert losses(whole) == losses(rest)
        last = whole / f"checkpoint-{steps}"
        for path in (whole / "model.safetensors", *last.glob("*.safetensors")):
            assert_same_weights(path, rest / path.relative_to(whole))
        return whole, rest, [*flags, *more]

    return resumed


@pytest.fixture
def refused(train, text, tmp_path):
    """Runs that are refused: flags, words of the one sentence. They write nothing."""

    def refused(flags, *words, start=SIZE):
        before = files(tmp_path)
        flags = [*RUN, *start, "--dataset", text, "--output_dir", tmp_path / "out", *flags]
        code, err = train(*flags)
        assert code == 2, err
        one_sentence(err.splitlines(keepends=True)[-1], *words)
        assert "Traceback" not in err and files(tmp_path) == before
        return err

    return refused


@pytest.fixture(scope="session")
def warm(text, tmp_path_factory):
    """A causal warm start, three epochs. To be read only."""
    folder = tmp_path_factory.mktemp("runs") / "warm"
    flags = ["--objective", "causal", "--dataset", text, "--num_train_epochs", 3]
    assert train_here(*RUN, *SIZE, *flags, "--output_dir", folder) == 0
    return folder


@pytest.fixture(scope="session")
def four_steps(text, tmp_path_factory):
    """A run with checkpoints after two and after four steps, its last. To be read only."""
    folder = tmp_path_factory.mktemp("runs") / "four"
    flags = ["--dataset", text, "--max_steps", 4, "--save_strategy", "steps", "--save_steps", 2]
    assert train_here(*RUN, *SIZE, *flags, "--save_total_limit", 9, "--output_dir", folder) == 0
    return folder


@pytest.fixture
def trained(four_steps, tmp_path):
    """A copy of `four_steps` to go on with, or to damage."""
    return shutil.copytree(four_steps, tmp_path / "out")


@pytest.fixture
def seen(monkeypatch):
    """The batches of all forward passes of training."""
    batches, compute_loss = [], DiffusionTrainer.compute_loss

    def record(self, model, inputs, *args, **kwargs):
        batches.append(copy.deepcopy(dict(inputs)))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DiffusionTrainer, "compute_loss", record)
    return batches
