"""The kernels of lstmx._core.simd: accuracy, special values, tails, sums, masks, optimisers; the choice of an ISA."""

import ctypes
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_disassembly import COMPILERS, X86, Kernels, bits, build, needs_avx2, needs_compiler, needs_gcc
from tolerances import OPTIMISER, ROUNDINGS, SIGMAS, SUM_FLOAT64, summation

from lstmx._core import simd

# The promised bounds in units in the last place, wherever argument and exact result are normal numbers; for exp up to
# EXP_MAX in variant.h, above which it gives infinity. Measured by benchmarks/ulp.py: sigmoid 2.13 and 2.16, tanh 2.33
# and 2.50; exp 1.1 and 1.0 with FMA.
TABLE = {
    ("sigmoid", "float32"): 3,
    ("sigmoid", "float64"): 4,
    ("tanh", "float32"): 3,
    ("tanh", "float64"): 4,
    ("exp", "float32"): 3,
    ("exp", "float64"): 4,
}
EXP_MAX = {"float32": np.float32(88.3762626), "float64": 709.43613930310391}
EXP_MIN = {"float32": np.float32(-87.336544), "float64": -708.39641853226408}

DTYPES = ["float32", "float64"]
FUNCTIONS = ["sigmoid", "tanh", "exp"]
WIDE = np.longdouble
TORCH = np.load(Path(__file__).parent / "data" / "torch_optim.npz", allow_pickle=False)
OPTIMISERS = {key.split("/")[0]: json.loads(str(TORCH[key])) for key in TORCH.files if key.endswith("/config")}


def call(name, x):
    out = np.full_like(x, -7)
    getattr(simd, name)(x, out)
    return out


def python(code, **environment):
    """Run Python code in a fresh process that finds this lstmx; its completed process."""
    path = os.pathsep.join([str(Path(simd.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    env = {k: v for k, v in os.environ.items() if k != "LSTMX_ISA"} | {"PYTHONPATH": path} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


# ---------------------------------------------------------------------------------------------- accuracy


def exact(name, x):
    """The function in extended precision; the forms keep the relative accuracy of small results."""
    x = x.astype(WIDE)
    if name == "exp":
        return np.exp(x)
    if name == "tanh":
        return np.tanh(x)
    return WIDE(1) / (WIDE(1) + np.exp(-x))


def errors_in_ulp(name, x):
    """Errors of the normal cases of x, and how many those are."""
    info = np.finfo(x.dtype)
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
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, dtype):
    x, want = np.array(SPECIAL[name], dtype).T.copy()
    assert_array_equal(bits(call(name, x)), bits(want))  # bits: the sign of zero counts


@pytest.mark.skipif(not X86, reason="flushing is by MXCSR here; other processors may keep subnormals")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "limits"), [("sigmoid", (0.5, 0.5)), ("tanh", (0.0, -0.0)), ("exp", (1.0, 1.0))])
def test_subnormal_arguments_count_as_signed_zero(name, limits, dtype):
    info = np.finfo(dtype)
    positive = np.array([info.smallest_subnormal, info.tiny / 2, np.nextafter(info.tiny, info.dtype.type(0))], dtype)
    assert_array_equal(bits(call(name, positive)), bits(np.full(3, limits[0], dtype)))
    assert_array_equal(bits(call(name, -positive)), bits(np.full(3, limits[1], dtype)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_result_is_subnormal(name, dtype):
    found = call(name, np.concatenate([arguments("near saturation", dtype), arguments("all magnitudes", dtype)]))
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
    getattr(simd, name)(room[:n], room[:n])
    assert_array_equal(bits(room[:n]), bits(want))
    assert (room[n:] == -7).all()


# ---------------------------------------------------------------------------------------------- activations


def activation(name, y, bias=None):
    out = y.copy()
    simd.activate(simd.ACTIVATIONS[name], bias=bias, y=out)
    return out


def activation_backward(name, y, dy):
    out = dy.copy()
    simd.activate_backward(simd.ACTIVATIONS[name], y, out)
    return out


def in_numpy(name, x):
    """The activation in float64."""
    x = x.astype(np.float64)
    if name == "relu":
        return np.maximum(x, 0)
    if name == "softmax":
        e = np.exp(x - x.max(axis=1, keepdims=True))
        return e / e.sum(axis=1, keepdims=True)
    return {"linear": lambda v: v, "tanh": np.tanh, "sigmoid": lambda v: 1 / (1 + np.exp(-v))}[name](x)


def slope_in_numpy(name, y, dy):
    """dL/dx in float64 from the activated y."""
    y, dy = y.astype(np.float64), dy.astype(np.float64)
    if name == "softmax":
        return y * (dy - (y * dy).sum(axis=1, keepdims=True))
    return dy * {"linear": 1, "relu": y > 0, "tanh": 1 - y**2, "sigmoid": y * (1 - y)}[name]


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 67])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(simd.ACTIVATIONS))
def test_activations_equal_numpy(name, dtype, bias, n):
    rng = np.random.default_rng(n)
    x = rng.normal(scale=2, size=(3, n)).astype(dtype)
    b = rng.normal(size=n).astype(dtype) if bias else None
    total = x if b is None else x + b
    assert_allclose(activation(name, x, b), in_numpy(name, total), **ROUNDINGS[dtype])


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 67])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(simd.ACTIVATIONS))
def test_activation_gradients_equal_numpy(name, dtype, n):
    rng = np.random.default_rng(n)
    y = activation(name, rng.normal(scale=2, size=(3, n)).astype(dtype))
    dy = rng.normal(size=(3, n)).astype(dtype)
    kept = y.copy()
    found, want = activation_backward(name, y, dy), slope_in_numpy(name, y, dy)
    size = np.abs(dy).max()  # 1 - y^2 and dy - sum(y dy) cancel: relative to what enters
    assert_allclose(found / size, want / size, rtol=0, atol=ROUNDINGS[dtype]["rtol"])
    assert_array_equal(y, kept)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(simd.ACTIVATIONS))
def test_a_row_activated_alone_has_the_same_bits(name, dtype):
    x = arguments("ordinary", dtype, 5 * 23).reshape(5, 23)
    b, dy = x[0].copy(), x[::-1].copy()
    together = activation(name, x, b)
    backward = activation_backward(name, together, dy)
    for row in range(5):
        alone = activation(name, x[row : row + 1], b)
        assert_array_equal(bits(alone[0]), bits(together[row]))
        assert_array_equal(bits(activation_backward(name, alone, dy[row : row + 1])[0]), bits(backward[row]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["linear", "relu", "tanh", "sigmoid"])
def test_activations_pass_nan_on_in_their_own_element(name, dtype, value):
    for n in (1, 2, 5, 16, 19):
        for lane in range(n):
            x = arguments("ordinary", dtype, 3 * n).reshape(3, n)
            want = activation(name, x)
            x[1, lane] = value
            want[1, lane] = in_numpy(name, x)[1, lane]
            assert_array_equal(bits(activation(name, x)), bits(want))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["linear", "relu", "tanh", "sigmoid", "softmax"])
@pytest.mark.parametrize("where", ["y", "dy"])
def test_activation_gradients_pass_nan_on(where, name, dtype):
    y = activation(name, np.array([[1.0, 2.0, 0.5, 3.0, 1.5]], dtype))
    dy = np.array([[1.0, -2.0, 0.5, 1.0, 2.0]], dtype)
    clean = activation_backward(name, y, dy)
    (y if where == "y" else dy)[0, 2] = np.nan
    found = activation_backward(name, y, dy)
    if (where, name) == ("y", "linear"):  # its gradient does not look at y
        assert_array_equal(found, clean)
        return
    assert np.isnan(found[0, 2])
    if name != "softmax":
        others = [0, 1, 3, 4]
        assert_array_equal(found[0, others], clean[0, others])


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_is_zero_with_a_zero_gradient_at_and_below_zero(dtype):
    y = activation("relu", np.array([[-1.0, -0.0, 0.0, 1.0, -np.inf]], dtype))
    assert_array_equal(y, [[0, 0, 0, 1, 0]])
    assert_array_equal(activation_backward("relu", y, np.full_like(y, 3)), [[0, 0, 0, 3, 0]])


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_rows_are_shift_invariant_distributions(dtype, n):
    x = (np.random.default_rng(n).integers(-1000, 1000, size=(4, n)) / 128).astype(dtype)
    y = activation("softmax", x)
    assert (y >= 0).all()
    assert_allclose(y.sum(axis=1, dtype=np.float64), np.ones(4), **ROUNDINGS[dtype])
    assert_array_equal(bits(activation("softmax", x + x.dtype.type(512))), bits(y))  # 512 + k / 128 is exact


@pytest.mark.parametrize("n", [1, 2, 9, 40, 1500, 2100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_many_rows_is_that_of_each(dtype, n):
    rows = 2 * 2048 // n + 3  # more than one block of rows
    x = arguments("ordinary", dtype, rows * n).reshape(rows, n)
    whole, dy = activation("softmax", x), arguments("near 0", dtype, rows * n).reshape(rows, n)
    backward = activation_backward("softmax", whole, dy)
    for row in range(0, rows, max(1, rows // 50)):
        alone = activation("softmax", x[row : row + 1])
        assert_array_equal(bits(alone[0]), bits(whole[row]))
        assert_array_equal(bits(activation_backward("softmax", alone, dy[row : row + 1])[0]), bits(backward[row]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_large_logits_does_not_overflow(dtype):
    big = np.finfo(dtype).max / 4
    y = activation("softmax", np.array([[big, -big, 0.0], [-big, -big, -big]], dtype))
    assert_allclose(y, [[1, 0, 0], [1 / 3] * 3], **ROUNDINGS[dtype])


@pytest.mark.parametrize("lane", [0, 1, 8, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_spoils_its_own_softmax_row_entirely_and_no_other(dtype, lane):
    x = arguments("ordinary", dtype, 51).reshape(3, 17)
    clean = activation("softmax", x)
    x[1, lane] = np.nan
    y = activation("softmax", x)
    assert np.isnan(y[1]).all()
    assert_array_equal(bits(y[[0, 2]]), bits(clean[[0, 2]]))


# ---------------------------------------------------------------------------------------------- sums


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (256, 17), (257, 64), (700, 65), (513, 130)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_column_sum_is_within_the_error_of_blocked_sums(dtype, shape):
    x = np.random.default_rng(1).normal(loc=0.3, size=shape).astype(dtype)
    found = np.full(shape[1], -7, dtype)
    simd.column_sum(x, found)
    size = np.abs(x).sum(axis=0, dtype=np.float64)
    want = [math.fsum(column) for column in x.T.tolist()]
    assert_allclose(found / size, want / size, **summation(dtype, shape[0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_column_sums_are_as_good_as_those_of_short_blocks(dtype):
    # one chain over 20,000 ones and tenths would be off by some 1e-4 in float32
    x = np.full((20_000, 3), 0.1, dtype)
    found = np.empty(3, dtype)
    simd.column_sum(x, found)
    exact_sum = 20_000 * float(x[0, 0])
    assert_allclose(found, exact_sum, rtol=150 * float(np.finfo(dtype).eps), atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_column_has_the_same_sum_whatever_stands_beside_it(dtype):
    x = arguments("ordinary", dtype, 600 * 70).reshape(600, 70)
    whole, part = np.empty(70, dtype), np.empty(5, dtype)
    simd.column_sum(x, whole)
    for start in (0, 3, 62, 65):
        simd.column_sum(np.ascontiguousarray(x[:, start : start + 5]), part)
        assert_array_equal(bits(part), bits(whole[start : start + 5]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_reach_the_sum_of_their_own_column_only(dtype):
    x = arguments("ordinary", dtype, 300 * 67).reshape(300, 67)
    clean, found = np.empty(67, dtype), np.empty(67, dtype)
    simd.column_sum(x, clean)
    x[299, 64], x[0, 1] = np.nan, np.inf
    simd.column_sum(x, found)
    clean[64], clean[1] = np.nan, np.inf
    assert_array_equal(bits(found), bits(clean))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_column_sum_of_no_rows_is_zero(dtype):
    out = np.full(5, np.nan, dtype)
    simd.column_sum(np.empty((0, 5), dtype), out)
    assert_array_equal(out, np.zeros(5))


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 4095, 4096, 4097, 20_003])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_in_float64(dtype, n):
    x = np.random.default_rng(n).normal(loc=0.1, size=n).astype(dtype)
    size = math.fsum(np.abs(x).tolist()) or 1
    assert_allclose(simd.sum(x) / size, math.fsum(x.tolist()) / size, **SUM_FLOAT64)
    squares = math.fsum((x.astype(np.float64) ** 2).tolist())
    assert_allclose(simd.sum_of_squares(x) / (squares or 1), squares / (squares or 1), **SUM_FLOAT64)


@pytest.mark.parametrize("at", [0, 15, 16, 4095, 4096, 4999])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_reach_the_sums(dtype, at):
    x = np.ones(5000, dtype)
    x[at] = -np.inf
    assert (simd.sum(x), simd.sum_of_squares(x)) == (-np.inf, np.inf)
    x[at] = np.nan
    assert math.isnan(simd.sum(x)) and math.isnan(simd.sum_of_squares(x))


def test_squares_of_large_float32_do_not_overflow():
    x = np.full(3, 1e30, np.float32)
    assert_allclose(simd.sum_of_squares(x), 3 * float(x[0]) ** 2, **ROUNDINGS["float64"])


# ---------------------------------------------------------------------------------------------- dropout


def dropout(key, row, time, rate, x):
    out = np.full_like(x, -7)
    simd.dropout(key, np.ascontiguousarray(row, np.intp), np.ascontiguousarray(time, np.intp), rate, x, out)
    return out


def mask(key=1, rows=200, n=500, rate=0.5, row=None, time=None):
    """Which units are kept, as float64."""
    row = np.arange(rows) if row is None else row
    time = np.zeros(rows) if time is None else time
    return (dropout(key, row, time, rate, np.ones((len(row), n))) != 0).astype(np.float64)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_of_dropped_units_is_the_rate_in_every_row_and_unit(rate):
    kept = mask(rate=rate)
    for share, count in ((kept.mean(keepdims=True), kept.size), (kept.mean(axis=0), 200), (kept.mean(axis=1), 500)):
        deviation = (share - (1 - rate)) / math.sqrt(rate * (1 - rate) / count)
        assert np.abs(deviation).max() < SIGMAS
        if share.size > 1:
            assert 0.8 < deviation.std() < 1.2, "rows or units differ more, or less, than independent draws"


def test_rates_near_the_ends_of_their_range():
    x = arguments("ordinary", "float64", 500)[None]
    assert_array_equal(dropout(1, [0], [0], 0.0, x), x)
    last = dropout(1, [0], [0], np.nextafter(1, 0), x)
    assert np.isfinite(last).all() and (last == 0).sum() >= 499


@pytest.mark.parametrize("dtype", DTYPES)
def test_kept_units_are_scaled_by_the_inverse_of_what_is_kept(dtype):
    x = arguments("ordinary", dtype, 300)[None]
    found = dropout(1, [3], [5], 0.2, x)
    kept = found != 0
    assert 200 < kept.sum() < 280
    assert_array_equal(found[kept], x[kept] * np.dtype(dtype).type(1 / (1 - 0.2)))
    assert_array_equal(bits(found[~kept]), 0)


def test_a_mask_is_the_same_in_both_types_forward_and_backward_in_place_and_again():
    row, time = np.arange(7), np.arange(7) * 3
    x, dy = np.full((7, 67), 2.0), np.full((7, 67), -5.0)
    kept = dropout(9, row, time, 0.3, x) != 0
    assert_array_equal(dropout(9, row, time, 0.3, x) != 0, kept)
    assert_array_equal(dropout(9, row, time, 0.3, dy) != 0, kept)
    assert_array_equal(dropout(9, row, time, 0.3, x.astype(np.float32)) != 0, kept)
    place = dy.copy()
    simd.dropout(9, row.astype(np.intp), time.astype(np.intp), 0.3, place, place)
    assert_array_equal(place, dropout(9, row, time, 0.3, dy))


def test_a_mask_depends_on_the_callers_row_the_step_and_the_unit_not_on_the_place():
    rng = np.random.default_rng(2)
    row, time = np.repeat(np.arange(20), 10), np.tile(np.arange(10), 20)
    whole = mask(row=row, time=time)
    order = rng.permutation(200)
    assert_array_equal(mask(row=row[order], time=time[order]), whole[order])
    assert_array_equal(mask(row=row[37:38], time=time[37:38]), whole[37:38])
    assert_array_equal(mask(row=row, time=time, n=33), whole[:, :33])


def test_a_higher_rate_drops_what_a_lower_one_drops():
    assert (mask(rate=0.6) <= mask(rate=0.4)).all()


def correlation(a, b):
    """In standard deviations of the correlation of independent draws."""
    a, b = a.ravel() - a.mean(), b.ravel() - b.mean()
    return abs((a * b).mean() / (a.std() * b.std())) * math.sqrt(a.size)


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_masks_of_neighbours_are_uncorrelated(rate):
    zeros, steps = np.zeros(200), np.arange(200)
    by_row = mask(rate=rate)
    by_time = mask(rate=rate, row=zeros, time=steps)
    for lag in (1, 2, 3, 4, 8, 16, 64):
        assert correlation(by_row[:, :-lag], by_row[:, lag:]) < SIGMAS, f"units {lag} apart"
        assert correlation(by_row[:-lag], by_row[lag:]) < SIGMAS, f"rows {lag} apart"
        assert correlation(by_time[:-lag], by_time[lag:]) < SIGMAS, f"steps {lag} apart"
        assert correlation(by_row, mask(key=1 + lag, rate=rate)) < SIGMAS, f"keys {lag} apart"
        assert correlation(by_row, mask(key=1 + (lag << 32), rate=rate)) < SIGMAS, f"high words of keys {lag} apart"
    assert correlation(by_row, by_time) < SIGMAS, "row and time exchanged"
    assert correlation(by_row[1:], by_time[:-1]) < SIGMAS
    back = steps[::-1].copy()
    diagonal, other = mask(rate=rate, row=steps, time=back), mask(rate=rate, row=back, time=steps)
    assert correlation(diagonal, other) < SIGMAS


def test_no_two_rows_of_many_have_the_same_mask():
    row, time = np.repeat(np.arange(100), 100), np.tile(np.arange(100), 100)
    kept = mask(row=row, time=time, n=64).astype(bool)
    assert len(np.unique(np.packbits(kept, axis=1), axis=0)) == 10_000


def test_dropout_passes_nan_on_where_it_keeps_and_ends_it_where_it_drops():
    x = np.full((1, 300), np.nan)
    kept = dropout(1, [0], [0], 0.5, np.ones((1, 300))) != 0
    assert_array_equal(np.isnan(dropout(1, [0], [0], 0.5, x)), kept)


# ---------------------------------------------------------------------------------------------- optimisers


def optimise(case, dtype, scale=1.0, n=37):
    """The parameters after each step, by the kernel; the gradients come in divided by `scale`."""
    config = OPTIMISERS[case]
    a = config["arguments"]
    p = TORCH["p0"][:n].astype(dtype)
    m, v = np.zeros_like(p), np.zeros_like(p)
    out = []
    for step, g in enumerate(TORCH["grads"][:, :n], start=1):
        g = (g / scale).astype(dtype)
        before = p.copy()
        if config["class"] == "SGD":
            buffer = m if a["momentum"] else None
            finite = simd.sgd(p, g, buffer, scale, a["learning_rate"], a["momentum"], a["nesterov"], a["weight_decay"])
        elif config["class"] == "RMSprop":
            buffer = m if a["momentum"] else None
            finite = simd.rmsprop(p, g, v, buffer, scale, a["learning_rate"], a["rho"], a["epsilon"], a["momentum"],
                                  a["weight_decay"])  # fmt: skip
        else:
            decoupled = config["class"] == "AdamW"
            finite = simd.adam(p, g, m, v, scale, a["learning_rate"], a["beta_1"], a["beta_2"], a["epsilon"],
                               1 - a["beta_1"] ** step, 1 - a["beta_2"] ** step,
                               0 if decoupled else a["weight_decay"],
                               a["weight_decay"] if decoupled else 0)  # fmt: skip
        assert finite is True
        assert_array_equal(bits(g), bits(before))
        out.append(p.copy())
    return np.stack(out)


@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", list(OPTIMISERS))
def test_optimisers_follow_pytorch(case, dtype, scale):
    assert_allclose(optimise(case, dtype, scale), TORCH[f"{case}/p"], **OPTIMISER[dtype])


def test_the_pytorch_trajectories_differ_from_each_other():
    last = {case: TORCH[f"{case}/p"][-1] for case in OPTIMISERS}
    assert {OPTIMISERS[case]["class"] for case in OPTIMISERS} == {"SGD", "RMSprop", "Adam", "AdamW"}
    for one in last:
        for other in last:
            assert one == other or np.abs(last[one] - last[other]).max() > 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ["sgd", "sgd_nesterov", "rmsprop_momentum", "adamw"])
def test_a_parameter_is_updated_alike_in_vector_body_and_tail(case, dtype):
    whole = optimise(case, dtype)
    for n in range(1, 37):
        assert_array_equal(bits(optimise(case, dtype, n=n)), bits(whole[:, :n]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_gradient_reaches_its_own_parameter_only(dtype):
    g = arguments("ordinary", dtype, 37)
    steps = {
        "sgd": lambda p, g, m, v: simd.sgd(p, g, m, 1, 0.1, 0.9, True, 0.01),
        "rmsprop": lambda p, g, m, v: simd.rmsprop(p, g, v, m, 1, 0.1, 0.9, 1e-8, 0.9, 0.01),
        "adam": lambda p, g, m, v: simd.adam(p, g, m, v, 1, 0.1, 0.9, 0.99, 1e-8, 0.1, 0.01, 0.01, 0.01),
    }
    for name, step in steps.items():
        clean = [np.ones(37, dtype), np.zeros(37, dtype), np.zeros(37, dtype)]
        step(clean[0], g.copy(), clean[1], clean[2])
        for lane in (0, 8, 36):
            spoilt, found = g.copy(), [np.ones(37, dtype), np.zeros(37, dtype), np.zeros(37, dtype)]
            spoilt[lane] = np.nan
            step(found[0], spoilt, found[1], found[2])
            assert_array_equal(np.isnan(found[0]), np.arange(37) == lane, err_msg=name)
            for a, b in zip(found, clean, strict=True):
                assert_array_equal(np.delete(a, lane), np.delete(b, lane), err_msg=name)


STEPS = {
    "sgd": lambda p, g, m, v, rate=0.1: simd.sgd(p, g, None, 1, rate, 0, False, 0.01),
    "momentum": lambda p, g, m, v, rate=0.1: simd.sgd(p, g, m, 1, rate, 0.9, True, 0.01),
    "rmsprop": lambda p, g, m, v, rate=0.1: simd.rmsprop(p, g, v, m, 1, rate, 0.9, 1e-8, 0.9, 0.01),
    "adam": lambda p, g, m, v, rate=0.1: simd.adam(p, g, m, v, 1, rate, 0.9, 0.99, 1e-8, 0.1, 0.01, 0.01, 0.01),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(STEPS))
def test_a_step_says_whether_all_is_finite_and_can_be_taken_back(name, dtype):
    for n in (1, 3, 16, 17, 67):
        for lane in {0, n // 2, n - 1}:
            for bad in (np.nan, np.inf, None):
                g, moments = arguments("ordinary", dtype, n), np.zeros((2, n), dtype)
                p = arguments("all magnitudes", dtype, n) if bad is None else g * 2
                p = np.where(np.abs(p) < 1e3, p, 1).astype(dtype)  # subnormals stay
                p[0] = np.finfo(dtype).smallest_subnormal
                before = p.copy()
                if bad is not None:
                    g[lane] = bad
                finite = STEPS[name](p, g, *moments)
                assert finite is (bad is None) and np.isfinite(p).all() == finite, f"n = {n}, lane = {lane}"
                assert_array_equal(bits(g), bits(before))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(STEPS))
def test_the_largest_finite_parameters_are_finite(name, dtype):
    p, zeros = np.full(19, np.finfo(dtype).max, dtype), np.zeros((3, 19), dtype)
    assert STEPS[name](p, *zeros, rate=0.0) is True


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_call_long_enough_to_let_go_of_the_gil_equals_its_short_parts(dtype):
    n, part = 30_000, 5_000
    columns = arguments("ordinary", dtype, 5 * n).reshape(5, n)
    steps = {
        "activate": lambda p, g, m, v: simd.activate(simd.ACTIVATIONS["tanh"], bias=None, y=p[None]),
        "activate_backward": lambda p, g, m, v: simd.activate_backward(simd.ACTIVATIONS["tanh"], g[None], p[None]),
        "sgd": lambda p, g, m, v: simd.sgd(p, g, m, 1, 0.1, 0.9, True, 0.01),
        "rmsprop": lambda p, g, m, v: simd.rmsprop(p, g, v, m, 1, 0.1, 0.9, 1e-3, 0.9, 0.01),
        "adam": lambda p, g, m, v: simd.adam(p, g, m, v, 1, 0.1, 0.9, 0.99, 1e-3, 0.1, 0.01, 0.01, 0.01),
    }
    for name, step in steps.items():
        whole, parts = np.abs(columns[:4]), np.abs(columns[:4])
        step(*whole)
        for start in range(0, n, part):
            pieces = [np.ascontiguousarray(a[start : start + part]) for a in parts]
            step(*pieces)
            parts[:, start : start + part] = pieces
        assert_array_equal(bits(whole), bits(parts), err_msg=name)
        assert not (whole[0] == np.abs(columns[0])).all(), "it does something"


# ---------------------------------------------------------------------------------------------- the control word


def every_kernel(dtype):
    """Call each kernel once, with values that overflow, underflow and are subnormal on the way."""
    tiny = np.finfo(dtype).tiny
    x = np.concatenate([arguments("random bits", dtype, 200), np.array([tiny / 8, -tiny, 1e4, -1e4, np.nan], dtype)])
    n = len(x)
    for name in FUNCTIONS:
        call(name, x)
    for name in simd.ACTIVATIONS:
        activation(name, x[None])
        activation_backward(name, x[None], x[None])
    simd.column_sum(x[None], np.empty(n, dtype))
    simd.sum(x)
    simd.sum_of_squares(x)
    dropout(1, [0], [0], 0.5, x[None])
    buffers = [np.zeros(n, dtype) for _ in range(3)]
    simd.sgd(buffers[0], x, buffers[1], 1, 0.1, 0.9, False, 0)
    simd.rmsprop(buffers[0], x, buffers[1], buffers[2], 1, 0.1, 0.9, 1e-8, 0.9, 0)
    simd.adam(buffers[0], x, buffers[1], buffers[2], 1, 0.1, 0.9, 0.99, 1e-8, 0.1, 0.1, 0, 0)
    x, ones = np.abs(buffers[0])[:, None].copy(), np.ones(n, dtype)
    for kind in simd.LOSSES.values():
        simd.loss(kind, x, x, ones, None, ones, 1, np.empty_like(x), np.empty_like(x))


@pytest.mark.parametrize("dtype", DTYPES)
def test_subnormals_live_again_after_every_kernel(dtype):
    every_kernel(dtype)
    half = np.array([np.finfo(dtype).tiny], dtype) * np.array([0.5], dtype)
    assert half[0] != 0 and half[0] + half[0] == np.finfo(dtype).tiny
    assert sys.float_info.min / 2 != 0.0


MXCSR = """
#include <xmmintrin.h>
unsigned get(void) { return _mm_getcsr(); }
void set(unsigned value) { _mm_setcsr(value); }
"""


@pytest.fixture(scope="module")
def mxcsr(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mxcsr")
    (folder / "mxcsr.c").write_text(MXCSR)
    library = ctypes.CDLL(str(build(COMPILERS[0], folder / "mxcsr.c", folder / "mxcsr.so", "-shared")))
    library.get.restype, library.set.argtypes = ctypes.c_uint, [ctypes.c_uint]
    return library


@pytest.mark.skipif(not X86, reason="MXCSR is a register of x86")
@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("added", [0, 0x8000, 0x0040, 0x8040], ids=["default", "FTZ", "DAZ", "both"])
def test_the_control_word_is_left_as_it_was_found(mxcsr, added, dtype):
    control = 0xFFC0  # rounding, masks, FTZ and DAZ; the flags below are sticky and set by all arithmetic
    before = mxcsr.get()
    try:
        mxcsr.set(before | added)
        every_kernel(dtype)
        after = mxcsr.get()
    finally:
        mxcsr.set(before)
    assert after & control == (before | added) & control


# ---------------------------------------------------------------------------------------------- the peak


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rounds", [1, 2, 1000])
def test_fma_chains_do_the_operations_that_they_count(dtype, rounds):
    y = np.array([0.5, 0.25], dtype)
    operations = simd.fma_chains(rounds, y)
    lanes = 1 if operations < 2 * 12 * 2 * rounds else simd.isa()["vector_bytes"] // y.itemsize
    chains = operations / (2 * lanes * rounds)
    assert chains in (12, 24)
    # chain r goes from r to r / 2**rounds + (1 - 1 / 2**rounds) / 2
    expected = sum(r / 2.0**rounds + (1 - 0.5**rounds) / 2 for r in range(int(chains)))
    assert_allclose(y[0], expected, rtol=1e-5)
    assert y[1] == 0.25


# ---------------------------------------------------------------------------------------------- instruction sets

REPORT = """
import hashlib, json
import numpy as np
from lstmx._core import cell, simd
rng = np.random.default_rng(0)
out = {"isa": simd.isa()}
def add(group, name, *arrays):
    h = hashlib.sha256()
    for a in arrays:
        a = np.where(np.isnan(a), a.dtype.type(np.nan), a)
        h.update(a.tobytes())
    out.setdefault(group, {})[name + " " + arrays[0].dtype.name] = h.hexdigest()
for dtype in (np.float32, np.float64):
    x = np.concatenate([rng.normal(scale=s, size=501) for s in (1e-30, 1e-3, 1, 30, 400)] +
                       [[np.nan, np.inf, -np.inf, 0.0, -0.0, 710, -710, 89, -89]]).astype(dtype)
    for name in ("sigmoid", "tanh", "exp"):
        y = np.empty_like(x)
        getattr(simd, name)(x, y)
        add("fused", "map_" + name, y)
    y = rng.normal(size=(40, 53)).astype(dtype)
    dy = rng.normal(size=(40, 53)).astype(dtype)
    for name, number in simd.ACTIVATIONS.items():
        z, dz = y.copy(), dy.copy()
        simd.activate(number, bias=dy[0], y=z)
        add("plain" if name in ("linear", "relu") else "fused", name, z)
        simd.activate_backward(number, np.tanh(np.abs(y)), dz)
        add("plain", name + "_backward", dz)
    gates, c, h = (rng.normal(size=(5, k * 13)).astype(dtype) for k in (4, 1, 1))
    cell.forward(bias=None, gates=gates, c=c, h=h)
    add("fused", "cell_forward", gates, c, h)
    gates, dc = np.abs(np.tanh(rng.normal(size=(5, 52)))).astype(dtype), rng.normal(size=(5, 13)).astype(dtype)
    cell.backward(gates, c, h, dc)
    add("fused", "cell_backward", gates, dc)
    w = rng.normal(size=9001).astype(dtype)
    add("plain", "sum", np.array([simd.sum(w), simd.sum_of_squares(w)], dtype))
    s = np.empty(53, dtype)
    simd.column_sum(rng.normal(size=(700, 53)).astype(dtype), s)
    add("plain", "column_sum", s)
    row = np.arange(40)
    simd.dropout(5, row, row, 0.3, y, dy)
    add("plain", "dropout", dy)
    p, g, m, v = (rng.normal(scale=s, size=301).astype(dtype) for s in (1, 1, 0, 0))
    simd.sgd(p, g.copy(), m, 0.5, 0.1, 0.9, True, 0.01)
    add("plain", "sgd", p, m)
    simd.rmsprop(p, g.copy(), v, m, 0.5, 0.1, 0.9, 1e-7, 0.9, 0.01)
    add("plain", "rmsprop", p, m, v)
    simd.adam(p, g.copy(), m, v, 0.5, 0.1, 0.9, 0.99, 1e-7, 0.19, 0.0199, 0.01, 0.02)
    add("plain", "adam", p, m, v)
    z, t = (rng.normal(scale=s, size=(40, 7)).astype(dtype) for s in (3, 1))
    weight, labels = rng.uniform(size=40).astype(dtype), rng.integers(7, size=40)
    for name, kind in simd.LOSSES.items():
        for given in (t, None) if name.startswith("cat") else (t,):
            value, gradient = np.empty((40, 7 if given is not None else 1), dtype), np.empty_like(z)
            mass = None if given is None else t.sum(axis=1)
            chosen = labels if given is None else None
            total = simd.loss(kind, z, given, mass, chosen, weight, 3.5, value, gradient)
            add("fused" if "cross" in name else "plain", f"{name} {given is None}", value, gradient, np.array(total))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def reports():
    """For each instruction set that this CPU can run: what it says it is, and digests of what its kernels give."""
    out = {}
    for name in simd.isa()["usable"]:
        done = python(REPORT, LSTMX_ISA=name)
        assert done.returncode == 0, done.stderr
        out[name] = json.loads(done.stdout)
    return out


def test_a_forced_instruction_set_is_active(reports):
    widths = {"baseline": 16, "neon": 16, "avx2": 32, "avx512": 64}
    for name, report in reports.items():
        assert report["isa"]["active"] == name
        assert report["isa"]["vector_bytes"] == widths[name]
        assert report["isa"]["fma"] == (name != "baseline")


def test_the_best_usable_instruction_set_is_the_default():
    done = python("from lstmx._core import simd; print(simd.isa()['active'])")
    assert done.stdout.split() == simd.isa()["usable"][-1:]
    assert python("from lstmx._core import simd; print(simd.isa()['active'])", LSTMX_ISA="").stdout == done.stdout


def test_this_process_obeys_the_variable():
    assert simd.isa()["active"] == (os.environ.get("LSTMX_ISA") or simd.isa()["usable"][-1])


def test_usable_instruction_sets_are_those_of_the_cpu():
    assert simd.isa()["usable"][0] == simd.isa()["compiled"][0]
    assert [name for name in simd.isa()["compiled"] if name in simd.isa()["usable"]] == simd.isa()["usable"]
    cpuinfo = Path("/proc/cpuinfo")
    if X86 and cpuinfo.exists():
        flags = set(cpuinfo.read_text().split("flags", 1)[-1].split("\n", 1)[0].split())
        assert ("avx2" in simd.isa()["usable"]) == {"avx2", "fma"}.issubset(flags)
        wanted = {"avx2", "fma", "avx512f", "avx512dq", "avx512bw", "avx512vl"}
        assert ("avx512" in simd.isa()["usable"]) == wanted.issubset(flags)


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx2 ", "baseline,avx2"])
def test_an_unknown_instruction_set_is_an_error_that_names_the_choices(name):
    done = python("from lstmx._core import simd", LSTMX_ISA=name)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and f"LSTMX_ISA={name!r}" in last
    assert all(usable in last for usable in simd.isa()["usable"])


UNSUPPORTED = [name for name in simd.isa()["compiled"] if name not in simd.isa()["usable"]]


@pytest.mark.skipif(not UNSUPPORTED, reason="this CPU can run every instruction set of the build")
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_instruction_set_is_an_error_not_a_crash(name):
    done = python("from lstmx._core import simd", LSTMX_ISA=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "cannot run on this CPU" in last and "baseline" in last


def test_kernels_without_fma_give_the_same_bits_on_every_instruction_set(reports):
    first = next(iter(reports.values()))["plain"]
    assert len(first) == 32
    for name, report in reports.items():
        assert report["plain"] == first, name


FUSED = [name for name in simd.isa()["usable"] if name != "baseline"]


@pytest.mark.skipif(len(FUSED) < 2, reason="this CPU has fewer than two instruction sets with FMA")
def test_the_fma_instruction_sets_give_the_same_bits(reports):
    for name in FUSED:
        assert reports[name]["fused"] == reports[FUSED[0]]["fused"], name


def test_digests_tell_different_bits_apart(reports):
    fused = reports[simd.isa()["usable"][0]]["fused"]
    assert len(set(fused.values())) == len(fused) == 22
    assert hashlib.sha256(b"").hexdigest() not in fused.values()
    if FUSED:
        assert reports["baseline"]["fused"] != reports[FUSED[0]]["fused"]


# ------------------------------------------------------------------- the C sources compiled in other ways


def same_kernels(one, other):
    """Assert that two compiled instruction sets give the same bits for n = 1..67, from the same unaligned arguments."""
    for dtype in DTYPES:
        x = np.concatenate([arguments("ordinary", dtype, 40), arguments("near saturation", dtype, 140)[:27]])
        for n in range(1, 68):
            found, want = ({name: kernels.map(name, x[:n]) for name in FUNCTIONS} for kernels in (one, other))
            for bias in (None, arguments("near 0", dtype, 4 * n)):
                found |= cell_results(one, dtype, n, bias)
                want |= cell_results(other, dtype, n, bias)
                for key in want:
                    assert bits(found[key]).tobytes() == bits(want[key]).tobytes(), f"{key} {dtype} n = {n}"
        special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4], dtype)
        for place in range(16):
            y = np.concatenate([x[:place], special, x[place:16]])
            for name in FUNCTIONS:
                assert bits(one.map(name, y)).tobytes() == bits(other.map(name, y)).tobytes(), f"{name} {y}"


def cell_results(kernels, dtype, H, bias):
    """Forward and backward of two rows, with every output there is; arguments start one byte off alignment."""
    rng = np.random.default_rng(H)

    def unaligned(shape):
        values = rng.normal(size=shape).astype(dtype)
        room = np.empty(values.nbytes + 1, np.uint8)[1:]
        out = room.view(dtype).reshape(shape)
        out[:] = values
        return out

    gates, c, h = unaligned((2, 4 * H)), unaligned((2, H)), unaligned((2, H))
    kernels.call("cell_forward", dtype, 2, H, bias, gates, c, h)
    out = {"gates": gates.copy(), "c": c.copy(), "h": h.copy()}
    c_prev, dy, dh, dc, dh_all, dc_all = (unaligned((2, H)) for _ in range(6))
    other = gates.copy(), dh.copy() + dy, dc.copy()  # what dy gives may as well come with dh
    kernels.call("cell_backward", dtype, 2, H, H, gates, c_prev, dy, dh, dc, dh_all, dc_all)
    kernels.call("cell_backward", dtype, 2, H, 0, other[0], c_prev, None, other[1], other[2], None, None)
    assert bits(other[1]).tobytes() == bits(dh).tobytes() == bits(dh_all).tobytes()
    assert bits(other[0]).tobytes() == bits(gates).tobytes() and bits(other[2]).tobytes() == bits(dc).tobytes()
    return out | {"dz": gates, "dc_prev": dc, "dc_all": dc_all}


def compiled(folder, compiler, isa, *options):
    path = build(compiler, f"isa_{isa}.c", folder / f"{compiler}_{isa}_{len(options)}.so", "-shared", *options)
    return Kernels(path, f"lstmx_isa_{isa}")


@pytest.fixture(scope="module")
def avx2(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("avx2"), "gcc", "avx2")


@pytest.mark.long
@needs_gcc
@needs_avx2
def test_the_64_byte_source_run_on_avx2_gives_the_bits_of_avx2(avx2, tmp_path):
    emulated = compiled(tmp_path, "gcc", "avx512", "-DLSTMX_EMULATE", "-Wno-psabi")
    assert (emulated.isa.name, emulated.isa.vector_bytes) == (b"avx512", 64)
    same_kernels(emulated, avx2)


@needs_gcc
@pytest.mark.skipif("baseline" not in simd.isa()["compiled"], reason="the baseline of this CPU has FMA")
def test_the_source_without_vectors_gives_the_bits_of_the_baseline(tmp_path):
    plain = compiled(tmp_path, "gcc", "baseline", "-DLSTMX_NO_VECTOR")
    same_kernels(plain, compiled(tmp_path, "gcc", "baseline"))


@needs_gcc
@needs_avx2
@pytest.mark.parametrize("compiler", [name for name in COMPILERS if name != "gcc"] or ["gcc"])
def test_compilers_agree_to_the_bit(avx2, compiler, tmp_path):
    same_kernels(compiled(tmp_path, compiler, "avx2"), avx2)


@needs_gcc
@needs_avx2
@pytest.mark.skipif(simd.isa()["active"] != "avx2", reason="another instruction set is active")
def test_the_kernels_tried_here_are_those_of_the_package(avx2):
    for dtype in DTYPES:
        x = arguments("ordinary", dtype, 1001)
        for name in FUNCTIONS:
            assert_array_equal(bits(avx2.map(name, x)), bits(call(name, x)))
