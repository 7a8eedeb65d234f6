"""Initial values of parameters.

Each function draws from one `numpy.random.Generator` and returns float64; the layers convert to their own type, so that
float32 and float64 models of one seed start from the same numbers.
"""

import numpy as np


def uniform(rng, shape, bound):
    """U(-bound, bound). PyTorch's LSTM uses bound = 1 / sqrt(H) for every parameter."""
    return rng.uniform(-bound, bound, shape)


def glorot(rng, shape):
    """U(-b, b) with b = sqrt(6 / (fan_in + fan_out)) for a weight (fan_out, fan_in) (Glorot and Bengio 2010)."""
    fan_out, fan_in = shape
    return uniform(rng, shape, np.sqrt(6 / (fan_in + fan_out)))


def orthogonal(rng, shape):
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


def per_gate(initialiser, rng, shape):
    """A (4H, n) weight whose four gate blocks are drawn one by one."""
    rows, columns = shape
    return np.concatenate([initialiser(rng, (rows // 4, columns)) for _ in range(4)])


def forget_bias(hidden, value=1.0):
    """The bias (4H,) of an LSTM: 0, and `value` for the forget gate, so that a new network keeps its memory
    (Jozefowicz, Zaremba and Sutskever 2015)."""
    bias = np.zeros(4 * hidden)
    bias[hidden : 2 * hidden] = value
    return bias
