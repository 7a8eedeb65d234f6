"""Training on plain arrays."""

from collections.abc import Callable
from typing import Any, final

from lstmx._core.job import Direction
from lstmx._types import Array, Arrays, Ints, Pair

@final
class Passes:
    def __init__(
        self,
        parts: list[Direction],
        back: list[Direction],
        reversed: tuple[bool, ...],
        names: list[tuple[str, str, str | None]],
        type_number: int,
        threads: Callable[[], int],
    ) -> None: ...
    def of(self, arrays: Arrays) -> Passes: ...
    @property
    def takes_cohorts(self) -> bool: ...
    def forward(self, x: Any, state: Any, parameters: Any) -> tuple[Array, Pair, list[Any]] | None: ...
    def run(
        self,
        rows: Array,
        offsets: Ints | None,
        steps: int,
        cohorts: Ints | None,
        h: Array,
        c: Array,
        parameters: Any,
    ) -> tuple[Array, list[Any]]: ...
    def takes(self, shape: tuple[int, ...], dy: Any, dstate: Any) -> bool: ...
    def backward(
        self, layers: list[Any], shape: tuple[int, ...], dy: Array | None, dstate: Pair | None, arrays: Arrays
    ) -> tuple[Array, Pair, Arrays]: ...
    def run_back(
        self,
        layers: list[Any],
        offsets: Ints | None,
        steps: int,
        dy: Array | None,
        dh: Array,
        dc: Array,
        out: Arrays,
        need_dx: bool,
        add: bool,
        more: bool,
        sums: dict[int, Any],
    ) -> Array | None: ...
