"""The options of a cell: how lstmx.functional.cell.Cell becomes the lstmx_cell of c/cell.h."""

cdef extern from "cell.h":
    ctypedef struct lstmx_cell:
        int special
        double clip
        double cell_clip

cdef inline int set_cell(lstmx_cell *to, cell) except -1:
    to.special = not cell.plain
    to.clip = 0 if cell.clip is None else cell.clip
    to.cell_clip = 0 if cell.cell_clip is None else cell.cell_clip
    return 0
