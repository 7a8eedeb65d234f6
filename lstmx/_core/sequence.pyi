from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

def openmp() -> bool: ...
def max_threads() -> int: ...
def set_grain(units: int) -> int: ...
def forward(
    products: object,
    x: Array,
    w_ih: Array,
    w_hh: Array,
    bias: Array | None,
    offsets: NDArray[np.intp],
    reverse: bool,
    h: Array,
    c: Array,
    y: Array,
    gates: Array,
    block: int,
    threads: int,
    h_prev: Array | None = None,
    c_prev: Array | None = None,
) -> None: ...
def backward(
    products: object,
    x: Array,
    w_ih: Array,
    w_hh: Array,
    offsets: NDArray[np.intp],
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
    threads: int,
    dh_all: Array | None = None,
    dc_all: Array | None = None,
) -> None: ...
def product(products: object, transpose_a: bool, transpose_b: bool, a: Array, b: Array, out: Array) -> None: ...
