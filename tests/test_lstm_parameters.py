"""lstmx.LSTM: parameters, copies, initial values, memory."""

import copy
import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from lstm_cases import DTYPES, assert_equal, dtypes, everything, inputs, make

from lstmx import LSTM
from lstmx.functional import allocate
from lstmx.functional.engine import NAME as ENGINE
from lstmx.layers.lstm import MERGES

# Parameters


def test_parameters_have_the_names_and_shapes_of_torch():
    lstm = LSTM(3, 4, 2, bidirectional=True)
    assert {name: p.shape for name, p in lstm.parameters().items()} == {
        f"{name}_l{layer}{suffix}": shape
        for layer, inputs_ in ((0, 3), (1, 8))
        for suffix in ("", "_reverse")
        for name, shape in (("weight_ih", (16, inputs_)), ("weight_hh", (16, 4)), ("bias", (16,)))
    }
    assert lstm.size == sum(p.size for p in lstm.parameters().values())


def test_parameters_are_read_only_and_so_is_what_they_view():
    for p in make(3, 4, 2).parameters().values():
        assert p.flags.c_contiguous and p.flags.aligned and not p.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            p[...] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            p.flags.writeable = True
        base = p.base
        while base is not None:
            assert not base.flags.writeable
            base = base.base


def test_writing_to_the_dict_of_parameters_does_not_reach_the_model():
    lstm = make(3, 4)
    wanted = lstm(np.ones((1, 2, 3)))[0]
    lstm.parameters().clear()
    np.testing.assert_array_equal(lstm(np.ones((1, 2, 3)))[0], wanted)


def test_set_parameters_copies_any_subset():
    lstm = make(3, 4)
    before = lstm.parameters()
    value = np.arange(16.0)
    lstm.set_parameters({"bias_l0": value})
    value[:] = -1
    np.testing.assert_array_equal(lstm.parameters()["bias_l0"], np.arange(16.0))
    np.testing.assert_array_equal(lstm.parameters()["weight_hh_l0"], before["weight_hh_l0"])
    assert (before["bias_l0"] != np.arange(16.0)).all()  # what was handed out before stays
    lstm.set_parameters({})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [({"weight_ih_l9": np.zeros(3)}, KeyError), ({"bias_l0": np.zeros(15)}, ValueError),
     ({"bias_l0": np.zeros(16) * 1j}, TypeError), ({"bias_l0": None}, TypeError)],
)  # fmt: skip
def test_set_parameters_checks_all_before_it_sets_any(wrong, error):
    lstm = make(3, 4)
    before = lstm.parameters()
    tape = lstm.forward(np.zeros((1, 2, 3)))[2]
    with pytest.raises(error, match=next(iter(wrong))):
        lstm.set_parameters({"weight_ih_l0": np.ones((16, 3))} | wrong)
    assert_equal(lstm.parameters(), before)
    lstm.backward(tape, None)  # nothing was set, so the tape still holds


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@dtypes
def test_values_that_are_not_finite_are_refused_unless_allowed(dtype, bad):
    lstm = make(3, 4, dtype=dtype)
    before, value = lstm.parameters(), np.ones((16, 3))
    value[2, 1] = value[5, 0] = bad
    what = r"^weight_ih_l0: 2 of 48 values are NaN or infinite, the first at index \(2, 1\) .*allow_nonfinite=True"
    with pytest.raises(ValueError, match=what):
        lstm.set_parameters({"bias_l0": np.zeros(16), "weight_ih_l0": value})
    assert_equal(lstm.parameters(), before)
    lstm.set_parameters({"weight_ih_l0": value}, allow_nonfinite=True)
    np.testing.assert_array_equal(lstm.parameters()["weight_ih_l0"], value.astype(dtype))
    for clone in CLONES.values():  # what is there may be copied
        assert_equal(clone(lstm).parameters(), lstm.parameters())
    with pytest.raises(TypeError, match=r"^allow_nonfinite: got 1, must be True or False"):
        lstm.set_parameters({"weight_ih_l0": value}, allow_nonfinite=1)


def test_values_too_large_for_float32_are_refused_as_that():
    lstm, value = make(3, 4, dtype="float32"), np.ones(16)
    value[[3, 4]] = -1e39
    what = r"^bias_l0: 2 of 16 values are too large for float32, the first at index \(3,\) \(-1e\+39\);.*float64"
    with pytest.raises(ValueError, match=what):
        lstm.set_parameters({"bias_l0": value})
    make(3, 4, dtype="float64").set_parameters({"bias_l0": value})
    lstm.set_parameters({"bias_l0": value}, allow_nonfinite=True)  # and no warning, which would be an error here
    assert lstm.parameters()["bias_l0"][3] == -np.inf


CLONES = {"copy": LSTM.copy, "copy.copy": copy.copy, "deepcopy": copy.deepcopy, "astype": lambda a: a.astype(a.dtype),
          "pickle": lambda a: pickle.loads(pickle.dumps(a))}  # fmt: skip


@pytest.mark.parametrize("clone", CLONES.values(), ids=CLONES.keys())
@dtypes
def test_a_copy_is_equal_and_independent(dtype, clone):
    lstm = make(3, 4, 2, bidirectional=True, dropout=0.25, dtype=dtype)
    other = clone(lstm)
    x, state, dy, dstate = inputs(lstm, 3, 5)
    assert type(other) is LSTM and other.config() == lstm.config() and repr(other) == repr(lstm)
    assert_equal(other.parameters(), lstm.parameters())
    assert_equal(everything(other, x, state, dy, dstate, rng=1), everything(lstm, x, state, dy, dstate, rng=1))
    for p in other.parameters().values():
        assert not p.flags.writeable and not p.base.flags.writeable
    before = lstm.parameters()
    other.set_parameters({"bias_l0": np.zeros(16)})
    assert_equal(lstm.parameters(), before)


def test_astype_converts_there_and_rounds_back():
    lstm = make(3, 4)
    single = lstm.astype("float32")
    assert single.dtype == np.float32 and lstm.dtype == np.float64
    for name, p in single.parameters().items():
        np.testing.assert_array_equal(p, lstm.parameters()[name].astype(np.float32))
    assert single.astype("float64").dtype == np.float64


def test_repr_is_the_constructor():
    lstm = LSTM(3, 4, 2, bidirectional=True, dropout=0.5, bias=False, dtype="float64")
    again = eval(repr(lstm), {"LSTM": LSTM})
    assert again.config() == lstm.config()


def test_summary_lists_every_parameter_and_the_total():
    lstm = LSTM(30, 40, 2)
    text = lstm.summary()
    assert f"{lstm.size:,}" in text.splitlines()[0]
    for name, p in lstm.parameters().items():
        assert any(name in line and str(p.shape) in line and f"{p.size:,}" in line for line in text.splitlines())


# Initial values


def test_one_random_state_gives_the_same_bits():
    one, two = (LSTM(3, 8, 2, bidirectional=True, random_state=5) for _ in range(2))
    assert_equal(one.parameters(), two.parameters())
    wanted = LSTM(3, 8, random_state=5).parameters()
    for state in (np.int64(5), np.random.SeedSequence(5), np.random.default_rng(5)):
        assert_equal(LSTM(3, 8, random_state=state).parameters(), wanted)
    other = LSTM(3, 8, 2, bidirectional=True, random_state=6).parameters()
    assert (other["weight_ih_l0"] != one.parameters()["weight_ih_l0"]).all()
    assert (LSTM(3, 8).parameters()["weight_ih_l0"] != LSTM(3, 8).parameters()["weight_ih_l0"]).all()


def test_float32_and_float64_models_of_one_seed_start_from_the_same_numbers():
    single, double = (LSTM(3, 8, random_state=5, dtype=dtype).parameters() for dtype in DTYPES)
    for name, p in double.items():
        np.testing.assert_array_equal(single[name], p.astype(np.float32))


@pytest.mark.parametrize("hidden", [1, 2, 8, 33])
def test_recurrent_weights_are_orthogonal_gate_by_gate(hidden):
    lstm = LSTM(5, hidden, 2, bidirectional=True, dtype="float64", random_state=0)
    gates = [g for k in range(4) for g in np.split(lstm._weights(*divmod(k, 2)).arrays["weight_hh"], 4)]
    for gate in gates:
        np.testing.assert_allclose(gate @ gate.T, np.eye(hidden), rtol=0, atol=1e-13)
    if hidden > 1:
        assert all((a != b).any() for a, b in itertools.combinations(gates, 2))


@pytest.mark.parametrize(("size", "hidden"), [(1, 64), (100, 64), (300, 16)])
def test_input_weights_are_glorot_gate_by_gate(size, hidden):
    weight = LSTM(size, hidden, dtype="float64", random_state=0).parameters()["weight_ih_l0"]
    bound = np.sqrt(6 / (size + hidden))
    assert np.abs(weight).max() <= bound
    for gate in np.split(weight, 4):
        assert np.abs(gate).max() > 0.9 * bound and abs(gate.mean()) < 0.25 * bound


def test_bias_is_one_for_the_forget_gate_and_zero_elsewhere():
    for layer, direction in itertools.product(range(2), range(2)):
        bias = LSTM(3, 8, 2, bidirectional=True)._weights(layer, direction).arrays["bias"]
        np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], 8))


# Memory


def peak(function):
    """Bytes that a call allocates at its peak, as tracemalloc sees them."""
    function()  # imports and caches
    spare, allocate.spare = allocate.spare, allocate.Spare(0, 0, 0)  # nothing is kept for the next call
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        function()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
        allocate.spare = spare


# What memory() says must cover the peak, with 2 % and 24 kB for small objects of Python, and be at most twice as much.
# The NumPy engine pads and copies: it may take three times what the compiled ones do.
SMALL = 24_000
OVER, UNDER = (3.0 if ENGINE == "reference" else 1.02), 0.5


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("sizes", "bidirectional", "dropout", "N", "T"),
    [((8, 32), False, 0.0, 16, 60), ((8, 32), True, 0.0, 16, 60), ((8, 32, 3), False, 0.0, 16, 60),
     ((8, 32, 3), True, 0.0, 16, 60), ((8, 32, 3), True, 0.5, 16, 60), ((64, 8, 2), False, 0.0, 8, 200),
     ((200, 8), False, 0.0, 8, 100), ((8, 128, 2), False, 0.0, 1, 300), ((3, 200), False, 0.0, 64, 2),
     ((8, 64), False, 0.0, 512, 1), ((1, 8), False, 0.0, 2, 4000)],
    ids=str,
)  # fmt: skip
@dtypes
def test_memory_says_what_a_call_takes(dtype, sizes, bidirectional, dropout, N, T, training):
    lstm = make(*sizes, bidirectional=bidirectional, dropout=dropout, dtype=dtype)
    x, state, dy, dstate = inputs(lstm, N, T)
    check_memory(lstm, x, state, dy, dstate, training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("sizes", [(8, 32), (8, 32, 3), (64, 8, 2)], ids=str)
@pytest.mark.parametrize("directions", ["reverse", *MERGES])
@dtypes
def test_memory_says_what_other_directions_take(dtype, directions, sizes, training):
    options = {"reverse": True} if directions == "reverse" else {"bidirectional": True, "merge": directions}
    lstm = make(*sizes, dtype=dtype, **options)
    check_memory(lstm, *inputs(lstm, 16, 60), training)


def check_memory(lstm, x, state, dy, dstate, training):
    found = peak(lambda: everything(lstm, x, state, dy, dstate) if training else lstm(x, state))
    said = lstm.memory(*x.shape[:2], training=training)
    assert UNDER * said - SMALL <= found <= OVER * said + SMALL, f"said {said:,}, took {found:,}"
