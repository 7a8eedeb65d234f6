"""The layers without a recurrence, through the packed protocol: forward by definition, backward by differences."""

import copy
import json
import pickle

import numpy as np
import pytest

from lstmx import LSTM, Dense, Dropout, Embedding, FinalState, Last, MeanPool
from lstmx.functional.read import Sequences, sequences
from lstmx.layers import RowGradient, Run
from lstmx.storage import REGISTRY
from lstmx.testing import finite_difference

# Central differences with a step of 1e-6 are good to about 1e-9 for losses of order 10.
DIFFERENCES = {"rtol": 1e-6, "atol": 1e-7}
# The same formula in another order of sums, on values of order 1 (roundings: float32 6e-8, float64 1e-16).
SAME = {"float32": {"rtol": 1e-5, "atol": 1e-6}, "float64": {"rtol": 1e-12, "atol": 1e-14}}
# 20,000 draws at rate p: the share of zeros is within 5 standard deviations, at most 0.018.
SHARE = {"rtol": 0, "atol": 0.018}

LENGTHS = [3, 0, 5, 1, 5]
FEATURES = 4
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
FORMS = ["ragged", "uniform", "sorted", "list", "single", "all empty", "no rows", "no steps"]
forms = pytest.mark.parametrize("form", FORMS)


def batch(form, features=FEATURES, dtype="float64", seed=0):
    """(rows, context, the padded (N, T, F) array, lengths) for a form of batch."""
    rng = np.random.default_rng(seed)
    lengths = {"uniform": [5] * 3, "sorted": [5, 4, 4, 0], "single": [5], "all empty": [0, 0], "no rows": [],
               "no steps": [0, 0]}.get(form, LENGTHS)  # fmt: skip
    steps = 0 if form == "no steps" else 5
    x = rng.normal(size=(len(lengths), steps, features)).astype(dtype)
    x[np.arange(steps) >= np.array(lengths, int)[:, None]] = 0
    given = {"list": [a[:n] for a, n in zip(x, lengths, strict=True)], "single": x[0] if len(x) else None}.get(form, x)
    lengths_given = None if form in ("list", "single") else lengths
    read = sequences(given, features, np.dtype(dtype), lengths=lengths_given, single=True)
    return *read.all(), x, lengths


def padded(context, rows, shape):
    """Packed rows as an (N, T, ...) array, whatever form the caller gets."""
    out = np.zeros((*shape[:2], *rows.shape[1:]), rows.dtype)
    out[context.places] = rows
    return out


def pooled(context, rows):
    """Pooled rows as an (N, F) array."""
    return np.atleast_2d(context.unpack(rows)) if rows.size else rows


def gradients(layer, rows, context, *, need_dx=True, **options):
    """(y, dy, dx, gradients of the parameters) for the loss sum(y * dy)."""
    y, _, _, tape = layer.forward_rows(rows, context, None, Run(keep=True, key=7, **options))
    dy = np.random.default_rng(9).normal(size=y.shape).astype(y.dtype)
    out = {name: np.full_like(p, np.nan) for name, p in layer.parameters().items()}
    return y, dy, layer.backward_rows(tape, dy.copy(), out, need_dx)[0], out


def check_gradients(layer, rows, context):
    """All gradients of a float64 layer against differences."""
    _, dy, dx, out = gradients(layer, rows, context)
    rows = rows.copy()

    def loss():
        return float((layer.forward_rows(rows, context, None, Run(keep=True, key=7))[0] * dy).sum())

    if dx is not None:
        np.testing.assert_allclose(dx, finite_difference(loss, rows), **DIFFERENCES)
    for name, p in layer.parameters().items():
        trial = p.copy()

        def loss_at_trial(name=name, trial=trial):
            layer.set_parameters({name: trial})
            return loss()

        np.testing.assert_allclose(out[name], finite_difference(loss_at_trial, trial), **DIFFERENCES, err_msg=name)
        layer.set_parameters({name: p})


# Dense

ACTIVATIONS = {
    None: lambda a: a,
    "linear": lambda a: a,
    "relu": lambda a: np.maximum(a, 0),
    "tanh": np.tanh,
    "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "softmax": lambda a: np.exp(a) / np.exp(a).sum(axis=-1, keepdims=True),
}
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def dense(inputs, outputs, activation, dtype="float64"):
    layer = Dense(inputs, outputs, activation, dtype=dtype, random_state=0)
    layer.set_parameters({"bias": np.random.default_rng(1).normal(size=outputs)})
    return layer


@activations
@forms
@dtypes
def test_dense_by_definition(dtype, form, activation):
    layer = dense(FEATURES, 3, activation, dtype)
    rows, context, x, _ = batch(form, dtype=dtype)
    y, after, *_ = layer.forward_rows(rows, context, None, Run())
    assert after is context and y.dtype == dtype and y.shape == (context.rows, 3)
    weight, bias = layer.parameters()["weight"], layer.parameters()["bias"]
    wanted = ACTIVATIONS[activation](x @ weight.T + bias)
    np.testing.assert_allclose(y, wanted[context.places], **SAME[dtype])


@activations
@forms
def test_gradients_of_dense(form, activation):
    check_gradients(dense(FEATURES, 3, activation), *batch(form)[:2])


@pytest.mark.parametrize("outputs", [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33])
@activations
@dtypes
def test_dense_in_every_vector_width(dtype, activation, outputs):
    layer = dense(5, outputs, activation, dtype)
    rows, context, _, _ = batch("ragged", 5, dtype)
    y, dy, dx, out = gradients(layer, rows, context)
    weight, bias = (p.astype("f8") for p in layer.parameters().values())
    y64 = ACTIVATIONS[activation](rows.astype("f8") @ weight.T + bias)
    np.testing.assert_allclose(y, y64, **SAME[dtype])
    da = {"relu": dy * (y64 > 0), "tanh": dy * (1 - y64**2), "sigmoid": dy * y64 * (1 - y64),
          "softmax": y64 * (dy - (dy * y64).sum(axis=1, keepdims=True))}.get(activation, dy)  # fmt: skip
    np.testing.assert_allclose(dx, da @ weight, **SAME[dtype])
    np.testing.assert_allclose(out["weight"], da.T @ rows, **SAME[dtype])
    np.testing.assert_allclose(out["bias"], da.sum(axis=0), **SAME[dtype])


@dtypes
def test_softmax_of_large_numbers_does_not_overflow(dtype):
    layer = Dense(1, 3, "softmax", dtype=dtype)
    layer.set_parameters({"weight": [[1000.0], [1000.0], [-1000.0]]})
    y, *_ = layer.forward_rows(np.ones((1, 1), dtype), None, None, Run())
    np.testing.assert_array_equal(y, [[0.5, 0.5, 0.0]])


@activations
def test_nan_stays_in_its_own_row_of_dense(activation):
    layer = dense(FEATURES, 9, activation)
    rows, context, _, _ = batch("ragged")
    clean, *_ = layer.forward_rows(rows, context, None, Run())
    rows = rows.copy()
    rows[2, 1] = np.nan
    y, *_ = layer.forward_rows(rows, context, None, Run())
    assert np.isnan(y[2]).all()
    np.testing.assert_array_equal(np.delete(y, 2, axis=0), np.delete(clean, 2, axis=0))


def test_dense_leaves_dx_out_when_nobody_needs_it():
    layer = dense(FEATURES, 3, "tanh")
    rows, context, _, _ = batch("ragged")
    with_dx, without = gradients(layer, rows, context), gradients(layer, rows, context, need_dx=False)
    assert without[2] is None
    np.testing.assert_array_equal(without[3]["weight"], with_dx[3]["weight"])


def test_a_loss_may_fuse_the_activation_of_dense():
    layer, linear = dense(FEATURES, 3, "softmax"), dense(FEATURES, 3, None)
    rows, context, _, _ = batch("ragged")
    fused, plain = gradients(layer, rows, context, activation="linear"), gradients(linear, rows, context)
    np.testing.assert_array_equal(fused[0], plain[0])
    np.testing.assert_array_equal(fused[2], plain[2])


def test_dense_keeps_parameters_and_rows_as_they_were():
    layer = dense(FEATURES, 3, "relu")
    rows, context, _, _ = batch("ragged")
    before, kept = rows.copy(), {name: p.copy() for name, p in layer.parameters().items()}
    rows.flags.writeable = False
    gradients(layer, rows, context)
    np.testing.assert_array_equal(rows, before)
    for name, p in layer.parameters().items():
        np.testing.assert_array_equal(p, kept[name])


def test_dense_starts_glorot_and_without_bias():
    layer = Dense(50, 30, dtype="float64", random_state=0)
    bound = np.sqrt(6 / 80)
    weight = layer.parameters()["weight"]
    assert weight.shape == (30, 50) and 0.95 * bound < np.abs(weight).max() <= bound
    assert not layer.parameters()["bias"].any()


# Embedding


def tokens(form, dtype=np.int64):
    """(packed tokens, context, the padded (N, T) array); most tokens repeat."""
    lengths = {"uniform": [5] * 3, "all empty": [0, 0], "no rows": []}.get(form, LENGTHS)
    array = np.random.default_rng(3).integers(0, 6, (len(lengths), 5)).astype(dtype)
    return *Sequences(array, np.array(lengths, np.int64)).all(), array


token_forms = pytest.mark.parametrize("form", ["ragged", "uniform", "all empty", "no rows"])


@token_forms
@dtypes
def test_embedding_looks_up_rows(dtype, form):
    layer = Embedding(8, 3, dtype=dtype, random_state=0)
    rows, context, array = tokens(form)
    y, after, *_ = layer.forward_rows(rows, context, None, Run(keep=True))
    assert after is context and y.dtype == dtype and y.shape == (context.rows, 3)
    np.testing.assert_array_equal(y, layer.parameters()["weight"][array][context.places])


@pytest.mark.parametrize("padding_idx", [None, 0, 2, 7])
@token_forms
def test_gradients_of_embedding(form, padding_idx):
    layer = Embedding(8, 3, padding_idx, dtype="float64", random_state=0)
    rows, context, _ = tokens(form)
    _, dy, dx, out = gradients(layer, rows, context)
    wanted = np.zeros((8, 3))
    for token, d in zip(rows, dy, strict=True):
        if token != padding_idx:
            wanted[token] += d
    assert dx is None
    np.testing.assert_allclose(out["weight"], wanted, **SAME["float64"])
    if form == "ragged":
        assert len(np.unique(rows)) < len(rows)
        assert (wanted[[6, 7]] == 0).all()


@token_forms
def test_the_gradient_of_embedding_as_rows(form):
    layer = Embedding(8, 3, padding_idx=2, dtype="float64", random_state=0)
    rows, context, _ = tokens(form)
    _, dy, _, dense_gradient = gradients(layer, rows, context)
    out = {"weight": None}
    tape = layer.forward_rows(rows, context, None, Run(keep=True))[3]
    layer.backward_rows(tape, dy.copy(), out, False)
    sparse = out["weight"]
    assert isinstance(sparse, RowGradient)
    assert sparse.rows.tolist() == sorted(set(rows.tolist()) - {2}) and sparse.values.shape == (len(sparse.rows), 3)
    scattered = np.zeros((8, 3))
    scattered[sparse.rows] = sparse.values
    np.testing.assert_array_equal(scattered, dense_gradient["weight"])


def test_the_vector_of_the_padding_starts_at_zero():
    layer = Embedding(8, 3, padding_idx=2, random_state=0)
    weight = layer.parameters()["weight"]
    assert not weight[2].any() and np.delete(weight, 2, axis=0).all()
    assert Embedding(8, 3, random_state=0).parameters()["weight"].all()


def test_embedding_starts_standard_normal():
    weight = Embedding(200, 100, dtype="float64", random_state=0).parameters()["weight"]
    assert abs(weight.mean()) < 0.05 and abs(weight.std() - 1) < 0.05


@pytest.mark.parametrize("kind", ["u1", "i4", ">i8", "u8"])
def test_any_integers_are_tokens(kind):
    tokens = np.array([[0, 7]], kind)
    assert Embedding(8, 3).check_tokens("X", tokens) is tokens


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [([[0, 8]], ValueError, r"^X: got the integer 8, must be between 0 and num_embeddings - 1 = 7"),
     ([[-1, 3]], ValueError, r"^X: got the integer -1, must be between 0"),
     (np.array([2**64 - 1], "u8"), ValueError, "^X: got a value of 18446744073709551615"),
     ([[0.0, 1.0]], TypeError, "^X: got dtype float64, must be integers"),
     ([["a", "b"]], TypeError, "^X: got dtype <U1, must be integers"),
     ([[True, False]], TypeError, "^X: got dtype bool, must be integers"),
     (None, TypeError, "^X: got dtype object, must be integers"),
     ([[1, 2], [3]], ValueError, "^X: ")],
)  # fmt: skip
def test_what_is_no_token_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        Embedding(8, 3).check_tokens("X", wrong)


# Dropout


@dtypes
def test_dropout_keeps_or_drops_and_scales(dtype):
    for p in (0.1, 0.5, 0.9):
        rows, context, _, _ = batch("uniform", 1500, dtype)
        y, after, *_ = Dropout(p).forward_rows(rows, context, None, Run(keep=True, key=5))
        assert after is context and y.dtype == dtype and y.size > 20_000
        dropped = y == 0
        np.testing.assert_allclose(dropped.mean(), p, **SHARE)
        np.testing.assert_allclose(y[~dropped], rows[~dropped] / (1 - p), **SAME[dtype])


@pytest.mark.parametrize("key", [5, None])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.7])
def test_dropout_does_nothing_without_a_key_or_at_rate_zero(p, keep, key):
    rows, context, _, _ = batch("ragged")
    y, _, _, tape = Dropout(p).forward_rows(rows, context, None, Run(keep, key))
    if not p or key is None:
        np.testing.assert_array_equal(y, rows)
        np.testing.assert_array_equal(Dropout(p).backward_rows(tape, rows.copy(), {}, True)[0], rows)
    else:
        assert (y != rows).any()


@forms
def test_gradients_of_dropout(form):
    check_gradients(Dropout(0.4), *batch(form)[:2])


def test_the_mask_of_dropout_depends_on_key_row_time_and_unit_alone():
    ones = np.ones((5, 5, 40))
    layer = Dropout(0.5)

    def mask(lengths, key=5):
        rows, context = Sequences(ones, np.array(lengths)).all()
        y = layer.forward_rows(rows, context, None, Run(key=key))[0]
        return context.unpack(y) != 0

    whole, ragged = mask([5] * 5), mask(LENGTHS)
    for n, length in enumerate(LENGTHS):
        np.testing.assert_array_equal(ragged[n, :length], whole[n, :length])
    np.testing.assert_array_equal(mask([5] * 5), whole)
    assert (mask([5] * 5, key=6) != whole).any()
    flat = whole.reshape(25, 40)
    assert len(np.unique(flat, axis=0)) == 25  # no two rows or steps share a mask
    context = Sequences(ones[:1]).all()[1]
    single = Dropout(0.5).forward_rows(np.ones((5, 40), "float32"), context, None, Run(key=5))[0]
    np.testing.assert_array_equal(single != 0, whole[0])


# Poolings


@forms
@dtypes
def test_last_is_the_last_step_and_zero_for_an_empty_row(dtype, form):
    rows, context, x, lengths = batch(form, dtype=dtype)
    y, after, *_ = Last().forward_rows(rows, context, None, Run())
    wanted = np.array([a[n - 1] if n else np.zeros(FEATURES) for a, n in zip(x, lengths, strict=True)])
    np.testing.assert_array_equal(pooled(after, y), wanted.reshape(-1, FEATURES))
    assert y.dtype == dtype


@pytest.mark.parametrize("directions", [1, 2])
@forms
@dtypes
def test_final_state_is_what_each_direction_read_last(dtype, form, directions):
    rows, context, x, lengths = batch(form, dtype=dtype)
    context = context.of((False, True)[:directions])
    y, after, *_ = FinalState().forward_rows(rows, context, None, Run())
    half = FEATURES // directions
    wanted = np.zeros((len(x), FEATURES), dtype)
    for n, length in enumerate(lengths):
        if length:
            wanted[n] = np.concatenate([x[n, length - 1, :half], x[n, 0, half:]])
    np.testing.assert_array_equal(pooled(after, y), wanted)
    assert y.dtype == dtype


@forms
@dtypes
def test_mean_pool_is_the_mean_of_the_steps_and_zero_for_an_empty_row(dtype, form):
    rows, context, x, lengths = batch(form, dtype=dtype)
    y, after, *_ = MeanPool().forward_rows(rows, context, None, Run())
    wanted = np.array([a[:n].mean(axis=0) if n else np.zeros(FEATURES) for a, n in zip(x, lengths, strict=True)])
    np.testing.assert_allclose(pooled(after, y), wanted.reshape(-1, FEATURES), **SAME[dtype])
    assert y.dtype == dtype


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool])
@forms
def test_gradients_of_poolings(form, pool, directions):
    rows, context, _, _ = batch(form)
    context = context.of((False, True)[:directions])
    check_gradients(pool(), rows, context)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_final_state_after_an_lstm_is_its_final_h(bidirectional):
    lstm = LSTM(3, 4, 2, bidirectional=bidirectional, dtype="float64", random_state=0)
    rows, context, x, lengths = batch("ragged", 3)
    y, after, *_ = lstm.forward_rows(rows, context, None, Run())
    found, pool, *_ = FinalState().forward_rows(y, after, None, Run())
    h_n = lstm(x, lengths=lengths)[1][0]
    wanted = np.concatenate(h_n[2 if bidirectional else 1 :], axis=1)
    np.testing.assert_array_equal(pool.unpack(found), wanted)


@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool])
def test_a_pooling_passes_nothing_to_other_rows(pool):
    rows, context, _, lengths = batch("ragged")
    clean, after, *_ = pool().forward_rows(rows, context, None, Run())
    dirty = rows.copy()
    dirty[context.places[0] == 2] = np.nan
    y, *_ = pool().forward_rows(dirty, context, None, Run())
    bad = np.isnan(after.unpack(y)).all(axis=1)
    assert bad.tolist() == [n == 2 for n in range(len(lengths))]
    np.testing.assert_array_equal(after.unpack(y)[~bad], after.unpack(clean)[~bad])


@forms
def test_dense_after_a_pooling_works_on_one_row_a_sequence(form):
    rows, context, _, lengths = batch(form)
    layer = dense(FEATURES, 3, "tanh")
    y, after, *_ = Last().forward_rows(rows, context, None, Run())
    out, final, *_ = layer.forward_rows(y, after, None, Run())
    assert final is after and out.shape == (len(lengths), 3)
    check_gradients(layer, y, after)


def test_dropout_after_a_pooling_masks_the_rows_of_the_caller():
    layer = Dropout(0.5)
    ones = np.ones((5, 5, 40))
    masks = []
    for lengths in ([5] * 5, [3, 1, 5, 2, 4]):
        y, after, *_ = Last().forward_rows(*Sequences(ones, np.array(lengths)).all(), None, Run(keep=True))
        masks.append(after.unpack(layer.forward_rows(y, after, None, Run(key=5))[0]))
    np.testing.assert_array_equal(masks[0], masks[1])


# What all layers share

LAYERS = [
    lambda: Dense(4, 3, "tanh", dtype="float64", random_state=0),
    lambda: Embedding(8, 3, 2, random_state=0),
    lambda: Dropout(0.3),
    Last,
    FinalState,
    MeanPool,
    lambda: LSTM(3, 4, 2, bidirectional=True, dropout=0.2, random_state=0),
]
layers = pytest.mark.parametrize("make", LAYERS, ids=[type(make()).__name__ for make in LAYERS])


def test_tab_completion_shows_what_is_documented():
    arguments = {"input_size", "hidden_size", "num_layers", "bias", "bidirectional", "dropout", "proj_size", "cell",
                 "reverse", "merge", "init", "forget_bias", "chrono", "dtype"}  # fmt: skip
    for_users = {"parameters", "set_parameters", "forward", "backward", "step", "stream", "chunked", "trace", "save",
                 "copy", "astype", "summary", "memory", "size", "directions"}  # fmt: skip
    protocol = {"forward_rows", "backward_rows", "compiled", "program_part", "config", "parameter_table", "output_size",
                "per_sequence", "causal", "masks", "store", "reads_windows", "without_parameters", "array_shapes",
                "state", "from_state", "reversed", "start_state", "state_width", "room", "note",
                    "with_note"}  # fmt: skip
    shown = {name for name in dir(LSTM(1, 1)) if not name.startswith("_")}
    assert shown == arguments | for_users | protocol
    assert shown - {name for name in dir(LSTM) if not name.startswith("_")} == arguments - {"input_size"} | {"store"}


@layers
@pytest.mark.parametrize("clone", [lambda a: a.copy(), copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))],
                         ids=["copy", "deepcopy", "pickle"])  # fmt: skip
def test_a_copy_is_equal_and_independent(clone, make):
    layer = make()
    other = clone(layer)
    assert type(other) is type(layer) and other is not layer and repr(other) == repr(layer)
    assert other.parameters().keys() == layer.parameters().keys()
    before = layer.parameters()
    for name, p in other.parameters().items():
        np.testing.assert_array_equal(p, before[name])
        assert p.dtype == before[name].dtype and not p.flags.writeable
        other.set_parameters({name: p + 1})
        np.testing.assert_array_equal(layer.parameters()[name], before[name])


@layers
def test_the_configuration_is_json_and_makes_the_layer_again(make):
    layer = make()
    config = json.loads(json.dumps(layer.config()))
    assert type(layer)(**config).config() == layer.config()
    assert REGISTRY[type(layer).__name__] is type(layer)
    shapes = {p.name: p.shape for p in layer.parameter_table(config)}
    assert shapes == {name: p.shape for name, p in layer.parameters().items()}
    assert layer.size == sum(p.size for p in layer.parameters().values())


def test_numbers_of_numpy_make_a_json_configuration_too():
    lstm = LSTM(np.int64(3), np.int32(4), np.uint8(2), bias=np.True_, dropout=np.float32(0.5))
    embedding = Embedding(np.int64(8), np.int64(3), np.int64(2))
    for layer in (lstm, Dense(np.int64(3), np.int16(4)), embedding, Dropout(np.float32(0.5))):
        json.dumps(layer.config())


@layers
@dtypes
def test_astype_converts_the_parameters(dtype, make):
    layer = make()
    other = layer.astype(dtype)
    for name, p in other.parameters().items():
        assert p.dtype == dtype
        np.testing.assert_array_equal(p, layer.parameters()[name].astype(dtype))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [(lambda: Dense(0, 3), ValueError, "^input_size: got 0, must be at least 1"),
     (lambda: Dense(3, 2.5), TypeError, "^output_size: got 2.5"),
     (lambda: Dense(3, 2, "selu"), ValueError, "^activation: got 'selu', must be one of 'linear', 'relu'"),
     (lambda: Dense(3, 2, np.tanh), ValueError, "^activation: got <ufunc 'tanh'>"),
     (lambda: Dense(3, 2, dtype="float16"), ValueError, '^dtype: got \'float16\', must be "float32" or "float64"'),
     (lambda: Dense(3, 2, dtype="single precision"), ValueError, "^dtype: got 'single precision'"),
     (lambda: Dense(3, 2, random_state="seed"), TypeError, "^random_state: got 'seed'"),
     (lambda: Embedding(0, 3), ValueError, "^num_embeddings: got 0"),
     (lambda: Embedding(5, -1), ValueError, "^size: got -1"),
     (lambda: Embedding(5, 3, 5), ValueError, "^padding_idx: got 5, must be below num_embeddings = 5"),
     (lambda: Embedding(5, 3, -1), ValueError, "^padding_idx: got -1"),
     (lambda: Embedding(5, 3, 0.0), TypeError, "^padding_idx: got 0.0"),
     (lambda: Dropout(1.0), ValueError, "^p: got 1.0, must be a finite number at least 0 and below 1"),
     (lambda: Dropout(-0.1), ValueError, "^p: got -0.1"),
     (lambda: Dropout(np.nan), ValueError, "^p: got nan"),
     (lambda: Dropout("half"), TypeError, "^p: got 'half', must be a number"),
     (lambda: Dropout(None), TypeError, "^p: got None, must be a number")],
)  # fmt: skip
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
