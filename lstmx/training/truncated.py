"""Training on long sequences in segments of time: truncated back-propagation, and exact one in a memory budget."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import allocate, kernels, validate
from lstmx.layers import Run, layout
from lstmx.training.updates import Update, Whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lstmx._types import Array, Ints, State
    from lstmx.functional.segments import Segment
    from lstmx.training.trainer import Trainer
    from lstmx.training.updates import Part


ROWS = 4096  # of a segment of validation data


def read_truncation(value: Any) -> tuple[int, int]:
    """(k1, k2) of `tbptt`, from itself or one integer for both."""
    pair = value if isinstance(value, tuple | list) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"tbptt: got {value!r}, must be a number of steps k, or a pair (k1, k2)")
    k1, k2 = (validate.count("tbptt", k) for k in pair)
    if k2 % k1:
        pairs = sorted({(k1, max(k2 // k1, 1) * k1), (k1, -(-k2 // k1) * k1)})
        raise ValueError(
            f"tbptt: got k1 = {k1} and k2 = {k2}, but k2 must be a multiple of k1, so that a gradient goes back to a "
            f"state that was kept; use {' or '.join(map(str, pairs))}"
        )
    return k1, k2


def refuse(model: Any, name: str, monitor: str | None) -> None:
    """An error where a model cannot be trained in segments, or what is to be measured needs whole sequences."""
    if not model.causal:
        raise ValueError(
            f"{name}: this model reads sequences from their end (bidirectional, reverse, or Reversed), which segments "
            "do not have; use LSTMs of one direction, or leave it out and give shorter sequences"
        )
    if monitor is not None:
        raise ValueError(f'{name}: monitor="gradients" measures on whole sequences; leave out one of the two')


class Batch:
    """A batch that is read in segments, and what a pass over one of them does."""

    def __init__(self, trainer: Trainer, data: Any, chosen: Ints) -> None:
        self.trainer, self.data, self.chosen = trainer, data, chosen
        self.model, self.per_step = trainer.model, trainer.model.per_step
        self.timeline = data.timeline(chosen)
        self.pooled: Any = None if self.per_step else data.judge(chosen, self.timeline.segment(0, 1))

    @property
    def rows(self) -> int:
        """Rows of predictions that have a loss, of all segments: per step, or of a model with pooling per sequence."""
        return self.timeline.rows_before(self.timeline.longest) if self.per_step else self.timeline.batch

    def rows_before(self, segment: Segment) -> int:
        """How many of them come before those of a segment."""
        return self.timeline.rows_before(segment.start) if self.per_step else 0

    def judge(self, segment: Segment) -> tuple[Array, Array]:
        """(target rows, weight rows) of a segment; of a model with pooling those of all sequences."""
        return self.data.judge(self.chosen, segment) if self.per_step else self.pooled

    def forward(self, segment: Segment, state: State, keys: Any = None, keep: bool = False) -> tuple[Array, State, Any]:
        """(predictions, state, tape) of a segment after a state."""
        parameters = [layer.store.snapshot for layer in self.model.layers]  # nobody else may set them now
        run = Run(keep, keys, parameters, self.trainer.activation, own_steps=True)
        rows = self.data.read(self.chosen, segment)
        prediction, _, state, tape = self.model.forward_rows(rows, segment, state, run)
        return prediction, state, tape

    def where(self, place: tuple[Any, ...], segment: Segment) -> tuple[Any, ...]:
        """What errors say of a segment."""
        return *place, segment.start, segment.stop

    def blame(self, what: str, value: float, place: tuple[Any, ...], cuts: Any) -> None:
        """Raise the error of a number that is not finite, for the first segment whose data are not."""
        for cut in cuts:
            segment = self.timeline.segment(*cut)
            seen = self.seen(segment)
            if cut == cuts[-1] or not all(map(_finite, seen[3:])):
                self.trainer.fail(what, value, self.where(place, segment), seen)

    def seen(self, segment: Segment) -> tuple[Any, ...]:
        """(data, indices of the sequences, context, rows, target rows) of a segment, for an error."""
        return self.data, self.chosen, segment, self.data.read(self.chosen, segment), self.judge(segment)[0]

    def finished(self, prediction: Array) -> Array:
        """Outputs of the model from predictions."""
        return self.model.finish(prediction, self.trainer.activation)


def _finite(array: Array) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


class Truncated(Whole):
    """An update after every k1 steps, whose gradient goes back k2 steps at most.

    The loss is that of the k1 steps. Where k2 > k1, the k2 - k1 steps before are run again with the parameters of the
    moment, from the state that was kept where the gradient ends.

    Parameters
    ----------
    k1, k2 : int
    """

    def __init__(self, k1: int, k2: int) -> None:
        self.k1, self.k2 = k1, k2

    def terms(self) -> dict[str, Any]:
        """As of `Whole`."""
        return {"tbptt": (self.k1, self.k2)}

    def updates(self, trainer: Trainer, part: Part, outputs: list[Any], mean: bool = True) -> Iterator[Update]:
        """As of `Whole`."""
        data, chosen, place, keys = part
        batch = Batch(trainer, data, chosen)
        state, begin, longest = None, 0, batch.timeline.longest
        for start in range(0, max(longest, 1), self.k1):
            stop = min(start + self.k1, longest)
            update, state, begin = self._window(batch, state, begin, start, stop, keys, place, outputs, mean)
            yield update

    def _window(
        self,
        batch: Batch,
        state: State,
        begin: int,
        start: int,
        stop: int,
        keys: Array,
        place: tuple[Any, ...],
        outputs: list[Any],
        mean: bool,
    ) -> tuple[Update, State, int]:
        """The update for the loss of the steps start to stop - 1, from the state before the step `begin`; and the state
        and the step at which the next window begins.
        """
        trainer, timeline = batch.trainer, batch.timeline
        last = timeline.segment(start, stop)
        target, weight, rows = self._judged(batch, last)
        weights = kernels.total(weight)
        following = max(0, start + 2 * self.k1 - self.k2) if stop < timeline.longest else begin  # of the next window
        cuts = [begin, following, stop] if begin < following < stop else [begin, stop]
        segments = [timeline.segment(*cut) for cut in itertools.pairwise(cuts)]
        tapes, after = [], state
        for segment in segments:
            prediction, after, tape = batch.forward(segment, after, keys, keep=weights > 0)
            tapes.append(tape)
            if segment.stop == following:
                state = after
        if batch.per_step:
            rows = slice(int(segment.offsets[start - segment.start]) if segment.steps else 0, None)
        seen = prediction[rows]
        loss, gradient = trainer.loss.total(seen, target, weight, weights if mean else 1.0)
        if not math.isfinite(loss):
            batch.blame("loss", loss, place, [(start, stop)])
        zeros = trainer.loss_of_zeros(seen, target, weight)
        if trainer.metrics and len(seen):
            outputs.append((target, batch.finished(seen)))
        if weights:
            dy = np.zeros_like(prediction)
            dy[rows] = gradient
            self._backward(batch, segments, tapes, dy)
        where, more = batch.where(place, last), stop < timeline.longest
        update = Update(loss * (weights > 0), weights, zeros, len(batch.chosen), where, lambda: batch.seen(last), more)
        return update, state, following

    def _judged(self, batch: Batch, segment: Segment) -> tuple[Array, Array, Any]:
        """(target rows, weight rows, their rows among the predictions) of the loss of a segment; with a pooling layer
        it is that of the sequences that end there.
        """
        if batch.per_step:
            return *batch.judge(segment), None
        target, weight = batch.pooled
        lengths = batch.timeline.sorted
        ends = (lengths > segment.start) & (lengths <= segment.stop)
        rows = np.flatnonzero(ends | (lengths == 0) if segment.start == 0 else ends)
        return target[rows], weight[rows], rows

    @staticmethod
    def _backward(batch: Batch, segments: list[Segment], tapes: list[Any], dy: Any) -> None:
        out, dstate = batch.trainer.fresh_outputs(), None
        for k in reversed(range(len(segments))):
            _, dstate = batch.model.backward_rows(
                tapes.pop(), dy, out, False, dstate, add=k < len(segments) - 1, more=k > 0
            )
            dy = None

    def steps(self, batch: int, longest: int) -> int:
        """Of a segment in which N sequences are evaluated."""
        return max(1, ROWS // max(batch, 1))


class Recomputed(Whole):
    """One update for a batch, in a memory budget: of a pass without a tape the states between segments are kept; then
    each segment, from the last to the first, is run again and back.

    Parameters
    ----------
    budget : int
        Bytes.
    """

    def __init__(self, model: Any, budget: int) -> None:
        self.model, self.budget = model, budget
        self._planned: Any = None  # (N, T) of the batch before, and what was found
        self._steps = 0

    def terms(self) -> dict[str, Any]:
        """As of `Whole`."""
        return {"memory": self.budget}

    def check(self, lengths: Ints, batch_size: int, shards: int = 1) -> None:
        """An error if the batches of these sequences, cut into shards, cannot keep to the budget."""
        for batch in {min(batch_size, len(lengths)), len(lengths) % batch_size}:
            for size in {batch // shards, -(-batch // shards)} - {0}:
                self.plan(size, int(lengths.max(initial=0)))

    def plan(self, batch: int, longest: int) -> int:
        """The steps of a segment of N sequences, the longest of which has so many."""
        if self._planned != (batch, longest):
            found, least = layout.plan(self.model, batch, longest, self.budget)
            if found is None:
                raise ValueError(layout.message(batch, longest, self.budget, least))
            self._planned, self._steps = (batch, longest), found.steps
        return self._steps

    def updates(self, trainer: Trainer, part: Part, outputs: list[Any], mean: bool = True) -> Iterator[Update]:
        """As of `Whole`."""
        data, chosen, place, keys = part
        batch = Batch(trainer, data, chosen)
        steps = self.plan(batch.timeline.batch, batch.timeline.longest)
        if steps >= batch.timeline.longest:
            yield from Whole().updates(trainer, part, outputs, mean)
            return
        cuts = batch.timeline.cut(steps)
        yield self._update(batch, cuts, self._states(batch, cuts, keys), keys, place, outputs, mean)

    @staticmethod
    def _states(batch: Batch, cuts: Any, keys: Array) -> list[State]:
        """The states before all segments."""
        states = [None]
        for cut in cuts[:-1]:
            states.append(batch.forward(batch.timeline.segment(*cut), states[-1], keys)[1])
        return states

    def _update(
        self, batch: Batch, cuts: Any, states: list[State], keys: Array, place: Any, outputs: list[Any], mean: bool
    ) -> Update:
        weights = self._weights(batch, cuts)
        loss, zeros = self._backward(batch, cuts, states, keys, weights, outputs, mean)
        if not math.isfinite(loss):
            batch.blame("loss", loss, place, cuts)
        first = batch.timeline.segment(*cuts[0])
        return Update(loss * (weights > 0), weights, zeros, len(batch.chosen), place, lambda: batch.seen(first))

    @staticmethod
    def _weights(batch: Batch, cuts: Any) -> float:
        """The sum of the weights of all rows."""
        if not batch.per_step:
            return kernels.total(batch.pooled[1])
        if batch.data.weights.are_ones:
            return float(batch.rows)
        found = kernels.Sum(batch.rows)
        for cut in cuts:
            segment = batch.timeline.segment(*cut)
            found.add(batch.rows_before(segment), batch.judge(segment)[1])
        return found.total()

    @staticmethod
    def _backward(
        batch: Batch, cuts: Any, states: list[State], keys: Array, weights: float, outputs: list[Any], mean: bool
    ) -> tuple[float, float]:
        """(the loss, that of zeros), and the gradients: from the last segment to the first."""
        trainer, model, timeline, rows = batch.trainer, batch.model, batch.timeline, batch.rows
        total: Any
        zeros: Any
        total, zeros, out, dstate, seen = None, None, trainer.fresh_outputs(), None, []
        size, last = None, len(cuts) - 1
        for k in reversed(range(len(cuts))):
            segment, dy = timeline.segment(*cuts[k]), None
            if segment.rows != size:
                allocate.spare.clear()  # of memory kept for arrays of other sizes
            size = segment.rows
            prediction, _, tape = batch.forward(segment, states.pop(), keys, keep=weights > 0)
            if batch.per_step or k == last:
                target, weight = batch.judge(segment)
                first = batch.rows_before(segment)
                if total is None:
                    wide = 1 if target.ndim == 1 else prediction.shape[1]
                    total, zeros = kernels.Sum(rows * wide), kernels.Sum(rows * wide)
                _, dy = trainer.loss.total(
                    prediction, target, weight, weights if mean else 1.0, into=total, first=first
                )
                if trainer.compares_zeros:
                    trainer.loss.total(np.zeros_like(prediction), target, weight, into=zeros, first=first)
                if trainer.metrics:
                    seen.append((target, batch.finished(prediction)))
            del prediction
            if weights:
                _, dstate = model.backward_rows(tape, dy, out, False, dstate, add=k < last, more=k > 0)
            del tape, dy
        outputs += reversed(seen)
        return total.total(), zeros.total() if trainer.compares_zeros else 0.0

    def steps(self, batch: int, longest: int) -> int:
        """Of a segment in which N sequences are evaluated."""
        joint = max(longest, 1)
        while joint > 1 and layout.inference(self.model, batch, joint) > self.budget:
            joint = -(-joint // 2)
        return joint


def evaluate(trainer: Trainer, data: Any, chosen: Ints, steps: int, outputs: Any) -> tuple[float, float]:
    """(sum of weighted losses, sum of weights) of a batch in segments of so many steps, without dropout; (targets,
    predictions, weights) of each are appended to `outputs`, if that is a list.
    """
    batch = Batch(trainer, data, chosen)
    timeline, rows, state = batch.timeline, batch.rows, None
    total: Any = None
    weights = kernels.Sum(rows)
    for cut in timeline.cut(steps):
        segment = timeline.segment(*cut)
        prediction, state, _ = batch.forward(segment, state)
        if not batch.per_step and segment.stop < timeline.longest:
            continue
        target, weight = batch.judge(segment)
        first = batch.rows_before(segment)
        total = kernels.Sum(rows * (1 if target.ndim == 1 else prediction.shape[1])) if total is None else total
        trainer.loss.total(prediction, target, weight, into=total, first=first)
        weights.add(first, weight)
        if outputs is not None:
            outputs.append((target, batch.finished(prediction), weight))
    return total.total(), weights.total()
