"""One whole TopK training step of each installed peer: AuxK on, Adam, unit decoder rows, behind one signature.

`step = STEPS[name](d, n, k, lr)`; `step(x)` trains on `x [B, d]` float32 and returns that batch's FVU before it. A
peer is offered where its package is installed: sparsify (eai-sparsify 1.3.3), dictionary_learning (0.1.0), SAELens
(sae-lens 6.54.12). Each follows that package's own trainer, without its logging and data handling.
"""

import importlib.util
from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor], float]
DEAD_TOKENS = 10_000_000


def sparsify(d: int, n: int, k: int, lr: float = 2e-4, device: str = "cpu") -> Step:
    """`sparsify.Trainer.fit` on one hook point: renormalise, forward, backward, project, step, count."""
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    coder = SparseCoder(d, SparseCoderConfig(num_latents=n, k=k), device=device, dtype=torch.float32)
    adam = torch.optim.Adam(coder.parameters(), lr=lr)
    silent = torch.zeros(n, dtype=torch.long, device=device)
    started = False

    def step(x: Tensor) -> float:
        nonlocal started
        if not started:
            coder.b_dec.data = x.mean(0)
            started = True
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, dead_mask=silent > DEAD_TOKENS)
        (out.fvu + out.auxk_loss / 32).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        silent.add_(len(x))
        silent[out.latent_indices.unique()] = 0
        return float(out.fvu.detach())

    return step


def dictionary_learning(d: int, n: int, k: int, lr: float = 2e-4) -> Step:
    """`TopKTrainer.update`, whose loss is the squared error of a vector while no latent is dead."""
    from dictionary_learning.trainers.top_k import TopKTrainer

    trainer = TopKTrainer(
        steps=10**6, activation_dim=d, dict_size=n, k=k, layer=0, lm_name="-", lr=lr, device="cpu", warmup_steps=1
    )
    done = 0

    def step(x: Tensor) -> float:
        nonlocal done
        loss = trainer.update(done, x)
        done += 1
        return float(loss) / float((x - x.mean(0)).square().sum(1).mean())

    return step


def sae_lens(d: int, n: int, k: int, lr: float = 2e-4) -> Step:
    """`SAETrainer._train_step` for `TopKTrainingSAE`."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=d, d_sae=n, k=k))
    adam = torch.optim.Adam(sae.parameters(), lr=lr)
    silent = torch.zeros(n)

    def step(x: Tensor) -> float:
        given = TrainStepInput(
            sae_in=x, dead_neuron_mask=silent > 1000, coefficients={}, n_training_steps=0, is_logging_step=False
        )
        out = sae.training_forward_pass(step_input=given)
        with torch.no_grad():
            silent.add_(1)
            silent[(out.feature_acts > 0).any(0)] = 0
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        error = (x - out.sae_out.detach()).square().sum()
        return float(error / (x - x.mean(0)).square().sum())

    return step


_ALL = {"sparsify": sparsify, "dictionary_learning": dictionary_learning, "sae_lens": sae_lens}
STEPS: dict[str, Callable[..., Step]] = {name: make for name, make in _ALL.items() if importlib.util.find_spec(name)}
