"""inference.py as a user runs it: in a pipe, in a terminal, with every mistake we could think of."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.terminals import in_a_terminal, records, refused
from PIL import Image

import inference

ROOT = Path(inference.__file__).parent
SMALL = ["--max_len", "24", "--dtype", "float32"]
STEPS = ["--sampler", "seed", "--n_steps", "4"]


@pytest.fixture
def call(run_script, kept_models, tiny_model):
    def call(*arguments, model=tiny_model, **stdin):
        return run_script(inference, "--model", model, *arguments, **stdin)

    return call


def test_one_prompt_is_kept_whole_and_unchanged(call):
    prompt = "  The  river\truns, “naïve” <mask> </s> 河 "
    code, out, _ = call(prompt, "--max_len", "64", "--sampler", "seed", "--n_steps", "4", "--json")
    (record,) = records(out)
    assert code == 0 and record["prompt"] == prompt
    assert record["text"].startswith(prompt) and len(record["ids"]) == 64
    assert 1 <= record["nfe"] <= 4 and record["seconds"] > 0


def test_a_pipe_reads_one_prompt_a_line_and_skips_blank_lines(call):
    """A prompt may hold any character that ends a line but the newline."""
    lines = "\ufeffThe river\n\na\u2028b\x0bc\r\n".encode()
    code, out, _ = call(*SMALL, "--json", stdin=lines)
    assert code == 0
    assert [r["prompt"] for r in records(out)] == ["The river", "a\u2028b\x0bc"]
    for lines, named in ((b"\n\n", "no prompt"), (b"caf\xe9\n", "UTF-8")):
        code, _, err = call(*SMALL, stdin=lines)
        assert code == 2 and named in err
    # One that is too long is refused before anything is written.
    assert call(*SMALL, stdin=b"He\n" + b"river " * 60 + b"\n")[:2] == (2, "")


@pytest.fixture(scope="session")
def block_model(tmp_path_factory, tiny_model):
    """The tiny model as one that was trained for blocks."""
    folder = tmp_path_factory.mktemp("blocks") / "tiny"
    return changed(tiny_model, folder, layouts={"block4": 0.5, "full": 0.5})


def test_a_model_for_blocks_writes_in_blocks_and_fills_holes_on_the_full_canvas(call, block_model):
    def one(*arguments):
        code, out, err = call(*arguments, "--json", *SMALL, model=block_model)
        assert code == 0 and "never trained" not in err, err
        return records(out)[0]

    text = one("The river")
    assert (text["sampler"], text["attention"]) == ("speculative", "block")
    assert text["nfe"] < len(text["ids"]) <= text["slots"]
    assert text["tokens_per_pass"] >= 1
    assert one("The river", "--no_cache")["ids"] == text["ids"]
    assert one("The river", "--attention", "full")["sampler"] == "first-hitting"
    blocks = one("The river", "--sampler", "confidence")
    assert (blocks["attention"], blocks["block_length"]) == ("block", 4)
    assert one("The river", "--guidance", "1.0")["sampler"] == "first-hitting"
    for template in ("The <mask:3> sat", "The <mask:3>"):  # the rules of its edges hold
        holes = one("--infill", template)
        assert (holes["sampler"], holes["attention"]) == ("first-hitting", "full")


def test_a_text_does_not_depend_on_what_else_is_written(call):
    lines = b"The river\nShe opened the window\nHe\n"
    both = ("--json", "--num_samples", "2", "--sampler", "confidence", *SMALL)
    together = records(call(*both, "--batch_size", "6", stdin=lines)[1])
    alone = records(call(*both, "--batch_size", "1", stdin=lines)[1])
    assert [r["ids"] for r in together] == [r["ids"] for r in alone]
    single = records(call("She opened the window", *both[:1], *both[3:])[1])
    assert single[0]["ids"] == together[2]["ids"]
    assert together[2]["ids"] != together[3]["ids"]  # another sample is another text
    other = records(call("She opened the window", *both[:1], *both[3:], "--seed", "1")[1])
    assert single[0]["ids"] != other[0]["ids"]


def test_length_is_exact_for_prompts_of_different_lengths(call, tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    lines = b"He\nShe opened the window and listened\n"
    for record in records(call("--length", "9", "--json", "--max_len", "64", stdin=lines)[1]):
        prompt = tokenizer(record["prompt"], add_special_tokens=False)["input_ids"]
        assert len(record["ids"]) == 1 + len(prompt) + 9
        assert tokenizer.eos_token_id not in record["ids"]


def test_output_goes_to_a_file_through_a_link_and_into_a_device(call, tmp_path):
    (tmp_path / "real.jsonl").write_text("old")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "real.jsonl")
    where = ("--output", tmp_path / "link.jsonl", "--json")
    code, out, _ = call(*where, *SMALL, stdin=b"He\nShe\n")
    assert (code, out) == (0, "")
    written = (tmp_path / "real.jsonl").read_text()
    assert [r["prompt"] for r in records(written)] == ["He", "She"]
    assert sorted(os.listdir(tmp_path)) == ["link.jsonl", "real.jsonl"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    assert call("He", *SMALL, "--output", pipe)[0] == 0
    assert reader.communicate(timeout=30)[0].startswith(b"He")
    assert pipe.is_fifo()


def test_a_text_longer_than_the_model_is_written_in_windows(call):
    flags = ("--dtype", "float32", "--json", "--sampler", "confidence", "--n_steps", "4")
    window = ("--length", "100", "--max_len", "150", "--window_stride", "20")
    code, out, _ = call("The river", *window, *flags)
    (record,) = records(out)
    assert code == 0 and 4 not in record["ids"]
    assert len(record["ids"]) > 100
    windows = 1 + -(-(len(record["ids"]) - 64) // 20)
    assert record["nfe"] == record["steps"] == 4 * windows


def test_everything_at_once(call):
    """Blocks, early commit, guidance and processors around a sampler with shadows."""
    code, out, _ = call(
        "The river", "--sampler", "wino", "--block_length", "7", "--early_commit", "9",
        "--guidance", "0.5", "--repetition_penalty", "1.2", "--no_repeat_ngram_size", "2",
        "--json", *SMALL,
    )  # fmt: skip
    assert code == 0 and 4 not in records(out)[0]["ids"]


@pytest.mark.parametrize("ending", [pytest.param("gif", marks=pytest.mark.slow), "html", "png"])
def test_animation_is_saved(call, tmp_path, ending):
    target = tmp_path / f"river.{ending}"
    code, out, _ = call("The river", *SMALL, *STEPS, "--save_animation", target)
    assert code == 0 and out.startswith("The river") and "\x1b" not in out
    if ending == "html":
        assert "The" in target.read_text()
    else:
        with Image.open(target) as image:
            assert image.width >= 800
            if ending == "gif":
                assert image.n_frames >= 4


def changed(source: Path, folder: Path, **settings) -> Path:
    """A copy of a model with other settings of its denoiser; None: it never was one."""
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config["diffusion"] = {**config["diffusion"], **settings} if settings else {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("noise", ["uniform", "gaussian"])
def test_steps_go_to_the_default_sampler_of_the_model(call, tiny_model, tmp_path, noise):
    model = changed(tiny_model, tmp_path / noise, noise=noise)
    code, out, err = call("The river", "--n_steps", "3", "--json", *SMALL, model=model)
    assert code == 0, err
    (record,) = records(out)
    assert (record["sampler"], record["n_steps"]) == ("ancestral", 3) and record["nfe"] in (3, 4)
    # That of a model for masks takes none.
    refused(
        "inference", call("The river", "--n_steps", "3", *SMALL), "--sampler first-hitting takes"
    )


def test_what_a_model_was_not_trained_for_is_said(call, tiny_model, tmp_path):
    code, _, err = call("The river", "--sampler", "causal", *SMALL)
    assert code == 0 and "was never trained to write block by block" in err
    code, out, err = call("He", *SMALL, model=changed(tiny_model, tmp_path / "plain"))
    assert code == 0 and out
    assert err.count("never trained as a denoiser") == 1
    warm = changed(tiny_model, tmp_path / "warm", objective="causal")
    code, _, err = call("He", *SMALL, model=warm)
    assert code == 2 and "finetune.py" in err


# Ranges of every option are in tests/attack, combinations in tests/cli/test_checks.py and, with the
# names of samplers, in tests/test_options.py.
BAD = {
    "blank prompt": (["  "], "empty"),
    "prompt not utf-8": (["caf\udce9"], "UTF-8"),
    "prompt too long": (["river " * 80, "--max_len", "64"], "64 positions"),
    "length too long": (["He", "--length", "63", "--max_len", "64"], "64 positions"),
    "max_len beyond the model": (["He", "--max_len", "65"], "64 positions"),
    "too many steps": (["He", "--sampler", "seed", "--n_steps", "1000000"], "100000"),
    "unknown device": (["He", "--device", "toaster"], "toaster"),
    "unknown dtype": (["He", "--dtype", "int8"], "int8"),
    "unknown animation": (["He", "--save_animation", "out.avi"], ".avi"),
    "two results in one file": (
        ["He", "--output", "a.html", "--save_animation", "./a.html"], "--output and --save_animation",
    ),
    "stride of a whole window": (["He", "--window_stride", "64"], "from 1 to 63"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_one_sentence_and_exit_code_2(call, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, named = BAD[case]
    if not any(a == "--max_len" for a in arguments):
        arguments = [*arguments, "--max_len", "24"]
    refused("inference", call(*arguments), named)
    assert os.listdir(tmp_path) == []


def test_mp4_without_ffmpeg(call, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, err = call("He", "--save_animation", "out.mp4", *SMALL)
    assert code == 2 and "ffmpeg" in err


@pytest.mark.slow
def test_the_interactive_loop_in_a_terminal(tiny_model):
    """Prompts, one of them too long, and commands, one of them wrong, then two empty lines; the banner
    comes before the model."""
    prompts = [b"/set length 4", b"The river", b"river " * 60]
    commands = [b"/infill The <mask:2-3> runs", b"/rewrite The river runs on", b"/set n_steps x"]
    typed = b"\n".join([*prompts, *commands, b"", b"", b""])
    seen = in_a_terminal("inference.py", tiny_model, typed)
    assert seen.index(b"loading") < seen.index(b"ready in")
    _, *answers = seen.split(b"Beginning of a text")
    assert len(answers) == 8
    _, text, refused, infilled, rewritten, wrong, *_ = answers
    assert b"positions" in refused and b"invalid int" in wrong  # and the loop went on
    assert b"pseudo-likelihood" in infilled + rewritten
    for answer in (text, infilled, rewritten):
        assert b"\xe2\x96\x91" in answer  # masks were shown
    assert seen.rstrip().endswith(b">")


def test_ctrl_d_ends_the_loop(call, monkeypatch):
    def ctrl_d():
        raise EOFError

    monkeypatch.setattr("diffusion.cli.console._input", lambda question: ctrl_d())
    assert call(*SMALL, typed=[])[0] == 0


def test_too_little_memory_is_one_sentence():
    """For the libraries; a model would need more."""
    limit = f"ulimit -v {int(0.3 * 2**20)}"
    command = f"{limit}; exec {sys.executable} {ROOT / 'inference.py'} 'The river'"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "inference.py: there is not enough memory, or too little is allowed (ulimit -v); free some\n"
    )
