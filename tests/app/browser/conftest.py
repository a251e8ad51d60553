"""A page on a real run, served in this process, and Chromium to look at it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from page_server import Served, Watched, plant, serving
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from monosem import pipeline
from monosem.app.page.library import Library
from monosem.recipe import Recipe
from monosem.run import Run

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
RECIPE = {
    "name": "small",
    "model": {"source": "smollm2-135m-instruct"},
    "corpus": {"sources": ["wikipedia-en"], "max_documents": 60},
    "capture": {"hook_points": ["20.resid_post"]},
    "sae": {"n": 512, "k": 16, "normalisation": "dataset"},
    "train": {"batch": 512, "epochs": 6, "lr": 1e-3, "validations": 2, "k_aux": 64},
    "evaluate": {"sentences": 20, "steering_latents": 2, "steering_controls": 2},
}


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Debian's Chromium, or whatever is called so."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.fail("no Chromium on the PATH: install it (Debian: apt install chromium), or leave out -m browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def small_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the embedded model, with a planted explanation and a hostile one."""
    run = Run(tmp_path_factory.mktemp("runs") / "small", Recipe.model_validate(RECIPE))
    pipeline.make(run, [verb for verb in pipeline.VERBS if verb != "report"])
    plant(run.path)
    return run.path


@pytest.fixture(scope="session")
def served(small_folder: Path) -> Iterator[Served]:
    """The page of the run."""
    library = Library([small_folder])
    with serving(library, None) as url:
        yield Served(url, library, small_folder)


@pytest.fixture
def browse(chromium: Browser, served: Served) -> Iterator[Callable[..., Watched]]:
    """Opens a browser of its own on the page; nothing may go wrong in it, nothing may be asked for elsewhere."""
    opened: list[tuple[BrowserContext, Watched]] = []

    def open_(width: int = 1280, scheme: str = "light") -> Watched:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        opened.append((context, Watched(context.new_page(), served.url)))
        return opened[-1][1]

    yield open_
    for context, watched in opened:
        assert watched.errors == []
        assert watched.elsewhere == []
        context.close()
