"""Losses: what `fit` minimises, on packed rows.

A loss gives, for predictions p and targets y (rows, O) and one weight per row, the sum of weight * mean over O of l(p,
y) and its gradient; the caller divides by the sum of the weights. The two cross-entropies start from what enters the
final sigmoid or softmax (from the output itself if that is linear): their gradient is then p - y, without a division
that could overflow. Sums run in float64 over fixed blocks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import kernels, validate

if TYPE_CHECKING:
    from typing import Any

    from lstmx._types import Array, Metric


class _Loss:
    name: str  # of the kernel
    fused: tuple[str, ...] = ()  # final activations that the loss takes over, and so asks for their input

    def total(
        self, prediction: Array, target: Array, weight: Array, divisor: float = 1.0, **part: Any
    ) -> tuple[float, Array]:
        """(sum of the weighted losses, its gradient with respect to `prediction` divided by `divisor`).

        Parameters
        ----------
        prediction : ndarray (rows, O)
        target : ndarray (rows, O), or (rows,) of integer labels
        weight : ndarray (rows,)
        divisor : float
        **part : into, first
            Where the rows are a part of those of a batch: as of `kernels.loss`.
        """
        return kernels.loss(self.name, prediction, target, weight, divisor, **part)


class MeanSquaredError(_Loss):
    """(p - y)**2."""

    name = "mse"


class MeanAbsoluteError(_Loss):
    """|p - y|."""

    name = "mae"


class Huber(_Loss):
    """d**2 / 2 for d = |p - y| up to 1, then d - 1/2 (Huber 1964)."""

    name = "huber"


class BinaryCrossentropy(_Loss):
    """-y log s - (1 - y) log(1 - s) with s = sigmoid(z): for z, max(z, 0) - z y + log(1 + exp(-|z|))."""

    name = "binary_crossentropy"
    fused = ("sigmoid",)


class CategoricalCrossentropy(_Loss):
    """-sum y log s with s = softmax(z): log sum exp z - sum y z for targets that sum to 1."""

    name = "categorical_crossentropy"
    fused = ("softmax",)


LOSSES = {
    loss.name: loss
    for loss in (MeanSquaredError, MeanAbsoluteError, Huber, BinaryCrossentropy, CategoricalCrossentropy)
}


def get_loss(name: str, final_activation: str | None) -> tuple[_Loss, str | None]:
    """(loss, activation to compute predictions with); `final_activation` is None unless the model ends with a Dense."""
    loss = LOSSES[validate.choice("loss", name, LOSSES)]()
    if not loss.fused:
        return loss, final_activation
    if final_activation is None:
        raise ValueError(f"loss: {name} needs a model whose last layer is a Dense")
    if final_activation not in ("linear", *loss.fused):
        raise ValueError(
            f"loss: {name} needs a model that ends with a Dense of activation {loss.fused[0]!r} (probabilities) or "
            f"None (logits); this one ends with {final_activation!r}"
        )
    return loss, "linear"


def accuracy(target: Array, prediction: Array, threshold: float = 0.5) -> float:
    """The share of rows whose largest output is the target's class; for other targets, the share of outputs that are on
    the same side of the threshold as the target is of 0.5.
    """
    if target.ndim == 1:
        return float(np.mean(prediction.argmax(axis=1) == target))
    if target.shape[1] > 1 and np.allclose(target.sum(axis=1), 1) and prediction.shape[1] > 1:
        return float(np.mean(prediction.argmax(axis=1) == target.argmax(axis=1)))
    return float(np.mean((prediction > threshold) == (target > 0.5)))


def mean_absolute_error(target: Array, prediction: Array) -> float:
    """The mean of |p - y|."""
    return float(np.mean(np.abs(prediction - target), dtype=np.float64))


def mean_squared_error(target: Array, prediction: Array) -> float:
    """The mean of (p - y)**2."""
    return float(np.mean((prediction - target) ** 2, dtype=np.float64))


METRICS = {"accuracy": accuracy, "mae": mean_absolute_error, "mse": mean_squared_error}


def get_metrics(metrics: Any, logits: bool = False) -> dict[str, Metric]:
    """A dict of name to function from names and functions ``f(y_true, y_pred) -> float``.

    `logits` says that outputs above 0, not above one half, mean yes.
    """
    if metrics is None:
        return {}
    if isinstance(metrics, str) or callable(metrics):
        metrics = (metrics,)
    found: dict[str, Metric] = {}
    for metric in metrics:
        if callable(metric):
            name = base = getattr(metric, "__name__", type(metric).__name__)
            while name in found:
                name = f"{base}_{len(found) + 1}"
            found[name] = metric
        else:
            found[metric] = METRICS[validate.choice("metrics", metric, METRICS)]
            if metric == "accuracy" and logits:
                found[metric] = functools.partial(accuracy, threshold=0.0)
    return found
