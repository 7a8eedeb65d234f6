"""The closed loop of a program."""

from lstmx._core.program import Program
from lstmx._types import Array, Ints, State

MODES: dict[str, int]

def run(
    program: Program,
    mode: str,
    temperature: float,
    y: Array,
    states: State,
    inputs: Array,
    results: Array,
    drawn: Array | None,
    from_output: Ints,
    to_column: Ints,
    known: int,
) -> int | None: ...
