"""The engines: ways to do the same arithmetic on packed rows, chosen by ``LSTMX_ENGINE``.

``tile`` is the default, all of it in the compiled core. ``blas`` multiplies with the BLAS that SciPy carries, under the
same time loop. ``reference`` is lstmx.reference, for checking. An engine has `forward`, `backward`, `product` and
`outer`; all else is shared.
"""

from __future__ import annotations

import functools
import os
import types
from typing import TYPE_CHECKING

import numpy as np

from lstmx import reference, reference_cells
from lstmx._core import allocate, dense, isa, job, loop, panels, passes, program, rollout, sessions, stream
from lstmx.functional import threads
from lstmx.functional.context import Windows
from lstmx.functional.panels import Derived, bias_panels, column_panels, gate_panels, matrix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from lstmx._types import Array, Arrays, DType, Ints, Pair
    from lstmx.functional.cell import Cell
    from lstmx.functional.context import SequenceContext
    from lstmx.functional.panels import Weights


class _Compiled:
    """What the engines on the compiled time loop share: they differ in their products, and the form of the weights."""

    compiled = True  # whether inference on plain arrays is one compiled call, without packed copies
    products: object = None  # a capsule of the products; None for the tile's
    right_side: Callable[..., panels.Panels]

    def _fused(self, cell: Cell, proj: bool, masks: tuple[int, ...]) -> bool:
        """Whether the plain cell's own kernels compute it."""
        return False

    def _forward(self, weights: Weights, masks: tuple[int, int] = (0, 0)) -> job.Direction:
        """The compiled `Direction` of some `Weights` for a forward pass with so many dropout masks on x and h."""
        return weights.get(("forward", masks), self._direction, weights, masks)

    def _backward(self, weights: Weights, masks: tuple[int, int], need_dx: bool) -> job.Direction:
        return weights.get(("backward", masks, need_dx), self._direction, weights, masks, True, need_dx)

    def _direction(
        self, weights: Weights, masks: tuple[int, int], backward: bool = False, need_dx: bool = True
    ) -> job.Direction:
        cell, arrays = weights.cell, weights.arrays
        ih, hh, hr = arrays["weight_ih"], arrays["weight_hh"], arrays.get("weight_hr")
        vectors: dict[str, Any] = {name: a for name, a in arrays.items() if a.ndim == 1}
        fused = self._fused(cell, hr is not None, masks) and not backward
        if fused:
            ih_parts, hh_parts, right = [gate_panels(ih)], [gate_panels(hh)], None
            vectors = {"bias": bias_panels(ih, vectors.get("bias"))}
        else:
            ih_parts = self._parts(ih, 1, cell.gates if masks[0] > 1 else 1, not backward) if need_dx else []
            hh_parts = self._parts(hh, cell.heads, cell.gates if masks[1] > 1 or cell.heads > 1 else 1, not backward)
            right = None if hr is None else self.right_side(hr, not backward)
        return job.Direction(
            cell, weights.inputs, weights.hidden, weights.widths[0], ih_parts, hh_parts, right, vectors, masks,
            self.products, fused, backward,
        )  # fmt: skip

    def _parts(self, weight: Array, heads: int, blocks: int, transposed: bool) -> list[panels.Panels]:
        """The right-hand sides of a weight's products: one, or one for each block of the gates and head."""
        if heads == blocks == 1:
            return [self.right_side(weight, transposed)]
        return [self.right_side(part, transposed) for part in np.split(weight, heads * blocks)]

    def memory(
        self,
        rows: int,
        batch: int,
        steps: int,
        inputs: int,
        hidden: int,
        cell: Cell,
        dtype: DType,
        *,
        proj: int = 0,
        bias: bool = True,
        training: bool,
    ) -> tuple[int, int]:
        """What one direction of one layer allocates beside its results: (bytes of scratch, bytes of the tape).

        Parameters
        ----------
        rows, batch, steps, inputs, hidden : int
            S packed rows, N, T, I, H.
        cell : Cell
        dtype : numpy.dtype
        proj : int
            P, or 0.
        bias, training : bool
            Whether the cell has one; whether a backward pass follows, after dropout where the cell has any.
        """
        size, width = np.dtype(dtype).itemsize, cell.widths(hidden, proj)
        of_type = np.empty(0, dtype)
        wanted = self._threads((3 if training else 1) * rows * hidden * (inputs + width[0]))
        serial, masks = self.products is not None, cell.masks if training else (0, 0)
        scratch = job.workspace(
            batch, steps, inputs, hidden, of_type, wanted, self._fused(cell, bool(proj), masks), serial, training
        )
        vectors = {name: of for name, (of, _) in cell.vectors(hidden, bias).items()}
        extra, once = job.extra_widths(cell, inputs, hidden, width[0], vectors, bool(proj), masks, training)
        scratch = sum(scratch.values()) + batch * once
        if not training:
            return (scratch + batch * allocate.padded_width(extra, dtype) * (extra > 0)) * size, 0
        tape = rows * (sum(allocate.padded_width(n, dtype) for n in (cell.gates * hidden, *width)))
        tape += rows * allocate.padded_width(extra, dtype) * (extra > 0)
        tape += batch * (inputs * masks[0] + width[0] * masks[1])
        tape += rows * sum(n for n, rate in zip((width[0], hidden), cell.zoneout, strict=True) if rate)
        return scratch * size, tape * size

    def _threads(self, work: int) -> int:
        return 1 if self.products is not None else _threads_for(work)

    def forward(
        self,
        x: Any,
        weights: Weights,
        context: SequenceContext,
        reverse: bool,
        h: Array,
        c: Array,
        y: Array,
        keep: bool,
        masks: Any = None,
    ) -> Arrays | None:
        """One layer, one direction, over packed rows; h and c go from the initial to the final state, y is written.

        Returns the slabs of the tape if they are to be kept. `masks` are those that lstmx.functional.masks draws.
        """
        (rows, inputs), hidden = context.check(x).shape, weights.hidden
        windows = isinstance(x, Windows)
        if not windows and not x.flags.c_contiguous:
            raise ValueError("x: must be C-contiguous rows, which compiled code reads by their address")
        slabs = {} if masks is None else dict(masks)
        direction = self._forward(weights, _counts(slabs))
        loop.forward(
            direction, x.series if windows else x, context.table,
            len(context.offsets) - 1, reverse, h, c, y, self._threads(rows * hidden * (inputs + h.shape[1])), slabs,
            keep, context.cohorts if keep and direction.takes_cohorts() else None, windows,
        )  # fmt: skip
        return slabs if keep else None

    def backward(
        self,
        x: Any,
        weights: Weights,
        context: SequenceContext,
        reverse: bool,
        slabs: Arrays,
        dy: Array | None,
        dh: Array,
        dc: Array,
        dx: Array | None,
        add_to_dx: bool,
        out: Arrays,
        flow: tuple[Array | None, Array | None] = (None, None),
        add: bool = False,
        sums: Array | None = None,
        more: bool = False,
    ) -> Array | None:
        """The derivative of `forward`: dh and dc go from the gradients of the final to those of the initial state, dx
        and the arrays of `out` by name are written, and dL/dh_t, dL/dc_t of every step to `flow`. With `add`, `out`
        holds the gradients of later steps of the same sequences and is added to; with `more`, earlier ones follow: what
        is returned is then given to that call as `sums`.
        """
        rows, inputs = x.shape
        hidden, cell = weights.hidden, weights.cell
        vectors = {}
        if cell.special:
            vectors = cell.vectors(hidden, "bias" in out or "norm_ih_bias" in out)
            if cell.layer_norm is None:
                vectors.pop("bias", None)
        d_vectors: Any = None
        if vectors:
            d_vectors = np.concatenate([out[name] for name in vectors]) if add else allocate.empty(
                (sum(width for width, _ in vectors.values()),), x.dtype)  # fmt: skip
        sums = loop.backward(
            self._backward(weights, _counts(slabs), dx is not None), x, context.table,
            len(context.offsets) - 1, reverse, slabs, dy, dh, dc, dx, add_to_dx, out, d_vectors,
            self._threads(3 * rows * hidden * (inputs + dh.shape[1])), *flow, add, sums, more,
        )  # fmt: skip
        at = 0
        for name, (width, _) in vectors.items():
            out[name][...] = d_vectors[at : at + width]
            at += width
        return sums

    def stack(self, parts: Sequence[Weights], layers: int, directions: int) -> Callable[..., Any]:
        """A compiled call for inference on plain arrays, from the `Weights` of all layers and directions of an LSTM."""
        dtype = parts[0].arrays["weight_ih"].dtype
        made = [self._forward(weights) for weights in parts]
        return stream.Stack(made, layers, directions, dtype.num, threads.get_num_threads).run

    def passes(self, parts: Sequence[Weights], reversed: tuple[bool, ...], names: list[Any]) -> passes.Passes | None:
        """Training as compiled calls, from the `Weights` of all layers and directions of an LSTM, any that it may have,
        and the names of each one's arrays; None where there are no such calls.
        """
        made = [self._forward(weights) for weights in parts]
        if not all(direction.fused for direction in made):
            return None
        back = [self._backward(weights, (0, 0), False) for weights in parts]
        number = parts[0].arrays["weight_ih"].dtype.num
        return passes.Passes(made, back, reversed, names, number, threads.get_num_threads)

    def linear(self, weight: Array, bias: Array | None, activation: int, derived: Derived) -> Callable[[Any], Any]:
        """A compiled call for activation(x W^T + b) on plain arrays; `derived` keeps what is made of W (O, I)."""
        right = derived.get("right side True", self.right_side, weight, True)
        count = None if self.products is not None else threads.get_num_threads
        return dense.Linear(self.products, right, *weight.shape[::-1], bias, activation, count).run  # type: ignore[call-arg]

    def recurrent_part(self, parts: Sequence[Weights], start: Pair | None) -> tuple[Any, ...]:
        """The part of a program that the layers of an LSTM are, from their `Weights`, and (h, c) that they begin with,
        each (L, 1, width), or None for 0.
        """
        return "recurrent", [self._forward(weights) for weights in parts], start

    def dense_part(self, weight: Array, bias: Array | None, activation: int, derived: Derived) -> tuple[Any, ...]:
        """The part of a program that activation(x W^T + b) is; arguments as of `linear`."""
        right = derived.get("right side True", self.right_side, weight, True)
        return "dense", self.products, right, *weight.shape[::-1], bias, activation

    def program(self, parts: list[tuple[Any, ...]], dtype: DType) -> program.Program:
        """The compiled `Program` of a model, from the parts that its layers are."""
        return program.Program(parts, dtype.num, threads.get_num_threads)

    rollout = staticmethod(rollout.run)
    sessions = staticmethod(sessions.Sessions)

    def product(
        self, a: Array, b: Array, out: Array, transpose_b: bool = False, derived: Derived | None = None
    ) -> None:
        """out := a op(b). `derived` keeps what is made of b."""
        derived = Derived() if derived is None else derived
        b = derived.get(f"right side {transpose_b}", self.right_side, b, transpose_b)
        dense.product(self.products, a, b, out, self._threads(a.size * out.shape[1] // 4))

    def outer(self, a: Array, b: Array, out: Array, blocks: Ints, sums: Array | None = None, add: bool = False) -> None:
        """out := a^T b, or with `add` out + a^T b, and in the same way `sums` := the sums of the columns of a, in
        `blocks` of rows as a context has them, last to first.
        """
        wanted = min(self._threads(a.size * out.shape[1] // 4), len(out))  # a row of out has one thread
        longest = len(a) if len(blocks) == 2 else int(np.diff(blocks).max(initial=0))
        strips = allocate.aligned((wanted, panels.outer_room(a, longest, out.shape[1])), a.dtype, reuse=True)
        dense.outer(self.products, a, b, out, sums, blocks, add, strips)


def _counts(slabs: Arrays) -> tuple[int, int]:
    """The dropout masks on x and on h."""
    if "drop_x" not in slabs and "drop_h" not in slabs:
        return 0, 0
    return len(slabs.get("drop_x", ())), len(slabs.get("drop_h", ()))


def _threads_for(work: int) -> int:
    """The threads that a call may have; asking is not free, so a small one (`work` in 8 operations) does not."""
    return 1 if work < 750_000 else threads.get_num_threads()


class TileEngine(_Compiled):
    """Products by one register tile on packed weights; the same bits in any batch and on any number of threads."""

    name = "tile"
    right_side = staticmethod(column_panels)

    def _fused(self, cell: Cell, proj: bool, masks: tuple[int, ...]) -> bool:
        return not (cell.special or proj or any(masks))


class BlasEngine(_Compiled):
    """Products by BLAS, on BLAS's own threads."""

    name = "blas"
    right_side = staticmethod(matrix)

    def __init__(self) -> None:
        try:
            from lstmx._core import blas
        except ImportError as error:
            raise ImportError(f"the blas engine needs SciPy ({error}): pip install 'scipy>=1.13'") from error
        self.products = blas.product_table()
        self.largest = blas.LARGEST

    def _check(self, *sizes: int) -> None:
        if max(sizes) > self.largest:
            raise ValueError(f"a matrix side of {max(sizes)} is beyond this BLAS ({self.largest}): use smaller batches")

    def forward(
        self,
        x: Any,
        weights: Weights,
        context: SequenceContext,
        reverse: bool,
        h: Array,
        c: Array,
        y: Array,
        keep: bool,
        masks: Any = None,
    ) -> Arrays | None:
        """As of every engine."""
        self._check(*x.shape, 40 * weights.hidden + 64, y.strides[0] // y.itemsize)  # rows of extra are the longest
        return super().forward(x, weights, context, reverse, h, c, y, keep, masks)

    def product(
        self, a: Array, b: Array, out: Array, transpose_b: bool = False, derived: Derived | None = None
    ) -> None:
        """As of every engine."""
        self._check(*a.shape, *b.shape)
        super().product(a, b, out, transpose_b, derived)

    def outer(self, a: Array, b: Array, out: Array, blocks: Ints, sums: Array | None = None, add: bool = False) -> None:
        """As of every engine."""
        self._check(*a.shape, *b.shape)
        super().outer(a, b, out, blocks, sums, add)


class ReferenceEngine:
    """lstmx.reference behind the interface of an engine: packed rows are padded, run and packed again."""

    name = "reference"
    compiled = False

    @staticmethod
    def memory(
        rows: int,
        batch: int,
        steps: int,
        inputs: int,
        hidden: int,
        cell: Cell,
        dtype: DType,
        *,
        proj: int = 0,
        bias: bool = True,
        training: bool,
    ) -> tuple[int, int]:
        """As `_Compiled.memory`: of the slabs, which are made in inference too, and of some arrays of one step."""
        size = np.dtype(dtype).itemsize
        slabs = rows * (cell.gates * hidden + sum(cell.widths(hidden, proj))) * size
        step = 5 * batch * cell.gates * hidden * size
        return (step, slabs) if training else (step + slabs, 0)

    @staticmethod
    def stack(parts: Sequence[Weights], layers: int, directions: int) -> Callable[..., None]:
        """None of its own: the call gives None for everything."""
        return lambda x, state, step, out=None: None

    @staticmethod
    def passes(parts: Sequence[Weights], reversed: tuple[bool, ...], names: list[Any]) -> None:
        """None."""
        return

    @staticmethod
    def _padded(rows: Array, context: SequenceContext) -> Array:
        row, time = context.sorted_places
        out = np.zeros((context.batch, len(context.offsets) - 1, *rows.shape[1:]), rows.dtype)
        out[row, time] = rows
        return out

    def forward(
        self,
        x: Any,
        weights: Weights,
        context: SequenceContext,
        reverse: bool,
        h: Array,
        c: Array,
        y: Array,
        keep: bool,
        masks: Any = None,
    ) -> Arrays | None:
        """As of every engine."""
        place = context.sorted_places
        out, (h[:], c[:]), tape = reference_cells.lstm_forward(
            self._padded(x, context), weights.arrays, (h.copy(), c.copy()), lengths=context.sort(context.lengths),
            reverse=reverse, cell=weights.cell, masks=self._masks(masks, context),
        )  # fmt: skip
        y[:] = out[place]
        slabs = {name: getattr(tape, name)[place] for name in ("gates", "h_prev", "c_prev")}
        return slabs | (masks or {}) if keep else None

    def _masks(self, slabs: Arrays | None, context: SequenceContext) -> types.SimpleNamespace:
        """The masks in the form of the reference: of every row and step."""
        found = types.SimpleNamespace(input=None, recurrent=None, zoneout_h=None, zoneout_c=None)
        if slabs:
            found.input, found.recurrent = slabs.get("drop_x"), slabs.get("drop_h")
            for name in ("zoneout_h", "zoneout_c"):
                setattr(found, name, self._padded(slabs[name], context) if name in slabs else None)
        return found

    def backward(
        self,
        x: Any,
        weights: Weights,
        context: SequenceContext,
        reverse: bool,
        slabs: Arrays,
        dy: Array | None,
        dh: Array,
        dc: Array,
        dx: Array | None,
        add_to_dx: bool,
        out: Arrays,
        flow: tuple[Array | None, Array | None] = (None, None),
        add: bool = False,
        sums: Array | None = None,
        more: bool = False,
    ) -> Array | None:
        """As of every engine."""
        place = context.sorted_places
        running = np.arange(len(context.offsets) - 1) < context.sort(context.lengths)[:, None]
        padded = (self._padded(a, context) for a in (x, slabs["gates"], slabs["h_prev"], slabs["c_prev"]))
        masks = self._masks(slabs, context)
        tape = reference_cells.Tape(*padded, running, weights.arrays, reverse, weights.cell, masks)  # type: ignore[arg-type, call-arg]
        dy = None if dy is None else self._padded(dy, context)
        grads = reference_cells.lstm_backward(tape, dy, (dh.copy(), dc.copy()))
        for target, array in zip(flow, (grads.dh, grads.dc), strict=True):
            if target is not None:
                target[:] = array[place]
        dh[:], dc[:] = grads.state
        for name, target in out.items():
            target[:] = grads.params[name] + (target if add else 0)
        if dx is not None:
            dx[:] = grads.x[place] + (dx if add_to_dx else 0)
        return None

    def product(
        self, a: Array, b: Array, out: Array, transpose_b: bool = False, derived: Derived | None = None
    ) -> None:
        """out := a op(b)."""
        reference.product(a, b.T if transpose_b else b, out)

    def outer(self, a: Array, b: Array, out: Array, blocks: Ints, sums: Array | None = None, add: bool = False) -> None:
        """out := a^T b, or with `add` out + a^T b; `sums` := the sums of the columns of a."""
        before = out.copy() if add else 0
        reference.product(a.T, b, out)
        out += before
        if sums is not None:
            sums[:] = a.sum(axis=0) + (sums if add else 0)


ENGINES = {"tile": TileEngine, "blas": BlasEngine, "reference": ReferenceEngine}
NAME = os.environ.get("LSTMX_ENGINE") or "tile"
if NAME not in ENGINES:
    raise ImportError(f"LSTMX_ENGINE={NAME!r} is not an engine: use one of {list(ENGINES)}, or unset the variable")


@functools.cache
def get_engine() -> Any:
    """The engine in use, made on first use."""
    return ENGINES[NAME]()


def describe() -> dict[str, Any]:
    """What runs here: engine, instruction sets, OpenMP.

    Returns
    -------
    dict
        engine (str), isa (dict with active, usable, compiled, vector_bytes, fma), openmp (bool).
    """
    return {"engine": NAME, "isa": isa.describe(), "openmp": loop.openmp()}
