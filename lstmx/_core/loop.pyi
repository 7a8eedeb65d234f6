"""The loop over time, and its threads."""

from lstmx._core.job import Direction
from lstmx._types import Array, Arrays, Ints

def openmp() -> bool: ...
def max_threads() -> int: ...
def cpus() -> int: ...
def set_patience(seconds: float) -> float: ...
def record_work(on: bool) -> tuple[float, list[float]]: ...
def forward(
    direction: Direction,
    x: Array,
    offsets: Ints | None,
    steps: int,
    reverse: bool,
    h: Array,
    c: Array,
    y: Array,
    threads: int,
    slabs: Arrays,
    keep: bool = False,
    cohorts: Ints | None = None,
    windows: bool = False,
) -> None: ...
def backward(
    direction: Direction,
    x: Array,
    offsets: Ints | None,
    steps: int,
    reverse: bool,
    slabs: Arrays,
    dy: Array | None,
    dh: Array,
    dc: Array,
    dx: Array | None,
    add_to_dx: bool,
    out: Arrays,
    d_vectors: Array | None,
    threads: int,
    dh_all: Array | None = None,
    dc_all: Array | None = None,
    add: bool = False,
    sums: Array | None = None,
    more: bool = False,
) -> Array | None: ...
