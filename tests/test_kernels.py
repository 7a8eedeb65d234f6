"""The kernels on whole arrays: activations, sums, masks, optimisers; which arrays they take."""

import ctypes
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from layouts import moved
from numpy.testing import assert_allclose, assert_array_equal
from test_disassembly import COMPILERS, X86, bits, build, needs_compiler
from test_vmath import DTYPES, FUNCTIONS, arguments, call
from tolerances import OPTIMISER, ROUNDINGS, SIGMAS, SUM_FLOAT64, summation

from lstmx._core import isa, kernels

TORCH = np.load(Path(__file__).parent / "data" / "torch_optim.npz", allow_pickle=False)
OPTIMISERS = {key.split("/")[0]: json.loads(str(TORCH[key])) for key in TORCH.files if key.endswith("/config")}


# ---------------------------------------------------------------------------------------------- activations


def activation(name, y, bias=None):
    out = y.copy()
    kernels.activate(kernels.ACTIVATIONS[name], bias=bias, y=out)
    return out


def activation_backward(name, y, dy):
    out = dy.copy()
    kernels.activate_backward(kernels.ACTIVATIONS[name], y, out)
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
@pytest.mark.parametrize("name", list(kernels.ACTIVATIONS))
def test_activations_equal_numpy(name, dtype, bias, n):
    rng = np.random.default_rng(n)
    x = rng.normal(scale=2, size=(3, n)).astype(dtype)
    b = rng.normal(size=n).astype(dtype) if bias else None
    total = x if b is None else x + b
    assert_allclose(activation(name, x, b), in_numpy(name, total), **ROUNDINGS[dtype])


@pytest.mark.parametrize("n", [1, 2, 3, 16, 17, 67])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(kernels.ACTIVATIONS))
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
@pytest.mark.parametrize("name", list(kernels.ACTIVATIONS))
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
    kernels.column_sum(x, found)
    size = np.abs(x).sum(axis=0, dtype=np.float64)
    want = [math.fsum(column) for column in x.T.tolist()]
    assert_allclose(found / size, want / size, **summation(dtype, shape[0]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_column_sums_are_as_good_as_those_of_short_blocks(dtype):
    # one chain over 20,000 ones and tenths would be off by some 1e-4 in float32
    x = np.full((20_000, 3), 0.1, dtype)
    found = np.empty(3, dtype)
    kernels.column_sum(x, found)
    exact_sum = 20_000 * float(x[0, 0])
    assert_allclose(found, exact_sum, rtol=150 * float(np.finfo(dtype).eps), atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_column_has_the_same_sum_whatever_stands_beside_it(dtype):
    x = arguments("ordinary", dtype, 600 * 70).reshape(600, 70)
    whole, part = np.empty(70, dtype), np.empty(5, dtype)
    kernels.column_sum(x, whole)
    for start in (0, 3, 62, 65):
        kernels.column_sum(np.ascontiguousarray(x[:, start : start + 5]), part)
        assert_array_equal(bits(part), bits(whole[start : start + 5]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_reach_the_sum_of_their_own_column_only(dtype):
    x = arguments("ordinary", dtype, 300 * 67).reshape(300, 67)
    clean, found = np.empty(67, dtype), np.empty(67, dtype)
    kernels.column_sum(x, clean)
    x[299, 64], x[0, 1] = np.nan, np.inf
    kernels.column_sum(x, found)
    clean[64], clean[1] = np.nan, np.inf
    assert_array_equal(bits(found), bits(clean))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_column_sum_of_no_rows_is_zero(dtype):
    out = np.full(5, np.nan, dtype)
    kernels.column_sum(np.empty((0, 5), dtype), out)
    assert_array_equal(out, np.zeros(5))


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 4095, 4096, 4097, 20_003])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_are_in_float64(dtype, n):
    x = np.random.default_rng(n).normal(loc=0.1, size=n).astype(dtype)
    size = math.fsum(np.abs(x).tolist()) or 1
    assert_allclose(kernels.sum(x) / size, math.fsum(x.tolist()) / size, **SUM_FLOAT64)
    squares = math.fsum((x.astype(np.float64) ** 2).tolist())
    assert_allclose(kernels.sum_of_squares(x) / (squares or 1), squares / (squares or 1), **SUM_FLOAT64)


@pytest.mark.parametrize("at", [0, 15, 16, 4095, 4096, 4999])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_inf_reach_the_sums(dtype, at):
    x = np.ones(5000, dtype)
    x[at] = -np.inf
    assert (kernels.sum(x), kernels.sum_of_squares(x)) == (-np.inf, np.inf)
    x[at] = np.nan
    assert math.isnan(kernels.sum(x)) and math.isnan(kernels.sum_of_squares(x))


def test_squares_of_large_float32_do_not_overflow():
    x = np.full(3, 1e30, np.float32)
    assert_allclose(kernels.sum_of_squares(x), 3 * float(x[0]) ** 2, **ROUNDINGS["float64"])


# ---------------------------------------------------------------------------------------------- dropout


def dropout(key, row, time, rate, x):
    out = np.full_like(x, -7)
    kernels.dropout(key, np.ascontiguousarray(row, np.intp), np.ascontiguousarray(time, np.intp), rate, x, out)
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
    kernels.dropout(9, row.astype(np.intp), time.astype(np.intp), 0.3, place, place)
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
            finite = kernels.sgd(p, g, buffer, scale, a["learning_rate"], a["momentum"], a["nesterov"],
                                 a["weight_decay"])  # fmt: skip
        elif config["class"] == "RMSprop":
            buffer = m if a["momentum"] else None
            finite = kernels.rmsprop(p, g, v, buffer, scale, a["learning_rate"], a["rho"], a["epsilon"], a["momentum"],
                                  a["weight_decay"])  # fmt: skip
        else:
            decoupled = config["class"] == "AdamW"
            finite = kernels.adam(p, g, m, v, scale, a["learning_rate"], a["beta_1"], a["beta_2"], a["epsilon"],
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
        "sgd": lambda p, g, m, v: kernels.sgd(p, g, m, 1, 0.1, 0.9, True, 0.01),
        "rmsprop": lambda p, g, m, v: kernels.rmsprop(p, g, v, m, 1, 0.1, 0.9, 1e-8, 0.9, 0.01),
        "adam": lambda p, g, m, v: kernels.adam(p, g, m, v, 1, 0.1, 0.9, 0.99, 1e-8, 0.1, 0.01, 0.01, 0.01),
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
    "sgd": lambda p, g, m, v, rate=0.1: kernels.sgd(p, g, None, 1, rate, 0, False, 0.01),
    "momentum": lambda p, g, m, v, rate=0.1: kernels.sgd(p, g, m, 1, rate, 0.9, True, 0.01),
    "rmsprop": lambda p, g, m, v, rate=0.1: kernels.rmsprop(p, g, v, m, 1, rate, 0.9, 1e-8, 0.9, 0.01),
    "adam": lambda p, g, m, v, rate=0.1: kernels.adam(p, g, m, v, 1, rate, 0.9, 0.99, 1e-8, 0.1, 0.01, 0.01, 0.01),
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
    n, part, tanh = 30_000, 5_000, kernels.ACTIVATIONS["tanh"]
    columns = arguments("ordinary", dtype, 5 * n).reshape(5, n)
    steps = {
        "activate": lambda p, g, m, v: kernels.activate(tanh, bias=None, y=p[None]),
        "activate_backward": lambda p, g, m, v: kernels.activate_backward(tanh, g[None], p[None]),
        "sgd": lambda p, g, m, v: kernels.sgd(p, g, m, 1, 0.1, 0.9, True, 0.01),
        "rmsprop": lambda p, g, m, v: kernels.rmsprop(p, g, v, m, 1, 0.1, 0.9, 1e-3, 0.9, 0.01),
        "adam": lambda p, g, m, v: kernels.adam(p, g, m, v, 1, 0.1, 0.9, 0.99, 1e-3, 0.1, 0.01, 0.01, 0.01),
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
    for name in kernels.ACTIVATIONS:
        activation(name, x[None])
        activation_backward(name, x[None], x[None])
    kernels.column_sum(x[None], np.empty(n, dtype))
    kernels.sum(x)
    kernels.sum_of_squares(x)
    dropout(1, [0], [0], 0.5, x[None])
    buffers = [np.zeros(n, dtype) for _ in range(3)]
    kernels.sgd(buffers[0], x, buffers[1], 1, 0.1, 0.9, False, 0)
    kernels.rmsprop(buffers[0], x, buffers[1], buffers[2], 1, 0.1, 0.9, 1e-8, 0.9, 0)
    kernels.adam(buffers[0], x, buffers[1], buffers[2], 1, 0.1, 0.9, 0.99, 1e-8, 0.1, 0.1, 0, 0)
    x, ones = np.abs(buffers[0])[:, None].copy(), np.ones(n, dtype)
    for kind in kernels.LOSSES.values():
        kernels.loss(kind, x, x, ones, None, ones, 1, np.empty_like(x), np.empty_like(x))


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
    operations = kernels.fma_chains(rounds, y)
    lanes = 1 if operations < 2 * 12 * 2 * rounds else isa.describe()["vector_bytes"] // y.itemsize
    chains = operations / (2 * lanes * rounds)
    assert chains in (12, 24)
    # chain r goes from r to r / 2**rounds + (1 - 1 / 2**rounds) / 2
    expected = sum(r / 2.0**rounds + (1 - 0.5**rounds) / 2 for r in range(int(chains)))
    assert_allclose(y[0], expected, rtol=1e-5)
    assert y[1] == 0.25


# ---------------------------------------------------------------------------------------------- what arrays they take


def calls(dtype):
    """name -> (function, its other arguments, arrays that are read, arrays that are written, by position)."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 3, 4)).astype(dtype)
    a, b, c, d = rng.uniform(size=(4, 5)).astype(dtype)
    out, weight = np.ones(4, dtype), np.ones(3, dtype)
    steps = np.arange(3)
    return {
        "sigmoid": (kernels.sigmoid, [a, b], [0], [1]),
        "tanh": (kernels.tanh, [a, b], [0], [1]),
        "exp": (kernels.exp, [a, b], [0], [1]),
        "expm1": (kernels.expm1, [a, b], [0], [1]),
        "softplus": (kernels.softplus, [a, b], [0], [1]),
        "activate": (kernels.activate, [1, x, out], [2], [1]),
        "activate_backward": (kernels.activate_backward, [1, x, y], [1], [2]),
        "column_sum": (kernels.column_sum, [x, out], [0], [1]),
        "sum": (kernels.sum, [a], [0], []),
        "sum_of_squares": (kernels.sum_of_squares, [a], [0], []),
        "dropout": (kernels.dropout, [1, steps, steps, 0.5, x, y], [1, 2, 4], [5]),
        "loss": (kernels.loss, [0, x, y, weight, None, weight, 1, x.copy(), y.copy()], [1, 2, 3, 5], [7, 8]),
        "labels": (kernels.loss, [4, x, None, None, steps, weight, 1, x[:, :1].copy(), y], [1, 4, 5], [7, 8]),
        "sgd": (kernels.sgd, [a, b, c, 1, 0.1, 0.9, False, 0], [], [0, 1, 2]),
        "rmsprop": (kernels.rmsprop, [a, b, c, d, 1, 0.1, 0.9, 1e-7, 0.9, 0], [], [0, 1, 2, 3]),
        "adam": (kernels.adam, [a, b, c, d, 1, 0.1, 0.9, 0.99, 1e-7, 0.1, 0.1, 0, 0], [], [0, 1, 2, 3]),
        "fma_chains": (kernels.fma_chains, [1, a[:2].copy()], [], [1]),
    }


def locked(array):
    array = array.copy()
    array.flags.writeable = False
    return array


WRONG = {
    "float16": lambda a: a.astype(np.float16),
    "another type": lambda a: a.astype(np.float32 if a.itemsize == 8 else np.float64),
    "swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "list": lambda a: a.tolist(),
    "fewer axes": lambda a: a[0],
    "more axes": lambda a: a[None],
    "too short": lambda a: a[..., :-1].copy(),
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "not aligned": moved,
}
ALONE = {"sum": {"another type", "too short"}, "fma_chains": {"another type"}}  # wrong beside another array only
ALONE["sum_of_squares"] = ALONE["sum"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(calls("float32")))
def test_an_array_that_does_not_fit_is_an_error(name, dtype):
    function, fitting, read, written = calls(dtype)[name]
    function(*fitting)
    for at in [*read, *written]:
        for wrong, spoil in (WRONG | ({"read-only": locked} if at in written else {})).items():
            if wrong in ALONE.get(name, ()) or (wrong == "not aligned" and fitting[at].dtype.kind == "i"):
                continue  # test_ownership holds that integers come aligned
            given = fitting.copy()
            given[at] = spoil(given[at])
            with pytest.raises((TypeError, ValueError)):
                function(*given)
                pytest.fail(f"argument {at}, {wrong}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", list(calls("float32")))
def test_input_may_be_read_only_and_arrays_aligned_to_one_element(name, dtype):
    (function, plain, read, written), (_, other, _, _) = calls(dtype)[name], calls(dtype)[name]
    for at in read:
        other[at] = locked(other[at])
    for at in written:
        other[at] = moved(other[at], other[at].itemsize)
    assert function(*plain) == function(*other)
    for at in written:
        assert_array_equal(plain[at], other[at])
