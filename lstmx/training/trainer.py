"""The training loop: batches, loss, gradients, clipping, optimiser, early stopping, progress.

A `Trainer` needs of a net only ``forward_rows``, ``backward_rows``, ``layers`` and their parameters, and of data the
``batches`` of each epoch, whether those are parts of arrays or come from a source (`lstmx.data.source`). All dense
parameters lie in one flat buffer with one flat gradient beside it, so that norm, clipping and optimiser are single
passes; the layers see views. Everything that changes during training is in `TrainerState`, which pickles: training
goes on from it to the same bits.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import kernels
from lstmx.functional.context import PooledContext
from lstmx.functional.messages import warn
from lstmx.layers import Run
from lstmx.training import truncated
from lstmx.training.callbacks import History
from lstmx.training.parameters import Parameters, draw_keys
from lstmx.training.ranks import Alone
from lstmx.training.shards import Sharded
from lstmx.training.stopping import EarlyStopping
from lstmx.training.updates import Part, Whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, NoReturn

    from lstmx._types import Array, Arrays, Ints
    from lstmx.layers.simple import RowGradient
    from lstmx.training.callbacks import Callback
    from lstmx.training.progress import Progress
    from lstmx.training.updates import Update


@dataclass
class TrainerState:
    """All that changes during training. Arrays, numbers and a generator: it pickles."""

    values: Array  # the flat dense parameters
    tables: Arrays  # embeddings, by parameter name
    moments: Arrays  # of the flat parameters, by name
    table_moments: dict[str, Arrays]  # of the embeddings: parameter name -> name -> array
    rng: np.random.Generator
    epoch: int = 0
    updates: int = 0
    best: dict[str, Any] | None = None  # "values" and "tables" of the best epoch
    history: History = field(default_factory=History)
    memory: dict[str, Any] = field(default_factory=dict)  # plain numbers of a `Watcher`
    reason: str | None = None  # why it has ended training

    def keep(self) -> None:
        """Keep the present weights as the best."""
        self.best = {"values": self.values.copy(), "tables": {name: t.copy() for name, t in self.tables.items()}}


class Trainer:
    """One run of training; callbacks see it."""

    after_failure = "The last finite weights are kept"  # what an error says of them
    warning = UserWarning  # of what kind the warning of divergence is
    # Training has diverged if an epoch's mean loss is more than so many times the first batch's loss, and so many times
    # what it would be if all outputs were 0. Noise does not do that: outputs are then 31 times as large as the targets
    # (squared error), or true labels have a probability of exp(-693) (cross-entropy). The loss of zeros tells how large
    # a loss may well become where the first is next to nothing; the first loss, where targets are next to nothing.
    GROWTH = 1000

    def __init__(
        self,
        model: Any,
        data: Any,
        loss: tuple[Any, str | None],
        optimizer: Any,
        *,
        batch_size: int,
        shuffle: Any = True,
        validation: Any = None,
        metrics: Any = None,
        score: Any = None,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        early_stopping: Any = None,
        callbacks: Sequence[Callback] = (),
        progress: Progress | None = None,
        monitor: Any = None,
        way: Any = None,
        ranks: Any = None,
        rng: Any = None,
        state: TrainerState | None = None,
    ) -> None:
        self.model, self.data, self.validation = model, data, validation
        self.loss, self.activation = loss
        self.optimizer, self.batch_size, self.shuffle = optimizer, batch_size, shuffle
        self.metrics, self.score = metrics or {}, score  # score(targets, outputs, weights) of the validation data
        self.clip_norm, self.clip_value = clip_norm, clip_value
        watched = isinstance(early_stopping, EarlyStopping)
        self.watcher = early_stopping.watcher(validation is not None) if watched else early_stopping
        self.callbacks, self.progress, self.monitor = callbacks, progress, monitor
        self.ranks = Alone() if ranks is None else ranks  # the processes that train together
        way = Whole() if way is None else way  # how updates are made of a batch, or Truncated or Recomputed
        self.way = way if self.ranks.shards is None else Sharded(way, self.ranks)
        self.parameters = Parameters(model)
        self.state = state if state is not None else self._fresh_state(rng)
        if self.watcher is not None and not self.state.memory:
            self.state.memory = self.watcher.start()
        self._stop = False
        self._out = self.parameters.outputs()
        self._spans = self._cut()
        self._rate = None if callable(optimizer.learning_rate) else optimizer.rate(0)
        self.rate: float | None = None  # of the last update
        self.losses = list(self.state.history.history.get("loss", ()))  # of earlier epochs
        self.diverged = False
        self._first: Any = None
        self._limit: Any = None
        self._zero_loss = 0.0  # the sum over the first epoch if all outputs were 0

    def _fresh_state(self, rng: Any) -> TrainerState:
        values, tables = self.parameters.read()
        return TrainerState(
            values, tables,
            {m: np.zeros_like(values) for m in self.optimizer.moments},
            {name: {m: np.zeros_like(t) for m in self.optimizer.moments} for name, t in tables.items()},
            rng,
        )  # fmt: skip

    def _cut(self) -> list[tuple[Array, Array, Arrays, bool]]:
        """(parameters, gradient, moments, decays) of every span of the flat buffers that decays alike."""
        values, moments, gradient = self.state.values, self.state.moments, self.parameters.gradient
        return [
            (values[place], gradient[place], {name: m[place] for name, m in moments.items()}, decays)
            for place, decays in self.parameters.spans(self.optimizer)
        ]

    @property
    def rank(self) -> int:
        """Which of the processes that train together this one is, from 0."""
        return self.ranks.rank

    def stop(self) -> None:
        """End training after this epoch."""
        self._stop = True

    def run(self, epochs: int) -> History:
        """Train up to `epochs` epochs in all. Returns the history."""
        state, history = self.state, self.state.history
        self._check_monitor()
        self.ranks.agree(lambda: self._terms(epochs))
        self.ranks.share_parameters(state)
        history.stopped = state.reason = None
        self.parameters.bind(state.values, state.tables)
        try:
            self._call("on_train_begin")
            stop = self.ranks.any(self._stop)
            while state.epoch < epochs and history.stopped is None:
                if stop:
                    history.stopped = "callback"
                    break
                self._one_epoch(epochs)
        except BaseException as error:
            history.stopped = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            self.ranks.end(error)
            raise
        finally:
            self._finish()
        return history

    def _one_epoch(self, epochs: int) -> None:
        state, history = self.state, self.state.history
        epoch = state.epoch
        self._call("on_epoch_begin", epoch)
        logs, sequences = self._epoch(epoch, epochs)
        if not sequences:
            history.stopped = "exhausted"
            return
        history.append(logs)
        go_on = self.watcher is None or self.watcher.judge(state, logs, sequences)
        state.epoch += 1
        stops = [bool(callback.on_epoch_end(self, epoch, logs)) for callback in self.callbacks]
        if self.ranks.any(any(stops) or self._stop):
            history.stopped = "callback"
        elif not go_on:
            history.stopped = "early"
        elif self.data.exhausted:
            history.stopped = "exhausted"

    def _finish(self) -> None:
        self.settle()
        try:
            if self.progress is not None:
                self.progress.close(self.state.reason)
            self._call("on_train_end")
        finally:
            for data in filter(None, (self.data, self.validation)):
                data.close(self.state.history.stopped is not None)

    def settle(self) -> None:
        """The layers get copies: of the best weights if those are kept, else of the last. The state stays as it is."""
        last: dict[str, Any] = {"values": self.state.values, "tables": self.state.tables}
        chosen = self.state.best or last
        self.parameters.freeze(chosen["values"].copy(), {name: t.copy() for name, t in chosen["tables"].items()})

    def _call(self, event: str, *args: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, *args)

    def _epoch(self, epoch: int, epochs: int) -> tuple[Any, int]:
        """(what it has measured, on how many sequences); (None, 0) if there was no batch any more."""
        if self.progress is not None:
            self.progress.begin(epoch, epochs, self.data.count)
        outputs: list[Any]
        total, weight, sequences, outputs = 0.0, 0.0, 0, []
        self.rate = self.learning_rate()
        for number, part in enumerate(self.data.batches(self.batch_size, self.shuffle, self.state.rng)):
            size, loss, batch_weight = self._batch(part, (epoch, number), outputs)
            total, weight, sequences = total + loss, weight + batch_weight, sequences + size
            if self._first is None and batch_weight:
                self._first = self.losses[0] if self.losses else loss / batch_weight
            if self.progress is not None:
                self.progress.advance(size, total / weight if weight else 0.0)
            self._call("on_batch_end", number, loss / batch_weight if batch_weight else 0.0)
        if not sequences:
            return None, 0
        logs = {"loss": total / weight if weight else 0.0}
        if self.metrics:
            seen = self.way.collect(outputs)
            logs |= self.ranks.of_first(lambda: self._measure(seen))
        if weight:
            self._watch_growth(logs["loss"], weight, epoch)
        if self.validation is not None:
            logs |= {f"val_{name}": value for name, value in self.evaluate(self.validation).items()}
            if self.score is None and not np.isfinite(logs["val_loss"]):
                raise FloatingPointError(
                    f"the validation loss is {logs['val_loss']} in epoch {epoch + 1}: the validation data hold NaN or "
                    "infinite values, or training diverged. The last finite weights are kept"
                )
        logs["learning_rate"] = self.rate
        if self.progress is not None:
            self.progress.end(logs)
        return (logs if self.monitor is None else logs | self.monitor.end_epoch(self, epoch)), sequences

    @property
    def compares_zeros(self) -> bool:
        """Whether the loss is wanted that there would be if all outputs were 0: in the first epoch."""
        return self._limit is None

    def loss_of_zeros(self, prediction: Array, target: Array, weight: Array) -> float:
        """That loss, of the rows of these predictions, if it is wanted; else 0."""
        return self.loss.total(np.zeros_like(prediction), target, weight)[0] if self.compares_zeros else 0.0

    def _watch_growth(self, loss: float, weight: float, epoch: int) -> None:
        """Warn, once, if the loss has grown by orders of magnitude."""
        if self._limit is None:
            self._zero_loss /= weight
            self._limit = self.GROWTH * max(self._first, self._zero_loss)
            self.diverged = max(self.losses, default=0.0) > self._limit  # and said so then
        if loss > self._limit and not self.diverged:
            self.diverged = True
            if self.rank:
                return  # the first one says so
            clip = ", or set clip_norm" if self.clip_norm is None else f" or clip_norm ({self.clip_norm:g})"
            warn(f"the training loss is {loss:.3g} in epoch {epoch + 1}, but was {self._first:.3g} at first, and is "
                 f"{self._zero_loss:.3g} where all outputs are 0: training diverges. Lower the learning rate "
                 f"({self.rate:g}){clip}", self.warning)  # fmt: skip

    def learning_rate(self) -> float:
        """Of the update to come."""
        if self.watcher is not None and self.watcher.schedule != "constant":
            return float(self.state.memory["rate"])
        return self.optimizer.rate(self.state.updates) if self._rate is None else self._rate

    def _batch(self, part: Any, place: tuple[Any, ...], outputs: Any) -> tuple[int, float, float]:
        """All updates of a batch; returns (sequences, sum of weighted losses, sum of weights)."""
        (data, chosen), keys = part, draw_keys(self.state.rng, len(self.model.layers))
        sequences, total, weights = 0, 0.0, 0.0
        for update in self.way.updates(self, Part(data, chosen, place, keys), outputs):
            sequences, total, weights = max(sequences, update.sequences), total + update.loss, weights + update.weights
            self._zero_loss += update.zeros
            if update.weights:
                self._step(update)
            if update.more and self.progress is not None:
                self.progress.advance(0, total / weights if weights else 0.0)
        return sequences, total, weights

    def fresh_outputs(self) -> list[dict[str, Any]]:
        """Where the gradients of an update go."""
        for k, name in self.parameters.embeddings:
            self._out[k][name] = None
        return self._out

    def take_tables(self) -> list[RowGradient]:
        """The gradients of embeddings that an update has left."""
        return [self._out[k][name] for k, name in self.parameters.embeddings]

    def give_tables(self, gradients: list[RowGradient]) -> None:
        """Others in their place."""
        for (k, name), gradient in zip(self.parameters.embeddings, gradients, strict=True):
            self._out[k][name] = gradient

    def _step(self, update: Update) -> None:
        """An update with the gradients that the way of training has left."""
        tables = {f"{k}.{name}": self._out[k][name] for k, name in self.parameters.embeddings}
        self.rate = self.learning_rate() if update.rate is None else update.rate
        self._update(tables, update.where, update.batch)
        self.state.updates += 1

    def fail(self, what: str, value: Any, place: tuple[Any, ...], batch: Any, together: bool = False) -> NoReturn:
        """Raise the error of a number that is not finite, which names what in the batch is not: if that is here, or,
        where all ranks fail `together`, on any of them.
        """
        found = batch() if callable(batch) else batch  # None: it is on other ranks
        cause = None if found is None else _not_finite(*found)
        where = f"epoch {place[0] + 1}, batch {place[1] + 1}" + ("" if found is None else found[0].origin)
        where += f", steps {place[2]} to {place[3] - 1}" if len(place) > 2 else ""
        if together:
            cause, where = self.ranks.all([((cause is None, self.rank), (cause, where))])[0]
        if cause is None:
            cause = "training diverged; lower the learning rate, set clip_norm, or scale the data"
        raise FloatingPointError(f"{what} is {value} in {where}: {cause}. {self.after_failure}")

    def _update(self, tables: dict[str, Any], where: Any, batch: Any) -> None:
        """Clip, and step. Weights that would not be finite are not kept."""
        state, optimizer, rate = self.state, self.optimizer, self.rate
        gradients = [self.parameters.gradient, *(g.values for g in tables.values())]
        if self.clip_value is not None:
            for g in gradients:
                np.clip(g, -self.clip_value, self.clip_value, out=g)
        norm = math.sqrt(sum(kernels.sum_of_squares(g) for g in gradients))
        if not math.isfinite(norm):
            self.fail("the gradient's norm", norm, where, batch, together=True)
        scale = self.clip_norm / norm if self.clip_norm is not None and norm > self.clip_norm else 1.0
        count = state.updates + 1
        finite = True
        for p, g, moments, decays in self._spans:
            finite &= optimizer.step(p, g, moments, count, rate, scale, decays)
        touched = {}
        for name, g in tables.items():
            if len(g.rows):
                buffers = {m: a[g.rows] for m, a in state.table_moments[name].items()}
                p = state.tables[name][g.rows]
                moments = {m: a.reshape(-1) for m, a in buffers.items()}
                finite &= optimizer.step(p.reshape(-1), g.values.reshape(-1), moments, count, rate, scale, True)
                touched[name] = p, buffers
        if not finite:
            np.copyto(state.values, self.parameters.gradient)  # where the steps have left what the weights were
            self.fail("a weight", "infinite or NaN", where, batch, together=True)
        self.parameters.changed()
        for name, (p, buffers) in touched.items():
            state.tables[name][tables[name].rows] = p
            for m, a in buffers.items():
                state.table_moments[name][m][tables[name].rows] = a

    def _measure(self, outputs: Any) -> dict[str, float]:
        if not self.metrics or not outputs:
            return {}
        target = np.concatenate([t for t, _ in outputs])
        prediction = np.concatenate([p for _, p in outputs])
        found = {name: metric(target, prediction) for name, metric in self.metrics.items()}
        for name, value in found.items():
            if np.ndim(value):
                raise TypeError(f"metrics: {name} returned an array of shape {np.shape(value)}, must be one number")
        return {name: float(value) for name, value in found.items()}

    def evaluate(self, data: Any) -> Any:
        """Loss, metrics and score on `data`, without dropout."""
        loss, outputs = self.outputs(data, bool(self.metrics) or self.score is not None)
        measured = self.ranks.of_first(lambda: self._judge(outputs)) if self.metrics or self.score is not None else {}
        return {"loss": loss} | measured

    def _judge(self, outputs: list[Any]) -> dict[str, float]:
        """Metrics and score."""
        found = self._measure([(target, prediction) for target, prediction, _ in outputs])
        if self.score is not None:
            found["score"] = self.score(*(np.concatenate(parts) for parts in zip(*outputs, strict=True)))
        return found

    def outputs(self, data: Any, keep: bool = True) -> tuple[float, list[Any]]:
        """(loss, [(targets, predictions, weights) of every batch]) on `data`, without dropout; the second on the first
        rank alone.
        """
        sums: list[Any] = []  # (number of the batch, (loss, weight))
        outputs: list[Any] = []  # (number of the batch, outputs)
        for number, (part, chosen) in enumerate(data.batches(max(self.batch_size, 64), False, None)):
            if number % self.ranks.size != self.ranks.rank:
                continue
            seen: list[Any] = []
            sums.append((number, self._evaluate(part, chosen, seen if keep else None)))
            outputs.append((number, seen))
        total = weight = 0.0
        for loss, w in self.ranks.all(sums):
            total, weight = total + loss, weight + w
        seen = [one for part in self.ranks.gathered(outputs) for one in part] if keep else []
        return (total / weight if weight else 0.0), seen

    def _evaluate(self, data: Any, chosen: Ints, outputs: Any) -> tuple[float, float]:
        """(sum of weighted losses, sum of weights) of a batch; its outputs are appended, if they are wanted."""
        steps = self.way.steps(len(chosen), int(data.inputs.lengths[chosen].max(initial=0)))
        if steps is not None:
            return truncated.evaluate(self, data, chosen, steps, outputs)
        rows, context, target, weight = data.batch(chosen)
        run = Run(activation=self.activation, own_steps=True)
        prediction = self.model.forward_rows(rows, context, None, run)[0]
        loss = self.loss.total(prediction, target, weight)[0]
        if outputs is not None:
            outputs.append((target, self.model.finish(prediction, self.activation), weight))
        return loss, kernels.total(weight)

    def _terms(self, epochs: int) -> dict[str, Any]:
        """What must be the same on all ranks, by name, as text."""
        terms: dict[str, Any] = {"training data": self.data.terms()}
        terms |= {
            f"layers[{k}]": f"{type(layer).__name__} {layer.config()}" for k, layer in enumerate(self.model.layers)
        }
        rate = self.optimizer.learning_rate  # a function has no text; all take the first rank's rate
        terms |= {
            "validation data": self.validation and self.validation.terms(),
            "loss": f"{self.loss.name} of {self.activation}",
            "metrics": ", ".join(self.metrics), "score": self.score is not None,
            "optimizer": dataclasses.replace(self.optimizer, learning_rate=0.0) if callable(rate) else self.optimizer,
            "training so far": (self.state.epoch, self.state.updates, self.state.memory),
            "epochs": epochs, "batch_size": self.batch_size, "shuffle": self.shuffle, "clip_norm": self.clip_norm,
            "clip_value": self.clip_value, "early_stopping": self.watcher, **self.way.terms(),
        }  # fmt: skip
        return terms

    def _check_monitor(self) -> None:
        names = ["loss", *self.metrics]
        if self.validation is not None:
            names += [f"val_{name}" for name in names] + ["val_score"] * (self.score is not None)
        if self.watcher is not None and self.watcher.monitor not in names:
            raise ValueError(f"early_stopping: there is no {self.watcher.monitor!r} to monitor, only {names}")


def _not_finite(data: Any, chosen: Ints, context: Any, rows: Array, target: Array) -> str | None:
    """What is not finite in a batch, if anything is, and what to do."""
    cause, per_step = None, data.targets.per_step
    for name, array in (("X", rows), ("y", target)):
        bad = array.dtype.kind == "f" and ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if np.any(bad):
            row = int(np.flatnonzero(bad)[0])
            at = context.places if name == "X" or per_step else PooledContext(context).places
            sequence = int(data.original(chosen)[at[0][row]])
            step = f", step {int(at[1][row])}" if name == "X" or per_step else ""
            cause = (
                f"{name} holds NaN or infinite values, or ones beyond {array.dtype}, in sequence {sequence}{step}; "
                "remove, fill or scale them, and give lengths if it is padding"
            )
    return cause
