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
    "corpus": {"sources": ["wikipedia-en"], "max_documents": 40},
    "capture": {"hook_points": ["20.resid_post"]},
    "sae": {"n": 512, "k": 16, "normalisation": "dataset"},
    "train": {"batch": 512, "epochs": 6, "lr": 1e-3, "validations": 2, "k_aux": 64},
    "evaluate": {"sentences": 4, "steering_latents": 1, "steering_controls": 1},
    "score": {"sentences": 100, "shuffles": 10, "random_latents": 10, "random_sentences": 40, "sample": 0},
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


@pytest.fixture(scope="session")
def context(chromium: Browser) -> Iterator[Callable[[int, str], BrowserContext]]:
    """One context for each size and scheme: what a browser keeps of Gradio's scripts serves all tests."""
    made: dict[tuple[int, str], BrowserContext] = {}

    def of(width: int, scheme: str) -> BrowserContext:
        if (width, scheme) not in made:
            made[width, scheme] = new_context(chromium, width, scheme)
        return made[width, scheme]

    yield of
    for one in made.values():
        one.close()


@pytest.fixture
def browse(
    chromium: Browser, served: Served, context: Callable[[int, str], BrowserContext]
) -> Iterator[Callable[..., Watched]]:
    """Opens the page; nothing may go wrong in it, nor be asked for elsewhere. `apart`: in a browser of its own."""
    opened: list[Watched] = []

    def open_(width: int = 1280, scheme: str = "light", *, apart: bool = False) -> Watched:
        where = new_context(chromium, width, scheme) if apart else context(width, scheme)
        opened.append(Watched(where.new_page(), served.url))
        return opened[-1]

    yield open_
    for watched in opened:
        assert watched.errors == []
        assert watched.elsewhere == []
        watched.page.close()


def new_context(chromium: Browser, width: int, scheme: str) -> BrowserContext:
    return chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
