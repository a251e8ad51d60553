"""Tracking of every latent through training, against plain loops."""

from pathlib import Path

import torch

from monosem.train.tracking import Tracker, read


def batches(count: int, n: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    return [
        (torch.randint(0, n - 1, (20,), generator=generator), torch.rand(20, generator=generator) + 0.1)
        for _ in range(count)
    ]


def test_intervals_hold_what_a_plain_loop_counts(tmp_path: Path) -> None:
    n, data = 16, batches(6, 16)
    tracker = Tracker(tmp_path, n)
    for step, (latents, values) in enumerate(data):
        tracker.observe(step, latents, values, activations=10)
        if step in (2, 5):
            tracker.close_interval()
    first, second = read(tmp_path)
    assert (first.first_step, first.last_step, first.activations) == (0, 2, 30)
    assert (second.first_step, second.last_step, second.activations) == (3, 5, 30)
    for interval, part in ((first, data[:3]), (second, data[3:])):
        for latent in range(n):
            fired = torch.cat([values[latents == latent] for latents, values in part])
            assert interval.fire_count[latent] == len(fired)
            assert interval.maximum[latent] == (fired.max() if len(fired) else 0)
            torch.testing.assert_close(interval.mean[latent], fired.mean() if len(fired) else torch.tensor(0.0))
    for latent in range(n):
        steps = [step for step, (latents, _) in enumerate(data) if (latents == latent).any()]
        assert second.last_fired[latent] == max(steps, default=-1)
    assert second.last_fired[n - 1] == -1


def test_an_open_interval_survives_a_checkpoint(tmp_path: Path) -> None:
    data = batches(5, 8)
    whole, parts = Tracker(tmp_path / "whole", 8), Tracker(tmp_path / "parts", 8)
    for step, (latents, values) in enumerate(data):
        whole.observe(step, latents, values, 10)
        if step == 2:
            state = {name: tensor.clone() for name, tensor in parts.state_dict().items()}
            parts = Tracker(tmp_path / "parts", 8)
            parts.load_state_dict(state)
        parts.observe(step, latents, values, 10)
    assert whole.close_interval().read_bytes() == parts.close_interval().read_bytes()
