"""Chooses the instruction set for this CPU, and with it the tables of c/core.h."""

import os

cimport numpy as cnp

from lstmx._core.core cimport lstmx_isa, lstmx_isa_at, lstmx_isa_count, lstmx_isa_supported

cdef const lstmx_isa *active


def _choose(forced):
    """The best instruction set that this CPU has, or the one that LSTMX_ISA names."""
    names = [lstmx_isa_at(i).name.decode() for i in range(lstmx_isa_count())]
    usable = [name for i, name in enumerate(names) if lstmx_isa_supported(i)]
    if not forced:
        return names.index(usable[len(usable) - 1])   # no negative index: wraparound is off
    if forced not in names:
        raise ImportError(f"LSTMX_ISA={forced!r} is not an instruction set of this build: use one of {usable}, "
                          "or unset the variable")
    if forced not in usable:
        raise ImportError(f"LSTMX_ISA={forced!r} cannot run on this CPU: use one of {usable}, or unset the variable")
    return names.index(forced)


active = lstmx_isa_at(_choose(os.environ.get("LSTMX_ISA", "")))


cdef const lstmx_isa *active_isa() noexcept nogil:
    return active


cdef int no_format(cnp.ndarray array) except -1:
    given = "None" if array is None else f"an array of {(<object>array).dtype}"
    raise TypeError(f"got {given}, must be an array of float32 or float64 in the byte order of this machine")


def describe():
    """dict: the active instruction set, its vector width in bytes, those of the build and those this CPU can run."""
    cdef int i
    every = range(lstmx_isa_count())
    return {
        "active": active.name.decode(),
        "vector_bytes": active.vector_bytes,
        "fma": bool(active.fma),
        "compiled": [lstmx_isa_at(i).name.decode() for i in every],
        "usable": [lstmx_isa_at(i).name.decode() for i in every if lstmx_isa_supported(i)],
    }
