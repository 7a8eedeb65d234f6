"""The layers that pool time away: Last, FinalState and MeanPool."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import allocate, kernels, validate
from lstmx.functional.context import PooledContext
from lstmx.layers.base import MERGES
from lstmx.layers.simple import _Plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lstmx._types import Array, Config, Context, DType, Merge, State
    from lstmx.layers.base import Run


class Last(_Plain):
    """The output at each sequence's last step, 0 for an empty one: (N, T, F) to (N, F). Masked steps do not count.

    It is what ``y[:, -1]`` is in PyTorch, of two directions too: the backward one has then read one step. `FinalState`
    is what ``h_n`` is: what each direction gives when it has read all.
    """

    per_sequence = True

    _both_ends = False  # whether a second direction is read where it ends, at the first step

    def _places(self, context: Context, width: int) -> Any:
        """(packed rows of the last steps, of the first steps, their sequences, features of the forward direction)."""
        half = width
        if self._both_ends:
            half = width * context.reversed.count(False) // len(context.reversed)
        if context.uniform and len(context.offsets) > 1:
            return slice(-context.batch, None), slice(context.batch), slice(None), half
        last, sequences = context.last_rows
        return last, sequences, sequences, half  # packed rows begin with step 0, longest sequence first

    def start_state(self, batch: int, features: Any, parameters: Any = None, dtype: DType | None = None) -> State:
        """The layer protocol: zeros (N, F)."""
        return allocate.zeros((batch, features), self.dtype if dtype is None else dtype)

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol; the state is the output so far (N, F)."""
        last, first, sequences, half = self._places(context, rows.shape[1])
        if state is None and isinstance(sequences, slice):
            y = rows[last].copy()
        else:
            y = _so_far(state, rows, context)
            y[sequences] = rows[last]
        if half < rows.shape[1]:
            y[sequences, half:] = rows[first, half:]
        return y, PooledContext(context), y, (context, rows.shape)

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""

        def call(x: Array) -> Array | None:
            y = x[:, -1].copy()
            if self._both_ends and directions == 2:
                half = y.shape[1] // 2
                y[:, half:] = x[:, 0, half:]
            return y

        return call

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return "last", features

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
    ) -> tuple[Array | None, State]:
        """The layer protocol; the state before has the gradient of sequences without a step here."""
        context, shape = tape
        if dy is None:
            dy = dstate
        elif dstate is not None:
            dy = dy + dstate
        last, first, sequences, half = self._places(context, shape[1])
        dx = allocate.zeros(shape, dy.dtype)
        dx[last, :half] = dy[sequences, :half]
        if half < shape[1]:
            dx[first, half:] = dy[sequences, half:]
        before = allocate.zeros(dy.shape, dy.dtype)
        if not isinstance(sequences, slice):
            before[len(sequences) :] = dy[len(sequences) :]  # in sorted order they are the last ones
        return dx, before


class FinalState(Last):
    """What each direction has read when it is through: [forward at the last step | backward at the first], 0 for an
    empty sequence: (N, T, D*H) to (N, D*H). With a forward direction alone it is `Last`. A Bidirectional layer of Keras
    gives this, and PyTorch in ``h_n``; ``y[:, -1]`` is `Last`.

    Parameters
    ----------
    merge : {"concat", "sum", "mul", "average"}
        What the two directions become: side by side; or H features, element by element.
    """

    _both_ends = True

    def __init__(self, merge: Merge = "concat") -> None:
        self.merge = validate.choice("merge", merge, MERGES)
        super().__init__()

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        return {} if self.merge == "concat" else {"merge": self.merge}

    def output_size(self, input_size: Any) -> Any:
        """Features that it gives for `input_size` features."""
        return input_size if self.merge == "concat" else input_size // 2

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol."""
        y, after, state, tape = super().forward_rows(rows, context, state, run)
        if self.merge == "concat":
            return y, after, state, tape
        return self._merged(y), after, state, (y, tape)

    def _merged(self, y: Array) -> Array:
        parts = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]
        if self.merge == "mul":
            return np.multiply(*parts)
        return np.add(*parts) if self.merge == "sum" else np.add(*parts) / 2

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""
        pool: Any = super().compiled(parameters, directions)
        return pool if self.merge == "concat" else lambda x: self._merged(pool(x))

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return super().program_part(parameters, features) if self.merge == "concat" else None

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
    ) -> tuple[Array | None, State]:
        """The layer protocol."""
        if self.merge == "concat":
            return super().backward_rows(tape, dy, out, need_dx, dstate)
        y, tape = tape
        half = dy.shape[1]
        if self.merge == "mul":
            dy = np.concatenate([dy * y[:, half:], dy * y[:, :half]], axis=1)
        else:
            dy = np.concatenate([dy, dy], axis=1) * dy.dtype.type(1 if self.merge == "sum" else 0.5)
        return super().backward_rows(tape, dy, out, need_dx)  # of two directions: there are no chunks


_KERNEL_TYPES = np.dtype(np.float32), np.dtype(np.float64)  # of native byte order


class MeanPool(_Plain):
    """The mean over each sequence's own steps, 0 for an empty one: (N, T, F) to (N, F). Masked steps do not count."""

    per_sequence = True

    def start_state(self, batch: int, features: Any, parameters: Any = None, dtype: DType | None = None) -> State:
        """The layer protocol: zeros (N, F), and of int64 (N, 1)."""
        total = allocate.zeros((batch, features), self.dtype if dtype is None else dtype)
        return total, allocate.zeros((batch, 1), np.int64)

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol; the state is the sum so far (N, F) and its steps, int64 (N, 1)."""
        steps = context.sort(context.lengths)[:, None]
        if state is None:
            total = kernels.sum_steps(rows, context)
        else:
            if not isinstance(state, tuple | list) or len(state) != 2:
                raise TypeError(f"state: got {type(state).__name__}, must be a pair (sum, steps)")
            before = validate.shaped("state steps", state[1], steps.shape, np.dtype(np.int64), "(N, 1)")
            steps = steps + before
            total = kernels.sum_steps(rows, context, _so_far(state[0], rows, context))
        count = np.maximum(steps, 1).astype(rows.dtype)
        return total / count, PooledContext(context), (total, steps), (context, count)

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""

        def call(x: Array) -> Array | None:
            if x.dtype not in _KERNEL_TYPES or not x.flags.aligned:
                return None
            return kernels.sum_whole(x) / x.dtype.type(x.shape[1])

        return call

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return "mean", features

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
    ) -> tuple[Array | None, State]:
        """The layer protocol; dstate is the gradient of the sum so far."""
        context, count = tape
        total = dstate if dy is None else dy / count
        if dy is not None and dstate is not None:
            total += dstate
        return kernels.spread_steps(total, context), total


def _so_far(state: State, rows: Any, context: Context) -> Any:
    """What a pooling begins with, one row a sequence: 0, or a copy of a state."""
    shape = context.batch, rows.shape[1]
    if state is None:
        return allocate.zeros(shape, rows.dtype)
    return validate.shaped("state", state, shape, rows.dtype, "(N, F)").copy()
