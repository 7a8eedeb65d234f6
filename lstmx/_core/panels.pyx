"""Weights in the forms that kernels read: panels of the tile (c/pack.h describes them), and matrices for BLAS.

lstmx.functional.panels builds them once and keeps them.
"""

cimport numpy as cnp

from lstmx._core.isa cimport format_of
from lstmx._core.job cimport data, size, tile_for

cnp.import_array()

FORMATS = ("f32", "f64")   # enum lstmx_format


def gate_width(cnp.ndarray weight):
    """4H of a weight (4H, K), rounded up to what gate panels take for each k."""
    return tile_for(format_of(weight)).gate_width(cnp.PyArray_DIM(weight, 0) // 4)


def pack_gates(cnp.ndarray weight, cnp.ndarray panels):
    """Gate panels (K * gate_width(H),) of weight (4H, K), both contiguous."""
    cdef size K = cnp.PyArray_DIM(weight, 1), H = cnp.PyArray_DIM(weight, 0) // 4
    tile_for(format_of(weight)).pack_gates(H, K, data(weight), data(panels))


def column_width(cnp.ndarray weight, bint transposed=False):
    """n of B (K, n) = weight, or its transpose, rounded up to what column panels take for each k."""
    return tile_for(format_of(weight)).column_width(cnp.PyArray_DIM(weight, not transposed))


def outer_room(cnp.ndarray of_type, size rows, size n):
    """Values of the scratch of an outer product over so many rows, whose result has n columns, of an array's type."""
    return tile_for(format_of(of_type)).outer_room(rows, n)


def pack_columns(cnp.ndarray weight, cnp.ndarray panels, bint transposed=False):
    """Column panels (K * column_width(n),) of B (K, n) = weight, or its transpose if weight is (n, K)."""
    cdef size K = cnp.PyArray_DIM(weight, transposed), n = cnp.PyArray_DIM(weight, not transposed)
    tile_for(format_of(weight)).pack_columns(transposed, K, n, data(weight), data(panels))


cdef class Panels:
    """A weight in the form of an engine. It carries its format, and is never changed.

    Parameters
    ----------
    array : ndarray
        Panels, or with `matrix` a C-contiguous (K, n), (n, K) if `transposed`.
    """

    def __cinit__(self, cnp.ndarray array, bint matrix=False, bint transposed=False):
        self.array = array
        self.matrix.data, self.matrix.transposed = data(array), transposed
        self.matrix.row = cnp.PyArray_DIM(array, 1) if matrix else 0
        self.operand = <const void *>&self.matrix if matrix else data(array)

    @property
    def format(self):
        """The type of its values: "f32" or "f64"."""
        return FORMATS[format_of(self.array)]
