"""Every tolerance of the tests, with the reason for each number. Use them as ``assert_allclose(a, b, **NAME)``.

`rtol` is relative to the wanted value, `atol` covers what cancels to nearly nothing; both are always given. The data of
the tests are of order 1, so `atol` is as large as the rounding of the terms that cancel.
"""

import numpy as np

# The complex step subtracts nothing: both sides are exact but for the rounding of some 100 operations (100 * 1.1e-16).
COMPLEX_STEP = {"rtol": 1e-12, "atol": 1e-13}

# Central differences with step 1e-6: truncation 1e-12 of the third derivative, rounding 1e-16 / 1e-6 of the loss.
FINITE_DIFFERENCE = {"rtol": 1e-6, "atol": 1e-7}

# Another implementation of the same formula: some 1,000 operations on numbers of order 1, in another order.
PEER = {
    "float64": {"rtol": 1e-12, "atol": 1e-13},  # 1e3 * 1.1e-16
    "float32": {"rtol": 2e-5, "atol": 5e-6},  # 1e2 * 6e-8: PyTorch's own error counts too
}

# onnxruntime computes in float32 with approximate activations; measured: up to 3e-6.
ONNXRUNTIME = {"rtol": 1e-4, "atol": 1e-5}

# float32 beside float64 from the same parameters: rounding of the inputs (6e-8) through a few steps.
PRECISION = {"rtol": 1e-3, "atol": 1e-4}

# Two engines of lstmx: the same formula, sums in another order, activations within 3 or 4 ULP; through T <= 5 steps.
ENGINES = {
    "float64": {"rtol": 1e-11, "atol": 1e-12},
    "float32": {"rtol": 1e-4, "atol": 2e-5},
}

# A network of the cell family beside the float64 reference: two layers of six steps, a layer norm divides by little;
# relative to an array's largest value, at least 1.
FAMILY = {"float64": 1e-11, "float32": 4e-5}

# One cell: five activations of at most 4 ULP and a dozen roundings; 1 - g^2 and 1 - o cancel, hence atol.
CELL = {
    "float64": {"rtol": 1e-14, "atol": 4e-15},
    "float32": {"rtol": 5e-6, "atol": 2e-6},
}

# A dozen roundings to nearest without cancellation, each half a ULP.
ROUNDINGS = {
    "float64": {"rtol": 4e-15, "atol": 0},
    "float32": {"rtol": 2e-6, "atol": 0},
}

# An optimiser: the same formula as PyTorch's in another order of multiplication, six steps; p - rate * step cancels.
OPTIMISER = {
    "float64": {"rtol": 1e-12, "atol": 1e-14},
    "float32": {"rtol": 1e-5, "atol": 2e-6},
}

# tests/fuzz.py: up to three layers, 257 steps, sums over 600 rows; relative to an array's largest value, at least 1.
FUZZ = {"float64": 1e-11, "float32": 2e-4}


def summation(dtype, terms):
    """Bound for a sum of `terms` numbers in blocks, relative to the sum of their magnitudes.

    A chain of n additions is off by at most n * eps / 2 of the sum of magnitudes; the longest chain is one block of 256
    rows plus one addition a block.
    """
    chain = min(terms, 256) + terms / 256
    return {"rtol": 0, "atol": chain * float(np.finfo(dtype).eps) / 2}


# float64 sums over 16 lanes and blocks of 4,096: chains of 256 + 4 additions, plus one a block; of the magnitudes' sum.
SUM_FLOAT64 = {"rtol": 0, "atol": 300 * 1.2e-16}

# What a statistic of independent draws may be off by, in standard deviations: 1 in 3.5 million per statistic. The seeds
# are fixed, so a test that passes once passes always.
SIGMAS = 5

# The report shows three decimals in its table and two in its diagram, of values of order 1 kept in 16 bits.
SHOWN = {3: {"rtol": 0, "atol": 7e-4}, 2: {"rtol": 0, "atol": 5.2e-3}}
# The filled part of a box of 9 units in a picture, and colours of 256 levels of a ramp and of a canvas.
DRAWN = {"rtol": 0, "atol": 1e-3}
COLOURS = {"rtol": 0, "atol": 4}


def sixteen_bits(values):
    """Half of a 65,532nd of the range of the finite values, and some rounding."""
    finite = np.asarray(values, float)[np.isfinite(values)]
    return {"rtol": 0, "atol": 0.51 * float(np.ptp(finite)) / 65532 if len(finite) else 0}
