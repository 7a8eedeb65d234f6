"""Initial values of parameters.

Each function draws from one `numpy.random.Generator` and returns float64; the layers convert to their own type, so that
float32 and float64 models of one seed start from the same numbers.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from lstmx._types import Array, Config, Shape


SCHEMES = ("glorot", "uniform")


def uniform(rng: np.random.Generator, shape: Shape, bound: float) -> Array:
    """U(-bound, bound). PyTorch's LSTM uses bound = 1 / sqrt(H) for every parameter."""
    return rng.uniform(-bound, bound, shape)


def glorot(rng: np.random.Generator, shape: Shape) -> Array:
    """U(-b, b) with b = sqrt(6 / (fan_in + fan_out)) for a weight (fan_out, fan_in) (Glorot and Bengio 2010)."""
    fan_out, fan_in = shape
    return uniform(rng, shape, np.sqrt(6 / (fan_in + fan_out)))


def orthogonal(rng: np.random.Generator, shape: Shape) -> Array:
    """A random matrix with orthonormal rows or columns, whichever are fewer (Saxe et al. 2014).

    The QR factors of a normal matrix, with signs that make the distribution uniform.

    Examples
    --------
    >>> import numpy as np
    >>> from lstmx.init import orthogonal
    >>> w = orthogonal(np.random.default_rng(0), (3, 3))
    >>> bool(np.allclose(w @ w.T, np.eye(3)))
    True
    """
    rows, columns = shape
    q, r = np.linalg.qr(rng.normal(size=(max(shape), min(shape))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T


def per_gate(initialiser: Callable[..., Array], gates: int, rng: np.random.Generator, shape: Shape) -> Array:
    """A (gates * H, n) weight whose gate blocks are drawn one by one."""
    rows, columns = shape
    return np.concatenate([initialiser(rng, (rows // gates, columns)) for _ in range(gates)])


def constant(rng: np.random.Generator, shape: Shape, value: Any) -> Array:
    """Every element `value`."""
    return np.full(shape, value)


class Scheme(NamedTuple):
    """How the parameters of an LSTM begin, as `lstmx.LSTM` documents it.

    Attributes
    ----------
    init : {"glorot", "uniform"}
    forget_bias : float or None
    chrono : float or None
        T_max.
    """

    init: str = "glorot"
    forget_bias: float | None = None
    chrono: float | None = None

    def config(self) -> Config:
        """The values that are not as they are by default."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}

    def weight(self, initialiser: Callable[..., Array], hidden: int) -> Callable[..., Array]:
        """How a weight begins for which the default scheme has `initialiser`, in a layer of H units."""
        return initialiser if self.init == "glorot" else partial(uniform, bound=1 / np.sqrt(hidden))

    def bias(self, rng: np.random.Generator, shape: Shape, gates: int) -> Array:
        """The one bias of `gates` blocks, i, f, g, o or i, g, o. In 3 blocks f = 1 - i, so that the input gate's bias
        is the negative of what would be the forget gate's.
        """
        hidden = shape[0] // gates
        bias = np.zeros(shape)
        if self.init == "uniform":
            bound = 1 / np.sqrt(hidden)
            bias = uniform(rng, shape, bound) + uniform(rng, shape, bound)
        forget = self.forget_bias
        if self.chrono is not None:
            forget = np.log(rng.uniform(1, self.chrono - 1, hidden))
        elif forget is None and self.init == "glorot":
            forget = 1.0
        if forget is not None:
            if gates == 4:
                bias[hidden : 2 * hidden] = forget
            if gates == 3 or self.chrono is not None:
                bias[:hidden] = -forget
        return bias


DEFAULT = Scheme()
