"""What the tracking charts show, on intervals whose births and deaths are known."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from monosem.train import tracking_figures as tracked
from monosem.train.tracking import Interval, Tracker, read
from monosem.train.tracking_charts import tracking_charts, tracking_pictures

STEPS, BATCH = 10, 100  # of an interval, of a step


def intervals(fires: list[list[int]], steps: int = STEPS) -> list[Interval]:
    """From `fires[t][latent]`: how often each latent fires in each interval, always in its last step."""
    made, last = [], torch.full((len(fires[0]),), -1)
    for t, row in enumerate(fires):
        count = torch.tensor(row, dtype=torch.int32)
        end = (t + 1) * steps - 1
        last = torch.where(count > 0, end, last)
        fired = (count > 0).float()
        made.append(Interval(t * steps, end, steps * BATCH, count, 2 * fired, fired, last))
    return made


STORY = intervals(
    [
        # always, late, dies, revives, never, rare
        [50, 0, 9, 5, 0, 0],
        [50, 0, 9, 0, 0, 0],
        [50, 7, 0, 0, 0, 0],
        [50, 7, 0, 5, 0, 0],
        [50, 7, 0, 5, 0, 1],
    ]
)


def test_births_deaths_and_revivals_are_counted_where_they_happen():
    told = tracked.turnover(STORY, window=2 * STEPS * BATCH)
    assert told.steps.tolist() == [10, 20, 30, 40, 50]
    assert told.born.tolist() == [3, 0, 1, 0, 1]
    assert told.died.tolist() == [0, 1, 0, 0, 0], "the rare one fires to the end, the revived one as well"
    assert told.revived.tolist() == [0, 0, 0, 1, 0], "a first firing is a birth, however late"
    # after two intervals of silence: late, never, rare; then never, rare, revives; ...
    assert told.dead.tolist() == [0, 3, 3, 3, 2]


def test_the_window_decides_who_is_dead():
    assert tracked.turnover(STORY, window=10**9).dead.tolist() == [0] * 5
    assert tracked.turnover(STORY, window=10**9).died.sum() == 0
    # one interval of silence is enough
    assert tracked.turnover(STORY, window=STEPS * BATCH).dead.tolist() == [3, 4, 4, 3, 2]


def test_silence_is_counted_in_activations_from_the_step_of_the_last_firing(tmp_path: Path):
    tracker = Tracker(tmp_path, 2)
    for step in range(6):
        fired = torch.tensor([0, 1] if step == 1 else [1])
        tracker.observe(step, fired, torch.ones(len(fired)), BATCH)
        if step in (2, 5):
            tracker.close_interval()
    made = read(tmp_path)
    # latent 0 fired in step 1 only: silent for steps 2, then 2 to 5
    assert tracked.turnover(made, window=4 * BATCH).dead.tolist() == [0, 1]
    assert tracked.turnover(made, window=4 * BATCH + 1).dead.tolist() == [0, 0]
    assert tracked.turnover(made, window=BATCH).dead.tolist() == [1, 1]


def test_rows_of_the_heat_map_go_by_first_firing_then_by_density():
    heat = tracked.heat_map(STORY)
    assert heat.edges.tolist() == [0, 10, 20, 30, 40, 50]
    assert heat.latents == 6
    assert heat.never == 1
    expected = [
        row / (STEPS * BATCH) for row in np.array([[one.fire_count[i] for one in STORY] for i in (0, 2, 3, 1, 5, 4)])
    ]
    np.testing.assert_allclose(heat.density, expected)


def test_the_heat_map_stays_small_and_keeps_the_mean():
    generator = torch.Generator().manual_seed(0)
    counts = torch.randint(0, 3, (4, 65_536), generator=generator)
    heat = tracked.heat_map(intervals(counts.tolist()))
    assert heat.density.shape == (tracked.MOST_ROWS, 4)
    assert heat.latents == 65_536
    mean = counts.double().mean() / (STEPS * BATCH)
    assert heat.density.mean() == pytest.approx(float(mean), rel=1e-3), "rows are of nearly equal size"


def test_bands_are_quantiles_over_the_latents_that_fired():
    density = tracked.density_bands(STORY)
    assert density.quantiles.shape == (5, 5)
    fired = np.log10(np.array([50, 9, 5]) / (STEPS * BATCH))
    np.testing.assert_allclose(density.quantiles[:, 0], np.quantile(fired, tracked.QUANTILES))
    assert (tracked.mean_bands(STORY).quantiles == 1).all()
    assert (tracked.maximum_bands(STORY).quantiles == 2).all()
    silent = intervals([[0, 0], [3, 0]])
    assert np.isnan(tracked.density_bands(silent).quantiles[:, 0]).all()
    assert np.isfinite(tracked.density_bands(silent).quantiles[:, 1]).all()


def test_pooling_joins_neighbours_without_losing_a_firing():
    pooled = tracked.pool(STORY, most=2)
    assert [(one.first_step, one.last_step, one.activations) for one in pooled] == [(0, 29, 3000), (30, 49, 2000)]
    assert pooled[0].fire_count.tolist() == [150, 7, 18, 5, 0, 0]
    assert pooled[0].mean.tolist() == [1, 1, 1, 1, 0, 0]
    assert pooled[1].maximum.tolist() == [2, 2, 0, 2, 0, 2]
    assert torch.equal(pooled[1].last_fired, STORY[-1].last_fired)
    assert tracked.pool(STORY) == STORY
    assert tracked.pool([]) == []


def test_a_last_interval_cut_short_joins_the_one_before():
    short = STORY[-1]._replace(last_step=41, activations=2 * BATCH)
    pooled = tracked.pool([*STORY[:-1], short])
    assert [one.last_step for one in pooled] == [9, 19, 29, 41]
    assert pooled[-1].fire_count.tolist() == [100, 14, 0, 10, 0, 1]


@pytest.mark.parametrize(
    "made",
    [STORY, STORY[:1], intervals([[0, 0], [0, 0]]), intervals([[1]], steps=1)],
    ids=["story", "one interval", "nothing ever fired", "one latent, one step"],
)
def test_every_run_can_be_drawn(made: list[Interval]):
    charts = tracking_charts(made, window=1000)
    assert [chart.title for chart in charts] == [
        "Density over training",
        "Births and deaths (1 k tokens)",
        "Values over training",
        "Firing of every latent",
    ]
    for chart in charts:
        assert "nan" not in chart.alt
        colours = re.sub(r'href="data:[^"]*"', "", chart.svg)
        assert "currentColor" in colours
        assert not re.search(r"#[0-9a-f]{6}\b", colours), "no colour of its own, but in the heat map's image"
        for reference in re.findall(r'href="([^"]*)"', chart.svg):
            assert reference.startswith(("#", "data:image/png;base64,"))
    for name, png in tracking_pictures(made, window=1000).items():
        picture = Image.open(io.BytesIO(png))
        assert min(picture.size) > 300, name


def test_a_run_without_tracking_has_no_charts(tmp_path: Path):
    assert tracking_charts(read(tmp_path), 1000) == []
    assert tracking_pictures(read(tmp_path), 1000) == {}


def test_charts_are_the_same_bytes_and_small():
    counts = torch.randint(0, 30, (60, 5000), generator=torch.Generator().manual_seed(0))
    made = intervals(counts.tolist())
    charts = tracking_charts(made, 1000)
    assert charts == tracking_charts(made, 1000)
    assert tracking_pictures(made, 1000) == tracking_pictures(made, 1000)
    assert sum(len(chart.svg) for chart in charts) < 150_000
    assert "at the end, silent for 1,000 activations" in charts[1].alt
