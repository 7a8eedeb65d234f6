"""Sequential.rollout against loops over step and predict, and the forecaster's loop against one over `predict`."""

import re
import threading

import numpy as np
import pytest
from tolerances import ENGINES, PEER, SIGMAS

import lstmx
from lstmx import (
    LSTM,
    RNN,
    Activation,
    Dense,
    Dropout,
    Embedding,
    FinalState,
    Last,
    Masking,
    MeanPool,
    Reversed,
    Sequential,
    Unmask,
)
from lstmx.functional import engine
from lstmx.layers.compiled import CompiledLayers

DTYPES = ["float32", "float64"]
dtypes = pytest.mark.parametrize("dtype", DTYPES)


def generator(seed=0):
    return np.random.default_rng(seed)


def same(found, wanted):
    """The same bits, as the tile engine promises; of other engines nearly the same numbers."""
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    if engine.NAME == "tile" or found.dtype.kind == "i":
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, **ENGINES[found.dtype.name])


def make(I=3, O=3, dtype="float64", kind="steps", seed=0):
    """A model of I inputs and O outputs whose results stay of order 1."""
    head = Dense(8, O, dtype=dtype)
    layers = {
        "steps": [LSTM(I, 8, dtype=dtype), head],
        "last": [LSTM(I, 8, 2, dtype=dtype), Last(), Dropout(0.5), head],
        "mean": [LSTM(I, 8, dtype=dtype), MeanPool(), head],
        "final": [RNN(I, 8, dtype=dtype), FinalState(), head],
        "pooled at the end": [LSTM(I, 8, dtype=dtype), head, Last()],
        "cell": [LSTM(I, 8, cell=lstmx.Cell(peephole=True, learn_state=True), dtype=dtype), Activation("elu"), head],
        "both": [LSTM(I, 4, bidirectional=True, dtype=dtype), FinalState(), head],
        "reversed": [Reversed(), LSTM(I, 8, dtype=dtype), head],
    }[kind]
    model = Sequential(layers, random_state=seed)
    rng = generator(seed + 1)
    model.set_parameters({name: rng.normal(size=p.shape) * 0.6 for name, p in model.parameters().items()})
    return model


CAUSAL = ["steps", "last", "mean", "final", "pooled at the end", "cell"]
causal = pytest.mark.parametrize("kind", CAUSAL)
every = pytest.mark.parametrize("kind", [*CAUSAL, "both", "reversed"])


def carried(model, x, steps, fed=None, exog=None, noise=None, state=None):
    """The loop over `step`, on (N, T, I); `fed` has pairs (output, column)."""
    fed = [(j, j) for j in range(model.output_size)] if fed is None else fed
    others = [c for c in range(model.input_size) if c not in [column for _, column in fed]]
    results = []
    for t in range(x.shape[1]):
        y, state = model.step(x[:, t], state)
    for j in range(steps):
        result = y.astype(np.float64) + (0 if noise is None else noise[:, j])
        results.append(result.astype(model.dtype))
        row = np.empty((len(x), model.input_size), model.dtype)
        for output, column in fed:
            row[:, column] = result[:, output]
        if j + 1 < steps:
            for k, column in enumerate(others):
                row[:, column] = exog[:, j, k]
            y, state = model.step(row, state)
    return np.stack(results, axis=1), state


def windowed(model, x, steps, window, noise=None):
    """The loop over `predict` of the last `window` inputs, of a model whose outputs are its inputs."""
    x, results = np.asarray(x, model.dtype), []
    for j in range(steps):
        y = model.predict(x[:, x.shape[1] - window :])
        y = y if y.ndim == 2 else y[:, -1]
        result = (y.astype(np.float64) + (0 if noise is None else noise[:, j])).astype(model.dtype)
        results.append(result)
        x = np.concatenate([x, result[:, None]], axis=1)
    return np.stack(results, axis=1)


# The loop.


@causal
@dtypes
def test_the_loop_equals_one_over_step(kind, dtype):
    model = make(dtype=dtype, kind=kind)
    x = generator().normal(size=(5, 7, 3)).astype(dtype)
    wanted, after = carried(model, x, 9)
    found, state = model.rollout(x, 9, return_state=True)
    same(found, wanted)
    assert np.ptp(wanted, axis=(0, 1)).min() > 1e-3  # it does not stand still
    same(model.rollout(x[2], 9), wanted[2])
    same(model.rollout(x[:, -1:], 9, state=carried(model, x[:, :-1], 1)[1]), wanted)
    # The last result is what comes next.
    same(model.rollout(found[:, -1:], 4, state=state), carried(model, found[:, -1:], 4, state=after)[0])
    same(model.rollout(found[:, -1:], 4, state=state), model.rollout(x, 13)[:, 9:])


@every
@dtypes
def test_a_window_equals_a_loop_over_predict(kind, dtype):
    model = make(dtype=dtype, kind=kind)
    x, noise = generator().normal(size=(5, 7, 3)).astype(dtype), generator(1).normal(size=(5, 12, 3))
    for window in (1, 4, 7):
        wanted = windowed(model, x, 12, window, noise)
        same(model.rollout(x, 12, window=window, noise=noise), wanted)
        same(model.rollout(x[2], 12, window=window, noise=noise[2]), wanted[2])
        lists = [x[0], x[1, 2:], *x[2:]] if window < 6 else list(x)
        same(model.rollout(lists, 12, window=window, noise=noise), wanted)


@causal
def test_sequences_of_any_lengths(kind):
    model = make(kind=kind)
    x = [generator(n).normal(size=(T, 3)) for n, T in enumerate([3, 9, 1, 5, 9])]
    found, state = model.rollout(x, 6, return_state=True)
    more = model.rollout(found[:, -1:], 3, state=state)
    continued = model.rollout(x, 3, state=state)
    for n, a in enumerate(x):
        wanted, after = carried(model, a[None], 6)
        same(found[n], wanted[0])
        same(more[n], carried(model, wanted[:, -1:], 3, state=after)[0][0])
        same(continued[n], carried(model, a[None], 3, state=after)[0][0])


@dtypes
@pytest.mark.parametrize(
    ("feedback", "fed"),
    [(None, [(0, 0), (1, 1)]), ([3, 1], [(0, 3), (1, 1)]), ((None, 0), [(1, 0)]), (np.array([-1, 2]), [(0, 3), (1, 2)]),
     ([None, None], [])],
    ids=str,
)  # fmt: skip
def test_columns_that_no_output_feeds_are_exogenous(feedback, fed, dtype):
    model = make(4, 2, dtype)
    x, exog = generator().normal(size=(5, 6, 4)), generator(1).normal(size=(5, 11, 4 - len(fed)))
    wanted, _ = carried(model, x, 9, fed, exog)
    same(model.rollout(x, 9, feedback=feedback, exog=exog), wanted)
    same(model.rollout(x, 9, feedback=feedback, exog=exog[:, :8]), wanted)
    same(model.rollout(x[3], 9, feedback=feedback, exog=exog[3]), wanted[3])
    same(model.rollout(x, 9, feedback=feedback, exog=exog[3])[3], wanted[3])
    rows = np.concatenate([x[:, :, :2], x[:, :, 2:]], axis=2)
    window = model.rollout(rows, 3, feedback=feedback, exog=exog, window=6)
    last = np.empty((5, 1, 4))
    others = [c for c in range(4) if c not in [column for _, column in fed]]
    last[:, 0, others] = exog[:, 0]
    for output, column in fed:
        last[:, 0, column] = window[:, 0, output]
    same(window[:, 1], model.predict(np.concatenate([x[:, 1:], last], axis=1))[:, -1])


def test_exog_beside_the_first_result_is_its_first():
    model = make(2, 1)
    x, exog = generator().normal(size=(6, 2)), generator(1).normal(size=(2, 1))
    first, second, third = model.rollout(x, 3, exog=exog)
    y, state = None, None
    for row in [*x, [first[0], exog[0, 0]], [second[0], exog[1, 0]]]:
        y, state = model.step(np.array(row), state)
    same(third, y)
    same(model.rollout(x, 1), first[None])  # which needs none


def test_nothing_given_is_changed_and_nothing_of_it_returned():
    model = make(kind="last")
    x, noise = generator().normal(size=(2, 4, 3)), generator(1).normal(size=(2, 3, 5, 3))
    _, state = model.rollout(x, 1, return_state=True)
    given = [x, noise, *state[0], state[1]]
    kept = [a.copy() for a in given]
    found, after = model.rollout(x, 5, paths=3, noise=noise, state=state, return_state=True)
    for a, b in zip(given, kept, strict=True):
        np.testing.assert_array_equal(a, b)
    for a in (found, *after[0], after[1]):
        assert not any(np.shares_memory(a, b) for b in given)
    assert after[0][0].shape == (2, 6, 8) and after[1].shape == (6, 8)
    assert found.flags.c_contiguous and found.flags.writeable


@causal
def test_none_of_anything(kind):
    model = make(kind=kind)
    x = generator().normal(size=(4, 6, 3))
    assert model.rollout(x, 0).shape == (4, 0, 3) and model.rollout(x[0], 0, noise=1.0, paths=2).shape == (2, 0, 3)
    _, state = model.rollout(x, 0, return_state=True)
    same(model.rollout(x, 5, state=state), carried(model, np.concatenate([x, x], axis=1), 5)[0])
    for window in (None, 2):
        assert model.rollout(x[:0], 5, window=window).shape == (0, 5, 3)
        assert model.rollout([], 5, window=window).shape == (0, 5, 3)
        assert model.rollout(x[:0], 5, window=window, noise=1.0, paths=2).shape == (0, 2, 5, 3)


def test_more_sequences_than_are_read_at_once():
    model = make(kind="mean")
    x = generator().normal(size=(600, 3, 3))
    found, state = model.rollout(x, 3, return_state=True)
    same(found[[0, 255, 256, 599]], model.rollout(x[[0, 255, 256, 599]], 3))
    same(state[1][0][[0, 599]], model.rollout(x[[0, 599]], 3, return_state=True)[1][1][0])
    some = model.rollout(x[[255, 256]], 3, return_state=True)[1]
    same(model.rollout(x, 2, state=state)[[255, 256]], model.rollout(x[[255, 256]], 2, state=some))
    window = model.rollout(x, 3, window=2)
    same(window[[0, 255, 256, 599]], model.rollout(x[[0, 255, 256, 599]], 3, window=2))


# Noise and paths.


@dtypes
@pytest.mark.parametrize("window", [None, 4])
def test_noise_is_added_and_fed_back(window, dtype):
    model, rng = make(dtype=dtype), generator()
    x, noise = rng.normal(size=(2, 6, 3)).astype(dtype), rng.normal(size=(2, 5, 8, 3))
    found = model.rollout(x, 8, paths=5, noise=noise, window=window)
    assert found.shape == (2, 5, 8, 3) and found.dtype == dtype
    for n in range(2):
        for m in range(5):
            one = noise[n, m][None]
            wanted = carried(model, x[n : n + 1], 8, noise=one)[0] if window is None else windowed(
                model, x[n : n + 1], 8, 4, one)  # fmt: skip
            same(found[n, m], wanted[0])
            same(found[n, m], model.rollout(x[n], 8, noise=noise[n, m], window=window))
    same(found[1], model.rollout(x[1], 8, paths=5, noise=noise[1], window=window))


def test_noise_is_drawn_as_the_docstring_says():
    model, x = make(), generator().normal(size=(4, 6, 3))
    shape, errors = (4, 7, 5), generator(5).normal(size=(11, 3))
    normal = generator(3).standard_normal((*shape, 3))
    given = {"paths": 7, "random_state": 3}
    for noise, wanted in (
        (0.25, 0.25 * normal),
        ([0.1, 0.0, 2.0], np.array([0.1, 0.0, 2.0]) * normal),
        (errors, errors[generator(3).integers(11, size=shape)]),
    ):
        found = model.rollout(x, 5, noise=noise, **given)
        same(found, model.rollout(x, 5, noise=wanted, paths=7))
        same(found, model.rollout(x, 5, noise=noise, paths=7, random_state=generator(3)))
        same(found[:2], model.rollout(x[:2], 5, noise=noise, **given))  # whoever else is there
        same(found[0], model.rollout(x[0], 5, noise=noise, **given))
    assert (model.rollout(x, 5, noise=0.25) != model.rollout(x, 5, noise=0.25)).any()
    same(model.rollout(x, 5, noise=0.0, paths=2)[:, 1], model.rollout(x, 5))
    same(model.rollout(x, 5, noise=errors, random_state=3),
         model.rollout(x, 5, noise=errors[generator(3).integers(11, size=(4, 5))]))  # fmt: skip


def test_the_spread_of_a_walk_grows_as_the_root_of_the_steps():
    model = Sequential([Dense(1, 1)])  # y = x: each result is the one before, and noise
    model.set_parameters({"0.weight": [[1.0]], "0.bias": [0.0]})
    paths = model.rollout(np.array([[1.0]]), 16, noise=0.5, paths=4000, random_state=0)
    # The deviation of a sample of 4,000 is off by 1 / sqrt(8000) of itself.
    np.testing.assert_allclose(
        paths.std(axis=0)[:, 0], 0.5 * np.sqrt(np.arange(1, 17)), rtol=SIGMAS / np.sqrt(8000), atol=0
    )


@pytest.mark.parametrize("where", ["x", "noise", "exog", "state"])
@pytest.mark.parametrize("window", [None, 3])
def test_nan_reaches_no_other_row(where, window):
    model = make(4, 3)
    given = {"x": generator().normal(size=(5, 6, 4)), "noise": generator(1).normal(size=(5, 2, 7, 3)),
             "exog": generator(2).normal(size=(5, 6, 1))}  # fmt: skip
    if window is None:
        given["state"] = model.rollout(given["x"], 1, return_state=True)[1]
    elif where == "state":
        return
    good = model.rollout(steps=7, paths=2, window=window, **given)
    bad = dict(given)
    if where == "state":
        (h, c), _ = given["state"]
        h = h.copy()
        h[:, 2] = np.nan
        bad["state"] = (h, c), None
    else:
        bad[where] = given[where].copy()
        bad[where][2, ..., 0 if where == "noise" else -1, 0] = np.nan
    found = model.rollout(steps=7, paths=2, window=window, **bad)
    assert np.isnan(found[2, :, -1]).all()
    others = [0, 1, 3, 4]
    same(found[others], good[others])


def test_what_grows_beyond_all_bounds_is_infinite_without_a_warning():
    model = Sequential([Dense(1, 1)])
    model.set_parameters({"0.weight": [[1e10]], "0.bias": [0.0]})
    found = model.rollout(np.ones((2, 1)) * [[1.0], [-1.0]], 6)
    assert found.dtype == np.float32 and found[-1, 0] == -np.inf and found[2, 0] == np.float32(-1e30)
    assert np.isinf(model.rollout(np.ones((1, 1)), 2, noise=np.full((2, 1), 1e300))).all()
    wide = Sequential([Dense(2, 1)])
    assert np.isinf(wide.rollout(np.ones((1, 2)), 2, exog=[[1e300]])[1])


@pytest.mark.skipif(engine.NAME != "tile", reason="a promise of the tile engine")
@pytest.mark.parametrize("window", [None, 5])
def test_threads_change_no_bits(window):
    model = Sequential([LSTM(3, 70, 2), Dense(70, 3)], random_state=0)
    x = generator().normal(size=(9, 12, 3)).astype("float32")
    given = {"noise": 0.1, "paths": 30, "random_state": 0, "window": window}
    with lstmx.num_threads(1):
        wanted = model.rollout(x, 6, **given)
    with lstmx.num_threads(2):
        same(model.rollout(x, 6, **given), wanted)
    found = [None] * 4

    def call(k):
        found[k] = model.rollout(x, 6, **given)

    threads = [threading.Thread(target=call, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in found:
        same(each, wanted)


def test_it_runs_with_the_parameters_that_it_began_with(monkeypatch):
    model, x = make(), generator().normal(size=(2, 4, 3))
    wanted = model.rollout(x, 5)
    zeros, step = {name: 0 * p for name, p in model.parameters().items()}, lstmx.model.rollout._Reader.step

    def changed(self, *args):
        model.set_parameters(zeros)
        return step(self, *args)

    monkeypatch.setattr(CompiledLayers, "program", None)  # the compiled loop gives nobody a turn
    monkeypatch.setattr(lstmx.model.rollout._Reader, "step", changed)
    same(model.rollout(x, 5), wanted)


# Tokens.


def tokens(end="linear", V=7, kind="steps", **options):
    """A model of V integers, of which some are much likelier than others."""
    layers = [Embedding(V, 5, dtype="float64", **options), LSTM(5, 6, dtype="float64")]
    layers += [Last()] if kind == "last" else []
    layers += [Dense(6, V, end, dtype="float64")] if end in ("linear", "softmax") else [
        Dense(6, V, dtype="float64"), Activation(end[0]), Dropout(0.1)]  # fmt: skip
    model = Sequential(layers, random_state=0)
    rng = generator(4)
    model.set_parameters({
        name: ("weight" in name) * 2 * rng.normal(size=p.shape) for name, p in model.parameters().items()
    })  # fmt: skip
    return model


def probabilities(model, x, temperature=1.0):
    """(N, V), of what comes after the integers x (N, T)."""
    y = model.predict(x)
    y = y if y.ndim == 2 else y[:, -1]
    z = np.log(y) if model.layers[-1].config().get("activation") == "softmax" or len(model.layers) > 3 else y
    p = np.exp((z - z.max(axis=1, keepdims=True)) / temperature)
    return p / p.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["steps", "last"])
@pytest.mark.parametrize("end", ["linear", "softmax"])
@pytest.mark.parametrize("window", [None, 3])
def test_argmax_takes_the_likeliest_token(end, kind, window):
    model = tokens(end, kind=kind)
    x = generator().integers(7, size=(6, 4))
    wanted = x.copy()
    for _ in range(8):
        y = model.predict(wanted if window is None else wanted[:, -3:])
        y = y if y.ndim == 2 else y[:, -1]
        wanted = np.concatenate([wanted, y.argmax(axis=1)[:, None]], axis=1)
    found = model.rollout(x, 8, window=window)
    assert found.dtype == np.int64 and found.shape == (6, 8) and len(np.unique(found)) > 2
    np.testing.assert_array_equal(found, wanted[:, 4:])
    np.testing.assert_array_equal(model.rollout(x[1], 8, window=window, feedback="argmax"), wanted[1, 4:])
    np.testing.assert_array_equal(model.rollout([x[0, 1:], x[3, :3]], 1)[0], model.rollout(x[0, 1:], 1))


@pytest.mark.parametrize("end", ["linear", "softmax"])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_samples_are_as_frequent_as_they_are_probable(end, temperature):
    model, x, M = tokens(end), np.array([[1, 2, 3]]), 4000
    found = model.rollout(x, 2, feedback="sample", temperature=temperature, paths=M, random_state=0)[0]
    assert found.shape == (M, 2)

    def bounded(counts, p):
        wanted = p * counts.sum()
        seldom = wanted < 5  # the approximation by a normal distribution needs so many: what is seldom counts as one
        if seldom.any():
            wanted = np.append(wanted[~seldom], wanted[seldom].sum())
            counts = np.append(counts[~seldom], counts[seldom].sum())
        chi_squared = ((counts - wanted) ** 2 / np.maximum(wanted, 1e-9)).sum()
        freedom = len(wanted) - 1
        assert chi_squared < freedom + SIGMAS * np.sqrt(2 * freedom), (counts, wanted)

    bounded(np.bincount(found[:, 0], minlength=7), probabilities(model, x, temperature)[0])
    for first in range(7):  # and after each of them, for the second
        after = found[found[:, 0] == first, 1]
        if len(after) > 100:
            given = np.append(x, [[first]], axis=1)
            bounded(np.bincount(after, minlength=7), probabilities(model, given, temperature)[0])


def test_samples_are_drawn_as_the_docstring_says():
    model, x = tokens("softmax"), generator().integers(7, size=(3, 4))
    found = model.rollout(x, 5, feedback="sample", paths=2, random_state=1)
    drawn = generator(1).random((3, 2, 5))
    for n in range(3):
        for m in range(2):
            known = x[n]
            for j in range(5):
                sums = np.cumsum(model.predict(known[None])[0, -1])
                known = np.append(known, np.flatnonzero(sums > drawn[n, m, j] * sums[-1])[0])
            np.testing.assert_array_equal(found[n, m], known[4:])
    np.testing.assert_array_equal(found[0], model.rollout(x[0], 5, feedback="sample", paths=2, random_state=1))
    rng = generator(1)
    rng.random((2, 2, 5))
    np.testing.assert_array_equal(found[2], model.rollout(x[2], 5, feedback="sample", paths=2, random_state=rng))


def test_no_tokens():
    model, none = tokens(), np.empty((0, 4), int)
    for given in ({}, {"feedback": "sample"}, {"window": 2}):
        assert model.rollout(none, 5, **given).shape == (0, 5) and model.rollout(none[:, :1], 0).shape == (0, 0)


def test_a_low_temperature_is_argmax_and_tokens_of_no_probability_never_come():
    model, x = tokens(), generator().integers(7, size=(20, 4))
    cold = model.rollout(x, 6, feedback="sample", temperature=1e-6, random_state=0)
    np.testing.assert_array_equal(cold, model.rollout(x, 6))
    model = tokens()
    bias = np.array([0, -np.inf, 0, -np.inf, 0, 0, -np.inf])
    model.set_parameters({"2.bias": bias}, allow_nonfinite=True)
    found = model.rollout(x, 50, feedback="sample", temperature=5.0, random_state=0)
    assert set(np.unique(found)) == {0, 2, 4, 5}
    soft = Sequential([layer.copy() for layer in model.layers] + [Activation("softmax")])
    for temperature in (1.0, 5.0):  # through the logarithm of 0
        found = soft.rollout(x, 50, feedback="sample", temperature=temperature, random_state=0)
        assert set(np.unique(found)) <= {0, 2, 4, 5}


@pytest.mark.parametrize("feedback", ["argmax", "sample"])
@pytest.mark.parametrize("end", ["linear", "softmax"])
def test_outputs_of_which_no_token_can_be_chosen(feedback, end):
    model = tokens(end)
    model.set_parameters({"2.bias": np.full(7, np.nan)}, allow_nonfinite=True)
    with pytest.raises(FloatingPointError, match=r"^rollout: of the outputs \[nan.* no token can be chosen; look for"):
        model.rollout(np.array([1, 2]), 3, feedback=feedback)


# Masked steps.


@pytest.mark.parametrize("unmask", [[], [Unmask()], [Unmask("zero")]], ids=["none", "repeat", "zero"])
def test_masked_steps_change_nothing(unmask):
    model = Sequential(
        [Masking(0.0), LSTM(2, 6, dtype="float64"), *unmask, Dense(6, 2, dtype="float64")], random_state=0
    )
    plain = Sequential([model.layers[1].copy(), model.layers[-1].copy()])
    x = generator().normal(size=(3, 7, 2))
    x[0, [0, 3]], x[2, [5, 6]] = 0, 0
    there = [a[(a != 0).any(axis=1)] for a in x]
    wanted, state = plain.rollout(there, 5, return_state=True)
    found, after = model.rollout(x, 5, return_state=True)
    same(found, wanted)
    for a, b in zip(after[1], state[0], strict=True):
        same(a, b)
    # A result that is a masked step: of sequence 1 the first, and then it is as if it had never been.
    noise = np.zeros((3, 5, 2))
    noise[1, 0] = -wanted[1, 0]
    found = model.rollout(x, 5, noise=noise)
    same(found[[0, 2]], wanted[[0, 2]])
    assert (found[1, 0] == 0).all()
    same(found[1, 1:], wanted[1, :4])
    window = model.rollout(x, 4, window=4)
    for n in range(3):
        known = x[n]
        for j in range(4):
            part = known[-4:]
            y = plain.predict(part[(part != 0).any(axis=1)])[-1]
            same(window[n, j], y)
            known = np.append(known, y[None], axis=0)


def test_tokens_of_padding_change_nothing():
    model, plain = tokens(padding_idx=0, mask_padding=True), tokens()
    plain.set_parameters(model.parameters())
    x = np.array([[0, 3, 0, 5], [1, 2, 0, 0], [4, 4, 2, 1]])
    found = model.rollout(x, 20, feedback="sample", temperature=3.0, paths=4, random_state=0)
    assert (found == 0).any() and len(np.unique(found)) == 7
    drawn = generator(0).random((3, 4, 20))
    for n, m in np.ndindex(3, 4):
        known = list(x[n][x[n] != 0])
        for j, token in enumerate(found[n, m]):
            sums = np.cumsum(probabilities(plain, np.array([known]), 3.0)[0])
            assert token == np.flatnonzero(sums > drawn[n, m, j])[0]
            known += [token] if token else []


def test_a_sequence_without_a_step_is_an_error():
    with pytest.raises(ValueError, match=r"^x: sequence 1 has no step, must have one or more: the first result is"):
        make().rollout([np.ones((2, 3)), np.ones((0, 3))], 2)
    with pytest.raises(ValueError, match=r"^x: sequence 0 has no step, "):
        make().rollout(np.ones((0, 3)), 2)
    model = Sequential([Masking(0.0), LSTM(2, 6), Dense(6, 2)])
    x = np.ones((300, 4, 2))
    x[299] = 0
    with pytest.raises(ValueError, match=r"^x: sequence 299 has no step that is not masked, must have one or more"):
        model.rollout(x, 2)


# Errors.

X = np.ones((5, 6, 3))
STATE = make().rollout(X, 1, return_state=True)[1]
BAD = {
    "steps of a float": ({"steps": 2.5}, TypeError, r"^steps: got 2\.5, must be an integer of at least 0"),
    "negative steps": ({"steps": -1}, ValueError, r"^steps: got -1, must be at least 0"),
    "no paths": ({"paths": 0, "noise": 1.0}, ValueError, r"^paths: got 0, must be at least 1"),
    "paths of nothing": ({"paths": 4}, ValueError, r"^paths: got 4, but nothing is drawn.*give noise=, or leave"),
    "features": ({"x": np.ones((5, 6, 2))}, ValueError, r"^x: got shape \(5, 6, 2\), must be \(N, T, 3\)"),
    "words": ({"x": "abc"}, TypeError, r"^x: got dtype <U3, must be real numbers"),
    "window of 0": ({"window": 0}, ValueError, r"^window: got 0, must be at least 1"),
    "long window": ({"window": 7}, ValueError, r"^window: got 7, but sequence 0 of x has 6 steps; give a smal"),
    "long window of a list": ({"window": 4, "x": [X[0], X[0, :2]]}, ValueError, r"^window: .* sequence 1 of x has 2"),
    "window and state": ({"window": 2, "state": STATE}, ValueError, r"^state: got one beside window=, .* leave out o"),
    "state of a window": ({"window": 2, "return_state": True}, ValueError, r"^return_state: got one beside window="),
    "return_state": ({"return_state": 1}, TypeError, r"^return_state: got 1, must be True or False"),
    "state of other layers": ({"state": (None,)}, TypeError, r"^state: must be what step, stream or rollout of this"),
    "state of other rows": ({"x": X[:2], "state": STATE}, ValueError, r"^state: has an array \(1, 5, 8\), .* 2 rows"),
    "state of words": ({"state": ("a", "b")}, ValueError, r"^state: has str, must have arrays of 5 rows"),
    "random_state": ({"random_state": "a"}, TypeError, r"^random_state: got 'a', must be None, a non-negative integer"),
    "temperature": ({"temperature": 2.0}, ValueError, r"^temperature: got 2\.0, but this model gives numbers"),
    "sampled numbers": ({"feedback": "sample"}, ValueError, r"^feedback: got 'sample', must be .* a list of 3.*Embedd"),
    "two columns": ({"feedback": [0, 1]}, ValueError, r"^feedback: got 2 entries, must be None or a list of 3: for"),
    "a column": ({"feedback": 1}, ValueError, r"^feedback: got 1, must be None or a list of 3"),
    "column 3": ({"feedback": [0, 1, 3]}, IndexError, r"^feedback\[2\]: got 3, there are 3 columns of the input"),
    "a column twice": ({"feedback": [0, 1, -2]}, ValueError, r"^feedback: got \[0, 1, -2\], in which two outputs"),
    "exog of nothing": ({"exog": np.ones((9, 1))}, ValueError, r"^exog: got some, but outputs fill all 3 columns"),
    "no exog": ({"feedback": [0, None, 1]}, ValueError, r"^exog: got None, but of the 3 columns of the input outputs "
                r"fill 2; give the other 1 for 3 steps or more.* as \(N, 3, 1\), or \(3, 1\) for all"),
    "short exog": ({"feedback": [0, None, 1], "exog": np.ones((2, 1))}, ValueError, r"^exog: got 2 steps, must have 3"),
    "flat exog": ({"feedback": [0, None, 1], "exog": np.ones(3)}, ValueError, r"^exog: got shape \(3,\), .*exog\[:, N"),
    "wide exog": ({"feedback": [0, None, 1], "exog": np.ones((3, 2))}, ValueError, r"^exog: got shape \(3, 2\), must "
                  r"be \(5, 3, 1\), or \(3, 1\) for all sequences: I = 3 columns of the input, of which outputs"),
    "exog of others": ({"feedback": [0, None, 1], "exog": np.ones((4, 3, 1))}, ValueError, r"^exog: got shape \(4, 3"),
    "negative noise": ({"noise": -1.0}, ValueError, r"^noise: got -1, must be standard deviations of at least 0"),
    "negative noises": ({"noise": [1, 1, -2]}, ValueError, r"^noise: got -2, must be standard deviations of at"),
    "noise of NaN": ({"noise": np.nan}, ValueError, r"^noise: 1 of 1 values are NaN or infinite.*give finite"),
    "noise of words": ({"noise": "much"}, TypeError, r"^noise: got dtype <U4, must be real numbers"),
    "two deviations": ({"noise": [1, 1]}, ValueError, r"^noise: got shape \(2,\), must be a standard deviation, \(3,\) "
                       r"of them, \(K, 3\) errors to draw from, or \(5, 4, 3\), what is added"),
    "no errors": ({"noise": np.ones((0, 3))}, ValueError, r"^noise: got shape \(0, 3\), must be"),
    "errors of NaN": ({"noise": np.full((4, 3), np.nan)}, ValueError, r"^noise: 12 of 12 values .* leave such errors"),
    "errors for one": ({"x": X[0], "noise": np.ones((9, 3))}, ValueError, r"^noise: got shape \(9, 3\), .*with paths="),
    "noise of other steps": ({"noise": np.ones((5, 3, 3))}, ValueError, r"^noise: got shape \(5, 3, 3\), must be"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments(given, error, message):
    with pytest.raises(error, match=message):
        make().rollout(**({"x": X, "steps": 4} | given))


TOKENS = {
    "a word": ({"feedback": "beam"}, ValueError, r"^feedback: got 'beam', must be one of 'argmax', 'sample'"),
    "columns": ({"feedback": [0]}, ValueError, r"^feedback: got \[0\], must be one of"),
    "exog": ({"exog": np.ones((3, 1))}, ValueError, r"^exog: got some, but this model reads tokens alone; leave it"),
    "noise": ({"noise": 1.0}, ValueError, r'^noise: got some, but this model gives tokens; draw them by feed'),
    "paths": ({"paths": 3}, ValueError, r'^paths: got 3, but nothing is drawn, .* give feedback="sample", or leave it'),
    "a temperature": ({"temperature": 2}, ValueError, r'^temperature: got 2, but the likeliest .* give feedback='),
    "temperature 0": ({"temperature": 0, "feedback": "sample"}, ValueError, r"^temperature: got 0, .* above 0"),
    "floats": ({"x": np.ones((2, 3))}, TypeError, r"^x: got dtype float64, must be integers"),
    "an integer beyond": ({"x": np.array([1, 7])}, ValueError, r"^x: got the integer 7, must be between 0 and"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), TOKENS.values(), ids=TOKENS)
def test_bad_arguments_of_tokens(given, error, message):
    with pytest.raises(error, match=message):
        tokens().rollout(**({"x": np.array([[1, 2]]), "steps": 4} | given))


def test_models_that_cannot():
    x = np.ones((2, 6, 3))
    for kind in ("both", "reversed"):
        with pytest.raises(
            ValueError, match=r"^window: got None, but a model that reads from the end .* give window=W"
        ):
            make(kind=kind).rollout(x, 3)
    with pytest.raises(ValueError, match=r"^feedback: the model gives 4 outputs and reads 3 columns; give, for each"):
        make(3, 4).rollout(x, 3)
    same(make(3, 4).rollout(x, 3, feedback=[0, None, 1, 2])[:, 0], make(3, 4).predict(x)[:, -1])
    with pytest.raises(ValueError, match=r"^feedback: the model gives 9 outputs, but its Embedding knows 7 integers"):
        Sequential([Embedding(7, 4), Dense(4, 9)]).rollout(np.array([1]), 3)
    for last in (Dense(4, 7, "sigmoid"), LSTM(4, 7), Activation(("leaky_relu", 0.3))):
        with pytest.raises(ValueError, match=re.escape(f"feedback: the model ends in {last!r}, must end in a Dense")):
            Sequential([Embedding(7, 4), last]).rollout(np.array([1]), 3)


# PyTorch.


@pytest.mark.parametrize("window", [None, 5])
@dtypes
def test_pytorch_gives_the_same(dtype, window):
    torch = pytest.importorskip("torch")
    lstm, head = torch.nn.LSTM(2, 8, batch_first=True), torch.nn.Linear(8, 1)
    lstm, head = lstm.to(getattr(torch, dtype)), head.to(getattr(torch, dtype))
    model = Sequential([lstmx.from_torch(lstm), Dense(8, 1, dtype=dtype)])
    model.set_parameters({"1.weight": head.weight.detach().numpy(), "1.bias": head.bias.detach().numpy()})
    x, exog = (generator(k).normal(size=shape).astype(dtype) for k, shape in enumerate([(3, 6, 2), (3, 9, 1)]))
    noise = 0.1 * generator(2).normal(size=(3, 10, 1)).astype(dtype)
    with torch.no_grad():
        known, state, found = torch.tensor(x), None, []
        new = known
        for j in range(10):
            y, state = lstm(new, state) if window is None else lstm(known[:, -window:])
            result = head(y[:, -1]) + torch.tensor(noise[:, j])
            found.append(result.numpy())
            if j < 9:
                new = torch.cat([result, torch.tensor(exog[:, j])], dim=1)[:, None]
                known = torch.cat([known, new], dim=1)
    np.testing.assert_allclose(
        model.rollout(x, 10, exog=exog, noise=noise, window=window), np.stack(found, axis=1), **PEER[dtype]
    )


# LSTMForecaster.


def rolled(predictor, horizon, exogenous=None, draw=None):
    """Forecasts (series, horizon, O) of a recursive forecaster: every step in the units of y, then read anew."""
    arrays, lags, W = predictor.arrays, predictor.config["lags"], predictor.config["window"]
    y, x = arrays["history"], arrays["history_x"]
    mean, scale = arrays["y_mean"][:, None], arrays["y_scale"][:, None]
    if exogenous is not None:
        x = np.concatenate([x, exogenous], axis=1)
        x = (x - arrays["x_mean"]) / arrays["x_scale"]
    for _ in range(horizon):
        levels = [y]
        for lag in lags:
            levels.append(levels[-1][:, lag:] - levels[-1][:, :-lag])
        rows = (levels[-1][:, -W:] - mean) / scale
        if exogenous is not None:
            rows = np.concatenate([rows, x[:, y.shape[1] + 1 - W : y.shape[1] + 1]], axis=2)
        step = predictor.model.predict(rows).astype(np.float64)
        step = (step + (0 if draw is None else draw())) * scale[:, 0] + mean[:, 0]
        for lag, level in zip(reversed(lags), reversed(levels[:-1]), strict=True):
            step = step + level[:, -lag]
        y = np.concatenate([y, step[:, None]], axis=1)
    return y[:, -horizon:]


# The loop over y rounds each step on its way through scaling, integration and back, once more each time: 20 times a
# dozen roundings of numbers up to ten times the result. A float32 model sees nothing of them.
ROUNDED = {"float64": {"rtol": 1e-12, "atol": 1e-12}, "float32": {"rtol": 0, "atol": 0}}


@pytest.mark.parametrize("transform", [None, "log"])
@pytest.mark.parametrize("exogenous", [False, True])
@pytest.mark.parametrize(("variables", "several"), [(1, False), (1, True), (2, True)])
@pytest.mark.parametrize("lags", [(), (1,), (5, 1)], ids=str)
@dtypes
def test_a_recursive_forecast_is_that_of_a_loop_over_windows(dtype, lags, variables, several, exogenous, transform):
    forecasts = pytest.importorskip("forecasts")
    series = [np.abs(forecasts.walk(T, variables, seed=T)) + 1 for T in (90, 80)][: 1 + several]
    known = [generator(k).normal(size=(len(a), 2)) for k, a in enumerate(series)]
    future = generator(9).normal(size=(len(series), 20, 2))
    forecaster = forecasts.make(strategy="recursive", differences=lags, transform=transform)
    series = [a.astype(dtype) for a in series]
    forecasts.fit(forecaster, series if several else series[0],
                  None if not exogenous else known if several else known[0])  # fmt: skip
    given = {"X": list(future) if several else future[0]} if exogenous else {}
    predictor = forecaster._fitted()
    assert predictor.model.dtype == dtype
    close = ROUNDED[dtype] if engine.NAME == "tile" else ENGINES[dtype]

    def check(found, wanted):
        wanted = (np.exp(wanted) if transform else wanted).astype(dtype)
        for a, b in zip(found if several else [found], wanted, strict=True):
            np.testing.assert_allclose(a, b, **close)

    ahead = future if exogenous else None
    check(forecaster.predict(20, **given), rolled(predictor, 20, ahead))
    errors, rng = predictor.arrays["errors"][:, 0], generator(7)
    count = len(series)
    paths = forecaster.sample(20, n_paths=1, random_state=7, **given)
    one = rolled(predictor, 20, ahead, lambda: errors[rng.integers(len(errors), size=count)])
    check(paths, one[:, None])
