"""The layers of an LSTM on plain arrays as one compiled call."""

from collections.abc import Callable
from typing import Any, final

from lstmx._core.job import Direction
from lstmx._types import Array, Pair

@final
class Stack:
    def __new__(
        cls, parts: list[Direction], layers: int, directions: int, type_number: int, threads: Callable[[], int] | None
    ) -> Stack: ...
    def run(self, x: Any, state: Any, step: bool, out: Any = None) -> tuple[Array, Pair] | None: ...
