"""What a layer does around the engines for `lstmx.Cell`: an initial state that is learned, and dropped weights."""

import numpy as np
import pytest
from lstm_cases import KINDS, assert_close, assert_equal, assert_same, everything, inputs, kinds, make
from numpy.testing import assert_allclose, assert_array_equal
from tolerances import ENGINES, FINITE_DIFFERENCE, PEER, SIGMAS

import lstmx
from lstmx import LSTM, Cell, Dense, Last, MeanPool, Sequential, inspect
from lstmx._core import job
from lstmx.functional.engine import NAME
from lstmx.testing import gradcheck

LEARNED, MASKED = Cell(learn_state=True), Cell(weight_dropout=0.4)
LENGTHS = [5, 0, 2, 5]


def given_state(lstm, N):
    """The learned state as a caller would give it for N sequences."""
    found = lstm.parameters()
    ends = [f"_l{layer}{end}" for layer in range(lstm.num_layers) for end in ("", "_reverse")[: lstm.directions]]
    return tuple(
        np.repeat(np.array([found[name + end] for end in ends])[:, None], N, axis=1)
        for name in ("initial_h", "initial_c")
    )


def assert_same_row(found, wanted):
    """The same bits whatever the batch, as the tile engine promises, others nearly."""
    if NAME == "tile":
        assert_array_equal(found, wanted)
    else:
        assert_allclose(found, wanted, **ENGINES[wanted.dtype.name])


# The learned state


@kinds
def test_there_is_one_state_for_each_layer_and_direction(num_layers, bidirectional):
    lstm = LSTM(3, 6, num_layers, bidirectional=bidirectional, cell=LEARNED, random_state=0)
    plain = LSTM(3, 6, num_layers, bidirectional=bidirectional, random_state=0)
    added = {name: p for name, p in lstm.parameters().items() if name not in plain.parameters()}
    assert len(added) == 2 * num_layers * lstm.directions and not any(p.any() for p in added.values())
    assert {p.shape for p in added.values()} == {(6,)}
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    assert_same(lstm(x)[0], plain(x)[0])  # as they begin at 0


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=str)
@kinds
def test_it_stands_in_wherever_no_state_is_given(num_layers, bidirectional, lengths):
    lstm = make(3, 5, num_layers, bidirectional=bidirectional, cell=LEARNED, dtype="float32")
    x, _, dy, dstate = inputs(lstm, 4, 5)
    state = given_state(lstm, 4)
    found, wanted = (everything(lstm, x, s, dy, dstate, lengths=lengths) for s in (None, state))
    learned = {name for name in wanted if name.startswith("dinitial")}
    assert_equal({n: v for n, v in found.items() if n not in learned}, {n: wanted[n] for n in wanted.keys() - learned})
    for n, v in wanted.items():  # given a state, there is nothing to learn
        assert n not in learned or not v.any()
    y, last = lstm(x, lengths=lengths)
    for ours, given in zip((y, *last), (found["y"], found["h_n"], found["c_n"]), strict=True):
        assert_same(ours, given)
    for name in ("h", "c"):
        ours, given = (getattr(lstm.trace(x, s, lengths=lengths), name) for s in (None, state))
        for place in ours.keys():  # noqa: SIM118 - no dict
            assert_same(ours[place], given[place])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_calls_on_plain_arrays_and_all_others_begin_at_it(dtype):
    lstm = make(3, 5, 2, cell=LEARNED, dtype=dtype)
    x, *_ = inputs(lstm, 4, 6)
    state = given_state(lstm, 4)
    y, last = lstm(x, state)
    assert np.abs(y - lstm(x, tuple(map(np.zeros_like, state)))[0]).max() > 0.1
    for found in (lstm(x)[0], lstm(np.asfortranarray(x))[0], lstm(list(x)), lstm.stream(x)[0]):
        for ours, wanted in zip(found[0] if isinstance(found, tuple) else found, y, strict=True):
            assert_same_row(ours, wanted)
    single, (h, c) = lstm(x[1])
    assert_same_row(single, y[1])
    assert h.shape == c.shape == (2, 5)
    out = np.empty_like(y), tuple(np.empty_like(s) for s in last)
    assert lstm.stream(x, out=out)[0] is out[0]
    assert_same_row(out[0], y)
    for batch in (x, x[1]):
        for strange in (False, True):  # `step` of what is no plain array
            states = None
            for t in range(6):
                x_t = batch[..., t, :]
                y_t, states = lstm.step(x_t.tolist() if strange else x_t, states)
            assert_same_row(y_t, y[:, -1] if batch is x else y[1, -1])
    assert lstm(x[:0])[0].shape == (0, 6, 5) and lstm(x[:, :0])[0].shape == (4, 0, 5)
    for found, wanted in zip(lstm(x[:, :0])[1], state, strict=True):
        assert_array_equal(found, wanted)


def test_wrong_inputs_are_still_explained():
    lstm = make(3, 5, cell=LEARNED)
    for x in (np.zeros((2, 4, 2)), np.zeros(3), np.zeros((1, 1, 1, 3)), np.float64(1)):
        with pytest.raises(ValueError, match=r"^x: got shape"):
            lstm(x)
        with pytest.raises(ValueError, match=r"^x_t: got shape"):
            lstm.step(np.zeros((2, 2, 3)))


def test_set_parameters_moves_the_beginning():
    lstm = make(3, 5, cell=LEARNED)
    x, *_ = inputs(lstm, 2, 4)
    before = lstm(x)[0]
    lstm.set_parameters({"initial_c_l0": np.full(5, 2.0)})
    assert np.abs(lstm(x)[0] - before).max() > 0.1
    assert_same(lstm(x)[0], lstm(x, given_state(lstm, 2))[0])


@pytest.mark.parametrize("lengths", [None, [3, 0, 4]], ids=str)
@kinds
def test_its_gradient_equals_finite_differences(num_layers, bidirectional, lengths):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional, cell=Cell(learn_state=True, cell_clip=0.9))
    x, state, dy, dstate = inputs(lstm, 3, 4)
    gradcheck(lstm, x, lengths=lengths, **FINITE_DIFFERENCE)
    gradcheck(lstm, x, state, lengths=lengths, **FINITE_DIFFERENCE)
    found = everything(lstm, x, None, dy, dstate, lengths=lengths)
    for part in "hc":  # the sum over the batch, of which every row has its part
        total = np.stack([found[f"dinitial_{part}{end}"] for end in _ends(lstm)])
        assert_allclose(total, found[f"d{part}0"].sum(axis=1), **PEER["float64"])
        assert np.median(np.abs(total)) > 1e-2


def _ends(lstm):
    return [name.removeprefix("initial_h") for name in lstm.parameters() if name.startswith("initial_h")]


@pytest.mark.parametrize("bidirectional", [False, True])
def test_every_episode_without_a_given_state_begins_at_it_and_has_its_share_of_the_gradient(bidirectional):
    lstm = make(3, 5, 2, bidirectional=bidirectional, cell=LEARNED)
    x, state, _, _ = inputs(lstm, 3, 6)
    reset = np.zeros((3, 6), bool)
    reset[0, 3] = reset[1, 0] = reset[1, 4] = True
    for begin in (None, state):
        gradcheck(lstm, x, begin, reset=reset)
    y, _ = lstm(x, reset=reset)
    assert_same_row(y[0, 3:], lstm(x[0, 3:])[0])


@pytest.mark.parametrize("pooling", [Last, MeanPool])
def test_a_model_learns_it(pooling):
    """The answer does not depend on x, whose influence is cut off: only the beginning can tell it."""
    model = Sequential(
        [LSTM(2, 4, cell=LEARNED, dtype="float64"), pooling(), Dense(4, 2, dtype="float64")], random_state=0
    )
    names = ("0.initial_h_l0", "0.initial_c_l0")
    assert not any(model.parameters()[name].any() for name in names)
    x = np.random.default_rng(0).normal(size=(8, 3, 2))
    gradcheck(model, x, **FINITE_DIFFERENCE)
    model.fit(x, np.ones((8, 2)), epochs=3, verbose=0, optimizer=lstmx.AdamW(0.01, weight_decay=10.0))
    learned = {name: model.parameters()[name] for name in names}
    assert all(np.abs(p).min() > 0.005 for p in learned.values())  # nothing pulls a state to 0
    gradcheck(model, x, **FINITE_DIFFERENCE)
    wanted, state = model.predict(x), None
    for t in range(3):
        y_t, state = model.step(x[:, t], state)
    assert_same_row(y_t, wanted)
    assert_same_row(model.predict(list(x)), wanted)
    found = model.layers[0]
    assert_same(model.trace(x)[0].h[0, 0], found(x, given_state(found, 8))[0])


def test_gradient_flow_and_files_know_of_it(tmp_path):
    lstm = make(3, 5, 2, bidirectional=True, cell=LEARNED)
    x, _, dy, _ = inputs(lstm, 2, 4)
    zero = make(3, 5, 2, bidirectional=True, cell=Cell())
    zero.set_parameters({n: p for n, p in lstm.parameters().items() if n in zero.parameters()})
    flows = [inspect.gradient_flow(model, x, dy).dc[0, 0] for model in (lstm, zero)]
    assert np.abs(flows[0] - flows[1]).max() > 1e-3
    lstm.save(tmp_path / "model")
    for again in (lstmx.load(tmp_path / "model"), lstm.copy(), lstm.astype("float32").astype("float64")):
        assert again.cell == LEARNED
        assert_close({"y": again(x)[0]}, {"y": lstm(x)[0]}, **PEER["float32"])


# Dropped weights


@kinds
def test_weights_are_dropped_in_training_alone(num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional, cell=MASKED)
    x, state, dy, dstate = inputs(lstm, 3, 5)
    plain = LSTM.from_state(lstm.config() | {"cell": {}}, lstm.parameters())
    assert_same(lstm(x, state)[0], plain(x, state)[0])
    assert_same(lstm.trace(x, state).h[0, 0], plain.trace(x, state).h[0, 0])
    found = everything(lstm, x, state, dy, dstate, rng=1)
    assert np.abs(found["y"] - plain(x, state)[0]).max() > 0.05
    assert_equal(found, everything(lstm, x, state, dy, dstate, rng=1))
    assert np.abs(found["y"] - lstm.forward(x, state, rng=2)[0]).max() > 0.01
    assert np.abs(lstm.forward(x, state)[0] - lstm.forward(x, state)[0]).max() > 0.01  # by its own generator
    # A network of the weights that are left, scaled: their gradient is 0 exactly where the weight was dropped.
    masks = [np.where(found[f"d{name}"] == 0, 0, 1 / 0.6) for name in _recurrent(lstm)]
    assert len({mask.tobytes() for mask in masks}) == len(masks)
    plain.set_parameters({n: lstm.parameters()[n] * mask for n, mask in zip(_recurrent(lstm), masks, strict=True)})
    wanted = everything(plain, x, state, dy, dstate)
    for n, mask in zip(_recurrent(lstm), masks, strict=True):
        wanted[f"d{n}"] = wanted[f"d{n}"] * mask
    assert_close(found, wanted, **PEER["float64"])


def _recurrent(lstm):
    return [name for name in lstm.parameters() if name.startswith("weight_hh")]


def test_the_share_of_dropped_weights_is_the_rate():
    lstm = make(3, 64, cell=MASKED)
    x, state, dy, dstate = inputs(lstm, 2, 3)
    dropped = everything(lstm, x, state, dy, dstate, rng=0)["dweight_hh_l0"] == 0
    n = dropped.size
    assert abs(dropped.mean() - 0.4) < SIGMAS * np.sqrt(0.4 * 0.6 / n)
    for axis in (0, 1):  # no row and no column is favoured
        shares = dropped.mean(axis=axis)
        assert np.abs(shares - 0.4).max() < SIGMAS * np.sqrt(0.4 * 0.6 / dropped.shape[axis])


@pytest.mark.parametrize(("num_layers", "bidirectional"), KINDS)
def test_gradients_with_dropped_weights_equal_finite_differences(num_layers, bidirectional):
    cell = Cell(weight_dropout=0.5, learn_state=True, clip=3.0)
    lstm = make(2, 3, num_layers, bidirectional=bidirectional, cell=cell, dropout=0.3 if num_layers > 1 else 0.0)
    x, state, *_ = inputs(lstm, 3, 4)
    gradcheck(lstm, x, state, lengths=[4, 0, 2], **FINITE_DIFFERENCE)
    model = Sequential([lstm, Last(), Dense(lstm.output_size(), 1, dtype="float64")], random_state=0)
    gradcheck(model, x, **FINITE_DIFFERENCE)


def test_threads_do_not_change_what_is_dropped_or_learned():
    lstm = make(20, 70, bidirectional=True, cell=Cell(weight_dropout=0.3, learn_state=True), dtype="float32")
    x, _, dy, dstate = inputs(lstm, 9, 12)
    with lstmx.num_threads(1):
        wanted = everything(lstm, x, None, dy, dstate, rng=0)
    before = job.set_limits(0, 0, 1)
    try:
        with lstmx.num_threads(3):
            found = everything(lstm, x, None, dy, dstate, rng=0)
    finally:
        job.set_limits(*before)
    assert_equal(found, wanted)


def test_a_fit_draws_anew_for_every_batch_and_is_repeatable():
    x = np.random.default_rng(0).normal(size=(12, 4, 2))

    def fitted(cell):
        model = Sequential([LSTM(2, 6, 2, cell=cell), Last(), Dense(6, 1)], random_state=0)
        history = model.fit(x, x[:, 0, 0], epochs=3, batch_size=4, verbose=0, random_state=1)
        return model.parameters(), history.history["loss"]

    (first, losses), (second, again), (_, plain) = (fitted(cell) for cell in (MASKED, MASKED, Cell()))
    assert_equal(first, second)
    assert losses == again and losses != plain


@pytest.mark.parametrize("training", [False, True])
def test_memory_counts_the_copies(training):
    lstm, plain = (LSTM(8, 64, cell=cell) for cell in (MASKED, Cell()))
    more = lstm.memory(4, 5, training) - plain.memory(4, 5, training)
    assert more >= lstm.parameters()["weight_hh_l0"].nbytes if training else more == 0
