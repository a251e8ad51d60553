"""The door: a password where there is one, only known host names, and headers that keep the browser here."""

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from monosem.app.page import door
from monosem.app.page.door import Door

HTML = {"accept": "text/html"}


def client(password: str | None, hosts: tuple[str, ...] = ("testserver",)) -> TestClient:
    inner = Starlette(routes=[Route("/", lambda _: PlainTextResponse("inside"))])
    return TestClient(Door(inner, hosts, password), follow_redirects=False)


@pytest.fixture(autouse=True)
def _fast_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "WRONG_SECONDS", 0.0)


def test_an_open_door_adds_headers_only() -> None:
    answer = client(None).get("/")
    assert answer.text == "inside"
    assert "default-src 'self'" in answer.headers["content-security-policy"]


def test_a_wrong_password_is_one_line_and_opens_nothing() -> None:
    page = client("sesame")
    assert "Password" in page.get("/", headers=HTML).text
    answer = page.post("/login", data={"password": "open", "query": ""})
    assert answer.status_code == 401
    assert answer.text.count("Wrong password.") == 1
    assert "set-cookie" not in answer.headers
    assert page.get("/", headers=HTML).status_code == 401


def test_the_right_password_opens_and_goes_on_to_the_link() -> None:
    page = client("sesame ü")
    asked = page.get("/?run=demo&latent=5", headers=HTML)
    assert 'value="run=demo&amp;latent=5"' in asked.text
    answer = page.post("/login", data={"password": "sesame ü", "query": "run=demo&latent=5"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/?run=demo&latent=5")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert page.get("/").text == "inside"


def test_what_is_not_a_page_is_refused_without_a_form() -> None:
    answer = client("sesame").get("/")
    assert (answer.status_code, answer.text) == (401, "the page asks for a password; reload it")


def test_a_cookie_of_another_process_opens_nothing() -> None:
    first, second = client("sesame"), client("sesame")
    first.post("/login", data={"password": "sesame"})
    second.cookies = first.cookies
    assert second.get("/", headers=HTML).status_code == 401


def test_a_long_body_is_no_password() -> None:
    assert client("sesame").post("/login", content=b"password=sesame&x=" + b"y" * 10**6).status_code in (303, 401)
    assert client("sesame").post("/login", content=b"y" * 10**6 + b"&password=sesame").status_code == 401


def test_other_host_names_are_not_answered() -> None:
    answer = client(None, ("127.0.0.1",)).get("/", headers={"host": "evil.example:7860"})
    assert answer.status_code == 421
    assert "inside" not in answer.text
    assert client(None, ("127.0.0.1",)).get("/", headers={"host": "127.0.0.1:7860"}).text == "inside"
    assert client(None, ()).get("/", headers={"host": "anything"}).text == "inside"
