"""One cell step, forward and backward, in the compiled core against lstmx.reference."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tolerances import CELL

from lstmx import reference
from lstmx._core import kernels
from lstmx.functional.cell import Cell

SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33]
DTYPES = ["float32", "float64"]


def problem(rows, hidden, dtype, seed=0):
    """Arguments of a forward and a backward step; gates as a forward step gives them."""
    rng = np.random.default_rng([seed, rows, hidden])
    shapes = {"a": (rows, 4 * hidden), "bias": (4 * hidden,)}
    shapes |= dict.fromkeys(("c_prev", "dh", "dc"), (rows, hidden))
    p = {name: rng.normal(scale=1.5, size=shape).astype(dtype) for name, shape in shapes.items()}
    p["gates"] = reference.cell_forward(p["a"], p["c_prev"])[0]
    return p


def forward(p, bias=None):
    gates, c, h = p["a"].copy(), p["c_prev"].copy(), np.full_like(p["c_prev"], np.nan)
    kernels.cell_forward(Cell(), bias, gates, c, h)
    return gates, c, h


def backward(p):
    gates, dc = p["gates"].copy(), p["dc"].copy()
    kernels.cell_backward(Cell(), gates, p["c_prev"], p["dh"].copy(), dc)
    return gates, dc


def wide(*arrays):
    return (array.astype(np.float64) for array in arrays)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("hidden", SIZES)
def test_forward_equals_the_reference(hidden, rows, dtype, bias):
    p = problem(rows, hidden, dtype)
    a = p["a"] + p["bias"] if bias else p["a"]
    want = reference.cell_forward(*wide(a, p["c_prev"]))
    for name, found, wanted in zip(("gates", "c", "h"), forward(p, p["bias"] if bias else None), want, strict=True):
        assert found.dtype == dtype
        assert_allclose(found, wanted, **CELL[dtype], err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("hidden", SIZES)
def test_backward_equals_the_reference(hidden, rows, dtype):
    p = problem(rows, hidden, dtype)
    da, _, dc_prev = reference.cell_backward(*wide(p["gates"], p["c_prev"], p["dh"], p["dc"]))
    found_da, found_dc = backward(p)
    assert_allclose(found_da, da, **CELL[dtype])
    assert_allclose(found_dc, dc_prev, **CELL[dtype])


def test_the_data_reach_the_curved_and_the_flat_parts_of_the_gates():
    gates = problem(3, 33, "float64")["gates"]
    assert gates.min() < -0.95 and gates.max() > 0.95 and np.abs(gates).min() < 0.05


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", SIZES)
def test_inputs_are_not_changed(hidden, dtype):
    p = problem(3, hidden, dtype)
    before = {name: array.copy() for name, array in p.items()}
    forward(p, p["bias"])
    backward(p)
    for name, array in p.items():
        assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", SIZES)
def test_rows_are_isolated_from_nan_and_inf_in_other_rows(hidden, dtype, value):
    p = problem(3, hidden, dtype)
    clean = [*forward(p, p["bias"]), *backward(p)]
    for name in ("a", "c_prev", "gates", "dh", "dc"):
        spoilt = {**p, name: p[name].copy()}
        spoilt[name][1] = value
        found = [*forward(spoilt, spoilt["bias"]), *backward(spoilt)]
        for a, b in zip(found, clean, strict=True):
            assert_array_equal(a[[0, 2]], b[[0, 2]], err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", SIZES)
def test_units_are_isolated_from_nan_in_other_units(hidden, dtype):
    p = problem(1, hidden, dtype)
    _, c, h = forward(p)
    gates_back, dc = backward(p)
    for j in range(hidden):
        spoilt = {name: array.copy() for name, array in p.items()}
        spoilt["c_prev"][0, j] = np.nan
        _, found_c, found_h = forward(spoilt)
        found_gates, found_dc = backward(spoilt)
        for found, clean in ((found_c, c), (found_h, h), (found_dc, dc)):
            assert_array_equal(np.isnan(found[0]), np.arange(hidden) == j)
            assert_array_equal(np.delete(found, j), np.delete(clean, j))
        blocks, clean = found_gates.reshape(4, hidden), gates_back.reshape(4, hidden)
        assert_array_equal(np.delete(blocks, j, axis=1), np.delete(clean, j, axis=1))
        assert np.isnan(blocks[:, j]).all()


@pytest.mark.parametrize("name", ["i", "f", "g", "o"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_in_a_gate_reaches_the_output(name, dtype):
    for hidden in (3, 8, 9):
        for j in range(hidden):
            p = problem(1, hidden, dtype)
            p["a"][0, "ifgo".index(name) * hidden + j] = np.nan
            gates, _, h = forward(p)
            assert_array_equal(np.isnan(h[0]), np.arange(hidden) == j)
            assert np.isnan(gates).sum() == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", SIZES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(hidden, dtype):
    p = problem(3, hidden, dtype)
    together = [*forward(p, p["bias"]), *backward(p)]
    for n in range(3):
        one = {name: array if name == "bias" else array[n : n + 1] for name, array in p.items()}
        for found, whole in zip([*forward(one, p["bias"]), *backward(one)], together, strict=True):
            assert_array_equal(found[0], whole[n])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", SIZES)
def test_a_unit_has_the_same_bits_in_vector_body_and_tail(hidden, dtype):
    whole = problem(2, 33, dtype)
    gates, c, h = (a.reshape(2, -1, 33) for a in forward(whole))
    dz, dc = (a.reshape(2, -1, 33) for a in backward(whole))
    for start in (0, 33 - hidden):
        cut = {name: np.ascontiguousarray(array.reshape(2, -1, 33)[:, :, start : start + hidden]).reshape(2, -1)
               for name, array in whole.items() if name != "bias"}  # fmt: skip
        for found, want in zip([*forward(cut), *backward(cut)], [gates, c, h, dz, dc], strict=True):
            assert_array_equal(found.reshape(2, -1, hidden), want[:, :, start : start + hidden])


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_gates_keep_the_memory_exactly(dtype):
    # sigmoid(-1000) is 0 and sigmoid(1000) is 1 to the bit
    p = problem(2, 9, dtype)
    p["a"] = np.repeat(np.array([[-1000, 1000, 0.5, 1000]] * 2, dtype), 9, axis=1)
    gates, c, h = forward(p)
    assert_array_equal(c, p["c_prev"])
    assert_allclose(h, np.tanh(p["c_prev"].astype(np.float64)), **CELL[dtype])
    p["gates"] = gates
    dz, dc = backward(p)
    assert_array_equal(dz[:, 9:18], 0)
    assert_array_equal(dz[:, 27:], 0)
    assert_allclose(dc, p["dc"] + p["dh"] * (1 - np.tanh(p["c_prev"].astype(np.float64)) ** 2), **CELL[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_gradients_give_exactly_zero(dtype):
    p = problem(3, 17, dtype)
    p["dh"][:], p["dc"][:] = 0, 0
    dz, dc = backward(p)
    assert not dz.any() and not dc.any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_rows_are_legal(dtype):
    p = problem(0, 5, dtype)
    assert [a.shape for a in forward(p, p["bias"])] == [(0, 20), (0, 5), (0, 5)]
    assert [a.shape for a in backward(p)] == [(0, 20), (0, 5)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_beside_the_rows_is_written(dtype):
    # rows 1 and 2 of four are handed over; H leaves a tail for every vector width
    p = problem(4, 7, dtype)
    gates, c, h = p["a"].copy(), p["c_prev"].copy(), np.full_like(p["c_prev"], -7)
    kernels.cell_forward(Cell(), None, gates[1:3], c[1:3], h[1:3])
    assert_array_equal(gates[[0, 3]], p["a"][[0, 3]])
    assert_array_equal(c[[0, 3]], p["c_prev"][[0, 3]])
    assert (h[[0, 3]] == -7).all() and (h[1:3] != -7).all()
    gates, dc = p["gates"].copy(), p["dc"].copy()
    kernels.cell_backward(Cell(), gates[1:3], p["c_prev"][1:3], p["dh"][1:3], dc[1:3])
    assert_array_equal(gates[[0, 3]], p["gates"][[0, 3]])
    assert_array_equal(dc[[0, 3]], p["dc"][[0, 3]])
    assert not (dc[1:3] == p["dc"][1:3]).any()
