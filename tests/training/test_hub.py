"""What a run asks of the hub, which is not there: the calls are looked at, and their failures."""

import huggingface_hub
import pytest
from helpers.training import RUN, SIZE, files, one_sentence

from diffusion.models import hub
from diffusion.training.arguments import ModelArguments

SECRET = "hf_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere")
    monkeypatch.setenv("HF_TOKEN", SECRET)


@pytest.fixture
def flags(text, tmp_path):
    return [*RUN, *SIZE, "--dataset", text, "--max_steps", 1, "--output_dir", tmp_path / "my-model"]


def test_a_finished_model_is_uploaded_with_its_card_and_without_the_token(
    train, flags, tmp_path, monkeypatch
):
    calls = []

    def create_repo(repo_id, **more):
        calls.append((repo_id, more))
        return huggingface_hub.RepoUrl(f"https://huggingface.co/me/{repo_id}")

    def upload_folder(*, repo_id, folder_path, ignore_patterns):
        kept = huggingface_hub.utils.filter_repo_objects(
            files(folder_path), ignore_patterns=ignore_patterns
        )
        calls.append((repo_id, sorted(kept)))

    monkeypatch.setattr(huggingface_hub, "create_repo", create_repo)
    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    code, err = train(*flags, "--push_to_hub", "--hub_private_repo", "true",
                      "--save_strategy", "steps", "--save_steps", 1)  # fmt: skip
    assert code == 0, err
    assert err.splitlines()[-1] == "uploaded to https://huggingface.co/me/my-model"
    made, sent = calls
    assert made == ("my-model", {"private": True, "exist_ok": True})
    assert sent == ("me/my-model", ["README.md", "config.json", "model.safetensors",
                                    "tokenizer.json", "tokenizer_config.json",
                                    "trainer_state.json"])  # fmt: skip
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10 and SECRET not in err
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert "--push_to_hub" in (tmp_path / "my-model" / "README.md").read_text()


def test_without_a_hub_the_model_is_there(train, flags, tmp_path):
    code, err = train(*flags, "--push_to_hub", "--hub_model_id", "me/other")
    assert code == 2
    *_, saved, failed = err.splitlines(keepends=True)
    assert saved.startswith(f"saved {tmp_path / 'my-model'}: ")
    one_sentence(failed, "is saved, but could not be uploaded", "hf upload me/other")
    assert (tmp_path / "my-model" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--hub_token", SECRET], ["--hub_token is not supported"]),
        (["--token", SECRET], ["HF_TOKEN"]),
        (["--dataset", "someone/stories"], ["data set", "from the hub", "not downloaded before"]),
        (["--dataset", "wikitext-2"], ["data set", "from the hub", "--dataset_dir"]),
    ],
)
def test_what_cannot_succeed_is_refused_at_once(refused, more, words):
    assert SECRET not in refused(more, *words)


def test_a_model_of_the_hub_at_a_revision(refused):
    pinned = ModelArguments(model="me/model", revision="v1")
    assert pinned.access.revision == "v1" and pinned.origin == "me/model at v1"
    refused(["--revision", "v2"], "'me/model' from the hub", start=["--model", "me/model"])


def test_without_a_hub_the_default_run_says_what_to_do(train, tmp_path, monkeypatch):
    """One that does not answer, which is asked once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    hub.ask_hub_once.cache_clear()
    code, err = train("--use_cpu")
    assert code == 2
    one_sentence(err, "'roberta-base' from the hub", "local folder")
    assert files(tmp_path) == []
