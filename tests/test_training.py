"""Training: it learns, it repeats itself bit by bit, whatever form the data have; and mistakes are explained."""

import copy

import numpy as np
import pytest
from training_data import bits, generator, regression, same, small, token_model

import lstmx
from lstmx import (
    LSTM,
    SGD,
    Adam,
    Callback,
    Dense,
    Dropout,
    Embedding,
    Last,
    Sequential,
)
from lstmx.training import draw_keys

# It learns.


def test_learns_the_adding_problem():
    """Two marked numbers among 10 are to be added (Hochreiter and Schmidhuber 1997). The mean guesses to 0.17."""
    rng = generator(1)
    x = np.zeros((1200, 10, 2))
    x[:, :, 0] = rng.uniform(size=x.shape[:2])
    marks = np.argsort(rng.uniform(size=(1200, 10)), axis=1)[:, :2]
    np.put_along_axis(x[:, :, 1], marks, 1, axis=1)
    y = (x[:, :, 0] * x[:, :, 1]).sum(axis=1)
    model = Sequential([LSTM(2, 12), Last(), Dense(12, 1)], random_state=0)
    options = {"optimizer": Adam(0.03), "epochs": 15, "batch_size": 20, "clip_norm": 1.0, "verbose": 0}
    history = model.fit(x[:1000], y[:1000], random_state=0, **options)
    error = np.mean((model.predict(x[1000:])[:, 0] - y[1000:]) ** 2)
    assert y.var() > 0.14 and error < 0.01 and history["loss"][-1] < 0.05 * history["loss"][0]


def test_remembers_the_first_token():
    """The class is the first token; nine random others follow, which must be ignored."""
    rng = generator(0)
    tokens = rng.integers(4, size=(400, 10))
    tokens[:, 1:] += 4
    layers = [Embedding(8, 4), LSTM(4, 12), Last(), Dense(12, 4, "softmax")]
    model = Sequential(layers, random_state=0)
    options = {"loss": "categorical_crossentropy", "optimizer": Adam(0.02), "metrics": ["accuracy"]}
    history = model.fit(tokens[:300], tokens[:300, 0], epochs=12, verbose=0, random_state=0, **options)
    held = model.predict(tokens[300:]).argmax(axis=1) == tokens[300:, 0]
    assert history["accuracy"][0] < 0.6 and history["accuracy"][-1] == 1 and held.mean() == 1


def test_learns_parity_of_every_prefix():
    """An output a step, of ragged sequences: the parity so far. No network without memory can."""
    rng = generator(0)
    x = [rng.integers(2, size=(n, 1)) for n in rng.integers(3, 12, size=400)]
    y = [np.cumsum(a[:, 0]) % 2 for a in x]
    model = Sequential([LSTM(1, 8), Dense(8, 1, "sigmoid")], random_state=0)
    options = {"loss": "binary_crossentropy", "optimizer": Adam(0.03), "epochs": 25, "batch_size": 20}
    model.fit(x[:300], y[:300], verbose=0, random_state=0, **options)
    right = [((p[:, 0] > 0.5) == t).mean() for p, t in zip(model.predict(x[300:]), y[300:], strict=True)]
    assert np.mean(right) > 0.99


@pytest.mark.parametrize("loss", ["mse", "mae", "huber"])
@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam", "adamw"])
def test_every_loss_falls_with_every_optimiser(loss, optimizer):
    x, y = regression(64)
    rate = {"sgd": 0.2, "rmsprop": 0.01}.get(optimizer, 0.03)
    optimizer = type(lstmx.optim.get_optimizer(optimizer))(rate)
    history = small().fit(x, y, loss=loss, optimizer=optimizer, epochs=25, batch_size=16, verbose=0, random_state=0)
    assert history["loss"][-1] < 0.6 * history["loss"][0]


# The same bits.


def ragged_task():
    rng = generator(3)
    x = [rng.normal(size=(n, 2)) for n in rng.integers(0, 9, size=30)]
    return x, np.array([a.sum() for a in x])


FIT = {"epochs": 3, "batch_size": 8, "verbose": 0, "optimizer": Adam(0.01), "validation_split": 0.2, "clip_norm": 1.0}


def fitted(seed=0, data=None, **options):
    model = small(dropout=0.3)
    x, y = ragged_task() if data is None else data
    history = model.fit(x, y, random_state=seed, **(FIT | options))
    return bits(model), history.history


def test_same_seed_same_bits_and_another_seed_others():
    one, history = fitted()
    again, history_again = fitted()
    assert same(one, again) and history == history_again
    assert not same(one, fitted(seed=1)[0])


@pytest.mark.parametrize("shuffle", [True, "exact", False])
def test_any_number_of_threads_gives_the_same_bits(shuffle):
    rng = generator(0)
    data = rng.normal(size=(64, 40, 2)), rng.normal(size=64)
    results = []
    for n in (1, 2):
        with lstmx.num_threads(n):
            results.append(fitted(data=data, batch_size=32, shuffle=shuffle))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]


@pytest.mark.parametrize("verbose", [1, 2])
def test_talking_does_not_change_the_bits(verbose, capfd):
    quiet, history = fitted()
    loud, history_loud = fitted(verbose=verbose)
    assert same(quiet, loud) and history == history_loud
    assert capfd.readouterr().err


def test_watching_does_not_change_the_bits():
    """Callbacks and metrics, and predicting in between."""
    x, _ = ragged_task()

    class Predicts(Callback):
        def on_batch_end(self, trainer, batch, loss):
            trainer.model.predict(x)
            trainer.model.parameters()

    watched, history = fitted(callbacks=[Predicts(), lambda epoch, logs: None], metrics=["mae"])
    alone, history_alone = fitted()
    assert same(watched, alone) and history["val_loss"] == history_alone["val_loss"]


def test_the_models_own_random_state_serves_fit():
    def run(seed):
        layers = [LSTM(2, 5), Dropout(0.3), Last(), Dense(5, 1)]
        model = Sequential(layers, random_state=seed)
        model.fit(*ragged_task(), **FIT)
        return bits(model)

    assert same(run(0), run(0)) and not same(run(0), run(1))


def test_random_state_may_be_a_generator():
    assert same(fitted(seed=0)[0], fitted(seed=np.random.default_rng(0))[0])


@pytest.mark.parametrize("engine_threads", [1, 2])
def test_the_callers_global_random_state_is_left_alone(engine_threads):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fitted()
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize("kind", ["PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937"])
def test_keys_are_those_of_the_generators_integers(kind):
    """However they are drawn: a seed gives the same training as in earlier versions."""
    one, two = (np.random.Generator(getattr(np.random, kind)(7)) for _ in range(2))
    for generator_ in (one, two):
        generator_.integers(10, dtype=np.int32)  # leaves half of a number in the buffer
    for count in (1, 3, 4):
        keys = draw_keys(one, count)
        np.testing.assert_array_equal(keys, two.integers(2**64, size=count, dtype=np.uint64))
        assert keys.dtype == np.uint64 and keys.shape == (count,)
        assert one.integers(99, dtype=np.int32) == two.integers(99, dtype=np.int32)
    assert one.random() == two.random()


# Where the data lie.


def test_a_memory_map_is_read_where_it_is(tmp_path):
    path = tmp_path / "x.npy"
    x, y = regression(40)
    np.save(path, x.astype(np.float32))
    mapped = np.load(path, mmap_mode="r")
    one, two = small(), small()
    one.fit(mapped, y, epochs=2, verbose=0, random_state=0)
    two.fit(x.astype(np.float32), y, epochs=2, verbose=0, random_state=0)
    assert same(bits(one), bits(two))
    inputs = one._read(mapped, None)
    assert np.shares_memory(inputs.x, mapped)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strided_windows_are_never_copied_as_a_whole(dtype):
    """20,000 windows of 1,000 steps are 80 MB or more as a whole; their series is 84 kB."""
    import tracemalloc

    series = np.sin(np.arange(21_000) / 50).astype(dtype)
    windows = np.lib.stride_tricks.sliding_window_view(series[:-1], 1000)[:, :, None]
    y = series[1000:][: len(windows)]
    assert windows.nbytes > 79e6
    model = Sequential([LSTM(1, 2), Last(), Dense(2, 1)], random_state=0)
    start = tracemalloc.start()

    class Stop(Callback):
        def on_batch_end(self, trainer, batch, loss):
            if batch == 3:
                raise StopIteration

    try:
        with pytest.raises(StopIteration):
            model.fit(windows, y, batch_size=8, callbacks=[Stop()], verbose=0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert start is None and peak < 20e6


def test_windows_give_the_bits_of_their_copy():
    series = np.sin(np.arange(60) / 5).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(series, 10)[:, :, None]
    models = [Sequential([LSTM(1, 3), Last(), Dense(3, 1)], random_state=0) for _ in range(2)]
    for model, x in zip(models, (windows, windows.copy()), strict=True):
        model.fit(x, np.arange(51.0) / 51, epochs=2, verbose=0, random_state=0)
    assert same(*map(bits, models))


def test_fit_does_not_change_what_it_is_given():
    x, y, weight = *regression(), generator(1).uniform(size=24)
    validation = (x.copy(), y.copy(), weight.copy())
    before = copy.deepcopy((x, y, weight, validation))
    small().fit(x, y, sample_weight=weight, validation_data=validation, epochs=2, verbose=0, clip_value=0.1)
    for now, then in zip((x, y, weight, *validation), (*before[:3], *before[3]), strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
def test_read_only_and_fortran_data_fit_to_the_same_bits(read_only, order):
    x, y = regression()
    given = np.array(x, np.float32, order=order)
    targets = y.astype(">f8")
    given.flags.writeable = targets.flags.writeable = not read_only
    one, two = small(), small()
    one.fit(given, targets, epochs=1, verbose=0, random_state=0)
    two.fit(x, y, epochs=1, verbose=0, random_state=0)
    assert same(bits(one), bits(two))


@pytest.mark.parametrize("shape", [(3, 0, 2), (1, 1, 2)])
def test_the_smallest_data(shape):
    model = small()
    history = model.fit(np.ones(shape), np.arange(shape[0]), epochs=2, verbose=0)
    assert np.isfinite(history["loss"]).all()


def test_batches_of_empty_sequences_alone():
    model = small(pool=None)
    history = model.fit(
        [np.zeros((0, 2)), np.ones((3, 2))], [np.zeros(0), np.ones(3)], batch_size=1, epochs=2, verbose=0
    )
    assert np.isfinite(history["loss"]).all() and history["loss"][0] > 0


# Mistakes.


N, T = 6, 5


GOOD_X, GOOD_Y = np.zeros((N, T, 2)), np.zeros(N)
CROSS = {"loss": "categorical_crossentropy"}


def classifier():
    return small(outputs=3, activation="softmax")


@pytest.mark.parametrize(
    ("model", "x", "y", "options", "error", "message"),
    [
        (small, np.zeros((N, T)), GOOD_Y, {}, ValueError, r"X: got shape \(6, 5\).*X\[:, :, None\].*X\[None\]"),
        (small, np.zeros((N, 2, T)), GOOD_Y, {}, ValueError, r"X\.swapaxes\(1, 2\)"),
        (small, np.zeros((N, T, 3)), GOOD_Y, {}, ValueError, r"X: got shape \(6, 5, 3\), must be \(N, T, 2\)"),
        (small, np.zeros((0, T, 2)), np.zeros(0), {}, ValueError, "X: holds no sequence"),
        (small, [], [], {}, ValueError, "X: holds no sequence"),
        (small, None, GOOD_Y, {}, TypeError, "X: got"),
        (small, GOOD_X, None, {}, TypeError, "y: got"),
        (small, GOOD_X, np.zeros(N + 1), {}, ValueError, r"y: got shape \(7,\), must be \(6,\)"),
        (small, GOOD_X, np.zeros((N, 2)), {}, ValueError, r"y: got shape \(6, 2\)"),
        (small, GOOD_X, np.zeros((N, T)), {}, ValueError, r"y: got shape \(6, 5\).*one per sequence"),
        (lambda: small(pool=None), GOOD_X, GOOD_Y, {}, ValueError, r"y: got shape \(6,\).*one per step"),
        (small, GOOD_X, list("abcdef"), {}, TypeError, "y: got dtype"),
        (classifier, GOOD_X, list("abcdef"), CROSS, TypeError, "encode class names as integers"),
        (classifier, GOOD_X, [1, 2, 3, 1, 2, 3], CROSS, ValueError, "the label 3, must be between 0 and 2"),
        (classifier, GOOD_X, [0, 1, 2, 0, 1, 2], {}, ValueError, r"must be \(6, 3\)"),
        (small, GOOD_X, GOOD_Y, {"loss": "crossentropy"}, ValueError, "loss: got 'crossentropy', must be one of 'mse'"),
        (small, GOOD_X, GOOD_Y + 2, {"loss": "binary_crossentropy"}, ValueError, "must be between 0 and 1"),
        (classifier, GOOD_X, [0] * N, {"loss": "binary_crossentropy"}, ValueError, "activation 'sigmoid'"),
        (small, GOOD_X, GOOD_Y, {"optimizer": "lion"}, ValueError, "optimizer: got 'lion'"),
        (small, GOOD_X, GOOD_Y, {"epochs": -1}, ValueError, "epochs: got -1"),
        (small, GOOD_X, GOOD_Y, {"epochs": 2.5}, TypeError, "epochs: got 2.5"),
        (small, GOOD_X, GOOD_Y, {"batch_size": 0}, ValueError, "batch_size: got 0"),
        (small, GOOD_X, GOOD_Y, {"batch_size": "4"}, TypeError, "batch_size: got '4'"),
        (small, GOOD_X, GOOD_Y, {"steps_per_epoch": 4}, ValueError, "steps_per_epoch: an epoch of arrays"),
        (small, GOOD_X, GOOD_Y, {"lengths": [T] * 5}, ValueError, r"lengths: got shape \(5,\)"),
        (small, GOOD_X, GOOD_Y, {"lengths": [T + 1] * N}, ValueError, "between 0 and T = 5"),
        (small, list(GOOD_X), GOOD_Y, {"lengths": [T] * N}, ValueError, "carries its own lengths"),
        (small, GOOD_X, GOOD_Y, {"sample_weight": [1, 1, 1, 1, 1, -1]}, ValueError, "sample_weight: .*at least 0"),
        (small, GOOD_X, GOOD_Y, {"sample_weight": [1, 2]}, ValueError, r"sample_weight: got shape \(2,\)"),
        (small, GOOD_X, GOOD_Y + 0.5, {"class_weight": "balanced"}, ValueError, "class_weight: needs integer class"),
        (classifier, GOOD_X, [0] * N, CROSS | {"class_weight": [1, 2, 3]}, TypeError, "class_weight: got list"),
        (classifier, GOOD_X, [0] * N, CROSS | {"class_weight": {5: 1.0}}, ValueError, "class_weight"),
        (small, GOOD_X, GOOD_Y, {"shuffle": "yes"}, ValueError, "shuffle: got 'yes'"),
        (small, GOOD_X, GOOD_Y, {"validation_data": GOOD_X}, ValueError, r"validation_data: must be \(X, y\)"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X,)}, ValueError, r"validation_data: must be \(X, y\)"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X, GOOD_Y[:2])}, ValueError, "validation_data y: got shape"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X[0], 1.0)}, ValueError, "validation_data X: got shape"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X[:0], [])}, ValueError, "validation_data X: holds no"),
        (small, GOOD_X, GOOD_Y, {"validation_lengths": [T] * N}, ValueError, "validation_lengths: given without"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X, GOOD_Y), "validation_lengths": [9] * N}, ValueError,
         "validation_lengths: sequence 0 has length 9"),
        (small, GOOD_X, GOOD_Y, {"validation_data": (GOOD_X, GOOD_Y, [1])}, ValueError,
         "validation_data sample_weight: got shape"),
        (small, GOOD_X, GOOD_Y, {"validation_split": 1.0}, ValueError, "validation_split: got 1.0"),
        (small, GOOD_X, GOOD_Y, {"validation_split": 0.01}, ValueError, "validation_split: 0.01 of 6 sequences"),
        (small, GOOD_X, GOOD_Y, {"validation_split": "20%"}, TypeError, "validation_split: got '20%'"),
        (small, GOOD_X, GOOD_Y, {"validation_from": "head"}, ValueError, "validation_from: got 'head'"),
        (small, GOOD_X, GOOD_Y, {"metrics": ["auc"]}, ValueError, "metrics: got 'auc'"),
        (small, GOOD_X, GOOD_Y, {"clip_norm": 0}, ValueError, "clip_norm: got 0"),
        (small, GOOD_X, GOOD_Y, {"clip_value": -1}, ValueError, "clip_value: got -1"),
        (small, GOOD_X, GOOD_Y, {"early_stopping": "auto"}, TypeError, "early_stopping: got 'auto'"),
        (small, GOOD_X, GOOD_Y, {"verbose": 3}, ValueError, "verbose: got 3"),
        (small, GOOD_X, GOOD_Y, {"random_state": "a"}, TypeError, "random_state: got 'a'"),
    ],
)  # fmt: skip
def test_mistakes_are_explained_and_change_nothing(model, x, y, options, error, message):
    model = model()
    start = bits(model)
    with pytest.raises(error, match=message):
        model.fit(x, y, **({"epochs": 1, "verbose": 0} | options))
    assert same(start, bits(model)) and model.history_ is None
    model.fit(GOOD_X, np.zeros((N, *[T] * model.per_step, model.output_size)), epochs=1, verbose=0)


def test_tokens_out_of_range_are_explained():
    with pytest.raises(ValueError, match="X: got the integer 8, must be between 0 and num_embeddings - 1 = 7"):
        token_model().fit(np.array([[1, 8]]), [1.0], epochs=1, verbose=0)
    with pytest.raises(TypeError, match="X: got dtype float64, must be integers"):
        token_model().fit(np.array([[1.0, 2.0]]), [1.0], epochs=1, verbose=0)


@pytest.mark.parametrize(("loss", "activation", "outputs"), [
    ("categorical_crossentropy", "softmax", 3), ("binary_crossentropy", "sigmoid", 1),
])  # fmt: skip
def test_probabilities_before_a_pooling_layer_are_not_taken_for_logits(loss, activation, outputs):
    """[LSTM, Dense(softmax), Last]: the outputs are probabilities, so the loss is -log p of them, or it is an error."""
    model = Sequential([LSTM(2, 4), Dense(4, outputs, activation), Last()], random_state=0)
    x, y = generator(0).normal(size=(9, 5, 2)), np.array([0, 1, 1, 0, 0, 1, 0, 1, 1])
    try:
        history = model.fit(x, y, loss=loss, optimizer=SGD(0.0), epochs=1, verbose=0)
    except ValueError:
        return
    p = model.predict(x)
    picked = p[np.arange(9), y] if outputs > 1 else np.where(y, p[:, 0], 1 - p[:, 0])
    np.testing.assert_allclose(history["loss"], [-np.log(picked).mean()], rtol=1e-5)


def test_the_sequence_and_step_of_a_nan_are_named():
    x = GOOD_X.copy()
    x[4, 3, 1] = np.nan
    with pytest.raises(FloatingPointError, match=r"X holds NaN .* in sequence 4, step 3; remove"):
        small().fit(x, GOOD_Y, epochs=1, batch_size=2, verbose=0, random_state=0)
    with pytest.raises(FloatingPointError, match=r"X holds NaN .* in sequence 4, step 3; remove"):
        small().fit(x, GOOD_Y, epochs=9, batch_size=2, verbose=0, validation_split=0.2, validation_from="tail")


def test_finite_data_beyond_float32_are_not_called_nan_only():
    with pytest.raises(FloatingPointError, match="ones beyond float32"):
        small().fit(regression(6)[0].astype(np.float64) * 1e39, GOOD_Y, epochs=1, verbose=0)


def test_nan_in_validation_data_stops():
    with pytest.raises(FloatingPointError, match="the validation loss is nan in epoch 1: the validation data hold NaN"):
        small().fit(GOOD_X, GOOD_Y, validation_data=(GOOD_X * np.nan, GOOD_Y), epochs=2, verbose=0)


def test_accuracy_of_a_regression_is_refused():
    with pytest.raises(ValueError, match=r"^metrics: accuracy needs class labels"):
        small().fit(GOOD_X, GOOD_Y + 0.5, metrics=["accuracy"], epochs=1, verbose=0)


def test_a_metric_that_gives_an_array_is_named():
    def ratio(y_true, y_pred):
        return y_true / (1 + y_pred**2)

    with pytest.raises(TypeError, match=r"^metrics: ratio returned an array of shape \(6, 1\)"):
        small().fit(GOOD_X, GOOD_Y, metrics=[ratio], epochs=1, verbose=0)


def test_a_callback_class_is_refused_before_training():
    with pytest.raises(TypeError, match=r"^callbacks: got the class Callback, must be an instance: Callback\(\)"):
        small().fit(GOOD_X, GOOD_Y, callbacks=[lstmx.Callback], epochs=1, verbose=0)
