"""The sections of a recipe that make an SAE."""

from typing import Literal

from pydantic import Field, model_validator

from monosem.errors import RecipeError
from monosem.recipe.section import LATER, OPERATIONAL, Count, Fraction, Section


class SaeRecipe(Section):
    """The sparse autoencoder."""

    prefix = "sae."

    n: Count = 65_536
    """Number of latents."""
    k: Count = 64
    """Active latents for each activation; on average with `batchtopk`; what `l0` aims at with `jumprelu`."""
    sparsity: Literal["topk", "abstopk", "batchtopk", "jumprelu", "relu"] = "topk"
    """How the active latents are chosen. `abstopk` takes signed values by magnitude."""
    prefixes: tuple[Count, ...] = ()
    """Matryoshka: the first so many latents must reconstruct by themselves too, as in `[1024, 4096]`."""
    normalisation: Literal["layer", "dataset", "none"] = "layer"
    """`layer`: every vector to mean 0, std 1; `dataset`: centred by the store's mean, E|x|^2 = d; `none`."""
    encoder_norm: float | None = Field(default=None, gt=0)
    """Norm of the encoder's rows at the start, the decoder's being 1. On language models 0.3 learns faster than 1, the
    reference's. None: 1 for topk and abstopk, 0.3 for the others."""

    b_pre: Literal["mean", "geometric_median", "zero"] = "mean"
    """Start of the shared bias: the mean of the activations, or their geometric median, which outliers move less."""
    skip: bool = Field(default=False, json_schema_extra=LATER)
    """Give a transcoder an affine map past its latents, so that they need not learn what is linear."""
    threshold: float | None = Field(default=None, gt=0)
    """Start of the thresholds of `jumprelu`, in pre-activations. None: what `k` latents of the first batch exceed."""

    @model_validator(mode="after")
    def _sizes_fit(self) -> "SaeRecipe":
        if self.k > self.n:
            raise RecipeError(f"sae.k = {self.k} is larger than sae.n = {self.n}; choose k <= n")
        if list(self.prefixes) != sorted(set(self.prefixes)) or any(size >= self.n for size in self.prefixes):
            raise RecipeError(f"sae.prefixes = {list(self.prefixes)}: sizes must ascend and stay below n = {self.n}")
        return self


class TrainRecipe(Section):
    """Training of the SAE. The defaults are the reference system's."""

    prefix = "train."

    hook_point: str | None = None
    """Which captured hook point to train on. None: the first one captured."""
    source: Literal["stored", "live"] = Field(default="stored", json_schema_extra=LATER)
    """`stored`: the batches that `prepare` made; `live`: the language model reads sentences as training goes, and no
    activation is written to a disk."""
    buffer: Count = Field(default=262_144, json_schema_extra=LATER)
    """Activations in memory that `live` draws its batches from."""
    target_hook_point: str | None = Field(default=None, json_schema_extra=LATER)
    """Which captured hook point to reconstruct: a transcoder, as from `10.resid_mid.norm` to `10.mlp_out`. None: the
    one that is read."""
    seed: int | None = Field(default=None, ge=0)
    """Seed of the initialisation and of the order of the batches. None: the run's."""
    order_seed: int | None = Field(default=None, ge=0)
    """Seed of the order of the batches alone; the SAEs of a sweep share it. None: as `seed`."""
    batch: Count = 8192
    """Activations a step."""
    epochs: float = Field(default=10.0, gt=0)
    """Passes over the training set; a fraction ends within a pass."""
    lr: float = Field(default=5e-5, gt=0)
    """Peak learning rate."""
    lr_final: float = Field(default=1e-5, ge=0)
    """Learning rate that the cosine or linear schedule ends at."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """Course of the learning rate after the warm-up."""
    warmup_fraction: Fraction = 0.0
    """Share of all steps in which the rate rises linearly from 0."""
    decay_fraction: Fraction = 1.0
    """Share of all steps, at the end, over which the `linear` schedule falls to `lr_final`."""
    betas: tuple[float, float] = (0.85, 0.9999)
    """AdamW's averaging factors."""
    eps: float = Field(default=6.25e-10, gt=0)
    """AdamW's epsilon."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip: float | None = Field(default=None, gt=0)
    """Largest gradient norm over all parameters. None: no clipping."""
    micro_batch: Count | None = None
    """Activations computed at a time; the gradients of a batch's parts add up. None: the whole batch at once."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a running average of the weights, which is what is saved. None: the weights themselves."""
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the product that finds the active latents; their values and all gradients are float32 either way."""
    multi_k: tuple[Count, ...] = ()
    """Other numbers of codes that must reconstruct too, with `topk` and `abstopk`: 4k makes codes more even."""
    multi_k_weight: float = Field(default=1 / 8, gt=0)
    """Weight of the loss at each of them."""
    penalty: Literal["l0", "l1", "tanh"] | None = None
    """What keeps codes sparse: `l0` aims at `sae.k` (jumprelu), `l1`, `tanh` (jumprelu). None: `l1` for relu, `l0` for
    jumprelu, nothing for the others."""
    penalty_coefficient: float = Field(default=1.0, ge=0)
    """Its weight: for `l1` and `tanh` as in the papers, where E|x|^2 = d; for `l0` beside the variance unexplained."""
    penalty_warmup_fraction: Fraction = 0.05
    """Share of all steps in which the coefficient rises from 0."""
    tanh_scale: float = Field(default=4.0, gt=0)
    """c of `tanh(c * value)`."""
    silent_coefficient: float = Field(default=0.0, ge=0)
    """Weight of relu(threshold - pre-activation), which draws silent latents up (jumprelu); 3e-6 is usual."""
    bandwidth: float = Field(default=1.0, gt=0, le=2)
    """Width of the straight-through estimator of `jumprelu`, as a share of the threshold."""
    threshold_rate: float = Field(default=10.0, gt=0)
    """Learning rate of `jumprelu`'s thresholds (their logarithms), as a multiple of `lr`."""
    bias_rate: float | None = Field(default=None, gt=0)
    """Learning rate of the encoder's biases, as a multiple of `lr`. None: 10 for relu, 1 for the others."""
    decoder_norm: Literal["unit", "free"] = "unit"
    """`free`: decoder rows keep norms of their own, which the penalty counts (relu, jumprelu); folded in at the end."""
    resample: tuple[Fraction, ...] = ()
    """Shares of all steps after which dead latents start anew, from badly reconstructed activations."""
    resample_tokens: Count = 819_200
    """Activations whose losses are looked at for that."""
    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the auxiliary loss."""
    k_aux: Count = 2048
    """Dead latents that reconstruct the residual."""
    auxk_gate: bool = False
    """True: the reference's gate, the auxiliary loss runs only once at least k_aux latents are dead."""
    dead_tokens: Count = 10_000_000
    """A latent that has not fired for this many activations counts as dead."""
    dead_steps: Count | None = None
    """The same in steps, in place of `dead_tokens`."""
    k_anneal_fraction: Fraction = 0.0
    """Share of all steps over which k falls to `sae.k`."""
    k_anneal_start: Count | None = Field(default=None, json_schema_extra=LATER)
    """k of the first step where it falls; twice to three times `sae.k` is gentle. None: the width of the model."""
    log_points: Count = 1000
    """Lines of metrics an epoch."""
    validations: Count = 4
    """Validation passes an epoch."""
    validation_tokens: Count = 65_536
    """Activations a validation pass reads."""
    patience: Count | None = None
    """Stop after this many validations without improvement. None: never."""
    checkpoint_minutes: float = Field(default=10.0, gt=0, json_schema_extra=OPERATIONAL)
    """Time between two checkpoints."""
    keep_checkpoints: Count = Field(default=1, json_schema_extra=OPERATIONAL)
    """Checkpoints kept; older ones are deleted."""
    workers: int = Field(default=2, ge=0, json_schema_extra=OPERATIONAL)
    """Threads that read ahead."""
    mesh: tuple[Count, Count] | None = Field(default=None, json_schema_extra=OPERATIONAL)
    """Of several ranks, `[data, latent]`: how many see parts of a batch, and how many of those share out the latents.
    None: all share out the latents. The result is the same but for rounding."""
    device: str = Field(default="auto", json_schema_extra=OPERATIONAL)
    """`auto`, `cpu`, `cuda`, `cuda:1`."""
    wandb: Literal["off", "offline", "online"] = Field(default="off", json_schema_extra=OPERATIONAL)
    """Send the metrics to Weights & Biases as well."""

    @property
    def dead_window(self) -> int:
        """Activations of silence that make a latent dead."""
        return self.dead_tokens if self.dead_steps is None else self.dead_steps * self.batch

    @model_validator(mode="after")
    def _rates_fit(self) -> "TrainRecipe":
        if self.warmup_fraction + self.decay_fraction > 1 and self.schedule == "linear":
            raise RecipeError("train.warmup_fraction + train.decay_fraction is larger than 1; lower one of them")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"train.betas = {self.betas}: each must be in [0, 1)")
        return self


def check_training(sae: SaeRecipe, train: TrainRecipe) -> None:
    """What the two sections ask of each other.

    Raises:
        RecipeError: a part that does not go with the SAE's sparsity, or a size beyond its own.
    """
    fixed, penalised = sae.sparsity in ("topk", "abstopk"), sae.sparsity in ("relu", "jumprelu")
    if train.k_aux > sae.n:
        raise RecipeError(f"train.k_aux = {train.k_aux} is larger than sae.n = {sae.n}; lower it")
    if train.multi_k and not fixed:
        raise RecipeError(f"train.multi_k goes with sae.sparsity topk or abstopk, not with {sae.sparsity!r}; drop it")
    if train.multi_k and (sae.prefixes or train.k_anneal_fraction):
        raise RecipeError("train.multi_k does not go with sae.prefixes or train.k_anneal_fraction; drop one of them")
    if any(k > sae.n for k in train.multi_k):
        raise RecipeError(f"train.multi_k = {list(train.multi_k)}: none may be larger than sae.n = {sae.n}")
    if train.penalty is not None and not penalised:
        raise RecipeError(f"train.penalty goes with sae.sparsity relu or jumprelu, not with {sae.sparsity!r}; drop it")
    if train.penalty in ("l0", "tanh") and sae.sparsity != "jumprelu":
        raise RecipeError(f"train.penalty = {train.penalty!r} goes with sae.sparsity = 'jumprelu'; use 'l1'")
    if train.decoder_norm == "free" and not penalised:
        raise RecipeError(f"train.decoder_norm = 'free' goes with relu and jumprelu, not with {sae.sparsity!r}")
    if train.silent_coefficient and sae.sparsity != "jumprelu":
        raise RecipeError(f"train.silent_coefficient goes with sae.sparsity = 'jumprelu', not with {sae.sparsity!r}")
    _check_annealing(sae, train)
    if penalised and train.k_anneal_fraction:
        raise RecipeError(f"train.k_anneal_fraction: {sae.sparsity!r} has no k to anneal; use penalty_warmup_fraction")


def _check_annealing(sae: SaeRecipe, train: TrainRecipe) -> None:
    if train.k_anneal_start is None:
        return
    if not train.k_anneal_fraction:
        raise RecipeError("train.k_anneal_start does nothing while train.k_anneal_fraction is 0; set it, as to 0.6")
    if not sae.k < train.k_anneal_start <= sae.n:
        raise RecipeError(
            f"train.k_anneal_start = {train.k_anneal_start}: expected more than sae.k = {sae.k}, "
            f"and at most sae.n = {sae.n}"
        )
