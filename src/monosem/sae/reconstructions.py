"""The reconstructions of a batch out of its codes: one, or several nested ones, with their errors and gradients."""

from typing import NamedTuple

import torch
from torch import Tensor

from monosem.kernels import Pattern
from monosem.sae.exchange import Exchange
from monosem.sae.losses import squared_sum
from monosem.sae.nested import Nested, regroup
from monosem.sae.sparsity import Selection


class Grouped(NamedTuple):
    """Codes with one row for each (reconstruction, vector)."""

    selection: Selection
    values: Tensor
    main: Tensor
    """[nnz] or [] bool: the entries of the SAE's own reconstruction."""


class Decoded(NamedTuple):
    """The entries that a reconstruction is made of."""

    pattern: Pattern
    values: Tensor


def decoded(pattern: Pattern, values: Tensor) -> Decoded:
    """All entries, or only those with a value where most candidates have none: around JumpReLU's thresholds."""
    active = values != 0
    if 2 * int(active.sum()) > len(values):
        return Decoded(pattern, values)
    return Decoded(pattern.kept(active), values[active])


def grouped(nested: Nested | None, selection: Selection, values: Tensor, exchange: Exchange) -> Grouped:
    """Sort the codes by the reconstruction that first holds them."""
    if nested is None:
        return Grouped(selection, values, values.new_ones((), dtype=torch.bool))
    group = nested.group(selection.pattern, values, exchange)
    pattern, order = regroup(selection.pattern, group, nested.count)
    return Grouped(Selection(pattern, selection.pre[order]), values[order], group[order] <= nested.main)


class Errors(NamedTuple):
    """What every reconstruction lacks of the target."""

    all: Tensor
    """[G * B, d_out] reconstruction minus target."""
    main: Tensor
    """[B, d_out] a view: that of the SAE's own reconstruction."""


def errors_of(partial: Tensor, target: Tensor, nested: Nested | None) -> Errors:
    """From `partial [G * B, d_out]`, what each reconstruction adds to the one before; its memory is used."""
    if nested is None:
        error = partial.sub_(target)  # the bias is in both, and cancels
        return Errors(error, error)
    each = partial.view(nested.count, *target.shape)
    each[0] -= target
    for later in range(1, nested.count):
        each[later] += each[later - 1]
    return Errors(partial, each[nested.main])


def squared(errors: Errors, nested: Nested | None) -> tuple[float, float]:
    """Squared error of the SAE's own reconstruction, and the weighted sum of all."""
    main = squared_sum(errors.main)
    if nested is None:
        return main, main
    parts = errors.all.view(nested.count, *errors.main.shape)
    return main, sum(weight * squared_sum(part) for weight, part in zip(nested.weights, parts, strict=True))


def gradient_of(errors: Tensor, variance: float, nested: Nested | None, further: Tensor | None) -> Tensor:
    """[G * B, d_out] in place of `errors`: the gradient of every partial sum, which all later reconstructions hold."""
    if nested is None:
        errors.mul_(2 / variance)
        return errors if further is None else errors.add_(further)
    each = errors.view(nested.count, -1, errors.shape[1])
    for part, weight in zip(each, nested.weights, strict=True):
        part.mul_(2 * weight / variance)
    if further is not None:
        each[nested.main] += further
    for earlier in reversed(range(nested.count - 1)):
        each[earlier] += each[earlier + 1]
    return errors
