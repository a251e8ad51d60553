"""What the page reads of a run's latents: the same as the terminal, kept until files change, honest about gaps."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from page_run import DEAD, DENSE, TOKEN_ONLY, TOP, UNEXPLAINED, N, page_run, relations, seeds

from monosem.app.page.latents import LatentFiles
from monosem.app.page.sorted_file import SortedFile
from monosem.errors import RunError, SaeError
from monosem.interpret import cards


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return page_run(tmp_path / "run").path


def test_a_card_says_what_the_terminal_says(folder: Path) -> None:
    files = LatentFiles(folder)
    for latent in (0, 17, N - 1, DEAD, UNEXPLAINED):
        ours, theirs = files.card(latent, TOP), cards.card(folder, latent)
        assert ours.examples == theirs.examples
        assert (ours.density, ours.max, ours.fire_count) == (theirs.density, theirs.max, theirs.fire_count)
        assert ours.output_score == theirs.output_score
        assert [token for token, _ in ours.raised] == theirs.raised
        assert ours.explanations[0].text == theirs.explanation
        assert ours.explanations[0].certainty == theirs.certainty


def test_the_best_ways_come_first_and_sentences_are_cut(folder: Path) -> None:
    card = LatentFiles(folder).card(3, 2)
    assert list(card.examples) == ["max", "mean", "last"]
    assert all(len(examples) == 2 for examples in card.examples.values())
    assert card.more
    assert not LatentFiles(folder).card(3, TOP).more


def test_a_latent_across_row_groups_is_whole(tmp_path: Path) -> None:
    latent = np.repeat(np.arange(5), 7)
    pq.write_table(pa.table({"latent": latent, "row": np.arange(35)}), tmp_path / "x.parquet", row_group_size=4)
    file = SortedFile(tmp_path / "x.parquet", "latent")
    for wanted in ([2], [0, 4], [1, 1, 3], []):
        found = file.rows(wanted)["row"].to_pylist()
        assert found == [row for row in range(35) if latent[row] in wanted]
    assert file.rows([9]).num_rows == 0


def test_several_explanations_stand_side_by_side_the_best_first(folder: Path) -> None:
    path = folder / "explanations" / "explanations.jsonl"
    files = LatentFiles(folder)
    assert len(files.card(5, 1).explanations) == 1
    more = {"latent": 5, "explanation": "ropes of ships", "certainty": 0.99, "provider": "judge"}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(more) + "\n" + '{"latent": 6, "explanation": "half wri')
    said = files.card(5, 1).explanations
    assert [one.text for one in said] == ["ropes of ships", "about rope 5"]
    assert len(files.card(6, 1).explanations) == 1
    assert files.text(5) == "ropes of ships"


def test_what_is_missing_is_named_with_its_command(folder: Path) -> None:
    card = LatentFiles(folder).card(1, 1)
    assert set(card.missing) == {
        "scores of explanations",
        "neighbours and co-activation",
        "n-grams and groups of sentences",
    }
    assert all(command.startswith("monosem ") for command in card.missing.values())
    (folder / "explanations" / "explanations.jsonl").unlink()
    (folder / "evaluation" / "latents.parquet").unlink()
    card = LatentFiles(folder).card(1, 1)
    assert card.missing["explanation"] == f"monosem explain {folder}"
    assert card.missing["tokens that it raises and lowers"] == f"monosem evaluate {folder}"
    (folder / "examples" / "latents.parquet").unlink()
    with pytest.raises(RunError, match="has no examples yet; make them with: monosem run"):
        LatentFiles(folder).card(1, 1)
    (folder / "codes").mkdir()
    with pytest.raises(RunError, match="has no examples yet; make them with: monosem examples"):
        LatentFiles(folder).card(1, 1)


def test_damaged_files_are_one_line(folder: Path) -> None:
    for name in ("examples.parquet", "sentences.parquet", "latents.parquet"):
        path = folder / "examples" / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(RunError, match=f"{name}: damaged") as raised:
            LatentFiles(folder).card(1, 1)
        assert "\n" not in str(raised.value)
        path.write_bytes(whole)


@pytest.mark.parametrize("latent", [-1, N, 10**12])
def test_a_latent_out_of_range_says_the_range(folder: Path, latent: int) -> None:
    with pytest.raises(SaeError, match=f"latent {latent} is out of range: run has latents 0 to {N - 1}"):
        LatentFiles(folder).card(latent, 1)


def test_warnings(folder: Path) -> None:
    relations(folder)
    files = LatentFiles(folder)
    assert any(warning.startswith("dead") for warning in files.card(DEAD, 1).warnings)
    assert any(warning.startswith("dense") for warning in files.card(DENSE, 1).warnings)
    assert any(warning.startswith("token-only") for warning in files.card(TOKEN_ONLY, 1).warnings)
    assert any(warning.startswith("below chance") for warning in files.card(4, 1).warnings)
    assert not files.card(39, 1).warnings


def test_a_latent_that_other_seeds_lack_is_seed_unstable(folder: Path) -> None:
    seeds(folder, [[0.4] if latent == 4 else [0.95] for latent in range(N)])
    files = LatentFiles(folder)
    (said,) = [warning for warning in files.card(4, 1).warnings if warning.startswith("seed-unstable")]
    assert "another seed has no such latent (largest cosine 0.40" in said
    assert said in cards.card(folder, 4).warnings
    assert not any(warning.startswith("seed-unstable") for warning in files.card(5, 1).warnings)
    seeds(folder, [[0.2, 0.3, 0.8]] * N)
    assert any("1 of 3 other seeds have such a latent" in warning for warning in files.card(5, 1).warnings)
    assert not any(warning.startswith("seed-unstable") for warning in files.card(DEAD, 1).warnings)
    seeds(folder, [[0.2]] * N, of="an SAE that was trained anew since")
    assert not any(warning.startswith("seed-unstable") for warning in files.card(5, 1).warnings)


def test_scores_stand_beside_their_baselines(folder: Path) -> None:
    relations(folder)
    files = LatentFiles(folder)
    low, middle, high = (files.card(latent, 1).scores for latent in (4, 24, 36))
    assert [score.label for score in low] == ["terms, balanced accuracy", "terms, AUROC"]
    assert low[0].below_chance
    assert (middle[0].below_chance, middle[0].beats) == (False, False)
    assert high[0].beats
    assert (high[0].shuffled, high[0].random_sae) == (0.5, 0.52)
    assert files.scores.of_all(N)[36] == pytest.approx(36 / N)


def test_what_a_latent_brings_in_stands_beside_what_it_reacts_to(folder: Path) -> None:
    relations(folder)
    files = LatentFiles(folder)
    found = files.card(24, 1).steered
    assert found is not None
    assert (found.meaning, found.certainty, found.plain, found.text) == ("ropes", 0.7, "The sea.", "A rope.")
    assert files.card(5, 1).steered is None


def test_neighbours_partners_and_words(folder: Path) -> None:
    relations(folder)
    found = LatentFiles(folder).card(5, 1).relations
    assert [row["neighbour"] for row in found.neighbours] == [6, 7]
    assert [row["partner"] for row in found.partners] == [6, 7]
    assert found.ngrams[0]["text"] == "rope"
    assert found.monosemanticity == 0.8


def test_density_over_training(folder: Path) -> None:
    files = LatentFiles(folder)
    found = files.card(2, 1).over_training
    assert [step for step, _ in found] == [20, 40, 60]
    (folder / "tracking" / "steps-00000079.safetensors").write_bytes(b"half")
    assert files.card(2, 1).over_training == found


def test_values_of_random_sentences_are_preferred(folder: Path) -> None:
    card = LatentFiles(folder).card(2, 1)
    assert "the strongest" in card.values_from
    path = folder / "examples" / "examples.parquet"
    table = pq.read_table(path)
    ways = ["random" if way == "mean" else way for way in table["aggregation"].to_pylist()]
    pq.write_table(table.set_column(1, "aggregation", pa.array(ways)), path)
    assert "drawn at random" in LatentFiles(folder).card(2, 1).values_from
