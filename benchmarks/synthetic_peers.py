"""The peers as contestants of `synthetic.py`, in the environment where they are installed; see `peers.py`.

Each follows its package's own trainer, defaults included, with the rates and the dead window that all share. Weights
are written in one form for all: `codes = rule(w_enc (x - b_in) + b_enc)`, `x_hat = codes w_dec + b_out`, w_enc and
w_dec [n, d]; with the reconstruction of one batch by the package itself, to check that form against.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from safetensors.torch import save_file
from synthetic_task import MATRYOSHKA, Job, Task, serve
from torch import Tensor

THRESHOLD_RATE = 0.01  # of the moving average of BatchTopK's threshold: SAELens' default
PROBE = 512


def sparsify(task: Task, job: Job, batches: list[Tensor]) -> tuple[dict[str, Tensor], str]:
    """`sparsify.Trainer.fit` on one hook point, with Adam."""
    from sparsify.config import SparseCoderConfig
    from sparsify.sparse_coder import SparseCoder

    config = SparseCoderConfig(num_latents=task.n, k=task.k, multi_topk=job.sparsity == "multi-topk")
    coder = SparseCoder(task.d, config, dtype=torch.float32)
    coder.b_dec.data = batches[0].mean(0)
    adam = torch.optim.Adam(coder.parameters(), lr=job.lr, betas=job.betas or (0.9, 0.999))
    silent = torch.zeros(task.n, dtype=torch.long)
    for number, x in enumerate(batches):
        adam.param_groups[0]["lr"] = job.lr * task.rate(number)
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, dead_mask=silent > task.dead_steps)
        (out.fvu + out.auxk_loss / 32 + out.multi_topk_fvu / 8).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        silent += 1
        silent[out.latent_indices.unique()] = 0
    codes = coder.encode(batches[0][:PROBE])
    weights = {
        "w_enc": coder.encoder.weight,
        "b_enc": coder.encoder.bias,
        "w_dec": coder.W_dec,
        "b_in": coder.b_dec,
        "b_out": coder.b_dec,
        "probe": coder.decode(codes.top_acts, codes.top_indices),
    }
    return weights, "topk"


def dictionary_learning(task: Task, job: Job, batches: list[Tensor]) -> tuple[dict[str, Tensor], str]:
    """The package's trainers; its training loop brings activations to E|x|^2 = 1."""
    from dictionary_learning.trainers import batch_top_k, jumprelu, matryoshka_batch_top_k, standard, top_k

    trainers = {
        "topk": top_k.TopKTrainer,
        "batchtopk": batch_top_k.BatchTopKTrainer,
        "matryoshka": matryoshka_batch_top_k.MatryoshkaBatchTopKTrainer,
        "jumprelu": jumprelu.JumpReluTrainer,
        "relu": standard.StandardTrainer,
    }
    options: dict[str, Any] = {
        "steps": task.steps,
        "activation_dim": task.d,
        "dict_size": task.n,
        "layer": 0,
        "lm_name": "-",
        "lr": job.lr,
        "device": "cpu",
        "seed": job.seed,
        "warmup_steps": task.warm_up_steps,
        "decay_start": task.steps - task.decay_steps,
    }
    if job.sparsity in ("topk", "batchtopk", "matryoshka"):
        options |= {"k": task.k, "threshold_start_step": task.warm_up_steps, "threshold_beta": 1 - THRESHOLD_RATE}
    if job.sparsity == "matryoshka":
        ends = (0.0, *MATRYOSHKA, 1.0)
        options["group_fractions"] = [after - before for before, after in pairwise(ends)]
    if job.sparsity == "jumprelu":
        options |= {"target_l0": job.penalty, "sparsity_warmup_steps": task.warm_up_steps}
    if job.sparsity == "relu":
        options |= {"l1_penalty": job.penalty, "sparsity_warmup_steps": task.warm_up_steps}
    trainer = trainers[job.sparsity](**options)
    trainer.dead_feature_threshold = task.dead_steps * task.batch
    if job.betas:
        trainer.optimizer.param_groups[0]["betas"] = job.betas
    unit = task.d**-0.5
    for number, x in enumerate(batches):
        trainer.update(number, x * unit)
    ae = trainer.ae
    probe = ae(batches[0][:PROBE] * unit) / unit
    transposed = hasattr(ae, "W_enc")
    b_out = getattr(ae, "b_dec", getattr(ae, "bias", None))
    weights = {
        "w_enc": ae.W_enc.T if transposed else ae.encoder.weight,
        "b_enc": (ae.b_enc if transposed else ae.encoder.bias) / unit,
        "w_dec": ae.W_dec if transposed else ae.decoder.weight.T,
        "b_out": b_out / unit,
        "b_in": 0 * b_out if job.sparsity == "jumprelu" else b_out / unit,
        "probe": probe,
    }
    if job.sparsity in ("batchtopk", "matryoshka", "jumprelu"):
        weights["threshold"] = ae.threshold.expand(task.n) / unit
    return weights, {"topk": "topk", "relu": "relu"}.get(job.sparsity, "threshold")


def sae_lens(task: Task, job: Job, batches: list[Tensor]) -> tuple[dict[str, Tensor], str]:
    """`SAETrainer._train_step`."""
    from sae_lens.saes.sae import TrainStepInput

    sae = _sae_lens_sae(task, job)
    adam = torch.optim.Adam(sae.parameters(), lr=job.lr, betas=job.betas or (0.9, 0.999))
    silent = torch.zeros(task.n)
    penalty = {"l1": job.penalty, "l0": 1.0}
    for number, x in enumerate(batches):
        adam.param_groups[0]["lr"] = job.lr * task.rate(number)
        warm_up = min(1.0, (number + 1) / task.warm_up_steps)
        given = TrainStepInput(
            sae_in=x,
            dead_neuron_mask=silent > task.dead_steps,
            coefficients={name: value * warm_up for name, value in penalty.items()},
            n_training_steps=number,
            is_logging_step=False,
        )
        out = sae.training_forward_pass(step_input=given)
        with torch.no_grad():
            silent += 1
            silent[(out.feature_acts != 0).any(0)] = 0
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
    norm = sae.W_dec.norm(dim=1)
    weights = {
        "w_enc": sae.W_enc.T * norm[:, None],
        "b_enc": sae.b_enc * norm,
        "w_dec": sae.W_dec / norm[:, None],
        "b_in": sae.b_dec,
        "b_out": sae.b_dec,
    }
    if job.sparsity in ("batchtopk", "matryoshka"):
        # as its inference SAE has it; training encodes by the batch, so that there is no probe
        weights["threshold"] = sae.topk_threshold.float().expand(task.n)
    else:
        weights["probe"] = sae.decode(sae.encode(batches[0][:PROBE]))
    if job.sparsity == "jumprelu":
        weights["threshold"] = sae.threshold * norm
    return weights, {"topk": "topk", "abstopk": "abstopk", "relu": "relu"}.get(job.sparsity, "threshold")


def _sae_lens_sae(task: Task, job: Job) -> Any:
    """The training SAE of a sparsity."""
    from sae_lens.saes import abstopk_sae, batchtopk_sae, jumprelu_sae, matryoshka_batchtopk_sae, standard_sae, topk_sae

    shape = {"d_in": task.d, "d_sae": task.n}
    if job.sparsity == "relu":
        config = standard_sae.StandardTrainingSAEConfig(**shape)
        return standard_sae.StandardTrainingSAE(config)
    if job.sparsity == "jumprelu":
        # Gemma Scope 2's penalty, which holds an L0
        config = jumprelu_sae.JumpReLUTrainingSAEConfig(
            **shape, jumprelu_sparsity_loss_mode="quadratic", target_l0=job.penalty
        )
        return jumprelu_sae.JumpReLUTrainingSAE(config)
    module, name = {
        "topk": (topk_sae, "TopK"),
        "abstopk": (abstopk_sae, "AbsTopK"),
        "batchtopk": (batchtopk_sae, "BatchTopK"),
        "matryoshka": (matryoshka_batchtopk_sae, "MatryoshkaBatchTopK"),
    }[job.sparsity]
    options: dict[str, Any] = {**shape, "k": task.k}
    if job.sparsity == "matryoshka":
        options["matryoshka_widths"] = [*task.prefixes, task.n]
    return getattr(module, f"{name}TrainingSAE")(getattr(module, f"{name}TrainingSAEConfig")(**options))


PACKAGES: dict[str, Callable[[Task, Job, list[Tensor]], tuple[dict[str, Tensor], str]]] = {
    "sparsify": sparsify,
    "dictionary_learning": dictionary_learning,
    "sae_lens": sae_lens,
}


def train(task: Task, job: Job, batches: list[Tensor]) -> None:
    package, _, sparsity = job.sparsity.partition(":")
    made, rule = PACKAGES[package](task, replace(job, sparsity=sparsity), batches)
    job.out.mkdir(parents=True)
    weights = {name: tensor.detach().float().clone().contiguous() for name, tensor in made.items()}
    save_file(weights, job.out / "weights.safetensors")
    (job.out / "rule.json").write_text(json.dumps({"rule": rule, "k": task.k}))


if __name__ == "__main__":
    serve(train)
