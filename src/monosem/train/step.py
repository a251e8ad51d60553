"""One training step, whole: normalise, all terms of the loss with their gradients, the optimizer, the running average.

What a loss is stands in `monosem.sae.objective`, how weights follow in `monosem.train.update`; here are the schedules,
the dead latents and the parts of a batch. Knows nothing of data, logs or checkpoints: it offers its state.
"""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from monosem.errors import TrainingError
from monosem.kernels import AdamSettings, Kernels, Workspace, choose
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.losses import total_variance
from monosem.sae.objective import Batch, Further, Gradients, Losses, Objective, gradients
from monosem.sae.sparsity import Sparsity, make_sparsity
from monosem.train.dead import DeadLatents
from monosem.train.optim import KSchedule, OptimSettings
from monosem.train.update import Average, Updater, warmed

THRESHOLD_DECAY = 0.99
"""Of the running average that BatchTopK's threshold is."""


@dataclass(frozen=True)
class StepSettings:
    """Everything that decides a step besides the weights and the data."""

    optim: OptimSettings
    objective: Objective
    dead_window: int = 10_000_000
    """A latent silent for this many activations is dead."""
    k_start: int = 0
    """k of the first step, when it is annealed; see `KSchedule`."""
    k_steps: int = 0
    """Steps over which k falls from `k_start` to the SAE's k. 0: k is constant."""
    bandwidth: float = 1.0
    """Of JumpReLU's straight-through estimator, as a share of the threshold."""
    ema: float | None = None
    """Decay of the running average of the weights. None: there is none."""
    micro_batch: int | None = None
    """Activations computed at a time; the gradients of the parts of a batch add up. None: all at once."""


class StepResult(NamedTuple):
    """One step's figures, all of the batch before the update, in the SAE's normalised space."""

    loss: float
    """All terms together."""
    main: float
    """Squared error over the batch's total variance: the fraction of variance unexplained."""
    aux: float
    """AuxK without its coefficient; 0 when it did not run."""
    penalty: float
    """With its coefficient."""
    further: float
    """The term measured elsewhere; 0 when there is none."""
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
    """[E] int64: the active latent of every active entry of the batch, repeats and all; of those this process holds."""
    fired_values: Tensor
    """[E] float32: their values."""


@dataclass
class TrainStep:
    """Trains `sae` in place, a batch at a time."""

    sae: Autoencoder
    settings: StepSettings
    workspace: Workspace = field(default_factory=Workspace)

    def __post_init__(self) -> None:
        settings = self.settings
        self.steps = 0
        free = settings.objective.free_norms
        self.updater = Updater(self.sae, settings.optim, self.workspace, free_norms=free)
        self.average = None if settings.ema is None else Average(self.updater.weights, settings.ema)
        self.dead = DeadLatents(len(self.sae.b_enc), settings.dead_window, self.sae.W_enc.device)
        self._k = KSchedule(self.sae.config.k, settings.k_start, settings.k_steps)

    def step(self, x: Tensor, target: Tensor | None = None) -> StepResult:
        """One optimizer step on raw activations `x [B, d]` of any float type.

        Args:
            target: [B, d_out] raw activations that a transcoder shall make of them.

        Raises:
            TrainingError: the loss is not finite; the weights are then as they were.
            SaeError: x or target has another width.
        """
        goal = None if target is None else self.sae.standardise_target(target)
        return self.step_normalised(self.sae.normalise(x).z, goal)

    @torch.no_grad()
    def step_normalised(self, z: Tensor, target: Tensor | None = None, further: Further | None = None) -> StepResult:
        """`step` on `z [B, d]` as `Autoencoder.normalise` gives it; `z` is left as it is.

        All processes of the SAE's exchange make the step together, each with the activations of its data rank.

        Args:
            target: [B, d_out] as `Autoencoder.standardise_target` gives it. None: `z`, of an autoencoder.
            further: one more term of the loss; the batch is then computed all at once, whatever `micro_batch` says.
        """
        assert (target is None) == (self.sae.b_dec is None), "a target belongs to a transcoder, and only to it"
        goal = z if target is None or self.sae.b_dec is None else target - self.sae.b_dec
        if self.steps == 0:
            self._begin(z)
        kernels = choose(z.device, z.dtype, z.shape[1])
        k, lr = self._k.at(self.steps), self.settings.optim.lr_at(self.steps)
        sparsity, exchange = self._sparsity(k), self.sae.exchange
        variance = max(total_variance(goal, self.workspace, exchange), torch.finfo(z.dtype).tiny)
        dead = self.dead.dead()
        optim = self.settings.optim
        adam = AdamSettings(lr, *optim.betas, optim.eps, optim.weight_decay, self.steps + 1)
        if further is not None or self.settings.micro_batch is None or self.settings.micro_batch >= len(z):
            g = self._gradients(kernels, sparsity, Batch(z, goal, variance, further=further), dead)
            losses, fired, fired_values = g.losses, g.fired, g.fired_values
            loss = self._total(losses)
            grad_norm = self.updater.apply(kernels, g, adam)
        else:
            losses, fired, fired_values = self._add_parts(kernels, sparsity, Batch(z, goal, variance), dead)
            loss = self._total(losses)
            grad_norm = self.updater.apply_sums(kernels, adam)
        self.steps += 1
        batch, n_dead = exchange.whole(len(z)), sum(exchange.each(len(dead)))
        fired, fired_values = exchange.gather_data(fired), exchange.gather_data(fired_values)
        self.dead.update(fired, batch)
        self._follow(fired_values)
        return StepResult(
            loss=loss,
            main=losses.main,
            aux=losses.aux,
            penalty=losses.penalty,
            further=losses.further,
            mse=losses.squared / exchange.whole(goal.numel()),
            l0=losses.active / batch,
            n_dead=n_dead,
            k=k,
            lr=lr,
            grad_norm=grad_norm,
            fired=fired,
            fired_values=fired_values,
        )

    def averaged(self) -> Autoencoder:
        """The SAE to use: `sae` itself, or a copy of it with the averaged weights."""
        if self.average is None:
            return self.sae
        copy = self.sae.like()
        with torch.no_grad():
            for name, parameter in copy.named_parameters():
                parameter.copy_(self.average.weights[name])
            if not self.settings.objective.free_norms:
                copy.W_dec /= copy.W_dec.norm(dim=1, keepdim=True)
        return copy

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to continue bit for bit, weights included. Tensors are not copied."""
        state: dict[str, Any] = {"steps": self.steps, "silent_for": self.dead.silent_for}
        if self.sae.threshold is not None:
            state["threshold"] = self.sae.threshold
        for name, weight in self.updater.weights.items():
            state[name] = weight
            state[f"{name}.first"], state[f"{name}.second"] = self.updater.moments[name]
            if self.average is not None:
                state[f"{name}.average"] = self.average.weights[name]
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

    def _begin(self, z: Tensor) -> None:
        """What the first batch decides."""
        self.sae.start_thresholds(z)
        if self.average is not None and self.sae.log_threshold is not None:
            self.average.weights["log_threshold"].copy_(self.sae.log_threshold)

    def _sparsity(self, k: int) -> Sparsity:
        """The SAE's own at this k; every k of a nested loss by rank is a prefix of the largest."""
        nested = self.settings.objective.nested
        most = max(k, *nested.sizes) if nested is not None and nested.by == "rank" else k
        return make_sparsity(self.sae.config.sparsity, most, self.settings.bandwidth, self.sae.exchange)

    def _gradients(self, kernels: Kernels, sparsity: Sparsity, batch: Batch, dead: Tensor) -> Gradients:
        objective = self.settings.objective
        penalty = 0.0 if objective.penalty is None else objective.penalty.coefficient_at(self.steps)
        return gradients(self.sae, sparsity, objective, batch, dead, penalty, kernels, self.workspace)

    def _add_parts(
        self, kernels: Kernels, sparsity: Sparsity, whole: Batch, dead: Tensor
    ) -> tuple[Losses, Tensor, Tensor]:
        """Leave the gradients of the whole batch with the updater; the losses, and what fired with which values."""
        size = self.settings.micro_batch
        assert size is not None
        self.updater.drop()
        losses, fired, values = [], [], []
        parts = list(zip(whole.z.split(size), whole.target.split(size), strict=True))
        for number, (z, target) in enumerate(parts, 1):
            g = self._gradients(kernels, sparsity, Batch(z, target, whole.variance, len(z) / len(whole.z)), dead)
            self.updater.add(kernels, g, last=number == len(parts))
            losses.append(g.losses)
            fired.append(g.fired)
            values.append(g.fired_values)
        return Losses(*(sum(terms) for terms in zip(*losses, strict=True))), torch.cat(fired), torch.cat(values)

    def _total(self, losses: Losses) -> float:
        loss = losses.nested + self.settings.objective.aux.coefficient * losses.aux + losses.penalty + losses.further
        if not math.isfinite(loss):
            raise TrainingError(f"step {self.steps}: the loss is {loss}; lower train.lr, or look for NaN in the store")
        return loss

    def _follow(self, fired_values: Tensor) -> None:
        """Let what follows the weights do so, after a step."""
        if self.average is not None:
            self.average.follow(self.updater.weights, self.steps)
        threshold = self.sae.threshold
        if threshold is None:
            return
        own = fired_values.min() if len(fired_values) else fired_values.new_full((), torch.inf)
        smallest = self.sae.exchange.smallest(own)
        if bool(smallest.isfinite()):
            decay = warmed(THRESHOLD_DECAY, self.steps)
            threshold.copy_(smallest if self.steps == 1 else torch.lerp(smallest, threshold, decay))
