"""finetune.py from its command line to its final folder, at a size that trains in a second.

Most runs are in this process, where the imports cost nothing; what needs a process of its own
(signals, several processes, nothing but one line on standard error) has one.
"""

import contextlib
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
)

import finetune
from diffusion import errors
from diffusion.data import corpus, packing
from diffusion.models.backbone import Backbone
from diffusion.training.trainer import DiffusionTrainer

ROOT = Path(finetune.__file__).resolve().parent
SIZE = ["--config", "layers=1,width=16,heads=2,vocab=300"]
RUN = [
    *("--block_size", "32", "--per_device_train_batch_size", "4", "--use_cpu", "--dtype"),
    *("float32", "--learning_rate", "2e-3", "--logging_steps", "1", "--disable_tqdm", "true"),
    *("--eval_strategy", "no", "--save_strategy", "no", "--prefix_len", "1"),
]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """As OMP_NUM_THREADS=1 does at the start of a process, so that sums are the same there."""
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
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
def train(monkeypatch, capfd):
    """Runs the script here: flags -> (exit code, standard error)."""

    def train(*flags):
        AcceleratorState._reset_state(reset_partial_state=True)  # what a new process starts with
        monkeypatch.setattr(sys, "argv", ["finetune.py", *map(str, flags)])
        capfd.readouterr()
        try:
            errors.run(finetune.main)
            code = 0
        except SystemExit as end:
            code = end.code
        return code, capfd.readouterr().err

    return train


def start(flags, folder: Path, launcher=()) -> subprocess.Popen:
    """The script in a process of its own, whose home, current and temporary folders are empty."""
    for name in ("home", "here", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "HF_ENDPOINT": "http://127.0.0.1:9",  # a hub that does not answer
        "OMP_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "finetune.py"), *map(str, flags)],
        cwd=folder / "here",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def state(folder: Path) -> dict:
    return json.loads((folder / "trainer_state.json").read_text())


def losses(folder: Path) -> dict[int, float]:
    return {
        entry["step"]: entry["loss"] for entry in state(folder)["log_history"] if "loss" in entry
    }


def assert_same_weights(a: Path, b: Path) -> None:
    first, second = load_file(a), load_file(b)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


# ---------------------------------------------------------------- the whole way


@pytest.fixture
def warm(train, text, tmp_path):
    """A causal warm start, three epochs."""
    folder = tmp_path / "warm"
    code, _ = train(*RUN, *SIZE, "--objective", "causal", "--dataset", text,
                    "--num_train_epochs", 3, "--output_dir", folder)  # fmt: skip
    assert code == 0
    return folder


def test_from_scratch_by_a_causal_warm_start_to_a_denoiser(train, warm, text, tmp_path):
    curve = list(losses(warm).values())
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    config = json.loads((warm / "config.json").read_text())
    assert config["diffusion"]["objective"] == "causal"
    assert config["diffusion"]["shift"] is True

    final = tmp_path / "final"
    code, err = train(*RUN, "--model", warm, "--dataset", text, "--output_dir", final,
                      "--num_train_epochs", 2, "--ema", 0.99, "--eval_strategy", "epoch",
                      "--save_strategy", "epoch", "--save_dtype", "float16")  # fmt: skip
    assert code == 0
    assert "Writing" not in err and "Loading" not in err  # only what a user wants to know
    assert err.splitlines()[-1].startswith(f"saved {final}: ")

    # An ordinary model folder, beside it the last checkpoint.
    (checkpoint,) = final.glob("checkpoint-*")
    assert [p for p in files(final) if not p.startswith(checkpoint.name)] == sorted(
        ["README.md", "config.json", "model.safetensors", "tokenizer.json",
         "tokenizer_config.json", "trainer_state.json"]
    )  # fmt: skip
    model = AutoModelForMaskedLM.from_pretrained(final)
    tokenizer = AutoTokenizer.from_pretrained(final)
    assert model.dtype == torch.float16
    settings = model.config.diffusion
    assert settings["objective"] == "diffusion"
    assert settings["shift"] is True  # as it was warmed up
    assert settings["prefix_len"] == 1
    assert tokenizer.decode(tokenizer("abc <mask>")["input_ids"]) == "<s>abc<mask></s>"

    # The weights are the average, and predict better than the frequencies of tokens do.
    average = load_file(checkpoint / "ema.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, average[f"module.{name}"].half())
    assert Backbone(model).shift

    # The bound: in the log, in the state with its error, in the card and in the config.
    history = state(final)["log_history"]
    evaluations = [entry for entry in history if "eval_nats_per_token" in entry]
    steps = state(final)["global_step"]
    assert [entry["step"] for entry in evaluations] == [steps // 2, steps]  # none twice
    last = evaluations[-1]
    assert 1 < last["eval_nats_per_token"] < 5.7  # below log 300
    assert 0 < last["eval_standard_error"] < 0.5
    assert last["eval_perplexity"] == pytest.approx(2.718281828 ** last["eval_nats_per_token"])
    assert 0 < last["eval_nats_per_byte"] < last["eval_nats_per_token"]
    assert settings["bound_nats_per_token"] == round(last["eval_nats_per_token"], 4)
    seen = steps * 4 * 32
    before = state(warm)["global_step"] * 4 * 32
    assert settings["tokens_seen"] == seen + before
    card = (final / "README.md").read_text()
    for needed in (
        f"{last['eval_nats_per_token']:.4f} ± {last['eval_standard_error']:.4f} nats per token",
        f"{seen:,}",
        f"{seen + before:,}",
        f"--model {warm} --dataset {text}",
        "diffusion (shifted)",
        "average, decay 0.99, float16",
        f"| training text | {text} |",
    ):
        assert needed in card


@pytest.mark.parametrize(("flag", "shift"), [("auto", True), ("no", False), ("yes", True)])
def test_shift_after_a_causal_warm_start(train, warm, text, tmp_path, flag, shift):
    code, _ = train(*RUN, "--model", warm, "--dataset", text, "--max_steps", 1, "--shift", flag,
                    "--output_dir", tmp_path / "out")  # fmt: skip
    assert code == 0
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.diffusion["shift"] is shift


@pytest.mark.parametrize(
    "flags",
    [
        ["--loss", "mean", "--mask_schedule", "seed"],
        ["--schedule", "cosine-a", "--eval_draws", "2"],
        ["--dtype", "bfloat16", "--dropout", "0.1", "--attn_implementation", "sdpa"],
        ["--dataloader_num_workers", "2"],
    ],
)
def test_other_settings_train(train, text, tmp_path, flags):
    out = tmp_path / "out"
    code, _ = train(*RUN, *SIZE, "--dataset", text, "--max_steps", 8, "--output_dir", out, *flags)
    assert code == 0
    assert all(0 < loss < 30 for loss in losses(out).values())
    reference = tmp_path / "reference"
    if "--dataloader_num_workers" in flags:  # the same batches, whoever prepares them
        train(*RUN, *SIZE, "--dataset", text, "--max_steps", 8, "--output_dir", reference)
        assert losses(out) == losses(reference)


def test_a_short_text_gets_a_model_of_its_own_vocabulary(train, text, tmp_path):
    """It has fewer pieces than asked for; the folder must load again all the same."""
    out = tmp_path / "out"
    code, _ = train(*RUN, "--config", "layers=1,width=16,heads=2,vocab=9000", "--dataset", text,
                    "--max_steps", 1, "--output_dir", out)  # fmt: skip
    assert code == 0
    size = AutoModelForMaskedLM.from_pretrained(out).config.vocab_size
    assert size == len(AutoTokenizer.from_pretrained(out)) < 2000
    code, _ = train(*RUN, "--model", out, "--dataset", text, "--max_steps", 1,
                    "--output_dir", tmp_path / "again")  # fmt: skip
    assert code == 0


def test_wikitext_by_name_from_a_folder(train, tmp_path):
    data = tmp_path / "data" / "wikitext-2"
    data.mkdir(parents=True)
    line = " The cat sat on the mat @-@ like thing , and <unk> looked at it . It was happy then and sang .\n"
    for name in ("train", "valid"):
        (data / f"{name}.txt").write_text(f" = A title = \n\n{line * 60}")
    out = tmp_path / "out"
    code, err = train(*RUN, *SIZE, "--dataset_dir", data.parent, "--max_steps", 1,
                      "--output_dir", out)  # fmt: skip
    assert code == 0, err
    assert "held out" not in err
    assert "| validation text | wikitext-2," in (out / "README.md").read_text()


def test_a_gpt2_from_scratch_and_further(train, text, tmp_path):
    first, second = tmp_path / "gpt2", tmp_path / "further"
    size = "type=gpt2,layers=1,width=16,heads=2,vocab=300"
    causal = (*RUN, "--objective", "causal", "--dataset", text)
    code, err = train(*causal, "--config", size, "--num_train_epochs", 3, "--ema", 0.9,
                      "--output_dir", first)  # fmt: skip
    assert code == 0, err
    curve = list(losses(first).values())
    assert sum(curve[-5:]) < 0.9 * sum(curve[:5])
    model = AutoModelForCausalLM.from_pretrained(first)
    assert isinstance(model, GPT2LMHeadModel)
    assert model.config.n_positions == 32 and model.config.diffusion["shift"] is True
    assert "pipeline_tag: text-generation" in (first / "README.md").read_text()

    # The reported NLL is that of the library's own loss on the same held-out blocks.
    tokenizer = AutoTokenizer.from_pretrained(first)
    blocks = packing.pack(corpus.load_documents(text, "train"), tokenizer, 32).long()
    held_out = blocks[-max(2, len(blocks) // 50) :]
    with torch.no_grad():
        expected = model.eval()(held_out, labels=held_out).loss.item()
    assert state(first)["log_history"][-1]["eval_nats_per_token"] == pytest.approx(expected, 1e-4)

    seen = model.config.diffusion["tokens_seen"]
    code, err = train(*causal, "--model", first, "--max_steps", 2, "--output_dir", second,
                      "--dropout", 0.25)  # fmt: skip
    assert code == 0, err
    config = json.loads((second / "config.json").read_text())
    assert config["diffusion"]["tokens_seen"] == seen + 2 * 4 * 32
    assert config["resid_pdrop"] == config["embd_pdrop"] == config["attn_pdrop"] == 0.25


def test_evaluating_alone_reports_the_same_and_writes_nothing(train, warm, text, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(warm)
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(Path(text).read_text()[-900:])
    before = files(tmp_path)
    only = ("--evaluate_only", "--model", warm, "--dataset", held_out, "--eval_split", "test")
    code, err = train(*RUN, *only, "--objective", "causal", "--output_dir", tmp_path / "none")
    assert code == 0, err
    assert files(tmp_path) == before and not (tmp_path / "none").exists()
    nats = re.search(r"warm: ([\d.]+) ± .* nats per token, ([\d.]+) per byte", err)
    model = AutoModelForMaskedLM.from_pretrained(warm).eval()
    again = packing.pack(corpus.load_documents(str(held_out)), tokenizer, 32).long()
    rows = torch.ones_like(again, dtype=torch.bool)
    rows[:, 0] = False
    with torch.no_grad():
        logits = Backbone(model)(again, rows, causal=True)
    expected = torch.nn.functional.cross_entropy(logits, again[rows]).item()
    assert float(nats[1]) == pytest.approx(expected, abs=0.002)
    code, err = train(*RUN, *only)  # as a denoiser: a bound
    assert code == 0 and "nats per token" in err
    code, err = train(*RUN, *SIZE, "--evaluate_only", "--dataset", text)
    assert code == 2
    one_sentence(err, "--evaluate_only", "--config")


def test_a_gpt2_of_the_hub_has_no_mask_token_and_needs_none(train, text, tmp_path):
    """Its tokenizer has one special token, its weights no prefix, and old buffers beside them."""
    hub, final = tmp_path / "hub", tmp_path / "final"
    code, _ = train(*RUN, "--objective", "causal", "--dataset", text, "--max_steps", 1, "--config",
                    "type=gpt2,layers=1,width=16,heads=2,vocab=300", "--output_dir", hub)  # fmt: skip
    assert code == 0
    tensors = {
        name.removeprefix("transformer."): tensor
        for name, tensor in load_file(hub / "model.safetensors").items()
        if not name.startswith("lm_head")
    }
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32)
    save_file(tensors, hub / "model.safetensors", metadata={"format": "pt"})
    end = "<|endoftext|>"
    tokenizer = json.loads((hub / "tokenizer.json").read_text().replace("</s>", end))
    (hub / "tokenizer.json").write_text(json.dumps(tokenizer))
    (hub / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "bos_token": end,
                "eos_token": end,
                "unk_token": end,
            }
        )
    )
    code, err = train(*RUN, "--objective", "causal", "--model", hub, "--dataset", text,
                      "--max_steps", 1, "--output_dir", final)  # fmt: skip
    assert code == 0, err
    code, err = train(*RUN, "--model", hub, "--dataset", text, "--output_dir", tmp_path / "no")
    assert code == 2
    one_sentence(err, "no mask token")


# ---------------------------------------------------------------- interruptions


def test_a_run_interrupted_twice_equals_the_whole_one(train, text, tmp_path):
    """Ctrl-C at one step, SIGKILL at another, both in processes of their own; then the rest here
    must end with bit for bit the weights, average, optimiser and losses of a run never stopped."""
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", "90", "--ema", "0.95",
             "--dropout", "0.1", "--save_strategy", "steps", "--save_steps", "7",
             "--save_total_limit", "2", "--gradient_accumulation_steps", "2"]  # fmt: skip
    whole, out = tmp_path / "whole", tmp_path / "out"
    code, _ = train(*flags, "--output_dir", whole)
    assert code == 0

    flags += ["--output_dir", out]
    process = start(flags, tmp_path)
    for line in process.stdout:  # the log of each step
        if line.startswith("{'loss'"):
            break
    time.sleep(random.uniform(0, 0.2))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    stopped = int(re.search(r"stopped at step (\d+); go on .*--resume_from", err)[1])
    assert 0 < stopped < 60
    assert (out / f"checkpoint-{stopped}").is_dir()
    assert state(out / f"checkpoint-{stopped}")["global_step"] == stopped
    # The run has written into its output folder, and nowhere else.
    assert [p for name in ("home", "here", "tmp") for p in files(tmp_path / name)] == []
    assert files(out) == [p for p in files(out) if p.startswith("checkpoint-")]

    flags += ["--resume_from_checkpoint", "last"]
    process = start(flags, tmp_path)
    for line in process.stdout:
        if line.startswith("{'loss'"):
            break
    until = stopped + 15
    while not any(int(p.name[11:]) >= until for p in out.glob("checkpoint-*")):
        assert process.poll() is None
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.05))
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = max(int(p.name[11:]) for p in out.glob("checkpoint-*"))
    assert killed < 90

    code, err = train(*flags)
    assert code == 0
    assert "training a byte-level BPE" not in err  # the checkpoint has the tokenizer
    for name in ("model.safetensors", "checkpoint-90/model.safetensors"):
        assert_same_weights(whole / name, out / name)
    assert_same_weights(
        whole / "checkpoint-90/ema.safetensors", out / "checkpoint-90/ema.safetensors"
    )
    for name in ("optimizer.pt", "scheduler.pt"):
        first, second = (torch.load(f / "checkpoint-90" / name) for f in (whole, out))
        assert str(first) == str(second)
    assert losses(whole) == losses(out)
    whole_card, card = ((f / "README.md").read_text() for f in (whole, out))
    unequal = re.compile(r".*wall time.*|# .*")
    assert unequal.sub("", whole_card).replace(str(whole), str(out)) == unequal.sub("", card)
    assert [p.name for p in out.glob(".*")] == []


def test_a_finished_run_is_finished(train, text, tmp_path):
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", 4, "--save_strategy", "steps",
             "--save_steps", 2, "--output_dir", out]  # fmt: skip
    train(*flags)
    before = (out / "model.safetensors").read_bytes()
    code, _ = train(*flags, "--resume_from_checkpoint", out / "checkpoint-4")
    assert code == 0
    assert (out / "model.safetensors").read_bytes() == before


def test_overwriting_leaves_no_checkpoint_of_the_run_before(train, text, tmp_path):
    """`--resume_from_checkpoint last` would otherwise go on with the other run."""
    flags = [*RUN, *SIZE, "--dataset", text, "--save_strategy", "steps", "--save_steps", 2,
             "--save_total_limit", 3, "--output_dir", tmp_path / "out"]  # fmt: skip
    train(*flags, "--max_steps", 8)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    code, _ = train(*flags, "--max_steps", 4, "--overwrite_output_dir")
    assert code == 0
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert [n for n in names if n.startswith("checkpoint")] == ["checkpoint-2", "checkpoint-4"]
    assert "notes.txt" in names


def test_going_back_to_an_earlier_checkpoint_drops_the_later_ones(train, text, tmp_path):
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, "--dataset", text, "--save_strategy", "steps", "--save_steps", 2,
             "--save_total_limit", 9, "--output_dir", out]  # fmt: skip
    train(*flags, "--max_steps", 8)
    code, _ = train(*flags, "--max_steps", 6, "--resume_from_checkpoint", out / "checkpoint-2")
    assert code == 0
    assert sorted(p.name for p in out.glob("check*")) == [f"checkpoint-{n}" for n in (2, 4, 6)]


# ---------------------------------------------------------------- batches, processes


@pytest.fixture
def seen(monkeypatch):
    """The times and the token ids of all forward passes of training."""
    batches = []
    compute_loss = DiffusionTrainer.compute_loss

    def record(self, model, inputs, *args, **kwargs):
        batches.append((inputs["t"].clone(), inputs["input_ids"].clone()))
        return compute_loss(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DiffusionTrainer, "compute_loss", record)
    return batches


def split(rows: int, accumulation: int) -> list:
    return ["--per_device_train_batch_size", rows, "--gradient_accumulation_steps", accumulation]


@pytest.mark.parametrize("loss", ["nelbo", "mean"])
def test_accumulation_changes_nothing(train, text, tmp_path, seen, loss):
    runs = {}
    for rows, accumulation in ((8, 1), (2, 4)):
        seen.clear()
        out = tmp_path / f"{rows}"
        flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", 30, "--loss", loss]
        code, _ = train(*flags, *split(rows, accumulation), "--output_dir", out)
        assert code == 0
        times = torch.cat([t for t, _ in seen]).view(30, 8)
        ids = torch.cat([ids for _, ids in seen])
        runs[rows] = (times, ids, losses(out))
    assert torch.equal(runs[8][0], runs[2][0])
    assert torch.equal(runs[8][1], runs[2][1])
    for step, value in runs[8][2].items():
        assert runs[2][2][step] == pytest.approx(value, rel=2e-5)
    # One rate in each eighth, in every step.
    strata = (runs[8][0] * 8).floor().sort(dim=1).values
    assert (strata == torch.arange(8.0)).all()


def test_two_processes_are_one_with_twice_the_batch(train, text, tmp_path):
    """Over more than one epoch and with accumulation. `accelerate launch --cpu` alone starts one
    process, whatever --num_processes says; --multi_gpu is its way to say several."""
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", "40", "--ema", "0.9", "--eval_strategy",
             "steps", "--eval_steps", "20", "--save_strategy", "steps", "--save_steps", "32",
             "--save_total_limit", "2"]  # fmt: skip
    launcher = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
                "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
                "--main_process_port", "0"]  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    process = start([*flags, *split(2, 2), "--output_dir", two], tmp_path, launcher)
    code, _ = train(*flags, *split(8, 1), "--output_dir", one)
    assert code == 0
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.count("training a byte-level BPE") == 1  # the other process takes that one

    assert state(two)["epoch"] == state(one)["epoch"] > 1
    first, second = losses(one), losses(two)
    assert first.keys() == second.keys()
    for step in first:
        assert second[step] == pytest.approx(first[step], rel=2e-5)
    for name in ("model.safetensors", "checkpoint-40/model.safetensors"):
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


# ---------------------------------------------------------------- bad input


def one_sentence(err: str, *words: str) -> None:
    assert err.startswith("finetune.py: ") and err.count("\n") == 1, err
    assert "Traceback" not in err
    for word in words:
        assert word in err


BAD_FLAGS = [
    (["--loss", "foo"], ["--loss", "'foo'", "nelbo"]),
    (["--lss", "mean"], ["--lss", "did you mean --loss"]),
    (["--schedule", "foo"], ["--schedule", "linear"]),
    (["--mask_schedule", "foo"], ["stratified"]),
    (["--mask_schedule", "seed", "--schedule", "log-linear"], ["--schedule linear"]),
    (["--objective", "foo"], ["causal"]),
    (["--objective", "causal", "--shift", "no"], ["--shift cannot be no"]),
    (
        ["--config", "type=gpt2,layers=1,width=16,heads=2,vocab=300"],
        ["type=gpt2", "--objective causal"],
    ),
    (["--config", "type=bert,layers=1,width=16,heads=2,vocab=300"], ["type=bert", "type=gpt2"]),
    (["--dtype", "float16"], ["float16", "bfloat16"]),
    (["--save_dtype", "int8"], ["int8", "float16"]),
    (["--fp16"], ["--fp16", "GPU"]),
    (["--block_size", "7"], ["--block_size 7", "8"]),
    (["--block_size", "x"], ["--block_size", "'x'"]),
    (["--prefix_len", "0"], ["--prefix_len 0", "between 1"]),
    (["--prefix_len", "32"], ["--prefix_len 32"]),
    (["--ema", "1"], ["--ema 1.0", "below 1"]),
    (["--dropout", "-0.1"], ["--dropout -0.1"]),
    (["--eval_draws", "0"], ["--eval_draws 0", "at least 1"]),
    (["--max_eval_blocks", "0"], ["--max_eval_blocks 0"]),
    (["--per_device_train_batch_size", "0"], ["--per_device_train_batch_size 0"]),
    (["--gradient_accumulation_steps", "0"], ["gradient_accumulation_steps"]),
    (["--num_train_epochs", "0", "--max_steps", "-1"], ["--num_train_epochs 0"]),
    (["--learning_rate", "nan"], ["--learning_rate nan"]),
    (["--learning_rate", "-1"], ["--learning_rate -1.0"]),
    (["--adam_beta2", "1"], ["--adam_beta2 1.0"]),
    (["--seed", "-1"], ["--seed -1"]),
    (["--seed", "4294967296"], ["--seed 4294967296"]),
    (["--optim", "foo"], ["--optim", "'foo'"]),
    (["--lr_scheduler_type", "foo"], ["'foo'", "cosine"]),
    (["--eval_strategy", "foo"], ["foo", "epoch"]),
    (["--report_to", "foo"], ["--report_to foo", "none"]),
    (["--dataloader_num_workers", "-1"], ["--dataloader_num_workers -1"]),
    (["--auto_find_batch_size"], ["--auto_find_batch_size", "leave it out"]),
    (["--load_best_model_at_end"], []),
    (["--label_smoothing_factor", "0.1"], ["--label_smoothing_factor"]),
    (["--attn_implementation", "foo"], ["foo"]),
    *(
        (["--config", config], [word])
        for config, word in [
            ("", "layers=N"),
            ("x", "layers=N"),
            ("layers=1", "layers=N"),
            ("layers=1,width=16,heads=2,vocab=x", "layers=N"),
            ("layers=1,width=16,heads=2,vocab=300,depth=3", "layers=N"),
            ("layers=0,width=16,heads=2,vocab=300", "layers=N"),
            ("layers=1,width=15,heads=2,vocab=300", "multiple of the heads"),
            ("layers=1,width=16,heads=2,vocab=299", "at least 300"),
        ]
    ),
    (["--resume_from_checkpoint", "last"], ["has no checkpoint"]),
    (["--resume_from_checkpoint", "no/such/folder"], ["no/such/folder", "'last'"]),
]


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS, ids=lambda x: " ".join(x))
def test_bad_flags(train, text, tmp_path, flags, words):
    code, err = train(*RUN, *SIZE, "--dataset", text, "--max_steps", 1,
                      "--output_dir", tmp_path / "out", *flags)  # fmt: skip
    assert code == 2, err
    if "--attn_implementation" in flags:  # known only when the model is there
        err = "".join(err.splitlines(keepends=True)[-1:])
    one_sentence(err, *words)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, ["does not exist"]),
        (b"", ["has no text"]),
        ("é".encode("latin-1") * 100, ["is not UTF-8", "iconv"]),
        (b"short", ["too few for one block of 32", "--block_size"]),
        (b"one two six ten " * 20, ["fills only 2 blocks", "--eval_dataset"]),
    ],
)
def test_bad_text(train, tmp_path, content, words):
    path = tmp_path / "bad.txt"
    if content is not None:
        path.write_bytes(content)
    code, err = train(*RUN, *SIZE, "--dataset", path, "--output_dir", tmp_path / "out")
    assert code == 2
    *before, last = err.splitlines(keepends=True)
    one_sentence(last, *words)
    assert all(line.startswith("training a byte-level BPE") for line in before)
    assert not (tmp_path / "out").exists()


def test_bad_validation_text(train, text, tmp_path):
    (tmp_path / "short.txt").write_text("short")
    code, err = train(*RUN, *SIZE, "--dataset", text, "--eval_dataset", tmp_path / "short.txt",
                      "--output_dir", tmp_path / "out")  # fmt: skip
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], "validation set", "too few")
    code, err = train(*RUN, *SIZE, "--dataset", text, "--eval_dataset", tmp_path / "no.txt",
                      "--output_dir", tmp_path / "out")  # fmt: skip
    assert code == 2
    one_sentence(err, "no.txt does not exist")
    assert not (tmp_path / "out").exists()


def test_bad_output_folders(train, text, tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "model.safetensors").write_text("mine")
    bad = {"file": ["is a file"], "file/a": ["cannot be written to"],
           "used": ["not empty", "--resume_from_checkpoint", "--overwrite_output_dir"]}  # fmt: skip
    for name, words in bad.items():
        code, err = train(*RUN, *SIZE, "--dataset", text, "--output_dir", tmp_path / name)
        assert code == 2
        one_sentence(err, str(tmp_path / name), *words)
    assert files(tmp_path) == ["file", "used/model.safetensors"]
    assert (tmp_path / "used" / "model.safetensors").read_text() == "mine"


def test_bad_models(train, warm, text, tmp_path):
    flags = [*RUN, "--dataset", text, "--output_dir", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    gpt2 = tmp_path / "gpt2"
    GPT2LMHeadModel(
        GPT2Config(vocab_size=300, n_positions=40, n_embd=8, n_layer=1, n_head=2)
    ).save_pretrained(gpt2)
    AutoTokenizer.from_pretrained(warm).save_pretrained(gpt2)
    for model, words in [
        (tmp_path / "no", ["does not exist"]),
        (tmp_path / "empty", ["is empty"]),
        (gpt2, ["'gpt2' model"]),
    ]:
        code, err = train(*flags, "--model", model)
        assert code == 2
        one_sentence(err, str(model), *words)
    code, err = train(*flags, "--model", warm, "--block_size", 33)
    assert code == 2
    one_sentence(err, "--block_size 33", "32 positions")
    weights = warm / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    code, err = train(*flags, "--model", warm)
    assert code == 2
    one_sentence(err, "cannot read the weights")
    assert not (tmp_path / "out").exists()


def test_without_a_hub_the_default_run_says_what_to_do(tmp_path):
    """A process of its own: one line on standard error is all there is, and it comes soon."""
    started = time.monotonic()
    process = start([], tmp_path)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    one_sentence(err, "'roberta-base' from the hub", "local folder")
    assert time.monotonic() - started < 45
    assert files(tmp_path) == []


def test_without_a_hub_wikitext_has_to_be_local(train, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("wikitext-2", "someone/stories"):
        code, err = train(*RUN, *SIZE, "--dataset", name, "--output_dir", tmp_path / "out")
        assert code == 2
        one_sentence(err, "data set", "from the hub", "--dataset_dir")
    assert files(tmp_path) == []


# ---------------------------------------------------------------- damaged checkpoints, full disks


@pytest.mark.parametrize(
    ("name", "damage", "words"),
    [
        ("trainer_state.json", "half", ["trainer_state.json"]),
        ("trainer_state.json", "gone", ["trainer_state.json", "missing"]),
        ("model.safetensors", "half", ["model.safetensors"]),
        ("model.safetensors", "gone", ["model.safetensors", "missing"]),
        ("optimizer.pt", "half", ["optimizer.pt", "damaged"]),
        ("optimizer.pt", "gone", ["optimizer.pt", "missing"]),
        ("scheduler.pt", "gone", ["scheduler.pt", "missing"]),
        ("model.safetensors", "other", ["--config"]),
    ],
)
def test_a_damaged_checkpoint_is_refused(train, text, tmp_path, name, damage, words):
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, "--dataset", text, "--max_steps", 4, "--output_dir", out]
    train(*flags, "--save_strategy", "steps", "--save_steps", 2)
    checkpoint = out / "checkpoint-4"
    path = checkpoint / name
    if damage == "gone":
        path.unlink()
    elif damage == "half":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        tensors = load_file(path)
        save_file({k: v[..., :8].contiguous() for k, v in tensors.items()}, path, {"format": "pt"})
    before = files(out)
    code, err = train(*flags, "--resume_from_checkpoint", "last")
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], str(checkpoint), *words)
    if damage != "other":
        one_sentence(err)
    assert files(out) == before


@contextlib.contextmanager
def full_disk(size: int):
    """No file can grow beyond ``size`` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [30_000, 60_000], ids=["weights", "optimiser"])
def test_a_full_disk_while_training_keeps_the_last_checkpoint(train, text, tmp_path, size):
    out = tmp_path / "out"
    flags = [*RUN, *SIZE, "--dataset", text, "--output_dir", out, "--save_strategy", "steps",
             "--save_steps", 2]  # fmt: skip
    assert train(*flags, "--max_steps", 2)[0] == 0
    before = files(out)
    with full_disk(size):
        code, err = train(*flags, "--max_steps", 4, "--resume_from_checkpoint", "last")
    assert code == 2
    one_sentence(
        err.splitlines(keepends=True)[-1], "cannot write", "checkpoint-4", "free some space"
    )
    assert "Traceback" not in err
    assert files(out) == before
    assert train(*flags, "--max_steps", 4, "--resume_from_checkpoint", "last")[0] == 0


def test_a_full_disk_at_the_end_leaves_no_half_model(train, text, tmp_path):
    with full_disk(30_000):
        code, err = train(*RUN, *SIZE, "--dataset", text, "--max_steps", 2,
                          "--output_dir", tmp_path / "out")  # fmt: skip
    assert code == 2
    one_sentence(err.splitlines(keepends=True)[-1], "cannot write", "space")
    assert files(tmp_path) == []
