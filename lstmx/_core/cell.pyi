from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def forward(bias: Array | None, gates: Array, c: Array, h: Array) -> None: ...
def backward(gates: Array, c_prev: Array, dh: Array, dc: Array) -> None: ...
