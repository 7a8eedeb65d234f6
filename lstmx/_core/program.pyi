"""A whole model as one compiled call."""

from collections.abc import Callable
from typing import Any, final

from lstmx._types import Array, State

CURVES: dict[str, int]

@final
class Program:
    def __new__(cls, parts: list[tuple[Any, ...]], type_number: int, threads: Callable[[], int] | None) -> Program: ...
    @property
    def x_type(self) -> int: ...
    def run(self, x: Any, states: State, step: bool, out: Any = None) -> tuple[Array, State] | None: ...
