from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
Result = tuple[Array, tuple[Array, Array]]

class Stack:
    def __init__(
        self,
        panels: list[tuple[Array, Array, Array]],
        inputs: int,
        hidden: int,
        layers: int,
        directions: int,
        threads: Callable[[], int],
    ) -> None: ...
    def run(self, x: Any, state: Any, out: Any, step: bool) -> Result | None: ...
