from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def forward(gates: Array, c: Array, h: Array, bias: Array | None) -> None: ...
def backward(gates: Array, c_prev: Array, dh: Array, dc: Array) -> None: ...
