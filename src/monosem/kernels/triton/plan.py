"""How the kernels cut a problem: tiles of the selection, chunks of pre-activations, segments of hot latents.

All of it follows from shapes alone, so that the same input is cut, and summed, the same way every time, and so that a
run's memory is known before it starts. Knows neither tensors nor Triton.
"""

from typing import NamedTuple

PRE_BYTES = 1 << 30
"""Pre-activations held at a time, at most. From here on a product is no faster with more rows."""
BLOCK_ROWS = 128
"""Rows of one block of the product: chunks hold whole ones."""
LANES = 1 << 14
"""Values that one program holds in registers while it looks for the largest of them, at most."""
TILES = (16, 32, 64, 128)
"""Widths of the selection's tiles. Below 16 a tile of bfloat16 is less than what memory hands out at a time."""
SEGMENT = 128
"""Uses of a latent that one program adds up, unless there are very many."""
SEGMENTS = 1 << 14
"""Segments beyond the first of each latent, at most: their sums take that many rows of memory."""


class Selection(NamedTuple):
    """How the k largest of n are found without looking at all n again."""

    tile: int
    """Neighbouring columns behind one maximum."""
    tiles: int
    """Of a row, the last one perhaps cut short."""
    lanes: int
    """Values among which the k are chosen, rounded up to a power of two."""
    direct: bool
    """There are no more than k tiles: all are looked at."""


def selection(n: int, k: int) -> Selection | None:
    """The cheapest way to the k largest of n, or None where no program could hold what it must look at.

    Maxima and candidates are both read once: their number, `n / tile + k * tile`, is least at `tile = sqrt(n / k)`.
    """
    possible = []
    for tile in TILES:
        tiles = -(-n // tile)
        lanes, maxima = power_of_two(min(k, tiles)) * tile, power_of_two(tiles)
        if lanes <= LANES and (k >= tiles or maxima <= LANES):
            possible.append((lanes + maxima, tile, Selection(tile, tiles, lanes, k >= tiles)))
    return min(possible)[2] if possible else None


def chunk_rows(rows: int, n: int, value_bytes: int) -> int:
    """Rows whose pre-activations are held at a time: whole blocks as far as `PRE_BYTES` goes, at least one."""
    blocks = PRE_BYTES // (n * value_bytes * BLOCK_ROWS)
    return max(1, min(rows, max(1, blocks) * BLOCK_ROWS))


def segment(entries: int) -> int:
    """Uses of a latent in one segment, when there are `entries` uses of all latents."""
    return max(SEGMENT, power_of_two(-(-entries // SEGMENTS)))


def keeps_gradient(entries: int, n: int) -> bool:
    """Whether the decoder's gradient is kept when it comes along with the codes' gradients.

    Writing and reading it again moves 2 n rows; finding the codes' gradients without it gathers a row for every entry.
    """
    return entries > 2 * n


def even(columns: int) -> int:
    """Columns of a bfloat16 matrix whose rows begin at multiples of 16 bytes, which is what descriptors count in."""
    return -(-columns // 8) * 8


def power_of_two(count: int) -> int:
    """The smallest one that is at least `count`."""
    return 1 << max(0, count - 1).bit_length()


def column_tile(d: int) -> int:
    """Columns for each program where rows may be cut: many, without wasting many at the end.

    A program costs about as much as 64 columns.
    """
    return min((1024, 512, 256, 128), key=lambda tile: -(-d // tile) * (tile + 64))


def memory(d: int, n: int, k: int, batch: int) -> dict[str, int]:
    """Bytes on the device in a TopK step with AdamW in float32, by what they are for; nothing dead, nothing clipped.

    The largest things that are alive at the same time; a batch's temporaries are counted once more than they are used.
    """
    entries, chunk = batch * k, chunk_rows(batch, n, 2)
    cut = selection(n, k)
    return {
        "weights": 2 * n * d * 4,
        "moments": 4 * n * d * 4,
        "encoder in bfloat16": n * even(d) * 2,
        "pre-activations": chunk * even(n) * 2,
        "maxima and tiles": 0 if cut is None else chunk * (cut.tiles * 2 + k * 4),
        "decoder's gradient": n * d * 4 if keeps_gradient(entries, n) else 0,
        "sums of segments": min(SEGMENTS, entries // segment(entries)) * d * 4,
        "vectors": batch * (even(d) * 2 + 6 * d * 4),
        "codes": entries * (4 * 8 + 4 * 4),
    }
