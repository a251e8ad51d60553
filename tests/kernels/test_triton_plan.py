"""How problems are cut: nothing is left out, nothing is larger than what holds it."""

from hypothesis import given
from hypothesis import strategies as st

from monosem.kernels.triton import plan

SIZES = st.integers(1, 1 << 20)


@given(SIZES, SIZES)
def test_the_tiles_of_a_selection_hold_every_column_and_fit(n: int, k: int) -> None:
    k = min(k, n)
    cut = plan.selection(n, k)
    if cut is None:
        # no width leaves both few enough tiles and few enough values in k of them
        assert k * n > plan.LANES**2 / 8 or k > plan.LANES / (2 * plan.TILES[0])
        return
    assert (cut.tiles - 1) * cut.tile < n <= cut.tiles * cut.tile
    assert min(k, cut.tiles) * cut.tile <= cut.lanes <= plan.LANES
    assert cut.direct == (cut.tiles <= k)


@given(SIZES, SIZES)
def test_chunks_stay_within_their_memory(rows: int, n: int) -> None:
    chunk = plan.chunk_rows(rows, n, 2)
    assert 1 <= chunk <= rows
    assert chunk <= plan.BLOCK_ROWS or chunk * n * 2 <= plan.PRE_BYTES


@given(st.integers(0, 1 << 40))
def test_segments_of_hot_latents_are_never_too_many(entries: int) -> None:
    assert entries // plan.segment(entries) <= plan.SEGMENTS
    assert plan.segment(entries) >= plan.SEGMENT


def test_rows_are_cut_without_wasting_most_of_a_program() -> None:
    assert [plan.column_tile(d) for d in (576, 768, 2048, 3072, 4096)] == [256, 256, 1024, 1024, 1024]
    for d in range(1, 9000):
        tile = plan.column_tile(d)
        assert -(-d // tile) * tile < max(256, 2 * d)


def test_the_reference_s_selection_reads_four_thousand_values_of_sixty_five() -> None:
    assert plan.selection(65_536, 64) == plan.Selection(32, 2048, 2048, False)
    assert plan.selection(1 << 18, 32) == plan.Selection(64, 4096, 2048, False)
