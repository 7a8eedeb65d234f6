"""The state of layers: a sequence in chunks gives, bit for bit, what it gives whole; and what a state must be.

Only a product of the tile engine has the same bits in any batch; the other engines are near.
"""

import numpy as np
import pytest
from tolerances import ENGINES

from lstmx import LSTM, RNN, Activation, Cell, Dense, Dropout, Embedding, FinalState, Last, MeanPool, Sequential
from lstmx.functional.context import SequenceContext
from lstmx.functional.engine import NAME
from lstmx.functional.states import leaves, nested, structure
from lstmx.layers import Run
from lstmx.layers.base import snapshots

FEATURES = 5
LENGTHS = np.array([7, 0, 3, 9, 1, 9])
# Chunks of the same sequences: steps (chunk, sequence).
CUTS = {
    "steps": (np.arange(9)[:, None] < LENGTHS).astype(int),
    "two": np.stack([LENGTHS // 2, LENGTHS - LENGTHS // 2]),
    "any": np.array([[0, 0, 2, 4, 0, 9], [5, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0], [2, 0, 1, 4, 0, 0]]),
    "an empty one first": np.stack([0 * LENGTHS, LENGTHS]),
}
cuts = pytest.mark.parametrize("cut", CUTS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])

LAYERS = {
    "LSTM": lambda: LSTM(FEATURES, 18, 2, dropout=0.5, random_state=0),
    "Dense": lambda: Dense(FEATURES, 3, "softmax", random_state=0),
    "Dropout": lambda: Dropout(0.5),
    "Last": Last,
    "FinalState": FinalState,
    "MeanPool": MeanPool,
}
HEADS = {"steps": [], "last": [Last], "final": [FinalState], "mean": [MeanPool]}


def array_context(x, lengths):
    """The context of a batch (N, T, F)."""
    return SequenceContext(np.full(len(x), x.shape[1]) if lengths is None else np.asarray(lengths), x.shape[1])


def unsorted(array, context):
    """Rows in the caller's order of rows in that of a context."""
    return array if context.order is None else array[np.argsort(context.order)]


def same(found, wanted, dtype):
    if NAME == "tile":
        np.testing.assert_array_equal(found, wanted)
    else:
        np.testing.assert_allclose(found, wanted, **ENGINES[dtype])


def reordered(state, change):
    """A state with the sequences, at the second axis from the end, in another order."""
    if state is None or isinstance(state, tuple):
        return state and tuple(reordered(part, change) for part in state)
    return change(state.swapaxes(0, -2)).swapaxes(0, -2)


def through(layer, x, lengths, cut):
    """(outputs as an array or the pooled one, the state in the caller's order) after the last of the chunks."""
    state, outputs, done = None, [[] for _ in lengths], np.zeros_like(lengths)
    for steps in cut:
        longest = steps.max(initial=0)
        chunk = np.zeros((len(x), longest, *x.shape[2:]), x.dtype)
        for n, count in enumerate(steps):
            chunk[n, :count] = x[n, done[n] : done[n] + count]
        done = done + steps
        context = array_context(chunk, steps)
        before = _ordered(layer, state, lambda s, c=context: reordered(s, c.sort))
        y, after, new, _ = layer.forward_rows(context.pack(chunk), context, before, Run())
        state = _ordered(layer, new, lambda s, c=context: reordered(s, lambda a: unsorted(a, c)))
        given = after.unpack(y)
        if isinstance(after, SequenceContext):
            for n, count in enumerate(steps):
                outputs[n].append(given[n, :count])
    np.testing.assert_array_equal(done, lengths)
    pooled = not isinstance(after, SequenceContext)
    return (given if pooled else np.concatenate([part for parts in outputs for part in parts])), state


def _ordered(layer, state, change):
    if isinstance(layer, Sequential):
        return state and tuple(change(s) for s in state)
    return change(state)


def check(layer, x, cut, dtype):
    whole, final = through(layer, x, LENGTHS, [LENGTHS])
    found, state = through(layer, x, LENGTHS, CUTS[cut])
    assert whole.dtype == dtype
    same(found, whole, dtype)

    def compare(one, other):
        assert type(one) is type(other)
        if isinstance(one, tuple):
            for a, b in zip(one, other, strict=True):
                compare(a, b)
        elif one is not None:
            same(one, other, dtype)

    compare(state, final)


def data(dtype):
    return np.random.default_rng(0).normal(size=(len(LENGTHS), 9, FEATURES)).astype(dtype)


@cuts
@pytest.mark.parametrize("layer", LAYERS)
@dtypes
def test_a_layer_in_chunks(dtype, layer, cut):
    check(LAYERS[layer]().astype(dtype), data(dtype), cut, dtype)


@cuts
@dtypes
def test_an_embedding_in_chunks(dtype, cut):
    tokens = np.random.default_rng(0).integers(7, size=(len(LENGTHS), 9))
    check(Embedding(7, 4, random_state=0).astype(dtype), tokens, cut, dtype)


def model(head, dtype):
    layers = [Dropout(0.5), LSTM(FEATURES, 18, 2), *(pool() for pool in HEADS[head]), Dense(18, 4, "softmax")]
    return Sequential(layers, random_state=0).astype(dtype)


@cuts
@pytest.mark.parametrize("head", HEADS)
@dtypes
def test_a_model_in_chunks(dtype, head, cut):
    check(model(head, dtype), data(dtype), cut, dtype)


@pytest.mark.parametrize("head", HEADS)
@dtypes
def test_steps_go_on_from_a_chunk(dtype, head):
    """The state of `step` is that of the one method."""
    one, x = model(head, dtype), data(dtype)
    context = array_context(x[:, :4], None)
    state = one.forward_rows(context.pack(x[:, :4]), context, None, Run())[2]
    for t in range(4, 9):
        y_t, state = one.step(x[:, t], state)
        wanted = one.predict(x[:, : t + 1])
        same(y_t, wanted if HEADS[head] else wanted[:, -1], dtype)


@pytest.mark.parametrize("head", HEADS)
def test_neither_the_state_that_is_given_nor_an_output_is_part_of_the_next_state(head):
    one, x = model(head, "float32"), data("float32")
    _, state = one.step(x[:, 0])
    before = [np.array(a) for part in state if part is not None for a in part]
    y, after = one.step(x[:, 1], state)
    kept = [np.array(a) for part in after if part is not None for a in part]
    y[:] = 7
    assert [a.tolist() for part in after if part is not None for a in part] == [a.tolist() for a in kept]
    assert [a.tolist() for part in state if part is not None for a in part] == [a.tolist() for a in before]


@pytest.mark.parametrize(
    ("head", "place", "wrong", "error"),
    [("final", 2, np.zeros((6, 17)), ValueError), ("final", 2, np.zeros((5, 18)), ValueError),
     ("mean", 2, (np.zeros((6, 1)), np.ones((6, 1), int)), ValueError), ("mean", 2, 3, TypeError),
     ("last", 1, np.zeros((2, 6, 18))[:, :, :, None], TypeError),
     ("last", 1, (np.zeros((2, 5, 18)), np.zeros((2, 5, 18))), ValueError)],
)  # fmt: skip
def test_a_wrong_state_is_refused(head, place, wrong, error):
    one, x = model(head, "float32"), data("float32")
    _, state = one.step(x[:, 0])
    state = [*state[:place], wrong, *state[place + 1 :]]
    with pytest.raises(error, match=r"^state"):
        one.step(x[:, 1], state)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("key", [5, None])
def test_a_tape_and_dropout_are_asked_for_apart(keep, key):
    lstm, x = LSTM(FEATURES, 8, 2, dropout=0.5, random_state=0), data("float32")
    context = array_context(x, LENGTHS)
    y, _, _, tape = lstm.forward_rows(context.pack(x), context, None, Run(keep, key))
    assert (tape is not None) == keep
    assert (context.unpack(y) == lstm(x, lengths=LENGTHS)[0]).all() == (key is None)


def test_a_call_computes_with_the_parameters_that_it_is_given():
    one, x = model("last", "float32"), data("float32")
    context, run = array_context(x, None), Run(parameters=snapshots(one.layers))
    wanted = one.predict(x)
    one.set_parameters({name: p + 1 for name, p in one.parameters().items()})
    assert (one.predict(x) != wanted).any()
    np.testing.assert_array_equal(one.forward_rows(context.pack(x), context, None, run)[0], wanted)


STARTS = LAYERS | {
    "projection": lambda: LSTM(FEATURES, 18, 2, proj_size=7, random_state=0),
    "both directions": lambda: LSTM(FEATURES, 18, 2, bidirectional=True, random_state=0),
    "sLSTM": lambda: LSTM(FEATURES, 18, cell=Cell(slstm=True), random_state=0),
    "learned": lambda: learned(),
    "RNN": lambda: RNN(FEATURES, 18, 2, random_state=0),
    "Activation": lambda: Activation("elu"),
    "mean": lambda: Sequential([learned(), MeanPool(), Dense(18, 2)], random_state=0),
    "last": lambda: Sequential([Dropout(0.5), RNN(FEATURES, 18), Dense(18, 4), Last()], random_state=0),
}


def learned():
    lstm = LSTM(FEATURES, 18, 2, cell=Cell(learn_state=True), random_state=0)
    rng = np.random.default_rng(3)
    lstm.set_parameters({n: rng.normal(size=p.shape) for n, p in lstm.parameters().items() if "initial" in n})
    return lstm


@pytest.mark.parametrize("lengths", [LENGTHS, None, np.zeros(6, int)], ids=["ragged", "whole", "no steps"])
@pytest.mark.parametrize("layer", STARTS)
@dtypes
def test_the_state_to_begin_with_gives_the_bits_of_none(dtype, layer, lengths):
    one, x = STARTS[layer]().astype(dtype), data(dtype)
    context = array_context(x, lengths)
    start = one.start_state(len(x), FEATURES, dtype=np.dtype(dtype))
    (y, _, state, _), (wanted, _, final, _) = (
        one.forward_rows(context.pack(x), context, before, Run()) for before in (start, None)
    )
    assert y.tobytes() == wanted.tobytes()
    assert structure(start) == structure(state) == structure(final)
    for a, b in zip(leaves(state), leaves(final), strict=True):
        assert a.dtype == b.dtype and a.tobytes() == b.tobytes() and a.shape[-2] == len(x)


def test_what_is_learned_is_that_of_the_parameters_that_are_given():
    one = STARTS["mean"]()
    before, run = one.start_state(3), snapshots(one.layers)
    one.set_parameters({n: p + 1 for n, p in one.parameters().items()})
    for a, b in zip(leaves(before), leaves(one.start_state(3, parameters=run)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.start_state(3)[0][0] != before[0][0]).all()
    alone, after = one.layers[0].start_state(3, FEATURES), one.start_state(3)[0]
    np.testing.assert_array_equal(alone, after)


def test_states_as_arrays_and_back():
    state = (None, (np.zeros((2, 3, 4)), np.ones((3, 1), np.int64)), np.ones((3, 5), "f4"))
    arrays = leaves(state)
    assert [a.shape for a in arrays] == [(2, 3, 4), (3, 1), (3, 5)] and leaves(None) == []
    again = nested(state, arrays)
    assert again[0] is None and again[1][1] is state[1][1] and again[2] is state[2]
    form = structure(state)
    assert form == [None, [{"dtype": "float64", "shape": [2, 4]}, {"dtype": "int64", "shape": [1]}],
                    {"dtype": "float32", "shape": [5]}]  # fmt: skip
    assert structure(nested(form, arrays)) == form and nested(None, []) is None
