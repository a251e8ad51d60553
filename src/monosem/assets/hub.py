"""Models and files of the Hugging Face hub, through its own client: its cache, its token, its offline mode.

A name is tied to one commit, the one in the cache if there is one, so that a run means the same content throughout.
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Literal, NamedTuple

from monosem.assets.cache import cache_folder
from monosem.atomic import write_text
from monosem.errors import AssetError

Kind = Literal["model", "dataset"]
UNSTATED = "not stated"
# what a causal language model in PyTorch needs: not the same weights once more in other formats
MODEL_FILES = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "*.pth", "README.md"]
OTHER_COPIES = ["original/*", "onnx/*"]
_FORM = re.compile(r"hf:([\w.-]+/[\w.-]+|[\w.-]+)(?:@([\w./-]+?))?(?:!/([^\\]+))?")


class HubName(NamedTuple):
    """A repository of the hub, or one file in it."""

    repository: str
    revision: str
    """Branch, tag or commit."""
    file: str | None

    @classmethod
    def parse(cls, source: str) -> "HubName":
        """Read `hf:org/name[@revision][!/file]`.

        Raises:
            AssetError: it is not of that form.
        """
        form = _FORM.fullmatch(source)
        if form is None:
            raise AssetError(f"{source!r}: expected hf:org/name, hf:org/name@revision or hf:org/name!/file")
        return cls(form[1], form[2] or "main", form[3])

    def __str__(self) -> str:
        return f"hf:{self.repository}@{self.revision}" + (f"!/{self.file}" if self.file else "")


class Fetched(NamedTuple):
    """What of a repository is on this machine."""

    path: Path
    fingerprint: str
    licence: str


def commit(name: HubName, kind: Kind) -> str:
    """The commit that `name` stands for: that of the hub's cache if it knows one, else what the hub says.

    Raises:
        AssetError: the client is not installed, or neither cache nor hub knows the name.
    """
    hub = _client(name)
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    cached = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name.repository, repo_type=kind)
    if (cached / "snapshots" / name.revision).is_dir():
        return name.revision
    with contextlib.suppress(FileNotFoundError):
        return (cached / "refs" / name.revision).read_text(encoding="ascii").strip()
    remembered = cache_folder() / "hub" / kind / name.repository / name.revision
    try:
        with reaching(name):
            found = hub.HfApi().repo_info(name.repository, repo_type=kind, revision=name.revision).sha
    except AssetError:
        if remembered.exists():  # a streamed dataset has no other trace here
            return remembered.read_text(encoding="ascii")
        raise
    remembered.parent.mkdir(parents=True, exist_ok=True)
    write_text(remembered, found)
    return found


def fingerprint(name: HubName, kind: Kind) -> str:
    """Names the content: repository, commit and file."""
    return f"hf:{name.repository}@{commit(name, kind)}" + (f"!/{name.file}" if name.file else "")


def fetch(name: HubName, kind: Kind = "model") -> Fetched:
    """The repository's model files, or its one named file, in the hub's own cache.

    Raises:
        AssetError: as `commit`, or the download fails.
    """
    hub = _client(name)
    revision = commit(name, kind)
    with reaching(name):
        if name.file:
            path = hub.hf_hub_download(name.repository, name.file, repo_type=kind, revision=revision)
        else:
            path = hub.snapshot_download(
                name.repository,
                repo_type=kind,
                revision=revision,
                allow_patterns=MODEL_FILES,
                ignore_patterns=OTHER_COPIES,
            )
    return Fetched(Path(path), fingerprint(name, kind), licence(name, kind))


def licence(name: HubName, kind: Kind) -> str:
    """The licence in the front matter of the repository's card, if it has one.

    Raises:
        AssetError: as `commit`.
    """
    hub = _client(name)
    try:
        card = hub.hf_hub_download(name.repository, "README.md", repo_type=kind, revision=commit(name, kind))
    except (OSError, hub.errors.EntryNotFoundError):
        return UNSTATED
    stated = re.search(r"^license:\s*(\S+)", Path(card).read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    return stated[1] if stated else UNSTATED


def _client(name: HubName) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise AssetError(f"{name}: needs the package huggingface_hub; pip install 'monosem[hub]'") from None
    return huggingface_hub


@contextlib.contextmanager
def reaching(name: HubName) -> Iterator[None]:
    """Whatever the client raises, of its own, of its HTTP library or of the system, becomes one line."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AssetError(
            f"{name}: the hub could not be read ({reason}); check the name, the network and your token, "
            "or name a local folder instead"
        ) from error
