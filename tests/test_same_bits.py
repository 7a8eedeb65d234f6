"""Promise 2: the same bits in any batch, at any place, on any number of threads, whole, in chunks or step by step.

Everything is compared as bytes, through the public interface where there is one. `cutting` lowers the sizes from which
threads are used, so that small shapes take every way through the time loop: rows shared out, units shared out, serial.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lstmx
from lstmx import LSTM, Dense, Dropout, Embedding, FinalState, Last, MeanPool, Sequential
from lstmx._core import job, loop
from lstmx._core import kernels as core_kernels
from lstmx._core.isa import describe
from lstmx.functional import allocate, kernels
from lstmx.functional import engine as engines
from lstmx.functional.cell import Cell
from lstmx.functional.panels import Weights
from lstmx.functional.read import sequences

pytestmark = pytest.mark.skipif(engines.NAME != "tile", reason="a promise of the tile engine")

DTYPES = ["float32", "float64"]
# Around the widths of vectors (2 to 16 lanes), panels, and the blocks of 128 terms.
SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 50, 64, 65, 100, 127, 128, 129, 130, 257]
COVER = [(I, SIZES[(7 * k + 3) % len(SIZES)]) for k, I in enumerate(SIZES)]  # every size as I and as H
GRID = [pytest.param(I, H, marks=() if (I, H) in COVER else pytest.mark.long) for I in SIZES for H in SIZES]
LARGE = [(50, 64), (3, 130), (65, 33)]  # both splits have something to share out

# What set_limits takes: operations worth a thread, operations worth a barrier, rows a thread.
INFINITY = float("inf")
CUTS = {"rows": (0, INFINITY, 1), "units": (0, 0, 2**40), "mixed": (0, 0, 4), "serial": (INFINITY, INFINITY, 1)}
ENOUGH = 60_000  # S * H * (I + H) above which a call may have threads at all

dtypes = pytest.mark.parametrize("dtype", DTYPES)
grid = pytest.mark.parametrize(("I", "H"), GRID)


@contextlib.contextmanager
def cutting(cut, threads):
    """Calls within take up to `threads` threads, and share out what `cut` says, however small they are."""
    limits, engine_limit = job.set_limits(*CUTS[cut]), engines._threads_for
    engines._threads_for = lambda work: lstmx.get_num_threads()
    try:
        with lstmx.num_threads(threads):
            yield
    finally:
        job.set_limits(*limits)
        engines._threads_for = engine_limit


WAYS = [("rows", 2), ("rows", 3), ("rows", 7), ("units", 2), ("units", 3), ("units", 7), ("mixed", 3), ("serial", 3)]


def flat(result, name=""):
    """(name, array) of all arrays in nested results."""
    if isinstance(result, np.ndarray):
        yield name, result
    elif isinstance(result, dict):
        for key in result:
            yield from flat(result[key], f"{name}.{key}")
    elif isinstance(result, list | tuple):
        for k, part in enumerate(result):
            yield from flat(part, f"{name}.{k}")


def same(found, wanted):
    """Equal shapes, types and bits."""
    found, wanted = dict(flat(found)), dict(flat(wanted))
    assert found.keys() == wanted.keys() and wanted
    for name, array in wanted.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        assert found[name].tobytes() == array.tobytes(), name


def problem(lstm, N, T, seed=0):
    """Input, state and gradients for an LSTM, of order 1."""
    rng = np.random.default_rng([seed, N, T])
    states = (lstm.num_layers * lstm.directions, N, lstm.hidden_size)
    shapes = {"x": (N, T, lstm.input_size), "dy": (N, T, lstm.output_size())} | dict.fromkeys("hc", states)
    shapes |= {"dh": states, "dc": states}
    return {name: rng.normal(size=shape).astype(lstm.dtype) for name, shape in shapes.items()}


def chosen(p, rows):
    """The problem of some rows."""
    return {name: a[rows] if name in ("x", "dy") else a[:, rows] for name, a in p.items()}


def everything(lstm, p, lengths=None):
    """Outputs, states and gradients, rows first; `params` are sums over rows."""
    y, state, tape = lstm.forward(p["x"], (p["h"], p["c"]), lengths=lengths)
    same(lstm(p["x"], (p["h"], p["c"]), lengths=lengths), (y, state))
    grads = lstm.backward(tape, p["dy"], (p["dh"], p["dc"]))
    states = {name: a.swapaxes(0, 1) for name, a in zip(["h", "c", "dh", "dc"], (*state, *grads.state), strict=True)}
    return {"y": y, "dx": grads.x, **states, "params": grads.params}


def per_row(result, rows=None):
    """Without the sums over rows; of some rows."""
    return {k: a if rows is None else a[rows] for k, a in result.items() if k != "params"}


def steps_for(N, I, H):
    """Time steps that make a call long enough for threads."""
    return max(3, -(-ENOUGH // (N * H * (I + H))))


# ------------------------------------------------------------------------------------------ batch and place


@grid
@dtypes
def test_a_row_has_the_same_bits_alone_and_at_any_place_in_any_batch(dtype, I, H):
    lstm = LSTM(I, H, bidirectional=I % 2 == 0, dtype=dtype, random_state=I)
    N, T = 39, 3  # more rows than one tile, and than a chunk of tiles
    p = problem(lstm, N, T)
    wanted = everything(lstm, p)
    rng = np.random.default_rng(0)
    for rows in ([0], [17], [38], [5, 3], *(rng.permutation(N)[:n] for n in (3, 7, 13, N)), [4] * 25):
        same(per_row(everything(lstm, chosen(p, rows))), per_row(wanted, rows))
    y, (h, c) = lstm(p["x"][9], (p["h"][:, 9], p["c"][:, 9]))
    same((y, h, c), (wanted["y"][9], wanted["h"][9], wanted["c"][9]))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("I", "H"), COVER)
@dtypes
def test_a_row_has_the_same_bits_alone_and_among_rows_of_other_lengths(dtype, I, H, bidirectional):
    lstm = LSTM(I, H, 2, bidirectional=bidirectional, dtype=dtype, random_state=I)
    lengths = np.array([4, 0, 7, 1, 7, 2, 5])
    p = problem(lstm, len(lengths), 9)
    wanted = everything(lstm, p, lengths)
    ragged = [x[:n] for x, n in zip(p["x"], lengths, strict=True)]
    y, (h, c) = lstm(ragged, (p["h"], p["c"]))
    same((h, c), (wanted["h"].swapaxes(0, 1), wanted["c"].swapaxes(0, 1)))
    for n, length in enumerate(lengths):
        one = {name: a[:, :length] if name in ("x", "dy") else a for name, a in chosen(p, [n]).items()}
        alone = per_row(everything(lstm, one))
        same(y[n], alone["y"][0])
        for name, a in alone.items():
            same(a[0], wanted[name][n, :length] if name in ("y", "dx") else wanted[name][n])
    assert not wanted["y"][0, 4:].any() and not wanted["dx"][0, 4:].any()


# ------------------------------------------------------------------------------------------ chunks and steps


@grid
@dtypes
def test_chunks_and_steps_give_the_bits_of_the_whole(dtype, I, H):
    lstm = LSTM(I, H, 1 + I % 2, dtype=dtype, random_state=I)
    for N, T in ((1, 20), (5, 9)):
        p = problem(lstm, N, T)
        x, start = p["x"], (p["h"], p["c"])
        wanted, after = lstm(x, start)
        for cuts in ([1], [4, 5], [T - 1], range(1, T)):
            state, parts, trained = start, [], start
            for part in np.split(x, cuts, axis=1):
                y, state = lstm(part, state)
                same(lstm.stream(part, state)[0], lstm(part, state)[0])
                again, trained, _ = lstm.forward(part, trained)
                same(again, y)
                parts.append(y)
            same((np.concatenate(parts, axis=1), state, trained), (wanted, after, after))
        state, own = start, tuple(s.copy() for s in start)
        y = np.empty((N, H), dtype)
        for t in range(T):
            found, state = lstm.step(x[:, t], state)
            same(found, wanted[:, t])
            lstm.step(np.ascontiguousarray(x[:, t]), own, out=(y, own))
            same(y, wanted[:, t])
        same((state, own), (after, after))
        one = tuple(s[:, 0] for s in start)
        for t in range(T):
            found, one = lstm.step(x[0, t], one)
            same(found, wanted[0, t])


@dtypes
def test_strided_fortran_swapped_and_read_only_input_gives_the_same_bits(dtype):
    lstm = LSTM(9, 17, bidirectional=True, dtype=dtype, random_state=0)
    x = problem(lstm, 6, 11)["x"]
    wanted = lstm(x)
    wide = np.zeros((12, 22, 18), dtype)
    wide[::2, ::2, ::2] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    by_time = np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    for view in (wide[::2, ::2, ::2], np.asfortranarray(x), x.astype(x.dtype.newbyteorder()), read_only, by_time,
                 x[::-1][::-1]):  # fmt: skip
        same(lstm(view), wanted)
        same(lstm.forward(view)[:2], wanted)


# ------------------------------------------------------------------------------------------ threads


@functools.cache
def threaded_problem(I, H, N, dtype, layers=1, bidirectional=False, ragged=False):
    """An LSTM, a problem long enough for threads, lengths, and what one thread makes of it."""
    lstm = LSTM(I, H, layers, bidirectional=bidirectional, dtype=dtype, random_state=I)
    T = steps_for(N, I, H) * (2 if ragged else 1)
    lengths = np.random.default_rng(1).integers(0, T + 1, N) if ragged else None
    p = problem(lstm, N, T)
    with lstmx.num_threads(1):
        return lstm, p, lengths, everything(lstm, p, lengths)


@pytest.mark.parametrize(("cut", "threads"), WAYS)
@pytest.mark.parametrize("N", [1, 5, 40])
@pytest.mark.parametrize(("I", "H"), LARGE)
@dtypes
def test_all_results_and_gradients_are_the_same_for_any_number_of_threads(dtype, I, H, N, cut, threads):
    lstm, p, lengths, wanted = threaded_problem(I, H, N, dtype)
    with cutting(cut, threads):
        same(everything(lstm, p, lengths), wanted)


@pytest.mark.parametrize(("cut", "threads"), [("rows", 3), ("units", 3), ("mixed", 7)])
@grid
@dtypes
def test_threads_keep_the_bits_at_every_size(dtype, I, H, cut, threads):
    lstm, p, lengths, wanted = threaded_problem(I, H, 11, dtype)
    with cutting(cut, threads):
        same(everything(lstm, p, lengths), wanted)


@pytest.mark.parametrize(("cut", "threads"), WAYS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("N", [1, 13])
@dtypes
def test_threads_keep_the_bits_of_stacked_bidirectional_networks(dtype, N, ragged, cut, threads):
    lstm, p, lengths, wanted = threaded_problem(17, 65, N, dtype, 2, True, ragged)
    with cutting(cut, threads):
        same(everything(lstm, p, lengths), wanted)
        trace = lstm.trace(p["x"], (p["h"], p["c"]), lengths=lengths)
    same(np.concatenate([trace.h[1, 0], trace.h[1, 1]], axis=2), wanted["y"])


@pytest.mark.parametrize(("cut", "threads"), WAYS)
@dtypes
def test_threads_chunks_and_batches_together(dtype, cut, threads):
    lstm, p, _, wanted = threaded_problem(50, 64, 12, dtype)
    T = p["x"].shape[1]
    for rows in (slice(0, 1), slice(2, 6), slice(None)):
        with cutting(cut, threads):
            first, state = lstm(p["x"][rows, : T // 3], (p["h"][:, rows], p["c"][:, rows]))
        last, (h, _) = lstm(p["x"][rows, T // 3 :], state)
        same(np.concatenate([first, last], axis=1), wanted["y"][rows])
        same(h.swapaxes(0, 1), wanted["h"][rows])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("cut", "threads"), [("serial", 1), ("rows", 3), ("units", 3)])
@dtypes
def test_nan_and_infinity_reach_no_other_row(dtype, cut, threads, bad):
    N = 14
    lstm, p, _, wanted = threaded_problem(65, 33, N, dtype)
    for row in (0, 6, N - 1):
        spoilt = {name: a.copy() for name, a in p.items()}
        spoilt["x"][row, 1, -1], spoilt["dy"][row, 2, 0] = bad, bad
        with cutting(cut, threads):
            found = everything(lstm, spoilt)
        others = np.delete(np.arange(N), row)
        same(per_row(found, others), per_row(wanted, others))
        same(found["y"][row, :1], wanted["y"][row, :1])
        assert np.isnan(found["dx"][row]).any()


@pytest.mark.parametrize("lengths", [None, "ragged"])
@pytest.mark.parametrize(("N", "T"), [(1, 700), (1, 257), (2, 300), (3, 200), (100, 7), (255, 3), (256, 2), (300, 3)])
@dtypes
def test_long_sums_are_the_same_for_any_number_of_threads(dtype, N, T, lengths):
    lstm = LSTM(20, 40, dtype=dtype, random_state=0)
    p = problem(lstm, N, T)
    lengths = np.random.default_rng(2).integers(T // 2, T + 1, N) if lengths else None
    with lstmx.num_threads(1):
        wanted = everything(lstm, p, lengths)
    for cut, threads in (("rows", 2), ("rows", 7), ("units", 3), ("mixed", 3)):
        with cutting(cut, threads):
            same(everything(lstm, p, lengths), wanted)


PATHS = """
import os, sys, threading
import numpy as np, lstmx
from test_same_bits import CUTS, cutting
def count():
    return len(os.listdir("/proc/self/task"))
lstm = lstmx.LSTM(20, 200)
x = np.zeros((6, 50, 20), "f4")
start = count()
with cutting(sys.argv[1], 3):
    if sys.argv[2] == "forward":
        lstm(x)
    else:
        tape = lstm.forward(x)[2]
        lstm.backward(tape, None)
print(count() - start)
"""


def child(code, *arguments, timeout=60, **environment):
    """The output of a Python program that finds lstmx and these tests."""
    path = os.pathsep.join([str(Path(lstmx.__file__).parents[1]), str(Path(__file__).parent)])
    env = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")} | {"PYTHONPATH": path} | environment
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not os.path.isdir("/proc/self/task") or not loop.openmp(), reason="needs Linux and OpenMP")
@pytest.mark.parametrize("what", ["forward", "backward"])
@pytest.mark.parametrize(("cut", "more"), [("rows", 2), ("units", 2), ("serial", 0)])
def test_these_tests_really_use_threads(cut, more, what):
    assert int(child(PATHS, cut, what, OMP_DYNAMIC="false")) == more


# ------------------------------------------------------------------------------------------ the general path

ON_THE_GENERAL_PATH = {
    "place": test_a_row_has_the_same_bits_alone_and_at_any_place_in_any_batch,
    "lengths": lambda dtype, I, H: test_a_row_has_the_same_bits_alone_and_among_rows_of_other_lengths(
        dtype, I, H, True
    ),
    "chunks": test_chunks_and_steps_give_the_bits_of_the_whole,
}


@pytest.fixture
def general_path(monkeypatch):
    """LSTMs made within are computed as cells with options are: products into rows, then the cell."""
    monkeypatch.setattr(engines.get_engine(), "_fused", lambda *_: False)


@pytest.mark.parametrize("what", ON_THE_GENERAL_PATH)
@pytest.mark.parametrize(("I", "H"), COVER[::3])
@dtypes
def test_the_general_path_keeps_the_bits_in_any_batch_and_chunk(general_path, dtype, I, H, what):
    ON_THE_GENERAL_PATH[what](dtype, I, H)


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("N", [1, 13])
@pytest.mark.parametrize(("I", "H"), LARGE)
@dtypes
def test_the_general_path_keeps_the_bits_on_threads_and_nan_in_its_row(general_path, dtype, I, H, N, ragged):
    lstm, p, lengths, wanted = threaded_problem.__wrapped__(I, H, N, dtype, 2, H == 33, ragged)
    spoilt = {name: a.copy() for name, a in p.items()}
    spoilt["x"][0, :, 0] = spoilt["dy"][0] = np.nan
    for cut, threads in WAYS:
        with cutting(cut, threads):
            same(everything(lstm, p, lengths), wanted)
            found = everything(lstm, spoilt, lengths)
        others = np.arange(1, N)
        same(per_row(found, others), per_row(wanted, others))


# ------------------------------------------------------------------------------------------ the sums as documented


def chain(shape, a, b):
    """The sum over k of a[k] b[k], one multiply-add after the other; float32."""
    total = np.zeros(shape, np.float32)
    for x, y in zip(a, b, strict=True):
        if describe()["fma"]:  # exact in float64 but for the sum's last bits, far below those of float32
            total = (x.astype(np.float64) * y.astype(np.float64) + total).astype(np.float32)
        else:
            total = x * y + total
    return total


def blocked(start, a, b, terms=128):
    """start + the sum over k of a[k] b[k], in chains over blocks of k that are added in order."""
    for k in range(0, len(a), terms):
        start = start + chain(start.shape, a[k : k + terms], b[k : k + terms])
    return start


@pytest.mark.parametrize("K", [1, 64, 127, 128, 129, 256, 258, 400])
def test_products_are_chains_over_blocks_of_128_terms(K):
    rng = np.random.default_rng(K)
    x, weight = (rng.normal(size=(n, K)).astype(np.float32) for n in (5, 21))
    zero = np.zeros((5, 21), np.float32)
    wanted = blocked(zero, x.T[:, :, None], weight.T[:, None, :])
    same(kernels.linear(x, weight, None, "linear"), wanted)
    same(kernels.linear(x[2:3], weight, None, "linear"), wanted[2:3])


@pytest.mark.parametrize(("I", "H"), [(3, 5), (63, 65), (127, 129), (128, 128), (129, 9), (258, 258)])
def test_gates_are_chains_over_blocks_of_x_and_of_h(I, H):
    lstm = LSTM(I, H, random_state=0)
    p = problem(lstm, 3, 1)
    w_ih, w_hh, _ = lstm.parameters().values()
    bias = np.random.default_rng(1).normal(size=4 * H).astype(np.float32)
    lstm.set_parameters({"bias_l0": bias})
    z = np.broadcast_to(bias, (3, 4 * H)).copy()
    z = blocked(z, p["x"][:, 0].T[:, :, None], w_ih.T[:, None, :])
    z = blocked(z, p["h"][0].T[:, :, None], w_hh.T[:, None, :])
    out = np.empty(3 * H, np.float32)
    trace = lstm.trace(p["x"], (p["h"], p["c"]))
    for k, name in enumerate("ifgo"):
        (core_kernels.tanh if name == "g" else core_kernels.sigmoid)(z[:, k * H : (k + 1) * H].ravel(), out)
        same(np.asarray(getattr(trace, name)).ravel(), out)


@pytest.mark.parametrize(
    ("N", "T", "cohorts", "steps"),
    [(1, 700, 1, 256), (3, 200, 1, 86), (15, 60, 1, 18), (16, 31, 1, 16), (300, 1, 1, 1), (16, 40, 2, 32),
     (33, 30, 2, 16), (100, 7, 2, 6), (100, 21, 2, 6), (128, 16, 4, 8), (256, 2, 2, 2), (300, 7, 4, 4),
     (1000, 20, 16, 8)],
)  # fmt: skip
def test_weight_gradients_are_sums_over_blocks_of_steps_added_last_to_first(N, T, cohorts, steps):
    """A block is ceil(256 / N) steps; a step of more than 256 rows is cut at 256. Cohorts have blocks of up to 511
    rows, a power of 2 times as many steps, and their sums are added in order.
    """
    I, H = 3, 5
    lstm = LSTM(I, H, random_state=0)
    p = problem(lstm, N, T)
    rows, context = sequences(p["x"], I, lstm.dtype).all()
    arrays = dict(zip(("weight_ih", "weight_hh", "bias"), lstm.parameters().values(), strict=True))
    weights, engine = Weights(Cell(), arrays), engines.TileEngine()
    h, c = p["h"][0].copy(), p["c"][0].copy()
    slabs = engine.forward(rows, weights, context, False, h, c, np.empty((N * T, H), np.float32), True)
    out = {name: np.empty_like(w) for name, w in arrays.items()}
    engine.backward(rows, weights, context, False, slabs, context.pack(p["dy"]), p["dh"][0].copy(), p["dc"][0].copy(),
                    None, False, out)  # fmt: skip
    first = slabs.get("cohorts", np.array([0, N]))
    assert len(first) == cohorts + 1
    by_cohort = [rows.reshape(T, N, I)[:, a:b].reshape(-1, I) for a, b in itertools.pairwise(first)]
    for found, other in zip(out.values(), (np.concatenate(by_cohort), slabs["h_prev"], None), strict=True):
        sums = []
        for r0, r1 in itertools.pairwise(first):
            blocks = [(T * r0 + (r1 - r0) * t, T * r0 + (r1 - r0) * min(t + steps, T)) for t in range(0, T, steps)]
            if r1 - r0 > 256:
                blocks = [(k, min(k + 256, b)) for a, b in blocks for k in range(a, b, 256)]
            parts = []
            for a, b in reversed(blocks):
                if other is None:
                    parts.append(functools.reduce(np.add, slabs["gates"][a:b], np.zeros(4 * H, np.float32)))
                else:
                    parts.append(chain(found.shape, slabs["gates"][a:b, :, None], other[a:b, None, :]))
            sums.append(functools.reduce(np.add, parts))
        same(found, functools.reduce(np.add, sums))


# ------------------------------------------------------------------------------------------ whole models

MODELS = {
    "classes": lambda: [Embedding(11, 6), LSTM(6, 17, bidirectional=True), FinalState(), Dense(34, 9, "tanh"),
                        Dense(9, 4, "softmax")],
    "mean": lambda: [LSTM(5, 33, 2), MeanPool(), Dense(33, 70, "relu"), Dense(70, 1, "sigmoid")],
    "last": lambda: [LSTM(5, 64), Last(), Dense(64, 3)],
    "steps": lambda: [LSTM(5, 9, 2, bidirectional=True, dropout=0.2), Dropout(0.1), Dense(18, 100, "tanh"),
                      Dense(100, 4, "softmax")],
}  # fmt: skip


def sample(name, N=70, T=11):
    """X (N, T, ...), lengths, targets, and the loss of a model."""
    rng = np.random.default_rng(3)
    X = rng.integers(0, 11, (N, T)) if name == "classes" else rng.normal(size=(N, T, 5))
    loss = {"mean": "binary_crossentropy", "last": "mse"}.get(name, "categorical_crossentropy")
    shapes = {"classes": (4, N), "mean": (2, N), "steps": (4, (N, T))}
    y = rng.normal(size=(N, 3)) if name == "last" else rng.integers(0, *shapes[name])
    return X, rng.integers(1, T + 1, N), y, loss


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", MODELS)
@dtypes
def test_a_models_predictions_do_not_depend_on_the_batch_or_the_threads(dtype, name, ragged):
    model = Sequential(MODELS[name](), random_state=0).astype(dtype)
    X, lengths, _, _ = sample(name)
    if not ragged:
        wanted = model.predict(X)
        alone = [model.predict(X[n : n + 1])[0] for n in range(len(X))]
        calls = [lambda size: model.predict(X, batch_size=size)]
    else:
        cut = [x[:n] for x, n in zip(X, lengths, strict=True)]
        wanted = model.predict(X, lengths=lengths)
        alone = [model.predict([x])[0] for x in cut]
        calls = [lambda size: model.predict(X, lengths=lengths, batch_size=size)]
        if name == "steps":
            same([y[:n] for y, n in zip(wanted, lengths, strict=True)], alone)
            same(model.predict(cut), alone)
        else:
            calls.append(lambda size: model.predict(cut, batch_size=size))
    if not (ragged and name == "steps"):
        same(list(wanted), alone)
    for call in calls:
        for size in (1, 2, 7, 33, None):
            same(call(size), wanted)
        for cut_by, threads in (("rows", 2), ("rows", 7), ("units", 3), ("mixed", 3)):
            with cutting(cut_by, threads):
                same(call(None), wanted)
                same(call(24), wanted)


@pytest.mark.parametrize(("cut", "threads"), [("rows", 2), ("rows", 7), ("units", 3), ("mixed", 3)])
@pytest.mark.parametrize(("I", "H"), [(16, 9), (20, 65), (70, 64)])
@dtypes
def test_overlapping_windows_give_the_bits_of_separate_sequences(dtype, I, H, cut, threads):
    """Where the rows of a series are shared by windows, what is summed of them is too."""
    layers = [LSTM(I, H, 2, bidirectional=H == 65), Last(), Dense(H * (1 + (H == 65)), 3)]
    model = Sequential(layers, random_state=0).astype(dtype)
    for source in DTYPES:
        series = np.random.default_rng(1).normal(size=(50, I)).astype(source)
        for steps in (1, 30):
            windows = np.lib.stride_tricks.sliding_window_view(series, steps, axis=0).swapaxes(1, 2)
            with lstmx.num_threads(1):
                wanted = model.predict(windows.copy())
            with cutting(cut, threads):
                for size in (None, 7):
                    same(model.predict(windows, batch_size=size), wanted)
                same(model.predict(windows[5:9]), wanted[5:9])


def trained(name, dtype, ragged, epochs=2):
    model = Sequential(MODELS[name](), random_state=0).astype(dtype)
    X, lengths, y, loss = sample(name, N=26, T=30)
    model.fit(X, y, loss=loss, lengths=lengths if ragged else None, epochs=epochs, batch_size=13, clip_norm=1.0,
              validation_split=0.2, random_state=1, verbose=0)  # fmt: skip
    return model.parameters(), {k: np.array(v) for k, v in model.history_.history.items()}


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("name", MODELS)
@dtypes
def test_training_gives_the_same_model_for_any_number_of_threads(dtype, name, ragged):
    with lstmx.num_threads(1):
        wanted = trained(name, dtype, ragged)
    for cut, threads in (("rows", 2), ("rows", 7), ("units", 3), ("mixed", 3)):
        with cutting(cut, threads):
            same(trained(name, dtype, ragged), wanted)


# ------------------------------------------------------------------------------------------ at random


@st.composite
def cases(draw):
    N, T = draw(st.integers(1, 45)), draw(st.integers(1, 12))
    return {
        "N": N,
        "T": T,
        "I": draw(st.integers(1, 140)),
        "H": draw(st.integers(1, 140)),
        "layers": draw(st.integers(1, 2)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "lengths": draw(st.none() | st.lists(st.integers(0, T), min_size=N, max_size=N)),
        "rows": draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=5)),
        "at": draw(st.integers(0, T)),
        "cut": draw(st.sampled_from(list(CUTS))),
        "threads": draw(st.integers(1, 7)),
    }


def check_case(case):
    N, T, rows, at = case["N"], case["T"], case["rows"], case["at"]
    lstm = LSTM(case["I"], case["H"], case["layers"], bidirectional=N % 2 == 0, dtype=case["dtype"], random_state=T)
    lengths = None if case["lengths"] is None else np.array(case["lengths"])
    p = problem(lstm, N, T)
    with lstmx.num_threads(1):
        wanted = everything(lstm, p, lengths)
    with cutting(case["cut"], case["threads"]):
        same(everything(lstm, p, lengths), wanted)
        few = everything(lstm, chosen(p, rows), None if lengths is None else lengths[rows])
        same(per_row(few), per_row(wanted, rows))
        if lengths is None and lstm.directions == 1:
            first, state = lstm(p["x"][:, :at], (p["h"], p["c"]))
            last, (h, c) = lstm(p["x"][:, at:], state)
            same(np.concatenate([first, last], axis=1), wanted["y"])
            same((h.swapaxes(0, 1), c.swapaxes(0, 1)), (wanted["h"], wanted["c"]))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases())
def test_any_case(case):
    check_case(case)


@pytest.mark.long
@settings(max_examples=1500, deadline=None)
@given(cases())
def test_many_cases(case):
    check_case(case)


# ------------------------------------------------------------------------------------------ memory and instruction sets


@pytest.mark.parametrize(("cut", "threads"), [("serial", 1), ("rows", 3), ("units", 3)])
@dtypes
def test_uninitialised_memory_reaches_no_result(dtype, cut, threads, monkeypatch):
    """With every array of working memory filled with NaN first, the bits are the same."""
    found = []
    for debug in (False, True):
        monkeypatch.setattr(allocate, "DEBUG", debug)
        with cutting(cut, threads):
            result = [trained("steps", dtype, True, 1), trained("classes", dtype, False, 1)]
            for I, H in COVER:
                lstm = LSTM(I, H, 2, bidirectional=True, dtype=dtype, random_state=0)
                result.append(everything(lstm, problem(lstm, 6, 4), [4, 0, 1, 3, 4, 2]))
                one = LSTM(I, H, dtype=dtype, random_state=0)
                result.append(everything(one, problem(one, 13, 4)))
        found.append(result)
    same(found[1], found[0])


def digests():
    """A hash of forward, states, gradients and trained weights by name; the invariants are tested on the way."""
    found = {}

    def note(name, result):
        total = hashlib.sha256()
        for part, array in flat(result):
            total.update(part.encode() + array.tobytes())
        found[name] = total.hexdigest()

    for dtype in DTYPES:
        for I, H in COVER:
            lstm = LSTM(I, H, 1 + H % 2, bidirectional=I % 2 == 0, dtype=dtype, random_state=0)
            p, lengths = problem(lstm, 14, 5), [5, 0, 3, 1, 5, 5, 2] * 2
            result = everything(lstm, p)
            note(f"{dtype} {I} {H}", result)
            note(f"{dtype} {I} {H} ragged", everything(lstm, p, lengths))
            rows = [3, 11]
            same(per_row(everything(lstm, chosen(p, rows))), per_row(result, rows))
            same(per_row(everything(lstm, chosen(p, [13]))), per_row(result, [13]))
            with cutting("mixed", 3):
                same(everything(lstm, p), result)
            if lstm.directions == 1:
                first, state = lstm(p["x"][:, :2], (p["h"], p["c"]))
                same(np.concatenate([first, lstm(p["x"][:, 2:], state)[0]], axis=1), result["y"])
        for name in MODELS:
            note(f"{dtype} {name}", trained(name, dtype, True))
        lstm = LSTM(7, 18, dtype=dtype, random_state=0)
        for N, T in ((1, 700), (300, 3)):
            note(f"{dtype} long {N}", everything(lstm, problem(lstm, N, T)))
    return found


@functools.cache
def digests_of(isa):
    return json.loads(child("import json, test_same_bits as t; print(json.dumps(t.digests()))", LSTMX_ISA=isa))


@pytest.mark.parametrize("isa", describe()["usable"])
def test_every_instruction_set_keeps_the_promise_and_those_with_fma_agree(isa):
    fma = [name for name in describe()["usable"] if name != "baseline"]
    found = digests_of(isa)
    assert len(found) > 80
    if isa in fma:
        wanted = digests_of(fma[0])
        assert [name for name in wanted if found[name] != wanted[name]] == []


@pytest.mark.long
@pytest.mark.parametrize("isa", describe()["usable"])
def test_all_of_this_on_every_instruction_set(isa):
    code = "import sys, pytest; sys.exit(pytest.main(['-q', '-x', '-k', 'not instruction_set', sys.argv[1]]))"
    assert "[100%]" in child(code, __file__, timeout=900, LSTMX_ISA=isa)
