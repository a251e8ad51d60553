"""Dead latents: counted in activations, over a stated window."""

import torch

from monosem.train.dead import DeadLatents


def test_a_latent_dies_when_its_window_has_passed_and_lives_when_it_fires() -> None:
    latents = DeadLatents(4, window=20)
    latents.update(torch.tensor([0, 2, 2]), batch=10)
    assert latents.dead().tolist() == []
    latents.update(torch.tensor([2]), batch=10)
    assert latents.dead().tolist() == [1, 3]
    assert latents.silent_for.tolist() == [10, 20, 0, 20]
    latents.update(torch.tensor([3]), batch=10)
    assert latents.dead().tolist() == [0, 1]


def test_a_batch_in_which_nothing_fires_counts_for_all() -> None:
    latents = DeadLatents(3, window=5)
    latents.update(torch.zeros(0, dtype=torch.int64), batch=5)
    assert latents.dead().tolist() == [0, 1, 2]
