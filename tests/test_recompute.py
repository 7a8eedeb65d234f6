"""lstm.forward in a memory budget: nothing but the memory is another."""

import tracemalloc

import numpy as np
import pytest
from lstm_cases import assert_equal, assert_same, everything, make

import lstmx
from lstmx import LSTM, Cell
from lstmx.functional import allocate, engine, threads

N, T, I, H = 10, 300, 3, 6
KINDS = {
    "one layer": {},
    "two layers": {"num_layers": 2, "dropout": 0.3},
    "cell": {"num_layers": 2, "cell": Cell(zoneout=0.1, weight_dropout=0.2, learn_state=True, peephole=True)},
    "projected": {"proj_size": 4, "cell": Cell(layer_norm="haste", recurrent_dropout=0.2)},
    "reverse": {"reverse": True, "cell": Cell(zoneout=0.1)},
    "two directions": {"num_layers": 2, "bidirectional": True, "dropout": 0.2},
    "product": {"num_layers": 2, "bidirectional": True, "merge": "mul", "cell": Cell(weight_dropout=0.3)},
    "average": {"num_layers": 2, "bidirectional": True, "merge": "average", "cell": Cell(learn_state=True)},
}
RNG = np.random.default_rng(0)
X, LENGTHS = RNG.normal(size=(N, T, I)), np.array([300, 4, 0, 300, 120, 299, 26, 52, 1, 200])
FORMS = {
    "array": {},
    "lengths": {"lengths": LENGTHS},
    "list": {},
    "single": {},
    "mask": {"mask": RNG.random((N, T)) < 0.7},
    "reset": {"reset": RNG.random((N, T)) < 0.01, "mask": RNG.random((N, T)) < 0.8},
}


def least(lstm, x, **options):
    with pytest.raises(ValueError, match=r"memory: got 1 bytes, but .* take at least") as caught:
        lstm.forward(x, memory=1, **options)
    return int(str(caught.value).split("at least ")[1].split(";")[0].replace(",", ""))


def like(y, seed):
    """Random numbers in the form of y."""
    if isinstance(y, list):
        return [like(a, seed + k) for k, a in enumerate(y)]
    return np.random.default_rng(seed).normal(size=y.shape).astype(y.dtype)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_changes_no_bit(kind, form, given):
    lstm = make(I, H, dtype="float32", **KINDS[kind])
    x = {"list": [a[:n] for a, n in zip(X, LENGTHS, strict=True)], "single": np.resize(X, (3000, I))}.get(form, X)
    y, state = lstm(x, **FORMS[form])
    options = FORMS[form] | ({"state": tuple(like(a, 3) for a in state)} if given else {})
    options |= {"dy": like(y, 4), "dstate": tuple(like(a, 5) for a in state), "rng": 7}
    wanted = everything(lstm, x, **options)
    budget = least(lstm, x, **FORMS[form])
    assert "again" in lstm.forward(x, memory=budget, **FORMS[form])[2].parts
    found = everything(lstm, x, memory=budget, **options)
    for name, value in wanted.items():
        pairs = zip(found[name], value, strict=True) if isinstance(value, list) else [(found[name], value)]
        for one, other in pairs:
            assert_same(one, other, err_msg=name)


@pytest.mark.skipif(engine.NAME != "tile", reason="a promise of the tile engine")
@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_changes_no_bit_where_threads_share_the_work(kind, monkeypatch):
    lstm = make(I, 64, dtype="float32", **KINDS[kind])
    x = np.random.default_rng(1).normal(size=(40, 90, I))
    asked, number = [], threads.get_num_threads
    options = {"dy": like(lstm(x)[0], 4), "rng": 7}
    monkeypatch.setattr(threads, "get_num_threads", lambda: asked.append(number()) or asked[-1])
    with lstmx.num_threads(1):
        wanted = everything(lstm, x, **options)
    for count in (2, 5):
        with lstmx.num_threads(count):
            assert_equal(everything(lstm, x, memory=least(lstm, x), **options), wanted)  # threads take some too
    assert set(asked) == {1, 2, 5}  # there is work enough for them


@pytest.mark.parametrize("kind", ["two layers", "two directions"])
def test_outputs_of_all_layers(kind):
    lstm = make(I, H, dtype="float32", **KINDS[kind])
    results = []
    for options in ({}, {"memory": least(lstm, X)}):
        y, state, tape = lstm.forward(X, rng=3, return_layers=True, **options)
        for dy in ([like(y[0], 1), like(y[1], 2)], [None, like(y[1], 2)], [like(y[0], 1), None], None):
            grads = lstm.backward(tape, dy, retain=True)
            results.append((*y, *state, grads.x, *grads.state, *grads.params.values()))
    for one, other in zip(results[4:], results[:4], strict=True):
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)


def test_a_tape_in_a_budget_is_like_every_tape():
    lstm = make(I, H, dtype="float32")
    y, _, tape = lstm.forward(X, memory=least(lstm, X))
    lstm.backward(tape, np.ones_like(y), retain=True)
    lstm.backward(tape, np.ones_like(y))
    with pytest.raises(RuntimeError, match="tape: already used"):
        lstm.backward(tape, np.ones_like(y))
    _, _, tape = lstm.forward(X, memory=least(lstm, X))
    with pytest.raises(ValueError, match="dy: got shape"):
        lstm.backward(tape, np.ones((N, T, H + 1)))
    lstm.set_parameters({"bias_l0": np.zeros(4 * H)})
    with pytest.raises(RuntimeError, match="parameters have been set"):
        lstm.backward(tape, np.ones_like(y))


def test_a_large_budget_keeps_the_tape():
    lstm = make(I, H, dtype="float32")
    whole = lstm.memory(N, T, training=True)
    assert lstm.memory(N, T, training=True, memory=whole) == whole
    assert lstm.memory(N, T, training=True, memory=whole - 1) < whole
    assert "again" not in lstm.forward(X, memory=whole)[2].parts
    assert "again" in lstm.forward(X, memory=whole - 1)[2].parts


@pytest.mark.parametrize(
    ("kind", "share"),
    [("one layer", 0.6), ("two layers", 0.5), ("two directions", 0.6), ("cell", 0.4), ("projected", 0.5),
     ("product", 0.6), ("reverse", 0.7)],
)  # fmt: skip
@pytest.mark.skipif(allocate.DEBUG, reason="debug runs keep no memory for the next call")
def test_forward_and_backward_keep_to_their_budget(kind, share):
    lstm = LSTM(16, 64, random_state=0, **KINDS[kind])
    x = np.random.default_rng(0).normal(size=(8, 1000, 16)).astype(np.float32)
    for budget in (int(lstm.memory(8, 1000, training=True) * share), least(lstm, x)):
        said = lstm.memory(8, 1000, training=True, memory=budget)
        assert said <= budget
        dy = np.ones((8, 1000, lstm.output_size()), np.float32)
        allocate.spare.clear()
        tracemalloc.start()
        try:
            _, _, tape = lstm.forward(x, memory=budget)
            lstm.backward(tape, dy)
            assert tracemalloc.get_traced_memory()[1] + dy.nbytes < 1.02 * said
        finally:
            tracemalloc.stop()


def test_bad_budgets():
    lstm = make(I, H)
    with pytest.raises(ValueError, match="memory: got 'a lot'"):
        lstm.forward(X, memory="a lot")
    with pytest.raises(ValueError, match="memory: a budget is that of training"):
        lstm.memory(N, T, memory="1GB")
    with pytest.raises(ValueError, match=r"at least [0-9,]+; give as much, or fewer sequences"):
        lstm.memory(N, T, training=True, memory="1kB")
