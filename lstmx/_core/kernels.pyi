"""Kernels on rows of numbers."""

import numpy as np

from lstmx._types import Array, Ints

ACTIVATIONS: dict[str, int]
LOSSES: dict[str, int]

def sigmoid(x: Array, out: Array) -> None: ...
def tanh(x: Array, out: Array) -> None: ...
def exp(x: Array, out: Array) -> None: ...
def expm1(x: Array, out: Array) -> None: ...
def softplus(x: Array, out: Array) -> None: ...
def cell_forward(cell: object, bias: Array | None, gates: Array, c: Array, h: Array) -> None: ...
def cell_backward(cell: object, gates: Array, c_prev: Array, dh: Array, dc: Array) -> None: ...
def activate(activation: int, y: Array, bias: Array | None) -> None: ...
def activate_backward(activation: int, y: Array, dy: Array) -> None: ...
def column_sum(x: Array, out: Array) -> None: ...
def sum(x: Array) -> float: ...
def sum_of_squares(x: Array) -> float: ...
def dropout(key: int | np.uint64, row: Ints, time: Ints, rate: float, x: Array, y: Array) -> None: ...
def loss(
    kind: int,
    p: Array,
    y: Array | None,
    mass: Array | None,
    labels: Ints | None,
    weight: Array,
    divisor: float,
    value: Array,
    gradient: Array,
) -> float: ...
def sgd(
    p: Array, g: Array, m: Array | None, scale: float, rate: float, momentum: float, nesterov: bool, decay: float
) -> bool: ...
def rmsprop(
    p: Array,
    g: Array,
    v: Array,
    m: Array | None,
    scale: float,
    rate: float,
    rho: float,
    epsilon: float,
    momentum: float,
    decay: float,
) -> bool: ...
def adam(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    scale: float,
    rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    correction_1: float,
    correction_2: float,
    decay: float,
    decoupled_decay: float,
) -> bool: ...
def fma_chains(rounds: int, y: Array) -> float: ...
