"""The options of a cell: how lstmx.functional.cell.Cell becomes the lstmx_cell of c/cell.h."""

from libc.string cimport memset

cdef extern from "cell.h":
    enum:
        LSTMX_NO_NORM
        LSTMX_HASTE
        LSTMX_FASTRNN
        LSTMX_TFLITE
    ctypedef struct lstmx_curve:
        int kind
        double alpha
        double beta
    ctypedef struct lstmx_cell:
        int special
        int general
        int gates
        int peephole
        int slstm
        int norm
        double clip
        double cell_clip
        double epsilon
        double zoneout_h
        double zoneout_c
        lstmx_curve gate
        lstmx_curve candidate
        lstmx_curve output

cdef inline int set_cell(lstmx_cell *to, cell) except -1:
    memset(to, 0, sizeof(lstmx_cell))
    to.gates = 4
    if not cell.special:
        return 0
    to.special, to.general = cell.special, cell.general
    to.gates, to.peephole, to.slstm = cell.gates, cell.peephole, cell.slstm
    to.norm = 0 if cell.layer_norm is None else ("haste", "fastrnn", "tflite").index(cell.layer_norm) + 1
    to.epsilon = cell.epsilon
    to.clip = 0 if cell.clip is None else cell.clip
    to.cell_clip = 0 if cell.cell_clip is None else cell.cell_clip
    to.zoneout_h, to.zoneout_c = cell.zoneout
    gate, candidate, output = cell.curves
    set_curve(&to.gate, gate)
    set_curve(&to.candidate, candidate)
    set_curve(&to.output, output)
    return 0

cdef inline int set_curve(lstmx_curve *to, curve) except -1:
    to.kind, to.alpha, to.beta = curve
    return 0
