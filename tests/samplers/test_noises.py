"""What goes with which noise: every line of the table is tried on a model of that noise."""

import json
from pathlib import Path

import pytest
from helpers.models import save_roberta

import inference
from diffusion.canvas import prompt_canvas
from diffusion.editing.canvases import score_texts
from diffusion.errors import UserError
from diffusion.generate import load_writer
from diffusion.models import loading
from diffusion.options import GenerationOptions
from diffusion.samplers import catalog
from diffusion.samplers.catalog import NOISED, NOISES, SAMPLERS, STEPPED

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {
    "absorbing": {},
    "uniform": {"noise": "uniform"},
    "hybrid": {"noise": "hybrid", "p_u": 0.2},
    "gaussian": {"noise": "gaussian"},
}
every_noise = pytest.mark.parametrize("noise", NOISES)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("noises")
    return {name: str(save_roberta(root / name, **more)) for name, more in SETTINGS.items()}


@pytest.fixture(scope="module")
def writers(folders):
    return {name: load_writer(folder, None, "cpu", "float32") for name, folder in folders.items()}


def write(writer, **options):
    options = GenerationOptions(length=5, max_len=16, **options)
    *_, last = writer.generate(["The old"], options, [0])
    return last


def refused(writer, words: str, **options):
    with pytest.raises(UserError) as error:
        write(writer, **options)
    said = str(error.value)
    assert words in said and f"was trained for {writer.noise.name} noise" in said
    assert "\n" not in said


@every_noise
def test_a_model_says_its_noise(writers, noise):
    assert writers[noise].noise.name == noise
    assert getattr(writers[noise].noise, "p_u", None) == SETTINGS[noise].get("p_u")
    tokenizer = writers[noise].tokenizer
    if noise != "absorbing":  # what a text may consist of
        random = writers[noise].noise.tokens.tolist()
        assert tokenizer.eos_token_id in random
        assert not {tokenizer.mask_token_id, tokenizer.bos_token_id} & set(random)


@every_noise
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_work_or_are_refused_as_the_table_says(writers, noise, name):
    steps = {"n_steps": 3} if name in STEPPED else {}
    if lack := catalog.sampler_lacks(name, noise):
        refused(writers[noise], f"{lack}; use one of ", sampler=name, **steps)
        return
    last = write(writers[noise], sampler=name, **steps)
    forbidden = writers[noise].denoiser.forbidden.tolist()
    assert not set(last.ids[0, -5:].tolist()) & set(forbidden)
    assert not last.masked.any()
    assert last.random is None or not last.random.any()


OPTIONS = {
    "--block_length": {"block_length": 2},
    "--early_commit": {"early_commit": 0.1},
    "--guidance": {"guidance": 0.5},
    "--attention block": {"attention": "block"},
    "--schedule": {"schedule": "cosine-a"},
    "--clamp": {"clamp": 0.5},
}


@every_noise
@pytest.mark.parametrize("name", OPTIONS)
def test_features_work_or_are_refused_as_the_table_says(writers, noise, name):
    samplers = [name for name in NOISED if noise in SAMPLERS[name].noises]
    for sampler in samplers:
        own = {"sampler": sampler, "n_steps": 3, **OPTIONS[name]}
        if noise in catalog.FEATURES[name]:
            refused(writers[noise], catalog.FEATURES[name][noise], **own)
        else:
            assert not write(writers[noise], **own).masked.any()


@every_noise
def test_what_no_noise_refuses_works(writers, noise):
    """Repetition processors, windows, greedy tokens, and likelihoods."""
    writer = writers[noise]
    write(writer, sampler="ancestral", n_steps=3, repetition_penalty=1.5, no_repeat_ngram_size=2)
    write(writer, sampler="ddim", n_steps=3, temperature=0.0)
    options = GenerationOptions(sampler="ancestral", n_steps=3, max_len=90, window_stride=40)
    *_, last = writer.generate(["The old"], options, [0])
    assert last.ids.shape == (1, 90) and not last.masked.any()
    assert last.random is None or not last.random.any()
    (bound,) = score_texts(writer, ["The river runs through the old town."], draws=8)
    assert 0 < bound.nats_per_token < 60


@every_noise
def test_editing_works_or_is_refused_as_the_table_says(run_script, folders, noise):
    begin = ["--model", folders[noise], "--device", "cpu", "--max_len", "40"]
    text = "The river runs through the old town."
    tasks = [
        ["--infill", "The <mask:2> runs through the <mask:3> town."],
        ["--rewrite", text, "--strength", "0.5"],
        ["--interpolate", text, "She opened the window.", "--points", "2"],
    ]
    for task in tasks:
        code, out, err = run_script(inference, *begin, *task, "--json")
        assert code == 0, err
        record = json.loads(out.splitlines()[0])
        assert record["sampler"] == ("first-hitting" if noise == "absorbing" else "ancestral")
    assert run_script(inference, *begin, "--score", text, "--draws", "2")[0] == 0
    code, out, err = run_script(inference, *begin, "--infill", "The <mask:1-2> runs.")
    lack = catalog.FEATURES["--infill with a range of lengths"].get(noise)
    assert code == (2 if lack else 0)
    assert (lack or "") in err and "Traceback" not in err
    assert not lack or err.splitlines()[-1].startswith("inference.py: --infill")


@pytest.mark.parametrize(
    "settings",
    [{"noise": "laplace"}, {"noise": "hybrid"}, {"noise": "hybrid", "p_u": 1.0},
     {"noise": "hybrid", "p_u": -0.1}, {"noise": "uniform", "p_u": 0.1}, {"noise": 3},
     {"noise": "hybrid", "p_u": "0.1"}],
)  # fmt: skip
def test_a_config_with_a_noise_that_cannot_be_is_refused(folders, tmp_path, settings):
    config = json.loads(Path(folders["absorbing"], "config.json").read_text())
    config["diffusion"] |= settings
    (tmp_path / "config.json").write_text(json.dumps(config))
    for file in Path(folders["absorbing"]).iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UserError, match=r"noise|settings of diffusion"):
        loading.noise_settings(loading.load_config(str(tmp_path)), "it")


def test_the_default_follows_the_noise(writers):
    blocks = writers["absorbing"].resolve(GenerationOptions())
    assert (blocks.sampler, blocks.block_length) == ("first-hitting", 1)
    for noise in ("uniform", "hybrid"):
        own = writers[noise].resolve(GenerationOptions())
        assert (own.sampler, own.block_length, own.n_steps) == ("ancestral", None, 64)
        assert writers[noise].resolve(GenerationOptions(sampler="seed")).n_steps == 10


def test_a_uniform_canvas_begins_with_noise_where_it_is_to_be_written(writers):
    writer = writers["uniform"]
    canvas = prompt_canvas(writer.tokenizer, ["The old", "A"], 20, 8)
    options = GenerationOptions(sampler="ancestral", n_steps=2, length=8, max_len=20)
    first, *_ = writer.denoise(canvas, options, [0, 1], may_end=False)
    free = ~canvas.frozen & ~canvas.padding
    assert (first.random == free).all() and not first.masked.any()
    assert (first.ids == canvas.ids)[~free].all()
    assert (first.ids != writer.tokenizer.mask_token_id).all()
    assert set(first.ids[free].tolist()) <= set(writer.noise.tokens.tolist())


def test_the_docs_hold_the_table():
    """What works with which noise; rows with equal cells are one."""
    rows = [(f"`{name}`", [catalog.sampler_lacks(name, n) for n in NOISES]) for name in SAMPLERS]
    rows += [(flag, [lacks.get(n) for n in NOISES]) for flag, lacks in catalog.FEATURES.items()]
    alike = {}
    for name, lacks in rows:
        cells = tuple(f"refused: it {lack}" if lack else "works" for lack in lacks)
        alike.setdefault((name[0] == "`", *cells), []).append(name)
    lines = ["| | " + " | ".join(NOISES) + " |", "|---" * (len(NOISES) + 1) + "|"]
    for (_, *cells), names in alike.items():
        lines.append(f"| {', '.join(names)} | " + " | ".join(cells) + " |")
    table = "\n".join(lines)
    assert table in (ROOT / "docs" / "noise.md").read_text(encoding="utf-8"), table
