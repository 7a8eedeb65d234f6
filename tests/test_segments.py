"""Batches read in segments of time: outputs, states and gradients have the bits of the whole."""

import numpy as np
import pytest
from cell_cases import CELLS, network
from lstm_cases import assert_same as same_floats
from tolerances import ENGINES

import lstmx
from lstmx import (
    LSTM,
    RNN,
    Activation,
    Cell,
    Dense,
    Dropout,
    Embedding,
    FinalState,
    Last,
    MeanPool,
    Sequential,
)
from lstmx.functional.context import SequenceContext
from lstmx.functional.read import sequences
from lstmx.functional.segments import Timeline, block, read_memory
from lstmx.layers import Run


def assert_same(found, wanted, *name):
    """As that of lstm_cases, for counts too."""
    if wanted.dtype.kind == "i":
        np.testing.assert_array_equal(found, wanted)
    else:
        same_floats(found, wanted, *name)


RAGGED = [150, 70, 0, 149, 71, 70, 3, 1, 130, 64]


def lengths_of(batch, steps, ragged):
    if not ragged:
        return np.full(batch, steps)
    return np.random.default_rng(batch).permutation(np.resize([steps, steps // 2, 1, 0, steps - 1, steps // 3], batch))


def problem(model, lengths, mask=None, seed=3):
    """(rows, context, timeline) of random inputs."""
    rng, lengths = np.random.default_rng(seed), np.asarray(lengths)
    shape = len(lengths), int(lengths.max())
    if model.embedding:
        x, options = rng.integers(model.embedding.num_embeddings, size=shape), {"tokens": lambda name, value: value}
    else:
        x, options = rng.normal(size=(*shape, model.input_size)), {}
    where = {"lengths": lengths} if mask is None else {"mask": mask(x)}
    found = sequences(x, model.input_size, model.dtype, **where, **options)
    every = np.arange(len(lengths))
    rows, context = found.all(own=True)
    return rows, context, found, found.timeline(every), every


def whole(model, rows, context, run):
    y, _, state, tape = model.forward_rows(rows, context, None, run)
    dy = np.random.default_rng(9).normal(size=y.shape).astype(y.dtype)
    out = [{n: np.full_like(p, np.nan) for n, p in layer.parameters().items()} for layer in model.layers]
    dx, dstate = model.backward_rows(tape, dy.copy(), out, need_dx=model.embedding is None)
    return y, state, dy, dx, dstate, out


def segmented(model, found, timeline, every, run, steps, dy):
    """The same by segments: a first pass without a tape, then each segment again, from last to first."""
    segments = [timeline.segment(*cut) for cut in timeline.cut(steps)]
    state, states, ys = None, [], []
    for segment in segments:
        states.append(state)
        y, _, state, _ = model.forward_rows(found.rows_of(every, segment), segment, state, run._replace(keep=False))
        ys.append(y)
    out = [{n: np.full_like(p, np.nan) for n, p in layer.parameters().items()} for layer in model.layers]
    dstate, parts = None, []
    for k in reversed(range(len(segments))):
        segment, last = segments[k], k == len(segments) - 1
        y, _, _, tape = model.forward_rows(found.rows_of(every, segment), segment, states[k], run)
        np.testing.assert_array_equal(y, ys[k])
        first = timeline.rows_before(segment.start)
        own = dy[first : first + segment.rows] if model.per_step else dy if last else None
        dx, dstate = model.backward_rows(
            tape, None if own is None else own.copy(), out, model.embedding is None, dstate, add=not last, more=k > 0
        )
        parts.insert(0, dx)
    y = np.concatenate(ys) if model.per_step else ys[-1]
    return y, state, None if model.embedding else np.concatenate(parts), dstate, out


def check(model, lengths, steps=None, mask=None, key=7):
    rows, context, found, timeline, every = problem(model, lengths, mask)
    keys = [key + k for k in range(len(model.layers))]
    run = Run(keep=True, key=keys, own_steps=True)
    steps = block(timeline.batch) if steps is None else steps
    assert steps < timeline.longest
    y, state, dy, dx, _, out = whole(model, rows, context, run)
    y2, state2, dx2, _, out2 = segmented(model, found, timeline, every, run, steps, dy)
    assert_same(y2, y)
    for one, other in zip(state2, state, strict=True):
        assert (one is None) == (other is None)
        for a, b in (
            zip(*(s if isinstance(s, tuple) else (s,) for s in (one, other)), strict=True) if one is not None else ()
        ):
            (assert_same if b.dtype.kind == "f" else np.testing.assert_array_equal)(a, b)
    if dx is not None:
        assert_same(dx2, dx)
    for k, (one, other) in enumerate(zip(out2, out, strict=True)):
        for name, gradient in other.items():
            assert np.isfinite(gradient).all() and (gradient.any() or "initial" in name or key is None)
            assert_same(one[name], gradient, f"{k}.{name}")


def model_of(*layers, dtype="float32", seed=0):
    return Sequential(list(layers), random_state=seed).astype(dtype)


LAYERS = {
    "lstm": lambda: [LSTM(3, 9)],
    "lstm and dense": lambda: [LSTM(3, 9), Dense(9, 2, "sigmoid")],
    "two layers": lambda: [LSTM(3, 9, 2, dropout=0.3), Dropout(0.2), Dense(9, 70)],
    "dense before": lambda: [Dense(3, 20, "tanh"), Activation("gelu"), LSTM(20, 6), Dense(6, 2)],
    "rnn": lambda: [RNN(3, 9, 2), Dense(9, 2)],
    "last": lambda: [LSTM(3, 9), Last(), Dense(9, 2, "softmax")],
    "final state": lambda: [RNN(3, 9), FinalState(), Dropout(0.5), Dense(9, 2)],
    "mean": lambda: [LSTM(3, 5), LSTM(5, 9), MeanPool(), Activation("tanh"), Dense(9, 2)],
    "no recurrence": lambda: [Dense(3, 4, "relu"), MeanPool(), Dense(4, 2)],
    "embedding": lambda: [Embedding(11, 4, padding_idx=2), LSTM(4, 9), Dense(9, 2)],
    "embedding alone": lambda: [Embedding(11, 4), Dense(4, 2)],
    "learned": lambda: [LSTM(3, 5, 2, cell=Cell(learn_state=True)), Last()],
}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_segments_of_models_have_the_bits_of_the_whole(kind, ragged):
    check(model_of(*LAYERS[kind]()), lengths_of(16, 40, ragged))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 3, 16, 100, 300])
def test_segments_of_any_batch(batch, threads):
    with lstmx.num_threads(threads):
        for ragged in (False, True) if batch > 1 else (False,):
            steps = 2 * block(batch) + 5
            check(model_of(*LAYERS["two layers"]()), lengths_of(batch, steps, ragged))
            check(model_of(*LAYERS["mean"](), dtype="float64"), lengths_of(batch, steps, ragged))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", [*CELLS, "weight_dropout"])
def test_segments_of_every_cell(name, dtype):
    cell = Cell(weight_dropout=0.4, peephole=True) if name == "weight_dropout" else CELLS[name]
    for proj in (0, 4) if not cell.slstm and name != "learned state" else (0,):
        lstm = network(cell, 3, 6, 2, dropout=0.2, proj=proj, dtype=dtype)
        check(Sequential([lstm]), lengths_of(20, 30, True), steps=block(20))


def masks(x):
    return np.random.default_rng(5).random(x.shape[:2]) < 0.6


@pytest.mark.parametrize("kind", ["two layers", "last", "mean", "embedding"])
def test_segments_of_masked_batches(kind):
    check(model_of(*LAYERS[kind]()), lengths_of(16, 90, False), mask=masks)


def test_segments_at_other_steps_are_nearly_the_whole():
    model = model_of(*LAYERS["lstm and dense"](), dtype="float64")
    rows, context, found, timeline, every = problem(model, RAGGED)
    run = Run(keep=True, key=[1, 2], own_steps=True)
    *_, dy, _, _, out = whole(model, rows, context, run)
    *_, found = segmented(model, found, timeline, every, run, 7, dy)
    for one, other in zip(found, out, strict=True):
        for name in other:
            np.testing.assert_allclose(one[name], other[name], **ENGINES["float64"])


def test_a_segment_says_what_the_whole_says():
    for context, timeline in (
        (SequenceContext(np.array(RAGGED)), Timeline(np.array(RAGGED))),
        (SequenceContext(np.array([5, 3, 3])), Timeline(np.array([5, 3, 3]))),
    ):
        parts = [timeline.segment(*cut) for cut in timeline.cut(37)]
        for k in (0, 1):
            np.testing.assert_array_equal(np.concatenate([p.places[k] for p in parts]), context.places[k])
        assert [p.rows for p in parts] == np.diff(
            [timeline.rows_before(p.start) for p in parts] + [context.rows]
        ).tolist()
        np.testing.assert_array_equal(sum(p.lengths for p in parts), context.lengths)
        for p in parts:
            np.testing.assert_array_equal(p.owners, context.owners)
    empty = Timeline(np.zeros(3, np.int64))
    assert empty.cut(5) == [(0, 0)] and empty.segment(0, 0).rows == 0


@pytest.mark.parametrize(
    ("text", "size"),
    [(7, 7), ("200MB", 200_000_000), ("1.5GB", 1_500_000_000), ("200 MB", 200_000_000), ("64MiB", 64 << 20),
     ("12", 12), ("3 kb", 3000), ("2GiB", 2 << 30), (" 1 TB ", 10**12), ("10b", 10)],
)  # fmt: skip
def test_sizes_of_memory(text, size):
    assert read_memory("memory", text) == size


@pytest.mark.parametrize("bad", ["", "MB", "-3MB", "1e3 XB", "nan MB", "inf", "0", 0, -1, "0.2 b", "1 000 MB"])
def test_sizes_of_memory_that_are_none(bad):
    with pytest.raises(ValueError, match="memory: got"):
        read_memory("memory", bad)


@pytest.mark.parametrize("bad", [1.5, None, True, [1]])
def test_sizes_of_memory_of_other_types(bad):
    with pytest.raises(TypeError, match="memory: got"):
        read_memory("memory", bad)
