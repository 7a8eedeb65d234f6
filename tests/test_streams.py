"""StreamPool: the bits of whole calls whatever is pushed with whom, errors that change nothing, snapshots, threads."""

import copy
import gc
import itertools
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lstm_cases import assert_same as same_floats

import lstmx
from lstmx import (
    LSTM,
    RNN,
    Activation,
    Cell,
    Dense,
    Dropout,
    Embedding,
    Last,
    Masking,
    MeanPool,
    Reversed,
    Sequential,
    StreamPool,
    storage,
    streams,
)
from lstmx.functional import allocate
from lstmx.functional.engine import NAME
from lstmx.functional.states import leaves
from lstmx.layers import Layer
from lstmx.layers.compiled import CompiledLayers

LIMIT = 20  # seconds until a run counts as hanging
CHILD = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(lstmx.__file__))}  # imports what is tested here


quiet = pytest.mark.filterwarnings("ignore:(invalid|overflow):RuntimeWarning")  # of the reference engine


def chain(*layers):
    return lambda: Sequential([layer() for layer in layers], random_state=0)


def lstm(*sizes, **options):
    return lambda: LSTM(*sizes, random_state=0, **options)


MODELS = {
    "LSTM": lstm(3, 8),
    "two layers": lstm(3, 9, 2, dropout=0.5),
    "projection": lstm(3, 8, 2, proj_size=5),
    "peephole": lstm(3, 8, cell=Cell(peephole=True)),
    "layer norm": lstm(3, 8, cell=Cell(layer_norm="haste")),
    "sLSTM": lstm(3, 8, cell=Cell(slstm=True)),
    "learned state": lstm(3, 8, cell=Cell(learn_state=True)),
    "float64": lstm(3, 8, dtype="float64"),
    "RNN": lambda: RNN(3, 8, 2, random_state=0),
    "dense": chain(lambda: Dropout(0.5), lstm(3, 8), lambda: Dense(8, 2, "softmax")),
    "last": chain(lstm(3, 8), Last, lambda: Dense(8, 2)),
    "mean": chain(lstm(3, 8), MeanPool, lambda: Dense(8, 2), lambda: Activation("elu")),
    "mean 64": lambda: chain(lstm(3, 8), MeanPool, lambda: Dense(8, 2))().astype("float64"),
    "embedding": chain(lambda: Embedding(9, 3), lstm(3, 8), lambda: Dense(8, 2)),
    "no state": chain(lambda: Dense(3, 2, "tanh")),
    "masking": chain(Masking, lstm(3, 8), lambda: Dense(8, 2)),
}


def make(name):
    """A model whose parameters, what is learned of the initial state too, are all far from 0."""
    model = MODELS[name]()
    rng = np.random.default_rng(1)
    model.set_parameters({key: rng.uniform(-0.8, 0.8, p.shape) for key, p in model.parameters().items()})
    return model


models = pytest.mark.parametrize("name", MODELS)


def draw(name, *shape, seed=2):
    rng = np.random.default_rng(seed)
    if name == "embedding":
        return rng.integers(9, size=shape)
    return rng.normal(size=(*shape, 3)).astype(make(name).dtype)


def whole(model, x):
    """What a call on whole sequences x (N, T, ..) gives."""
    return model.predict(x) if isinstance(model, Sequential) else model(x)[0]


def assert_same(found, wanted):
    """As that of lstm_cases, for counts too."""
    (np.testing.assert_array_equal if wanted.dtype.kind == "i" else same_floats)(found, wanted)


def per_step(model):
    return getattr(model, "per_step", True)


def everything(pool):
    """All that a pool knows, as bytes."""
    parts = [pool._ids, pool._given, *pool._arrays]
    return [a.tobytes() for a in parts]


def refused(pool, call, error, message, *arrays):
    """The call raises, and neither the pool nor the arrays have changed."""
    before = everything(pool), [a.tobytes() for a in arrays]
    with pytest.raises(error, match=message):
        call()
    assert (everything(pool), [a.tobytes() for a in arrays]) == before


# The bits of whole calls.


@models
def test_random_company_and_chunks_give_the_bits_of_whole_calls(name):
    model, x = make(name), draw(name, 7, 20)
    pool = StreamPool(model, 1)
    largest = [pool.check(x, random_state=seed) for seed in range(3)]
    largest += [pool.check([a[:n] for n, a in zip([3, 0, 20, 1], x, strict=False)]), pool.check(x[0])]
    assert largest == [0.0] * 5 if NAME == "tile" else max(largest) < 1e-3
    assert len(pool) == 0


@pytest.mark.parametrize("name", ["LSTM", "projection", "RNN", "dense", "last", "mean", "embedding"])
@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_program_of_calls(name, data):
    """Opens, closes, resets and pushes of subsets, against the sequences that each session has seen."""
    model, pool = make(name), None
    pool, seen, every = StreamPool(model, 5), {}, set()
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    for _ in range(data.draw(st.integers(1, 12))):
        action = data.draw(st.sampled_from(["open", "close", "reset", "push", "push", "push"]))
        some = data.draw(st.lists(st.sampled_from(sorted(seen)), unique=True)) if seen else []
        if action == "open":
            ids = pool.open(data.draw(st.integers(0, 5 - len(seen))))
            assert not every & set(ids.tolist())
            every |= set(ids.tolist())
            seen |= {k: [] for k in ids.tolist()}
        elif action == "close":
            pool.close(some)
            seen = {k: v for k, v in seen.items() if k not in some}
        elif action == "reset":
            pool.reset(some)
            seen |= {k: [] for k in some}
        else:
            k = data.draw(st.integers(0, 4))
            frames = draw(name, len(some), k, seed=int(rng.integers(2**32)))
            found = pool.push(some, frames)
            for y, key, own in zip(found, some, frames, strict=True):
                seen[key] = [*seen[key], *own]
                if seen[key] or per_step(model):
                    history = np.array(seen[key], frames.dtype).reshape(-1, *frames.shape[2:])
                    wanted = whole(model, history[None])[0]
                    assert_same(y, wanted[len(history) - k :] if per_step(model) else wanted)
        assert sorted(pool.ids.tolist()) == sorted(seen) and len(pool) == len(seen)


@models
def test_forms_of_a_push(name):
    model, x = make(name), draw(name, 3, 9)
    pool, wanted = StreamPool(model, 10), whole(model, x)
    last = {t: whole(model, x[:, :t]) for t in (1, 2, 4)} if not per_step(model) else None

    def check(y, first, end, rows=slice(None), one=False):
        full = last[end][rows] if last else wanted[rows, first] if one else wanted[rows, first:end]
        assert y.shape == full.shape and y.dtype == model.dtype
        assert_same(y, full)

    ids = pool.open(3)
    check(pool.push(ids, x[:, 0]), 0, 1, one=True)
    check(pool.push(ids.tolist(), x[:, 1]), 1, 2, one=True)
    check(pool.push(tuple(ids), x[:, 2:4].tolist()), 2, 4)
    assert pool.push(ids, x[:, :0]).shape == ((3, 0) if per_step(model) else (3,)) + wanted.shape[-1:]
    assert pool.push([], x[:0, 0]).shape == (0, wanted.shape[-1])
    assert pool.push(ids[:0], x[:0, :2]).shape == ((0, 2) if per_step(model) else (0,)) + wanted.shape[-1:]
    single = pool.open()
    assert type(single) is int
    check(pool.push(single, x[1, 0]), 0, 1, 1, one=True)
    check(pool.push(np.int64(single), x[1, 1]), 1, 2, 1, one=True)
    check(pool.push(np.array(single), x[1, 2:4]), 2, 4, 1)


@models
@pytest.mark.parametrize("steps", [None, 3])
def test_outputs_go_to_out(name, steps):
    model, x = make(name), draw(name, 3, 9)
    pool, other = StreamPool(model, 3), StreamPool(model, 3)
    ids, _ = pool.open(3), other.open(3)
    for rows in (ids, 1):
        frames = (x[:, 0] if steps is None else x[:, :steps])[rows if rows is ids else 1]
        wanted = other.push(rows, frames)
        out = np.full_like(wanted, 7)
        assert pool.push(rows, frames, out=out) is out
        assert_same(out, wanted)
    assert everything(pool) == everything(other) or NAME != "tile"


@quiet
@pytest.mark.parametrize("name", ["LSTM", "mean", "RNN"])
def test_other_types_and_layouts_of_frames_are_converted_as_by_step(name):
    model, x = make(name), draw(name, 4, 6)
    pool = StreamPool(model, 100)
    wanted = pool.push(pool.open(4), x)
    wide = np.zeros((4, 6, 6), x.dtype)
    wide[..., ::2] = x
    offset = np.frombuffer(b"." + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape)
    readonly = x.copy()
    readonly.flags.writeable = False
    for other in (x.astype("f8"), x.astype(">f4"), wide[..., ::2], np.asfortranarray(x), offset, readonly, x.tolist()):
        assert_same(pool.push(pool.open(4), other), wanted)
    assert_same(pool.push(pool.open(), np.full(3, 1e300)), pool.push(pool.open(), np.full(3, np.inf)))


def test_parameters_that_are_set_are_those_of_the_next_push():
    model, x = make("mean"), draw("mean", 2, 4)
    pool, state = StreamPool(model, 2), None
    ids = pool.open(2)
    for t in range(4):
        assert_same(pool.push(ids, x[:, t]), (found := model.step(x[:, t], state))[0])
        state = found[1]
        model.set_parameters({key: p * 0.7 for key, p in model.parameters().items()})


def test_a_session_begins_with_what_is_learned_at_that_moment():
    model, x = make("learned state"), draw("learned state", 1, 4)
    pool = StreamPool(model, 2)
    first = pool.open()
    model.set_parameters({"initial_h_l0": np.ones(8)})
    assert_same(pool.push(pool.open(), x[0]), model(x)[0][0])
    pool.reset(first)
    assert_same(pool.push(first, x[0]), model(x)[0][0])


@quiet
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@models
def test_what_is_not_finite_stays_in_its_session_until_it_is_reset(name, bad):
    if name == "embedding":
        pytest.skip("integers")
    model, x = make(name), draw(name, 3, 6)
    pool, clean = StreamPool(model, 3), StreamPool(model, 3)
    ids, same = pool.open(3), clean.open(3)
    spoilt = x.copy()
    spoilt[1, 2] = bad
    found, wanted = pool.push(ids, spoilt), clean.push(same, x)
    assert_same(found[[0, 2]], wanted[[0, 2]])
    assert np.isnan(bad) <= np.isnan(found[1]).any()
    pool.reset(ids[1])
    clean.reset(same[1])
    assert_same(pool.push(ids, x), clean.push(same, x))


# Ids.


def test_ids_are_the_lowest_free_slots_and_never_given_twice():
    for capacity in (6, 100):
        pool = StreamPool(make("LSTM"), capacity)
        assert pool.open(3).tolist() == [0, 1, 2] and pool.open() == 3
        pool.close([1, 0])
        assert pool.open(3).tolist() == [2**32, 2**32 + 1, 4]
        pool.close(2**32)
        assert pool.open() == 2 * 2**32 and pool.ids.tolist() == [2**33, 2**32 + 1, 2, 3, 4]
        assert len(pool) == 5 and pool.capacity == capacity
        assert pool.ids.dtype == np.int64 and pool.open(0).shape == (0,)


def test_membership_is_that_of_open_ids():
    pool = StreamPool(make("LSTM"), 3)
    ids = pool.open(2)
    pool.close(1)
    again = pool.open()
    assert 0 in pool and ids[0] in pool and again in pool and np.uint8(0) in pool
    for other in (1, 2, 3, -1, 2**32, 2**63, -(2**32), 0.0, "0", None, True, False, np.False_, [0]):
        assert other not in pool, other


def test_a_slot_without_ids_left_is_not_used():
    pool = StreamPool(make("LSTM"), 2)
    pool._given[0] = 2**31 - 1
    assert pool.open() == (2**31 - 1) * 2**32 < 2**63
    pool.close(pool.ids)
    assert pool.open() == 1
    refused(pool, pool.open, ValueError, r"^n: got 1, but 0 of 2 sessions are free")


# Errors change nothing.

BAD_IDS = {
    "never given": ([0, 7], KeyError, "ids: 7 is no id of this pool"),
    "beyond the capacity": ([99], KeyError, "ids: 99 is no id of this pool"),
    "negative": ([0, -1], KeyError, "ids: -1 is no id of this pool"),
    "closed": ([0, 3], KeyError, "ids: 3 was closed"),
    "of a later use": ([2**32], KeyError, f"ids: {2**32} is no id of this pool"),
    "large": (np.array([2**64 - 1], np.uint64), KeyError, "ids: -1 is no id"),
    "twice": ([0, 1, 0], ValueError, "^ids: 0 is given twice"),
    "floats": ([0.0, 1.0], TypeError, "^ids: got dtype float64, must be integers"),
    "booleans": ([True, False], TypeError, "^ids: got dtype bool"),
    "strings": ("0", TypeError, "^ids: got dtype <U1"),
    "None": (None, TypeError, "^ids: got dtype object"),
    "two axes": ([[0, 1]], ValueError, r"^ids: got shape \(1, 2\), must be \(n,\)"),
}


@pytest.fixture
def by_layers(monkeypatch):
    """Pushes go through the layers' own methods, as those of a layer that is no part of a program."""
    monkeypatch.setattr(CompiledLayers, "program", None)


@pytest.fixture
def pool():
    """0, 1 and 2 are open and have seen two steps, 3 is closed; there is room for 5."""
    pool = StreamPool(make("mean"), 5)
    pool.open(4)
    pool.push([0, 1, 2, 3], draw("mean", 4, 2))
    pool.close(3)
    return pool


@pytest.mark.parametrize("ids", BAD_IDS)
def test_wrong_ids_are_refused_everywhere(pool, ids):
    ids, error, message = BAD_IDS[ids]
    frames = np.zeros((np.size(ids), 3), "f4")
    for call in (pool.push, pool.close, pool.reset, pool.state, *([] if ids is None else [pool.snapshot])):
        refused(pool, lambda call=call: call(ids, frames) if call == pool.push else call(ids), error, message)


@pytest.mark.parametrize(
    ("ids", "frames", "error", "message"),
    [([0, 1], (3, 3), ValueError, r"^frames: got shape \(3, 3\), must be \(2, 3\), or \(2, k, 3\) for k steps"),
     ([0, 1], (2, 4), ValueError, r"^frames: got shape \(2, 4\)"), ([0, 1], (2,), ValueError, r"^frames: got shape"),
     ([0, 1], (2, 1, 1, 3), ValueError, r"^frames: got shape"), ([0, 1], (2, 3, 2), ValueError, r"^frames: got shape"),
     (0, (1, 1, 3), ValueError, r"^frames: got shape \(1, 1, 3\), must be \(3,\), or \(k, 3\)"),
     (0, (), ValueError, r"^frames: got shape \(\)"), ([], (1, 3), ValueError, r"^frames: got shape \(1, 3\)"),
     (0, "complex", TypeError, "^frames: got dtype complex128"), (0, "text", TypeError, "^frames: got dtype <U"),
     (0, "ragged", ValueError, "^frames: not a rectangular array")],
)  # fmt: skip
def test_wrong_frames_are_refused(pool, ids, frames, error, message):
    odd = {"complex": np.zeros(3, complex), "text": ["a", "b", "c"], "ragged": [[1.0], [1.0, 2.0]]}
    frames = odd[frames] if isinstance(frames, str) else np.zeros(frames)
    refused(pool, lambda: pool.push(ids, frames), error, message)


@pytest.mark.parametrize(
    ("ids", "tokens", "error", "message"),
    [([0, 1], [3, 9], ValueError, "^frames: got the integer 9, must be between 0 and"),
     ([0, 1], [3.0, 1.0], TypeError, "^frames: got dtype float64, must be integers"),
     ([0, 1], [3], ValueError, r"^frames: got shape \(1,\), must be \(2,\) of integers, or \(2, k\) for k steps"),
     (0, [[3]], ValueError, r"^frames: got shape \(1, 1\), must be \(\) of integers, or \(k,\) for k steps")],
)  # fmt: skip
def test_wrong_tokens_are_refused(ids, tokens, error, message):
    pool = StreamPool(make("embedding"), 3)
    pool.push(pool.open(2), [[1, 2], [3, 4]])
    refused(pool, lambda: pool.push(ids, tokens), error, message)


@pytest.mark.parametrize("name", ["masking", "padding"])
def test_masked_steps_are_refused(name):
    model = make("masking") if name == "masking" else chain(
        lambda: Embedding(9, 3, 0, mask_padding=True), lstm(3, 8))()  # fmt: skip
    pool = StreamPool(model, 3)
    pool.open(3)
    frames = np.ones((3, 2, 3), "f4") if name == "masking" else np.ones((3, 2), int)
    pool.push([0, 1, 2], frames)
    frames[1, 1] = 0
    refused(pool, lambda: pool.push([0, 2, 1], frames), ValueError, r"^frames: 1 of 6 are masked steps, .* of ids\[1\]")


def test_an_out_that_does_not_fit_is_refused(pool):
    frames, good = np.zeros((2, 4, 3), "f4"), np.zeros((2, 2), "f4")
    locked = good.copy()
    locked.flags.writeable = False
    for out, error, message in [
        (np.zeros((2, 3), "f4"), ValueError, r"^out: got shape \(2, 3\), must be .*\(2, 2\) of float32"),
        (np.zeros((2, 4, 2), "f4"), ValueError, r"^out: got shape \(2, 4, 2\)"),
        (np.zeros((2, 2)), ValueError, "^out: got type float64"),
        (np.zeros((2, 4), "f4")[:, ::2], ValueError, "^out: got one that is not C-contiguous"),
        (locked, ValueError, "^out: got one that is read-only"),
        ([[0.0, 0.0]] * 2, TypeError, "^out: got list, must be an ndarray"),
        (frames.reshape(-1)[:4].reshape(2, 2), ValueError, "^out: overlaps with what is read"),
    ]:
        refused(pool, lambda out=out: pool.push([0, 1], frames, out=out), error, message, frames)
    refused(pool, lambda: pool.push([0, 9], frames, out=good), KeyError, "ids: 9", good)


def test_a_full_pool_is_refused(pool):
    refused(
        pool, lambda: pool.open(3), ValueError, r"^n: got 3, but 2 of 5 sessions are free; close some, or make a la"
    )
    refused(pool, lambda: pool.open(10**9), ValueError, "^n: got 1000000000, but 2 of 5")
    assert pool.open(2).tolist() == [2**32 + 3, 4]


@pytest.mark.parametrize(
    ("n", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("2", TypeError), ([1], TypeError)]
)
def test_a_wrong_number_of_sessions_is_refused(pool, n, error):
    refused(pool, lambda: pool.open(n), error, "^n: got")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [(lambda s: s[:-1], TypeError, r"^state: got 3 parts, must be a tuple of 4, as step gives it"),
     (lambda s: 5, TypeError, "^state: got int, must be a tuple of 4"),
     (lambda s: ((s[0][0], s[0][1][..., :5]), *s[1:]), ValueError, r"^state\[0\]\[1\]: got shape \(1, 2, 5\), must be"),
     (lambda s: ((s[0][0],), *s[1:]), TypeError, r"^state\[0\]: got 1 parts"),
     (lambda s: (s[0], (s[1][0], s[1][1][:, 0]), *s[2:]), ValueError, r"^state\[1\]\[1\]: got shape \(2,\)"),
     (lambda s: (*s[:2], np.zeros(2), None), TypeError, r"^state\[2\]: got ndarray, must be None"),
     (lambda s: ((s[0][0] * 1j, s[0][1]), *s[1:]), TypeError, r"^state\[0\]\[0\]: got dtype complex")],
)  # fmt: skip
def test_a_wrong_state_is_refused(pool, change, error, message):
    state = pool.state([0, 1])
    refused(pool, lambda: pool.open(2, state=change(state)), error, message)


@pytest.mark.parametrize(
    ("make", "message"),
    [(lambda: LSTM(3, 4, bidirectional=True), "its LSTM reads from the end"),
     (lambda: LSTM(3, 4, reverse=True), "its LSTM reads"), (lambda: RNN(3, 4, bidirectional=True), "its RNN reads"),
     (lambda: Sequential([LSTM(3, 4), Dense(4, 3), LSTM(3, 2, bidirectional=True)]), "its LSTM reads"),
     (lambda: Sequential([Reversed(), LSTM(3, 4)]), "its Reversed reads")],
)  # fmt: skip
def test_a_model_that_reads_from_the_end_is_refused_with_the_remedy(make, message):
    with pytest.raises(ValueError, match=rf"^model: {message}.*lstm\.chunked\(x, chunk, lookahead\)"):
        StreamPool(make(), 3)


def test_other_wrong_arguments_are_named():
    for model in (Dense(3, 4), None, LSTM):
        with pytest.raises(TypeError, match=r"^model: got \w+, must be an LSTM, RNN or Sequential"):
            StreamPool(model, 3)
    for capacity, error in [
        (0, ValueError),
        (-1, ValueError),
        (2.0, TypeError),
        (None, TypeError),
        (2**40, ValueError),
    ]:
        with pytest.raises(error, match=r"^capacity: got"):
            StreamPool(make("LSTM"), capacity)
    with pytest.raises(AttributeError):
        StreamPool(make("LSTM"), 3).capacity = 4
    with pytest.raises(TypeError, match=r"^random_state"):
        StreamPool(make("LSTM"), 3).check(draw("LSTM", 1, 2), random_state="x")
    with pytest.raises(ValueError, match=r"^x: got shape|^X: got shape"):
        StreamPool(make("LSTM"), 3).check(np.zeros((2, 3, 4, 5)))


# State: as that of step.


@models
def test_the_state_of_a_session_is_that_of_step(name):
    model, x = make(name), draw(name, 3, 5)
    pool, state, one = StreamPool(model, 5), None, None
    ids = pool.open(3)
    for t in range(4):
        pool.push(ids, x[:, t])
        _, state = model.step(x[:, t], state)
        _, one = model.step(x[1, t], one)
    for found, wanted in ((pool.state(ids), state), (pool.state(1), one)):
        assert type(found) is type(wanted)
        for a, b in zip(leaves(found), leaves(wanted), strict=True):
            assert a.dtype == b.dtype
            assert_same(a, b)
    assert_same(model.step(x[:, 4], pool.state(ids))[0], (y := model.step(x[:, 4], state)[0]))
    assert_same(model.step(x[1, 4], pool.state(1))[0], y[1])
    pool.close(pool.open(2, state=pool.state([0, 1])))
    again = pool.open(state=one), pool.open(state=pool.state(2))
    assert_same(pool.push(again, x[1:, 4]), y[1:])
    kept = everything(pool)
    for a in leaves(pool.state(ids)):
        a[...] = 9
    assert everything(pool) == kept


def test_one_state_is_for_all_that_are_opened(pool):
    frames = draw("mean", 3, 1)[:, 0]
    wanted = pool.push([0], frames[:1])
    pool.restore(pool.snapshot())
    two = StreamPool(pool.model, 5)
    first = two.open()
    two.push(first, draw("mean", 4, 2)[0])
    ids = two.open(2, state=two.state(first))
    assert_same(two.push(ids, frames[[0, 0]]), wanted[[0, 0]])


def test_step_takes_sessions_of_different_ages_in_one_batch():
    model, x = make("mean"), draw("mean", 3, 6)
    states = []
    for n, age in enumerate([1, 3, 5]):
        state = None
        for t in range(age):
            _, state = model.step(x[n : n + 1, t], state)
        states.append(state)
    (h, c), (total, steps) = (
        [np.concatenate([s[k][part] for s in states], axis=-2) for part in (0, 1)] for k in (0, 1)
    )
    assert steps.tolist() == [[1], [3], [5]]
    y, after = model.step(x[[0, 1, 2], [1, 3, 5]], ((h, c), (total, steps), None, None))
    assert_same(y, np.stack([model.predict(x[n, : age + 1]) for n, age in enumerate([1, 3, 5])]))
    assert after[1][1].tolist() == [[2], [4], [6]]
    with pytest.raises(ValueError, match=r"^state steps: got shape \(3,\), must be \(N, 1\) = \(3, 1\)"):
        model.step(x[:, 0], ((h, c), (total, steps[:, 0]), None, None))


# Snapshots.


@models
def test_sessions_go_on_from_a_snapshot(name, path):
    model, x = make(name), draw(name, 4, 9)
    pool = StreamPool(model, 6)
    ids = pool.open(4)
    pool.push(ids[:2], x[:2, :2])
    pool.push(ids[1:], x[1:, 2:4])
    snapshot = pool.snapshot()
    snapshot.save(path)
    wanted = pool.push(ids, x[:, 4:])
    for again in (snapshot, pickle.loads(pickle.dumps(snapshot)), copy.deepcopy(snapshot), lstmx.load(path)):
        assert again.ids.tolist() == ids.tolist() and len(again) == 4
        pool.restore(again)
        assert_same(pool.push(ids, x[:, 4:]), wanted)
        other = StreamPool(model, 4)
        other.restore(again)
        assert_same(other.push(ids, x[:, 4:]), wanted)
        new = other.open
        other.close(ids)
        assert_same(other.push(new(4, state=again.state), x[:, 4:]), wanted)


def test_a_snapshot_does_not_change(pool):
    snapshot = pool.snapshot()
    kept = pickle.dumps(snapshot)
    pool.push([0, 1, 2], draw("mean", 3, 2))
    pool.close([0, 1])
    pool.open(3)
    assert pickle.dumps(snapshot) == kept
    for a in [snapshot.ids, snapshot.given, *leaves(snapshot.state)]:
        with pytest.raises(ValueError, match="read-only"):
            a[...] = 0
    for name in ("ids", "state", "given", "more"):
        with pytest.raises(AttributeError, match=rf"^{name}: "):
            setattr(snapshot, name, 1)


def test_a_snapshot_of_some_leaves_the_others_alone(pool):
    snapshot = pool.snapshot([2, 0])
    assert snapshot.ids.tolist() == [2, 0] and pool.snapshot(1).ids.tolist() == [1]
    assert pool.snapshot([]).ids.tolist() == []
    before = pool.state([0, 1, 2])
    frames = draw("mean", 3, 1)
    pool.push([0, 1, 2], frames)
    moved = pool.state(1)
    pool.restore(snapshot)
    for a, b in zip(leaves(pool.state([0, 2])), leaves(before), strict=True):
        assert_same(a, b[..., [0, 2], :])
    for a, b in zip(leaves(pool.state(1)), leaves(moved), strict=True):
        assert_same(a, b)


def test_a_closed_session_is_opened_again_and_later_ids_are_new(pool):
    snapshot = pool.snapshot()
    pool.close([0, 1])
    pool.close(pool.open(2))
    pool.restore(snapshot)
    assert pool.ids.tolist() == [0, 1, 2]
    pool.close(0)
    assert pool.open(3).tolist() == [2 * 2**32, 2**32 + 3, 4]
    later = StreamPool(pool.model, 5)
    later.restore(snapshot)
    assert later.open(2).tolist() == [2**32 + 3, 4], "3 was given before"


def test_a_snapshot_that_cannot_be_restored_changes_nothing(pool):
    snapshot = pool.snapshot()
    pool.close(1)
    pool.open()
    taken = rf"^snapshot: the slot of its session 1 is that of session {2**32 + 1} now; close that, or: open\(n, state="
    refused(pool, lambda: pool.restore(snapshot), ValueError, taken)
    small = StreamPool(pool.model, 2)
    small.open()
    refused(
        small, lambda: small.restore(snapshot), ValueError, r"^snapshot: has a session in slot 2, and .* room for 2"
    )
    for other in ("LSTM", "last", "mean 64", "dense"):
        pool = StreamPool(make(other), 5)
        refused(pool, lambda pool=pool: pool.restore(snapshot), ValueError, r"^snapshot: of another model")
    for wrong in (None, snapshot.state, pool):
        refused(pool, lambda wrong=wrong: pool.restore(wrong), TypeError, r"^snapshot: got \w+, must be what")


@pytest.mark.parametrize("way", ["pickle", "copy", "deepcopy"])
@models
def test_a_copy_of_a_pool_goes_on_the_same_way(name, way):
    model, x = make(name), draw(name, 3, 8)
    pool = StreamPool(model, 4)
    pool.close(pool.open(3)[1])
    ids = [*pool.ids.tolist(), pool.open()]
    pool.push(ids, x[:, :3])
    pool.close(pool.open())
    ways = {"pickle": lambda p: pickle.loads(pickle.dumps(p)), "copy": copy.copy, "deepcopy": copy.deepcopy}
    again = ways[way](pool)
    assert (again.model is model) == (way == "copy") and again.capacity == 4 and type(again) is StreamPool
    wanted = pool.push(ids, x[:, 3:])
    assert again.ids.tolist() == pool.ids.tolist()
    assert_same(again.push(ids, x[:, 3:]), wanted)
    assert again.open() == pool.open()


def test_what_is_shown():
    pool = StreamPool(make("LSTM"), 3)
    pool.open(2)
    assert repr(pool).startswith("<StreamPool: 2 of 3 sessions open, LSTM(")
    assert repr(pool.snapshot()) == "<StreamSnapshot: 2 sessions>"


# Snapshot files.


def spoilt(pool, path, change):
    """A file of a snapshot whose configuration and arrays have been changed."""
    config, arrays = pool.snapshot()._contents()
    config, arrays = {"class": "StreamSnapshot"} | copy.deepcopy(config), dict(arrays)
    change(config, arrays)
    storage.write(path, config, arrays)


def put(which, key, value):
    return lambda config, arrays: {"config": config, "arrays": arrays}[which].__setitem__(key, value)


@pytest.mark.parametrize(
    ("change", "message"),
    [(put("config", "sessions", 4), "tensor 'ids' is I64"), (put("config", "sessions", -1), "sessions: got -1"),
     (put("config", "sessions", 2.5), "sessions: got 2.5"), (put("config", "slots", 10**30), "tensor 'given' is I64"),
     (put("config", "more", 1), "'more' is unknown"), (lambda c, a: c.pop("slots"), "'slots' is missing"),
     (put("config", "state", None), "tensors that no layer has"), (put("config", "state", 5), "state: got int"),
     (put("config", "state", "x"), "state: got str"), (lambda c, a: c["state"][0].append(None), None),
     (lambda c, a: c["state"][0][0].update(dtype="float16"), "dtype: got 'float16'"),
     (lambda c, a: c["state"][0][0].update(shape=[]), "shape: got"),
     (lambda c, a: c["state"][0][0].update(shape=[2, 8]), "'state.0.0' is F32"),
     (lambda c, a: c["state"][0][0].update(shape=[1, -8]), "state.0.0 shape: got -8"),
     (lambda c, a: c["state"][0][0].update(shape=8), "shape: got 8"),
     (lambda c, a: c["state"][0][0].pop("shape"), "'shape' is missing"),
     (lambda c, a: c["state"].append({"dtype": "float32", "shape": [2**60]}), "'state.4' is missing"),
     (lambda c, a: a.pop("state.1.1"), "'state.1.1' is missing"), (put("arrays", "x", np.zeros(1)), "tensors that no"),
     (put("arrays", "ids", np.array([0, 1, -2])), "at least 0"),
     (put("arrays", "ids", np.array([0, 1, 1])), "one slot"),
     (put("arrays", "ids", np.array([0, 1, 1 + 2**32])), "one slot"),
     (put("arrays", "ids", np.array([0, 1, 2 + 2**32])), "does not count all"),
     (put("arrays", "ids", np.array([0, 1, 2**31])), "does not count all"),
     (put("arrays", "given", np.array([0, 1, 1, 1])), "does not count all"),
     (put("arrays", "given", np.array([1, 1, 1, -1])), "at least 0"),
     (put("arrays", "given", np.array([1, 1, 1, 2**62])), "more than 2")],
)  # fmt: skip
def test_a_malformed_file_is_refused(pool, path, change, message):
    spoilt(pool, path, change)
    if message is None:  # a state of another form: of no model, as restore says
        refused(pool, lambda: pool.restore(lstmx.load(path)), ValueError, r"^snapshot: of another model")
        return
    with pytest.raises(storage.ModelFileError, match=message):
        lstmx.load(path)


def test_a_deep_state_is_refused(pool, path):
    deep = None
    for _ in range(900):
        deep = [deep]
    spoilt(pool, path, put("config", "state", deep))
    with pytest.raises(storage.ModelFileError):
        lstmx.load(path)


def test_a_damaged_file_is_refused(pool, path):
    pool.snapshot().save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(storage.ModelFileError, match="damaged"):
        lstmx.load(path)


def test_states_that_are_not_finite_are_saved_as_they_are(pool, path):
    pool.push(0, [np.nan, 0, 0])
    lstmx.save(pool.snapshot(), path)
    again = lstmx.load(path)
    assert np.isnan(again.state[0][0][0, 0]).all() and np.isfinite(again.state[0][0][0, 1:]).all()


KILLED = """
    import sys, numpy as np, lstmx
    model, path = lstmx.load(sys.argv[1]), sys.argv[2]
    pool = lstmx.StreamPool(model, 4)
    ids = pool.open(3)
    x = np.load(sys.argv[3])
    for t in range(x.shape[1]):
        pool.push(ids, x[:, t])
        pool.snapshot().save(path)
        if t == 3:
            print("ready", flush=True)
    sys.stdin.read()
    """


def test_after_kill_9_sessions_go_on_from_the_last_snapshot(tmp_path):
    model, x = make("mean"), draw("mean", 3, 2000)
    model.save(tmp_path / "model")
    np.save(tmp_path / "x.npy", x)
    where = [str(tmp_path / name) for name in ("model", "snapshot", "x.npy")]
    command = [sys.executable, "-P", "-c", textwrap.dedent(KILLED), *where]
    for wait in (0.01, 0.06):
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=CHILD)
        assert process.stdout.readline() == "ready\n"
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        pool = StreamPool(lstmx.load(where[0]), 10)
        snapshot = lstmx.load(where[1])
        pool.restore(snapshot)
        done = int(snapshot.state[1][1][0, 0])
        assert 4 <= done < 2000 and pool.ids.tolist() == [0, 1, 2]
        assert_same(pool.push(pool.ids, x[:, done : done + 50]), model.predict(x[:, : done + 50]))


# Layers that remember, or interrupt.


class _Hook(Layer):
    """Does nothing to its rows, but calls what a test has put into `hook`."""

    def __init__(self):
        self._setup("float32", 0)
        self._hook = None

    def forward_rows(self, rows, context, state, run):
        if self._hook is not None:
            self._hook()
        return rows, context, None, None


class _Before(_Hook):
    """The row before, of a stream; what it begins with is `start`."""

    start = staticmethod(lambda batch, features, dtype: None)

    def start_state(self, batch, features, parameters=None, dtype=None):
        return self.start(batch, features, dtype)

    def forward_rows(self, rows, context, state, run):
        return rows if state is None else rows + state, context, rows[-context.batch :], None


def test_a_layer_whose_state_would_not_be_carried_is_an_error():
    layer = _Before()
    pool = StreamPool(Sequential([LSTM(3, 4, random_state=0), layer]), 3)
    ids, frames = pool.open(2), np.ones((2, 3), "f4")
    refused(pool, lambda: pool.push(ids, frames), TypeError, r"^model: a layer's forward_rows gives another state than")
    _Before.start = staticmethod(lambda batch, features, dtype: np.zeros((batch, features), dtype))
    try:
        pool = StreamPool(Sequential([LSTM(3, 4, random_state=0), _Before()]), 3)
        pool.open(2)
        one = pool.push(ids, frames)
        two = pool.push(ids, frames)
        h = LSTM(3, 4, random_state=0)(np.ones((2, 2, 3)))[0]
        assert_same(one, h[:, 0])
        assert_same(two, h[:, 0] + h[:, 1])
        _Before.start = staticmethod(lambda batch, features, dtype: np.zeros(batch, dtype))
        with pytest.raises(ValueError, match=r"^model: a layer's start_state gives an array whose second axis"):
            StreamPool(Sequential([LSTM(3, 4, random_state=0), _Before()]), 3)
    finally:
        _Before.start = staticmethod(lambda batch, features, dtype: None)


@pytest.fixture
def hooked():
    """A pool with two sessions, and the layer in its model that calls a test."""
    hook = _Hook()
    pool = StreamPool(Sequential([LSTM(3, 4, 2), hook, MeanPool(), Dense(4, 2)], random_state=0), 3)
    pool.push(pool.open(2), draw("LSTM", 2, 3))
    return pool, hook


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ZeroDivisionError])
def test_whatever_ends_a_push_leaves_all_sessions_as_they_were(hooked, error):
    pool, hook = hooked
    out = np.zeros((2, 2), "f4")

    def fail():
        raise error

    hook._hook = fail
    refused(pool, lambda: pool.push([0, 1], np.ones((2, 3)), out=out), error, None, out)
    hook._hook = None
    pool.push([0, 1], np.ones((2, 3)), out=out)


@models
def test_an_allocation_that_fails_leaves_all_sessions_as_they_were(name, by_layers):
    model, frames = make(name), draw(name, 2, 3)
    pool = StreamPool(model, 4)
    ids = pool.open(2)
    pool.push(ids, frames)
    wanted = everything(pool)
    try:
        for granted in range(100):
            allocate._allocations_left = granted
            try:
                pool.push(ids, frames)
                break
            except MemoryError:
                assert everything(pool) == wanted
    finally:
        allocate._allocations_left = None
    assert 0 < granted < 99
    other = StreamPool(model, 2)
    both = np.concatenate([frames, frames], axis=1)
    other.push(other.open(2), both)
    assert [a[..., :2, :].tobytes() for a in pool._arrays] == [a.tobytes() for a in other._arrays] or NAME != "tile"


@pytest.mark.parametrize("written", range(7))
def test_an_interrupt_while_states_are_written_is_undone(hooked, written, monkeypatch):
    pool, _ = hooked
    out, write = np.zeros((2, 2), "f4"), streams._write

    def interrupted(changes):
        monkeypatch.setattr(streams, "_write", write)
        write(changes[:written])
        raise KeyboardInterrupt

    monkeypatch.setattr(streams, "_write", interrupted)
    refused(pool, lambda: pool.push([0, 1], np.ones((2, 3)), out=out), KeyboardInterrupt, None, out)


INTERRUPTED = """
    import signal, time, numpy as np, lstmx
    from lstmx import LSTM, Dense, MeanPool, Sequential

    pool = lstmx.StreamPool(Sequential([LSTM(3, 4, 2), MeanPool(), Dense(4, 2)], random_state=0), 3)
    ids, frames, hits = pool.open(2), np.ones((2, 40, 3), "f4"), 0

    def everything():
        return [a.tobytes() for a in pool._arrays]

    whole = [everything()]  # after no push, one, two
    for _ in range(2):
        pool.push(ids, frames)
        whole.append(everything())

    def seconds():
        pool.reset(ids)
        start = time.perf_counter()
        pool.push(ids, frames)
        pool.push(ids, frames)
        return time.perf_counter() - start

    longest = 2 * min(seconds() for _ in range(20))  # until a timer rings: before both are over, and after

    def interrupt(*_):
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupt)
    for k in range(400):
        pool.reset(ids)  # takes the lock, which must be free
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-6 + k / 400 * longest)
            pool.push(ids, frames)
            pool.push(ids, frames)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            hits += 1
        assert everything() in whole, "torn"
    print(hits)
    """


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_ctrl_c_at_any_moment_leaves_whole_states():
    command = [sys.executable, "-P", "-c", textwrap.dedent(INTERRUPTED)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LIMIT, env=CHILD)
    assert done.returncode == 0 and int(done.stdout) > 20, done.stdout + done.stderr


# Threads, forks and time.


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs signals of users")
def test_a_push_from_a_signal_handler_in_a_push_is_an_error_and_no_deadlock(hooked):
    pool, hook = hooked
    caught = []

    def handler(*_):
        for call in (lambda: pool.push([0], np.ones((1, 3))), lambda: pool.state(0), lambda: pool.close(0), pool.open):
            with pytest.raises(RuntimeError, match="this thread is in a call of the same object already") as error:
                call()
            caught.append(error)
        assert len(pool) == 2 and 0 in pool and pool.ids.tolist() == [0, 1]  # to look takes no turn

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        hook._hook = lambda: signal.raise_signal(signal.SIGUSR1)
        pool.push([0, 1], np.ones((2, 3)))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(caught) == 4
    hook._hook = None
    pool.push([0, 1], np.ones((2, 3)))


def test_a_second_thread_waits_for_its_turn(hooked):
    pool, hook = hooked
    inside, go_on, order = threading.Event(), threading.Event(), []

    def pause():
        hook._hook = None  # for the first alone
        inside.set()
        go_on.wait(LIMIT)

    def push(name):
        pool.push([0, 1], np.ones((2, 3)))
        order.append(name)

    hook._hook = pause
    threads = [threading.Thread(target=push, args=(name,)) for name in ("first", "second")]
    threads[0].start()
    assert inside.wait(LIMIT)
    threads[1].start()
    time.sleep(0.05)
    assert order == [] and threads[1].is_alive()
    go_on.set()
    for thread in threads:
        thread.join(LIMIT)
    assert order == ["first", "second"]
    assert pool.state(0)[2][1].tolist() == [[5]]


def run_threads(work, count):
    failures = []

    def guarded(k):
        try:
            work(k)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * LIMIT)
    assert not failures and not any(thread.is_alive() for thread in threads), failures


@pytest.mark.parametrize("shared", [True, False], ids=["one pool", "a pool each"])
def test_threads_get_the_bits_of_whole_calls(shared):
    model, x = make("dense"), draw("dense", 8, 60)
    wanted, one = model.predict(x), StreamPool(model, 20)

    def work(k):
        pool = one if shared else StreamPool(model, 3)
        for _ in range(3):
            ids = pool.open(2)
            for t in range(60):
                y = pool.push(ids, x[[k, -k], t])
                assert_same(y, wanted[[k, -k], t])
            pool.close(ids)

    run_threads(work, 2 if shared else 8)
    assert len(one) == 0


FORKED = """
    import os, signal, sys, threading, numpy as np, lstmx
    from lstmx.layers import Layer

    class Pause(Layer):
        def __init__(self):
            self._setup("float32", 0)
            self._hook = None
        def forward_rows(self, rows, context, state, run):
            if self._hook is not None:
                self._hook()
            return rows, context, None, None

    pause, (inside, go_on) = Pause(), (threading.Event(), threading.Event())
    model = lstmx.Sequential([lstmx.LSTM(3, 8), pause, lstmx.Dense(8, 2)], random_state=0)
    x = np.random.default_rng(0).normal(size=(4, 9, 3)).astype("f4")
    wanted = model.predict(x)
    pool = lstmx.StreamPool(model, 8)
    ids = pool.open(4)
    pool.push(ids, x[:, :4])

    def in_child(check):
        child = os.fork()
        if child == 0:
            signal.alarm(%(limit)d)
            try:
                check()
                os._exit(0)
            except BaseException as error:
                print(repr(error), flush=True)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0

    def go_on_here():
        pause._hook = None
        assert np.allclose(pool.push(ids, x[:, 4:]), wanted[:, 4:], rtol=1e-4, atol=1e-5)
        pool.close(ids)
        assert pool.open() == 2**32

    in_child(go_on_here)

    def wait():
        inside.set()
        go_on.wait(%(limit)d)

    pause._hook = wait                  # another thread is in a push, which the child does not have
    thread = threading.Thread(target=lambda: pool.push(ids, x[:, 4:5]))
    thread.start()
    assert inside.wait(%(limit)d)
    in_child(go_on_here)
    go_on.set()
    thread.join()

    def refused():                      # the thread that forks is in a push itself, and so is the child's
        try:
            pool.push(ids, x[:, 5])
        except RuntimeError:
            return
        raise AssertionError

    pause._hook = lambda: in_child(refused)
    pool.push(ids, x[:, 5])
    pause._hook = None
    assert np.allclose(pool.push(ids, x[:, 6:]), wanted[:, 6:], rtol=1e-4, atol=1e-5)
    print("done")
    """


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on_with_its_own_sessions():
    command = [sys.executable, "-P", "-W", "ignore", "-c", textwrap.dedent(FORKED % {"limit": LIMIT})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LIMIT, env=CHILD)
    assert done.stdout == "done\n", done.stdout + done.stderr


@pytest.mark.long
def test_memory_stays_flat():
    pool, rng = StreamPool(make("dense"), 50), np.random.default_rng(0)
    ids = pool.open(40)

    def pushes(count):
        for k in itertools.islice(itertools.count(), count):
            some = rng.permutation(ids)[: rng.integers(0, 41)]
            pool.push(some, np.zeros((len(some), 3), "f4"))
            if k % 10 == 0:
                pool.close(pool.open(5))
                pool.snapshot(some)
                pool.reset(some)

    tracemalloc.start()
    try:
        pushes(500)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        pushes(10_000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000


# The check that users run.


def test_a_check_names_where_bits_differ(monkeypatch, by_layers):
    model, x = make("dense"), draw("dense", 3, 12)
    pool, advance = StreamPool(model, 2), StreamPool._advance

    def wrong(self, slots, frames, out):
        y = advance(self, slots, frames, out)
        (chosen,) = np.nonzero(slots == 1)
        y[chosen, :, 0] += np.where(np.abs(frames[chosen] - x[1, 7]).max(axis=-1) == 0, np.float32(0.5), 0)
        return y

    monkeypatch.setattr(StreamPool, "_advance", wrong)
    with pytest.raises(AssertionError, match=r"^check: sequence 1 differs at step 7: pushed "):
        pool.check(x)


def test_a_state_that_is_not_carried_is_found_by_a_check(monkeypatch, by_layers):
    monkeypatch.setattr(StreamPool, "_states", lambda self, slots, arrays: [])
    for name in ("dense", "last", "mean"):
        with pytest.raises(AssertionError, match=r"^check: sequence \d differs at step "):
            StreamPool(make(name), 1).check(draw(name, 3, 12))


def test_a_check_takes_what_is_not_finite_and_what_is_empty():
    pool, x = StreamPool(make("dense"), 1), draw("dense", 3, 12)
    x[1, 4] = np.nan
    assert pool.check(x) < 1e-3 and pool.check(x[:, :0]) == pool.check([]) == pool.check(x[:0]) == 0
