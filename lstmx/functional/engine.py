"""The engines: ways to do the same arithmetic on packed rows, chosen by ``LSTMX_ENGINE``.

``tile`` is the default, all of it in the compiled core. ``blas`` multiplies with the BLAS that SciPy carries.
``reference`` is lstmx.reference, for checking. An engine has `forward`, `backward` and `product`; all else is shared.
"""

import functools
import os

import numpy as np

from lstmx import reference
from lstmx._core import isa, panels, sequence, stack, tile
from lstmx.functional import allocate, threads
from lstmx.functional.context import Windows
from lstmx.functional.panels import Packed, column_panels

BLOCK_ELEMENTS = 2**18  # gates of one block of the blas engine in inference: 1 MB in float32, about an L2 cache


class TileEngine:
    """Products by one register tile on packed weights; the same bits in any batch and on any number of threads."""

    name = "tile"
    plain = True  # whether inference on plain arrays needs no packed copies
    slab = staticmethod(allocate.padded)  # an array (rows, columns) in the form that the tape's have

    @staticmethod
    def layout(rows, batch, steps, inputs, hidden, dtype, *, training):
        """The arrays that one direction of one layer needs, name -> (shape, whether they are for the tape).

        Parameters
        ----------
        rows, batch, steps, inputs, hidden : int
            S packed rows, N, T, I, H.
        dtype : numpy.dtype
        training : bool
            Whether a backward pass follows.
        """
        size = np.dtype(dtype).itemsize
        work = rows * hidden * (inputs + hidden)
        sums = tile.block_of_sums(batch, inputs, hidden, steps, size, _threads_for(work))
        arrays = {} if sums is None else {"sums": ((sums[1][0] + 1, sums[1][1]), False)}
        if training:
            lanes = panels.lanes(size)
            arrays |= {
                "gates": ((rows, allocate.padded_width(4 * hidden, dtype)), True),
                "h_prev": ((rows, allocate.padded_width(hidden, dtype)), True),
                "c_prev": ((rows, hidden), True),
                "strips": ((_threads_for(3 * work), tile.gradient_rows(batch, steps) * 4 * lanes), False),
            }
            if inputs < lanes:
                arrays["turned"] = ((inputs, 4 * hidden), False)
        return arrays

    def forward(self, x, weights, context, reverse, h, c, y, training):
        (rows, inputs), (batch, hidden) = x.shape, h.shape
        steps = len(context.offsets) - 1
        wanted = _threads_for(rows * hidden * (inputs + hidden))
        windows = isinstance(x, Windows)
        x = x.series if windows else x
        block, shape = tile.block_of_sums(batch, inputs, hidden, steps, x.itemsize, wanted, windows) or (0, None)
        sums = None if shape is None else allocate.aligned((shape[0] + 1, shape[1]), x.dtype)  # read a little beyond
        slabs = {}
        if training:
            slabs = {
                "gates": self.slab(rows, 4 * hidden, x.dtype),
                "h_prev": self.slab(rows, hidden, x.dtype),
                "c_prev": allocate.empty((rows, hidden), x.dtype),
            }
        tile.forward(
            x, *weights.forward_panels(), None if context.uniform else context.offsets, steps, reverse, h, c, y, sums,
            block, windows, wanted, **slabs,
        )  # fmt: skip
        return slabs or None

    def backward(self, x, weights, context, reverse, slabs, dy, dh, dc, dx, add_to_dx, out, flow=(None, None)):
        (rows, inputs), (batch, hidden) = x.shape, dh.shape
        steps = len(context.offsets) - 1
        layout = self.layout(rows, batch, steps, inputs, hidden, x.dtype, training=True)
        strips = allocate.aligned(layout["strips"][0], x.dtype)
        turned = allocate.aligned(layout["turned"][0], x.dtype) if "turned" in layout else None
        tile.backward(
            x, *weights.backward_panels(dx is not None), None if context.uniform else context.offsets, steps, reverse,
            slabs["gates"], slabs["h_prev"], slabs["c_prev"], dy, dh, dc, dx, add_to_dx, *out, turned, strips,
            len(strips), *flow,
        )  # fmt: skip

    @staticmethod
    def stack(layers, lstm):
        """A compiled call for inference on plain arrays, from the `Weights` of all layers and directions of an LSTM."""
        parts = [w.forward_panels() for w in layers]
        made = stack.Stack(
            parts, lstm.input_size, lstm.hidden_size, lstm.num_layers, lstm.directions, threads.get_num_threads
        )
        return made.run

    def product(self, a, b, out, transpose_a=False, transpose_b=False, packed=None):
        """out := op(a) op(b). `packed` keeps what is made of b."""
        wanted = _threads_for(a.size * out.shape[1] // 4)
        if transpose_a:
            panels.outer(a, b, out, allocate.aligned((wanted, 256 * 4 * panels.lanes(a.itemsize)), a.dtype))
            return
        packed = Packed() if packed is None else packed
        panels.product(a, packed.get(f"columns {transpose_b}", column_panels, b, transpose_b), out, wanted)


def _threads_for(work):
    """The threads that a call may have; asking is not free, so a small one (`work` in 8 operations) does not."""
    return 1 if work < 750_000 else threads.get_num_threads()


def _not_plain(x, state, out, step):
    """What `stack` is in an engine that has no such call."""


class BlasEngine:
    """Products by BLAS, outside any parallel region; pointwise work by SIMD kernels and OpenMP."""

    name = "blas"
    plain = False

    @staticmethod
    def slab(rows, columns, dtype):
        """As `TileEngine.slab`."""
        return allocate.empty((rows, columns), dtype)

    def __init__(self):
        try:
            from lstmx._core import blas
        except ImportError as error:
            raise ImportError(f"the blas engine needs SciPy ({error}): pip install 'lstmx[blas]'") from error
        self.products = blas.product_table()
        self.largest = blas.LARGEST

    @staticmethod
    def stack(layers, lstm):
        """None of its own."""
        return _not_plain

    @staticmethod
    def _block(rows, widest, hidden):
        """Rows of gates that one product of x fills in inference."""
        return max(widest, min(rows, BLOCK_ELEMENTS // (4 * hidden)))

    @staticmethod
    def layout(rows, batch, steps, inputs, hidden, dtype, *, training):
        """As `TileEngine.layout`; `batch` is the most rows of one step."""
        if not training:
            return {"gates": ((BlasEngine._block(rows, batch, hidden), 4 * hidden), False)}
        shapes = {"gates": (rows, 4 * hidden), "h_prev": (rows, hidden), "c_prev": (rows, hidden)}
        return {name: (shape, True) for name, shape in shapes.items()}

    def _check(self, *sizes):
        if max(sizes) > self.largest:
            raise ValueError(f"a matrix side of {max(sizes)} is beyond this BLAS ({self.largest}): use smaller batches")

    def forward(self, x, weights, context, reverse, h, c, y, training):
        weight_ih, weight_hh, bias = weights
        rows, inputs = x.shape
        hidden = weight_hh.shape[1]
        self._check(rows, inputs, 4 * hidden, y.strides[0] // y.itemsize)
        layout = self.layout(rows, context.widest, 0, inputs, hidden, x.dtype, training=training)
        slabs = {name: allocate.empty(shape, x.dtype) for name, (shape, _) in layout.items()}
        block = self._block(rows, context.widest, hidden)
        sequence.forward(
            self.products, x, weight_ih, weight_hh, bias, context.offsets, reverse, h, c, y, slabs["gates"], block,
            threads.get_num_threads(), slabs.get("h_prev"), slabs.get("c_prev"),
        )  # fmt: skip
        return slabs if training else None

    def backward(self, x, weights, context, reverse, slabs, dy, dh, dc, dx, add_to_dx, out, flow=(None, None)):
        weight_ih, weight_hh, _ = weights
        sequence.backward(
            self.products, x, weight_ih, weight_hh, context.offsets, reverse, slabs["gates"], slabs["h_prev"],
            slabs["c_prev"], dy, dh, dc, dx, add_to_dx, *out, threads.get_num_threads(), *flow,
        )  # fmt: skip

    def product(self, a, b, out, transpose_a=False, transpose_b=False, packed=None):
        """out := op(a) op(b)."""
        self._check(*a.shape, *b.shape)
        sequence.product(self.products, transpose_a, transpose_b, a, b, out)


class ReferenceEngine:
    """lstmx.reference behind the interface of an engine: packed rows are padded, run and packed again."""

    name = "reference"
    plain = False
    slab = staticmethod(BlasEngine.slab)
    layout = staticmethod(BlasEngine.layout)
    stack = staticmethod(BlasEngine.stack)

    @staticmethod
    def _padded(rows, context):
        row, time = context.sorted_places
        out = np.zeros((context.batch, len(context.offsets) - 1, *rows.shape[1:]), rows.dtype)
        out[row, time] = rows
        return out

    def forward(self, x, weights, context, reverse, h, c, y, training):
        place = context.sorted_places
        out, (h[:], c[:]), tape = reference.lstm_forward(
            self._padded(x, context), *weights, (h.copy(), c.copy()),
            lengths=context.sort(context.lengths), reverse=reverse,
        )  # fmt: skip
        y[:] = out[place]
        return {name: getattr(tape, name)[place] for name in ("gates", "h_prev", "c_prev")} if training else None

    def backward(self, x, weights, context, reverse, slabs, dy, dh, dc, dx, add_to_dx, out, flow=(None, None)):
        place = context.sorted_places
        running = np.arange(len(context.offsets) - 1) < context.sort(context.lengths)[:, None]
        padded = (self._padded(a, context) for a in (x, slabs["gates"], slabs["h_prev"], slabs["c_prev"]))
        weight_ih, weight_hh, bias = weights
        tape = reference.Tape(*padded, running, weight_ih, weight_hh, bias is not None, reverse)
        dy = None if dy is None else self._padded(dy, context)
        grads = reference.lstm_backward(tape, dy, (dh.copy(), dc.copy()))
        for target, array in zip(flow, (grads.dh, grads.dc), strict=True):
            if target is not None:
                target[:] = array[place]
        dh[:], dc[:] = grads.state
        for target, name in zip(out, ("weight_ih", "weight_hh", "bias"), strict=True):
            if target is not None:
                target[:] = grads.params[name]
        if dx is not None:
            dx[:] = grads.x[place] + (dx if add_to_dx else 0)

    def product(self, a, b, out, transpose_a=False, transpose_b=False, packed=None):
        """out := op(a) op(b)."""
        reference.product(a.T if transpose_a else a, b.T if transpose_b else b, out)


ENGINES = {"tile": TileEngine, "blas": BlasEngine, "reference": ReferenceEngine}
NAME = os.environ.get("LSTMX_ENGINE") or "tile"
if NAME not in ENGINES:
    raise ImportError(f"LSTMX_ENGINE={NAME!r} is not an engine: use one of {list(ENGINES)}, or unset the variable")


@functools.cache
def get_engine():
    """The engine in use, made on first use."""
    return ENGINES[NAME]()


def describe():
    """What runs here: engine, instruction sets, OpenMP.

    Returns
    -------
    dict
        engine (str), isa (dict with active, usable, compiled, vector_bytes, fma), openmp (bool).
    """
    return {"engine": NAME, "isa": isa.describe(), "openmp": sequence.openmp()}
