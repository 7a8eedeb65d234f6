"""Working memory."""

from typing import final

from numpy.typing import DTypeLike

from lstmx._types import Array, Shape

DEBUG: bool
_allocations_left: int | None
spare: Spare

@final
class Spare:
    limit: int
    smallest: int
    count: int
    _blocks: list[Array]
    def __init__(self, limit: int, smallest: int, count: int) -> None: ...
    def take(self, nbytes: int) -> Array: ...
    def clear(self) -> None: ...

def empty(shape: Shape, dtype: DTypeLike) -> Array: ...
def zeros(shape: Shape, dtype: DTypeLike) -> Array: ...
def aligned(shape: Shape, dtype: DTypeLike, *, reuse: bool = False) -> Array: ...
def padded_width(columns: int, dtype: DTypeLike) -> int: ...
def padded(rows: int, columns: int, dtype: DTypeLike) -> Array: ...
