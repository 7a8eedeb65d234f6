"""The options of a cell: how lstmx.functional.cell.Cell becomes the lstmx_cell of c/cell.h."""

cdef extern from "cell.h":
    ctypedef struct lstmx_cell:
        int special

cdef inline int set_cell(lstmx_cell *to, cell) except -1:
    to.special = not cell.plain
    return 0
