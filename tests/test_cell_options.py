"""The options of `lstmx.Cell`, through every engine and every way to run an LSTM: against lstmx.reference, finite
differences and ONNX Runtime.
"""

import pickle

import numpy as np
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from onnx import helper
from test_engine import EVERY, python
from test_lstm import batch_first, onnx_lstm
from tolerances import ENGINES, ONNXRUNTIME

import lstmx
from lstmx import LSTM, Cell, Dense, Last, Sequential, functional, reference
from lstmx._core import job
from lstmx.functional import engine as engines

CELLS = {
    "clip": Cell(clip=0.4),
    "cell_clip": Cell(cell_clip=0.3),
    "both": Cell(clip=0.8, cell_clip=0.25),
    "never reached": Cell(clip=50, cell_clip=50),
}
cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def problem(dtype, N=4, T=6, I=3, H=9, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=2, size=(N, T, I)).astype(dtype)
    weights = [rng.normal(size=shape).astype(dtype) for shape in ((4 * H, I), (4 * H, H), (4 * H,))]
    return (
        x,
        weights,
        [rng.normal(size=(N, H)).astype(dtype) for _ in range(2)],
        rng.normal(size=(N, T, H)).astype(dtype),
    )


@pytest.mark.parametrize("engine", EVERY, ids=lambda engine: engine.name)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("lengths", [None, [6, 0, 3, 5]], ids=str)
@dtypes
@cells
def test_outputs_and_gradients_equal_the_reference(cell, dtype, lengths, reverse, engine, monkeypatch):
    made = engine()
    monkeypatch.setattr(functional, "get_engine", lambda: made)
    x, weights, state, dy = problem(dtype)
    found = []
    for module in (functional, reference):
        y, last, tape = module.lstm_forward(x, *weights, state, lengths=lengths, reverse=reverse, cell=cell)
        grads = module.lstm_backward(tape, dy, state)
        h, after = module.lstm_step(x[:, 0], state, *weights, cell=cell)
        found.append([y, *last, grads.x, *grads.state, *grads.params.values(), h, *after])
    for ours, wanted in zip(*found, strict=True):
        assert ours.dtype == dtype
        assert_allclose(ours, wanted, **ENGINES[dtype])


def test_the_data_reach_the_bounds_and_leave_something_between():
    x, weights, state, _ = problem("float64")
    plain = reference.lstm_forward(x, *weights, state)
    for name, cell in CELLS.items():
        tape = reference.lstm_forward(x, *weights, state, cell=cell)[2]
        c = tape.c_prev[:, 1:]
        if cell.cell_clip and name != "never reached":
            assert 0.2 < np.mean(np.abs(c) == cell.cell_clip) < 0.95 and np.abs(c).max() == cell.cell_clip
        if cell.clip and name != "never reached":
            top = reference.sigmoid(cell.clip)
            assert 0.2 < np.mean(tape.gates[..., :18] == top) < 0.6
        if name == "never reached":
            assert_array_equal(tape.gates, plain[2].gates)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [5, 0, 2]], ids=str)
@cells
def test_gradients_equal_finite_differences(cell, lengths, bidirectional):
    lstm = LSTM(3, 5, 2, bidirectional=bidirectional, cell=cell, dtype="float64", random_state=0)
    lstmx.testing.gradcheck(lstm, np.random.default_rng(1).normal(scale=2, size=(3, 5, 3)), lengths=lengths)


def test_a_gate_clip_is_that_of_onnxruntime():
    lstm = LSTM(3, 17, bidirectional=True, cell=Cell(clip=0.3), random_state=0)
    x = np.random.default_rng(0).normal(scale=2, size=(4, 6, 3)).astype("f4")
    state = [np.random.default_rng(k).normal(size=(2, 4, 17)).astype("f4") for k in (1, 2)]
    model = onnx_lstm(lstm, lengths=False)
    model.graph.node[0].attribute.append(helper.make_attribute("clip", 0.3))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    Y, h, c = session.run(None, {"X": x.swapaxes(0, 1), "h0": state[0], "c0": state[1]})
    y, last = lstm(x, state)
    for ours, theirs in ((y, batch_first(Y)), (last[0], h), (last[1], c)):
        assert_allclose(ours, theirs, **ONNXRUNTIME)


@dtypes
@cells
def test_step_stream_trace_and_models_give_the_same_bits(cell, dtype):
    lstm = LSTM(3, 33, 2, cell=cell, dtype=dtype, random_state=0)
    x = np.random.default_rng(0).normal(scale=2, size=(5, 7, 3)).astype(dtype)
    y, (h, c) = lstm(x)
    state, steps = None, []
    for t in range(7):
        y_t, state = lstm.step(x[:, t], state)
        steps.append(y_t)
    first, middle = lstm.stream(x[:, :3])
    rest, end = lstm.stream(x[:, 3:], middle)
    exactly = engines.NAME == "tile"
    for found, wanted in (
        (np.stack(steps, 1), y), (state, (h, c)), (np.concatenate([first, rest], 1), y), (end, (h, c)),
        (lstm(list(x))[0], y), (lstm(x, lengths=[7] * 5)[0], y), (lstm.forward(x)[0], y), (lstm.trace(x).h[1, 0], y),
    ):  # fmt: skip
        for a, b in zip(found, wanted, strict=True):
            assert_array_equal(a, b) if exactly else assert_allclose(a, b, **ENGINES[dtype])
    model = Sequential([lstm, Last(), Dense(33, 2, dtype=dtype)], random_state=0)
    wanted, state = model.predict(list(x)), None
    for t in range(7):
        y_t, state = model.step(x[:, t], state)
    for found in (model.predict(x), y_t):
        assert_array_equal(found, wanted) if exactly else assert_allclose(found, wanted, **ENGINES[dtype])


@pytest.mark.skipif(engines.NAME != "tile", reason="a promise of the tile engine")
@cells
def test_batches_and_threads_do_not_change_the_bits(cell):
    lstm = LSTM(20, 70, bidirectional=True, cell=cell, random_state=0)
    x = np.random.default_rng(0).normal(scale=2, size=(9, 12, 20)).astype("f4")
    lengths, dy = np.array([12, 3, 0, 7, 12, 1, 9, 12, 5]), np.ones((9, 12, 140), "f4")

    def everything():
        y, last, tape = lstm.forward(x, lengths=lengths)
        grads = lstm.backward(tape, dy)
        return [y, *last, lstm(x)[0], grads.x, *grads.params.values()]

    with lstmx.num_threads(1):
        wanted = everything()
    before = job.set_limits(0, 0, 1)
    try:
        with lstmx.num_threads(3):
            found = everything()
    finally:
        job.set_limits(*before)
    for a, b in zip(found, wanted, strict=True):
        assert_array_equal(a, b)
    for n in range(9):
        assert_array_equal(lstm(x[n : n + 1])[0][0], wanted[3][n])


@cells
def test_a_cell_is_saved_pickled_copied_and_shown(cell, tmp_path):
    lstm = LSTM(3, 4, cell=cell, random_state=0)
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    lstm.save(tmp_path / "lstm.safetensors")
    model = Sequential([LSTM(3, 4, cell=cell), Last()], random_state=0)
    model.save(tmp_path / "model.safetensors")
    for again in (lstmx.load(tmp_path / "lstm.safetensors"), pickle.loads(pickle.dumps(lstm)), lstm.copy()):
        assert again.cell == cell and eval(repr(again), vars(lstmx)).config() == lstm.config()
        assert_array_equal(again(x)[0], lstm(x)[0])
    assert_array_equal(lstmx.load(tmp_path / "model.safetensors").predict(x), model.predict(x))
    assert lstm.astype("float64").cell == cell


def test_a_plain_cell_leaves_no_trace_in_a_file():
    assert "cell" not in LSTM(1, 1).config() and LSTM(1, 1, cell=Cell()).config() == LSTM(1, 1).config()
    assert Cell() == Cell(clip=None) and Cell().plain and not Cell(clip=1).plain


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, "1", [1], True])
@pytest.mark.parametrize("name", ["clip", "cell_clip"])
def test_wrong_options(name, value):
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: got"):
        Cell(**{name: value})


def test_wrong_cells():
    for wrong in (3, {"clip": 1}, Cell):
        with pytest.raises(TypeError, match=r"^cell: got .*must be an lstmx.Cell"):
            LSTM(1, 1, cell=wrong)
        with pytest.raises(TypeError, match=r"^cell: got"):
            functional.lstm_forward(np.zeros((1, 1, 1)), np.zeros((4, 1)), np.zeros((4, 1)), cell=wrong)
    with pytest.raises(ValueError, match="no option 'peep'"):
        Cell.from_config({"peep": 1})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_stays_in_its_row_and_reaches_its_gradients(dtype):
    x, weights, state, dy = problem(dtype)
    x[1, 2] = np.nan
    y, _, tape = functional.lstm_forward(x, *weights, state, cell=CELLS["both"])
    grads = functional.lstm_backward(tape, dy)
    assert np.isnan(y[1, 2:]).all() and not np.isnan(y[[0, 2, 3]]).any() and not np.isnan(y[1, :2]).any()
    assert np.isnan(grads.x[1]).all() and not np.isnan(grads.x[[0, 2, 3]]).any()
    assert all(np.isnan(g).any() for g in grads.params.values())


@pytest.mark.parametrize("name", ["blas", "reference"])
def test_the_other_engines_take_a_cell_through_an_lstm(name):
    code = (
        "import numpy as np, lstmx; x = np.random.default_rng(0).normal(size=(2, 5, 3));"
        "lstm = lstmx.LSTM(3, 4, cell=lstmx.Cell(clip=0.2, cell_clip=0.1), dtype='float64', random_state=0);"
        "print(lstmx.testing.gradcheck(lstm, x) < 1e-6, lstm.trace(x).c[0, 0].max(), lstm.step(x[:, 0])[0].shape)"
    )
    assert python(code, LSTMX_ENGINE=name).stdout.split() == ["True", "0.1", "(2,", "4)"]
