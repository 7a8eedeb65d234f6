"""An LSTM's training in a memory budget: no tape is kept, the backward pass runs again what it needs, in segments."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lstmx.functional import allocate, kernels, segments
from lstmx.functional.context import EpisodeContext
from lstmx.functional.engine import get_engine
from lstmx.functional.segments import Form, Timeline, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from lstmx._types import Array
    from lstmx.functional.context import SequenceContext
    from lstmx.functional.segments import Plan
    from lstmx.layers.base import Run


class Recompute:
    """What `lstmx.LSTM` does with packed rows in segments of time.

    Layers that read from the first step run through a segment together: states between segments are all that is kept.
    Where a direction reads from the end, a layer must have been read as a whole before the next one begins: the inputs
    of all layers are kept, and each direction of a layer has segments of its own, from where it begins.
    """

    def _whole_size(self, batch: int, longest: int, rows: int) -> int:
        """Bytes that forward and backward take at their peak, on a batch of N sequences and so many rows."""
        layers, size, wide = self.num_layers, self.dtype.itemsize, self.output_size()
        scratch, tape = self._sizes(batch, rows, longest, True)
        parted = self._parts_kept()
        dropped = (layers - 1) * rows * wide if self.dropout else 0
        outputs = (layers + parted) * rows * wide + rows * (self.input_size + wide)  # of layers; x packed, y given
        masked = 3 * self.size if self.cell.weight_dropout else 0  # a copy, packed for both passes
        states = 4 * batch * self.state_width(self.input_size)
        gradients = self.size + rows * 2 * (self.input_size + wide)
        return (dropped + masked + outputs + states + gradients) * size + tape + scratch

    def _parts_kept(self) -> int:
        """Arrays (rows, wide) beside the merged outputs; of a product all outputs are kept, and gradients overlap."""
        layers = self.num_layers
        return {"concat": 0, "mul": 2 * layers + 3 * (layers > 1)}.get(self.merge, 1)

    def _segmented_size(self, batch: int, longest: int, rows: int, steps: int) -> int:
        """The same in segments of so many steps."""
        size, wide, steps = self.dtype.itemsize, self.output_size(), min(steps, longest)
        part = min(batch * steps, rows)
        states = (-(-longest // steps) + 4 if steps else 4) * batch * self.state_width(self.input_size)
        numbers = 2 * rows * (self.input_size + wide) + states + self.size  # x, dx, y, dy
        if self.causal:
            room = self.room(batch, part, steps, self.input_size, size) + 16 * 8 * part  # and where rows are
            return (numbers + part * 2 * (self.input_size + wide)) * size + room + segments.PYTHON
        layers, inner = self.num_layers, {"concat": 0, "mul": 4}.get(self.merge, 2)
        scratch, tape = self._sizes(batch, part, steps, True)
        tape //= layers * self._directions  # of one direction
        kept = (layers - 1) * (1 + bool(self.dropout)) + layers * inner + 3
        places = 5 * 8 * rows * bool(any(self.cell.zoneout) or (layers > 1 and self.dropout))
        numbers += rows * wide * kept + part * self._outputs * (1 + 3 * any(self.cell.zoneout)) + 5 * self.size
        return numbers * size + scratch + 2 * tape + places + segments.PYTHON

    def _plan(self, batch: int, longest: int, rows: int, budget: int) -> tuple[Plan | None, Plan]:
        """(the longest segments that keep to a budget, or None; the smallest there are), each a `Plan`."""
        whole = self._whole_size(batch, longest, rows)
        return segments.plan(
            batch, longest, budget, whole, lambda steps: self._segmented_size(batch, longest, rows, steps)
        )  # fmt: skip

    def _forward_in(
        self, rows: Any, context: SequenceContext, h: Array, c: Array, run: Run, steps: int, every: bool
    ) -> tuple[Any, Any]:
        """(y, or of every layer, in the caller's form; what `_backward_in` needs). h and c become the final state."""
        timeline = Timeline(context.lengths, context if isinstance(context, EpisodeContext) else None)
        cuts = timeline.cut(steps)
        if not self.causal:
            return self._forward_sides(rows, context, timeline, cuts, h, c, run, every)
        form, states = Form(context), []
        found = [form.zeros(self.output_size(), self.dtype) for _ in range(self.num_layers if every else 1)]
        for cut in cuts:
            states.append((h.copy(), c.copy()))
            outputs: Any
            segment, outputs = timeline.segment(*cut), [] if every else None
            y, _ = self._run(rows[pieces(timeline, cut)], segment, h, c, run, outputs)
            for part, to in zip(outputs if every else [y], found, strict=True):
                form.write(segment, part, to)
        found = [form.give(y) for y in found]
        return (found if every else found[0]), (rows, timeline, cuts, states, run)

    def _backward_in(
        self,
        kept: Any,
        context: SequenceContext,
        dy: Any,
        dh: Array,
        dc: Array,
        out: Any,
        below: list[Any] | None,
    ) -> Any:
        """dx in the caller's form; `dy` and `below` are arrays in it, too, or None. Else as `_run_backward`."""
        if not self.causal:
            return self._backward_sides(kept, context, dy, dh, dc, out, below)
        rows, timeline, cuts, states, run = kept
        form = Form(context)
        dx = form.zeros(self.input_size, self.dtype)
        every = [None if a is None else form.joined(a) for a in [*(below or ()), dy]]
        size, sums = None, {}  # type: ignore[var-annotated]
        for k in reversed(range(len(cuts))):
            segment = timeline.segment(*cuts[k])
            if segment.rows != size:
                allocate.spare.clear()  # of memory kept for arrays of other sizes
            size = segment.rows
            h, c = (a.copy() for a in states[k])
            _, tape = self._run(rows[pieces(timeline, cuts[k])], segment, h, c, run._replace(keep=True))
            *under, own = [None if a is None else form.read(segment, a) for a in every]
            part = self._run_backward(
                tape, segment, own, dh, dc, out, below=under or None, add=k < len(cuts) - 1, more=k > 0, sums=sums
            )
            form.write(segment, part, dx)
            del tape, own, under, part
        return form.give(dx)

    def _sides(self, timeline: Timeline, cuts: list[tuple[int, int]], reverse: bool) -> Iterator[Any]:
        """The segments of a direction in its own order: counted from its first step."""
        longest = timeline.longest
        for start, stop in cuts:
            cut = (longest - stop, longest - start) if reverse else (start, stop)
            yield timeline.segment(*cut), pieces(timeline, cut)

    def _forward_sides(
        self,
        rows: Any,
        context: SequenceContext,
        timeline: Timeline,
        cuts: list[tuple[int, int]],
        h: Array,
        c: Array,
        run: Run,
        every: bool,
    ) -> tuple[Any, Any]:
        kept, outputs = [], []
        for layer in range(self.num_layers):
            drop = self._dropped(layer, run.key)
            if drop is not None:
                rows = kernels.dropout(rows, self.dropout, drop, context)
            y, columns = self._room(len(rows))
            states = []
            for direction, reverse in enumerate(self.reversed):
                k = layer * self.directions + direction
                weights = self._weights(layer, direction, run.parameters, run.key)
                own = []
                for segment, part in self._sides(timeline, cuts, reverse):
                    own.append((h[k].copy(), c[k].copy()))
                    get_engine().forward(rows[part], weights, segment, reverse, h[k], c[k], columns[direction][part],
                                         False, self._drawn(run.key, k, weights, segment))  # fmt: skip
                states.append(own)
            y = self._merged(columns) if y is None else y
            kept.append((rows, drop, columns if self.merge == "mul" else None, states))
            rows = y
            if every:
                outputs.append(context.unpack(y))
        return (outputs if every else context.unpack(rows)), (kept, timeline, cuts, run)

    def _backward_sides(
        self,
        kept: Any,
        context: SequenceContext,
        dy: Any,
        dh: Array,
        dc: Array,
        out: Any,
        below: list[Any] | None,
    ) -> Any:
        layers, timeline, cuts, run = kept
        dy = None if dy is None else context.pack(dy, own=True)
        for layer in reversed(range(self.num_layers)):
            rows, drop, columns, states = layers[layer]
            dx = allocate.aligned(rows.shape, self.dtype)
            parts = self._parted(dy, columns)
            for direction in range(self.directions):
                self._backward_side(
                    rows, timeline, cuts, run, (layer, direction), states[direction], parts[direction], dh, dc, dx, out
                )
            if drop is not None:
                kernels.dropout(dx, self.dropout, drop, context, out=dx)
            dy = dx
            if layer and below is not None and below[layer - 1] is not None:
                dy += context.pack(below[layer - 1])
        return context.unpack(dy)  # type: ignore[arg-type]

    def _backward_side(
        self,
        rows: Any,
        timeline: Timeline,
        cuts: list[tuple[int, int]],
        run: Run,
        place: Any,
        states: Any,
        dy: Any,
        dh: Array,
        dc: Array,
        dx: Array,
        out: Any,
    ) -> None:
        """One direction of one layer: each segment again, from the last that it reads to the first."""
        layer, direction = place
        k, reverse, engine = layer * self.directions + direction, self.reversed[direction], get_engine()
        weights = self._weights(layer, direction, run.parameters, run.key)
        gradients, sums = self._gradients(out, layer, direction), None
        for j, (segment, part) in reversed(list(enumerate(self._sides(timeline, cuts, reverse)))):
            h, c = (a.copy() for a in states[j])
            masks = self._drawn(run.key, k, weights, segment)
            y = allocate.aligned((segment.rows, h.shape[1]), self.dtype, reuse=True)
            slabs = engine.forward(rows[part], weights, segment, reverse, h, c, y, True, masks)
            sums = engine.backward(
                rows[part], weights, segment, reverse, slabs, None if dy is None else dy[part], dh[k], dc[k], dx[part],
                direction > 0, gradients, add=j < len(cuts) - 1, sums=sums, more=j > 0,
            )  # fmt: skip
            del slabs, y, masks
        self._drop_gradient(gradients, run.key, layer, direction)
