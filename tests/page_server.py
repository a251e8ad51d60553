"""The page as tests serve it and look at it: a server in this process, and a page that keeps what went wrong."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import Page

from monosem.app.page import serve
from monosem.app.page.library import Library

PLANTED, HOSTILE = 3, 5
EVIL = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> **bold** ${1+1} {{value}}"


class Served(NamedTuple):
    """A page that is served."""

    url: str
    library: Library
    run: Path


@contextlib.contextmanager
def serving(library: Library, password: str | None) -> Iterator[str]:
    """Serve a page until the block ends; gives its address."""
    with serve.listen("127.0.0.1", 0) as listening:
        server = serve.build_server(library, "127.0.0.1", password)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)


def plant(folder: Path) -> None:
    """Explain two latents anew."""
    path = folder / "explanations" / "explanations.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[PLANTED] |= {"explanation": "the quagga, a zebra that is no more", "certainty": 0.99}
    rows[HOSTILE] |= {"explanation": f"hostile {EVIL}", "certainty": 0.98}
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


class Watched:
    """A page of the browser, with what it asked for and what went wrong."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        page.set_default_timeout(60_000)

    def open(self, query: str = "") -> Page:
        """Go to the page and wait for its first card, or for the line in its place."""
        self.page.goto(self.url + query)
        self.page.locator("#ms-card .ms-card, #ms-card .ms-line").first.wait_for()
        return self.page

    def tab(self, name: str) -> Page:
        """Choose a tab."""
        self.page.get_by_role("tab", name=name).click()
        return self.page

    @property
    def elsewhere(self) -> list[str]:
        """Requests that left the machine."""
        return [asked for asked in self.requests if not asked.startswith((self.url, "data:", "blob:"))]
