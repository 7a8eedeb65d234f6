"""The options of `lstmx.Cell`, through every engine and every way to run an LSTM: against lstmx.reference_cells, finite
differences and ONNX Runtime.
"""

import hashlib
import json
import os
import pickle
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from cell_cases import CELLS, Exact, assert_near, dropped, dropped_by, network, problem
from hypothesis import given, settings
from hypothesis import strategies as st
from lstm_cases import everything
from numpy.testing import assert_allclose, assert_array_equal
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from test_engine import EVERY, python
from test_lstm import batch_first
from test_lstm_parameters import OVER, SMALL, UNDER, peak
from test_reference_cells import EVERY_ACTIVATION, SCALED, any_cell
from test_same_bits import child, cutting, same
from tolerances import ENGINES, FINITE_DIFFERENCE, ONNXRUNTIME, PEER, SIGMAS

import lstmx
from lstmx import LSTM, Cell, Dense, Last, Sequential, functional, inspect, reference, reference_cells
from lstmx._core import loop
from lstmx._core.isa import describe
from lstmx.functional import allocate
from lstmx.functional import engine as engines
from lstmx.functional.cell import suffix

H = 9  # a head is 3 units; not a multiple of any vector
PROJ = 5

cells = pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
tile = pytest.mark.skipif(engines.NAME != "tile", reason="a promise of the tile engine")


def assert_same(found, wanted):
    """The same bits, as the tile engine promises; nearly the same numbers by another."""
    for a, b in zip(found, wanted, strict=True):
        if engines.NAME == "tile":
            assert_array_equal(a, b)
        else:
            assert_allclose(a, b, **ENGINES[b.dtype.name])


def by_name(y, last, grads):
    """All results, as `lstm_cases.everything` names them."""
    found = {"y": y, "h_n": last[0], "c_n": last[1], "dx": grads[0], "dh0": grads[1][0], "dc0": grads[1][1]}
    return found | {f"d{name}": value for name, value in grads[2].items()}


# The values, by every engine

FORMS = [  # projection, bias, lengths, reverse
    (0, True, None, False),
    (PROJ, True, [6, 0, 3, 5], True),
    (0, False, [2, 6, 0, 1], False),
    (PROJ, False, None, True),
]


@pytest.mark.parametrize("engine", EVERY, ids=lambda engine: engine.name)
@dtypes
@cells
def test_outputs_and_gradients_equal_the_reference(cell, dtype, engine, monkeypatch):
    made = engine()
    monkeypatch.setattr(functional, "get_engine", lambda: made)
    cell = replace(cell, learn_state=False)  # a matter of layers
    for proj, bias, lengths, reverse in FORMS if made.compiled else FORMS[1:2]:
        lstm = network(cell, 3, H, proj=proj, bias=bias, dtype=dtype)
        p = problem(lstm, 4, 6)
        state, dstate = ((p[h][0], p[c][0]) for h, c in (("h", "c"), ("dh", "dc")))
        params = {n.removesuffix("_l0"): a for n, a in lstm.parameters().items()}
        exact = {name: a.astype(float) for name, a in params.items()}
        options = {"lengths": lengths, "reverse": reverse, "cell": cell}
        wide = tuple(s.astype(float) for s in state)
        for rng in (None, 5) if cell.drops else (None,):
            y, last, tape = functional.lstm_forward(p["x"], state=state, rng=rng, **params, **options)
            masks = dropped(tape.parts["slabs"], tape.context)
            assert (masks is None) == (rng is None)
            found = by_name(y, last, functional.lstm_backward(tape, p["dy"], dstate))
            y, last, tape = reference_cells.lstm_forward(p["x"].astype(float), exact, wide, masks=masks, **options)
            wanted = by_name(y, last, reference_cells.lstm_backward(tape, p["dy"].astype(float), dstate))
            assert_near(found, wanted, dtype)
        y, (h, c) = functional.lstm_step(p["x"][:, 0], state, cell=cell, **params)
        wanted = reference_cells.lstm_step(p["x"][:, 0].astype(float), wide, exact, cell=cell)
        assert_near({"y": y, "h": h, "c": c}, {"y": wanted[0], "h": wanted[1][0], "c": wanted[1][1]}, dtype)


@pytest.mark.long
@pytest.mark.parametrize(("I", "H"), [(1, 3), (16, 6), (8, 15), (33, 18), (5, 33), (17, 66), (130, 132)])
@cells
def test_any_size_equals_the_reference(cell, I, H):
    """Around the widths of vectors, panels and blocks of 128 terms."""
    for dtype in ("float32", "float64") if H > 3 else ("float64",):
        lstm = network(cell, I, H, proj=H // 2 + 1, dtype=dtype, seed=I)
        p = problem(lstm, 3, 3)
        exact = Exact(lstm)
        y, last, tape = lstm.forward(p["x"], (p["h"], p["c"]), lengths=[3, 1, 2], rng=0)
        found = by_name(y, last, lstm.backward(tape, p["dy"], (p["dh"], p["dc"])))
        given = exact.forward(p["x"], (p["h"], p["c"]), [3, 1, 2], dropped_by(tape))
        assert_near(found, by_name(*given, exact.backward(p["dy"], (p["dh"], p["dc"]))), dtype)


@pytest.mark.parametrize(
    ("dtype", "proj", "lengths"),
    [("float64", PROJ, [2, 4, 0]), ("float32", 0, None)],
    ids=["projected, ragged", "plain"],
)
@cells
def test_layers_and_directions_are_composed(cell, dtype, proj, lengths):
    lstm, T = network(cell, 4, H, 2, proj=proj, bidirectional=True, dtype=dtype), 4
    p, exact = problem(lstm, 3, T), Exact(lstm)
    state = (p["h"], p["c"]) if proj else None
    y, last, tape = lstm.forward(p["x"], state, lengths=lengths, rng=3)
    found = by_name(y, last, lstm.backward(tape, p["dy"], (p["dh"], p["dc"])))
    wanted = exact.forward(p["x"], state, lengths, dropped_by(tape))
    assert_near(found, by_name(*wanted, exact.backward(p["dy"], (p["dh"], p["dc"]))), dtype)

    # inference, and what flows back through it
    wanted, (y, last) = exact.forward(p["x"], None, lengths), lstm(p["x"], lengths=lengths)
    found = {"y": y, "h": last[0], "c": last[1]}
    assert_near(found, {"y": wanted[0], "h": wanted[1][0], "c": wanted[1][1]}, dtype)
    exact.backward(p["dy"], [0 * p["h"], 0 * p["c"]])
    flow = inspect.gradient_flow(lstm, p["x"], p["dy"], lengths=lengths)
    running = np.arange(T) < np.where(lengths is None, T, lengths)[..., None]
    for k, grads in exact.grads.items():
        found = {"dh": flow.dh[divmod(k, 2)], "dc": flow.dc[divmod(k, 2)]}
        assert_near(found, {name: getattr(grads, name) * running[..., None] for name in found}, dtype)


@cells
def test_the_data_are_not_degenerate(cell):
    """Every gradient is far from 0, and every option changes what comes out."""
    lstm = network(cell, 3, H, proj=PROJ)
    p = problem(lstm, 4, 6)
    arguments = p["x"], (p["h"], p["c"]), p["dy"], (p["dh"], p["dc"])
    for state in (arguments[1], None):
        for name, value in everything(lstm, arguments[0], state, *arguments[2:], rng=0).items():
            if cell.slstm and name == "dc0" and state is None:
                assert not value.any()  # all units are fresh
            elif state is None or not name.startswith("dinitial"):
                assert np.abs(value).max() > 0.02, name
    if not cell.config() or cell.slstm or cell.cifg or cell == CELLS["clips never reached"]:
        return  # nothing to see, or weights of other shapes
    plain = network(Cell(), 3, H, proj=PROJ)
    plain.set_parameters({name: lstm.parameters()[name] for name in plain.parameters() if "bias" not in name})
    lstm.set_parameters({name: p for name, p in plain.parameters().items() if name in lstm.parameters()})
    assert np.abs(lstm.forward(p["x"], rng=0)[0] - plain(p["x"])[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["clip", "cell_clip", "both clips", "clips never reached", "fastrnn, clipped"])
def test_the_data_reach_the_bounds_and_leave_something_between(name):
    cell = CELLS[name]
    lstm = network(cell, 3, H)
    p = problem(lstm, 4, 6)
    exact = Exact(lstm)
    exact.forward(p["x"], (p["h"], p["c"]))
    tape = exact.tapes[0]
    c, gates = tape.c_prev[:, 1:], tape.gates[..., : 2 * H]
    if name == "clips never reached":
        plain = reference.lstm_forward(p["x"], *lstm.parameters().values(), (p["h"][0], p["c"][0]))
        assert_allclose(tape.gates, plain[2].gates, **PEER["float64"])
        return
    if cell.cell_clip:
        assert 0.1 < np.mean(np.abs(c) == cell.cell_clip) < 0.95 and np.abs(c).max() == cell.cell_clip
    if cell.clip:
        assert 0.1 < np.mean(gates == reference.sigmoid(cell.clip)) < 0.6


# Gradients


@pytest.mark.parametrize("bidirectional", [False, True])
@cells
def test_gradients_equal_finite_differences(cell, bidirectional):
    lengths = [2, 3] if bidirectional else None
    lstm = network(cell, 2, 3, proj=2 * bidirectional, bidirectional=bidirectional)
    p = problem(lstm, 2, 3)
    if cell.slstm:  # a fresh unit has no derivative
        p["c"] += 0.2 * (p["c"] == 0)
    # a layer norm of zeros, where a network begins, is too steep for a step of finite size
    state = None if cell.learn_state else (p["h"], p["c"])
    lstmx.testing.gradcheck(lstm, p["x"], state, lengths=lengths, **FINITE_DIFFERENCE)


SMOOTH = {"sigmoid", "tanh", "scaled_tanh", "softsign"}


@st.composite
def random_networks(draw):
    """An LSTM of any options, input and lengths."""
    cell, rate = draw(any_cell()), st.sampled_from([0, 0, 0.3])
    if draw(st.booleans()):
        smooth = {"clip": None, "cell_clip": None, "layer_norm": None, "slstm": False, "heads": 1}
        curves = tuple(draw(st.sampled_from(["sigmoid", "tanh", "softsign", SCALED[3]])) for _ in range(3))
        cell = replace(cell, **smooth, activations=curves)
    more = {"input_dropout": draw(rate), "recurrent_dropout": draw(rate), "weight_dropout": draw(rate)}
    more["dropout_per_gate"] = bool(more["input_dropout"] or more["recurrent_dropout"]) and draw(st.booleans())
    more["learn_state"] = not cell.slstm and draw(st.booleans())
    seed, lengths = draw(st.integers(0, 99)), draw(st.none() | st.lists(st.integers(0, 3), min_size=2, max_size=2))
    lstm = network(
        replace(cell, **more), 2, 4, draw(st.sampled_from([1, 2])), proj=draw(st.sampled_from([0, 3])), seed=seed,
        bidirectional=draw(st.booleans()), bias=draw(st.booleans()),
    )  # fmt: skip
    return lstm, problem(lstm, 2, 3, seed), lengths, draw(st.booleans())


def check_random_network(case):
    """Values and gradients are those of the oracle. Where nothing has a corner, or is as steep as a layer norm, finite
    differences along one random direction of each array say the same.
    """
    lstm, p, lengths, begin = case
    state = (p["h"], p["c"]) if begin else None
    found = everything(lstm, p["x"], state, p["dy"], (p["dh"], p["dc"]), lengths=lengths, rng=0)
    exact, tape = Exact(lstm), lstm.forward(p["x"], state, lengths=lengths, rng=0)[2]
    dropping = lstm.cell.weight_dropout > 0
    if dropping:  # the oracle computes with what was left of the weights
        for layer, (*_, parameters, key, _) in enumerate(tape.parts["layers"]):
            for d in range(lstm.directions):
                weights = lstm._weights(layer, d, parameters, key)
                exact.params["weight_hh" + suffix(layer, d)] = weights.arrays["weight_hh"]
    wanted = exact.forward(p["x"], state, lengths, dropped_by(tape))
    wanted = by_name(*wanted, exact.backward(p["dy"], (p["dh"], p["dc"])))
    if dropping:
        for name in [name for name in wanted if name.startswith("dweight_hh")]:
            wanted[name] *= (exact.params[name[1:]] != 0) / (1 - lstm.cell.weight_dropout)
    assert_near(found, wanted, "float64")
    cell = lstm.cell
    curves = {a if isinstance(a, str) else a[0] for a in cell.activations}
    if cell.slstm or cell.clip or cell.cell_clip or cell.layer_norm or curves - SMOOTH:
        return
    direction = np.random.default_rng(0)

    def loss(x=p["x"], state=state):
        y, last, _ = lstm.forward(x, state, lengths=lengths, rng=0)
        return (y * p["dy"]).sum() + (last[0] * p["dh"]).sum() + (last[1] * p["dc"]).sum()

    def check(name, array, at):
        """at(array) is the loss."""
        step = direction.normal(size=array.shape)
        difference = (at(array + 1e-6 * step) - at(array - 1e-6 * step)) / 2e-6
        assert_allclose((found[name] * step).sum(), difference, **FINITE_DIFFERENCE, err_msg=name)

    check("dx", p["x"], lambda x: loss(x=x))
    for name, value in lstm.parameters().items():

        def at(array, name=name):
            lstm.set_parameters({name: array})
            return loss()

        check("d" + name, value, at)
        lstm.set_parameters({name: value})


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(random_networks())
def test_random_options_have_the_values_and_gradients_of_the_oracle(case):
    check_random_network(case)


@pytest.mark.long
@settings(max_examples=600, deadline=None, database=None)
@given(random_networks())
def test_many_random_options(case):
    check_random_network(case)


# The same bits


def shown(lstm, p, lengths=None):
    """Inference and, with what a cell drops drawn by 0, training; rows first, but for the sums over rows in params."""
    state = (p["h"], p["c"])
    y, (h, c) = lstm(p["x"], state, lengths=lengths)
    found = {"y": y, "h": h.swapaxes(0, 1), "c": c.swapaxes(0, 1)}
    y, last, tape = lstm.forward(p["x"], state, lengths=lengths, rng=0)
    grads = lstm.backward(tape, p["dy"], (p["dh"], p["dc"]))
    rows = {"y": y, "dx": grads.x}
    rows |= {k: a.swapaxes(0, 1) for k, a in zip(("h", "c", "dh", "dc"), (*last, *grads.state), strict=True)}
    return {"called": found, "trained": rows, "params": grads.params}


def rows_of(p, rows):
    return {name: a[rows] if name in ("x", "dy") else a[:, rows] for name, a in p.items()}


@dtypes
@cells
def test_step_stream_chunks_and_trace_give_the_bits_of_the_whole(cell, dtype):
    for proj in (0, 7):
        lstm = network(cell, 3, 33, 2, proj=proj, dtype=dtype)
        p = problem(lstm, 5, 7)
        x, start = p["x"], (p["h"], p["c"])
        y, (h, c) = lstm(x, start)
        state, own, steps, into = start, tuple(s.copy() for s in start), [], np.empty_like(y[:, 0])
        for t in range(7):
            y_t, state = lstm.step(x[:, t], state)
            steps.append(y_t)
            lstm.step(np.ascontiguousarray(x[:, t]), own, out=(into, own))
            assert_same([into], [y_t])
        first, middle = lstm.stream(x[:, :3], start)
        rest, end = lstm.stream(x[:, 3:], middle)
        one = tuple(s[:, 1] for s in start)
        for found, wanted in (
            (np.stack(steps, 1), y), (state, (h, c)), (own, (h, c)), (np.concatenate([first, rest], 1), y),
            (end, (h, c)), (lstm(list(x), start)[0], y), (lstm(x, start, lengths=[7] * 5)[0], y),
            (lstm.trace(x, start).h[1, 0], y), (lstm(x[1], one)[0], y[1]), (lstm.stream(x[1], one)[1][1], c[:, 1]),
        ):  # fmt: skip
            assert_same(found, wanted)
        if not cell.drops:
            assert_same(lstm.forward(x, start)[0], y)
            a, middle, _ = lstm.forward(x[:, :2], start)
            b, end, _ = lstm.forward(x[:, 2:], middle)
            assert_same([np.concatenate([a, b], 1), *end], [y, h, c])
        model = Sequential([lstm, Last(), Dense(lstm.output_size(), 2, dtype=dtype)], random_state=0)
        wanted, state = model.predict(list(x)), None
        for t in range(7):
            y_t, state = model.step(x[:, t], state)
        for found in (model.predict(x), y_t):
            assert_same(found, wanted)


@pytest.mark.long
@tile
@pytest.mark.parametrize("bidirectional", [False, True])
@dtypes
@cells
def test_a_row_has_the_same_bits_alone_and_in_any_batch(cell, dtype, bidirectional):
    lstm = network(cell, 20, 36, 1 + bidirectional, proj=7 * bidirectional, bidirectional=bidirectional, dtype=dtype)
    lengths = np.array([6, 3, 0, 5, 6, 1, 4, 6, 2, 6, 6, 5, 6, 3, 6])
    p = problem(lstm, len(lengths), 6)
    whole, ragged = shown(lstm, p), shown(lstm, p, lengths)
    for rows in ([0], [14], [9, 3, 9], list(range(14, -1, -1))):
        for found, wanted in (
            (shown(lstm, rows_of(p, rows)), whole),
            (shown(lstm, rows_of(p, rows), lengths[rows]), ragged),
        ):
            parts = ["called"] if cell.drops else ["called", "trained"]  # masks are those of a row's place
            same({k: found[k] for k in parts}, {k: {n: a[rows] for n, a in wanted[k].items()} for k in parts})
    for n in (1, 2, 3):
        cut = {name: a[:, : lengths[n]] if name in ("x", "dy") else a for name, a in rows_of(p, [n]).items()}
        alone = shown(lstm, cut)["called"]
        for name, a in alone.items():
            same(a[0], ragged["called"][name][n, : lengths[n]] if name == "y" else ragged["called"][name][n])


@tile
@pytest.mark.parametrize("proj", [0, 7])
@dtypes
@cells
def test_any_number_of_threads_gives_the_same_bits(cell, dtype, proj):
    if proj and cell.slstm:
        return
    lstm = network(cell, 20, 36, proj=proj, bidirectional=bool(proj), dtype=dtype)
    lengths = np.random.default_rng(0).integers(0, 9, 37)
    p = problem(lstm, 37, 8)  # two blocks of the sums over rows and steps
    one = rows_of(p, [0])
    with lstmx.num_threads(1):
        wanted = shown(lstm, p), shown(lstm, p, lengths), shown(lstm, one)
    for cut, threads in (("rows", 2), ("rows", 7), ("units", 3), ("mixed", 3)):
        with cutting(cut, threads):
            same((shown(lstm, p), shown(lstm, p, lengths), shown(lstm, one)), wanted)


THREADS = """
import os, sys
import numpy as np, lstmx
from cell_cases import CELLS, network
from test_same_bits import cutting
lstm = network(CELLS[sys.argv[1]], 20, 90, dtype="float32")
x = np.zeros((6, 50, 20), "f4")
start = len(os.listdir("/proc/self/task"))
with cutting("rows", 3):
    if sys.argv[2] == "forward":
        lstm(x)
    else:
        lstm.backward(lstm.forward(x, rng=0)[2], None)
print(len(os.listdir("/proc/self/task")) - start)
"""


@tile
@pytest.mark.skipif(not os.path.isdir("/proc/self/task") or not loop.openmp(), reason="needs Linux and OpenMP")
@pytest.mark.parametrize(
    ("name", "what"), [("peephole", "backward"), ("zoneout, haste", "forward"), ("slstm of 3 heads", "backward")]
)
def test_these_tests_really_use_threads(name, what):
    assert int(child(THREADS, name, what, OMP_DYNAMIC="false")) == 2


@tile
@cells
def test_uninitialised_memory_reaches_no_result(cell, monkeypatch):
    found = []
    for debug in (False, True):
        monkeypatch.setattr(allocate, "DEBUG", debug)
        for cut, threads in (("serial", 1), ("rows", 3)):
            with cutting(cut, threads):
                lstm = network(cell, 7, 18, 2, proj=PROJ, bidirectional=True, dtype="float32")
                found.append(shown(lstm, problem(lstm, 6, 4), [4, 0, 1, 3, 4, 2]))
    for other in found[1:]:
        same(other, found[0])


@dtypes
@cells
def test_nan_stays_in_its_row_and_reaches_its_gradients(cell, dtype):
    lstm = network(cell, 3, H, proj=PROJ, dtype=dtype)
    p = problem(lstm, 4, 6)
    clean = shown(lstm, p)
    p["x"][1, 2] = np.nan
    with np.errstate(invalid="ignore"):  # the NumPy engine warns
        found = shown(lstm, p)
    others = [0, 2, 3]
    assert np.isnan(found["called"]["y"][1, 2:]).all() and not np.isnan(found["called"]["y"][1, :2]).any()
    for part in ("called", "trained"):
        for name, value in found[part].items():
            assert_same([value[others]], [clean[part][name][others]])
    assert np.isnan(found["trained"]["dx"][1]).any() and not np.isnan(found["trained"]["dx"][others]).any()
    gradients = {name: g for name, g in found["params"].items() if not name.startswith("initial")}
    assert all(np.isnan(g).any() for g in gradients.values()), gradients.keys()


def digests():
    """A hash of all results of every cell by name."""
    found = {}
    for name, cell in CELLS.items():
        for dtype in ("float32", "float64"):
            lstm = network(cell, 20, 39, 2, proj=7, bidirectional=True, dtype=dtype)
            total = hashlib.sha256()
            for part in shown(lstm, problem(lstm, 5, 9), [9, 0, 3, 8, 9]).values():
                for key, array in part.items():
                    total.update(key.encode() + array.tobytes())
            found[f"{name} {dtype}"] = total.hexdigest()
    return found


@tile
def test_instruction_sets_with_fma_agree():
    code = "import json, test_cell_options as t; print(json.dumps(t.digests()))"
    fma = [name for name in describe()["usable"] if name != "baseline"]
    found = [json.loads(child(code, LSTMX_ISA=name)) for name in fma]
    for other in found:
        assert (
            len(other) == 2 * len(CELLS) == len(set(other.values())) + 2
        )  # bounds that are not reached change nothing
        assert [name for name in other if other[name] != found[0][name]] == []


@pytest.mark.long
@pytest.mark.parametrize("isa", [isa for isa in describe()["usable"] if isa != describe()["active"]])
def test_values_and_bits_on_every_other_instruction_set(isa):
    chosen = "equal_the_reference or equals_the_reference or same_bits or the_bits_of_the_whole"
    code = f"import sys, pytest; sys.exit(pytest.main(['-q', '-x', '-m', '', '-k', '{chosen}', sys.argv[1]]))"
    assert "[100%]" in child(code, __file__, timeout=900, LSTMX_ISA=isa)


# What is dropped


@pytest.mark.parametrize(("dropout", "per_gate"), [("input", False), ("input", True), ("recurrent", True)])
def test_masks_of_dropout_have_their_rate_and_are_those_of_a_row_whatever_its_length(dropout, per_gate):
    cell = Cell(**{f"{dropout}_dropout": 0.3}, dropout_per_gate=per_gate)
    lstm = network(cell, 50, 50, 2, bidirectional=True)
    x = np.zeros((40, 3, 50))
    masks = [getattr(m, dropout) for m in dropped_by(lstm.forward(x, rng=0)[2])]
    lengths = np.random.default_rng(0).integers(0, 4, 40)
    assert_array_equal(
        np.concatenate(masks, axis=2),
        np.concatenate([getattr(m, dropout) for m in dropped_by(lstm.forward(x, lengths=lengths, rng=0)[2])], axis=2),
    )
    for mask in masks:
        assert len(mask) == (4 if per_gate else 1) and set(np.unique(mask)) == {0, 1 / 0.7}
        for one in mask:
            assert abs((one == 0).mean() - 0.3) < SIGMAS * np.sqrt(0.3 * 0.7 / one.size)
    every = [one[:, :50] == 0 for mask in masks for one in mask]
    for k, one in enumerate(every):  # no mask is another's, of another gate, layer or direction
        for other in every[:k]:
            assert abs((one & other).mean() - 0.09) < SIGMAS * np.sqrt(0.09 * 0.91 / one.size)
    other = dropped_by(lstm.forward(x, rng=1)[2])[0]
    assert (getattr(other, dropout) != masks[0]).any()


def test_masks_of_zoneout_have_their_rates():
    lstm = network(Cell(zoneout=(0.2, 0.4)), 3, 40)
    (masks,) = dropped_by(lstm.forward(np.zeros((20, 30, 3)), rng=0)[2])
    for mask, rate in ((masks.zoneout_h, 0.2), (masks.zoneout_c, 0.4)):
        assert set(np.unique(mask)) == {0, 1}
        assert abs(mask.mean() - rate) < SIGMAS * np.sqrt(rate * (1 - rate) / mask.size)
        along = (mask[:, 1:] * mask[:, :-1]).mean()  # every step draws anew
        assert abs(along - rate**2) < SIGMAS * np.sqrt(rate**2 / mask.size)
    kept = (masks.zoneout_h * masks.zoneout_c).mean()
    assert abs(kept - 0.08) < SIGMAS * np.sqrt(0.08 / masks.zoneout_h.size)


# What is shown


@pytest.mark.long
@pytest.mark.parametrize("lengths", [None, [5, 0, 3]], ids=str)
@dtypes
@cells
def test_a_trace_shows_what_the_reference_does(cell, dtype, lengths):
    lstm = network(cell, 3, H, proj=PROJ, dtype=dtype)
    p = problem(lstm, 3, 5)
    trace, exact = lstm.trace(p["x"], (p["h"], p["c"]), lengths=lengths), Exact(lstm)
    y, last = exact.forward(p["x"], (p["h"], p["c"]), lengths)
    tape, t = exact.tapes[0], np.arange(5)[:, None]
    running = tape.running[..., None]
    end = np.where(lengths is None, 5, lengths)[..., None, None]

    def after(before, final):
        """The value after each step, from those before them."""
        following = np.concatenate([before[:, 1:], final[:, None]], axis=1)
        return np.where(t == end - 1, final[:, None], following) * running

    wanted = {"h": y, "c": after(tape.c_prev, last[1][0])}
    blocks = np.split(tape.gates, cell.gates, axis=2)
    if cell.cifg:
        blocks.insert(1, 1 - blocks[0])
    wanted |= dict(zip("ifgo", (b * running for b in blocks), strict=True))
    if cell.slstm:
        n, m = (np.split(a, 3, axis=2)[1:] for a in (tape.c_prev, wanted["c"]))
        n, m, m_new = n[0], n[1], m[1]
        kept = m + np.log(reference.sigmoid(blocks[1]))
        wanted["i"] = np.exp(blocks[0] - m_new) * running
        wanted["f"] = np.where(n == 0, 0, np.exp(kept - m_new)) * running
        assert (np.maximum(trace.i[0, 0], trace.f[0, 0])[tape.running] == 1).all()  # stabilised
    assert_near({name: getattr(trace, name)[0, 0] for name in wanted}, wanted, dtype)


# Memory


@pytest.mark.long
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("sizes", "proj", "bidirectional"), [((8, 36), 0, False), ((8, 36, 3), 12, True)], ids=str)
@cells
def test_memory_says_what_a_call_takes(cell, sizes, proj, bidirectional, training):
    for dtype in ("float32", "float64"):
        lstm = network(cell, *sizes, proj=proj, bidirectional=bidirectional, dtype=dtype)
        p = problem(lstm, 16, 25)
        state, dstate = (p["h"], p["c"]), (p["dh"], p["dc"])

        def call(lstm=lstm, p=p, state=state, dstate=dstate):
            return everything(lstm, p["x"], state, p["dy"], dstate) if training else lstm(p["x"], state)

        found, said = peak(call), lstm.memory(16, 25, training=training)
        assert UNDER * said - SMALL <= found <= OVER * said + SMALL, f"said {said:,}, took {found:,}"


# Models and files


@cells
def test_a_model_learns_and_a_fit_is_repeatable(cell):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6, 2))
    found = []
    for threads in (1, 3):
        proj = 0 if cell.slstm else 6
        lstm = LSTM(2, 9, cell=cell, proj_size=proj, bidirectional=True)
        model = Sequential([lstm, Last(), Dense(lstm.output_size(), 1)], random_state=0)
        with lstmx.num_threads(threads):
            history = model.fit(
                x, x[:, -2:, 0].sum(axis=1), epochs=12, batch_size=20, verbose=0, random_state=0,
                optimizer=lstmx.Adam(learning_rate=0.02),
            )  # fmt: skip
        found.append((history.history["loss"], *model.parameters().values()))
        assert history.history["loss"][-1] < 0.6 * history.history["loss"][0], history.history["loss"]
    for one, other in zip(*found, strict=True):
        assert_same(np.asarray(one)[None], np.asarray(other)[None])


@cells
def test_a_cell_is_saved_pickled_copied_and_shown(cell, tmp_path):
    lstm = network(cell, 3, H, proj=PROJ, dtype="float32")
    x = np.random.default_rng(0).normal(size=(2, 5, 3))
    lstm.save(tmp_path / "lstm.safetensors")
    model = Sequential([LSTM(3, H, cell=cell), Last()], random_state=0)
    model.save(tmp_path / "model.safetensors")
    for again in (lstmx.load(tmp_path / "lstm.safetensors"), pickle.loads(pickle.dumps(lstm)), lstm.copy()):
        assert again.cell == cell and eval(repr(again), vars(lstmx)).config() == lstm.config()
        assert_array_equal(again(x)[0], lstm(x)[0])
        # but for a copy, which goes on drawing where the original is
        assert_array_equal(again.forward(x, rng=1)[0], lstm.forward(x, rng=1)[0])
    assert_array_equal(lstmx.load(tmp_path / "model.safetensors").predict(x), model.predict(x))
    wide = lstm.astype("float64")
    assert wide.cell == cell and wide(x)[0].dtype == np.float64
    assert_allclose(wide(x)[0], lstm(x)[0], rtol=1e-3, atol=1e-4)


def test_a_plain_cell_leaves_no_trace_in_a_file():
    assert "cell" not in LSTM(1, 1).config() and LSTM(1, 1, cell=Cell()).config() == LSTM(1, 1).config()
    assert Cell() == Cell(clip=None) and not Cell().config() and Cell(clip=1).config()


@pytest.mark.parametrize("name", ["blas", "reference"])
def test_the_other_engines_take_a_cell_through_an_lstm(name):
    code = (
        "import numpy as np, lstmx; x = np.random.default_rng(0).normal(size=(2, 5, 3));"
        "lstm = lstmx.LSTM(3, 4, cell=lstmx.Cell(clip=0.2, cell_clip=0.1), dtype='float64', random_state=0);"
        "print(lstmx.testing.gradcheck(lstm, x) < 1e-6, lstm.trace(x).c[0, 0].max(), lstm.step(x[:, 0])[0].shape)"
    )
    assert python(code, LSTMX_ENGINE=name).stdout.split() == ["True", "0.1", "(2,", "4)"]


# ONNX


def onnx_lstm(lstm):
    """The one-layer model as an ONNX graph X, lengths, h0, c0 -> Y, h_n, c_n; gates in ONNX's order i, o, f, c."""
    cell, hidden, kind = lstm.cell, lstm.hidden_size, helper.np_dtype_to_tensor_dtype(lstm.dtype)

    def blocks(name, order, count):
        for d in range(lstm.directions):
            array = lstm.parameters().get(f"{name}_l0" + "_reverse" * d)
            parts = dict(zip(order, np.split(array, count), strict=True))
            parts.setdefault("f", 0 * parts["i"] + 7)  # with input_forget nothing looks at it
            yield parts

    def stacked(name, order="igo" if cell.cifg else "ifgo", wanted="iofg", half=False):
        found = []
        for parts in blocks(name, order, len(order)):
            joined = np.concatenate([parts[k] for k in wanted])
            found.append(np.concatenate([joined / 4, joined * 3 / 4]) if half else joined)
        return np.stack(found)

    stacks = {"W": stacked("weight_ih"), "R": stacked("weight_hh"), "B": stacked("bias", half=True)}
    if cell.peephole:
        stacks["P"] = stacked("peephole", "io" if cell.cifg else "ifo", "iof")
    curves = [(a,) if isinstance(a, str) else a for a in cell.activations]
    defaults = {"leaky_relu": (0.01,), "thresholded_relu": (1.0,), "hard_sigmoid": (0.2, 0.5), "elu": (1.0,)}
    curves = [(name, *(numbers or defaults.get(name, ()))) for name, *numbers in curves] * lstm.directions
    attributes = {"clip": cell.clip} if cell.clip else {}
    attributes |= {"input_forget": 1} if cell.cifg else {}
    names = {"relu": "Relu", "leaky_relu": "LeakyRelu", "thresholded_relu": "ThresholdedRelu", "elu": "Elu",
             "scaled_tanh": "ScaledTanh", "hard_sigmoid": "HardSigmoid"}  # fmt: skip
    attributes["activations"] = [names.get(name, name.capitalize()) for name, *_ in curves]
    for place, name in ((1, "activation_alpha"), (2, "activation_beta")):
        if values := [curve[place] for curve in curves if len(curve) > place]:
            attributes[name] = values
    node = helper.make_node(
        "LSTM", ["X", "W", "R", "B", "lengths", "h0", "c0", *(["P"] if cell.peephole else [])], ["Y", "h_n", "c_n"],
        hidden_size=hidden, direction="bidirectional" if lstm.bidirectional else "forward", **attributes,
    )  # fmt: skip
    values = [helper.make_tensor_value_info(name, kind, [None] * 3) for name in ("X", "h0", "c0")]
    values.append(helper.make_tensor_value_info("lengths", onnx.TensorProto.INT32, [None]))
    graph = helper.make_graph(
        [node], "lstm", values, [helper.make_tensor_value_info(name, kind, None) for name in ("Y", "h_n", "c_n")],
        [numpy_helper.from_array(value, name) for name, value in stacks.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


OF_ONNX = {
    "clip": Cell(clip=0.3),
    "peephole": Cell(peephole=True),
    "cifg": Cell(cifg=True),
    "all three": Cell(peephole=True, cifg=True, clip=0.5),
    **{f"{a}": Cell(activations=("sigmoid", a, "tanh")) for a in EVERY_ACTIVATION},
    **{f"{a} of the output": Cell(activations=("hard_sigmoid", "softsign", a), clip=2) for a in SCALED},
    "of the gates": Cell(activations=(("hard_sigmoid", 0.3, 0.4), SCALED[3], "softsign"), peephole=True),
}


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", OF_ONNX.values(), ids=OF_ONNX)
def test_options_are_those_of_onnxruntime(cell, bidirectional):
    lstm = network(cell, 3, 17, bidirectional=bidirectional, dtype="float32")
    p, lengths = problem(lstm, 4, 6), np.array([6, 3, 1, 5], np.int32)
    session = onnxruntime.InferenceSession(onnx_lstm(lstm).SerializeToString(), providers=["CPUExecutionProvider"])
    Y, *last = session.run(None, {"X": p["x"].swapaxes(0, 1), "lengths": lengths, "h0": p["h"], "c0": p["c"]})
    y, state = lstm(p["x"], (p["h"], p["c"]), lengths=lengths)
    for ours, theirs in ((y, batch_first(Y)), *zip(state, last, strict=True)):
        assert_allclose(ours, theirs, **ONNXRUNTIME)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_peepholes_are_those_of_the_onnx_reference(bidirectional):
    # It knows no lengths but those of the arrays, and no other option of the family.
    lstm = network(CELLS["peephole"], 3, H, bidirectional=bidirectional)
    p = problem(lstm, 4, 6)
    feeds = {"X": p["x"].swapaxes(0, 1), "lengths": np.full(4, 6, np.int32), "h0": p["h"], "c0": p["c"]}
    Y, *last = ReferenceEvaluator(onnx_lstm(lstm)).run(None, feeds)
    y, state = lstm(p["x"], (p["h"], p["c"]))
    for ours, theirs in ((y, batch_first(Y)), *zip(state, last, strict=True)):
        assert_allclose(ours, theirs, **PEER["float64"])


# Wrong input


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


@cells
def test_states_and_gradients_of_other_widths_are_refused(cell):
    lstm = network(cell, 3, H, proj=PROJ)
    p = problem(lstm, 2, 4)
    _, _, tape = lstm.forward(p["x"])
    for h, c in ((p["h"][..., :-1], p["c"]), (p["h"], p["c"][..., :-1]), (p["h"], np.zeros((1, 2, 2 * H)))):
        for call in (lstm, lstm.forward, lstm.trace, lstm.stream, lambda x, s: lstm.step(x[:, 0], s)):
            with pytest.raises(ValueError, match=r"^state [hc]: got shape .*, must be"):
                call(p["x"], (h, c))
        with pytest.raises(ValueError, match=r"^dstate [hc]: got shape .*, must be"):
            lstm.backward(tape, p["dy"], (h, c))
    with pytest.raises(ValueError, match=r"^dy: got shape"):
        lstm.backward(tape, p["dy"][..., :-1])


@cells
def test_functions_want_every_array_of_the_cell_and_no_other(cell):
    cell = replace(cell, learn_state=False)  # a matter of layers
    params = {n.removesuffix("_l0"): a for n, a in network(cell, 3, H, proj=PROJ).parameters().items()}
    x = np.zeros((2, 4, 3))

    def refused(match, **change):
        with pytest.raises(ValueError, match=match):
            functional.lstm_forward(x, cell=cell, **(params | change))
        with pytest.raises(ValueError, match=match):
            functional.lstm_step(x[:, 0], None, cell=cell, **(params | change))

    for name, value in params.items():
        wrong = np.zeros((*value.shape[:-1], value.shape[-1] + 1))
        refused(r"^(x|x_t|weight_\w+|bias|peephole|norm_\w+|heads): ", **{name: wrong})
        if name not in ("weight_ih", "weight_hh", "weight_hr", "bias") and not name.endswith("_bias"):
            refused(rf"^{name}: this cell needs it", **{name: None})
    refused(r"^(unknown): this cell has no such parameter", unknown=np.zeros(3))


@pytest.mark.parametrize("options", [{"cell": Cell(peephole=True)}, {"cell": Cell(slstm=True)}, {"proj_size": 8},
                                     {"cell": Cell(layer_norm="haste", zoneout=0.1)}], ids=str)  # fmt: skip
def test_ragged_rows_that_threads_share_out_are_as_alone_however_often(options):
    lstm, rng = LSTM(12, 16, random_state=0, **options), np.random.default_rng(0)
    x = [rng.normal(size=(n, 12)).astype(np.float32) for n in rng.integers(7, 30, 192)]
    alone = np.concatenate([lstm(a)[0] for a in x])
    with lstmx.num_threads(3):
        for _ in range(20):  # rows change hands at other blocks of steps every time
            found = np.concatenate(lstm(x)[0])
            if engines.NAME == "tile":
                assert_array_equal(found, alone)
            else:
                assert_allclose(found, alone, **ENGINES["float32"])


@pytest.mark.parametrize(
    "options", [{"cell": Cell(peephole=True)}, {"cell": Cell(slstm=True)}, {"proj_size": 8}], ids=str
)
def test_windows_of_a_series_are_read_as_their_copies(options):
    lstm = LSTM(16, 16, random_state=0, **options)
    model = Sequential([lstm, Last(), Dense(lstm.output_size(), 1, random_state=0)])
    series = np.random.default_rng(0).normal(size=(700, 16)).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(series, 48, axis=0).swapaxes(1, 2)
    for threads in (1, 2):
        with lstmx.num_threads(threads):
            found, wanted = model.predict(windows), model.predict(np.ascontiguousarray(windows))
            assert_allclose(found, wanted, **ENGINES["float32"])
            assert engines.NAME != "tile" or (found == wanted).all()
