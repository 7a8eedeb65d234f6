"""The engines: two ways to do the same arithmetic on packed rows, chosen by ``LSTMX_ENGINE``.

``blas`` multiplies with the BLAS that SciPy carries and does the rest in the compiled core. ``reference`` is
lstmx.reference, for checking. An engine has `forward`, `backward` and `product`; all else is shared.
"""

import functools
import os

import numpy as np

from lstmx import reference
from lstmx._core import sequence, simd
from lstmx.functional import allocate, threads


class BlasEngine:
    """Products by BLAS, outside any parallel region; pointwise work by SIMD kernels and OpenMP."""

    name = "blas"

    def __init__(self):
        try:
            from lstmx._core import blas
        except ImportError as error:
            raise ImportError(f"the blas engine needs SciPy ({error}): pip install 'lstmx[blas]'") from error
        self.products = blas.product_table()
        self.largest = blas.LARGEST

    def _check(self, *sizes):
        if max(sizes) > self.largest:
            raise ValueError(f"a matrix side of {max(sizes)} is beyond this BLAS ({self.largest}): use smaller batches")

    def forward(self, x, weights, context, reverse, h, c, y, training):
        weight_ih, weight_hh, bias = weights
        rows, inputs = x.shape
        hidden = weight_hh.shape[1]
        self._check(rows, inputs, 4 * hidden, y.strides[0] // y.itemsize)
        layout, block = allocate.recurrent_layout(rows, context.batch, context.widest, hidden, training=training)
        slabs = {name: allocate.empty(shape, x.dtype) for name, shape in layout.items()}
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

    def product(self, a, b, out, transpose_a=False, transpose_b=False):
        """out := op(a) op(b)."""
        self._check(*a.shape, *b.shape)
        sequence.product(self.products, transpose_a, transpose_b, a, b, out)


class ReferenceEngine:
    """lstmx.reference behind the interface of an engine: packed rows are padded, run and packed again."""

    name = "reference"

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
        tape = reference.Tape(*padded, running, *weights[:2], weights[2] is not None, reverse)
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

    def product(self, a, b, out, transpose_a=False, transpose_b=False):
        """out := op(a) op(b)."""
        reference.product(a.T if transpose_a else a, b.T if transpose_b else b, out)


ENGINES = {"blas": BlasEngine, "reference": ReferenceEngine}
NAME = os.environ.get("LSTMX_ENGINE") or "blas"
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
    return {"engine": NAME, "isa": simd.isa(), "openmp": sequence.openmp()}
