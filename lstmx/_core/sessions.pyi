"""Pushes of a `StreamPool` as compiled calls."""

from typing import Any, final

from lstmx._core.program import Program
from lstmx._types import Array, Ints

@final
class Sessions:
    def __init__(self, program: Program, ids: Ints, states: list[Array]) -> None: ...
    def push(self, ids: Any, x: Any, out: Array | None = None) -> Array | None: ...
