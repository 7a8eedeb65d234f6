"""The engines against each other and against lstmx.reference, through lstmx.functional and at their own interface."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from tolerances import ENGINES

from lstmx import LSTM, functional, reference
from lstmx._core import job
from lstmx.functional.cell import Cell
from lstmx.functional.engine import BlasEngine, ReferenceEngine, TileEngine, get_engine
from lstmx.functional.panels import Weights
from lstmx.functional.read import sequences

DTYPES = ["float32", "float64"]


class GeneralTile(TileEngine):
    """The tile on the general path, which cells with options take."""

    name = "general"

    def _fused(self, cell, proj, masks):
        return False


EVERY = [TileEngine, GeneralTile, BlasEngine, ReferenceEngine]
ROOT = Path(functional.__file__).parents[2]


@pytest.fixture(params=EVERY, ids=lambda engine: engine.name)
def engine(request, monkeypatch):
    """Each engine in turn, as the one that lstmx.functional uses."""
    made = request.param()
    monkeypatch.setattr(functional, "get_engine", lambda: made)
    return made


@pytest.fixture
def blocks(request):
    """Blocks of so many values, and of one step at least."""
    before = job.set_block(request.param, 1)
    yield request.param
    job.set_block(*before)


def problem(batch, steps, dtype="float64", inputs=3, hidden=5, seed=0):
    rng = np.random.default_rng([seed, batch, steps])
    shapes = {
        "x": (batch, steps, inputs),
        "weight_ih": (4 * hidden, inputs),
        "weight_hh": (4 * hidden, hidden),
        "bias": (4 * hidden,),
        "h0": (batch, hidden),
        "c0": (batch, hidden),
        "dy": (batch, steps, hidden),
        "dh_n": (batch, hidden),
        "dc_n": (batch, hidden),
    }
    scale = {"weight_ih": inputs**-0.5, "weight_hh": hidden**-0.5}  # what the gates see is of order 1 for any I and H
    return {k: (scale.get(k, 1) * rng.normal(size=shape)).astype(dtype) for k, shape in shapes.items()}


def run(p, module=functional, *, bias=True, state=True, dy=True, **options):
    """Everything that forward and backward give, by name, from lstmx.functional or lstmx.reference."""
    weights = p["weight_ih"], p["weight_hh"], p["bias"] if bias else None
    y, (h_n, c_n), tape = module.lstm_forward(p["x"], *weights, (p["h0"], p["c0"]) if state else None, **options)
    dstate = (p["dh_n"], p["dc_n"]) if state else None
    grads = module.lstm_backward(tape, p["dy"] if dy else None, dstate)
    out = {"y": y, "h_n": h_n, "c_n": c_n, "dx": grads.x, "dh0": grads.state[0], "dc0": grads.state[1]}
    return out | {f"d{name}": value for name, value in grads.params.items()}


def wide(p):
    return {name: array.astype(np.float64) for name, array in p.items()}


def agree(found, wanted, dtype):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert found[name].shape == wanted[name].shape, name
        assert found[name].dtype == dtype, name
        assert_allclose(found[name], wanted[name], **ENGINES[dtype], err_msg=name)


def lengths_of(kind, batch, steps):
    """Lengths by name: whole, ragged (unsorted, with an empty row), all empty."""
    if kind == "whole":
        return None
    ragged = [steps // 2, 0, steps][:batch]
    return np.array(ragged if kind == "ragged" else [0] * batch, np.int64)


# ------------------------------------------------------------------------------------ through lstmx.functional


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("kind", ["whole", "ragged", "empty"])
@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_and_gradients_equal_the_reference(engine, dtype, steps, batch, kind, reverse):
    p = problem(batch, steps, dtype)
    options = {"lengths": lengths_of(kind, batch, steps), "reverse": reverse}
    agree(run(p, **options), run(wide(p), reference, **options), dtype)


@pytest.mark.parametrize("left_out", ["bias", "state", "dy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_arguments_left_out_count_as_zero(engine, dtype, left_out):
    p = problem(3, 5, dtype)
    options = {left_out: False, "lengths": [3, 0, 5]}
    found = run(p, **options)
    assert ("dbias" in found) == (left_out != "bias")
    agree(found, run(wide(p), reference, **options), dtype)


@pytest.mark.parametrize(("inputs", "hidden"), [(1, 1), (2, 3), (7, 8), (8, 9), (17, 16), (3, 33)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sizes_beside_the_vector_width(engine, dtype, inputs, hidden):
    p = problem(3, 4, dtype, inputs, hidden)
    agree(run(p, lengths=[4, 1, 3]), run(wide(p), reference, lengths=[4, 1, 3]), dtype)


@pytest.mark.parametrize("reverse", [False, True])
def test_many_rows_of_all_lengths(engine, reverse):
    p = problem(40, 12, hidden=6)
    options = {"lengths": np.random.default_rng(1).integers(0, 13, 40), "reverse": reverse}
    agree(run(p, **options), run(p, reference, **options), "float64")


def test_the_test_data_are_not_degenerate():
    p = problem(3, 5)
    found = run(p, reference, lengths=[3, 0, 5])
    for name in ("dx", "dweight_ih", "dweight_hh", "dbias", "dh0", "dc0"):
        assert 0.1 < np.abs(found[name]).max() < 100, name
    gates = reference.lstm_forward(p["x"], p["weight_ih"], p["weight_hh"], p["bias"])[2].gates
    assert gates[..., :5].min() < 0.2 and gates[..., :5].max() > 0.8


@pytest.mark.parametrize("content", [np.nan, np.inf])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_content_of_the_padding_does_not_matter(engine, reverse, content):
    p = problem(3, 5)
    options = {"lengths": [3, 0, 5], "reverse": reverse}
    clean = run(p, **options)
    for name in ("x", "dy"):
        p[name][0, 3:], p[name][1] = content, content
    spoilt = run(p, **options)
    for name in clean:
        assert_array_equal(spoilt[name], clean[name], err_msg=name)
    assert not spoilt["y"][0, 3:].any() and not spoilt["dx"][0, 3:].any()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_of_length_zero_passes_state_and_gradient_through(engine, reverse):
    p = problem(3, 5, "float32")
    found = run(p, lengths=[3, 0, 5], reverse=reverse)
    for name, source in (("h_n", "h0"), ("c_n", "c0"), ("dh0", "dh_n"), ("dc0", "dc_n")):
        assert_array_equal(found[name][1], p[source][1])


def test_nan_stays_in_its_row(engine):
    p = problem(3, 5)
    clean = run(p, lengths=[3, 4, 5])
    p["x"][1, 2] = np.nan
    spoilt = run(p, lengths=[3, 4, 5])
    for name in ("y", "h_n", "c_n", "dx", "dh0", "dc0"):
        # the values of other rows may differ in the last bits of a BLAS product, which is not promised here
        assert_allclose(spoilt[name][[0, 2]], clean[name][[0, 2]], **ENGINES["float64"], err_msg=name)
    assert np.isnan(spoilt["y"][1, 2:4]).all() and not np.isnan(spoilt["y"][1, :2]).any()


@pytest.mark.parametrize("reverse", [False, True])
def test_a_list_and_one_sequence_equal_the_padded_batch(engine, reverse):
    p, lengths = problem(3, 5), [3, 0, 5]
    weights = p["weight_ih"], p["weight_hh"], p["bias"]
    state, dstate = (p["h0"], p["c0"]), (p["dh_n"], p["dc_n"])
    y, _, tape = functional.lstm_forward(p["x"], *weights, state, lengths=lengths, reverse=reverse)
    grads = functional.lstm_backward(tape, p["dy"], dstate)

    cut = [a[:n] for a, n in zip(p["x"], lengths, strict=True)]
    many, (h_n, c_n), tape = functional.lstm_forward(cut, *weights, state, reverse=reverse)
    dy = [a[:n] for a, n in zip(p["dy"], lengths, strict=True)]
    many_grads = functional.lstm_backward(tape, dy, dstate)
    for n, length in enumerate(lengths):
        assert_array_equal(many[n], y[n, :length])
        assert_array_equal(many_grads.x[n], grads.x[n, :length])
        one, one_state, tape = functional.lstm_forward(cut[n], *weights, (p["h0"][n], p["c0"][n]), reverse=reverse)
        one_grads = functional.lstm_backward(tape, dy[n], (p["dh_n"][n], p["dc_n"][n]))
        for found, want in zip((one, *one_state, one_grads.x, *one_grads.state),
                               (many[n], h_n[n], c_n[n], grads.x[n, :length], *(s[n] for s in grads.state)),
                               strict=True):  # fmt: skip
            assert_allclose(found, want, **ENGINES["float64"])


def test_steps_equal_the_whole_sequence(engine):
    p = problem(3, 5)
    want = run(p)
    state = p["h0"], p["c0"]
    for t in range(5):
        h, state = functional.lstm_step(p["x"][:, t], state, p["weight_ih"], p["weight_hh"], p["bias"])
        assert_allclose(h, want["y"][:, t], **ENGINES["float64"])
    assert_allclose(state, [want["h_n"], want["c_n"]], **ENGINES["float64"])


@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize(("N", "T"), [(1, 1), (1, 7), (3, 1), (4, 7)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine_class", [GeneralTile, BlasEngine])
def test_plain_arrays_give_what_packed_rows_give(engine_class, dtype, N, T, layers, bidirectional, monkeypatch):
    made = engine_class()
    monkeypatch.setattr("lstmx.layers.stack.get_engine", lambda: made)
    net = LSTM(3, 9, layers, bidirectional=bidirectional, dtype=dtype, random_state=0)
    x = np.random.default_rng(0).normal(size=(N, T, 3)).astype(dtype)
    state = tuple(np.random.default_rng(1).normal(size=(2, layers * net.directions, N, 9)).astype(dtype))
    y, (h, c) = net(x, state, lengths=[T] * N)

    def close(found):
        for a, b in zip((found[0], *found[1]), (y, h, c), strict=True):
            assert_allclose(a, b, **ENGINES[dtype])

    close(net(x, state))
    close(net(np.asfortranarray(x), state))
    if not bidirectional:
        close(net.stream(x, state))
        out = np.empty_like(y), tuple(s.copy() for s in state)
        close(net.stream(x, out[1], out=out))
        steps = []
        for t in range(T):
            y_t, state = net.step(x[:, t], state)
            steps.append(y_t)
        close((np.stack(steps, 1), state))


@pytest.mark.parametrize("engine_class", [TileEngine, GeneralTile, BlasEngine])
@pytest.mark.parametrize("inputs", [1, 3, 20])
def test_rows_that_lie_anyhow_give_what_copies_give(engine_class, inputs, monkeypatch, capfd):
    """BLAS takes no rows that overlap or go backwards."""
    made = engine_class()
    monkeypatch.setattr("lstmx.layers.stack.get_engine", lambda: made)
    net = LSTM(inputs, 9, 2, dtype="float64", random_state=0)
    x = np.random.default_rng(0).normal(size=(4, 7, inputs))
    for view in (
        x[::-1],
        x[:, ::-1],
        x[::-1, ::-1],
        x[::2, ::3],
        x[:1, ::-1],
        np.broadcast_to(x[0], x.shape),
        np.broadcast_to(x[:, :1], x.shape),
        np.broadcast_to(x[0, 0], x.shape),
        np.lib.stride_tricks.sliding_window_view(x[0], 4, axis=0).swapaxes(1, 2),
        np.lib.stride_tricks.as_strided(x, x.shape, (8, x.strides[1], 8)),
    ):
        wanted = net(view.copy(), lengths=[view.shape[1]] * len(view))
        for found in (net(view), net.stream(view)):
            for a, b in zip((found[0], *found[1]), (wanted[0], *wanted[1]), strict=True):
                assert_allclose(a, b, **ENGINES["float64"])
        for n in range(len(view)):
            assert_allclose(net(view[n])[0], wanted[0][n], **ENGINES["float64"])
        for t in range(view.shape[1]):
            assert_allclose(net.step(view[:, t])[0], net(view[:, t : t + 1].copy())[0][:, 0], **ENGINES["float64"])
    assert not "".join(capfd.readouterr())  # BLAS says what it does not take, and goes on


def test_inputs_are_not_changed(engine):
    p = problem(3, 5)
    before = {name: array.copy() for name, array in p.items()}
    run(p, lengths=[3, 0, 5])
    for name, array in p.items():
        assert_array_equal(array, before[name], err_msg=name)


def test_a_retained_tape_gives_the_same_gradients_twice_and_a_used_one_an_error(engine):
    p = problem(3, 5)
    _, _, tape = functional.lstm_forward(p["x"], p["weight_ih"], p["weight_hh"], p["bias"])
    first = functional.lstm_backward(tape, p["dy"], retain=True)
    second = functional.lstm_backward(tape, p["dy"])
    assert_array_equal(first.x, second.x)
    for name in first.params:
        assert_array_equal(first.params[name], second.params[name])
    with pytest.raises(RuntimeError, match="retain=True"):
        functional.lstm_backward(tape, p["dy"])


# ------------------------------------------------------------------------------------ the engines' own interface


def packed(p, lengths):
    """Arguments of an engine's methods, in packed rows and sorted order."""
    dtype = p["x"].dtype
    rows, context = sequences(p["x"], p["x"].shape[2], dtype, lengths=lengths).all()
    states = {name: np.ascontiguousarray(context.sort(p[name])) for name in ("h0", "c0", "dh_n", "dc_n")}
    return rows, context, context.pack(p["dy"]), states


def engine_run(engine, p, lengths=(3, 0, 5), reverse=False, need_dx=True, add_to_dx=False, wide_y=False):
    """Forward and backward of an engine with all that it can give, by name."""
    rows, context, dy, s = packed(p, lengths)
    hidden = p["weight_hh"].shape[1]
    weights = Weights(Cell(), {name: p[name] for name in ("weight_ih", "weight_hh", "bias")})
    h, c = s["h0"].copy(), s["c0"].copy()
    room = np.full((len(rows), 3 * hidden), -7, rows.dtype)
    y = room[:, hidden : 2 * hidden] if wide_y else np.empty((len(rows), hidden), rows.dtype)
    slabs = engine.forward(rows, weights, context, reverse, h, c, y, True)
    out = {"y": y.copy(), "h_n": h, "c_n": c} | {name: slab.copy() for name, slab in slabs.items()}
    if wide_y:  # a bidirectional layer writes each direction into its own columns
        assert (room[:, :hidden] == -7).all() and (room[:, 2 * hidden :] == -7).all()
        dy_room = np.full_like(room, np.nan)
        dy_room[:, :hidden] = dy
        dy = dy_room[:, :hidden]
    dh, dc = s["dh_n"].copy(), s["dc_n"].copy()
    dx = np.full_like(rows, 2.0 if add_to_dx else np.nan) if need_dx else None
    grads = {name: np.full_like(w, np.nan) for name, w in weights.arrays.items()}
    flow = np.full_like(y, np.nan), np.full_like(y, np.nan)
    engine.backward(rows, weights, context, reverse, slabs, dy, dh, dc, dx, add_to_dx, grads, flow)
    out |= {"dh0": dh, "dc0": dc, "dh_all": flow[0], "dc_all": flow[1]}
    out |= {f"d{name}": grad for name, grad in grads.items()}
    return out | ({"dx": dx} if need_dx else {})


@pytest.mark.parametrize("engine_class", EVERY[:-1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_engines_agree_in_slabs_and_gradient_flow(dtype, reverse, engine_class):
    p = problem(3, 5, dtype)
    agree(engine_run(engine_class(), p, reverse=reverse), engine_run(ReferenceEngine(), p, reverse=reverse), dtype)


@pytest.mark.parametrize("engine_class", EVERY)
def test_a_gradient_of_x_is_added_or_left_out_on_request(engine_class):
    p, engine = problem(3, 5), engine_class()
    plain, added = engine_run(engine, p), engine_run(engine, p, add_to_dx=True)
    assert_allclose(added["dx"], plain["dx"] + 2, **ENGINES["float64"])
    without = engine_run(engine, p, need_dx=False)
    for name in without:
        assert_array_equal(without[name], plain[name], err_msg=name)


@pytest.mark.parametrize("engine_class", EVERY)
def test_outputs_may_be_columns_of_a_wider_array(engine_class):
    p, engine = problem(3, 5), engine_class()
    plain, columns = engine_run(engine, p), engine_run(engine, p, wide_y=True)
    for name in plain:
        assert_allclose(columns[name], plain[name], **ENGINES["float64"], err_msg=name)


@pytest.mark.parametrize("engine_class", EVERY)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("blocks", [1, 100, 1000], indirect=True)
def test_inference_equals_training_for_any_size_of_block(engine_class, reverse, blocks):
    p = problem(4, 9)
    rows, context, _, s = packed(p, [7, 0, 9, 3])
    weights = Weights(Cell(), {name: p[name] for name in ("weight_ih", "weight_hh", "bias")})
    results = []
    for training in (False, True):
        h, c, y = s["h0"].copy(), s["c0"].copy(), np.full((len(rows), 5), np.nan)
        slabs = engine_class().forward(rows, weights, context, reverse, h, c, y, training)
        assert (slabs is None) == (not training)
        results.append([y, h, c])
    for inference, training in zip(*results, strict=True):
        assert_allclose(inference, training, **ENGINES["float64"])


@pytest.mark.parametrize("engine_class", EVERY)
def test_without_steps_parameter_gradients_are_written_as_zero(engine_class):
    p = problem(3, 2)
    found = engine_run(engine_class(), p, lengths=[0, 0, 0])
    for name in ("dweight_ih", "dweight_hh", "dbias"):
        assert_array_equal(found[name], np.zeros_like(p[name[1:]]))
    assert_array_equal(found["dh0"], p["dh_n"])


@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize(("m", "n", "k"), [(3, 4, 5), (1, 1, 1), (1, 7, 2), (0, 4, 5), (3, 0, 5), (3, 4, 0)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("engine_class", EVERY)
def test_product(engine_class, dtype, m, n, k, transpose_a, transpose_b):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(k, m) if transpose_a else (m, k)).astype(dtype)
    b = rng.normal(size=(n, k) if transpose_b else (k, n)).astype(dtype)
    out = np.full((m, n), np.nan, dtype)
    if transpose_a:
        engine_class().outer(a, b, out, np.array([0, k]))
    else:
        engine_class().product(a, b, out, transpose_b)
    left, right = (a.T if transpose_a else a), (b.T if transpose_b else b)
    want = (left.astype(np.float64)[:, :, None] * right[None]).sum(axis=1)
    assert_allclose(out, want, **ENGINES[dtype])


def test_sizes_beyond_the_integers_of_blas_are_an_error():
    engine = BlasEngine()
    huge = np.broadcast_to(np.float32(1), (2**31, 1))
    with pytest.raises(ValueError, match="beyond this BLAS"):
        engine.product(huge, np.ones((1, 1), np.float32), huge)


# ------------------------------------------------------------------------------------ LSTMX_ENGINE


def python(code, **environment):
    """Run Python code in a fresh process that finds this lstmx; its completed process."""
    env = {k: v for k, v in os.environ.items() if k != "LSTMX_ENGINE"}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])} | environment
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)


NAME = "from lstmx.functional.engine import get_engine; print(get_engine().name)"


@pytest.mark.parametrize("name", ["tiles", "BLAS", "blas ", "Tile"])
def test_an_unknown_engine_is_an_error_that_names_the_choices(name):
    done = python(NAME, LSTMX_ENGINE=name)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and f"LSTMX_ENGINE={name!r}" in last
    assert "blas" in last and "reference" in last


@pytest.mark.parametrize(
    ("value", "name"), [("tile", "tile"), ("blas", "blas"), ("reference", "reference"), ("", "tile"), (None, "tile")]
)
def test_the_variable_chooses_the_engine(value, name):
    done = python(NAME, **({} if value is None else {"LSTMX_ENGINE": value}))
    assert done.stdout.split() == [name], done.stderr


def test_this_process_obeys_the_variable():
    assert get_engine().name == (os.environ.get("LSTMX_ENGINE") or "tile")
    assert get_engine() is get_engine()


def test_without_scipy_the_blas_engine_is_an_error_not_a_fallback_and_the_reference_works():
    hidden = "import sys; sys.modules['scipy'] = None; "
    done = python(hidden + NAME, LSTMX_ENGINE="blas")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError") and "SciPy" in last and "scipy>=1.13" in last
    assert python(hidden + NAME, LSTMX_ENGINE="reference").stdout.split() == ["reference"]
