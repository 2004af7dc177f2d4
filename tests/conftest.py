"""Tiny models, and the scripts run in the process of the tests."""

import functools
import gc
import io
import os
import sys
from pathlib import Path

import pytest

# Tiny tensors: a second thread costs more than it computes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Where no bytecode may lie beside the sources, each of the processes that tests start would compile
# torch and transformers anew, which takes longer than most tests; so it goes into pytest's own folder.
if sys.dont_write_bytecode:
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).parents[1] / ".pytest_cache" / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix


def pytest_collection_finish():
    """What the libraries and the tests themselves keep is no garbage: to look through it again
    takes a third of a second each time, and a measurement does so before every run."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """Folder of a random RoBERTa, see `helpers.models`."""
    from helpers.models import save_roberta

    return save_roberta(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory, tiny_model):
    """Folder of a random GPT-2 with the tokenizer of `tiny_model`."""
    from helpers.models import save_gpt2

    return save_gpt2(tmp_path_factory.mktemp("models") / "tiny-gpt2", tiny_model)


@pytest.fixture(scope="session")
def writer(tiny_model):
    from diffusion.generate import load_writer

    return load_writer(str(tiny_model), dtype="float32")


@pytest.fixture(scope="module")
def code_read_once():
    """The scoreboard parses the package for the key of each row, which takes longer than a row of
    noise; the package stays as it is."""
    from studies.board import rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "code_digest", functools.cache(rows.code_digest))
        yield


@pytest.fixture(scope="session")
def loaded_writers():
    return {}


@pytest.fixture
def kept_models(monkeypatch, loaded_writers):
    """The scripts load each model once for all tests, which takes longer than to write a text."""
    from diffusion import autoregressive, generate

    for module, name in ((generate, "load_writer"), (autoregressive, "load_causal_writer")):
        load = getattr(module, name)

        def kept(*arguments, load=load, **more):
            key = str((load.__name__, arguments, more))
            if key not in loaded_writers:
                loaded_writers[key] = load(*arguments, **more)
            return loaded_writers[key]

        monkeypatch.setattr(module, name, kept)


@pytest.fixture
def run_script(monkeypatch, capsys):
    """Runs a script in this process: (module, its arguments) -> (exit code, standard output,
    standard error)."""
    from diffusion.errors import run

    def run_script(script, *arguments, stdin: bytes = b"", typed: list[str] | None = None):
        """``typed``: lines of somebody who sits at a terminal, instead of ``stdin`` from a pipe."""
        stream = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        if typed is not None:
            stream.isatty = lambda: True
            lines = iter([*typed, "", ""])
            monkeypatch.setattr("builtins.input", lambda *_: next(lines))
        name = script.__name__.rpartition(".")[2]  # of studies, too
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", stream)
        code = 0
        try:
            run(script.main)
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run_script


@pytest.fixture
def of_others(tmp_path, monkeypatch):
    """(folder of a model that comes with code, the file that its code makes when it is run)"""
    from helpers.others import save_mdlm
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    trace = tmp_path / "trace"
    return save_mdlm(tmp_path / "mdlm", trace), trace
