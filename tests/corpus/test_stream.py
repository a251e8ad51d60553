"""A dataset of the hub, streamed by the real client from a hub on this machine: all its text, resumed in the middle."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_server import COMMIT, Hub, serving

DOCUMENTS = [f"Document {number} begins here. It ends there!" for number in range(40)]
PER_FILE = 10
RECIPE = """
name = "text"
[corpus]
sources = ["hf:org/text"]
{more}
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four Parquet files, and a card that names the licence."""
    folder = tmp_path / "dataset"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: cc0-1.0\n---\n# Text\n")
    for number in range(4):
        rows = [{"text": text} for text in DOCUMENTS[PER_FILE * number : PER_FILE * (number + 1)]]
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"train-{number:05d}-of-00004.parquet")
    return folder


def run(hub: Hub, tmp_path: Path, code: str) -> Any:
    """What `code` prints as JSON, in a process that knows of no other hub."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hub-cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "MONOSEM_CACHE": str(tmp_path / "cache"),
        "NO_PROXY": "127.0.0.1",
    }
    environment.pop("HF_HUB_OFFLINE", None)
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


READ = """
import json
from monosem.corpus import sources
from monosem.recipe import CorpusRecipe
source = sources.open_source("hf:org/text", CorpusRecipe(sources=("hf:org/text",)))
print(json.dumps([document.text for document in source.documents({skip})]))
"""


@pytest.mark.slow
def test_a_dataset_is_streamed_from_any_document_on(tmp_path: Path, dataset: Path) -> None:
    with serving(dataset) as hub:
        assert run(hub, tmp_path, READ.format(skip=0)) == DOCUMENTS
        hub.read.clear()
        assert run(hub, tmp_path, READ.format(skip=25)) == DOCUMENTS[25:]
        # the client looks into the first file for the columns; then come those from document 25 on
        assert [number for number in range(4) if any(f"train-{number:05d}" in name for name in hub.read)] == [0, 2, 3]
        (learnt,) = (tmp_path / "cache" / "hub" / "dataset").rglob(f"{COMMIT}.json")
        learnt.write_text("[0, 10, 2")  # to forget it costs time alone
        assert run(hub, tmp_path, READ.format(skip=25)) == DOCUMENTS[25:]


@pytest.mark.slow
def test_sentences_of_a_stream_keep_text_order_and_licence_through_a_stop(tmp_path: Path, dataset: Path) -> None:
    """Punkt's sentences in Parquet; the process dies after its second shard and goes on."""
    (tmp_path / "recipe.toml").write_text(RECIPE.format(more="max_sentences = 61"))
    code = """
    import json, os
    from pathlib import Path
    from monosem import recipe
    from monosem.corpus import sentences
    from monosem.run import Run, Stage
    sentences.SHARD_CHARACTERS = 300
    if {dies}:
        add = Stage.add_shard
        def dying(self, name, rows, **info):
            add(self, name, rows, **info)
            if len(self.shards) == 2:
                print("[]", flush=True)
                os._exit(0)
        Stage.add_shard = dying
    run = Run(Path("runs/text"), recipe.load(Path("recipe.toml")))
    sentences.make(run)
    read = sentences.Sentences(run.folder("sentences"))
    print(json.dumps([read.texts(0, len(read)), (run.path / "licences.json").read_text()]))
    """
    with serving(dataset) as hub:
        run(hub, tmp_path, code.format(dies=True))
        assert len(list((tmp_path / "runs" / "text" / "sentences").glob("*.parquet"))) == 2
        texts, licences = run(hub, tmp_path, code.format(dies=False))
    expected = [part for text in DOCUMENTS for part in (text[: text.index(".") + 1], text[text.index(".") + 2 :])]
    assert texts == expected[:61]
    assert json.loads(licences)["hf:org/text"]["licence"] == "cc0-1.0"
