"""inference.py as a user runs it: in a pipe, in a terminal, with every mistake we could think of."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.terminals import in_a_terminal, records
from PIL import Image

import inference
from diffusion.samplers.catalog import SAMPLERS

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
    assert code == 0
    assert record["text"].startswith(prompt)
    assert record["prompt"] == prompt
    assert len(record["ids"]) == 64
    assert 1 <= record["nfe"] <= 4
    assert record["seconds"] > 0


def test_a_pipe_reads_one_prompt_a_line_and_skips_blank_lines(call):
    code, out, _ = call(*SMALL, "--json", stdin=b"The river\n\nShe opened\r\n")
    assert code == 0
    assert [r["prompt"] for r in records(out)] == ["The river", "She opened"]


@pytest.fixture(scope="session")
def block_model(tmp_path_factory, tiny_model):
    """The tiny model as one that was trained for blocks."""
    folder = tmp_path_factory.mktemp("blocks") / "tiny"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["diffusion"] = {**config.get("diffusion", {}), "layouts": {"block4": 0.5, "full": 0.5}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


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


def test_texts_end_with_their_end_in_block_attention(call, block_model):
    """What stands behind </s> is not computed, and is not in the record."""
    code, out, _ = call("He", "--json", "--num_samples", "12", "--sampler", "causal",
                        "--temperature", "3", "--top_k", "0", "--top_p", "1", "--max_len", "64",
                        model=block_model)  # fmt: skip
    assert code == 0
    ended = [r for r in records(out) if len(r["ids"]) < 64]
    assert ended and all(r["nfe"] < 64 - 2 for r in ended)


def test_a_model_without_blocks_is_told_so(call):
    code, _, err = call("The river", "--sampler", "causal", *SMALL)
    assert code == 0 and "was never trained to write block by block" in err


def test_texts_in_a_pipe_are_plain(call):
    code, out, _ = call("The river", *SMALL)
    assert code == 0
    assert out.startswith("The river")
    assert "\x1b" not in out


def test_a_text_does_not_depend_on_what_else_is_written(call):
    lines = b"The river\nShe opened the window\nHe\n"
    both = ("--json", "--num_samples", "2", "--sampler", "confidence", *SMALL)
    together = records(call(*both, "--batch_size", "6", stdin=lines)[1])
    alone = records(call(*both, "--batch_size", "1", stdin=lines)[1])
    assert [r["ids"] for r in together] == [r["ids"] for r in alone]
    single = records(call("She opened the window", *both[:1], *both[3:])[1])
    assert single[0]["ids"] == together[2]["ids"]
    assert together[2]["ids"] != together[3]["ids"]  # another sample is another text


def test_the_seed_decides(call):
    texts = [records(call("He", *SMALL, "--json", "--seed", s)[1])[0]["ids"] for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_length_is_exact_for_prompts_of_different_lengths(call, tiny_model):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    lines = b"He\nShe opened the window and listened\n"
    out = records(call("--length", "9", "--json", "--max_len", "64", stdin=lines)[1])
    for record in out:
        prompt = tokenizer(record["prompt"], add_special_tokens=False)["input_ids"]
        assert len(record["ids"]) == 1 + len(prompt) + 9
        assert tokenizer.eos_token_id not in record["ids"]
    # The padding of the shorter row changes nothing.
    alone = records(call("He", "--length", "9", "--json", "--max_len", "64")[1])
    assert alone[0]["ids"] == out[0]["ids"]


def test_text_ends_at_the_first_written_end(tiny_model):
    import torch
    from transformers import AutoTokenizer

    from diffusion.canvas import Step, prompt_canvas
    from diffusion.views.frames import written_text

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    canvas = prompt_canvas(tokenizer, ["He"], 12)
    ids = canvas.ids.clone()
    tail = tokenizer(" said it and more", add_special_tokens=False)["input_ids"]
    new = [*tail[:2], tokenizer.eos_token_id, *tail]
    start = int(canvas.frozen.sum())
    ids[0, start : start + len(new)] = torch.tensor(new)[: 12 - start]
    no, one = torch.zeros_like(canvas.frozen), torch.ones(1, dtype=torch.int64)
    known = torch.zeros(ids.shape)
    end = Step(1, 1, one, ids, canvas.frozen, canvas.padding, no, no, no, known, 0.0, one)
    assert written_text(tokenizer, end, 0) == "He" + tokenizer.decode(tail[:2])


def test_unconditional_and_several_samples(call):
    code, out, _ = call("--unconditional", "--num_samples", "3", "--json", *SMALL)
    assert code == 0
    assert [r["sample"] for r in records(out)] == [0, 1, 2]
    assert len({tuple(r["ids"]) for r in records(out)}) == 3


@pytest.mark.parametrize(
    "sampler", [name for name, entry in SAMPLERS.items() if "absorbing" in entry.noises]
)
def test_every_sampler_writes_the_whole_canvas(call, sampler):
    code, out, _ = call("He said", "--sampler", sampler, "--json", *SMALL)
    (record,) = records(out)
    assert code == 0
    assert len(record["ids"]) == 24
    assert 4 not in record["ids"]  # <mask>
    assert record["nfe"] <= 24


def test_output_file_has_the_texts_and_standard_output_has_not(call, tmp_path):
    target = tmp_path / "texts.jsonl"
    code, out, _ = call("--output", target, "--json", *SMALL, stdin=b"He\nShe\n")
    assert (code, out) == (0, "")
    assert [r["prompt"] for r in records(target.read_text())] == ["He", "She"]
    assert os.listdir(tmp_path) == ["texts.jsonl"]


def test_a_text_longer_than_the_model_is_written_in_windows(call):
    flags = ("--dtype", "float32", "--json", "--sampler", "confidence", "--n_steps", "4")
    code, out, _ = call(
        "The river", "--length", "100", "--max_len", "150", "--window_stride", "20", *flags
    )
    (record,) = records(out)
    assert code == 0 and 4 not in record["ids"]
    assert len(record["ids"]) > 100
    windows = 1 + -(-(len(record["ids"]) - 64) // 20)
    assert record["nfe"] == record["steps"] == 4 * windows


def test_guidance_counts_two_passes_and_no_weight_none(call):
    flags = ("The river", "--sampler", "confidence", "--n_steps", "5", "--json", *SMALL)
    plain, off, on = (
        records(call(*flags, *more)[1])[0]
        for more in ((), ("--guidance", "0"), ("--guidance", "1.5"))
    )
    assert plain["ids"] == off["ids"] != on["ids"]
    assert on["nfe"] == 2 * plain["nfe"]


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
    assert code == 0
    assert out.startswith("The river")
    if ending == "html":
        assert "The" in target.read_text()
    else:
        with Image.open(target) as image:
            assert image.width >= 800
            if ending == "gif":
                assert image.n_frames >= 4


def test_a_model_that_is_no_denoiser_works_with_a_warning(call, tiny_model, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(tiny_model, plain)
    config = json.loads((plain / "config.json").read_text())
    del config["diffusion"]
    (plain / "config.json").write_text(json.dumps(config))
    code, out, err = call("He", *SMALL, model=plain)
    assert code == 0 and out
    assert err.count("never trained as a denoiser") == 1


BAD = {
    "empty prompt": ([""], "empty"),
    "blank prompt": (["  "], "empty"),
    "prompt not utf-8": (["caf\udce9"], "UTF-8"),
    "prompt too long": (["river " * 80, "--max_len", "64"], "64 positions"),
    "length too long": (["He", "--length", "63", "--max_len", "64"], "64 positions"),
    "no steps": (["He", "--sampler", "seed", "--n_steps", "0"], "--n_steps 0"),
    "too many steps": (["He", "--sampler", "seed", "--n_steps", "1000000"], "100000"),
    "steps of a sampler without": (["He", "--n_steps", "5"], "use one of random-remask, ancestral"),
    "no output name": (["He", "--output", ""], "--output"),
    "no nucleus": (["He", "--top_p", "0"], "--top_p 0"),
    "nucleus above 1": (["He", "--top_p", "1.5"], "--top_p 1.5"),
    "top_k below 0": (["He", "--top_k", "-1"], "--top_k -1"),
    "temperature below 0": (["He", "--temperature", "-1"], "--temperature -1"),
    "temperature nan": (["He", "--temperature", "nan"], "--temperature nan"),
    "max_len beyond the model": (["He", "--max_len", "65"], "64 positions"),
    "unknown sampler": (["He", "--sampler", "confidnce"], "'confidence'"),
    "unknown score": (["He", "--sampler", "confidence:score=margn"], "'margin'"),
    "option of another sampler": (["He", "--sampler", "p2:threshold=0.5"], "'threshold'"),
    "unknown flag": (["He", "--smapler", "seed"], "--sampler"),
    "no samples": (["He", "--num_samples", "0"], "--num_samples 0"),
    "unknown device": (["He", "--device", "toaster"], "toaster"),
    "unknown dtype": (["He", "--dtype", "int8"], "int8"),
    "unknown animation": (["He", "--save_animation", "out.avi"], ".avi"),
    "animation without ending": (["He", "--save_animation", "out"], ".gif"),
    "animation into nothing": (["He", "--save_animation", "no/such/a.gif"], "no/such"),
    "output into nothing": (["He", "--output", "no/such/a.txt"], "no/such"),
    "two results in one file": (
        ["He", "--output", "a.html", "--save_animation", "./a.html"],
        "--output and --save_animation",
    ),
    "eta out of range": (
        ["He", "--sampler", "remdm:eta=2"],
        "eta 2.0 must be a number from",
    ),
    "flag of earlier versions": (["He", "--eta", "0.02"], "write --sampler remdm:eta="),
    "negative guidance": (
        ["He", "--guidance", "-1"],
        "--guidance -1.0 must be a number of at least",
    ),
    "negative blocks": (["He", "--block_length", "-4"], "--block_length -4"),
    "stride of a whole window": (["He", "--window_stride", "64"], "from 1 to 63"),
    "unknown option of a sampler": (
        ["He", "--sampler", "wino:threshold_bak=0.5"],
        "'threshold_back'",
    ),
    "huge seed": (["He", "--seed", str(2**70)], "--seed"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_one_sentence_and_exit_code_2(call, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, named = BAD[case]
    if not any(a == "--max_len" for a in arguments):
        arguments = [*arguments, "--max_len", "24"]
    code, out, err = call(*arguments)
    said = [line for line in err.splitlines() if line.startswith("inference.py: ")]
    assert code == 2
    assert out == ""
    assert len(said) == 1 and named in said[0]
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_mp4_without_ffmpeg(call, monkeypatch):
    monkeypatch.setenv("PATH", "")
    code, _, err = call("He", "--save_animation", "out.mp4", *SMALL)
    assert code == 2 and "ffmpeg" in err


def test_standard_input_that_is_empty_or_not_utf8(call):
    code, _, err = call(*SMALL, stdin=b"\n\n")
    assert code == 2 and "no prompt" in err
    code, _, err = call(*SMALL, stdin=b"caf\xe9\n")
    assert code == 2 and "UTF-8" in err


def test_a_long_prompt_among_many_is_refused_before_anything_is_written(call):
    code, out, _ = call(*SMALL, stdin=b"He\n" + b"river " * 60 + b"\n")
    assert (code, out) == (2, "")


def test_a_causal_warm_start_is_refused(call, tiny_model, tmp_path):
    warm = tmp_path / "warm"
    shutil.copytree(tiny_model, warm)
    config = json.loads((warm / "config.json").read_text())
    config["diffusion"]["objective"] = "causal"
    (warm / "config.json").write_text(json.dumps(config))
    code, _, err = call("He", *SMALL, model=warm)
    assert code == 2 and "finetune.py" in err


@pytest.mark.slow
def test_the_interactive_loop_in_a_terminal(tiny_model):
    """Two prompts, one of them too long, and commands, one of them wrong, then two empty lines; the
    banner comes before the model."""
    prompts = [b"The river", b"river " * 60]
    commands = [
        b"/infill The <mask:2-3> runs",
        b"/rewrite The river runs on and on",
        b"/set n_steps x",
    ]
    typed = b"\n".join([*prompts, *commands, b"", b"", b""])
    seen = in_a_terminal("inference.py", tiny_model, typed)
    assert seen.index(b"loading") < seen.index(b"ready in")
    _, *answers = seen.split(b"Beginning of a text")
    assert len(answers) == 7
    text, refused, infilled, rewritten, wrong, *_ = answers
    assert b"positions" in refused and b"invalid int" in wrong  # and the loop went on
    assert b"pseudo-likelihood" in infilled + rewritten
    for answer in (text, infilled, rewritten):
        assert b"\xe2\x96\x91" in answer  # masks were shown
    assert seen.rstrip().endswith(b">")


def test_ctrl_d_ends_the_loop(monkeypatch, tiny_model):
    def ctrl_d():
        raise EOFError

    stdin = io.StringIO()
    stdin.isatty = lambda: True
    monkeypatch.setattr("builtins.input", ctrl_d)
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.setattr(sys, "argv", ["inference.py", "--model", str(tiny_model), *SMALL])
    inference.main()


def test_output_through_a_link_and_into_a_device(call, tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real.txt")
    assert call("He", *SMALL, "--output", tmp_path / "link.txt")[0] == 0
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text().startswith("He")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    assert call("He", *SMALL, "--output", pipe)[0] == 0
    assert reader.communicate(timeout=30)[0].startswith(b"He")
    assert pipe.is_fifo()


@pytest.mark.slow
def test_from_a_pipe_to_a_full_disk_is_one_sentence(tiny_model):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "inference.py", "--model", str(tiny_model), *SMALL],
            cwd=ROOT, input="He\n", stdout=full, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert "disk is full" in done.stderr and "Traceback" not in done.stderr


def test_a_model_that_asks_to_run_its_own_code_is_not_obeyed(call, tiny_model, tmp_path):
    trap = tmp_path / "trap"
    shutil.copytree(tiny_model, trap)
    config = json.loads((trap / "config.json").read_text())
    config["auto_map"] = {"AutoModelForMaskedLM": "evil.Model", "AutoConfig": "evil.Config"}
    (trap / "config.json").write_text(json.dumps(config))
    (trap / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()")
    code, out, _ = call("He", *SMALL, "--json", model=trap)
    assert not (tmp_path / "ran").exists()
    assert code == 2 or records(out)


def test_prompts_of_a_pipe_may_hold_any_line_character_but_the_newline(call):
    line = "a\u2028b\x0bc"
    out = call(*SMALL, "--json", stdin=f"\ufeff{line}\r\n".encode())[1]
    assert records(out)[0]["prompt"] == line


@pytest.mark.parametrize("gigabytes", [0.3])
def test_too_little_memory_is_one_sentence(gigabytes):
    """For the libraries; a model would need more."""
    limit = f"ulimit -v {int(gigabytes * 2**20)}"
    command = f"{limit}; exec {sys.executable} {ROOT / 'inference.py'} 'The river'"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "inference.py: there is not enough memory, or too little is allowed (ulimit -v); free some\n"
    )
