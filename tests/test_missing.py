"""Missing values: what is padding and what is not, and filling against loops and pandas."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lstmx.data import missing, panel

NAN = np.nan
# A line is two products and a sum: three roundings.
LINE = {"float32": {"rtol": 4e-7, "atol": 0}, "float64": {"rtol": 7e-16, "atol": 0}}


def filled_by_loops(x, strategy, values):
    """The definition, one value at a time."""
    out = x.astype(np.float64)
    for t, k in zip(*np.nonzero(np.isnan(x)), strict=True):
        before = [s for s in range(t) if not np.isnan(x[s, k])]
        after = [s for s in range(t, len(x)) if not np.isnan(x[s, k])]
        out[t, k] = values[k]
        if strategy == "forward" and before:
            out[t, k] = x[before[-1], k]
        if strategy == "linear" and (before or after):
            a, b = (before or after[:1])[-1], (after or before[-1:])[0]
            part = (t - a) / max(b - a, 1)
            out[t, k] = float(x[a, k]) * (1 - part) + float(x[b, k]) * part
    return out


numbers = st.one_of(st.floats(-1e3, 1e3, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3), st.just(NAN))
holed = hnp.arrays(st.sampled_from([np.float32, np.float64]),
                   hnp.array_shapes(min_dims=2, max_dims=2, max_side=7), elements=numbers)  # fmt: skip


@given(holed, st.sampled_from(missing.STRATEGIES))
@settings(max_examples=150, deadline=None)
def test_filling_is_what_loops_give(x, strategy):
    values = np.arange(x.shape[1]) + 0.5
    before = x.tobytes()
    found = missing.fill(x, strategy, values)
    assert found.dtype == x.dtype and x.tobytes() == before
    wanted = filled_by_loops(x, strategy, values)
    size = np.abs(wanted).max(initial=1)  # the two ends of a line may cancel
    np.testing.assert_allclose(found, wanted, rtol=LINE[x.dtype.name]["rtol"], atol=LINE[x.dtype.name]["rtol"] * size)
    there = ~np.isnan(x)
    assert found[there].tobytes() == x[there].tobytes()
    assert (found is x) == there.all()


def test_filling_is_what_pandas_does():
    pandas = pytest.importorskip("pandas")
    x = np.random.default_rng(0).normal(size=(40, 3))
    x[np.random.default_rng(1).random(x.shape) < 0.4] = NAN
    frame = pandas.DataFrame(x)
    wanted = frame.interpolate(limit_direction="both").to_numpy()
    np.testing.assert_allclose(missing.fill(x, "linear", 0), wanted, rtol=1e-13)
    np.testing.assert_array_equal(missing.fill(x, "forward", 7), frame.ffill().fillna(7).to_numpy())


def test_lines_neither_overflow_nor_leave_their_ends():
    largest = np.finfo(np.float64).max
    x = np.array([[largest, 0.1], [NAN, NAN], [-largest, 0.1], [NAN, NAN], [NAN, NAN], [largest, 0.1]])
    found = missing.fill(x, "linear", 0)
    assert np.isfinite(found).all() and (found[:, 1] == 0.1).all()
    with pytest.raises(ValueError, match=r"^X: 1e\+300, which missing values become, is too large for float32"):
        missing.fill(np.array([[1], [NAN]], np.float32), "constant", 1e300)


# Padding is told from what is missing.


def test_in_an_array_whole_steps_at_the_end_are_padding_and_in_a_list_nothing_is():
    x = np.ones((2, 4, 2))
    x[0, 1, 0] = x[0, 3] = x[1, 3, 1] = NAN
    found = panel.read(x, gaps=True)
    assert found.lengths.tolist() == [3, 4]
    listed = panel.read(list(x), gaps=True)
    assert listed.lengths.tolist() == [4, 4]
    filled = missing.fill_panel(found, "constant", 5)
    np.testing.assert_array_equal(filled.x[0], [[1, 1], [5, 1], [1, 1], [NAN, NAN]])
    assert filled.missing.sum() == 2 and filled.missing[0, 1, 0] and filled.missing[1, 3, 1]
    filled = missing.fill_panel(listed, "constant", 5)
    np.testing.assert_array_equal(filled.x[0], [[1, 1], [5, 1], [1, 1], [5, 5]])
    assert sum(m.sum() for m in filled.missing) == 4
    for one in (found, listed):
        chosen = missing.fill_panel(one, "constant", 5).select(np.array([1]))
        np.testing.assert_array_equal(next(chosen.each())[3], [1, 5])
        np.testing.assert_array_equal(next(chosen.each_missing())[3], [False, True])
    with pytest.raises(ValueError, match="contains NaN inside"):
        panel.read(x)
    for X in (x, list(x)):
        X[1][:] = NAN
        with pytest.raises(ValueError, match=r"sequence 1 has no steps, only NaN; leave it out"):
            panel.read(X, gaps=True)
        X[1][0, 0] = np.inf
        with pytest.raises(ValueError, match="contains infinity"):
            panel.read(X, gaps=True)
