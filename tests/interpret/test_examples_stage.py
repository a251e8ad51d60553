"""The stages `examples` and `explanations` on a real store: exact, resumable, and with errors that help."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from monosem.corpus.sentences import Sentences
from monosem.errors import RecipeError, RunError, StoreError
from monosem.interpret import cards, encoding, examples, explain, tables
from monosem.interpret.codes import StoredCodes
from monosem.interpret.draws import is_test
from monosem.lm.source import open_model
from monosem.run import Run
from monosem.sae import files
from monosem.store import shards

FILES = examples.FILES


@pytest.fixture(scope="module")
def stored_run(made_folder: Path) -> Run:
    """With examples; only read."""
    return Run.open(made_folder)


@pytest.fixture(scope="module")
def dense_codes(stored_run: Run) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[rows, n] codes of the whole store, with sentence and position of each row."""
    run = stored_run
    encoder = files.load(run.folder("sae") / "final")
    stored = [shards.read(path) for path in shards.open_shards(run.folder("activations", run.recipe.hook_point)).paths]
    dense = [encoder.encode(part).dense() for rows in stored for part in rows.activations.split(encoding.ENCODE_ROWS)]
    sentence = torch.cat([rows.sentence for rows in stored]).numpy()
    return torch.cat(dense).numpy(), sentence, torch.cat([rows.position for rows in stored]).numpy()


def test_examples_equal_the_dense_computation(stored_run: Run, dense_codes):
    counts = examples.open_stage(stored_run).manifest.counts
    dense, sentence, position = dense_codes
    table = pq.read_table(stored_run.folder("examples") / tables.EXAMPLES)
    assert counts["rows"] == table.num_rows
    found: dict[tuple[int, str], list] = {}
    for row in table.to_pylist():
        found.setdefault((row["latent"], row["aggregation"]), []).append(row)
    numbers, starts = np.unique(sentence, return_index=True)
    lengths = np.diff(starts, append=len(sentence))
    reserved = is_test(numbers, stored_run.recipe.examples.test_fraction, stored_run.recipe.seed)
    assert 0.1 < reserved.mean() < 0.3
    scores = {
        "mean": (np.add.reduceat(dense, starts, dtype=np.float64) / lengths[:, None]).astype(np.float32),
        "last": dense[starts + lengths - 1],
        "max": np.maximum.reduceat(dense, starts),
    }
    for aggregation, score in scores.items():
        for latent in range(dense.shape[1]):
            order = np.lexsort((numbers, -score[:, latent]))
            order = order[(score[order, latent] > 0) & ~reserved[order]][: stored_run.recipe.examples.top]
            rows = found.get((latent, aggregation), [])
            assert [row["sentence"] for row in rows] == numbers[order].tolist()
            assert [row["value"] for row in rows] == score[order, latent].tolist()
            assert [row["rank"] for row in rows] == list(range(len(order)))
            for row in rows[:3]:
                mine = np.flatnonzero((sentence == row["sentence"]) & (dense[:, latent] > 0))
                assert row["positions"] == position[mine].tolist()
                assert row["values"] == dense[mine, latent].tolist()


def test_what_is_reserved_is_never_shown_and_silent_means_silent(stored_run: Run, dense_codes):
    dense, sentence, position = dense_codes
    numbers, starts = np.unique(sentence, return_index=True)
    strongest = np.maximum.reduceat(dense, starts)
    place = {number: i for i, number in enumerate(numbers.tolist())}
    recipe = stored_run.recipe.examples
    kinds: dict[str, set[str]] = {}
    for name in examples.BY_LATENT:
        rows = pq.read_table(stored_run.folder("examples") / name).to_pylist()
        in_test = is_test(np.array([row["sentence"] for row in rows]), recipe.test_fraction, stored_run.recipe.seed)
        assert (in_test == (name == tables.TEST)).all()
        for row in rows:
            kind = row.get("aggregation") or row["kind"]
            kinds.setdefault(name, set()).add(kind)
            fires = strongest[place[row["sentence"]], row["latent"]]
            if kind in ("hard", "silent"):
                assert fires == 0
                assert not row.get("positions")
                assert (row["value"] > 0) == (kind == "hard")
            elif kind not in ("mean", "last"):
                assert row["value"] == fires == max(row["values"]) > 0
    assert kinds == {
        tables.EXAMPLES: {"mean", "last", "max", "random", "quantile"},
        tables.NEGATIVES: {"hard", "silent"},
        tables.TEST: {"firing", "hard", "silent"},
    }
    reserved = is_test(numbers, recipe.test_fraction, stored_run.recipe.seed)
    firing = [row for row in rows if row["kind"] == "firing"]
    expected = np.minimum((strongest[reserved] > 0).sum(0), recipe.test)
    assert np.bincount([row["latent"] for row in firing], minlength=len(expected)).tolist() == expected.tolist()
    for row in firing[::40]:
        mine = np.flatnonzero((sentence == row["sentence"]) & (dense[:, row["latent"]] > 0))
        assert row["positions"] == position[mine].tolist()


def test_statistics_and_sentences_are_those_of_the_store(stored_run: Run, dense_codes):
    counts = examples.open_stage(stored_run).manifest.counts
    dense, sentence, position = dense_codes
    latents = pq.read_table(stored_run.folder("examples") / tables.LATENTS)
    fires = (dense > 0).sum(0)
    assert latents["fire_count"].to_pylist() == fires.tolist()
    assert latents["density"].to_pylist() == (fires / len(dense)).tolist()
    assert latents["max"].to_pylist() == dense.max(0).tolist()
    assert counts["dead"] == (fires == 0).sum()
    starts = np.unique(sentence, return_index=True)[1]
    assert latents["sentence_count"].to_pylist() == (np.maximum.reduceat(dense, starts) > 0).sum(0).tolist()

    shown = pq.read_table(stored_run.folder("examples") / tables.SENTENCES).to_pylist()
    source = Sentences(stored_run.folder("sentences")).take([row["sentence"] for row in shown]).to_pylist()
    tokenizer = open_model(stored_run.recipe.model).tokenizer
    assert [row["text"] for row in shown] == [row["text"] for row in source]
    assert [row["label"] for row in shown] == [row["label"] for row in source]
    for row in shown[::50]:
        pieces = [row["text"][start:end] for start, end in zip(row["starts"], row["ends"], strict=True)]
        assert pieces == tokenizer.pieces(tokenizer.encode(row["text"]))
        assert row["tokens"] == tokenizer.encode(row["text"])
        held = position[sentence == row["sentence"]]
        assert sorted([*row["missing"], *held]) == list(range(len(row["tokens"])))


KILLED = """
import os, signal, sys
from pathlib import Path
from monosem.interpret import examples
from monosem.run import Run
examples.SAVE_SECONDS, examples.SAVE_SHARE = 0.0, 1e9
original, calls = examples.{function}, []
def dies(*arguments):
    calls.append(1)
    if len(calls) > {calls}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments)
examples.{function} = dies
examples.make(Run.open(Path(sys.argv[1])))
"""


@pytest.mark.parametrize(("function", "calls"), [("collect_shard", 2), ("_with_spans", 0)])
def test_killed_and_made_again_gives_the_same_bytes(trained: Run, made_folder: Path, function, calls, monkeypatch):
    script = KILLED.format(function=function, calls=calls)
    ended = subprocess.run([sys.executable, "-c", script, str(trained.path)], check=False, capture_output=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert list(trained.folder("examples").glob(examples.STATES))
    read: list[str] = []
    original = StoredCodes.read
    monkeypatch.setattr(StoredCodes, "read", lambda codes, shard: read.append(shard.name) or original(codes, shard))
    examples.make(trained)
    resumed = {name: (trained.folder("examples") / name).read_bytes() for name in FILES}
    total = len(shards.open_shards(trained.folder("activations", trained.recipe.hook_point)).paths)
    assert len(read) == (total - calls if calls else 0), "finished shards are not read again"
    assert sorted(path.name for path in trained.folder("examples").iterdir()) == sorted([*FILES, "manifest.json"])
    assert {name: (made_folder / "examples" / name).read_bytes() for name in FILES} == resumed


def test_killed_while_encoding_it_goes_on_with_the_same_bytes(trained: Run, made_folder: Path):
    script = KILLED.replace("import examples", "import encoding, examples").replace("examples.{f", "encoding.{f")
    ended = subprocess.run(
        [sys.executable, "-c", script.format(function="encode", calls=2), str(trained.path)], check=False
    )
    assert ended.returncode == -signal.SIGKILL
    names = [shard.name for shard in encoding.make(trained).manifest.shards]
    resumed = [(trained.folder("codes") / name).read_bytes() for name in names]
    assert len(names) == len(shards.open_shards(trained.folder("activations", trained.recipe.hook_point)).paths) > 2
    assert [(made_folder / "codes" / name).read_bytes() for name in names] == resumed
    assert sorted(path.name for path in trained.folder("codes").iterdir()) == [*names, "manifest.json"]


def test_examples_of_another_sae_are_refused(stored_run: Run, tmp_path: Path):
    trained = stored_run
    other = trained.recipe.sae.model_copy(update={"k": 8})
    run = Run(trained.path, trained.recipe.model_copy(update={"sae": other}))
    with pytest.raises(RunError, match="sae: made with another recipe"):
        encoding.open_stage(run)
    copied = Run(tmp_path / "other", trained.recipe.model_copy(update={"seed": 4}))
    shutil.copytree(trained.folder("examples"), copied.folder("examples"))
    with pytest.raises(RunError, match=r"examples: made with another recipe .*; give the new run its own --name"):
        examples.open_stage(copied)


def test_latents_that_never_fire_are_listed_and_have_no_examples(trained: Run):
    encoder = files.load(trained.sae_folder)
    encoder.b_enc.data[:5] = -1e6
    files.save(encoder, trained.sae_folder, files.read_metadata(trained.sae_folder))
    assert examples.make(trained).manifest.counts["dead"] >= 5
    latents = cards.read_statistics(trained.path).to_pylist()
    assert [(row["fire_count"], row["max"], row["mean"], row["density"]) for row in latents[:5]] == [(0, 0, 0, 0)] * 5
    for name in examples.BY_LATENT:
        assert pq.read_table(trained.folder("examples") / name)["latent"].to_numpy().min() >= 5
    assert cards.card(trained.path, 0).warnings == ["dead: it never fires on the stored activations"]


def test_every_latent_has_a_line_and_says_why_when_it_has_no_explanation(made: Run):
    counts = explain.make(made).manifest.counts
    lines = (made.folder("explanations") / explain.EXPLANATIONS).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["latent"] for row in rows] == list(range(made.recipe.sae.n))
    fires = cards.read_statistics(made.path)["fire_count"].to_pylist()
    for row in rows:
        assert (row["explanation"] is None) == (row["reason"] is not None) == (row["certainty"] is None)
        assert row["provider"] == "lexical"
        assert row["explanation"] is None or 0 <= row["certainty"] <= 1
        assert (fires[row["latent"]] == 0) == (row["reason"] or "").startswith("dead")
    assert counts["explained"] == sum(row["explanation"] is not None for row in rows) > 0
    first = (made.folder("explanations") / explain.EXPLANATIONS).read_bytes()
    made.remove(["explanations"])
    explain.make(made)
    assert (made.folder("explanations") / explain.EXPLANATIONS).read_bytes() == first


def test_a_damaged_shard_is_named(trained: Run):
    folder = trained.folder("activations", trained.recipe.hook_point)
    shard = sorted(folder.glob("*.safetensors"))[1]
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreError, match=shard.name):
        examples.make(trained)


def test_what_is_missing_is_told(trained: Run):
    with pytest.raises(RunError, match="examples has not been made"):
        explain.make(trained)
    with pytest.raises(RunError, match=r"latents\.parquet: no such file; make it with: monosem examples"):
        cards.card(trained.path, 0)


def test_an_aggregation_without_examples_cannot_be_explained(trained: Run):
    only_mean = trained.recipe.examples.model_copy(update={"aggregations": ("mean",)})
    run = Run(trained.path, trained.recipe.model_copy(update={"examples": only_mean}))
    examples.make(run)
    with pytest.raises(RecipeError, match=r"explain\.aggregation = 'max' is not among"):
        explain.make(run)
