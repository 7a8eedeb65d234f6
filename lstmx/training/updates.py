"""What an update of the parameters is made of, and the plain way to make one from a batch.

A way of training gives, of a batch, its updates one after the other: each time it is asked, it leaves gradients in the
buffers of the `Trainer`, which then makes the step. `truncated` and `shards` have other ways.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from lstmx.functional import kernels
from lstmx.layers import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lstmx._types import Array, Ints
    from lstmx.training.trainer import Trainer


class Part(NamedTuple):
    """A batch, or a shard of one.

    Attributes
    ----------
    data : batches.Data
    chosen : ndarray of int
        Its sequences.
    place : tuple
        (epoch, batch).
    keys : ndarray of uint64
        Of dropout, for each layer.
    """

    data: Any
    chosen: Ints
    place: tuple[Any, ...]
    keys: Array


class Update(NamedTuple):
    """What the gradients in the buffers of a trainer are those of.

    Attributes
    ----------
    loss, weights : float
        The sum of weighted losses and that of the weights; both 0 where nothing weighs anything: then there is no step.
    zeros : float
        The loss that there would be if all outputs were 0, while that is wanted.
    sequences : int
        Of the batch.
    where : tuple
        (epoch, batch), or (epoch, batch, start, stop) of steps, for errors.
    batch : callable
        Gives (data, indices, context, rows, target rows) for errors; or None, where these are elsewhere.
    more : bool
        Whether the batch has other updates.
    rate : float, optional
        The learning rate; by default the trainer's own.
    """

    loss: float
    weights: float
    zeros: float
    sequences: int
    where: tuple[Any, ...]
    batch: Callable[[], Any]
    more: bool = False
    rate: float | None = None


class Whole:
    """One update for a batch, from one forward and one backward pass."""

    def updates(self, trainer: Trainer, part: Part, outputs: list[Any], mean: bool = True) -> Iterator[Update]:
        """The updates of a batch: this way one.

        Parameters
        ----------
        trainer : Trainer
        part : Part
        outputs : list
            If there are metrics, (targets, predictions) are appended.
        mean : bool
            Whether the gradient is that of the mean loss, else that of the sum.
        """
        yield self._whole(trainer, part, outputs, mean)

    @staticmethod
    def _whole(trainer: Trainer, part: Part, outputs: list[Any], mean: bool) -> Update:
        data, chosen, place, keys = part
        model = trainer.model
        rows, context, target, weight = data.batch(chosen)
        if trainer.monitor is not None:
            trainer.monitor.see(trainer, rows, context, target, weight)
        parameters = [layer.store.snapshot for layer in model.layers]  # nobody else may set them now
        run = Run(True, keys, parameters, trainer.activation, own_steps=True)
        prediction, _, _, tape = model.forward_rows(rows, context, None, run)
        weights = kernels.total(weight)
        loss, gradient = trainer.loss.total(prediction, target, weight, weights if mean else 1.0)
        if not math.isfinite(loss):
            trainer.fail("loss", loss, place, (data, chosen, context, rows, target))
        zeros = trainer.loss_of_zeros(prediction, target, weight)
        if trainer.metrics:
            outputs.append((target, model.finish(prediction, trainer.activation)))
        if weights:
            model.backward_rows(tape, gradient, trainer.fresh_outputs())
        return Update(loss * (weights > 0), weights, zeros, len(chosen), place, lambda: _read(data, chosen))

    def terms(self) -> dict[str, Any]:
        """What of it must be the same on all ranks, by name."""
        return {}

    def collect(self, outputs: list[Any]) -> list[Any]:
        """The outputs of an epoch, for the metrics."""
        return outputs

    def steps(self, batch: int, longest: int) -> int | None:
        """Of a segment in which N sequences are evaluated; None: as a whole."""
        return None


def _read(data: Any, chosen: Ints) -> tuple[Any, ...]:
    """What errors want to see of a batch."""
    rows, context, target, _ = data.batch(chosen)
    return data, chosen, context, rows, target
