"""What training minimises, forward and backward written out over the sparse codes: no autograd, no [B, n] tensor.

Flow: candidates -> values -> (nested) reconstructions -> squared error, AuxK, penalties -> gradients of the codes, of
the vectors, and of the two large matrices as codes and vectors. A batch may come in parts: everything is a sum over
activations that shares the whole batch's total variance. Knows nothing of optimizers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from monosem.kernels import ByLatent, DenseRows, Kernels, Pattern, Workspace
from monosem.sae import reconstructions
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.exchange import Exchange
from monosem.sae.losses import AuxK, Revival, Weights
from monosem.sae.nested import Nested
from monosem.sae.penalties import Penalty, penalise, penalise_silent
from monosem.sae.sparsity import Encoder, Sparsity


@dataclass(frozen=True)
class Objective:
    """The terms of the loss."""

    aux: AuxK
    penalty: Penalty | None = None
    nested: Nested | None = None
    """None: one reconstruction, of all codes."""
    free_norms: bool = False
    """The decoder's rows have norms of their own, which penalties count; else they are unit vectors."""
    exact: bool = False
    """Latents are selected in float32 even where bfloat16 is faster."""


class Term(NamedTuple):
    """A term of the loss that is measured elsewhere, on the reconstruction."""

    loss: float
    gradient: Tensor
    """[B, d_out] of `loss`, with respect to the reconstruction."""


Further = Callable[[Tensor, float], Term]
"""`further(error [B, d_out], main)`: a term of the SAE's own reconstruction, which is the target plus `error`.

`main` is its squared error over the total variance. `error` belongs to the objective: it is read, not kept.
"""


class Batch(NamedTuple):
    """A batch or a part of one, and what the whole batch decides."""

    z: Tensor
    """[B, d] normalised, centred inputs."""
    target: Tensor
    """[B, d_out] what is reconstructed: `z` itself, but for transcoders, whose target is centred by `b_dec`."""
    variance: float
    """Total variance of the whole batch's target."""
    share: float = 1.0
    """Of the whole batch, that is here."""
    further: Further | None = None
    """One more term of the loss. It cannot be told from a part of a batch what it is on the whole."""


class Losses(NamedTuple):
    """The terms of the loss; those of a batch are the sums over its parts."""

    main: float
    """Squared error over the total variance: the fraction of variance unexplained."""
    nested: float
    """Weighted sum of that of every reconstruction; equals `main` when there is one."""
    aux: float
    """AuxK without its coefficient."""
    penalty: float
    """With its coefficient."""
    squared: float
    """Squared error."""
    further: float = 0.0
    """The term measured elsewhere; 0 when there is none."""
    active: float = 0.0
    """Active entries."""


class Gradients(NamedTuple):
    """The losses of a batch or part of one, and their gradients; the two matrices' as codes and vectors.

    Where several processes share a batch the losses are of all of them, and the gradients add up over the data ranks;
    so do those of parameters that are not of single latents, over all processes.
    """

    losses: Losses
    fired: Tensor
    """[E] int64: the latent of every active entry, repeats and all."""
    fired_values: Tensor
    """[E] their values."""
    pattern: Pattern
    """One row for each (reconstruction, vector)."""
    by_latent: ByLatent
    """The pattern turned round: entries point to rows of `d_output`."""
    values: Tensor
    """[active] code values: the decoder's gradient, together with `d_output`."""
    values_by_latent: ByLatent
    """Of the entries that have them: all of the pattern's, or those that are not zero."""
    d_output: Tensor
    """[G * B, d_out]"""
    d_pre: Tensor
    """[nnz] gradient of the pre-activations: the encoder's, together with `z`."""
    z: Tensor
    """[B, d]"""
    vectors: dict[str, Tensor]
    """Gradients of all other parameters, by name: vectors, and a transcoder's `W_skip`."""
    dec_gradient: Tensor | None
    """[n, d_out] of the codes alone, where it came along with theirs; else it is left to `values` and `d_output`."""
    dec_extra: DenseRows | None
    enc_extra: DenseRows | None
    dec_norms: Tensor | None
    """[n] gradient of the norms of the decoder's rows."""
    enc_outer: tuple[Tensor, Tensor] | None
    """([n], [d]): their outer product belongs to the encoder's gradient."""

    def inputs_by_latent(self) -> ByLatent:
        """The pattern turned round, with rows of `z` in place of rows of `d_output`."""
        turned = self.by_latent
        if self.pattern.rows == len(self.z):
            return turned
        return ByLatent(turned.rows % len(self.z), turned.offsets, turned.order)


@torch.no_grad()
def gradients(
    sae: Autoencoder,
    sparsity: Sparsity,
    objective: Objective,
    batch: Batch,
    dead: Tensor,
    penalty_coefficient: float,
    kernels: Kernels,
    workspace: Workspace,
) -> Gradients:
    """All terms of the loss on one batch, with their gradients.

    Called by all processes of the SAE's exchange together, each with its own activations and latents.

    Args:
        sparsity: the SAE's, or one with another k while that is annealed.
        dead: [n_dead] int64, ascending: the latents that AuxK revives.
        penalty_coefficient: of this step.
        workspace: its buffers hold parts of the result until the next call.
    """
    encoder, w_dec, z, exchange = sae.encoder(), sae.W_dec.detach(), batch.z, sae.exchange
    selection = sparsity.candidates(kernels, z, encoder, workspace, exact=objective.exact)
    values = sparsity.activate(selection, encoder)
    codes = reconstructions.grouped(objective.nested, selection, values, exchange)
    selection, values = codes.selection, codes.values
    latents = selection.pattern.indices

    decoded = reconstructions.decoded(selection.pattern, values)
    partial = exchange.add_up(kernels.decode(decoded.values, decoded.pattern, w_dec))
    with kernels.dense_products(exact=objective.exact):
        revival = _revival(sae, objective.aux, batch, dead, kernels, workspace, signed=sparsity.signed)
    output = reconstructions.errors_of(partial(), _left_to_codes(sae, batch, workspace), objective.nested)
    if revival is not None:
        with kernels.dense_products(exact=objective.exact):
            revival.decode(output.main)
    main, nested = reconstructions.squared(output, objective.nested)
    further = None if batch.further is None else batch.further(output.main, main / batch.variance)
    d_output = reconstructions.gradient_of(
        output.all, batch.variance, objective.nested, None if further is None else further.gradient
    )
    by_latent = kernels.by_latent(selection.pattern)
    d_values, dec_gradient = kernels.code_gradients(values, selection.pattern, by_latent, d_output, w_dec, workspace)
    with kernels.dense_products(exact=objective.exact):
        aux = None if revival is None else revival.gradients(objective.aux.coefficient, batch.variance)

    norms = w_dec.norm(dim=1) if objective.free_norms else None
    penalty, d_active, d_norms = 0.0, 0.0, None
    if objective.penalty is not None:
        coefficient = penalty_coefficient * (batch.share if objective.penalty.kind == "l0" else 1.0)
        term = penalise(objective.penalty, coefficient, len(z), (latents, values), norms, batch.variance, exchange)
        penalty, d_active, d_norms = term.loss, term.active, term.norms
        d_values = d_values if term.values is None else d_values.add_(term.values)
    d_pre, d_threshold = sparsity.backward(selection, encoder, values, d_values, d_active)

    bias, outer = None, None
    if objective.penalty is not None and objective.penalty.silent and encoder.threshold is not None:
        weights = (encoder.weight, encoder.bias, encoder.threshold)
        lift = penalise_silent(objective.penalty.silent, z, weights, latents, selection.pre, norms, batch.variance)
        penalty, d_pre, bias, outer = penalty + lift.loss, d_pre + lift.pre, lift.bias, lift.outer
        d_threshold = lift.threshold if d_threshold is None else d_threshold + lift.threshold
        d_norms = lift.norms if d_norms is None or lift.norms is None else d_norms + lift.norms
    b_enc = kernels.sum_by_latent(d_pre, selection.pattern, by_latent)
    if bias is not None:
        b_enc += bias
    if aux is not None:
        b_enc.index_add_(0, dead, aux.b_enc)

    whole = decoded.pattern is selection.pattern
    fired = ((values != 0) & codes.main).nonzero().squeeze(1)
    losses = Losses(
        main=main / batch.variance,
        nested=nested / batch.variance,
        aux=0.0 if aux is None else aux.loss,
        penalty=penalty,
        squared=main,
        further=0.0 if further is None else further.loss,
        active=len(fired),
    )
    return Gradients(
        losses=_over_all(losses, exchange),
        fired=latents[fired],
        fired_values=values[fired],
        pattern=selection.pattern,
        by_latent=by_latent,
        values=decoded.values,
        values_by_latent=by_latent if whole or dec_gradient is not None else kernels.by_latent(decoded.pattern),
        d_output=d_output,
        d_pre=d_pre,
        z=z,
        vectors=_vectors(sae, encoder, b_enc, d_output, d_threshold, z),
        dec_gradient=dec_gradient,
        dec_extra=None if aux is None else DenseRows(dead, aux.w_dec),
        enc_extra=None if aux is None else DenseRows(dead, aux.w_enc),
        dec_norms=d_norms,
        enc_outer=outer,
    )


def _left_to_codes(sae: Autoencoder, batch: Batch, workspace: Workspace) -> Tensor:
    """[B, d_out]: the target less what passes by the codes."""
    if sae.W_skip is None:
        return batch.target
    target = batch.target
    left = workspace.get("objective.target", tuple(target.shape), target.dtype, target.device)
    return torch.addmm(target, batch.z, sae.W_skip.detach().T, alpha=-1, out=left)


def _revival(
    sae: Autoencoder,
    aux: AuxK,
    batch: Batch,
    dead: Tensor,
    kernels: Kernels,
    workspace: Workspace,
    *,
    signed: bool,
) -> Revival | None:
    exchange = sae.exchange
    spread = exchange.each(len(dead))
    plan = aux.plan(sum(spread), sae.config.n, exchange.whole(len(batch.z)))
    if plan is None:
        return None
    weights = Weights(sae.W_enc.detach(), sae.b_enc.detach(), sae.W_dec.detach())
    most = None if exchange.latent.ranks == 1 else max(spread)
    return Revival(batch.z, weights, dead, plan, kernels, workspace, signed=signed, exchange=exchange, most=most)


def _over_all(losses: Losses, exchange: Exchange) -> Losses:
    """The losses of all processes: what latent ranks know alike counts once, the rest adds up."""
    own = losses if exchange.first else Losses(0.0, 0.0, 0.0, losses.penalty, 0.0, 0.0, losses.active)
    return Losses(*exchange.total(own))


def _vectors(
    sae: Autoencoder, encoder: Encoder, b_enc: Tensor, d_output: Tensor, d_threshold: Tensor | None, z: Tensor
) -> dict[str, Tensor]:
    # the first rows hold the gradients of every reconstruction; all latent ranks know them alike, and only one counts
    z = z[: len(z) if sae.exchange.first else 0]
    own = d_output[: len(z)]
    added, taken = own.sum(0), b_enc @ encoder.weight
    if sae.b_dec is None:
        # b_pre is added to every reconstruction and taken from every input
        vectors = {"b_enc": b_enc, "b_pre": added - taken}
    elif sae.W_skip is None:
        vectors = {"b_enc": b_enc, "b_pre": -taken, "b_dec": added}
    else:
        taken = taken + added @ sae.W_skip.detach()
        vectors = {"b_enc": b_enc, "b_pre": -taken, "b_dec": added, "W_skip": own.T @ z}
    if d_threshold is not None and encoder.threshold is not None:
        vectors["log_threshold"] = d_threshold * encoder.threshold
    return vectors
