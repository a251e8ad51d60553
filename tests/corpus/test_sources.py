"""Documents out of local files of every kind, from any place on; and what is wrong with a file is named."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monosem.corpus import sources
from monosem.errors import CorpusError
from monosem.recipe import CorpusRecipe

ROWS = [{"text": f"Document {n}. It has two sentences.", "kind": n % 3, "title": f"T{n}"} for n in range(25)]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
    elif path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.name.endswith(".jsonl"):
        path.write_text(lines + "\n")
    else:
        path.write_text("\n\n\n".join(row["text"] for row in rows))
    return path


def opened(path: Path, **keys: Any) -> sources.Source:
    return sources.open_source(str(path), CorpusRecipe(sources=(str(path),), **keys))


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "a.jsonl.gz", "a.txt"])
def test_a_file_is_read_from_any_document_on(tmp_path: Path, name: str) -> None:
    source = opened(write(tmp_path / name), language="german")
    documents = list(source.documents())
    assert [document.text.strip() for document in documents] == [row["text"] for row in ROWS]
    assert source.count() == len(ROWS)
    assert {document.language for document in documents} == {"german"}
    assert documents[3].title == ("a.txt" if name == "a.txt" else "T3")
    for skip in (0, 1, 4, 5, 24, 25):
        assert list(source.documents(skip)) == documents[skip:]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path / "b.jsonl", ROWS[8:9])
    write(tmp_path / "a.parquet", ROWS[:8])
    write(tmp_path / "sub" / "c.jsonl.gz", ROWS[9:])
    (tmp_path / "notes.md").write_text("not read")
    source = opened(tmp_path)
    documents = list(source.documents())
    assert [document.text for document in documents] == [row["text"] for row in ROWS]
    for skip in (0, 7, 8, 9, 20):
        assert list(source.documents(skip)) == documents[skip:]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_a_label_is_kept_as_text(tmp_path: Path, name: str) -> None:
    source = opened(write(tmp_path / name), label_field="kind")
    assert [document.label for document in source.documents()][:4] == ["0", "1", "2", "0"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
def test_a_missing_field_names_those_there_are(tmp_path: Path, name: str) -> None:
    source = opened(write(tmp_path / name), text_field="body")
    with pytest.raises(CorpusError, match=r"no field 'body'; set corpus.text_field to one of: text, kind, title"):
        list(source.documents())
    source = opened(tmp_path / name, label_field="topic")
    with pytest.raises(CorpusError, match=r"no field 'topic'; set corpus.label_field to one of: "):
        list(source.documents())


def test_a_text_that_is_a_number_is_refused_and_one_that_is_null_is_empty(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="'kind' holds a int, expected text"):
        list(opened(write(tmp_path / "a.jsonl"), text_field="kind").documents())
    assert [document.text for document in opened(write(tmp_path / "b.jsonl", [{"text": None}])).documents()] == [""]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text": \n', "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("a.jsonl", b'{"text": "\xff"}\n', "not UTF-8"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.parquet", b"PAR1 and so on", "not a Parquet file"),
        ("a.jsonl.gz", b"not gzip", "damaged gzip file"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 1000, mtime=0)[:-20], "damaged gzip file"),
        ("a.csv", b"text\n", "expected a file that ends in"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CorpusError, match=f"{path}: .*{message}"):
        list(opened(path).documents())


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no file that ends in"):
        opened(tmp_path)


@pytest.mark.model
@pytest.mark.parametrize(
    ("name", "documents", "language"),
    [("wikipedia-en", 10_033, "english"), ("wikipedia-fr", 9_955, "french"), ("wikipedia-es", 6_239, "spanish")],
)
def test_the_embedded_text_has_titles_topics_and_a_language(name: str, documents: int, language: str) -> None:
    source = sources.open_source(name, CorpusRecipe())
    found = list(source.documents())
    assert source.count() == len(found) == documents
    assert {document.language for document in found} == {language}
    assert all(document.title and document.text for document in found)
    assert len({document.label for document in found}) >= 8
