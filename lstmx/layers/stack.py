"""The layers and directions of an LSTM on packed rows: the layer protocol, and the arithmetic around the engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import allocate, kept, kernels, masks, validate
from lstmx.functional.cell import INITIAL, suffix
from lstmx.functional.engine import get_engine
from lstmx.functional.panels import Weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from lstmx._types import Array, Arrays, Context, DType, Pair, Shape, State
    from lstmx.functional.context import SequenceContext
    from lstmx.layers.base import Run


class Stack:
    """What `lstmx.LSTM` does with packed rows."""

    @property
    def _stacks(self) -> bool:
        """Whether the engines' compiled calls for plain arrays know what the directions do."""
        return not self.reverse and self.merge == "concat"

    def _weights(self, layer: int, direction: int, derived: Any = None, key: Any = None) -> Weights:
        """The `Weights` of one layer and direction; `derived` is the `Snapshot` that a call began with, `key` that of
        its masks.
        """
        derived = self.store.snapshot if derived is None else derived
        weights = derived.get((layer, direction))
        if weights is None:
            end = suffix(layer, direction)
            arrays = {name: derived.arrays[name + end] for name in self._names}
            weights = derived.setdefault((layer, direction), Weights(self.cell, arrays))
        if self.cell.weight_dropout and key is not None:
            dropped = self._drop_weight(weights.arrays["weight_hh"], key, layer, direction)
            weights = Weights(self.cell, weights.arrays | {"weight_hh": dropped})
        return weights

    def _drop_weight(self, array: Array, key: Any, layer: int, direction: int, out: Any = None) -> Array:
        """weight_hh, or its gradient, by the mask of a call."""
        number = _WEIGHTS + layer * self._directions + direction
        return kernels.dropout(array, self.cell.weight_dropout, _mask_key(key, number), out=out)

    @property
    def reads_windows(self) -> bool:
        """With few features, a sum that windows share would save nothing."""
        return self.input_size >= 16 and get_engine().compiled

    def _each(self) -> Iterator[tuple[int, int]]:
        return ((layer, direction) for layer in range(self.num_layers) for direction in range(self._directions))

    def _run(
        self, rows: Any, context: SequenceContext, h: Array, c: Array, run: Run, outputs: list[Array] | None = None
    ) -> tuple[Array, Any]:
        """All layers and directions. h and c (L*D, N, H) go from the initial to the final state.

        Returns y (S, D*H) and, to keep, a tape with one entry per layer. The outputs of every layer are appended to the
        list `outputs`.
        """
        tape = []
        derived = self._parameters(run)
        passes = self._passes(derived, run.key) if run.keep and outputs is None else None
        if passes is not None:
            cohorts = context.cohorts if passes.takes_cohorts else None
            return passes.run(context.check(rows), context.table, len(context.offsets) - 1, cohorts, h, c, derived)
        for layer in range(self.num_layers):
            drop = self._dropped(layer, run.key)
            if drop is not None:
                rows = kernels.dropout(rows, self.dropout, drop, context)
            y, columns = self._room(len(rows))
            weights = [self._weights(layer, direction, derived, run.key) for direction in range(self._directions)]
            slabs = []
            for direction, reverse in enumerate(self._reversed):
                k = layer * self._directions + direction
                drawn = self._drawn(run.key, k, weights[direction], context)
                slabs.append(
                    get_engine().forward(
                        rows, weights[direction], context, reverse, h[k], c[k], columns[direction], run.keep, drawn
                    )
                )
            if y is None:
                y = self._merged(columns)
            if run.keep:
                tape.append((rows, slabs, drop, derived, run.key, columns if self.merge == "mul" else None))
            rows = y
            del columns  # before the next layer takes room
            if outputs is not None:
                outputs.append(rows)
        return rows, tape

    @property
    def _draws(self) -> bool:
        """Whether training draws anything."""
        return bool(self.dropout or self.cell.drops)

    def _dropped(self, layer: int, key: Any) -> Any:
        """The key of what is dropped of a layer's inputs, or None."""
        return _mask_key(key, layer) if layer and self.dropout and key is not None else None

    def _drawn(self, key: Any, k: int, weights: Any, context: SequenceContext) -> Any:
        """What the cell of layer * D + direction = k drops, as engines take it, or None."""
        if key is None or not self.cell.drops:
            return None
        own = _mask_key(key, _CELLS + k)
        return masks.draw(self.cell, own, context, weights.inputs, self._outputs, weights.hidden, self.dtype)

    def _gradients(self, out: Any, layer: int, direction: int) -> Arrays:
        """The arrays of `out` of one layer and direction, by the names that engines know."""
        return {name: out[name + suffix(layer, direction)] for name in self._names}

    def _drop_gradient(self, gradients: Arrays, key: Any, layer: int, direction: int) -> None:
        """The gradient of weight_hh, by the mask that it was multiplied with."""
        if self.cell.weight_dropout and key is not None:
            gradient = gradients["weight_hh"]
            self._drop_weight(gradient, key, layer, direction, out=gradient)

    def _room(self, rows: int) -> tuple[Any, list[Array]]:
        """(y, where each direction writes its outputs): in y side by side, or if they are merged y is None."""
        if self.merge != "concat":
            return None, [allocate.aligned((rows, self._outputs), self.dtype, reuse=True) for _ in self._reversed]
        y: Any = allocate.aligned((rows, self.output_size()), self.dtype, reuse=True)
        return y, [y] if self._directions == 1 else [
            y[:, k * self._outputs :][:, : self._outputs] for k in range(self._directions)
        ]

    def _merged(self, parts: Any) -> Array:
        """What the outputs of two directions become; they are kept only for the gradient of a product."""
        if self.merge == "mul":
            return np.multiply(*parts, out=allocate.aligned(parts[0].shape, self.dtype, reuse=True))  # type: ignore[call-overload]
        y = np.add(*parts, out=parts[0])  # type: ignore[call-overload]
        if self.merge == "average":
            y *= 0.5
        return y

    def _parted(self, dy: Any, columns: Any) -> Any:
        """The gradients of the outputs of each direction."""
        if dy is None or self._directions == 1:
            return [dy] * self._directions
        if self.merge == "concat":
            return [dy[:, k * self._outputs :][:, : self._outputs] for k in range(self._directions)]
        if self.merge == "mul":
            return [dy * columns[1], dy * columns[0]]
        return [dy * 0.5 if self.merge == "average" else dy] * 2

    def _run_backward(
        self,
        tape: Any,
        context: SequenceContext,
        dy: Any,
        dh: Array,
        dc: Array,
        out: Any,
        *,
        need_dx: bool = True,
        retain: bool = False,
        flow: Any = None,
        below: list[Any] | None = None,
        add: bool = False,
        more: bool = False,
        sums: dict[int, Any] | None = None,
    ) -> Array | None:
        """Back-propagation through all layers. dh and dc go from the gradients of the final to those of the initial
        state.

        `out[name]` are written. `flow[layer, direction]`, if given, is a pair of (S, H) arrays for dL/dh_t and dL/dc_t;
        `below[layer]` what the loss adds to the gradient of the outputs of a layer that is not the last, or None.
        `add` and `more` are those of the layer protocol; between segments, `sums` holds what engines have not added up.
        Returns dx (S, I) or None.
        """
        sums = {} if sums is None else sums
        passes = self._passes(*tape[0][3:5]) if flow is below is None and not retain else None
        if passes is not None:
            steps = len(context.offsets) - 1
            return passes.run_back(tape, context.table, steps, dy, dh, dc, out, need_dx, add, more, sums)
        for layer in reversed(range(self.num_layers)):
            rows, all_slabs, drop, derived, key, columns = tape[layer]
            weights = [self._weights(layer, direction, derived, key) for direction in range(self._directions)]
            dx = allocate.aligned(rows.shape, self.dtype, reuse=True) if layer or need_dx else None
            parts = self._parted(dy, columns)
            for direction, reverse in enumerate(self._reversed):
                k = layer * self._directions + direction
                gradients = self._gradients(out, layer, direction)
                slabs = kept(all_slabs[direction]) if retain else all_slabs[direction]
                sums[k] = get_engine().backward(
                    rows, weights[direction], context, reverse, slabs, parts[direction], dh[k], dc[k], dx,
                    direction > 0, gradients,
                    (None, None) if flow is None else flow[layer, direction], add, sums.get(k), more,
                )  # fmt: skip
                if not more:
                    self._drop_gradient(gradients, key, layer, direction)
            if drop is not None:
                kernels.dropout(dx, self.dropout, drop, context, out=dx)  # type: ignore[arg-type]
            dy = dx
            if layer and below is not None and below[layer - 1] is not None:
                dy += below[layer - 1]
        return dy

    def _sizes(self, batch: int, rows: int, steps: int, training: bool) -> tuple[int, int]:
        """Bytes of the scratch of the layer that needs most, and of the tapes of all."""
        scratch = tape = 0
        for inputs in [self.input_size] + [self.output_size()] * (self.num_layers - 1):
            sizes = get_engine().memory(
                rows, batch, steps, inputs, self.hidden_size, self.cell, self.dtype, proj=self.proj_size,
                bias=self.bias, training=training,
            )  # fmt: skip
            scratch, tape = max(scratch, sizes[0]), tape + self._directions * sizes[1]
        return scratch, tape

    def room(self, batch: int, rows: int, steps: int, features: int, itemsize: int) -> int:
        """The layer protocol."""
        wide, layers, cell = self.output_size(), self.num_layers, self.cell
        scratch, tape = self._sizes(batch, rows, steps, True)
        within = layers - 1 + 2 * (layers > 1) + (layers - 1) * bool(self.dropout)  # outputs, gradients, those dropped
        within += {"concat": 0, "mul": 2 * layers + 3}.get(self.merge, 2)
        within += 3 * any(cell.zoneout) + any(cell.masks)  # while masks are drawn
        places = 5 * 8 * rows * bool(any(cell.zoneout) or (layers > 1 and self.dropout))
        weights = self.size * (5 if cell.weight_dropout else 2)  # packed, for both passes
        states = 4 * batch * self.state_width(features)
        return tape + layers * scratch + (rows * wide * within + weights + states) * itemsize + places

    def _zeros(self, context: SequenceContext) -> Pair:
        """Two arrays of the shapes of a state on packed rows."""
        return tuple(allocate.zeros(shape, self.dtype) for shape in self._state_shapes(context.batch))  # type: ignore[return-value]

    def start_state(self, batch: int, features: Any, parameters: Any = None, dtype: DType | None = None) -> State:
        """The layer protocol: fresh (h, c), each (L*D, N, H), zeros or what is learned."""
        pair = tuple(allocate.zeros(shape, self.dtype) for shape in self._state_shapes(batch))
        if self.cell.learn_state:
            parameters = self.store.snapshot if parameters is None else parameters
            for array, learned in zip(pair, self._learned(parameters), strict=True):
                array[:] = learned
        return pair

    def _learned(self, parameters: Any) -> Pair:
        """The initial state (h, c) that is learned, each (L*D, 1, width)."""
        return tuple(  # type: ignore[return-value]
            np.stack([parameters.arrays[name + suffix(*place)] for place in self._each()])[:, None] for name in INITIAL
        )

    def _initial_backward(
        self, given: Any, dh: Array, dc: Array, context: SequenceContext, out: Any, add: bool = False
    ) -> None:
        """Write the gradients of the learned initial state, or with `add` add to them; no share of sequences for which
        a state was `given`.
        """
        if not self.cell.learn_state:
            return
        for name, gradient in zip(INITIAL, (dh, dc), strict=True):
            if given:
                gradient = gradient.copy()
                callers = np.zeros((len(gradient), len(context.given), gradient.shape[-1]), self.dtype)
                context.take_states(callers, gradient, self._reversed, False)
            for k, place in enumerate(self._each()):
                target = out[name + suffix(*place)]
                later = target.copy() if add else 0
                kernels.sum_rows(gradient[k], target)
                target += later

    def _start(self, state: State, context: SequenceContext, parameters: Any) -> Pair:
        """(h, c) for `_run` to change, in the order of the packed rows: fresh, or copies."""
        if state is None:
            return self.start_state(context.batch, self.input_size, parameters)
        return tuple(  # type: ignore[return-value]
            validate.shaped(f"state {name}", a, shape, self.dtype, "(L*D, N, H)").copy()
            for name, a, shape in zip("hc", pair(state), self._state_shapes(context.batch), strict=True)
        )

    def forward_rows(
        self, rows: Any, context: SequenceContext, state: State, run: Run
    ) -> tuple[Array, Context, State, Any]:
        """The layer protocol; the state is (h, c), each (L*D, N, H)."""
        run = run._replace(parameters=self._parameters(run))
        h, c = self._start(state, context, run.parameters)
        y, tape = self._run(rows, context, h, c, run)
        tape = (tape, context, state is not None) if run.keep else None
        return y, context.of(self._reversed), (h, c), tape

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""
        call = self._call(parameters)
        return None if call is None else lambda x: (call(x, None, False) or (None,))[0]

    def _call(self, parameters: Any) -> Any:
        """A ``call(x, state, step, out=None) -> (y, (h, c))`` for plain arrays with the bits of `forward_rows`, or None
        where it does not take its arguments. None where the engine has none.
        """
        if not self._stacks:
            return None
        call = parameters.get("compiled")
        if call is None:
            weights = [self._weights(layer, direction, parameters) for layer, direction in self._each()]
            call = get_engine().stack(weights, self.num_layers, self._directions)
            if self.cell.learn_state:  # the closure holds no layer: that would be a cycle
                call = _from_learned(call, self._learned(parameters))
            parameters["compiled"] = call
        return call

    def _passes(self, parameters: Any, key: Any = None) -> Any:
        """Training as compiled calls, with the bits and the tape of the general way; None where that alone will do.
        `key` is that of what a call drops.
        """
        if key is not None and self._draws:
            return None
        if "passes" not in parameters:
            shared = self.store.shared
            if "passes" not in shared:
                shared["passes"] = self._first_passes(parameters) if self.merge == "concat" else None
            like = shared["passes"]
            parameters["passes"] = None if like is None else like.of(parameters.arrays)
        return parameters["passes"]

    def _first_passes(self, parameters: Any) -> Any:
        """What those of all parameters begin with."""
        every = [{name: name + suffix(*place) for name in self._names} for place in self._each()]
        weights = [Weights(self.cell, {n: parameters.arrays[full] for n, full in names.items()}) for names in every]
        names = [(own["weight_ih"], own["weight_hh"], own.get("bias")) for own in every]
        return get_engine().passes(weights, self._reversed, names)

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        if any(self._reversed) or not get_engine().compiled:
            return None
        weights = [self._weights(layer, direction, parameters) for layer, direction in self._each()]
        start = tuple(map(np.ascontiguousarray, self._learned(parameters))) if self.cell.learn_state else None
        return get_engine().recurrent_part(weights, start)

    def backward_rows(
        self,
        tape: Any,
        dy: Any,
        out: Any,
        need_dx: bool,
        dstate: State = None,
        *,
        add: bool = False,
        more: bool = False,
        flow: Any = None,
    ) -> tuple[Array | None, State]:
        """The layer protocol; `flow` as `_run_backward` takes it."""
        tape, context, given = tape
        dh, dc, sums = (*self._zeros(context), {}) if dstate is None else dstate
        dx = self._run_backward(
            tape, context, dy, dh, dc, out, need_dx=need_dx, flow=flow, add=add, more=more, sums=sums
        )
        self._initial_backward(given, dh, dc, context, out, add)
        return dx, (dh, dc, sums)

    def _state_shapes(self, *batch: int) -> tuple[Shape, Shape]:
        """The shapes of h and c, (L*D, N, H), or without N."""
        parts = self.num_layers * self._directions
        return (parts, *batch, self._outputs), (parts, *batch, self._memory)


def _from_learned(call: Callable[..., Any], learned: Any) -> Callable[..., Any]:
    """A compiled call that begins at `learned`, (h, c) each (L*D, 1, width), where it is given no state."""

    def begin(x: Any, state: State, step: bool, out: Any = None) -> Any:
        if state is None and type(x) is np.ndarray and x.ndim + step in (2, 3):
            state = tuple(a[:, 0] if x.ndim + step == 2 else np.repeat(a, len(x), axis=1) for a in learned)
        return call(x, state, step, out)

    return begin


_WEIGHTS, _CELLS = 2**32, 2**33  # numbers of the first mask of a weight, of a cell; between layers that of the layer


def _mask_key(key: Any, number: int) -> int:
    """The key of the masks of that number, of those of a call."""
    return (int(key) + number * 0x9E3779B97F4A7C15) % 2**64


def pair(state: State) -> Any:
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise TypeError(f"state: got {type(state).__name__}, must be a pair of arrays (h, c)")
    return state
