"""Sequential: gradients of whole models, predict in every form, steps, parameters, copies, bad chains.

Tolerances. gradcheck's own (rtol 1e-6, atol 1e-7: differences with a step of 1e-6 in float64). BATCHED: BLAS may give
a row other last bits in another batch, so float32 results agree to a few 1e-7 of values of order 1. DOUBLE: the same in
float64.
"""

import copy
import pickle

import numpy as np
import pytest

import lstmx
from lstmx import LSTM, Dense, Dropout, Embedding, FinalState, Last, MeanPool, Sequential
from lstmx.testing import gradcheck

BATCHED = {"rtol": 1e-5, "atol": 2e-6}
DOUBLE = {"rtol": 1e-12, "atol": 1e-14}

POOLS = {"Last": Last, "FinalState": FinalState, "MeanPool": MeanPool}
ACTIVATIONS = [None, "linear", "relu", "tanh", "sigmoid", "softmax"]


def generator(seed=0):
    return np.random.default_rng(seed)


def everything(pool=FinalState, features=2):
    """A model with every kind of layer but Embedding; `pool` None leaves one output per step."""
    layers = [Dropout(0.2), LSTM(features, 3, 2, bidirectional=True, dropout=0.3), Dropout(0.4)]
    layers += [pool()] if pool else []
    layers += [Dense(6, 4, "tanh"), Dropout(0.1), Dense(4, 3, "softmax")]
    return randomised(Sequential(layers, random_state=0))


def embedding_model(pool=Last, padding_idx=0):
    layers = [Embedding(7, 3, padding_idx), LSTM(3, 4), *([pool()] if pool else []), Dense(4, 2, "sigmoid")]
    return randomised(Sequential(layers, random_state=1))


def randomised(model, seed=5):
    """No parameter at its initial 0 or 1, where a wrong gradient could hide; the padding row stays 0."""
    rng = generator(seed)
    values = {name: rng.normal(scale=0.6, size=p.shape) for name, p in model.parameters().items()}
    if model.embedding is not None and model.embedding.padding_idx is not None:
        values["0.weight"][model.embedding.padding_idx] = 0
    model.set_parameters(values)
    return model


def batch(lengths, features=2, seed=2):
    return [generator((seed, n)).normal(size=(length, features)) for n, length in enumerate(lengths)]


def same_parameters(one, two):
    one, two = one.parameters(), two.parameters()
    assert list(one) == list(two)
    for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


# Gradients of every array.


@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool, None], ids=lambda p: p.__name__ if p else "per_step")
@pytest.mark.parametrize("form", ["array", "lengths", "list", "single"])
def test_gradients_of_every_array(pool, form):
    model, lengths = everything(pool).astype("float64"), None
    x = np.array(batch([4, 4, 4]))
    if form == "lengths":
        lengths = [2, 4, 0]
    elif form == "list":
        x = batch([2, 4, 0, 1])
    elif form == "single":
        x = x[0]
    gradcheck(model, x, lengths=lengths)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("sequences", [1, 3])
def test_gradients_at_every_size(steps, sequences):
    gradcheck(everything().astype("float64"), np.array(batch([steps] * sequences)))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("pool", [Last, None], ids=["pooled", "per_step"])
def test_gradients_of_dense_with_each_activation(activation, pool):
    layers = [Dense(2, 5, activation), LSTM(5, 3), *([pool()] if pool else []), Dense(3, 4, activation), Dense(4, 3)]
    model = randomised(Sequential(layers, random_state=0)).astype("float64")
    gradcheck(model, np.array(batch([3, 3])), lengths=[3, 2])


@pytest.mark.parametrize("pool", [Last, MeanPool, None], ids=["Last", "MeanPool", "per_step"])
@pytest.mark.parametrize("padding_idx", [None, 0, 3])
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]])
def test_gradients_of_an_embedding(pool, padding_idx, lengths):
    """Tokens repeat, within and across sequences. The gradient of the row of padding_idx is 0 by definition."""
    model = embedding_model(pool, padding_idx).astype("float64")
    tokens = np.array([[1, 0, 1, 2], [0, 6, 4, 4], [1, 3, 5, 0]])
    if padding_idx is None:
        gradcheck(model, tokens, lengths=lengths)
        return
    y, tape = model.forward(tokens, lengths=lengths)
    gradient = model.backward(tape, np.ones_like(y)).params["0.weight"]
    free = Sequential([Embedding(7, 3, dtype="float64"), *[layer.copy() for layer in model.layers[1:]]])
    free.set_parameters({"0.weight": model.parameters()["0.weight"]})
    y_free, tape = free.forward(tokens, lengths=lengths)
    wanted = free.backward(tape, np.ones_like(y_free)).params["0.weight"].copy()
    np.testing.assert_array_equal(y, y_free)
    assert (gradient[padding_idx] == 0).all()
    assert (wanted[padding_idx] != 0).any() and (wanted[1] != 0).all()
    wanted[padding_idx] = 0
    np.testing.assert_array_equal(gradient, wanted)


def test_gradients_of_an_embedding_of_a_list():
    """A list of integer sequences gives the parameter gradients of the same sequences padded."""
    model = embedding_model(padding_idx=None).astype("float64")
    tokens, lengths = np.array([[1, 5, 1, 2], [6, 4, 0, 0], [0, 0, 0, 0]]), [4, 2, 0]
    y, tape = model.forward([a[:n] for a, n in zip(tokens, lengths, strict=True)])
    y_padded, tape_padded = model.forward(tokens, lengths=lengths)
    np.testing.assert_array_equal(y, y_padded)
    one, two = model.backward(tape, np.ones((3, 2))), model.backward(tape_padded, np.ones((3, 2)))
    assert one.x is None
    for name, value in one.params.items():
        np.testing.assert_array_equal(value, two.params[name], err_msg=name)


def test_gradcheck_takes_a_list_of_integer_sequences():
    gradcheck(embedding_model(padding_idx=None).astype("float64"), [np.array([1, 5, 1]), np.array([6])])


@pytest.mark.parametrize("pool", [Last, None], ids=["pooled", "per_step"])
def test_zero_dy_gives_exactly_zero(pool):
    model = everything(pool)
    y, tape = model.forward(np.array(batch([4, 4])), rng=0)
    grads = model.backward(tape, np.zeros_like(y))
    assert (grads.x == 0).all() and all((g == 0).all() for g in grads.params.values())


def test_backward_is_linear():
    model = everything(None).astype("float64")
    x = np.array(batch([4, 4]))
    one, two = generator(1).normal(size=(2, 2, 4, 3))
    found = [model.backward(model.forward(x, rng=0)[1], dy) for dy in (one, two, one - 2 * two)]
    for name in found[0].params:
        wanted = found[0].params[name] - 2 * found[1].params[name]
        np.testing.assert_allclose(found[2].params[name], wanted, rtol=1e-10, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("pool", [FinalState, None], ids=["pooled", "per_step"])
def test_padding_content_never_matters(pool):
    model = everything(pool)
    lengths = np.array([2, 0, 5])
    x = np.array(batch([5, 5, 5]))
    dirty = x.copy()
    dirty[np.arange(5) >= lengths[:, None]] = np.nan
    results = []
    for given in (x, dirty):
        y, tape = model.forward(given, lengths=lengths, rng=0)
        dy = generator(1).normal(size=y.shape)
        if not pool:
            dy[np.arange(5) >= lengths[:, None]] = np.nan if given is dirty else 3
        results.append([y, model.predict(given, lengths=lengths), *model.backward(tape, dy).params.values()])
    for clean, same in zip(*results, strict=True):
        assert np.isfinite(clean).all() and (clean != 0).any()
        np.testing.assert_array_equal(clean, same)


def test_gradient_of_x_is_zero_on_the_padding():
    model = everything(None)
    y, tape = model.forward(np.array(batch([5, 5])), lengths=[2, 0], rng=0)
    dx = model.backward(tape, generator(1).normal(size=y.shape)).x
    assert (dx[0, :2] != 0).any() and (dx[0, 2:] == 0).all() and (dx[1] == 0).all()


def test_a_tape_is_used_once_and_dies_with_new_parameters():
    model, x = everything(), np.array(batch([3, 3]))
    y, tape = model.forward(x)
    model.backward(tape, np.ones_like(y))
    with pytest.raises(RuntimeError, match="already used by a backward pass; run forward again"):  # there is no retain
        model.backward(tape, np.ones_like(y))
    y, tape = model.forward(x)
    model.set_parameters({"6.bias": np.ones(3)})
    with pytest.raises(RuntimeError, match="parameters have been set"):
        model.backward(tape, np.ones_like(y))


@pytest.mark.parametrize("pool", [Last, None], ids=["pooled", "per_step"])
@pytest.mark.parametrize("dy", [None, "x", np.zeros(3), np.zeros((2, 3, 3, 1)), np.zeros((3, 2))])
def test_wrong_dy_is_named(pool, dy):
    model = everything(pool)
    _, tape = model.forward(np.array(batch([4, 4])))
    with pytest.raises((ValueError, TypeError), match="dy"):
        model.backward(tape, dy)


@pytest.mark.parametrize("tape", [None, 3, "of an LSTM"])
def test_wrong_tape_is_named(tape):
    if tape == "of an LSTM":
        tape = LSTM(2, 3).forward(np.zeros((2, 4, 2)))[2]
    with pytest.raises(TypeError, match="tape: got"):
        everything().backward(tape, np.zeros((2, 3)))


def test_forward_drops_by_its_rng_and_predict_never_drops():
    model, x = everything(), np.array(batch([4, 4]))
    one, same, other = (model.forward(x, rng=seed)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3 and np.abs(one - model.predict(x)).max() > 1e-3
    np.testing.assert_array_equal(model.predict(x), model.predict(x))


# predict


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool, None], ids=lambda p: p.__name__ if p else "per_step")
@pytest.mark.parametrize("form", ["array", "lengths", "list"])
def test_predict_in_parts_is_the_whole(pool, form, dtype):
    model = everything(pool).astype(dtype)
    lengths = generator(3).integers(0, 9, size=13)
    x = np.array(batch([9] * 13)) if form != "list" else batch(lengths)
    options = {"lengths": lengths} if form == "lengths" else {}
    whole = model.predict(x, **options)
    tolerance = BATCHED if dtype == "float32" else DOUBLE
    for size in (1, 4, 13, 100):
        parts = model.predict(x, batch_size=size, **options)
        assert type(parts) is type(whole) and len(parts) == len(whole)
        for part, wanted in zip(parts, whole, strict=True):
            assert part.dtype == dtype
            np.testing.assert_allclose(part, wanted, **tolerance)


def test_more_than_the_default_batch_is_the_same():
    model = everything(MeanPool).astype("float64")
    lengths = generator(3).integers(0, 6, size=600)
    x = batch(lengths)
    np.testing.assert_allclose(model.predict(x), model.predict(x, batch_size=600), **DOUBLE)


@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool, None], ids=lambda p: p.__name__ if p else "per_step")
def test_results_keep_the_callers_order_whatever_the_lengths(pool):
    model = everything(pool).astype("float64")
    x = batch([3, 7, 0, 1, 7, 2])
    alone = [model.predict(a) for a in x]
    assert len({a.tobytes() for a in alone}) == 6
    permuted = [4, 1, 0, 5, 3, 2]
    for many, order in ((model.predict(x), range(6)), (model.predict([x[n] for n in permuted]), permuted)):
        for got, n in zip(many, order, strict=True):
            np.testing.assert_allclose(got, alone[n], **DOUBLE)


@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool, None], ids=lambda p: p.__name__ if p else "per_step")
def test_forms_of_the_input_agree(pool):
    model = everything(pool).astype("float64")
    lengths = [5, 2, 0]
    x = np.array(batch([5, 5, 5]))
    padded = model.predict(x, lengths=lengths)
    many = model.predict([a[:n] for a, n in zip(x, lengths, strict=True)])
    single = [model.predict(a[:n]) for a, n in zip(x, lengths, strict=True)]
    if pool:
        assert padded.shape == many.shape == (3, 3) and single[0].shape == (3,)
        for got in (many, single):
            np.testing.assert_allclose(got, padded, **DOUBLE)
        return
    assert padded.shape == (3, 5, 3) and isinstance(many, list)
    for n, length in enumerate(lengths):
        assert many[n].shape == single[n].shape == (length, 3)
        np.testing.assert_allclose(many[n], padded[n, :length], **DOUBLE)
        np.testing.assert_allclose(single[n], padded[n, :length], **DOUBLE)
        assert (padded[n, length:] == 0).all()


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_an_empty_sequence_pools_to_zero(pool):
    dense = Dense(6, 2)
    model = Sequential([LSTM(2, 3, bidirectional=True), pool(), dense], random_state=0)
    model.set_parameters({"2.bias": [0.25, -0.5]})
    np.testing.assert_array_equal(model.predict(np.ones((1, 4, 2)), lengths=[0])[0], [0.25, -0.5])
    np.testing.assert_array_equal(model.predict(np.ones((2, 0, 2))), [[0.25, -0.5]] * 2)


def test_pools_are_what_they_say():
    lstm = LSTM(2, 3, bidirectional=True, dtype="float64", random_state=0)
    x, lengths = np.array(batch([5, 5, 5])), [5, 3, 1]
    y, (h_n, _) = lstm(x, lengths=lengths)

    def pooled(pool):
        return Sequential([lstm.copy(), pool]).predict(x, lengths=lengths)

    np.testing.assert_array_equal(pooled(Last()), [y[n, length - 1] for n, length in enumerate(lengths)])
    np.testing.assert_array_equal(pooled(FinalState()), np.concatenate([h_n[0], h_n[1]], axis=1))
    means = [y[n, :length].mean(axis=0) for n, length in enumerate(lengths)]
    np.testing.assert_allclose(pooled(MeanPool()), means, **DOUBLE)


@pytest.mark.parametrize("pool", [Last, None], ids=["pooled", "per_step"])
@pytest.mark.parametrize("make", [lambda p: everything(p), lambda p: embedding_model(p)], ids=["vectors", "integers"])
def test_no_sequences_give_no_outputs(make, pool):
    model = make(pool)
    empty = np.zeros((0, 4), int) if model.embedding else np.zeros((0, 4, 2))
    outputs = model.output_size
    assert model.predict(empty).shape == ((0, outputs) if pool else (0, 4, outputs))
    got = model.predict([])
    assert got.shape == (0, outputs) if pool else got == []


@pytest.mark.parametrize("pool", [Last, None], ids=["pooled", "per_step"])
def test_no_steps(pool):
    got = everything(pool).predict(np.zeros((3, 0, 2)))
    assert got.shape == ((3, 3) if pool else (3, 0, 3))
    assert everything(pool).predict(np.zeros((0, 2))).shape == ((3,) if pool else (0, 3))


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.astype(">f4"),
        np.asfortranarray,
        lambda x: np.repeat(x, 3, axis=1)[:, ::3],
        lambda x: x[::-1][::-1],
        lambda x: np.broadcast_to(x, x.shape),
        lambda x: x.astype(np.float64),
        lambda x: x.tolist(),
    ],
    ids=["byte-swapped", "fortran", "strided", "reversed", "read-only", "double", "nested-list"],
)
def test_any_view_predicts_the_same_bits_and_is_not_changed(view):
    model = everything(None)
    x = generator(1).normal(size=(3, 5, 2)).astype(np.float32)
    given = view(x)
    before = copy.deepcopy(given)
    np.testing.assert_array_equal(model.predict(given), model.predict(x))
    np.testing.assert_array_equal(given, before)


def test_inputs_and_parameters_are_never_changed():
    model = everything(None)
    x, dy = np.array(batch([4, 4])).astype(np.float32), np.ones((2, 4, 3), np.float32)
    before, parameters = x.copy(), {n: p.copy() for n, p in model.parameters().items()}
    model.predict(x)
    model.trace(x)
    y, tape = model.forward(x)
    kept = y.copy()
    model.backward(tape, dy)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(dy, 1)
    np.testing.assert_array_equal(y, kept)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, parameters[name])


def test_outputs_are_the_callers_own():
    """Writing into a result must not reach the model or the input, even where layers pass rows through."""
    model = Sequential([Embedding(4, 2, random_state=0)])
    first = model.predict(np.array([[1, 2]]))
    first[:] = 7
    assert (model.predict(np.array([[1, 2]])) != 7).all()
    y, _ = model.step(np.array([1]))
    y[:] = 7
    assert (model.step(np.array([1]))[0] != 7).all()


@pytest.mark.parametrize(
    ("x", "options", "error", "message"),
    [
        (np.zeros((4, 5, 3)), {}, ValueError, r"X: got shape \(4, 5, 3\), must be \(N, T, 2\)"),
        (np.zeros((4, 5)), {}, ValueError, r"X: got shape \(4, 5\)"),
        (np.zeros(2), {}, ValueError, r"X: got shape \(2,\)"),
        (np.zeros((5, 2)), {"lengths": [3]}, ValueError, "lengths: X is one sequence"),
        (np.zeros((4, 5, 2)), {"lengths": [5, 5]}, ValueError, "lengths: got shape"),
        (np.zeros((4, 5, 2)), {"batch_size": 0}, ValueError, "batch_size: got 0"),
        (np.zeros((4, 5, 2)), {"batch_size": 2.0}, TypeError, "batch_size: got 2.0"),
        (np.zeros((4, 5, 2), complex), {}, TypeError, "X: got dtype complex128"),
        ([np.zeros((4, 2)), "a"], {}, TypeError, r"X\[1\]: got dtype"),
        (None, {}, TypeError, "X: got dtype object"),
    ],
)
def test_wrong_input_is_explained(x, options, error, message):
    with pytest.raises(error, match=message):
        everything().predict(x, **options)


def test_nan_stays_in_its_sequence():
    model = everything(None)
    x = np.array(batch([4, 4, 4]))
    clean = model.predict(x)
    x[1, 2, 0] = np.nan
    dirty = model.predict(x)
    assert np.isnan(dirty[1]).any()
    np.testing.assert_array_equal(dirty[[0, 2]], clean[[0, 2]])


# step and trace


def one_way(pool):
    layers = [Dropout(0.5), LSTM(2, 3, 2), *([pool()] if pool else []), Dense(3, 2, "softmax")]
    return randomised(Sequential(layers, random_state=0)).astype("float64")


@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool, None], ids=lambda p: p.__name__ if p else "per_step")
def test_steps_are_the_whole(pool):
    """With a pooling layer, each step gives what predict gives for the stream so far."""
    model, x = one_way(pool), np.array(batch([6, 6, 6]))
    state = None
    for t in range(6):
        y_t, state = model.step(x[:, t], state)
        wanted = model.predict(x[:, : t + 1])
        np.testing.assert_allclose(y_t, wanted if pool else wanted[:, -1], **DOUBLE)


def test_one_stream_without_a_batch_axis():
    model, x = one_way(MeanPool), np.array(batch([5]))[0]
    state = None
    for x_t in x:
        y_t, state = model.step(x_t, state)
    assert y_t.shape == (2,)
    np.testing.assert_allclose(y_t, model.predict(x), **DOUBLE)


def test_step_on_integers():
    model = embedding_model().astype("float64")
    tokens = np.array([[1, 5, 0], [2, 2, 6]])
    state = single = None
    for t in range(3):
        y_t, state = model.step(tokens[:, t], state)
        y_one, single = model.step(int(tokens[0, t]), single)
    np.testing.assert_allclose(y_t, model.predict(tokens), **DOUBLE)
    np.testing.assert_allclose(y_one, y_t[0], **DOUBLE)


def test_step_does_not_change_the_state_it_is_given():
    model, x = one_way(MeanPool), np.array(batch([3, 3]))
    _, state = model.step(x[:, 0])
    frozen = pickle.dumps(state)
    first = model.step(x[:, 1], state)[0]
    model.step(x[:, 2], state)
    assert pickle.dumps(state) == frozen
    np.testing.assert_array_equal(model.step(x[:, 1], state)[0], first)


@pytest.mark.parametrize(
    ("x_t", "state", "error", "message"),
    [
        (np.zeros((2, 3)), None, ValueError, r"x_t: got shape \(2, 3\), must be \(N, 2\) or \(2,\)"),
        (np.zeros((2, 1, 2)), None, ValueError, r"x_t: got shape \(2, 1, 2\)"),
        (np.zeros((2, 2)), 3, TypeError, "state: must be what the last step"),
        (np.zeros((2, 2)), (None,), TypeError, "state: must be what the last step"),
        (np.zeros((2, 2)), (None, (np.zeros((2, 5, 3)), np.zeros((2, 5, 3))), None, None), ValueError, "state h"),
    ],
)
def test_wrong_step_is_explained(x_t, state, error, message):
    with pytest.raises(error, match=message):
        one_way(Last).step(x_t, state)


def test_a_bidirectional_model_does_not_step():
    with pytest.raises(ValueError, match="step, stream: a bidirectional layer"):
        everything().step(np.zeros((2, 2)))


def test_trace_of_a_model_is_that_of_its_layers():
    model = randomised(Sequential([LSTM(2, 3, bidirectional=True), Dense(6, 4, "tanh"), LSTM(4, 2), Last()]))
    model = model.astype("float64")
    x, lengths = np.array(batch([5, 5])), [5, 2]
    traces = model.trace(x, lengths=lengths)
    assert sorted(traces) == [0, 2]
    below = model.layers[0](x, lengths=lengths)[0]
    dense = np.tanh(below @ model.parameters()["1.weight"].T + model.parameters()["1.bias"])
    first, second = model.layers[0].trace(x, lengths=lengths), model.layers[2].trace(dense, lengths=lengths)
    for name in "ifgoch":
        for pair in ((0, 0), (0, 1)):
            np.testing.assert_array_equal(getattr(traces[0], name)[pair], getattr(first, name)[pair])
        np.testing.assert_allclose(getattr(traces[2], name)[0, 0], getattr(second, name)[0, 0], **DOUBLE)
    np.testing.assert_allclose(traces[2].h[0, 0][[0, 1], [4, 1]], model.predict(x, lengths=lengths), **DOUBLE)


@pytest.mark.parametrize("form", ["array", "list", "single"])
def test_trace_comes_in_the_form_of_the_input(form):
    x = {"array": np.array(batch([4, 4])), "list": batch([4, 0, 2]), "single": batch([4])[0]}[form]
    f = everything().trace(x)[1].f[1, 1]
    shapes = [a.shape for a in f] if form == "list" else f.shape
    assert shapes == {"array": (2, 4, 3), "list": [(4, 3), (0, 3), (2, 3)], "single": (4, 3)}[form]


# Parameters.


def test_names_are_layer_index_and_name():
    model = Sequential([Embedding(5, 2), LSTM(2, 3, bidirectional=True), Dropout(0.1), Last(), Dense(6, 1)])
    assert {name: p.shape for name, p in model.parameters().items()} == {
        "0.weight": (5, 2),
        "1.weight_ih_l0": (12, 2),
        "1.weight_hh_l0": (12, 3),
        "1.bias_l0": (12,),
        "1.weight_ih_l0_reverse": (12, 2),
        "1.weight_hh_l0_reverse": (12, 3),
        "1.bias_l0_reverse": (12,),
        "4.weight": (1, 6),
        "4.bias": (1,),
    }
    assert model.size == sum(p.size for p in model.parameters().values())


def test_parameters_cannot_be_written():
    for p in everything().parameters().values():
        with pytest.raises(ValueError, match="read-only"):
            p[...] = 0
        with pytest.raises(ValueError, match=r"cannot set WRITEABLE|read-only"):
            p.flags.writeable = True
        assert p.base is None or not p.base.flags.writeable


def test_set_parameters_copies_and_takes_any_subset():
    model = everything()
    before = {n: p.copy() for n, p in model.parameters().items()}
    bias = np.array([1.0, 2.0, 3.0])
    held = model.parameters()["6.bias"]
    model.set_parameters({"6.bias": bias})
    bias[:] = 0
    after = model.parameters()
    np.testing.assert_array_equal(after["6.bias"], [1, 2, 3])
    np.testing.assert_array_equal(held, before["6.bias"])
    assert all((after[n] == before[n]).all() for n in before if n != "6.bias")


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        ({"6.bias": np.zeros(4)}, ValueError, r"6\.bias: got shape \(4,\)"),
        ({"1.weight_ih_l0": np.zeros((12, 3))}, ValueError, r"1\.weight_ih_l0: got shape \(12, 3\)"),
        ({"6.bias": np.array(["a", "b", "c"])}, TypeError, r"6\.bias: got dtype"),
        ({"6.kernel": np.zeros(3)}, KeyError, r"no '6\.kernel' here"),
        ({"9.bias": np.zeros(3)}, KeyError, r"no '9\.bias' here"),
        ({"bias": np.zeros(3)}, KeyError, "no 'bias' here"),
        ({"-1.bias": np.zeros(3)}, KeyError, r"no '-1\.bias' here"),
        ({6: np.zeros(3)}, KeyError, "no"),
        ({"6": np.zeros(3)}, KeyError, "no"),
        ({"6.bias": [0, np.nan, np.inf]}, ValueError, r"^6\.bias: 2 of 3 values are NaN or infinite, the first at"),
        ({"6.bias": [0, 0, 1e39]}, ValueError, r"^6\.bias: 1 of 3 values are too large for float32, the first at"),
    ],
)
def test_set_parameters_sets_all_or_nothing(bad, error, message):
    model = everything()
    before = copy.deepcopy(model)
    good = {"4.weight": np.ones((4, 6))}
    with pytest.raises(error, match=message):
        model.set_parameters(good | bad)
    same_parameters(model, before)


def test_values_that_are_not_finite_are_taken_where_allowed():
    model, bias = everything(), [np.nan, -np.inf, 0]
    model.set_parameters({"6.bias": bias}, allow_nonfinite=True)
    np.testing.assert_array_equal(model.parameters()["6.bias"], np.float32(bias))
    for clone in (model.copy(), model.astype("float64"), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(clone.parameters()["6.bias"], bias)


def test_a_model_has_at_most_1000_layers():
    layers = [lstmx.Dense(1, 1), *(lstmx.Dropout(0.5) for _ in range(999))]
    Sequential(layers)
    with pytest.raises(ValueError, match=r"^layers: got 1001 layers, must be at most 1000"):
        Sequential([*layers, lstmx.Dropout(0.5)])


def test_set_parameters_needs_a_dict():
    with pytest.raises(TypeError, match="parameters: got list"):
        everything().set_parameters([np.zeros(3)])


def test_random_state_decides_every_parameter():
    def build(seed):
        return Sequential([Embedding(5, 2), LSTM(2, 3, bidirectional=True), Last(), Dense(6, 1)], random_state=seed)

    same_parameters(build(3), build(3))
    one, other = build(3).parameters(), build(4).parameters()
    assert all((one[n] != other[n]).any() for n in one if "bias" not in n)
    same_parameters(build(np.random.default_rng(3)), build(np.random.default_rng(3)))
    same_parameters(build(np.random.SeedSequence(3)), build(3))


def test_random_state_leaves_layers_with_their_own_alone():
    lstm = LSTM(2, 3, random_state=7)
    wanted = lstm.parameters()["weight_ih_l0"]
    model = Sequential([lstm, Last(), Dense(3, 1)], random_state=0)
    np.testing.assert_array_equal(model.parameters()["0.weight_ih_l0"], wanted)
    kept = LSTM(2, 3)
    kept.set_parameters({"bias_l0": np.arange(12.0)})
    model = Sequential([kept, Last()], random_state=0)
    np.testing.assert_array_equal(model.parameters()["0.bias_l0"], np.arange(12))


def test_adding_a_layer_at_the_end_keeps_the_initial_values_before_it():
    short = Sequential([LSTM(2, 3), Last()], random_state=0)
    long = Sequential([LSTM(2, 3), Last(), Dense(3, 1)], random_state=0)
    np.testing.assert_array_equal(short.parameters()["0.weight_ih_l0"], long.parameters()["0.weight_ih_l0"])


# Copies.


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda m: m.copy(),
        lambda m: pickle.loads(pickle.dumps(m)),
        copy.deepcopy,
        copy.copy,
        lambda m: m.astype(m.dtype),
    ],
    ids=["copy", "pickle", "deepcopy", "copy.copy", "astype"],
)
@pytest.mark.parametrize("make", [everything, embedding_model], ids=["vectors", "integers"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_copies_are_equal_and_independent(make, duplicate, dtype):
    model = make().astype(dtype)
    x = np.array([[1, 2, 3], [4, 5, 6]]) if model.embedding else np.array(batch([4, 4]))
    twin = duplicate(model)
    same_parameters(model, twin)
    assert twin.config() == model.config() and repr(twin) == repr(model) and twin.dtype == dtype
    wanted = model.predict(x)
    np.testing.assert_array_equal(twin.predict(x), wanted)
    name = list(twin.parameters())[-1]
    twin.set_parameters({name: twin.parameters()[name] + 1})
    twin.fit(x, np.zeros((2, twin.output_size)), epochs=1, verbose=0)
    np.testing.assert_array_equal(model.predict(x), wanted)
    assert model.history_ is None


def test_copies_carry_the_history():
    model = everything()
    model.fit(np.array(batch([4, 4])), np.zeros((2, 3)), epochs=2, verbose=0)
    for twin in (model.copy(), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert twin.history_.history == model.history_.history


def test_astype_converts_everything():
    model = everything()
    double = model.astype("float64")
    x = np.array(batch([4, 4]))
    assert model.dtype == np.float32 and double.dtype == np.float64
    assert {p.dtype for p in double.parameters().values()} == {np.dtype(np.float64)}
    assert double.predict(x).dtype == np.float64 and model.predict(x).dtype == np.float32
    np.testing.assert_allclose(double.predict(x), model.predict(x), **BATCHED)
    with pytest.raises(ValueError, match="dtype: got 'float16'"):
        model.astype("float16")


# Building.


def test_a_layer_in_two_models_is_an_error():
    lstm = LSTM(2, 3)
    Sequential([lstm, Last()])
    with pytest.raises(ValueError, match=r"this LSTM is already part of a model; give each its own \(\.copy\(\)\)"):
        Sequential([lstm, Last()])
    Sequential([lstm.copy(), Last()])


def test_a_layer_twice_in_one_model_is_an_error():
    dense = Dense(3, 3)
    with pytest.raises(ValueError, match="this Dense is already part of a model"):
        Sequential([LSTM(2, 3), dense, dense])


@pytest.mark.parametrize("why", ["random_state", "owned", "twice"])
def test_a_model_that_was_not_built_owns_nothing(why):
    lstm, taken = LSTM(2, 3), Dense(3, 1)
    Sequential([LSTM(2, 3), taken])
    with pytest.raises((TypeError, ValueError)):
        Sequential([lstm, taken] if why == "owned" else [lstm, *([Dense(3, 3)] * 2)] if why == "twice" else [lstm],
                   random_state="seed" if why == "random_state" else None)  # fmt: skip
    Sequential([lstm, Last()])


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        (lambda: [], TypeError, "layers: must be a list of at least one lstmx layer"),
        (lambda: [LSTM(2, 3), "last"], TypeError, "layers: must be a list"),
        (lambda: [LSTM], TypeError, "layers: must be a list"),
        (lambda: [LSTM(2, 3), LSTM(4, 3)], ValueError, r"layers\[1\]: LSTM takes 4 features, but .* gives 3"),
        (lambda: [LSTM(2, 3, bidirectional=True), Dense(3, 1)], ValueError, r"layers\[1\]: Dense takes 3.*gives 6"),
        (lambda: [LSTM(2, 3), Embedding(5, 3)], ValueError, r"layers\[1\]: an Embedding takes integers"),
        (lambda: [LSTM(2, 3), Last(), LSTM(3, 3)], ValueError, r"layers\[2\]: LSTM needs .*, but layers\[1\] \(Last\)"),
        (lambda: [LSTM(2, 3), Last(), MeanPool()], ValueError, r"layers\[2\]: MeanPool needs sequences"),
        (lambda: [LSTM(2, 3), Dense(3, 4), FinalState()], ValueError, r"layers\[2\]: FinalState must follow an LSTM"),
        (lambda: [Embedding(3, 4), FinalState()], ValueError, r"layers\[1\]: FinalState must follow an LSTM"),
        (lambda: [FinalState(), Dense(3, 4)], ValueError, r"layers\[0\]: FinalState must follow an LSTM"),
        (lambda: [Dropout(0.5), Last()], ValueError, "none of them has parameters"),
        (lambda: [LSTM(2, 3), Dense(3, 1, dtype="float64")], ValueError, r'dtype float64 beside float32.*astype'),
    ],
)  # fmt: skip
def test_bad_chains_are_explained(layers, error, message):
    with pytest.raises(error, match=message):
        Sequential(layers())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda: (LSTM(2, 3), Last()),
            r"^layers: got LSTM, Last, must be one list; put them in .*Sequential\(\[LSTM, L",
        ),
        (lambda: (LSTM(2, 3),), r"^layers: got LSTM, must be one list; put them in brackets: Sequential\(\[LSTM\]\)"),
        (lambda: ([LSTM(2, 3)], Last()), r"^layers: got list, Last, must be one list"),
        (lambda: (3,), "^layers: must be a list of at least one lstmx layer"),
    ],
)
def test_layers_must_be_one_list(given, message):
    with pytest.raises(TypeError, match=message):
        Sequential(*given())


@pytest.mark.parametrize("seed", ["x", -1, 1.5])
def test_bad_random_state_is_explained(seed):
    with pytest.raises(TypeError, match="random_state: got"):
        Sequential([LSTM(2, 3)], random_state=seed)


def test_final_state_may_follow_a_dropout():
    Sequential([LSTM(2, 3, bidirectional=True), Dropout(0.1), FinalState(), Dense(6, 1)])


def test_summary_and_repr_say_what_the_model_is():
    model = Sequential([LSTM(2, 3), Dropout(0.5), Last(), Dense(3, 1, "sigmoid")])
    lines = model.summary().splitlines()
    assert len(lines) == 5
    for line, words in zip(
        lines,
        (
            ("0", "LSTM", "hidden_size=3", "(N, T, 3)", "72"),
            ("1", "Dropout", "p=0.5", "(N, T, 3)", "0"),
            ("2", "Last", "(N, 3)", "0"),
            ("3", "Dense", "activation='sigmoid'", "(N, 1)", "4"),
            ("76 parameters", "float32"),
        ),
        strict=True,
    ):
        assert all(word in line for word in words), line
    assert repr(model).startswith("Sequential([LSTM(input_size=2, hidden_size=3") and "Dense(" in repr(model)


def test_sizes_and_flags():
    model = everything()
    assert (model.input_size, model.output_size, model.per_step, model.embedding) == (2, 3, False, None)
    assert everything(None).per_step
    model = embedding_model()
    assert model.embedding is model.layers[0] and model.output_size == 2
    assert Sequential([Dropout(0.1), LSTM(5, 3)]).input_size == 5


def test_models_are_the_same_bits_for_any_number_of_threads():
    model = everything(None)
    x = np.array(batch([30] * 40))
    results = []
    for n in (1, 2):
        with lstmx.num_threads(n):
            y, tape = model.forward(x, rng=0)
            dy = generator(1).normal(size=y.shape)
            results.append([y, model.predict(x), *model.backward(tape, dy).params.values()])
    for one, two in zip(*results, strict=True):
        assert (one != 0).any()
        np.testing.assert_array_equal(one, two)


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "every second row": lambda a: np.repeat(a, 2, axis=0)[::2] if a.ndim > 1 else a,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "first",
    [[], [Dropout(0.5)], [Last()], [MeanPool()], [LSTM(17, 17)]],
    ids=lambda f: str([type(a).__name__ for a in f]),
)
def test_a_step_reads_any_layout(first, layout):
    model = Sequential([*(layer.copy() for layer in first), Dense(17, 3)], random_state=0)
    x = np.random.default_rng(0).normal(size=(4, 17)).astype(np.float32)
    for x_t in (x, x[0]):
        state, given = None, LAYOUTS[layout](x_t)
        wanted_state = None
        for _ in range(2):
            y, state = model.step(given, state)
            wanted, wanted_state = model.step(x_t.copy(), wanted_state)
            np.testing.assert_array_equal(y, wanted)
    np.testing.assert_array_equal(model.step(LAYOUTS[layout](x))[0], model.predict(x[:, None]).reshape(4, 3))
