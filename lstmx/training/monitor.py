"""Watches whether gradients reach the first steps of sequences while a model is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import kernels
from lstmx.functional.cell import suffix
from lstmx.functional.messages import warn
from lstmx.layers import Run
from lstmx.layers.flow import GradientFlow, is_recurrent, norms, room

if TYPE_CHECKING:
    from typing import Any

    from lstmx._types import Array, Context
    from lstmx.training.trainer import Trainer


SMALLEST = 1e-45  # below it there is no float32


class GradientMonitor:
    """Measures how much of the loss's gradient at the last step reaches the first, and warns where it vanishes or
    explodes.

    A measurement is a forward and a backward pass of its own, without dropout, on the batch at hand. Of the gradient
    that enters the highest recurrent layer, what enters where it has read all counts alone: in a model with an output
    per step, or with a mean over steps, every step has a gradient of its own, which would hide what becomes of others.
    Numbers are relative to the norm of that: ``first``, the norm of dL/dc (of an RNN dL/dh) at the step that is read
    first, and ``largest``, that at the step where it is largest.

    Attributes
    ----------
    EVERY : int
        Updates from one measurement to the next: the cost is a fiftieth of training.
    VANISHED, EXPLODED : float
        A `first` below has no part in a float32 sum beside the gradients of later steps; a `largest` above grows by as
        much on its way back.
    """

    EVERY = 50
    VANISHED, EXPLODED = 1e-6, 1e3

    def __init__(self, model: Any) -> None:
        self.model = model
        self.recurrent = [k for k, layer in enumerate(model.layers) if is_recurrent(layer)]
        if not self.recurrent:
            raise ValueError('monitor: "gradients" are those of recurrent layers, but the model has none')
        self._epoch: list[dict[Any, Any]] = []
        self._last: dict[Any, Any] = {}
        self._warned: set[str] = set()

    def see(self, trainer: Trainer, rows: Array, context: Context, target: Array, weight: Array) -> None:
        """Measure, if it is time, on a batch that training is about to use."""
        total = kernels.total(weight)
        if trainer.state.updates % self.EVERY or not total:
            return
        layers, top = self.model.layers, self.recurrent[-1]
        out = trainer.parameters.outputs()
        run = Run(keep=True, activation=trainer.activation, own_steps=True)
        prediction, _, _, tape = self.model.forward_rows(rows, context, None, run)
        _, dy = trainer.loss.total(prediction, target, weight, total)
        for k in reversed(range(top + 1, len(layers))):
            dy, _ = layers[k].backward_rows(tape[k], dy, out[k], True)
        dy = where_all_is_read(dy, tape[top][1], layers[top])
        sent = norms(dy).sum() / max(np.count_nonzero(tape[top][1].lengths), 1)
        unasked = {(top, layers[top].num_layers - 1, d) for d in without_gradient(dy, layers[top])}
        flow = {k: room(layers[k], tape[k][1]) for k in self.recurrent}
        for k in reversed(range(self.recurrent[0], top + 1)):
            more = {"flow": flow[k]} if k in flow else {}
            dy, _ = layers[k].backward_rows(tape[k], dy, out[k], k > self.recurrent[0], **more)
        if sent > 0:
            found = {}
            for k, pairs in flow.items():
                for pair, slabs in pairs.items():
                    if (k, *pair) in unasked:
                        continue
                    found[k, *pair] = self._measure(layers[k], tape[k][1], pair, slabs, sent)
            self._epoch.append(found)

    @staticmethod
    def _measure(layer: Any, context: Context, pair: Any, slabs: Any, sent: float) -> tuple[float, float]:
        """(first, largest) of one layer and direction."""
        quantity: Any = "h" if slabs[1] is None else "c"
        flow = GradientFlow({pair: (context, layer.hidden_size, slabs)})
        rows = slabs[quantity == "c"][:, : layer.hidden_size]
        starts = context.last_rows[0] if layer.reversed[pair[1]] else slice(context.widest)
        with np.errstate(over="ignore", invalid="ignore"):
            first = np.exp(np.log(np.maximum(norms(rows[starts]), SMALLEST)).mean())
            return first / sent, np.nanmax(flow.norms(quantity)[pair]) / sent

    def end_epoch(self, trainer: Trainer, epoch: int) -> dict[str, float]:
        """The numbers of an epoch, by the names that they have in the history; warns, once of each kind, if it must.

        Means are geometric. An epoch without a measurement has the numbers of the one before.
        """
        if self._epoch:
            self._last = {}
            for key in set.intersection(*map(set, self._epoch)):
                logs = np.log(np.maximum([found[key] for found in self._epoch], SMALLEST))
                self._last[key] = tuple(np.exp(logs.mean(axis=0)).tolist())
        self._epoch = []
        for kind, bad, worst in (
            ("vanish", lambda first, largest: first < self.VANISHED, lambda key: self._last[key][0]),
            ("explode", lambda first, largest: not largest <= self.EXPLODED, lambda key: -self._last[key][1]),
        ):
            keys = [key for key, pair in self._last.items() if bad(*pair)]
            if keys and kind not in self._warned:
                self._warned.add(kind)
                self._warn(kind, min(keys, key=worst), trainer, epoch)
        nothing = {(k, *pair): (np.nan,) * 2 for k in self.recurrent for pair in _pairs(self.model.layers[k])}
        return {
            f"{k}.gradient_{what}{suffix(layer, direction)}": value
            for (k, layer, direction), pair in (nothing | self._last).items()
            for what, value in zip(("first", "largest"), pair, strict=True)
        }

    def _warn(self, kind: str, key: Any, trainer: Trainer, epoch: int) -> None:
        k, layer, direction = key
        (first, largest), of = self._last[key], self.model.layers[k]
        where = f"on their way back through layers[{k}] ({type(of).__name__} {suffix(layer, direction)[1:]})"
        if kind == "vanish":
            memory = "begin with a longer memory, by LSTM(..., chrono=T) one of T steps"
            memory = memory if hasattr(of, "cell") else "use an LSTM, whose memory carries gradients"
            warn(f"gradients vanish {where}: in epoch {epoch + 1} a share of {first:.1g} of that at the last step of a "
                 f"sequence reaches the first one, so that nothing is learnt from there. If it matters, {memory}, or "
                 "give shorter sequences", trainer.warning)  # fmt: skip
        else:
            clip = "set clip_norm=1" if trainer.clip_norm is None else f"lower clip_norm ({trainer.clip_norm:g})"
            warn(f"gradients explode {where}: in epoch {epoch + 1} that at the last step of a sequence grows "
                 f"{largest:.1g}-fold. To help, {clip}, lower the learning rate, or begin with smaller recurrent "
                 "weights", trainer.warning)  # fmt: skip


def _pairs(layer: Any) -> list[tuple[int, int]]:
    return [(k, direction) for k in range(layer.num_layers) for direction in range(layer.directions)]


def _columns(dy: Array, layer: Any) -> list[slice]:
    """The columns of dL/dy (S, D*H) of each direction; all of it where they are merged."""
    if getattr(layer, "merge", "concat") != "concat":
        return [slice(None)] * layer.directions
    width = dy.shape[1] // layer.directions
    return [slice(d * width, (d + 1) * width) for d in range(layer.directions)]


def without_gradient(dy: Array, layer: Any) -> list[int]:
    """The directions that a loss does not ask: of two, `Last` reads the second where it has read one step alone."""
    return [d for d, columns in enumerate(_columns(dy, layer)) if not dy[:, columns].any()]


def where_all_is_read(dy: Array, context: Context, layer: Any) -> Array:
    """dL/dy (S, D*H) of a recurrent layer, but 0 at all steps except those where a direction has read its sequence."""
    kept = np.zeros_like(dy)
    for reverse, columns in zip(layer.reversed, _columns(dy, layer), strict=True):
        rows = slice(context.widest) if reverse else context.last_rows[0]
        kept[rows, columns] = dy[rows, columns]
    return kept
