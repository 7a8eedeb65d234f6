"""Activation: a function of every element, or softmax of every row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from lstmx.functional import kernels
from lstmx.functional.cell import ACTIVATIONS as OF_CELLS
from lstmx.functional.cell import read_activation
from lstmx.layers.simple import _Plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lstmx._types import Array, Config, Context, State
    from lstmx.layers.base import Run


_SELU = 1.6732632423543772, 1.0507009873554805  # alpha and scale of Klambauer et al. 2017
_GELU = math.sqrt(2 / math.pi), 0.044715  # of Hendrycks and Gimpel 2016, the approximation by tanh
# Chebyshev coefficients, the first one halved, of log(erfc(z) / t) + z**2 in 2 t - 1, where t = 2 / (2 + z), for z >= 0
_ERFC = (
    -0.6513268598908547, 0.6419697923564902, 0.019476473204185836, -0.009561514786808632, -0.0009465953444820369,
    0.00036683949785276145, 4.252332480690777e-05, -2.0278578112534242e-05, -1.6242900046470256e-06,
    1.3036558355805232e-06, 1.5626441722066142e-08, -8.523809591492654e-08, 6.5290544390988515e-09,
    5.059343495551469e-09, -9.91364156493033e-10, -2.273651222931836e-10, 9.646791102015527e-11,
    2.3940380830391146e-12, -6.886027526497553e-12, 8.944879273090725e-13, 3.130921399342958e-13,
    -1.1270822361367252e-13, 3.810905255189232e-16, 7.106097613609237e-15, -1.5230282014571041e-15,
)  # fmt: skip

# Names and defaults as the table of cells has them
ACTIVATIONS = OF_CELLS | dict.fromkeys(("softmax", "silu", "gelu", "gelu_tanh", "selu", "exp"), ())


class Activation(_Plain):
    """A function of every element of the rows before, or softmax over their features.

    Parameters
    ----------
    activation : str, or (name, alpha), (name, alpha, beta)
        One that a cell may have, as ONNX defines it: sigmoid, tanh, relu, affine, leaky_relu, thresholded_relu,
        scaled_tanh, hard_sigmoid, elu, softsign, softplus; or softmax, silu (x * sigmoid(x)), gelu (x * Phi(x), with
        the normal distribution Phi), gelu_tanh (its approximation by tanh), selu, exp.

    See Also
    --------
    lstmx.Dense : has the commonest built in; with a cross-entropy, `fit` wants its sigmoid or softmax there.

    Examples
    --------
    >>> import lstmx
    >>> model = lstmx.Sequential([lstmx.LSTM(3, 8), lstmx.Activation(("leaky_relu", 0.3)), lstmx.Dense(8, 1)])
    >>> model.output_size
    1
    """

    def __init__(self, activation: str | tuple[str | float, ...]) -> None:
        self.activation = read_activation("activation", activation, ACTIVATIONS)
        super().__init__()
        name, *numbers = (self.activation,) if isinstance(self.activation, str) else self.activation
        numbers = (*(numbers or ACTIVATIONS[name]), 0.0, 0.0)[:2]
        self._name, (self._function, self._slope) = name, _FUNCTIONS[name]
        self._numbers: dict[Any, Any] = {np.dtype(kind): tuple(map(kind, numbers)) for kind in (np.float32, np.float64)}

    def config(self) -> Config:
        """The constructor arguments, as plain JSON values."""
        return {"activation": self.activation if isinstance(self.activation, str) else list(self.activation)}

    def room(self, batch: int, rows: int, steps: int, features: int, itemsize: int) -> int:
        """The layer protocol: what formulas in NumPy have in between."""
        return rows * features * (64 if self.activation == "gelu" else 6 * itemsize)

    def forward_rows(self, rows: Any, context: Context, state: State, run: Run) -> tuple[Array, Context, State, Any]:
        """The layer protocol."""
        y = self._function(rows, *self._numbers[rows.dtype])
        return y, context, None, (rows, y) if run.keep else None

    def compiled(self, parameters: Any, directions: int) -> Callable[[Array], Array | None] | None:
        """The layer protocol."""

        def call(x: Array) -> Array | None:
            numbers = self._numbers.get(x.dtype)  # none of another byte order
            if numbers is None or not x.flags.aligned:
                return None
            return self._function(x.reshape(-1, x.shape[-1]), *numbers).reshape(x.shape)

        return call

    def program_part(self, parameters: Any, features: int) -> tuple[Any, ...] | None:
        """The layer protocol."""
        return kernels.activation_part(self._name, self._numbers[np.dtype(np.float64)], features)

    def backward_rows(
        self,
        tape: Any,
        dy: Any,
        out: Any,
        need_dx: bool,
        dstate: State = None,
        *,
        add: bool = False,
        more: bool = False,
    ) -> tuple[Array | None, State]:
        """The layer protocol; dy is overwritten."""
        if need_dx:
            x, y = tape
            with np.errstate(over="ignore", invalid="ignore"):
                self._slope(dy, x, y, *self._numbers[x.dtype])
            return dy, None
        return None, None


def _softmax(x: Array, *_: float) -> Array:
    y = x.copy()
    kernels.activate(y, "softmax")
    return y


def _leaky(x: Array, a: float, b: float) -> Array:
    with np.errstate(invalid="ignore"):
        return np.where(x < 0, x * a, x)


def _between(x: Array) -> Array:
    """x cut to 0..1: 0 and not -0, on every machine."""
    return np.where(x <= 0, 0, np.where(x >= 1, 1, x)).astype(x.dtype)


def _elu(x: Array, a: float, b: float) -> Array:
    return np.where(x < 0, kernels.each("expm1", np.minimum(x, 0)) * a, x)


def normal_distribution(x: Array) -> Array:
    """Phi(x), the probability of a standard normal number below x; computed in float64, in the type of x."""
    with np.errstate(over="ignore", invalid="ignore"):
        z = np.abs(x.astype(np.float64)) * math.sqrt(0.5)
        t = 2 / (2 + z)
        u, b, d = 4 * t - 2, 0.0, 0.0
        for coefficient in _ERFC[:0:-1]:  # Clenshaw's recurrence
            b, d = u * b - d + coefficient, b
        half = t * kernels.each("exp", u / 2 * b - d + _ERFC[0] - z * z) / 2
        return np.where(x < 0, half, 1 - half).astype(x.dtype)


def _normal_gelu_slope(x: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return normal_distribution(x) + x * kernels.each("exp", -x * x / 2) * x.dtype.type(1 / math.sqrt(2 * math.pi))


def _gelu(x: Array) -> tuple[Array, Array]:
    """(1 + tanh(a (x + b x**3))) / 2, which GELU multiplies x with, and its derivative."""
    a, b = map(x.dtype.type, _GELU)
    with np.errstate(over="ignore", invalid="ignore"):
        t = kernels.each("tanh", a * (x + b * x * x * x))
        return (1 + t) / 2, (1 - t * t) * a * (1 + 3 * b * x * x) / 2


def _silu_slope(x: Array) -> Array:
    s = kernels.each("sigmoid", x)
    return s + x * s * (1 - s)


def _by(slope: Callable[..., Any]) -> Callable[..., None]:
    """A derivative as what multiplies a gradient by it, in place."""

    def multiply(dy: Array, x: Array, y: Array, a: float, b: float) -> None:
        dy *= slope(x, y, a, b)

    return multiply


def _kernel(name: str) -> Callable[..., Array]:
    return lambda x, a, b: kernels.each(name, x)


# name -> (y from x, alpha and beta; dy := dy * dy/dx from dy, x, y, alpha and beta). A NaN stays one in both.
_FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "sigmoid": (_kernel("sigmoid"), _by(lambda x, y, a, b: y * (1 - y))),
    "tanh": (_kernel("tanh"), _by(lambda x, y, a, b: 1 - y * y)),
    "relu": (lambda x, a, b: np.where(x <= 0, 0, x).astype(x.dtype), _by(lambda x, y, a, b: np.where(y > 0, 1, y * 0))),
    "affine": (lambda x, a, b: x * a + b, _by(lambda x, y, a, b: a)),
    "leaky_relu": (_leaky, _by(lambda x, y, a, b: np.where(x < 0, a, 1))),
    "thresholded_relu": (
        lambda x, a, b: np.where(x <= a, 0, x).astype(x.dtype),
        _by(lambda x, y, a, b: np.where(x > a, 1, y * 0)),
    ),
    "scaled_tanh": (
        lambda x, a, b: a * kernels.each("tanh", b * x),
        _by(lambda x, y, a, b: a * b * (1 - np.square(kernels.each("tanh", b * x)))),
    ),
    "hard_sigmoid": (
        lambda x, a, b: _between(a * x + b),
        _by(lambda x, y, a, b: np.where((y > 0) & (y < 1), a, y * 0)),
    ),
    "elu": (_elu, _by(lambda x, y, a, b: np.where(x < 0, y + a, 1))),
    "softsign": (lambda x, a, b: x / (1 + np.abs(x)), _by(lambda x, y, a, b: 1 / np.square(1 + np.abs(x)))),
    "softplus": (_kernel("softplus"), _by(lambda x, y, a, b: kernels.each("sigmoid", x))),
    "softmax": (_softmax, lambda dy, x, y, a, b: kernels.activate_backward(y, dy, "softmax")),
    "silu": (lambda x, a, b: x * kernels.each("sigmoid", x), _by(lambda x, y, a, b: _silu_slope(x))),
    "gelu": (lambda x, a, b: x * normal_distribution(x), _by(lambda x, y, a, b: _normal_gelu_slope(x))),
    "gelu_tanh": (
        lambda x, a, b: x * _gelu(x)[0],
        _by(lambda x, y, a, b: np.add(*(part * by for part, by in zip(_gelu(x), (1, x), strict=True)))),
    ),
    "selu": (
        lambda x, a, b: _elu(x, x.dtype.type(_SELU[0]), b) * x.dtype.type(_SELU[1]),
        _by(lambda x, y, a, b: np.where(x < 0, y + x.dtype.type(_SELU[0] * _SELU[1]), x.dtype.type(_SELU[1]))),
    ),
    "exp": (_kernel("exp"), _by(lambda x, y, a, b: y)),
}
