"""Weights in the form of an engine, for the modules that multiply by them."""

cimport numpy as cnp

from lstmx._core.core cimport lstmx_matrix

cdef class Panels:
    cdef readonly cnp.ndarray array    # holds the memory
    cdef lstmx_matrix matrix
    cdef const void *operand           # what a product takes for B
