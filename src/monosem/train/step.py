"""One training step, whole: select, reconstruct, losses, gradients, projection, AdamW, unit rows.

Forward and backward are written out over the sparse codes, into buffers that live from step to step; nothing of size
[B, n] is kept and no autograd graph is built. Knows nothing of data, logs or checkpoints: it offers its state.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monosem.errors import TrainingError
from monosem.kernels import AdamSettings, DenseRows, Kernels, Moments, Pattern, Workspace, choose
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.losses import AuxGradients, AuxK, Weights, auxk, squared_sum, total_variance
from monosem.sae.sparsity import make_sparsity
from monosem.train.dead import DeadLatents
from monosem.train.optim import KSchedule, OptimSettings

PARAMETERS = ("W_enc", "b_enc", "W_dec", "b_pre")


@dataclass(frozen=True)
class StepSettings:
    """Everything that decides a step besides the weights and the data."""

    optim: OptimSettings
    aux: AuxK
    dead_window: int = 10_000_000
    """A latent silent for this many activations is dead."""
    k_start: int = 0
    """k of the first step, when it is annealed; see `KSchedule`."""
    k_steps: int = 0
    """Steps over which k falls from `k_start` to the SAE's k. 0: k is constant."""


class StepResult(NamedTuple):
    """One step's figures, all of the batch before the update, in the SAE's normalised space."""

    loss: float
    """main + coefficient * aux."""
    main: float
    """Squared error over the batch's total variance: the fraction of variance unexplained."""
    aux: float
    """AuxK without its coefficient; 0 when it did not run."""
    mse: float
    """Mean squared error of one dimension of one activation: the reference system's training loss."""
    l0: float
    """Mean number of active latents."""
    n_dead: int
    """Latents dead before this batch."""
    k: int
    lr: float
    grad_norm: float | None
    """Norm of all gradients before clipping; None when clipping is off."""
    fired: Tensor
    """[E] int64: the active latent of every active entry, repeats and all."""
    fired_values: Tensor
    """[E] float32: their values."""


class _Gradients(NamedTuple):
    """Gradients of a step: the small ones whole, the large ones as codes and vectors."""

    values: Tensor
    """[nnz] code values."""
    d_pre: Tensor
    """[nnz] gradient of the selected pre-activations."""
    d_output: Tensor
    """[B, d] gradient of the reconstruction."""
    z: Tensor
    """[B, d] inputs."""
    b_enc: Tensor
    b_pre: Tensor
    dec_extra: DenseRows | None
    enc_extra: DenseRows | None


@dataclass
class TrainStep:
    """Trains `sae` in place, a batch at a time.

    The decoder's rows are unit vectors after every step, and the part of their gradient along them is taken out before
    it (Bricken et al., 2023, "Towards monosemanticity", appendix).
    """

    sae: Autoencoder
    settings: StepSettings
    workspace: Workspace = field(default_factory=Workspace)

    def __post_init__(self) -> None:
        device = self.sae.W_enc.device
        self.steps = 0
        self.moments = {name: Moments.zeros_like(self._weight(name)) for name in PARAMETERS}
        self.dead = DeadLatents(self.sae.config.n, self.settings.dead_window, device)
        self._k = KSchedule(self.sae.config.k, self.settings.k_start, self.settings.k_steps)

    @torch.no_grad()
    def step(self, x: Tensor) -> StepResult:
        """One optimizer step on raw activations `x [B, d]` of any float type.

        Raises:
            TrainingError: the loss is not finite; the weights are then as they were.
            SaeError: x has another width.
        """
        kernels = choose(x.device)
        sae, aux = self.sae, self.settings.aux
        k, lr = self._k.at(self.steps), self.settings.optim.lr_at(self.steps)
        sparsity = make_sparsity(sae.config.sparsity, k)

        z = sae.normalise(x).z
        pattern = sparsity.select(kernels, z, self._weight("W_enc"), self._weight("b_enc"), self.workspace, exact=False)
        values = sparsity.activate(kernels.values_at(z, self._weight("W_enc"), pattern, self._weight("b_enc")))
        error = kernels.decode(values, pattern, self._weight("W_dec")).sub_(z)  # b_pre is in both, and cancels

        variance = max(total_variance(z, self.workspace), torch.finfo(z.dtype).tiny)
        squared = squared_sum(error)
        dead = self.dead.dead()
        plan = aux.plan(len(dead), sae.config.n, len(z))
        aux_gradients = None
        if plan is not None:
            weights = Weights(self._weight("W_enc"), self._weight("b_enc"), self._weight("W_dec"))
            aux_gradients = auxk(z, error, weights, dead, plan, aux.coefficient, variance, self.workspace)
        aux_loss = aux_gradients.loss if aux_gradients is not None else 0.0
        loss = squared / variance + aux.coefficient * aux_loss
        if not math.isfinite(loss):
            raise TrainingError(f"step {self.steps}: the loss is {loss}; lower train.lr, or look for NaN in the store")

        d_output = error.mul_(2 / variance)
        d_values = kernels.values_at(d_output, self._weight("W_dec"), pattern)
        d_pre = sparsity.gradient(values, d_values)
        gradients = self._gather(pattern, values, d_pre, d_output, z, dead, aux_gradients)
        self.steps += 1
        grad_norm = self._update(kernels, pattern, gradients, lr)
        active = (values > 0).nonzero().squeeze(1)
        fired = pattern.indices[active]
        self.dead.update(fired, len(z))
        return StepResult(
            loss=loss,
            main=squared / variance,
            aux=aux_loss,
            mse=squared / z.numel(),
            l0=len(fired) / len(z),
            n_dead=len(dead),
            k=k,
            lr=lr,
            grad_norm=grad_norm,
            fired=fired,
            fired_values=values[active],
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue bit for bit, weights included. Tensors are not copied."""
        state: dict[str, Any] = {"steps": self.steps, "silent_for": self.dead.silent_for}
        for name in PARAMETERS:
            state[name] = self._weight(name)
            state[f"{name}.first"], state[f"{name}.second"] = self.moments[name]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of another step of the same shapes.

        Raises:
            TrainingError: a key is missing or of another shape.
        """
        own = self.state_dict()
        for name, tensor in own.items():
            if name not in state:
                raise TrainingError(f"the checkpoint lacks {name!r}; it was written by another version")
            if isinstance(tensor, Tensor) and state[name].shape != tensor.shape:
                raise TrainingError(
                    f"the checkpoint's {name!r} has shape {list(state[name].shape)}, expected {list(tensor.shape)}; "
                    "it belongs to another SAE"
                )
        self.steps = int(state["steps"])
        for name, tensor in own.items():
            if isinstance(tensor, Tensor):
                tensor.copy_(state[name])

    def _weight(self, name: str) -> Tensor:
        """A parameter's tensor, outside autograd."""
        return self.sae.get_parameter(name).detach()

    def _gather(
        self,
        pattern: Pattern,
        values: Tensor,
        d_pre: Tensor,
        d_output: Tensor,
        z: Tensor,
        dead: Tensor,
        aux: AuxGradients | None,
    ) -> _Gradients:
        b_enc = torch.zeros_like(self._weight("b_enc")).index_add_(0, pattern.indices, d_pre)
        if aux is not None:
            b_enc.index_add_(0, dead, aux.b_enc)
        # b_pre is added to the output and taken from every encoder input
        b_pre = d_output.sum(0) - b_enc @ self._weight("W_enc")
        dec_extra = DenseRows(dead, aux.w_dec) if aux is not None else None
        enc_extra = DenseRows(dead, aux.w_enc) if aux is not None else None
        return _Gradients(values, d_pre, d_output, z, b_enc, b_pre, dec_extra, enc_extra)

    def _update(self, kernels: Kernels, pattern: Pattern, g: _Gradients, lr: float) -> float | None:
        """Apply the gradients; returns their norm when they are clipped."""
        optim = self.settings.optim
        adam = AdamSettings(lr, *optim.betas, optim.eps, optim.weight_decay, self.steps)
        by_latent = kernels.by_latent(pattern)
        decoder = (g.values, by_latent, g.d_output, g.dec_extra)
        encoder = (g.d_pre, by_latent, g.z, g.enc_extra)
        w_enc, w_dec = self._weight("W_enc"), self._weight("W_dec")
        norm = None
        if optim.clip is None:
            kernels.update_from_codes(w_dec, *decoder, self.moments["W_dec"], adam, project=True, unit_norm=True)
            kernels.update_from_codes(w_enc, *encoder, self.moments["W_enc"], adam)
        else:
            g_dec = kernels.latent_gradient(*decoder, self._like("step.g_dec", w_dec))
            g_enc = kernels.latent_gradient(*encoder, self._like("step.g_enc", w_enc))
            kernels.project_rows(g_dec, w_dec)
            norm = _clip([g_dec, g_enc, g.b_enc, g.b_pre], optim.clip)
            kernels.update_rows(w_dec, g_dec, self.moments["W_dec"], adam, unit_norm=True)
            kernels.update_rows(w_enc, g_enc, self.moments["W_enc"], adam)
        kernels.update_rows(self._weight("b_enc"), g.b_enc, self.moments["b_enc"], adam)
        kernels.update_rows(self._weight("b_pre"), g.b_pre, self.moments["b_pre"], adam)
        return norm

    def _like(self, name: str, tensor: Tensor) -> Tensor:
        return self.workspace.get(name, tuple(tensor.shape), tensor.dtype, tensor.device)


def _clip(gradients: list[Tensor], limit: float) -> float:
    """Shrink all gradients together to a norm of at most `limit`, in place; returns the norm they had."""
    norm = math.sqrt(sum(float(torch.linalg.vector_norm(gradient)) ** 2 for gradient in gradients))
    if norm > limit:
        for gradient in gradients:
            gradient.mul_(limit / norm)
    return norm
