"""lstmx.functional: one layer in one direction, against lstmx.reference, and its errors."""

import re

import numpy as np
import pytest

from lstmx import LSTM, functional, reference
from lstmx._core import job
from lstmx.functional import lstm_backward, lstm_forward, lstm_step
from lstmx.testing import finite_difference

SIZES = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33]  # around every vector width
# Beside the reference in float64. float64: other orders of sums, some tens of roundings of values of order 1 to 10.
# float32: the inputs are equal, so this is the accumulated rounding (6e-8) of up to 31 steps and sums of 33 terms.
CLOSE = {"float32": {"rtol": 1e-4, "atol": 3e-5}, "float64": {"rtol": 1e-11, "atol": 1e-12}}
# Central differences with a step of 1e-6 are good to about 1e-9 for losses of order 10.
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-7}

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
reverses = pytest.mark.parametrize("reverse", [False, True])


def draw(I, H, N, T, dtype="float64", seed=0):
    """x, weights (weight_ih, weight_hh, bias), state, dy, dstate; sums of any width stay of order 1."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return (scale * rng.normal(size=shape)).astype(dtype)

    weights = normal(4 * H, I, scale=I**-0.5), normal(4 * H, H, scale=H**-0.5), normal(4 * H)
    return normal(N, T, I), weights, (normal(N, H), normal(N, H)), normal(N, T, H), (normal(N, H), normal(N, H))


def everything(module, x, weights, state, dy, dstate, **options):
    """All results of a forward and a backward pass, by name."""
    y, (h_n, c_n), tape = module.lstm_forward(x, *weights, state, **options)
    grads = module.lstm_backward(tape, dy, dstate)
    out = {"y": y, "h_n": h_n, "c_n": c_n, "dx": grads.x, "dh0": grads.state[0], "dc0": grads.state[1]}
    return out | {f"d{name}": value for name, value in grads.params.items()}


def compare(arrays, dtype, **options):
    """Ours in `dtype` beside the reference in float64 on the same numbers."""
    found = everything(functional, *arrays, **options)
    double = [a if a is None else tuple(None if b is None else b.astype("f8") for b in a) if isinstance(a, tuple)
              else a.astype("f8") for a in arrays]  # fmt: skip
    wanted = everything(reference, *double, **options)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name].dtype == dtype, name
        np.testing.assert_allclose(found[name], value, **CLOSE[dtype], err_msg=name)


# Against the reference


@pytest.mark.parametrize("H", SIZES)
@dtypes
def test_equals_the_reference_for_every_width(dtype, H):
    for I in SIZES:
        compare(draw(I, H, 3, 4, dtype, seed=I), dtype)


@pytest.mark.parametrize("T", SIZES)
@dtypes
def test_equals_the_reference_for_every_batch_and_time(dtype, T):
    for N in SIZES:
        compare(draw(3, 5, N, T, dtype, seed=N), dtype, reverse=N % 2 == 1)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("lengths", [None, [5, 0, 2, 5, 7], [3, 3, 3, 3, 3], [0, 0, 0, 0, 0], [7, 6, 3, 2, 0]], ids=str)
@reverses
@dtypes
def test_equals_the_reference_with_every_option(dtype, reverse, lengths, given, bias):
    x, weights, state, dy, dstate = draw(3, 9, 5, 7, dtype)
    if not bias:
        weights = (*weights[:2], None)
    if not given:
        state = dy = None
    compare((x, weights, state, dy, dstate), dtype, lengths=lengths, reverse=reverse)


@pytest.mark.parametrize("block", [1, 100, 1000])
@pytest.mark.parametrize("lengths", [None, [5, 0, 2, 5, 7]], ids=str)
@reverses
@dtypes
def test_inference_in_blocks_equals_training(dtype, reverse, lengths, block):
    # lstm_forward always trains; the call of a layer infers, with one block of gates at a time.
    x, weights, (h0, c0), _, _ = draw(3, 9, 5, 7, dtype)
    lstm = LSTM(3, 9, bidirectional=True, dtype=dtype)
    for suffix in ("", "_reverse"):
        names = (f"weight_ih_l0{suffix}", f"weight_hh_l0{suffix}", f"bias_l0{suffix}")
        lstm.set_parameters(dict(zip(names, weights, strict=True)))
    y, (h_n, c_n), _ = lstm_forward(x, *weights, (h0, c0), lengths=lengths, reverse=reverse)
    before = job.set_block(block, 1)
    ours, (h, c) = lstm(x, ([h0, h0], [c0, c0]), lengths=lengths)
    job.set_block(*before)
    np.testing.assert_allclose(np.split(ours, 2, axis=2)[reverse], y, **CLOSE[dtype])
    np.testing.assert_allclose(h[int(reverse)], h_n, **CLOSE[dtype])
    np.testing.assert_allclose(c[int(reverse)], c_n, **CLOSE[dtype])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("N", [0, 1, 3, 17])
@dtypes
def test_step_equals_the_reference(dtype, N, bias):
    for H in SIZES:
        x, weights, state, _, _ = draw(3, H, N, 1, dtype, seed=H)
        weights = weights if bias else (*weights[:2], None)
        h, (h_t, c_t) = lstm_step(x[:, 0], state, *weights)
        wanted_h, (_, wanted_c) = reference.lstm_step(x[:, 0], state, *weights)
        np.testing.assert_array_equal(h, h_t)
        assert not np.shares_memory(h, h_t) and h.dtype == c_t.dtype == dtype
        np.testing.assert_allclose(h, wanted_h, **CLOSE[dtype])
        np.testing.assert_allclose(c_t, wanted_c, **CLOSE[dtype])


def test_step_from_no_state_is_step_from_zeros():
    x, weights, (h0, _), _, _ = draw(3, 8, 4, 1)
    wanted, _ = lstm_step(x[:, 0], (0 * h0, 0 * h0), *weights)
    np.testing.assert_array_equal(lstm_step(x[:, 0], None, *weights)[0], wanted)


@reverses
def test_gradients_equal_finite_differences(reverse):
    x, weights, state, dy, dstate = draw(2, 3, 3, 4)
    options = {"lengths": [4, 0, 2], "reverse": reverse}

    def loss():
        y, final, _ = lstm_forward(x, *weights, state, **options)
        return float((y * dy).sum() + sum((a * b).sum() for a, b in zip(final, dstate, strict=True)))

    found = everything(functional, x, weights, state, dy, dstate, **options)
    arrays = dict(zip(("dx", "dweight_ih", "dweight_hh", "dbias", "dh0", "dc0"), (x, *weights, *state), strict=True))
    for name, array in arrays.items():
        np.testing.assert_allclose(found[name], finite_difference(loss, array), **DIFFERENCES, err_msg=name)


def test_the_data_are_not_degenerate():
    for name, value in everything(functional, *draw(9, 17, 5, 7)).items():
        assert 0.01 < np.median(np.abs(value)) < 100, name


# Forms and types


def test_a_list_and_a_single_sequence_equal_the_batch():
    x, weights, state, dy, dstate = draw(3, 8, 3, 5)
    lengths = [5, 0, 2]
    wanted = everything(functional, x, weights, state, dy, dstate, lengths=lengths)
    cut = [[a[:n] for a, n in zip(array, lengths, strict=True)] for array in (x, dy)]
    found = everything(functional, cut[0], weights, state, cut[1], dstate)
    for n, length in enumerate(lengths):
        np.testing.assert_array_equal(found["y"][n], wanted["y"][n, :length])
        np.testing.assert_array_equal(found["dx"][n], wanted["dx"][n, :length])
    for name in wanted.keys() - {"y", "dx"}:
        np.testing.assert_array_equal(found[name], wanted[name], err_msg=name)
    one = everything(functional, x[0], weights, [s[0] for s in state], dy[0], [s[0] for s in dstate])
    row = everything(functional, x[:1], weights, [s[:1] for s in state], dy[:1], [s[:1] for s in dstate])
    for name, value in row.items():
        np.testing.assert_array_equal(one[name], value if name.startswith("dw") or name == "dbias" else value[0])


@pytest.mark.parametrize(
    ("weights", "x", "wanted"),
    [("f4", "f4", "f4"), (">f4", "f4", "f4"), ("f4", "i8", "f4"), ("f8", "f4", "f8"), ("f2", "f4", "f8"),
     ("i8", "f4", "f8")],
)  # fmt: skip
def test_the_weights_decide_the_type(weights, x, wanted):
    arrays = draw(3, 8, 2, 4)
    rounded = [np.round(2 * w).astype(weights) for w in arrays[1]]
    y, (h, c), tape = lstm_forward(arrays[0].astype(x), *rounded)
    grads = lstm_backward(tape, arrays[3])
    results = [y, h, c, grads.x, *grads.state, *grads.params.values()]
    results += lstm_step(arrays[0][:, 0].astype(x), None, *rounded)[1]
    assert {a.dtype for a in results} == {np.dtype(wanted)}


def test_a_mixture_of_weights_is_float64():
    x, (weight_ih, weight_hh, bias), _, _, _ = draw(3, 8, 2, 4, "float32")
    assert lstm_forward(x, weight_ih, weight_hh, bias.astype("f8"))[0].dtype == np.float64


def test_views_of_weights_give_the_same_bits():
    arrays = draw(3, 8, 2, 4)
    wanted = everything(functional, *arrays)
    views = [np.asfortranarray(a) for a in arrays[1]], [a[::-1].copy()[::-1] for a in arrays[1]]
    for seen in views:
        for a in seen:
            a.flags.writeable = False
        found = everything(functional, arrays[0], seen, *arrays[2:])
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_no_function_changes_its_inputs():
    arrays = draw(3, 8, 1, 4)
    flat = [a for part in arrays for a in (part if isinstance(part, tuple) else (part,))]
    before = [a.copy() for a in flat]
    everything(functional, *arrays)
    everything(functional, *arrays, reverse=True, lengths=[3])
    lstm_step(arrays[0][:, 0], arrays[2], *arrays[1])
    for array, wanted in zip(flat, before, strict=True):
        np.testing.assert_array_equal(array, wanted)


# Tapes


def test_a_tape_is_used_once_unless_retained():
    x, weights, state, dy, dstate = draw(3, 8, 2, 4)
    wanted = everything(functional, x, weights, state, dy, dstate)
    tape = lstm_forward(x, *weights, state)[2]
    for retain in (True, True, False):
        np.testing.assert_array_equal(lstm_backward(tape, dy, dstate, retain=retain).x, wanted["dx"])
    with pytest.raises(RuntimeError, match=r"^tape: .*retain=True"):
        lstm_backward(tape, dy)


def test_an_error_in_backward_leaves_the_tape_as_it_was():
    x, weights, state, dy, dstate = draw(3, 8, 2, 4)
    wanted = everything(functional, x, weights, state, dy, dstate)
    tape = lstm_forward(x, *weights, state)[2]
    for wrong in ({"dy": dy[:1]}, {"dy": "dy"}, {"dstate": dstate[0]}, {"retain": 1}):
        with pytest.raises((ValueError, TypeError)):
            lstm_backward(tape, **({"dy": dy, "dstate": dstate} | wrong))
    np.testing.assert_array_equal(lstm_backward(tape, dy, dstate).x, wanted["dx"])


@pytest.mark.parametrize("changed", ["x", "state", "y", "weights"])
@pytest.mark.parametrize(("N", "T"), [(1, 4), (2, 1), (2, 4)])
def test_the_tape_remembers_the_pass_and_not_the_arrays_of_the_caller(N, T, changed):
    # A caller may reuse its buffers, or update its weights in place, between forward and backward.
    x, weights, state, dy, dstate = draw(3, 8, N, T)
    wanted = everything(functional, x, weights, state, dy, dstate)
    y, final, tape = lstm_forward(x, *weights, state)
    for array in {"x": (x,), "state": state, "y": (y, *final), "weights": weights}[changed]:
        array[...] = 77
    grads = lstm_backward(tape, dy, dstate)
    np.testing.assert_array_equal(grads.x, wanted["dx"])
    for name, value in grads.params.items():
        np.testing.assert_array_equal(value, wanted["d" + name], err_msg=name)


@pytest.mark.parametrize("tape", [None, 3, "tape", (), np.zeros(3)], ids=lambda a: type(a).__name__)
def test_what_is_no_tape_is_refused(tape):
    with pytest.raises(TypeError, match=r"^tape"):
        lstm_backward(tape, None)


def test_the_tape_of_a_layer_is_refused():
    lstm = LSTM(3, 8)
    tape = lstm.forward(np.zeros((2, 4, 3)))[2]
    with pytest.raises(TypeError, match=r"^tape"):
        lstm_backward(tape, None)
    lstm.backward(tape, None)  # and is not used up


# Errors

X, (W_IH, W_HH, BIAS), STATE, DY, DSTATE = draw(3, 4, 2, 5)
GOOD = {"x": X, "weight_ih": W_IH, "weight_hh": W_HH, "bias": BIAS, "state": STATE}


def numbered(cases):
    """An identifier for each case: the argument and its place in the list."""
    return [f"{next(iter(wrong))}-{k}" for k, (wrong, _, _) in enumerate(cases)]


WRONG = [
    ({"weight_ih": W_IH[0]}, ValueError, r"weight_ih: got shape \(3,\), must have two dimensions"),
    ({"weight_ih": W_IH.T}, ValueError, r"weight_ih: got shape \(3, 16\), must be \(4H, I\) = \(16, 16\)"),
    ({"weight_ih": W_IH[:8]}, ValueError, r"weight_ih: got shape \(8, 3\), must be \(4H, I\) = \(16, 3\)"),
    ({"weight_ih": None}, TypeError, "weight_ih: got dtype object"),
    ({"weight_ih": W_IH * 1j}, TypeError, "weight_ih: got dtype complex128"),
    ({"weight_ih": [[1.0, 2.0], [3.0]]}, ValueError, "weight_ih: not a rectangular array"),
    ({"weight_ih": np.ma.masked_array(W_IH)}, TypeError, "weight_ih: got a masked array"),
    ({"weight_ih": W_IH[:, :0]}, ValueError, "weight_ih, weight_hh: .*must be positive"),
    ({"weight_hh": W_HH.T}, ValueError, r"weight_hh: got shape \(4, 16\), must be \(4H, H\) = \(64, 16\)"),
    ({"weight_hh": W_HH[:, :3]}, ValueError, r"weight_hh: got shape \(16, 3\), must be \(4H, H\) = \(12, 3\)"),
    ({"weight_hh": W_HH[:0, :0]}, ValueError, "weight_ih, weight_hh: .*must be positive"),
    ({"weight_hh": "abc"}, TypeError, "weight_hh: got dtype <U3"),
    ({"bias": BIAS[:4]}, ValueError, r"bias: got shape \(4,\), must be \(4H,\) = \(16,\)"),
    ({"bias": BIAS[:, None]}, ValueError, r"bias: got shape \(16, 1\), must be"),
    ({"bias": 0.0}, ValueError, r"bias: got shape \(\), must be"),
    ({"x": X[..., :2]}, ValueError, r"x: got shape \(2, 5, 2\), must be \(N, T, 3\)"),
    ({"x": X.swapaxes(1, 2)}, ValueError, r"x: .*features come last"),
    ({"x": None}, TypeError, "x: got dtype object"),
    ({"state": STATE[0]}, TypeError, r"state: got ndarray, must be a pair of arrays \(h, c\)"),
    ({"state": (STATE[0], STATE[1][:1])}, ValueError, r"state c: got shape \(1, 4\), must be \(N, H\) = \(2, 4\)"),
    ({"state": (STATE[0][None], STATE[1])}, ValueError, r"state h: got shape \(1, 2, 4\), must be \(N, H\)"),
    ({"lengths": [5]}, ValueError, r"lengths: got shape \(1,\), must be \(N,\) = \(2,\)"),
    ({"lengths": [6, 1]}, ValueError, "lengths: sequence 0 has length 6"),
    ({"lengths": [1.0, 2.0]}, TypeError, "lengths: got dtype float64"),
    ({"reverse": 1}, TypeError, "reverse: got 1, must be True or False"),
    ({"reverse": "yes"}, TypeError, "reverse: got 'yes', must be True or False"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG, ids=numbered(WRONG))
def test_forward_names_what_is_wrong(wrong, error, message):
    with pytest.raises(error, match=r"^" + message):
        lstm_forward(**(GOOD | wrong))


STEP = [w for w in WRONG if next(iter(w[0])) in ("weight_ih", "weight_hh", "bias", "state")] + [
    ({"x_t": X}, ValueError, r"x_t: got shape \(2, 5, 3\), must be \(N, I\) = \(N, 3\)"),
    ({"x_t": X[0, 0]}, ValueError, r"x_t: got shape \(3,\), must be \(N, I\)"),
    ({"x_t": X[:, 0, :2]}, ValueError, r"x_t: got shape \(2, 2\), must be \(N, I\)"),
    ({"x_t": "abc"}, TypeError, "x_t: got dtype <U3"),
    ({"x_t": None}, TypeError, "x_t: got dtype object"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), STEP, ids=numbered(STEP))
def test_step_names_what_is_wrong(wrong, error, message):
    good = {name: value for name, value in GOOD.items() if name != "x"} | {"x_t": X[:, 0]}
    with pytest.raises(error, match=r"^" + message):
        lstm_step(**(good | wrong))


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [({"dy": DY[:, :4]}, ValueError, r"dy: got shape \(2, 4, 4\), must be the shape of y = \(2, 5, 4\)"),
     ({"dy": DY[:, -1]}, ValueError, r"dy: got shape \(2, 4\), must be the shape of y"),
     ({"dy": 1.0}, ValueError, r"dy: got shape \(\), must be the shape of y"),
     ({"dy": "abc"}, TypeError, "dy: got dtype <U3"),
     ({"dstate": DSTATE[0]}, TypeError, "dstate: got ndarray"),
     ({"dstate": (DSTATE[0], None)}, TypeError, "dstate c: got dtype object"),
     ({"dstate": (DSTATE[0][:1], DSTATE[1])}, ValueError, r"dstate h: got shape \(1, 4\), must be \(N, H\) = \(2, 4\)"),
     ({"retain": None}, TypeError, "retain: got None, must be True or False")],
)  # fmt: skip
def test_backward_names_what_is_wrong(wrong, error, message):
    tape = lstm_forward(**GOOD)[2]
    with pytest.raises(error, match=r"^" + message):
        lstm_backward(tape, **({"dy": DY, "dstate": DSTATE} | wrong))


@pytest.mark.parametrize("dy", [[DY[0]], DY, [DY[0], DY[1, :4]]], ids=["too few", "an array", "too short"])
def test_the_gradient_of_a_list_must_be_such_a_list(dy):
    tape = lstm_forward([X[0], X[1]], W_IH, W_HH)[2]
    with pytest.raises(ValueError, match=re.compile(r"^dy")):
        lstm_backward(tape, dy)
