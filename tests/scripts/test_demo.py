"""demo.py: what is refused before there is a page."""

import socket
import sys

import pytest

import demo


@pytest.mark.parametrize(
    "words, said",
    [
        (("--port", "0"), "--port 0"),
        (("--concurrency", "0"), "--concurrency 0"),
        (("--model", "nowhere"), "nowhere"),
        (("--device", "abacus"), "abacus"),
        (("--prot", "80"), "--port"),
    ],
)
def test_mistakes_are_one_sentence(run_script, words, said):
    pytest.importorskip("gradio")
    code, out, err = run_script(demo, *words)
    assert code == 2 and out == "" and said in err.splitlines()[-1]


def test_without_gradio_it_says_how_to_install_it(run_script, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, _, err = run_script(demo)
    assert code == 2 and ".[demo]" in err and len(err.splitlines()) == 1


def test_a_port_that_is_taken(run_script, tiny_model, tiny_gpt2):
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        more = "--model", tiny_model, "--baseline", tiny_gpt2
        code, _, err = run_script(demo, "--port", port, *more)
    assert code == 2 and "another --port" in err and str(port) in err
