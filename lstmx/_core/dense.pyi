"""Products of the layers without time."""

from collections.abc import Callable
from typing import Any, final

from lstmx._core.panels import Panels
from lstmx._types import Array, Ints

@final
class Linear:
    def __new__(
        cls,
        products: object,
        weight: Panels,
        inputs: int,
        outputs: int,
        bias: Array | None,
        activation: int,
        threads: Callable[[], int] | None,
    ) -> Linear: ...
    def run(self, x: Any) -> Array | None: ...

def product(products: object, a: Array, b: Panels, out: Array, threads: int) -> None: ...
def outer(
    products: object, a: Array, b: Array, out: Array, sums: Array | None, blocks: Ints, add: bool, strips: Array
) -> None: ...
