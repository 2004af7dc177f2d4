"""What a run asks of the hub, which is not there: the calls are looked at, and their failures."""

import os

import huggingface_hub
import pytest
from helpers.training import RUN, SIZE, files, one_sentence

from diffusion.models import hub

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere")
    monkeypatch.setenv("HF_TOKEN", "")  # restored after the test, whatever a run sets


@pytest.fixture
def flags(text, tmp_path):
    return [*RUN, *SIZE, "--dataset", text, "--max_steps", 1, "--output_dir", tmp_path / "my-model"]


@pytest.fixture
def uploads(monkeypatch):
    """Calls of a hub that takes everything."""
    calls = []

    def create_repo(self, repo_id, **more):
        calls.append((repo_id, os.environ["HF_TOKEN"], more))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, ignore_patterns):
        kept = huggingface_hub.utils.filter_repo_objects(
            files(folder_path), ignore_patterns=ignore_patterns
        )
        calls.append((repo_id, sorted(kept)))

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
    return calls


@pytest.mark.parametrize("typed", [["--token", SECRET], [f"--token={SECRET}"]])
def test_a_finished_model_is_uploaded_with_its_card_and_without_the_token(
    train, flags, tmp_path, uploads, typed
):
    code, err = train(*flags, *typed, "--push_to_hub", "--hub_private_repo", "true",
                      "--save_strategy", "steps", "--save_steps", 1)  # fmt: skip
    assert code == 0, err
    assert err.splitlines()[-1] == "uploaded to https://huggingface.co/me/my-model"
    made, sent = uploads
    assert made == ("my-model", SECRET, {"private": True, "exist_ok": True})
    assert sent == ("me/my-model", ["README.md", "config.json", "model.safetensors",
                                    "tokenizer.json", "tokenizer_config.json",
                                    "trainer_state.json"])  # fmt: skip
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10 and SECRET not in err
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert "--push_to_hub" in (tmp_path / "my-model" / "README.md").read_text()


def test_without_a_hub_the_model_is_there(train, flags, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    code, err = train(*flags, "--push_to_hub", "--hub_model_id", "me/other")
    assert code == 2
    *_, saved, failed = err.splitlines(keepends=True)
    assert saved.startswith(f"saved {tmp_path / 'my-model'}: ")
    one_sentence(failed, "is saved, but could not be uploaded", "hf upload me/other")
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--push_to_hub"], ["--push_to_hub", "token", "hf auth login"]),
        (["--hub_token", SECRET], ["--hub_token is not supported"]),
    ],
)
def test_what_cannot_succeed_is_refused_at_once(train, flags, tmp_path, more, words):
    code, err = train(*flags, *more)
    assert code == 2
    one_sentence(err, *words)
    assert SECRET not in err and files(tmp_path) == []


def test_a_revision_is_taken_and_told(train, tiny_model, text, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision))
        assert "*.safetensors" in allow_patterns and "*.bin" not in allow_patterns
        return str(tiny_model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    out = tmp_path / "out"
    flags = [*RUN, "--model", "me/model", "--dataset", text, "--max_steps", 1, "--output_dir", out]
    code, err = train(*flags, "--revision", "v1")
    assert code == 0, err
    assert asked == [("me/model", "v1")]
    assert "| started from | me/model at v1 |" in (out / "README.md").read_text()

    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.ask_hub_once.cache_clear()
    code, err = train(*flags, "--revision", "v2", "--overwrite_output_dir")
    assert code == 2
    one_sentence(err, "'me/model at v2' from the hub")
    code, err = train(*flags[:len(RUN)], "--model", tiny_model, "--dataset", text, "--revision", "v1",
                      "--output_dir", tmp_path / "no")  # fmt: skip
    assert code == 2
    one_sentence(err, "--revision v1", str(tiny_model), "is none")
