"""What stands before the page: host names, a password, and headers that keep the browser on this machine.

Pure ASGI, so that streams pass through untouched. A page on 127.0.0.1 can be asked for by any web site under a name of
its own; so only the names it was opened under are answered. Does not know what it guards.
"""

import asyncio
import hmac
import secrets
from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monosem.app.page.render import asset, render

COOKIE = "monosem"
LOGIN = "/login"
WRONG_SECONDS = 0.5  # a guess costs
MOST_FORM = 4096  # bytes
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",  # Gradio makes functions of the scripts of its components
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)


class Door:
    """The middleware.

    Args:
        hosts: names that the page answers to, without a port; empty: any.
        password: None: the door is open.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str], password: str | None) -> None:
        self._app, self._hosts, self._password = app, frozenset(hosts), password
        self._token = secrets.token_urlsafe(32)  # of this process: a restart asks again
        self._guess = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = POLICY
                headers["referrer-policy"] = "no-referrer"
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        host = Headers(scope=scope).get("host", "").rsplit(":", 1)[0].strip("[]")
        if self._hosts and host not in self._hosts:
            answer = PlainTextResponse("this page has another name; open the address that monosem app printed", 421)
            await answer(scope, receive, with_headers)
        elif self._password is None or self._knows(scope):
            await self._app(scope, receive, with_headers)
        else:
            await self._ask(Request(scope, receive), with_headers)

    def _knows(self, scope: Scope) -> bool:
        return hmac.compare_digest(Request(scope).cookies.get(COOKIE, ""), self._token)

    async def _ask(self, request: Request, send: Send) -> None:
        """The form, or the answer to it; everything but pages is refused without one."""
        scope, receive = request.scope, request.receive
        if request.url.path == LOGIN and request.method == "POST":
            answer = await self._answer(request)
        elif request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            answer = _form(str(request.url.query))
        else:
            answer = PlainTextResponse("the page asks for a password; reload it", 401)
        await answer(scope, receive, send)

    async def _answer(self, request: Request) -> HTMLResponse | RedirectResponse:
        body = b""
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_FORM:
                break
        given = parse_qs(body[:MOST_FORM].decode("utf-8", "replace"), keep_blank_values=True)
        query = given.get("query", [""])[0]
        assert self._password is not None
        async with self._guess:  # one guess at a time
            if hmac.compare_digest(given.get("password", [""])[0].encode(), self._password.encode()):
                answer = RedirectResponse(f"/?{query}" if query else "/", 303)
                answer.set_cookie(COOKIE, self._token, httponly=True, samesite="strict")
                return answer
            await asyncio.sleep(WRONG_SECONDS)
        return _form(query, wrong=True)


def _form(query: str, wrong: bool = False) -> HTMLResponse:
    html = render("door", wrong=wrong, query=query, login=LOGIN, style=asset("page.css"))
    return HTMLResponse(html, 401)
