"""The state of layers: a sequence in chunks gives, bit for bit, what it gives whole; and what a state must be.

Only a product of the tile engine has the same bits in any batch; the other engines are near.
"""

import numpy as np
import pytest
from tolerances import ENGINES

from lstmx import LSTM, Dense, Dropout, Embedding, FinalState, Last, MeanPool, Sequential
from lstmx.functional.context import SequenceContext
from lstmx.functional.engine import NAME
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
