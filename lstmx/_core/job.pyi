"""One direction of one layer, as the compiled loop takes it."""

from collections.abc import Collection, Mapping
from typing import final

from lstmx._core.panels import Panels
from lstmx._types import Array, Ints

@final
class Direction:
    def __init__(
        self,
        cell: object,
        inputs: int,
        hidden: int,
        outputs: int,
        ih: list[Panels],
        hh: list[Panels],
        hr: Panels | None,
        vectors: dict[str, Array],
        masks: tuple[int, int],
        products: object,
        fused: bool,
        backward: bool,
    ) -> None: ...
    @property
    def fused(self) -> bool: ...
    def takes_cohorts(self) -> bool: ...
    def extra(self, training: bool) -> int: ...

def set_limits(worth_a_thread: float, worth_a_barrier: float, rows_per_thread: int) -> None: ...
def set_block(sums: int, few_steps: int) -> None: ...
def extra_widths(
    cell: object,
    inputs: int,
    hidden: int,
    outputs: int,
    vectors: Mapping[str, object] | Collection[str],
    projects: bool,
    masks: tuple[int, ...],
    training: bool,
) -> tuple[int, int]: ...
def gradient_block(batch: int) -> int: ...
def gradient_joint(batch: int) -> int: ...
def count_cohorts(batch: int, rows: int) -> int: ...
def first_of_cohorts(batch: int, rows: int, lengths: Ints | None = None) -> Ints | None: ...
def workspace(
    batch: int,
    steps: int,
    inputs: int,
    hidden: int,
    of_type: Array,
    threads: int,
    fused: bool,
    serial: bool,
    training: bool,
) -> dict[str, int]: ...
