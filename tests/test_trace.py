"""What a trace tells: values against PyTorch, the memory as a sum of contributions, half-lives, gates, tables.

Tolerances. SUM: c_t as a sum of at most a dozen products in float64, each rounded a dozen times.
"""

import builtins
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
from cell_cases import CELLS, Exact, network, problem
from lstm_cases import assert_same, dtypes, inputs, make
from tolerances import CELL, PEER

import lstmx
from lstmx import LSTM, Cell
from lstmx.inspect import gradient_flow

SUM = {"rtol": 1e-12, "atol": 1e-12}


def torch_case():
    with np.load(Path(__file__).parent / "data" / "torch_trace.npz") as file:
        return dict(file)


def from_torch_case(case, dtype="float64"):
    lstm = LSTM(3, 4, dtype=dtype)
    lstm.set_parameters({f"{name}_l0": case[name] for name in ("weight_ih", "weight_hh", "bias")})
    return lstm, (case["h0"][None], case["c0"][None])


@dtypes
def test_values_are_those_of_a_loop_over_pytorchs_cell(dtype):
    case = torch_case()
    lstm, state = from_torch_case(case, dtype)
    trace = lstm.trace(case["x"], state)
    for name in ("i", "f", "g", "o", "c", "tanh_c", "h"):
        np.testing.assert_allclose(getattr(trace, name)[0, 0], case[name], **PEER[dtype], err_msg=name)


def test_gradient_flow_is_that_of_a_loop_over_pytorchs_cell():
    case = torch_case()
    lstm, _ = from_torch_case(case)
    learned = LSTM(3, 4, cell=Cell(learn_state=True), dtype="float64")  # to begin where PyTorch did
    for n in range(2):
        learned.set_parameters({**lstm.parameters(), "initial_h_l0": case["h0"][n], "initial_c_l0": case["c0"][n]})
        flow = gradient_flow(learned, case["x"][n], case["dy"][n])
        np.testing.assert_allclose(flow.dh[0, 0], case["dh"][n], **PEER["float64"])
        np.testing.assert_allclose(flow.dc[0, 0], case["dc"][n], **PEER["float64"])


@dtypes
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [None, [4, 0, 7]], ids=str)
def test_the_traced_h_is_the_predicted_h(dtype, bidirectional, lengths):
    lstm = make(3, 8, 2, bidirectional=bidirectional, dtype=dtype)
    x, state, *_ = inputs(lstm, 3, 7)
    y, _ = lstm(x, state, lengths=lengths)
    trace = lstm.trace(x, state, lengths=lengths)
    assert_same(np.concatenate([trace.h[1, d] for d in range(lstm.directions)], axis=2), y)


@dtypes
def test_the_output_is_what_the_output_gate_shows(dtype):
    lstm = make(3, 8, 2, dtype=dtype)
    trace = lstm.trace(inputs(lstm, 2, 7)[0])
    for layer in (0, 1):
        shown = trace.o[layer, 0] * trace.tanh_c[layer, 0]
        np.testing.assert_allclose(trace.h[layer, 0], shown, **CELL[dtype])


@pytest.mark.parametrize("cell", [cell for cell in CELLS.values() if not cell.drops or any(cell.zoneout)], ids=repr)
def test_tanh_c_is_right_for_every_cell_or_says_why_not(cell):
    lstm = network(cell, 3, 6)
    p = problem(lstm, 2, 5)
    trace = lstm.trace(p["x"], (p["h"], p["c"]))
    if cell.layer_norm == "haste" or cell.zoneout[1]:
        with pytest.raises(ValueError, match=r"^tanh_c: .*which a trace does not hold"):
            trace.tanh_c[0, 0]
        return
    z = cell.zoneout[0]
    h_prev = np.concatenate([p["h"][0][:, None], trace.h[0, 0][:, :-1]], axis=1)
    shown = z * h_prev + (1 - z) * trace.o[0, 0] * trace.tanh_c[0, 0]
    np.testing.assert_allclose(trace.h[0, 0], shown, **SUM)


# Contributions


def summed(trace, direction, sequence):
    return trace.contributions(0, direction, sequence).sum(axis=1) + trace.initial_contribution(0, direction, sequence)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("proj", [0, 4])
def test_contributions_sum_to_the_memory_or_say_why_not(cell, proj):
    lstm = network(cell, 3, 6, proj=proj, bidirectional=True)
    p = problem(lstm, 3, 5)
    lengths = [5, 0, 3]
    trace, exact = lstm.trace(p["x"], (p["h"], p["c"]), lengths=lengths), Exact(lstm)
    exact.forward(p["x"], (p["h"], p["c"]), lengths)
    if cell.layer_norm == "fastrnn" or cell.cell_clip:
        with pytest.raises(ValueError, match=r"^contributions: .*(norms the memory|cuts the memory)"):
            trace.contributions(0, 0, 0)
        with pytest.raises(ValueError, match=r"^initial_contribution: "):
            trace.initial_contribution(0, 0, 0)
        return
    for direction, sequence in itertools.product(range(2), range(3)):
        T = lengths[sequence]
        c = trace.c[0, direction][sequence, :T, :6]
        tape = exact.tapes[direction]
        if direction == 0 and T:  # the memory before a step is that after the one before
            np.testing.assert_allclose(c[:-1], tape.c_prev[sequence, 1:T, :6], **SUM)
        np.testing.assert_allclose(summed(trace, direction, sequence), c, **SUM)


def test_contributions_are_what_the_formula_says():
    lstm = make(3, 4)
    x, state, *_ = inputs(lstm, 2, 6)
    trace = lstm.trace(x, state)
    i, f, g = (getattr(trace, name)[0, 0][1] for name in "ifg")
    found, left = trace.contributions(sequence=1), trace.initial_contribution(sequence=-1)
    assert found.shape == (6, 6, 4) and left.shape == (6, 4)
    for t, s in np.ndindex(6, 6):
        wanted = i[s] * g[s] * np.prod(f[s + 1 : t + 1], axis=0) if s <= t else np.zeros(4)
        np.testing.assert_allclose(found[t, s], wanted, **SUM)
    np.testing.assert_allclose(left[3], state[1][0, 1] * np.prod(f[:4], axis=0), **SUM)


def test_contributions_of_a_reverse_direction_come_from_later_steps():
    lstm = make(3, 4, bidirectional=True)
    trace = lstm.trace(inputs(lstm, 1, 6)[0])
    found = trace.contributions(0, 1)
    assert (found[np.tril_indices(6, -1)] == 0).all() and (found[np.triu_indices(6)] != 0).all()
    np.testing.assert_allclose(found.sum(axis=1), trace.c[0, 1][0], **SUM)


def test_contributions_stay_within_their_episode_and_know_no_masked_steps():
    lstm = make(3, 4, bidirectional=True)
    x, state, *_ = inputs(lstm, 2, 7)
    mask, reset = np.ones((2, 7), bool), np.zeros((2, 7), bool)
    mask[0, [0, 4]], reset[0, 3], reset[1, 0] = False, True, True
    trace = lstm.trace(x, state, mask=mask, reset=reset)
    for direction, sequence in itertools.product(range(2), range(2)):
        np.testing.assert_allclose(summed(trace, direction, sequence), trace.c[0, direction][sequence], **SUM)
    found, left = trace.contributions(sequence=0), trace.initial_contribution(sequence=0)
    assert (found[3:, :3] == 0).all() and (found[2, 1] != 0).all()
    assert (found[4] == 0).all() and (found[:, 4] == 0).all()
    assert (left[1:3] != 0).all() and (left[3:] == 0).all()
    assert (trace.initial_contribution(sequence=1) == 0).all()


# Half-lives


def constant_forget(f, H=3, **options):
    """An LSTM whose forget gates are always f."""
    lstm = LSTM(2, H, dtype="float64", random_state=0, **options)
    arrays = {name: np.zeros(p.shape) for name, p in lstm.parameters().items()}
    bias = np.log(f) - np.log1p(-np.asarray(f))
    lstm.set_parameters(arrays | {"bias_l0": np.concatenate([np.zeros(H), bias, np.zeros(2 * H)])})
    return lstm


def test_half_lives_are_those_of_constant_forget_gates():
    f = np.array([0.5, 0.25, 0.99])
    trace = constant_forget(f).trace(np.ones((2, 8, 2)), lengths=[8, 3])
    np.testing.assert_allclose(trace.half_lives(), np.log(0.5) / np.log(f), **SUM)
    np.testing.assert_allclose(trace.half_lives()[:2], [1, 0.5], **SUM)


def test_what_is_never_forgotten_lives_for_ever_and_what_is_lost_at_once_does_not():
    lstm = LSTM(1, 2, cell=Cell(activations=("hard_sigmoid", "tanh", "tanh")), random_state=0)
    lstm.set_parameters({"bias_l0": np.repeat([0, 9, 0, 0], 2) * np.tile([1.0, -1.0], 4)})
    np.testing.assert_array_equal(lstm.trace(np.zeros((4, 1))).half_lives(), [np.inf, 0])


def test_half_lives_with_a_zoneout_are_of_what_is_kept_on_average():
    lstm = network(Cell(zoneout=(0, 0.3)), 3, 5)
    trace = lstm.trace(problem(lstm, 2, 6)["x"])
    kept = 0.3 + 0.7 * trace.f[0, 0].reshape(-1, 5)
    np.testing.assert_allclose(trace.half_lives(), np.log(0.5) / np.log(kept).mean(axis=0), **SUM)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_half_lives_are_those_of_the_forget_gates_or_say_why_not(cell):
    lstm = network(cell, 3, 6)
    p = problem(lstm, 3, 5)
    trace, exact = lstm.trace(p["x"], (p["h"], p["c"])), Exact(lstm)
    exact.forward(p["x"], (p["h"], p["c"]))
    if cell.layer_norm == "fastrnn" or cell.slstm:
        with pytest.raises(ValueError, match=r"^half_lives: .*(norms the memory|normaliser)"):
            trace.half_lives()
        return
    gates = exact.tapes[0].gates
    f = 1 - gates[..., :6] if cell.cifg else gates[..., 6:12]
    z = cell.zoneout[1]
    with np.errstate(divide="ignore"):
        mean = np.log(z + (1 - z) * np.abs(f)).mean(axis=(0, 1))
    with np.errstate(divide="ignore"):
        wanted = np.where(mean < 0, np.log(0.5) / mean, np.inf)
    np.testing.assert_allclose(trace.half_lives(), wanted, rtol=1e-9, atol=0)


# Gates and units


def test_saturated_gates_are_counted():
    lstm = make(3, 5)
    trace = lstm.trace(4 * inputs(lstm, 3, 9)[0], lengths=[9, 0, 4])
    found = trace.saturated(threshold=0.2)
    assert list(found) == ["i", "f", "o"]
    for gate, (low, high) in found.items():
        values = np.concatenate([getattr(trace, gate)[0, 0][n, :length] for n, length in enumerate([9, 0, 4])])
        assert 0 < low.max() < 1 and 0 < high.max() < 1
        np.testing.assert_allclose(low, (values < 0.2).mean(axis=0), **SUM)
        np.testing.assert_allclose(high, (values > 0.8).mean(axis=0), **SUM)
    assert found["f"].low is found["f"][0]


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_saturation_is_for_gates_between_0_and_1(cell):
    lstm = network(cell, 3, 6)
    trace, name = lstm.trace(problem(lstm, 2, 4)["x"]), cell.activations[0]
    if cell.slstm or (name if isinstance(name, str) else name[0]) not in ("sigmoid", "hard_sigmoid"):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            trace.saturated()
    else:
        for low, high in trace.saturated().values():
            assert low.shape == high.shape == (6,) and ((low >= 0) & (high >= 0) & (low + high <= 1)).all()


def test_dead_and_duplicate_units_are_found():
    lstm = make(3, 6)
    arrays = {name: p.copy() for name, p in lstm.parameters().items()}
    rows = {gate: np.arange(k * 6, k * 6 + 6) for k, gate in enumerate("ifgo")}
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"):
        a = arrays[name]
        for gate in "ifgo":
            a[rows[gate][3]] = a[rows[gate][1]]  # unit 3 is unit 1, unit 5 its mirror
            a[rows[gate][5]] = -a[rows[gate][1]] if gate == "g" else a[rows[gate][1]]
        a[rows["g"][2]] = 0  # unit 2 never gets anything
    lstm.set_parameters(arrays)
    trace = lstm.trace(inputs(lstm, 2, 8)[0])
    np.testing.assert_array_equal(trace.dead_units(), [2])
    np.testing.assert_array_equal(trace.duplicate_units(), [[1, 3], [1, 5], [3, 5]])
    assert list(trace.dead_units(tolerance=2)) == list(range(6)) and trace.duplicate_units(tolerance=2).shape == (0, 2)


def test_a_healthy_network_has_neither():
    lstm = make(3, 16, 2, bidirectional=True, proj_size=5)
    trace = lstm.trace(inputs(lstm, 4, 20)[0])
    for pair in itertools.product(range(2), range(2)):
        assert trace.dead_units(*pair).shape == (0,) and trace.duplicate_units(*pair).shape == (0, 2)


# What is not finite


@pytest.mark.parametrize(("bidirectional", "direction"), [(False, 0), (True, 0)])
def test_the_first_nan_is_where_it_came_in(bidirectional, direction):
    lstm = make(3, 5, 2, bidirectional=bidirectional)
    x = inputs(lstm, 3, 7)[0]
    assert lstm.trace(x).first_nonfinite() is None
    x[2, 4, 1] = np.nan
    found = lstm.trace(x, lengths=[7, 3, 6]).first_nonfinite()
    assert found == (0, direction, "i", 2, 4, 0) and found.quantity == "i" and found.sequence == 2
    assert lstm.trace(x, lengths=[7, 3, 4]).first_nonfinite() is None  # on the padding
    assert lstm.trace([x[0], x[2][2:]]).first_nonfinite()[3:5] == (1, 2)
    assert lstm.trace(x[2]).first_nonfinite()[3:5] == (0, 4)


def test_a_reverse_direction_reads_the_end_first():
    lstm = LSTM(3, 5, reverse=True, dtype="float64", random_state=0)
    x = inputs(lstm, 2, 7)[0]
    x[0, [2, 5]] = np.nan
    assert lstm.trace(x).first_nonfinite() == (0, 0, "i", 0, 5, 0)


def test_the_first_that_overflows_is_named():
    cell = Cell(activations=("sigmoid", "relu", "relu"))
    lstm = LSTM(1, 3, cell=cell, dtype="float32", random_state=0)
    arrays = {name: np.zeros(p.shape) for name, p in lstm.parameters().items()}
    weight = np.zeros((12, 1))
    weight[7] = 1e38  # the candidate of unit 1
    lstm.set_parameters(arrays | {"weight_ih_l0": weight, "bias_l0": np.repeat([9.0, 9.0, 0.0, 9.0], 3)})
    x = np.array([[0.5], [1.0], [3.0], [3.0]], "float32")  # the candidate stays below 3.4e38, the sum does not
    with np.errstate(over="ignore", invalid="ignore"):  # of the reference engine
        assert lstm.trace(x).first_nonfinite() == (0, 0, "c", 0, 2, 1)


# Tables


@pytest.mark.parametrize("form", ["array", "list", "single"])
def test_a_frame_has_a_row_for_each_step(form):
    lstm = make(3, 4, 2, bidirectional=True)
    x = inputs(lstm, 2, 5)[0]
    given = {"array": x, "list": [x[0, :2], x[1]], "single": x[0]}[form]
    trace = lstm.trace(given)
    frame = trace.to_pandas(1, 1)
    assert list(frame.index.names) == ["sequence", "step"] and list(frame.columns.names) == ["quantity", "unit"]
    assert frame.shape == ({"array": 10, "list": 7, "single": 5}[form], 6 * 4)
    last = frame.loc[frame.index.get_level_values("sequence").max()]
    for name in "ifgoch":
        wanted = getattr(trace, name)[1, 1]
        np.testing.assert_array_equal(last[name], wanted if form == "single" else wanted[-1])


def test_a_frame_knows_what_a_memory_is_made_of_and_no_masked_steps():
    lstm = network(Cell(slstm=True), 3, 4)
    x, mask = problem(lstm, 1, 5)["x"], np.array([[True, False, True, True, True]])
    trace = lstm.trace(x, mask=mask)
    frame = trace.to_pandas()
    assert list(frame.columns.get_level_values("quantity").unique()) == list("ifgocnmh")
    assert list(frame.loc[0].index) == [0, 2, 3, 4]
    np.testing.assert_array_equal(frame["m"], trace.c[0, 0][0, [0, 2, 3, 4], 8:])


def test_a_data_set_has_named_axes():
    pytest.importorskip("xarray")
    lstm = make(3, 4, 2, bidirectional=True, proj_size=3)
    x = inputs(lstm, 2, 5)[0]
    trace = lstm.trace(x, lengths=[5, 2])
    found = trace.to_xarray()
    assert found["f"].dims == ("layer", "direction", "sequence", "step", "unit")
    assert found["h"].dims[-1] == "output" and dict(found.sizes)["output"] == 3
    np.testing.assert_array_equal(found["f"].sel(layer=1, direction=1, sequence=1, step=1), trace.f[1, 1][1, 1])
    assert np.isnan(found["f"].sel(sequence=1, step=2)).all() and not np.isnan(found["c"].sel(sequence=0)).any()
    plain = make(3, 4).trace(x).to_xarray().to_dataarray("quantity")
    assert plain.dims == ("quantity", "layer", "direction", "sequence", "step", "unit") and plain.shape[0] == 6


@pytest.mark.parametrize(("package", "method"), [("pandas", "to_pandas"), ("xarray", "to_xarray")])
def test_what_a_table_needs_is_said(monkeypatch, package, method):
    real = builtins.__import__

    def without(name, *args):
        if name == package:
            raise ImportError(f"No module named {package!r}")
        return real(name, *args)

    trace = make(3, 4).trace(np.ones((2, 3)))
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=f"^{method} needs {package}: pip install {package}"):
        getattr(trace, method)()


# Errors, and the object itself


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda t: t.contributions(), ValueError, r"^sequence: the trace holds 2; say whose contributions to give"),
        (lambda t: t.contributions(sequence=2), IndexError, r"^sequence: got 2, there are 2 sequences, from 0"),
        (lambda t: t.contributions(sequence="a"), TypeError, r"^sequence: got 'a', must be an integer"),
        (lambda t: t.f.mean(), AttributeError, r"^trace: this has no 'mean'; .*trace.f\[0, 0\]"),
        (lambda t: t.contributions(1), IndexError, r"no layer and direction \(1, 0\)"),
        (lambda t: t.half_lives(0, 1), IndexError, r"no layer and direction \(0, 1\)"),
        (lambda t: t.to_pandas(3), IndexError, r"no layer and direction \(3, 0\)"),
        (lambda t: t.saturated(threshold=0.5), ValueError, r"^threshold: got 0.5"),
        (lambda t: t.dead_units(tolerance=-1), ValueError, r"^tolerance: got -1"),
        (lambda t: t.duplicate_units(0, 1), IndexError, r"no layer and direction \(0, 1\)"),
    ],
)
def test_wrong_arguments_are_explained(call, error, message):
    with pytest.raises(error, match=message):
        call(make(3, 4).trace(np.ones((2, 5, 3))))


def test_a_list_is_no_array():
    trace = make(3, 4).trace([np.ones((2, 3)), np.ones((5, 3))])
    for convert in (np.asarray, lambda f: f.shape):
        with pytest.raises(ValueError, match=r"^trace: of a list of sequences there is no one array but a list of 2"):
            convert(trace.f)


def test_what_has_no_lstm_has_no_trace():
    rnn = lstmx.RNN(3, 4)
    with pytest.raises(AttributeError, match=r"^RNN has no attribute 'trace'; only an LSTM has gates"):
        rnn.trace(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"^trace: the model has no LSTM"):
        lstmx.Sequential([rnn, lstmx.Last(), lstmx.Dense(4, 1)]).trace(np.ones((2, 5, 3)))


@pytest.mark.parametrize("method", ["half_lives", "saturated", "dead_units", "duplicate_units"])
def test_a_trace_of_nothing_has_nothing_to_tell(method):
    for x in (np.zeros((0, 5, 3)), np.zeros((2, 0, 3))):
        trace = make(3, 4).trace(x)
        with pytest.raises(ValueError, match=f"^{method}: the trace holds no steps"):
            getattr(trace, method)()
        assert trace.first_nonfinite() is None and len(trace.to_pandas()) == 0


def test_a_trace_pickles():
    lstm = make(3, 4, 2)
    trace = lstm.trace(inputs(lstm, 2, 5)[0])
    np.testing.assert_array_equal(trace.c[1, 0], pickle.loads(pickle.dumps(trace)).c[1, 0])


def test_arrays_are_made_once_and_are_nobody_elses():
    lstm = make(3, 4)
    trace = lstm.trace(inputs(lstm, 2, 5)[0])
    before = trace.half_lives()
    assert trace.f[0, 0] is trace.f[0, 0]
    trace.f[0, 0][...] = 7
    np.testing.assert_array_equal(trace.half_lives(), before)
    assert (trace.f[0, 0] == 7).all()


def test_nothing_holds_a_trace_longer_than_its_user():
    """A cycle would keep its memory until the collector comes, and the next trace would need fresh pages."""
    import gc
    import weakref

    lstm = make(3, 4)
    gc.disable()
    try:
        trace = lstm.trace(np.ones((2, 5, 3)))
        trace.f[0, 0], trace.tanh_c[0, 0], trace.half_lives()
        seen = weakref.ref(trace)
        del trace
        assert seen() is None
    finally:
        gc.enable()


def test_a_model_traces_its_layers():
    model = lstmx.Sequential([LSTM(3, 4), lstmx.Dense(4, 2), LSTM(2, 5), lstmx.Last()], random_state=0)
    traces = model.trace(np.ones((2, 6, 3)))
    assert list(traces) == [0, 2] and traces[2].half_lives().shape == (5,)


# What a step met, and which steps there are.


@pytest.mark.parametrize("reverse", [False, True])
def test_a_step_meets_what_the_step_read_before_left(reverse):
    lstm = LSTM(3, 4, reverse=reverse, dtype="float64", random_state=0)
    x, state = (
        np.random.default_rng(0).normal(size=(2, 5, 3)),
        tuple(np.random.default_rng(1).normal(size=(2, 1, 2, 4))),
    )
    trace = lstm.trace(x, state, lengths=[5, 3])
    for n, length in enumerate([5, 3]):
        for name, first in zip("hc", state, strict=True):
            after, before = (getattr(trace, what)[0, 0][n, :length] for what in (name, f"{name}_before"))
            wanted = np.concatenate([after[1:], first[0, n : n + 1]] if reverse else [first[0, n : n + 1], after[:-1]])
            np.testing.assert_array_equal(before, wanted)


def test_a_step_after_a_reset_or_a_masked_step_meets_its_own_past():
    lstm, x = LSTM(3, 4, random_state=0), np.random.default_rng(0).normal(size=(6, 3))
    trace = lstm.trace(x, mask=np.arange(6) != 2, reset=np.arange(6) == 4)
    np.testing.assert_array_equal(trace.c_before[0, 0][3], trace.c[0, 0][1])
    assert not trace.h_before[0, 0][4].any() and trace.h_before[0, 0][5].any()


def test_writing_into_what_was_met_changes_no_analysis():
    trace = LSTM(3, 4, dtype="float64", random_state=0).trace(np.ones((6, 3)))
    wanted = trace.initial_contribution().copy(), np.array(trace.h)
    trace.c_before[0, 0][...] = trace.h_before[0, 0][...] = 7
    np.testing.assert_array_equal(trace.initial_contribution(), wanted[0])
    np.testing.assert_array_equal(trace.h, wanted[1])


def test_a_trace_says_which_steps_there_are():
    lstm, x = LSTM(3, 4, random_state=0), np.zeros((2, 5, 3))
    padded = lstm.trace(x, lengths=[2, 5])
    assert padded.lengths.tolist() == [2, 5] and padded.mask.tolist() == [[True] * 2 + [False] * 3, [True] * 5]
    ragged = lstm.trace([x[0, :1], x[1]], mask=[np.array([True]), np.arange(5) != 3])
    assert ragged.lengths.tolist() == [1, 5]
    assert [there.tolist() for there in ragged.mask] == [[True], [True, True, True, False, True]]
    single = lstm.trace(x[0])
    assert single.mask.tolist() == [True] * 5 and single.lengths.tolist() == [5]


def test_a_trace_of_cohorts_is_that_of_its_sequences():
    """Slabs of many sequences lie cohort by cohort; what a trace shows does not."""
    rng = np.random.default_rng(0)
    lstm, lengths = lstmx.LSTM(3, 5, num_layers=2, bidirectional=True, random_state=0), [60, 9, *range(30, 52)]
    x = [rng.normal(size=(n, 3)).astype("float32") for n in lengths]
    many = lstm.trace(x)
    for n, alone in enumerate(map(lstm.trace, x)):
        for name in "ifgoch":
            for key in itertools.product((0, 1), (0, 1)):
                np.testing.assert_array_equal(getattr(many, name)[key][n], getattr(alone, name)[key])
