from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def block_of_sums(
    batch: int, inputs: int, hidden: int, steps: int, itemsize: int, threads: int, windows: bool = False
) -> tuple[int, tuple[int, int]] | None: ...
def forward(
    x: Array,
    w_ih: Array,
    w_hh: Array,
    bias: Array,
    offsets: Array | None,
    steps: int,
    reverse: bool,
    h: Array,
    c: Array,
    y: Array,
    sums: Array | None,
    block: int,
    windows: bool,
    threads: int,
    gates: Array | None = None,
    h_prev: Array | None = None,
    c_prev: Array | None = None,
) -> None: ...
def gradient_rows(batch: int, steps: int) -> int: ...
def backward(
    x: Array,
    w_ih: Array | None,
    w_hh: Array,
    offsets: Array | None,
    steps: int,
    reverse: bool,
    gates: Array,
    h_prev: Array,
    c_prev: Array,
    dy: Array | None,
    dh: Array,
    dc: Array,
    dx: Array | None,
    add_to_dx: bool,
    dw_ih: Array,
    dw_hh: Array,
    db: Array | None,
    turned: Array | None,
    strips: Array,
    threads: int,
    dh_all: Array | None = None,
    dc_all: Array | None = None,
) -> None: ...
def set_limits(worth_a_thread: float, worth_a_barrier: float, rows_per_thread: int) -> tuple[float, float, int]: ...
