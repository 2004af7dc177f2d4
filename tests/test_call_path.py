"""What docs/architecture.md shows: the call path of the default, and a sampler of one's own."""

import re
import sys
import textwrap
from pathlib import Path

import torch
from helpers.models import save_roberta
from helpers.tabular import TabularDenoiser

import inference
from diffusion.canvas import Canvas
from diffusion.denoise import denoise
from diffusion.proposal import Sampling
from diffusion.samplers import base

ROOT = Path(__file__).resolve().parents[1]
ROW = re.compile(r"^\| `([\w.<>]+)`.* \| `([\w/]+\.py)` \|$", re.MULTILINE)


def test_a_plain_prompt_passes_the_documented_calls_in_order(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    path = ROW.findall(page)
    assert len(path) >= 10
    layouts, own = {"causal": 1, "block4": 1, "full": 1}, {"sampler": "arpc", "block_length": 4}
    model = save_roberta(tmp_path / "model", layouts=layouts, generation=own)
    called: dict[tuple[str, str], None] = {}  # in the order of the first call

    def note(frame, event, arg):
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(str(ROOT)):
            called.setdefault((code.co_qualname, str(Path(code.co_filename).relative_to(ROOT))))

    monkeypatch.setattr(
        sys, "argv", ["inference.py", "the cat", "--model", str(model), "--length", "4"]
    )
    sys.setprofile(note)
    try:
        inference.main()
    finally:
        sys.setprofile(None)
    assert [call for call in called if call in path] == path
    assert capsys.readouterr().out.startswith("the cat")


def test_the_sampler_of_the_page_writes_half_of_the_masks_in_each_step():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    code = textwrap.dedent(
        re.search(r"^ +```python\n(.*?)^ +```", page, re.DOTALL | re.MULTILINE)[1]
    )
    names = vars(base).copy()
    exec(code, names)
    denoiser = TabularDenoiser(length=5)
    ids = torch.full((2, 5), denoiser.mask_id)
    no = torch.zeros_like(ids, dtype=torch.bool)
    steps = denoise(Canvas(ids, no, no), denoiser, names["Halves"](), Sampling(), torch.arange(2))
    assert [step.masked.sum(1).tolist() for step in steps] == [[5, 5], [2, 2], [1, 1], [0, 0]]
