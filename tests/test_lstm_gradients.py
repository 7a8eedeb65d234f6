"""lstmx.LSTM in training: gradients, tapes, dropout."""

import copy
import itertools

import numpy as np
import pytest
from lstm_cases import BATCHES, LENGTHS, assert_close, assert_equal, assert_same, everything, inputs, kinds, make
from tolerances import FINITE_DIFFERENCE, PEER

from lstmx import LSTM, functional
from lstmx.functional.read import sequences
from lstmx.testing import gradcheck

# Gradients


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("N", [1, 3])
@pytest.mark.parametrize("T", [1, 2, 5])
def test_gradients_equal_finite_differences(T, N, num_layers, bidirectional):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional)
    x, state, _, _ = inputs(lstm, N, T)
    gradcheck(lstm, x, state, **FINITE_DIFFERENCE)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_gradients_from_a_zero_state(num_layers, bidirectional):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional)
    gradcheck(lstm, inputs(lstm, 3, 4)[0], **FINITE_DIFFERENCE)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_gradients_without_bias(num_layers, bidirectional):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional, bias=False)
    assert not any("bias" in name for name in lstm.parameters())
    x, state, _, _ = inputs(lstm, 3, 4)
    gradcheck(lstm, x, state, **FINITE_DIFFERENCE)


@pytest.mark.parametrize("lengths", [[2, 0, 4, 1], [0, 0, 3, 5], [5, 4, 2, 0]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 2])
def test_gradients_of_ragged_batches(num_layers, bidirectional, lengths):
    lstm = make(2, 3, num_layers, bidirectional=bidirectional)
    x, state, _, _ = inputs(lstm, 4, 5)
    gradcheck(lstm, x, state, lengths=lengths, **FINITE_DIFFERENCE)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_of_a_list(bidirectional):
    lstm = make(2, 3, 2, bidirectional=bidirectional)
    x, state, _, _ = inputs(lstm, 4, 5)
    gradcheck(lstm, [x[0, :3], x[1, :0], x[2, :1], x[3]], state, **FINITE_DIFFERENCE)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_of_a_single_sequence(bidirectional):
    lstm = make(2, 3, 2, bidirectional=bidirectional)
    x, (h0, c0), _, _ = inputs(lstm, 1, 4)
    gradcheck(lstm, x[0], (h0[:, 0], c0[:, 0]), **FINITE_DIFFERENCE)


@pytest.mark.parametrize("lengths", [None, [2, 0, 5]], ids=str)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_gradients_with_dropout_of_a_fixed_generator(bidirectional, lengths):
    lstm = make(1, 3, 2 if bidirectional else 3, bidirectional=bidirectional, dropout=0.4)
    x, state, _, _ = inputs(lstm, 3, 5)
    assert (lstm.forward(x, state, lengths=lengths, rng=0)[0] != lstm(x, state, lengths=lengths)[0]).any()
    gradcheck(lstm, x, state, lengths=lengths, **FINITE_DIFFERENCE)


def test_the_data_of_the_gradient_tests_are_not_degenerate():
    lstm = make(2, 3, 2, bidirectional=True)
    for name, value in everything(lstm, *inputs(lstm, 3, 5)).items():
        assert np.median(np.abs(value)) > 1e-2, name
        assert np.unique(value).size == value.size, name


@pytest.mark.parametrize("name", ["x", "h0", "c0", "weight_ih_l0", "weight_hh_l1_reverse", "bias_l1"])
def test_gradcheck_sees_one_wrong_element(monkeypatch, name):
    right = LSTM.backward

    def wrong(self, *arguments, **options):
        grads = right(self, *arguments, **options)
        arrays = {"x": grads.x, "h0": grads.state[0], "c0": grads.state[1]} | grads.params
        arrays[name].flat[-1] *= 1.001
        return grads

    monkeypatch.setattr(LSTM, "backward", wrong)
    lstm = make(1, 2, 2, bidirectional=True)
    x, state, _, _ = inputs(lstm, 2, 2)
    with pytest.raises(AssertionError, match=f"gradient of {name}"):
        gradcheck(lstm, x, state, **FINITE_DIFFERENCE)


@pytest.mark.parametrize("zero", ["None", "zeros"])
@kinds
def test_without_a_gradient_of_the_loss_all_gradients_are_exactly_zero(num_layers, bidirectional, zero):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional)
    x, state, dy, dstate = inputs(lstm, 5, 7)
    dy, dstate = (None, None) if zero == "None" else (0 * dy, tuple(0 * s for s in dstate))
    found = everything(lstm, x, state, dy, dstate, lengths=LENGTHS)
    assert all((value == 0).all() for name, value in found.items() if name.startswith("d"))


@kinds
def test_backward_is_linear(num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional)
    x, state, dy_1, dstate_1 = inputs(lstm, 5, 7, seed=2)
    _, _, dy_2, dstate_2 = inputs(lstm, 5, 7, seed=3)
    _, _, tape = lstm.forward(x, state, lengths=LENGTHS)

    def gradients(dy, dstate):
        grads = lstm.backward(tape, dy, dstate, retain=True)
        return {"x": grads.x, "h0": grads.state[0], "c0": grads.state[1]} | grads.params

    one, two = gradients(dy_1, dstate_1), gradients(dy_2, dstate_2)
    found = gradients(2 * dy_1 - 3 * dy_2, [2 * a - 3 * b for a, b in zip(dstate_1, dstate_2, strict=True)])
    assert_close(found, {name: 2 * one[name] - 3 * two[name] for name in one}, rtol=1e-11, atol=1e-11)


# Tapes


def test_a_tape_is_used_once_and_the_error_names_the_remedy():
    lstm = make(3, 8)
    x, _, dy, _ = inputs(lstm, 2, 4)
    tape = lstm.forward(x)[2]
    lstm.backward(tape, dy)
    for retain in (False, True):
        with pytest.raises(RuntimeError, match=r"^tape: .*retain=True"):
            lstm.backward(tape, dy, retain=retain)


@kinds
def test_retaining_a_tape_gives_equal_gradients_again(num_layers, bidirectional):
    lstm = make(3, 8, num_layers, bidirectional=bidirectional, dropout=0.3)
    x, state, dy, dstate = inputs(lstm, 5, 7)
    tape = lstm.forward(x, state, lengths=LENGTHS, rng=3)[2]
    grads = [lstm.backward(tape, dy, dstate, retain=retain) for retain in (True, True, False)]
    for other in grads[1:]:
        np.testing.assert_array_equal(other.x, grads[0].x)
        np.testing.assert_array_equal(other.state, grads[0].state)
        assert_equal(other.params, grads[0].params)


def test_setting_parameters_ends_a_tape():
    lstm = make(3, 8)
    x, _, dy, _ = inputs(lstm, 2, 4)
    tape = lstm.forward(x)[2]
    lstm.set_parameters({"bias_l0": np.ones(32)})
    with pytest.raises(RuntimeError, match=r"^tape: the parameters"):
        lstm.backward(tape, dy)


@pytest.mark.parametrize("owner", ["twin", "copy", "wider", "deeper", "bidirectional", "float32"])
def test_the_tape_of_another_model_is_refused(owner):
    lstm = make(3, 4)
    other = {
        "twin": lambda: make(3, 4, seed=5),
        "copy": lstm.copy,
        "wider": lambda: make(3, 8),
        "deeper": lambda: make(3, 4, 2),
        "bidirectional": lambda: make(3, 4, bidirectional=True),
        "float32": lambda: make(3, 4, dtype="float32"),
    }[owner]()
    x, _, dy, _ = inputs(lstm, 2, 4)
    with pytest.raises(TypeError, match=r"^tape"):
        lstm.backward(other.forward(x)[2], dy)


@pytest.mark.parametrize("tape", [None, 3, "tape", (), np.zeros(3), LSTM(2, 2)], ids=lambda a: type(a).__name__)
def test_what_is_no_tape_is_refused(tape):
    with pytest.raises(TypeError, match=r"^tape: got \w+, must be the tape that this model's forward returned"):
        make(3, 4).backward(tape, None)


def test_the_tape_of_a_functional_call_is_refused():
    lstm = make(3, 4)
    tape = functional.lstm_forward(np.zeros((2, 4, 3)), *lstm._weights(0, 0).arrays.values())[2]
    with pytest.raises(TypeError, match=r"^tape"):
        lstm.backward(tape, None)


def test_an_error_in_backward_leaves_the_tape_as_it_was():
    lstm = make(3, 4)
    x, state, dy, dstate = inputs(lstm, 2, 4)
    wanted = everything(lstm, x, state, dy, dstate)
    tape = lstm.forward(x, state)[2]
    for wrong in ({"dy": dy[:1]}, {"dy": "dy"}, {"dstate": dstate[0]}, {"retain": 1}):
        with pytest.raises((ValueError, TypeError)):
            lstm.backward(tape, **({"dy": dy, "dstate": dstate} | wrong))
    np.testing.assert_array_equal(lstm.backward(tape, dy, dstate).x, wanted["dx"])


@pytest.mark.parametrize("changed", ["x", "state", "y"])
@pytest.mark.parametrize(("N", "T"), BATCHES)
def test_the_tape_remembers_the_pass_and_not_the_arrays_of_the_caller(N, T, changed):
    # A caller may reuse its buffers between forward and backward.
    lstm = make(3, 4)
    x, state, dy, dstate = inputs(lstm, N, T)
    wanted = everything(lstm, x, state, dy, dstate)
    y, final, tape = lstm.forward(x, state)
    for array in {"x": (x,), "state": state, "y": (y, *final)}[changed]:
        array[...] = 77
    grads = lstm.backward(tape, dy, dstate)
    np.testing.assert_array_equal(grads.x, wanted["dx"])
    for name, value in grads.params.items():
        np.testing.assert_array_equal(value, wanted["d" + name], err_msg=name)


# Dropout


def test_dropout_works_between_layers_in_training_alone():
    lstm, plain = (make(3, 8, 2, dropout=rate) for rate in (0.5, 0.0))
    x, _, _, _ = inputs(lstm, 4, 5)
    np.testing.assert_array_equal(lstm(x)[0], plain(x)[0])
    np.testing.assert_array_equal(lstm.trace(x).h[1, 0], plain(x)[0])
    assert (lstm.forward(x)[0] != plain(x)[0]).any()
    single = make(3, 8, 1, dropout=0.5)
    np.testing.assert_array_equal(single.forward(x)[0], single(x)[0])


def test_dropout_depends_on_the_generator_and_the_place_alone():
    lstm = make(3, 8, 3, bidirectional=True, dropout=0.5)
    x, _, _, _ = inputs(lstm, 5, 7)
    y = lstm.forward(x, lengths=LENGTHS, rng=7)[0]
    np.testing.assert_array_equal(lstm.forward(x, lengths=LENGTHS, rng=np.random.default_rng(7))[0], y)
    assert (lstm.forward(x, lengths=LENGTHS, rng=8)[0] != y).any()
    listed = lstm.forward([a[:n] for a, n in zip(x, LENGTHS, strict=True)], rng=7)[0]
    for n, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(listed[n], y[n, :length])
    np.testing.assert_allclose(lstm.forward(x[0, :4], rng=7)[0], y[0, :4], **PEER["float64"])


def test_every_layer_drops_other_units():
    lstm = make(3, 8, 4, dropout=0.5)
    tape = lstm.forward(inputs(lstm, 4, 5)[0], rng=7)[2]
    masks = [rows == 0 for rows, *_ in tape.parts["layers"][1:]]  # what each layer reads
    assert len(masks) == 3 and all(0 < mask.sum() < mask.size for mask in masks)
    assert all((a != b).any() for a, b in itertools.combinations(masks, 2))


@pytest.mark.parametrize("seed", [3, np.int64(3), np.random.SeedSequence(3)], ids=lambda s: type(s).__name__)
def test_one_random_state_gives_the_same_sequence_of_dropouts(seed):
    one, two = (LSTM(3, 8, 2, dropout=0.5, random_state=copy.deepcopy(seed)) for _ in range(2))
    x, _, _, _ = inputs(one, 4, 5)
    first, second = one.forward(x)[0], one.forward(x)[0]
    assert (first != second).any()
    np.testing.assert_array_equal(two.forward(x)[0], first)
    np.testing.assert_array_equal(two.forward(x)[0], second)


@pytest.mark.parametrize("layer", [{}, {"num_layers": 2, "bidirectional": True}, {"reverse": True}], ids=str)
def test_cohorts_have_the_gradients_of_their_sequences(layer):
    """Many sequences have cohorts (lstmx.functional.context), one alone has none."""
    rng = np.random.default_rng(0)
    lengths = np.array([*rng.integers(1, 60, 30), 0, 60, 60])
    lstm = LSTM(3, 7, dtype="float64", random_state=0, **layer)
    x = [rng.normal(size=(n, 3)) for n in lengths]
    assert len(sequences(x, 3, lstm.dtype).all()[1].cohorts) == 3
    y, _, tape = lstm.forward(x)
    dy = [rng.normal(size=a.shape) for a in y]
    grads, total = lstm.backward(tape, dy), dict.fromkeys(lstm.parameters(), 0)
    for n in range(len(x)):
        y_n, _, tape = lstm.forward(x[n])
        alone = lstm.backward(tape, dy[n])
        assert_same(y[n], y_n)
        assert_same(grads.x[n], alone.x)
        for found, wanted in zip(grads.state, alone.state, strict=True):
            assert_same(found[:, n], wanted)
        for name in total:
            total[name] = total[name] + alone.params[name]
    for name, gradient in grads.params.items():
        np.testing.assert_allclose(gradient, total[name], **PEER["float64"], err_msg=name)


def test_a_cohort_of_just_256_sequences_has_room_for_its_blocks():
    """Two sequences are so long that the others are in the last cohort; a block of it has several steps."""
    rng = np.random.default_rng(0)
    lstm = LSTM(3, 7, dtype="float64", random_state=0)
    x = [rng.normal(size=(n, 3)) for n in [2000, 2000, *[4] * 257]]
    assert np.diff(sequences(x, 3, lstm.dtype).all()[1].cohorts).tolist() == [1, 1, 1, 256]
    parts = []
    for part in (x, x[:2], x[2:]):
        y, _, tape = lstm.forward(part)
        parts.append(lstm.backward(tape, [np.ones_like(a) for a in y]).params)
    whole, long, short = parts
    for name, gradient in whole.items():
        np.testing.assert_allclose(gradient, long[name] + short[name], **PEER["float64"], err_msg=name)
