"""The page as an API, with the client of Gradio: docs/page.md."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

import compare
import diffusion

TEXT = "The river runs through the old town and under the stone bridge."


@pytest.fixture(scope="module")
def client(page):
    gradio_client = pytest.importorskip("gradio_client")
    return gradio_client.Client(page[1], verbose=False)


def test_texts_are_those_of_python_for_two_users_at_once(client, page, drafter):
    import gradio_client

    clients = [client, gradio_client.Client(page[1], verbose=False)]

    def written(i: int) -> list[str]:
        options = {"seed": i, "sampler": "confidence", "n_steps": 4}
        return [
            clients[i].predict("The river", 12, options, api_name="/write")["text"]
            for _ in range(3)
        ]

    with ThreadPoolExecutor(2) as both:
        found = list(both.map(written, range(2)))
    for i, texts in enumerate(found):
        alone = diffusion.write(
            drafter, ["The river"], length=12, seed=i, sampler="confidence", n_steps=4
        )
        assert texts == alone * 3


def test_places_are_touched_and_tokens_named(client):
    found = client.predict(TEXT, [[4, 9]], "<mask:2>", 3, {"temperature": 0.5}, api_name="/touch")
    assert found["text"].startswith("The ") and found["text"].endswith(TEXT[9:])
    assert found["tokens"] == 2 and found["places"][0][0] == 4
    likeliest = client.predict(TEXT, 2, api_name="/likeliest")
    assert len(likeliest) == 6 and all(0 <= p <= 1 for _, p in likeliest)


def test_locked_places_stay_locked(page):
    from diffusion.page.service import Edit
    from diffusion.page.touch import moved

    kept, old = [(0, 3), (10, 14), (40, 45)], [(4, 9), (23, 35)]
    for new in ("The lake runs under the stone bridge.", "The dark old river runs through"):
        places = [(4, 4 + len(new)), (18 + len(new), 18 + 2 * len(new))]
        text = TEXT[:4] + new + TEXT[9:23] + new + TEXT[35:]
        found = moved(kept, Edit(None, places, old))
        assert [text[a:b] for a, b in found] == [TEXT[a:b] for a, b in kept]


def test_a_comparison_is_what_compare_replays(client, tmp_path, run_script):
    data = client.predict("The river", 8, 1, {"seed": 2}, api_name="/compare")
    (tmp_path / "river.json").write_text(json.dumps(data))
    code, out, err = run_script(
        compare, "--replay", tmp_path / "river.json", "--no_animate", "--no_live"
    )
    assert code == 0, err
    assert all(side["text"] in out for side in data["sides"])


def test_texts_are_scored_and_ranked(client):
    found = client.predict([TEXT, "The the the."], 4, 0, api_name="/score")
    values = [one["nats_per_token"] for one in found]
    assert values == sorted(values) and len(values) == 2


def test_what_is_refused_is_said_in_one_sentence(client):
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as error:
        client.predict("The river", 9999, api_name="/write")
    assert "length 9999 must be a number from 1 to 256" in str(error.value)
    with pytest.raises(AppError, match="'bogus'"):  # no HTML
        client.predict("The river", 9, {"sampler": "bogus"}, api_name="/write")
