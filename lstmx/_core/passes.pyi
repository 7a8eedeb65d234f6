"""Training on plain arrays."""

from collections.abc import Callable
from typing import Any, final

from lstmx._core.job import Direction
from lstmx._types import Array, Arrays, Pair

@final
class Passes:
    def __new__(
        cls,
        parts: list[Direction],
        back: Callable[[], list[Direction]],
        weights: list[list[Any]],
        reversed: tuple[bool, ...],
        names: list[dict[str, str]],
        type_number: int,
        threads: Callable[[], int],
    ) -> Passes: ...
    def forward(self, x: Any, state: Any) -> tuple[Array, Pair, list[Any]] | None: ...
    def takes(self, shape: tuple[int, ...], dy: Any, dstate: Any) -> bool: ...
    def backward(
        self, layers: list[Any], shape: tuple[int, ...], dy: Array | None, dstate: Pair | None, arrays: Arrays
    ) -> tuple[Array, Pair, Arrays]: ...
