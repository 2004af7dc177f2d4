"""The page with random models, served once for all tests; and a browser, where there is one."""

import os
import shutil

import pytest
from helpers.models import save_roberta

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


# In CI a missing part is a failure.
missing = pytest.fail if os.environ.get("BROWSER_NEEDED") else pytest.skip


@pytest.fixture(scope="session")
def drafter(tmp_path_factory):
    """A random model with the sampler of the embedded one that the page opens with."""
    from diffusion.generate import load_writer

    layouts, own = {"causal": 1, "block4": 1, "full": 1}, {"sampler": "arpc", "block_length": 8}
    folder = tmp_path_factory.mktemp("models") / "drafter"
    return load_writer(str(save_roberta(folder, layouts=layouts, generation=own)), dtype="float32")


@pytest.fixture(scope="session")
def service(drafter, tiny_gpt2):
    from diffusion.autoregressive import load_causal_writer
    from diffusion.page.service import Service

    return Service(drafter, load_causal_writer(str(tiny_gpt2), dtype="float32"))


@pytest.fixture(scope="session")
def page(service):
    """(the page, its address)"""
    try:
        from diffusion.page.app import Page
    except ImportError:
        missing("the page needs gradio: pip install -e '.[demo]'")

    page = Page(service, concurrency=2)
    _, address, _ = page.launch(prevent_thread_lock=True)
    yield page, address
    page.blocks.close()


@pytest.fixture(scope="session")
def browser():
    """Chromium, one for all tests."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        missing("the page is tested in a browser: install chromium and playwright")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser
        browser.close()
