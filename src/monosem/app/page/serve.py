"""The server of the page: on this machine, behind the door, until Ctrl-C.

Flow: the port is taken first, so that one in use is one line; then Gradio is imported, the page is built and mounted,
and the first reading begins in the background. Models are loaded when somebody first needs them.
"""

import errno
import getpass
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monosem import progress
from monosem.app.page.library import Library
from monosem.errors import RecipeError

if TYPE_CHECKING:
    import uvicorn

PASSWORD = "MONOSEM_PASSWORD"
LOCAL = ("127.0.0.1", "localhost", "::1")


def serve(folders: Sequence[Path], host: str, port: int, password: str | None) -> None:
    """Serve the page of these run folders until it is stopped.

    Raises:
        RunError: a folder is not a run.
        RecipeError: the port is in use, or Gradio is not installed.
    """
    library = Library(folders)
    listening = listen(host, port)
    with listening:
        server = build_server(library, host, password)
        library.warm()
        progress.note(f"http://{_spelled(host)}:{listening.getsockname()[1]}  (Ctrl-C ends it)")
        server.run(sockets=[listening])


def password(*, ask: bool) -> str | None:
    """The page's password: asked for, or from the environment; None: the page has none. Never an argument, which other
    users of the machine would see.

    Raises:
        RecipeError: it is empty.
    """
    given = getpass.getpass("Password of the page: ") if ask else os.environ.get(PASSWORD)
    if given is not None and not given.strip():
        raise RecipeError(f"the password is empty; give one, or start without --password and {PASSWORD}")
    return given


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0: any that is free.

    Raises:
        RecipeError: the port is in use, or the host is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(128)
    except (OSError, OverflowError) as error:
        made.close()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise RecipeError(f"--port {port}: in use by another program; give another, or 0 for any") from None
        raise RecipeError(f"--host {host} --port {port}: {getattr(error, 'strerror', None) or error}") from None
    return made


def build_server(library: Library, host: str, password: str | None) -> "uvicorn.Server":
    """The server, ready to run on a socket.

    Raises:
        RecipeError: Gradio is not installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before Gradio is imported: nothing asks for its version either
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(1 << 30)  # else every event sums up all before it, by pandas
    try:
        import gradio
        import uvicorn
    except ImportError:
        raise RecipeError("monosem app needs Gradio: pip install 'monosem[app]'") from None
    from fastapi import FastAPI

    from monosem.app.page.door import Door
    from monosem.app.page.layout import build
    from monosem.app.page.render import asset
    from monosem.app.page.theme import theme

    app = gradio.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        build(library),
        "/",
        footer_links=[],
        show_error=False,
        max_file_size="1mb",
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        theme=theme(),
        css=asset("page.css"),
        head=f"<script>\n{asset('page.js')}\n</script>",
    )
    hosts = () if host in ("0.0.0.0", "::") else (*LOCAL, host)
    guarded = Door(app, hosts, password)
    return uvicorn.Server(uvicorn.Config(guarded, log_level="warning", timeout_graceful_shutdown=1, lifespan="on"))


def _spelled(host: str) -> str:
    return f"[{host}]" if ":" in host else host
