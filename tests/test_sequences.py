"""Masks, resets, a reverse direction alone, merged directions: what they mean, by separate calls on what is left."""

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lstm_cases import assert_equal, assert_same, everything, inputs, make
from test_engine import python
from tolerances import FINITE_DIFFERENCE, PEER

import lstmx
from lstmx import LSTM, Cell, Dense, Dropout, Embedding, FinalState, Last, MeanPool, Sequential, functional
from lstmx.functional import kernels, masks, sequences
from lstmx.layers.lstm import MERGES
from lstmx.testing import finite_difference, gradcheck

OPTIONS = {
    "one": {},
    "reverse": {"reverse": True},
    "two layers": {"num_layers": 2},
    "two reverse layers": {"num_layers": 2, "reverse": True},
    **{f"{merge} of directions": {"num_layers": 2, "bidirectional": True, "merge": merge} for merge in MERGES},
}
FLAGS = ["mask", "reset", "mask and reset", "lengths and reset"]
options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
flags = pytest.mark.parametrize("flags", FLAGS)
N, T = 6, 7


def flags_of(kind, batch=N, steps=T, seed=5):
    """A mask with holes, a row without steps and one without holes; resets of all kinds; lengths."""
    rng = np.random.default_rng(seed)
    mask, reset = rng.random((batch, steps)) < 0.6, rng.random((batch, steps)) < 0.35
    mask[1:2], mask[2:3] = False, True
    reset[2:3], reset[3:4, :1] = False, True
    found = {"mask": mask, "reset": reset, "lengths": rng.integers(steps + 1, size=batch)}
    return {name: found[name] for name in kind.split(" and ")}


def episodes(steps, mask, reset):
    """(indices of each episode of one sequence, whether the first begins with a reset), step by step."""
    found, begins, anew = [[]], False, False
    for t in range(steps):
        begins = begins or reset[t]
        if not mask[t]:
            continue
        if begins and found == [[]]:
            anew = True
        elif begins:
            found.append([])
        found[-1].append(t)
        begins = False
    return found, anew


def composed(lstm, x, state, dy, dstate, mask=None, reset=None, lengths=None):
    """All results, from calls on one episode at a time."""
    batch, steps, _ = x.shape
    mask = np.ones((batch, steps), bool) if mask is None else mask
    mask = mask if lengths is None else np.arange(steps) < lengths[:, None]
    reset = np.zeros((batch, steps), bool) if reset is None else reset
    out = {"y": np.zeros_like(dy), "dx": np.zeros_like(x)}
    for name, like in zip(("h_n", "c_n", "dh0", "dc0"), (*state, *state), strict=True):
        out[name] = np.zeros_like(like)
    D = lstm.directions
    for n in range(batch):
        found, anew = episodes(steps, mask[n], reset[n])
        for k, where in enumerate(found):
            begin, end = ([np.zeros_like(a[:, n]) for a in pair] for pair in (state, state))
            parts = list(zip(range(lstm.num_layers * D), lstm.reversed * lstm.num_layers, strict=True))
            reads_first = [p for p, r in parts if (k == len(found) - 1 if r else k == 0 and not anew)]
            reads_last = [p for p, r in parts if (k == 0 if r else k == len(found) - 1)]
            for a, b, s, d in zip(begin, end, state, dstate, strict=True):
                a[reads_first], b[reads_last] = s[reads_first, n], d[reads_last, n]
            one = everything(lstm, x[n, where], begin, dy[n, where], end)
            out["y"][n, where], out["dx"][n, where] = one["y"], one["dx"]
            for final, before in (("h_n", "dh0"), ("c_n", "dc0")):
                out[final][reads_last, n], out[before][reads_first, n] = (
                    one[final][reads_last],
                    one[before][reads_first],
                )
            for name in lstm.parameters():
                out[f"d{name}"] = out.get(f"d{name}", 0) + one[f"d{name}"]
    return out


def assert_composed(found, wanted, lstm):
    """The same bits, but for sums over the batch."""
    sums = {f"d{name}" for name in lstm.parameters()}
    assert_equal({n: a for n, a in found.items() if n not in sums}, {n: a for n, a in wanted.items() if n not in sums})
    for name in sums:
        scale = max(1, np.abs(wanted[name]).max())
        np.testing.assert_allclose(found[name] / scale, wanted[name] / scale, **PEER[lstm.dtype.name], err_msg=name)


# Masks and resets


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@flags
@options
def test_a_batch_gives_the_bits_of_its_episodes_alone(options, flags, dtype):
    lstm = make(3, 9, dtype=dtype, **options)
    x, state, dy, dstate = inputs(lstm, N, T)
    given = flags_of(flags)
    assert_composed(
        everything(lstm, x, state, dy, dstate, **given), composed(lstm, x, state, dy, dstate, **given), lstm
    )
    y, (h_n, c_n) = lstm(x, state, **given)
    wanted = composed(lstm, x, state, dy, dstate, **given)
    assert_equal({"y": y, "h_n": h_n, "c_n": c_n}, {name: wanted[name] for name in ("y", "h_n", "c_n")})


@settings(deadline=None, max_examples=60, derandomize=True, database=None)
@given(st.data())
def test_any_masks_and_resets(data):
    batch, steps = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 5))
    rows = st.lists(st.booleans(), min_size=batch * steps, max_size=batch * steps)
    mask, reset = (np.array(data.draw(rows), bool).reshape(batch, steps) for _ in range(2))
    lstm = make(2, 3, bidirectional=True)
    x, state, dy, dstate = inputs(lstm, batch, steps)
    found = everything(lstm, x, state, dy, dstate, mask=mask, reset=reset)
    if batch:
        assert_composed(found, composed(lstm, x, state, dy, dstate, mask, reset), lstm)
    else:
        assert found["y"].shape == dy.shape and not any(found[f"d{name}"].any() for name in lstm.parameters())


@flags
@pytest.mark.parametrize("options", [OPTIONS["one"], OPTIONS["reverse"], OPTIONS["concat of directions"]], ids=str)
def test_lists_and_single_sequences(options, flags):
    lstm = make(3, 9, **options)
    x, state, dy, dstate = inputs(lstm, N, T)
    given = flags_of(flags.replace("lengths and ", ""))
    wanted = everything(lstm, x, state, dy, dstate, **given)
    listed = everything(lstm, list(x), state, list(dy), dstate, **{name: list(a) for name, a in given.items()})
    assert isinstance(listed["y"], list) and isinstance(listed["dx"], list)
    assert_equal(listed, wanted)
    for n in range(N):
        one = everything(lstm, x[n], [s[:, n] for s in state], dy[n], [d[:, n] for d in dstate],
                         **{name: a[n].tolist() for name, a in given.items()})  # fmt: skip
        for name in ("y", "dx"):
            assert_same(one[name], wanted[name][n])
        for name in ("h_n", "c_n", "dh0", "dc0"):
            assert_same(one[name], wanted[name][:, n])


def test_a_ragged_list():
    lstm, given = make(3, 9, bidirectional=True), flags_of("mask and reset")
    x, *_ = inputs(lstm, N, T)
    lengths = [7, 0, 3, 5, 1, 7]

    def cut(array):
        return [a[:k] for a, k in zip(array, lengths, strict=True)]

    y, state = lstm(cut(x), **{name: cut(flags) for name, flags in given.items()})
    given["mask"] &= np.arange(T) < np.array(lengths)[:, None]
    wanted, wanted_state = lstm(x, **given)
    assert [len(a) for a in y] == lengths
    for a, b in zip(y, wanted, strict=True):
        assert_same(a, b[: len(a)])
    assert_same(state, wanted_state)


@flags
@options
def test_gradients_equal_finite_differences(options, flags):
    lstm = make(2, 3, **options)
    x, state, _, _ = inputs(lstm, 4, 5)
    gradcheck(lstm, x, state, **flags_of(flags, 4, 5), **FINITE_DIFFERENCE)


def test_gradients_with_dropout():
    lstm = make(2, 3, 3, bidirectional=True, dropout=0.4)
    gradcheck(lstm, inputs(lstm, 4, 5)[0], **flags_of("mask and reset", 4, 5), **FINITE_DIFFERENCE)


def test_a_mask_by_hand():
    lstm = make(1, 4)
    x, state, _, _ = inputs(lstm, 1, 5)
    y, (h, c) = lstm(x, state, mask=[[False, True, False, True, False]])
    assert not y[0, [0, 2, 4]].any()
    first, between = lstm.step(x[:, 1], state)
    second, (h_n, c_n) = lstm.step(x[:, 3], between)
    assert_same(y[0, [1, 3]], [first[0], second[0]])
    assert_same([h, c], [h_n, c_n])


def test_a_reset_by_hand():
    lstm, (x, state, _, _) = make(1, 4), inputs(make(1, 4), 1, 3)
    y, after = lstm(x, state, reset=[[False, False, True]])
    begun, _ = lstm(x[:, :2], state)
    anew, wanted = lstm.step(x[:, 2])
    assert_same(y[0], [*begun[0], anew[0]])
    assert_same(after, wanted)
    # at the first step the given state is of no use, to a direction that reads from the end the last episode's
    assert_same(lstm(x, state, reset=[[True, False, False]])[0], lstm(x)[0])
    back = make(1, 4, reverse=True)
    assert_same(back(x, state, reset=[[True, False, False]])[0], back(x, state)[0])


def test_a_reset_at_a_masked_step_holds_for_the_next_step():
    lstm = make(3, 9, 2, bidirectional=True)
    x, state, dy, dstate = inputs(lstm, 1, 5)
    mask = np.array([[True, False, False, True, False]])
    early, late = np.zeros((2, 1, 5), bool)
    early[0, [1, 4]], late[0, 3] = True, True  # after step 4 there is none
    found, wanted = (everything(lstm, x, state, dy, dstate, mask=mask, reset=r) for r in (early, late))
    assert_equal(found, wanted)


def test_episodes_of_one_step():
    lstm = make(3, 9, bidirectional=True)
    x, *_ = inputs(lstm, N, T)
    y, _ = lstm(x, reset=np.ones((N, T), bool))
    assert_same(y, lstm(x.reshape(N * T, 1, 3))[0].reshape(y.shape))


@options
def test_flags_that_change_nothing(options):
    lstm = make(3, 9, **options)
    x, state, dy, dstate = inputs(lstm, N, T)
    wanted = everything(lstm, x, state, dy, dstate)
    all_, none = np.ones((N, T), bool), np.zeros((N, T), bool)
    assert_equal(everything(lstm, x, state, dy, dstate, mask=all_, reset=none), wanted)
    lengths = np.array([3, 0, 7, 7, 1, 2])
    padded = np.arange(T) < lengths[:, None]
    wanted = everything(lstm, x, state, dy, dstate, lengths=lengths)
    assert_equal(everything(lstm, x, state, dy, dstate, mask=padded), wanted)
    assert_equal(everything(lstm, x, state, dy, dstate, lengths=lengths, reset=~padded), wanted)


def test_nothing_but_the_state_passes_a_sequence_without_steps():
    lstm = make(3, 9, 2, bidirectional=True)
    x, state, dy, dstate = inputs(lstm, N, T)
    for reset in (np.zeros((N, T), bool), np.ones((N, T), bool)):
        found = everything(lstm, x, state, dy, dstate, mask=np.zeros((N, T), bool), reset=reset)
        assert_same([found[name] for name in ("h_n", "c_n", "dh0", "dc0")], [*state, *dstate])
        assert not any(found[name].any() for name in found if name not in ("h_n", "c_n", "dh0", "dc0"))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)], ids=str)
def test_no_sequences_or_no_steps(shape):
    lstm = make(3, 9, bidirectional=True)
    x, state, dy, dstate = inputs(lstm, *shape)
    flag = np.zeros(shape, bool)
    found = everything(lstm, x, state, dy, dstate, mask=flag, reset=flag)
    assert found["y"].shape == dy.shape and found["dx"].shape == x.shape
    assert_same(found["h_n"], state[0])
    assert lstm([], mask=[], reset=[])[0] == []
    assert lstm(np.zeros((0, 3)), mask=[], reset=[])[0].shape == (0, 18)


@flags
def test_what_is_masked_does_not_matter_and_nothing_is_changed(flags):
    lstm, given = make(3, 9, 2, bidirectional=True), flags_of(flags)
    x, state, dy, dstate = inputs(lstm, N, T)
    wanted = everything(lstm, x, state, dy, dstate, **given)
    there = given["mask"] if "mask" in given else np.ones((N, T), bool)
    there = there & (np.arange(T) < given.get("lengths", np.full(N, T))[:, None])
    x[~there], dy[~there] = np.nan, np.nan
    if "lengths" in given:
        given["reset"] = given["reset"] | ~there
    kept = copy.deepcopy((x, state, dy, dstate, given))
    assert_equal(everything(lstm, x, state, dy, dstate, **given), wanted)
    for a, b in zip((x, *state, dy, *dstate), (kept[0], *kept[1], kept[2], *kept[3]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all((given[name] == kept[4][name]).all() for name in given)
    assert not wanted["y"][~there].any() and not wanted["dx"][~there].any()


def test_nan_stays_in_its_episode():
    lstm, (x, *_) = make(3, 9, bidirectional=True), inputs(make(3, 9), 2, 6)
    x[0, 3] = np.nan
    y, _ = lstm(x, reset=np.arange(6) % 2 == np.zeros((2, 1)))
    assert np.isnan(y[0, 2:4]).any(axis=1).all() and not np.isnan(y[0, [0, 1, 4, 5]]).any() and not np.isnan(y[1]).any()


@pytest.mark.parametrize("x_form", ["float32", ">f8", "Fortran", "int64", "read-only"])
def test_other_arrays(x_form):
    lstm, given = make(3, 9), flags_of("mask and reset")
    x = np.random.default_rng(0).integers(-3, 4, (N, T, 3)).astype(float)
    wanted, _ = lstm(x, **given)
    other = np.asfortranarray(x) if x_form == "Fortran" else x.copy() if x_form == "read-only" else x.astype(x_form)
    other.flags.writeable = x_form != "read-only"
    given = {name: np.asfortranarray(a)[::1] for name, a in given.items()}
    assert_same(lstm(other, **given)[0], wanted)


def test_dropout_is_at_the_times_of_the_caller():
    given = flags_of("mask and reset")
    rows, context = sequences(np.ones((N, T, 4)), 4, np.dtype(float), **given).all()
    _, plain = sequences(np.ones((N, T, 4)), 4, np.dtype(float)).all()
    found = context.unpack(kernels.dropout(rows, 0.5, 3, context))
    wanted = plain.unpack(kernels.dropout(np.ones((N * T, 4)), 0.5, 3, plain))
    np.testing.assert_array_equal(found, wanted * given["mask"][..., None])
    np.testing.assert_array_equal(context.owners[: context.widest], context.places[0][: context.widest])


def test_what_a_cell_drops_is_dropped_in_all_episodes_of_a_sequence():
    cell = Cell(zoneout=0.5, input_dropout=0.5, recurrent_dropout=0.5, dropout_per_gate=True)
    flags = flags_of("mask and reset")
    contexts = [sequences(np.ones((N, T, 3)), 3, np.dtype(float), **given).all()[1] for given in (flags, {})]
    found, wanted = (masks.draw(cell, 3, context, 3, 4, 4, np.dtype(float)) for context in contexts)
    for name in ("drop_x", "drop_h"):
        np.testing.assert_array_equal(found[name], wanted[name][:, contexts[0].owners])
    for name in ("zoneout_h", "zoneout_c"):
        a, b = (context.unpack(drawn[name]) for context, drawn in zip(contexts, (found, wanted), strict=True))
        np.testing.assert_array_equal(a, b * flags["mask"][..., None])


CELLS = {
    "peepholes, coupled gates": {"cell": Cell(peephole=True, cifg=True)},
    "layer norm": {"cell": Cell(layer_norm="tflite")},
    "dropout": {"cell": Cell(zoneout=0.3, input_dropout=0.3, recurrent_dropout=0.3)},
    "sLSTM": {"cell": Cell(slstm=True, heads=2)},
    "projection": {"proj_size": 2},
}


@pytest.mark.parametrize("options", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("directions", [{"reverse": True}, {"bidirectional": True, "merge": "mul"}], ids=str)
def test_gradients_of_other_cells(directions, options):
    lstm = make(2, 4, **directions, **options)
    x, *_ = inputs(lstm, 3, 5)
    _, zero = lstm(x)
    state = [np.random.default_rng(k).uniform(0.2, 1, a.shape) for k, a in enumerate(zero)]
    gradcheck(lstm, x, state, **flags_of("mask and reset", 3, 5), **FINITE_DIFFERENCE)


@options
def test_trace_and_flow_are_at_the_times_of_the_caller(options):
    lstm, given = make(3, 9, **options), flags_of("mask and reset")
    x, state, dy, _ = inputs(lstm, N, T)
    found = lstm.trace(x, state, **given)
    flow = lstmx.inspect.gradient_flow(lstm, x, dy, **given)
    for n in range(N):
        (where, *_), anew = episodes(T, given["mask"][n], given["reset"][n])
        if lstm.reversed == (False,) and not anew:
            one = lstm.trace(x[n, where], [s[:, n] for s in state])
            for name in "ifgoch":
                for pair in flow.dh:
                    assert_same(getattr(found, name)[pair][n, where], getattr(one, name)[pair])
        one = lstmx.inspect.gradient_flow(lstm, x[n, where], dy[n, where])
        for pair in flow.dh:
            assert_same(flow.dh[pair][n, where], one.dh[pair])
            assert_same(flow.dc[pair][n, where], one.dc[pair])
            assert not flow.dh[pair][~given["mask"]].any() and not found.c[pair][~given["mask"]].any()
    if lstm.merge == "concat":
        y, _ = lstm(x, state, **given)
        last = lstm.num_layers - 1
        assert_same(np.concatenate([found.h[last, d] for d in range(lstm.directions)], axis=-1), y)


def test_the_same_bits_on_any_number_of_threads():
    lstm = make(16, 64, bidirectional=True, dtype="float32")
    x, state, dy, dstate = inputs(lstm, 24, 60)
    given = flags_of("mask and reset", 24, 60)
    results = []
    for threads in (1, 2, 3):
        with lstmx.num_threads(threads):
            results.append(everything(lstm, x, state, dy, dstate, **given))
    for other in results[1:]:
        for name, a in results[0].items():
            np.testing.assert_array_equal(a, other[name], err_msg=name)


def test_one_layer_of_functional():
    lstm, given = make(3, 9, reverse=True), flags_of("mask and reset")
    x, state, dy, dstate = inputs(lstm, N, T)
    wanted = everything(lstm, x, state, dy, dstate, **given)
    p = lstm.parameters()
    weights = [p["weight_ih_l0"], p["weight_hh_l0"], p["bias_l0"]]
    y, after, tape = functional.lstm_forward(x, *weights, [s[0] for s in state], reverse=True, **given)
    grads = functional.lstm_backward(tape, dy, [d[0] for d in dstate])
    for found, name in ((y, "y"), (grads.x, "dx")):
        assert_same(found, wanted[name])
    for found, name in zip((*after, *grads.state), ("h_n", "c_n", "dh0", "dc0"), strict=True):
        assert_same(found, wanted[name][0])
    assert_same(grads.params["weight_hh"], wanted["dweight_hh_l0"])


@pytest.mark.long
@pytest.mark.parametrize("engine", ["blas", "reference"])
def test_the_other_engines(engine):
    code = (
        "import numpy as np, lstmx; rng = np.random.default_rng(0); x = rng.normal(size=(4, 6, 3));"
        "given = {'mask': rng.random((4, 6)) < 0.7, 'reset': rng.random((4, 6)) < 0.3};"
        "lstm = lstmx.LSTM(3, 4, 2, bidirectional=True, merge='mul', dtype='float64', random_state=0);"
        "print(lstmx.testing.gradcheck(lstm, x, **given) < 1e-6);"
        "back = lstmx.LSTM(3, 4, reverse=True, dtype='float64', random_state=0);"
        "print(lstmx.testing.gradcheck(back, x, **given) < 1e-6)"
    )
    assert python(code, LSTMX_ENGINE=engine).stdout.split() == ["True", "True"]


# The outputs of every layer


@pytest.mark.parametrize("form", ["array", "list", "single", "mask"])
def test_outputs_of_every_layer(form):
    lstm = make(3, 9, 3, bidirectional=True, dropout=0.5)
    x, state, _, _ = inputs(lstm, N, T)
    given = {"mask": flags_of("mask")["mask"]} if form == "mask" else {}
    x = list(x) if form == "list" else x[0] if form == "single" else x
    state = None if form == "single" else state
    layers, after = lstm(x, state, return_layers=True, **given)
    y, wanted = lstm(x, state, **given)
    trace = lstm.trace(x, state, **given)
    assert len(layers) == 3 and isinstance(layers, list)
    assert_same(layers[-1], y)
    assert_same(after, wanted)
    for k, found in enumerate(layers):
        h = [np.concatenate(pair, axis=-1) for pair in zip(trace.h[k, 0], trace.h[k, 1], strict=True)]
        if form == "single":
            h = np.concatenate([trace.h[k, 0], trace.h[k, 1]], axis=-1)
        assert_same(found, h)
    with pytest.raises(TypeError, match="return_layers: got 1, must be True or False"):
        lstm(x, state, return_layers=1)


@pytest.mark.parametrize("merge", ["concat", "mul"])
def test_gradients_of_the_outputs_of_every_layer(merge):
    # The outputs of layer k are those of an LSTM of k + 1 layers, and gradients add up.
    lstm = make(3, 5, 3, bidirectional=True, merge=merge)
    x, state, _, dstate = inputs(lstm, N, T)
    given = flags_of("mask and reset")
    y, after, tape = lstm.forward(x, state, return_layers=True, **given)
    dy = [np.random.default_rng(k).normal(size=a.shape) for k, a in enumerate(y)]
    found = lstm.backward(tape, dy, dstate, retain=True)
    wanted = everything(lstm, x, state, dy[2], dstate, **given)
    assert_same(y[2], wanted["y"])
    assert_same(after, [wanted["h_n"], wanted["c_n"]])
    for k in range(2):
        low = make(3, 5, k + 1, bidirectional=True, merge=merge)
        low.set_parameters({name: lstm.parameters()[name] for name in low.parameters()})
        parts = everything(low, x, [s[: 2 * (k + 1)] for s in state], dy[k], **given)
        assert_same(y[k], parts["y"])
        for name in ("dx", *(f"d{p}" for p in low.parameters())):
            wanted[name] = wanted[name] + parts[name]
        for name in ("dh0", "dc0"):
            wanted[name][: 2 * (k + 1)] += parts[name]
    results = {"dx": found.x, "dh0": found.state[0], "dc0": found.state[1]}
    results |= {f"d{name}": a for name, a in found.params.items()}
    for name, a in results.items():
        np.testing.assert_allclose(a, wanted[name], **PEER["float64"], err_msg=name)
    only = lstm.backward(tape, [None, None, dy[2]], retain=True)
    assert_same(only.x, everything(lstm, x, state, dy[2], **given)["dx"])
    assert not lstm.backward(tape, None, retain=True).x.any()
    with pytest.raises(ValueError, match="dy: must be a list of 3, one for each layer"):
        lstm.backward(tape, dy[2], retain=True)
    with pytest.raises(ValueError, match=r"dy\[1\]: got shape"):
        lstm.backward(tape, [None, dy[1][:1], None], retain=True)


def test_gradients_of_the_outputs_of_every_layer_with_dropout():
    lstm = make(2, 3, 2, dropout=0.5)
    x, *_ = inputs(lstm, 3, 4)
    y, _, tape = lstm.forward(list(x), rng=0, return_layers=True)
    rng = np.random.default_rng(1)
    dy = [[rng.normal(size=a.shape) for a in layer] for layer in y]

    def loss():
        layers, *_ = lstm.forward(list(x), rng=0, return_layers=True)
        return sum(float((a * d).sum()) for pair in zip(layers, dy, strict=True) for a, d in zip(*pair, strict=True))

    np.testing.assert_allclose(lstm.backward(tape, dy).x, finite_difference(loss, x), **FINITE_DIFFERENCE)


# The reverse direction alone


@pytest.mark.parametrize("lengths", [None, [4, 0, 7, 2, 7, 1]], ids=str)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_reverse_is_forward_on_reversed_sequences(num_layers, lengths):
    back = make(3, 9, num_layers, reverse=True)
    lstm = make(3, 9, num_layers)
    assert list(back.parameters()) == list(lstm.parameters()) and back.output_size() == 9 and back.directions == 1
    x, state, dy, dstate = inputs(lstm, N, T)
    ends = [T] * N if lengths is None else lengths

    def turned(a):
        out = a.copy()
        for n, k in enumerate(ends):
            out[n, :k] = a[n, :k][::-1]
        return out

    found = everything(back, x, state, dy, dstate, lengths=lengths)
    wanted = everything(lstm, turned(x), state, turned(dy), dstate, lengths=lengths)
    sums = {f"d{name}" for name in lstm.parameters()}
    for name, a in wanted.items():
        if name in sums:
            np.testing.assert_allclose(found[name], a, **PEER["float64"], err_msg=name)
        else:
            assert_same(found[name], turned(a) if name in ("y", "dx") else a, err_msg=name)
    trace = back.trace(x, state, lengths=lengths)
    assert_same(trace.h[num_layers - 1, 0], found["y"])
    assert_same(trace.c[0, 0], turned(lstm.trace(turned(x), state, lengths=lengths).c[0, 0]))


def test_reverse_is_the_second_direction_of_a_bidirectional_lstm():
    two, back = make(3, 9, bidirectional=True), make(3, 9, reverse=True)
    back.set_parameters({n: two.parameters()[f"{n}_reverse"] for n in back.parameters()})
    x, *_ = inputs(two, N, T)
    y, (h, _) = back(x)
    assert_same(y, two(x)[0][..., 9:])
    assert_same(h[0], two(x)[1][0][1])


def test_reverse_does_not_stream():
    back = LSTM(3, 4, reverse=True)
    for call in (back.step, back.stream, Sequential([LSTM(3, 4, reverse=True)]).step):
        with pytest.raises(ValueError, match=r"step, stream: .*reverse=True, reads from the end"):
            call(np.zeros((2, 3)))
    assert not back.causal


# Merged directions


def merged(merge, a, b):
    return {"sum": a + b, "mul": a * b, "average": (a + b) * 0.5, "concat": np.concatenate([a, b], axis=-1)}[merge]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("merge", MERGES)
def test_merges_by_hand(merge, dtype):
    lstm = make(3, 9, 2, bidirectional=True, merge=merge, dtype=dtype)
    width = 18 if merge == "concat" else 9
    assert lstm.output_size() == width and lstm.parameters()["weight_ih_l1_reverse"].shape == (36, width)
    x, state, _, _ = inputs(lstm, N, T)
    lengths = [4, 0, 7, 2, 7, 1]
    y, (h_n, c_n) = lstm(x, state, lengths=lengths)
    z = x
    for layer in range(2):
        parts = []
        for d, end in enumerate(("", "_reverse")):
            one = LSTM(z.shape[-1], 9, reverse=bool(d), dtype=dtype)
            names = {n: lstm.parameters()[n.replace("_l0", f"_l{layer}") + end] for n in one.parameters()}
            one.set_parameters(names)
            k = 2 * layer + d
            part, (h, c) = one(z, [s[k : k + 1] for s in state], lengths=lengths)
            parts.append(part)
            assert_same([h[0], c[0]], [h_n[k], c_n[k]])
        z = merged(merge, *parts)
    assert_same(y, z)
    assert lstm(x[:0])[0].shape == (0, T, width)


@pytest.mark.parametrize("merge", MERGES)
def test_gradients_of_merges(merge):
    lstm = make(2, 3, 2, bidirectional=True, merge=merge)
    x, state, dy, dstate = inputs(lstm, 3, 4)
    gradcheck(lstm, x, state, lengths=[4, 2, 0], **FINITE_DIFFERENCE)
    _, _, tape = lstm.forward(x, state)
    first = lstm.backward(tape, dy, dstate, retain=True)
    assert_equal(lstm.backward(tape, dy, dstate).params, first.params)
    _, _, tape = lstm.forward(x, state)
    assert not lstm.backward(tape, None).x.any()


# Models


def model_of(pool, **options):
    layers = [make(3, 8, **options), Dropout(0.2), *([] if pool is None else [pool()])]
    return Sequential([*layers, Dense(layers[0].output_size(), 2, dtype="float64", random_state=1)])


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}, {"reverse": True}], ids=str)
@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool])
def test_poolings_of_masked_sequences(pool, options):
    model, mask = model_of(pool, **options), flags_of("mask")["mask"]
    x, *_ = inputs(model.layers[0], N, T)
    wanted = model.predict([a[m] for a, m in zip(x, mask, strict=True)])
    assert_same(model.predict(x, mask=mask), wanted)
    assert_same(model.predict(x, mask=mask, batch_size=4), wanted)
    assert_same(model.predict(list(x), mask=list(mask), batch_size=4), wanted)
    assert_same(model.predict(x[0], mask=mask[0]), wanted[0])
    gradcheck(model, x[:4, :5], mask=flags_of("mask", 4, 5)["mask"], **FINITE_DIFFERENCE)
    x[~mask] = np.nan
    assert_same(model.predict(x, mask=mask), wanted)


def test_final_state_is_where_a_direction_stops_reading():
    x = np.random.default_rng(0).normal(size=(N, T, 3))
    for options in ({}, {"reverse": True}, {"bidirectional": True}):
        lstm = make(3, 8, **options)
        _, (h, _) = lstm(x, lengths=[4, 0, 7, 2, 7, 1])
        rows, context = sequences(x, 3, np.dtype(float), lengths=[4, 0, 7, 2, 7, 1]).all()
        y, after, *_ = lstm.forward_rows(rows, context, None, lstmx.layers.Run())
        y, after, *_ = FinalState().forward_rows(y, after, None, lstmx.layers.Run())
        assert_same(after.unpack(y), np.concatenate(list(h), axis=-1))


@pytest.mark.long
@pytest.mark.parametrize("flags", ["mask", "reset", "mask and reset", "lengths and reset"])
def test_models_with_an_output_at_every_step(flags):
    model, given = model_of(None, bidirectional=True, num_layers=2), flags_of(flags)
    x, *_ = inputs(model.layers[0], N, T)
    y = model.predict(x, **given)
    hidden, _ = model.layers[0](x, **given)
    there = given.get("mask", np.ones((N, T), bool)) & (np.arange(T) < given.get("lengths", np.full(N, T))[:, None])
    plain = Sequential([model.layers[-1].copy()]).predict(hidden)
    assert_same(y, np.where(there[..., None], plain, 0))
    assert_same(model.predict(x, batch_size=4, **given), y)
    assert_same(model.trace(x, **given)[0].c[0, 1], model.layers[0].trace(x, **given).c[0, 1])
    gradcheck(model, x[:3, :4], **flags_of(flags, 3, 4), **FINITE_DIFFERENCE)


def test_a_masked_batch_of_integers():
    model = Sequential([Embedding(9, 3, random_state=0), LSTM(3, 8, random_state=1), Last()])
    x, mask = np.random.default_rng(0).integers(9, size=(N, T)), flags_of("mask")["mask"]
    wanted = model.predict([a[m] for a, m in zip(x, mask, strict=True)])
    assert_same(model.predict(x, mask=mask), wanted)
    assert_same(model.predict(list(x), mask=list(mask)), wanted)


def test_models_that_are_refused():
    with pytest.raises(ValueError, match=r'^layers\[1\]: FinalState .*merged .*; use merge="concat", or Last'):
        Sequential([LSTM(3, 4, bidirectional=True, merge="sum"), FinalState()])
    with pytest.raises(ValueError, match="reset: this model gives one output for a sequence"):
        model_of(Last).predict(np.zeros((2, 3, 3)), reset=np.zeros((2, 3), bool))
    Sequential([LSTM(3, 4, bidirectional=True, merge="sum"), Last(), Dense(4, 1)])


@pytest.mark.parametrize("options", [{"reverse": True}, {"bidirectional": True, "merge": "mul"}], ids=str)
def test_a_model_learns(options):
    lstm = LSTM(2, 8, random_state=0, **options)
    model = Sequential([lstm, Last(), Dense(8, 1, random_state=1)])
    x = np.random.default_rng(0).normal(size=(64, 6, 2))
    history = model.fit(x, x[:, -1, 0] * 0.5, optimizer=lstmx.Adam(0.02), epochs=15, verbose=0, random_state=0)
    assert history["loss"][-1] < 0.5 * history["loss"][0]


# Configuration


@options
def test_the_configuration_goes_along(options, path):
    lstm = LSTM(3, 4, random_state=0, **options)
    x, *_ = inputs(lstm, N, T)
    wanted, _ = lstm(x)
    lstm.save(path)
    for other in (lstmx.load(path), lstm.copy(), copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm))):
        assert (other.reverse, other.merge, other.config()) == (lstm.reverse, lstm.merge, lstm.config())
        assert_same(other(x)[0], wanted)
    double = lstm.astype("float64")
    assert (double.reverse, double.merge) == (lstm.reverse, lstm.merge) and double(x)[0].shape == wanted.shape
    assert all(f"{name}={value!r}" in repr(lstm) for name, value in options.items() if value != "concat")


def test_files_of_before_are_as_they_were():
    assert LSTM(3, 4, reverse=False, merge="concat").config() == LSTM(3, 4).config()
    assert not {"reverse", "merge"} & LSTM(3, 4, bidirectional=True).config().keys()


# Wrong arguments

X, MASK = np.zeros((2, 5, 3)), np.ones((2, 5), bool)
WRONG = {
    "another T": ({"mask": MASK[:, :4]}, ValueError, r"mask: got shape \(2, 4\), must be one flag for each step of "
                                                     r"[xX], \(N, T\) = \(2, 5\)"),
    "features": ({"reset": np.zeros(X.shape, bool)}, ValueError, r"reset: got shape \(2, 5, 3\), must be"),
    "numbers": ({"mask": MASK.astype(int)}, TypeError, "mask: got dtype int64, must be booleans; write mask != 0"),
    "lengths": ({"reset": [1, 2]}, TypeError, "reset: got dtype int64, must be booleans"),
    "words": ({"mask": [["a"] * 5] * 2}, TypeError, "mask: got dtype <U1, must be booleans$"),
    "ragged": ({"mask": [[True], [True, False]]}, ValueError, "mask: not a rectangular array"),
    "one flag": ({"reset": True}, ValueError, r"reset: got shape \(\), must be"),
    "both": ({"mask": MASK, "lengths": [1, 2]}, ValueError, "mask: got lengths as well, .*leave out one"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_flags(given, error, message):
    lstm, model = LSTM(3, 4), Sequential([LSTM(3, 4)])
    for call in (lstm, lstm.forward, lstm.trace, model.predict, model.forward, model.trace):
        with pytest.raises(error, match="^" + message):
            call(X, **given)


def test_wrong_flags_of_lists_and_single_sequences():
    lstm = LSTM(3, 4)
    for wrong, message in (
        (MASK, "mask: got ndarray, must be a list of 2 arrays of booleans"),
        ([MASK[0]], "mask: got 1 arrays, must be a list of 2"),
        (
            [MASK[0], MASK[0, :3]],
            r"mask\[1\]: got shape \(3,\), must be one flag for each step of x\[1\], \(T_n,\) = \(5,\)",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            lstm(list(X), mask=wrong)
    with pytest.raises(TypeError, match=r"mask\[0\]: got dtype float64, must be booleans; write mask\[0\] != 0"):
        lstm(list(X), mask=[np.ones(5), MASK[1]])
    with pytest.raises(
        ValueError, match=r"reset: got shape \(1, 5\), must be one flag for each step of x, \(T,\) = \(5,\)"
    ):
        lstm(X[0], reset=MASK[:1])


def test_wrong_options():
    for wrong in (1, None, "yes"):
        with pytest.raises(TypeError, match=r"reverse: got .*must be True or False"):
            LSTM(3, 4, reverse=wrong)
    with pytest.raises(ValueError, match="reverse: a bidirectional LSTM has that direction already"):
        LSTM(3, 4, reverse=True, bidirectional=True)
    with pytest.raises(ValueError, match="merge: got 'ave', must be one of 'concat', 'sum', 'mul', 'average'"):
        LSTM(3, 4, bidirectional=True, merge="ave")
    with pytest.raises(ValueError, match='merge: got "sum", but there is one direction; it takes bidirectional=True'):
        LSTM(3, 4, merge="sum")
