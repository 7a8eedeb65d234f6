"""The functions of vmath.h: their error in units in the last place, special values, tails."""

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from test_disassembly import X86, bits

from lstmx._core import kernels

# The promised bounds in units in the last place, wherever argument and exact result are normal numbers; for exp up to
# EXP_MAX in variant.h, above which it gives infinity; for expm1 up to 0. What benchmarks/ulp.py has measured is in
# docs/ulp.json.
TABLE = {
    ("sigmoid", "float32"): 3,
    ("sigmoid", "float64"): 4,
    ("tanh", "float32"): 3,
    ("tanh", "float64"): 4,
    ("exp", "float32"): 3,
    ("exp", "float64"): 4,
    ("expm1", "float32"): 3,
    ("expm1", "float64"): 4,
    ("softplus", "float32"): 3,
    ("softplus", "float64"): 4,
}
EXP_MAX = {"float32": np.float32(88.3762626), "float64": 709.43613930310391}
EXP_MIN = {"float32": np.float32(-87.336544), "float64": -708.39641853226408}

DTYPES = ["float32", "float64"]
FUNCTIONS = ["sigmoid", "tanh", "exp", "expm1", "softplus"]
WIDE = np.longdouble


def call(name, x):
    out = np.full_like(x, -7)
    getattr(kernels, name)(x, out)
    return out


def taken(name, x):
    """x where the function takes it: expm1 is for arguments up to 0."""
    return -np.abs(x) if name == "expm1" else x


# ---------------------------------------------------------------------------------------------- accuracy


def exact(name, x):
    """The function in extended precision; the forms keep the relative accuracy of small results."""
    x = x.astype(WIDE)
    if name in ("exp", "tanh", "expm1"):
        return getattr(np, name)(x)
    if name == "softplus":
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return WIDE(1) / (WIDE(1) + np.exp(-x))


def errors_in_ulp(name, x):
    """Errors of the normal cases of x, and how many those are."""
    x, info = taken(name, x), np.finfo(x.dtype)
    found = call(name, x).astype(WIDE)
    with np.errstate(all="ignore"):
        want = exact(name, x)
        size = np.abs(want)
        normal = (np.abs(x) >= info.tiny) & np.isfinite(x) & (size >= info.tiny) & (size <= info.max)
        if name == "exp":
            normal &= x <= EXP_MAX[x.dtype.name]
        found, want, size = found[normal], want[normal], size[normal]
        return np.abs(found - want) / np.exp2(np.floor(np.log2(size)) - info.nmant)


def arguments(kind, dtype, count=100_000):
    """Arguments of one kind, of both signs."""
    rng = np.random.default_rng(0)
    info = np.finfo(dtype)
    low, high = float(EXP_MIN[dtype]), float(EXP_MAX[dtype])
    if kind == "all magnitudes":
        exponent = rng.integers(info.minexp, info.maxexp, count)
        x = rng.uniform(1, 2, count) * np.exp2(exponent) * rng.choice([-1, 1], count)
    elif kind == "near 0":
        x = rng.normal(size=count) * np.exp2(-rng.integers(0, 40, count))
    elif kind == "ordinary":
        x = rng.normal(scale=3, size=count)
    elif kind == "near saturation":
        edges = [low, high, -low, -high, 9.02, -9.02, 9.5, -9.5, 17.3, -17.3, 19.06, -19.06, 36.7, -36.7]
        x = np.concatenate([edge + rng.normal(size=count // 14) for edge in edges])
    elif kind == "halfway between multiples of ln 2":
        x = (rng.integers(-60, 60, count) + 0.5) * math.log(2) * (1 + rng.normal(scale=4 * info.eps, size=count))
    else:
        kinds = {"float32": (np.uint32, 2**32), "float64": (np.uint64, 2**64)}
        unsigned, end = kinds[dtype]
        return rng.integers(0, end, count, dtype=unsigned).view(dtype)
    return x.astype(dtype)


KINDS = ["all magnitudes", "near 0", "ordinary", "near saturation", "halfway between multiples of ln 2", "random bits"]
extended = pytest.mark.skipif(np.finfo(WIDE).nmant < 63, reason="no extended precision to compare with")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "dtype"), [pytest.param(*k, marks=extended if "64" in k[1] else ()) for k in TABLE])
def test_error_is_within_the_promised_ulp(name, dtype, kind):
    found = errors_in_ulp(name, arguments(kind, dtype))
    assert len(found) > 10_000, "degenerate arguments"
    assert found.max() <= TABLE[name, dtype]  # a NaN would fail too


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_sigmoid_and_tanh_stay_within_their_range(name, dtype):
    x = arguments("random bits", dtype)
    found = call(name, x[~np.isnan(x)])
    assert found.min() >= (0 if name == "sigmoid" else -1) and found.max() <= 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd_to_the_bit(dtype):
    x = arguments("ordinary", dtype)
    assert_array_equal(bits(call("tanh", -x)), bits(-call("tanh", x)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_zero_below_and_infinite_above_its_range(dtype):
    edges = np.array([EXP_MIN[dtype], EXP_MAX[dtype]], dtype)
    inside = call("exp", edges)
    assert inside[0] > 0 and np.isfinite(inside[1])
    outside = np.nextafter(edges, np.array([-np.inf, np.inf], dtype))
    assert_array_equal(call("exp", outside), [0, np.inf])


# ---------------------------------------------------------------------------------------------- special values

SPECIAL = {
    "sigmoid": [(np.inf, 1.0), (-np.inf, 0.0), (np.nan, np.nan), (0.0, 0.5), (-0.0, 0.5), (-1e4, 0.0), (1e4, 1.0)],
    "tanh": [(np.inf, 1.0), (-np.inf, -1.0), (np.nan, np.nan), (0.0, 0.0), (-0.0, -0.0), (-1e4, -1.0), (1e4, 1.0)],
    "exp": [(np.inf, np.inf), (-np.inf, 0.0), (np.nan, np.nan), (0.0, 1.0), (-0.0, 1.0), (-1e4, 0.0), (1e4, np.inf)],
    "expm1": [(-np.inf, -1.0), (np.nan, np.nan), (0.0, 0.0), (-0.0, 0.0), (-1e4, -1.0)],
    "softplus": [(np.inf, np.inf), (-np.inf, 0.0), (np.nan, np.nan), (-1e4, 0.0), (1e4, 1e4)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, dtype):
    x, want = np.array(SPECIAL[name], dtype).T.copy()
    assert_array_equal(bits(call(name, x)), bits(want))  # bits: the sign of zero counts


@pytest.mark.skipif(not X86, reason="flushing is by MXCSR here; other processors may keep subnormals")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "limits"),
    [("sigmoid", (0.5, 0.5)), ("tanh", (0.0, -0.0)), ("exp", (1.0, 1.0)), ("expm1", (0.0, 0.0)),
     ("softplus", (math.log(2), math.log(2)))],
)  # fmt: skip
def test_subnormal_arguments_count_as_signed_zero(name, limits, dtype):
    info = np.finfo(dtype)
    positive = np.array([info.smallest_subnormal, info.tiny / 2, np.nextafter(info.tiny, info.dtype.type(0))], dtype)
    assert_array_equal(bits(call(name, positive)), bits(np.full(3, limits[0], dtype)))
    assert_array_equal(bits(call(name, -positive)), bits(np.full(3, limits[1], dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_result_is_subnormal(name, dtype):
    x = np.concatenate([arguments("near saturation", dtype), arguments("all magnitudes", dtype)])
    found = call(name, taken(name, x))
    assert not ((found != 0) & (np.abs(found) < np.finfo(dtype).tiny)).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vector_body_and_tail_give_the_same_bits(name, dtype):
    x = arguments("ordinary", dtype, 67)
    alone = np.concatenate([call(name, x[j : j + 1]) for j in range(67)])
    for n in range(1, 68):
        assert_array_equal(bits(call(name, x[:n])), bits(alone[:n]), err_msg=f"n = {n}")
        shifted = call(name, x[67 - n :])  # also the pointer is aligned to one element only
        assert_array_equal(bits(shifted), bits(alone[67 - n :]), err_msg=f"last {n}")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_and_inf_in_any_lane_or_tail_affect_their_own_element_only(name, dtype, value):
    x = arguments("ordinary", dtype, 67)
    clean, special = call(name, x), call(name, np.full(1, value, dtype))
    for n in range(1, 68):
        for lane in range(n):
            spoilt = x[:n].copy()
            spoilt[lane] = value
            want = clean[:n].copy()
            want[lane] = special[0]
            assert bits(call(name, spoilt)).tobytes() == bits(want).tobytes(), f"n = {n}, lane = {lane}"


@pytest.mark.parametrize("n", [1, 4, 7, 16, 33, 67])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_output_may_be_the_input_and_nothing_behind_it_is_written(name, dtype, n):
    x = arguments("ordinary", dtype, n)
    want = call(name, x)
    room = np.full(n + 64, -7, dtype)
    room[:n] = x
    getattr(kernels, name)(room[:n], room[:n])
    assert_array_equal(bits(room[:n]), bits(want))
    assert (room[n:] == -7).all()
