import random

import pytest
import torch
import torch.nn.functional as F

from monosem.lm.attention import PackedAttention, plan
from monosem.lm.config import ModelConfig
from monosem.lm.packed import Packed
from monosem.lm.rotary import Rotation

CONFIG = ModelConfig(
    d_model=32, n_layers=1, n_heads=4, n_kv_heads=2, d_ff=8, vocab_size=8, context_length=512, head_dim=8
)


def lengths_of(kind: str) -> list[int]:
    rng = random.Random(3)
    return {
        "equal": [29] * 12,
        "sorted": sorted(rng.randint(1, 60) for _ in range(40)),
        "any order": [rng.randint(1, 60) for _ in range(40)],
        "one": [17],
        "with empty": [3, 0, 5, 0, 0, 4],
        "far apart": [1, 400, 2, 300, 1],
        "equal, apart": [20, 3, 20, 3, 20] * 6,
    }[kind]


KINDS = ["equal", "sorted", "any order", "one", "with empty", "far apart", "equal, apart"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_reads_every_row_once_with_little_padding(kind: str) -> None:
    lengths = lengths_of(kind)
    packed = Packed.pack([[0] * length for length in lengths])
    rows, places = [], 0
    for group in plan(packed.offsets):
        all_rows = torch.arange(packed.n_tokens)[group.rows]
        places += len(all_rows)
        rows += (all_rows if group.filled is None else all_rows[group.filled]).tolist()
    assert sorted(rows) == list(range(sum(lengths)))
    assert places <= 1.5 * sum(lengths) + 10


@pytest.mark.parametrize("kind", KINDS)
def test_attention_equals_one_sentence_at_a_time(kind: str) -> None:
    packed = Packed.pack([[0] * length for length in lengths_of(kind)])
    qkv = torch.randn(packed.n_tokens, 8 * 8, generator=torch.Generator().manual_seed(0))
    z = PackedAttention(CONFIG, packed, torch.float32)(0, qkv.clone())
    for start, end in zip(packed.offsets[:-1].tolist(), packed.offsets[1:].tolist(), strict=True):
        heads = qkv[start:end].clone().unflatten(1, (8, 8))
        turned = Rotation(CONFIG, torch.arange(end - start), torch.float32).turn_(heads[:, :6])
        q, k, v = turned[:, :4], turned[:, 4:].repeat_interleave(2, 1), heads[:, 6:].repeat_interleave(2, 1)
        scores = torch.einsum("ihd,jhd->hij", q, k) / 8**0.5
        weights = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)
        expected = torch.einsum("hij,jhd->ihd", weights, v).flatten(1)
        torch.testing.assert_close(z[start:end], expected, atol=2e-6, rtol=1e-5)


def test_the_same_batch_gives_the_same_bits() -> None:
    packed = Packed.pack([[0] * length for length in lengths_of("any order")])
    qkv = torch.randn(packed.n_tokens, 64)
    first, second = (PackedAttention(CONFIG, packed, torch.float32)(0, qkv.clone()) for _ in range(2))
    assert torch.equal(first, second)


def test_rotation_keeps_lengths_and_depends_on_distance_alone() -> None:
    vector = torch.randn(2, 8)
    at = [Rotation(CONFIG, torch.tensor([p, p + 5]), torch.float32).turn_(vector.clone()[:, None]) for p in (0, 90)]
    products = [F.cosine_similarity(turned[0], turned[1]) for turned in at]
    torch.testing.assert_close(at[1].norm(dim=-1), vector[:, None].norm(dim=-1))
    torch.testing.assert_close(products[0], products[1], atol=1e-5, rtol=1e-5)
