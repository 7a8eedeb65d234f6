"""Validation, early stopping, and the history of training."""

import numpy as np
import pytest
from training_data import bits, generator, regression, same, scripted, small

from lstmx import (
    LSTM,
    SGD,
    Adam,
    Callback,
    Dense,
    EarlyStopping,
    Embedding,
    Last,
    Sequential,
)
from lstmx.training import get_early_stopping


@pytest.mark.parametrize("weighted", [False, True])
def test_validation_data_are_evaluated_without_dropout(weighted):
    model, (x, y), (vx, vy) = small(dropout=0.5), regression(), regression(70, seed=9)
    weight = (generator(1).uniform(size=70),) if weighted else ()
    options = {"validation_data": (vx, vy, *weight), "metrics": ["mae"], "epochs": 2, "verbose": 0}
    history = model.fit(x, y, **options)
    error = model.predict(vx)[:, 0] - vy
    np.testing.assert_allclose(
        history["val_loss"][-1], np.average(error**2, weights=weight[0] if weight else None), rtol=1e-5
    )
    np.testing.assert_allclose(history["val_mae"][-1], np.abs(error).mean(), rtol=1e-5)
    assert set(history.history) == {"loss", "mae", "val_loss", "val_mae", "learning_rate"} and len(history) == 2


def test_validation_lengths_cut_the_validation_data():
    model, (x, y) = small(), regression()
    vx, lengths = x.copy(), generator(0).integers(0, 7, size=24)
    vx[np.arange(6) >= lengths[:, None]] = np.nan
    history = model.fit(x, y, validation_data=(vx, y), validation_lengths=lengths, epochs=1, verbose=0)
    wanted = np.mean((model.predict(vx, lengths=lengths)[:, 0] - y) ** 2)
    np.testing.assert_allclose(history["val_loss"], [wanted], rtol=1e-5)


def test_the_tail_is_held_out():
    model, (x, y) = small(), regression(20)
    other = model.copy()
    one = model.fit(x, y, validation_split=0.25, validation_from="tail", epochs=2, verbose=0, random_state=0)
    two = other.fit(x[:15], y[:15], validation_data=(x[15:], y[15:]), epochs=2, verbose=0, random_state=0)
    assert same(bits(model), bits(other)) and one.history == two.history


def test_a_random_split_trains_on_the_rest():
    """NaN in a sequence trained on is named by its batch; the seed decides which those are."""
    x, y = regression(20)
    failed = []
    for n in range(20):
        dirty = x.copy()
        dirty[n, 0, 0] = np.nan
        with pytest.raises(FloatingPointError) as caught:
            small().fit(dirty, y, validation_split=0.25, epochs=1, verbose=0, random_state=3)
        if "batch" in str(caught.value):
            failed.append(n)
    assert len(failed) == 15 and set(failed) != set(range(15))


def test_early_stopping_restores_the_best_weights():
    model, (x, y) = small(), regression()
    seen = []

    class Keep(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            seen.append(bits(trainer.model))

    stopping = EarlyStopping(patience=3, monitor="score")
    history = model.fit(x, y, metrics=[scripted([5, 4, 2, 3, 2, 2.5, 1, 0])], early_stopping=stopping, epochs=20,
                        callbacks=[Keep()], verbose=0)  # fmt: skip
    assert (len(history), history.best_epoch, history.stopped) == (6, 2, "early")
    assert same(bits(model), seen[2]) and not same(bits(model), seen[5])


def test_early_stopping_restores_embeddings_too():
    layers = [Embedding(6, 3), LSTM(3, 4), Last(), Dense(4, 1)]
    model, seen = Sequential(layers, random_state=0), []
    tokens = generator(0).integers(6, size=(10, 4))

    class Keep(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            seen.append(bits(trainer.model))

    stopping = EarlyStopping(patience=1, monitor="score")
    model.fit(tokens, tokens.sum(axis=1), metrics=[scripted([2, 1, 3])], early_stopping=stopping, callbacks=[Keep()],
              epochs=9, verbose=0)  # fmt: skip
    assert len(seen) == 3 and same(bits(model), seen[1]) and (seen[1]["0.weight"] != seen[2]["0.weight"]).any()


@pytest.mark.parametrize("restore_best", [True, False])
def test_the_best_weights_are_restored_after_the_last_epoch_too(restore_best):
    model, (x, y) = small(), regression()
    seen = []

    class Keep(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            seen.append(bits(trainer.model))

    stopping = EarlyStopping(patience=9, monitor="score", restore_best=restore_best)
    history = model.fit(
        x, y, metrics=[scripted([3, 1, 2])], early_stopping=stopping, callbacks=[Keep()], epochs=3, verbose=0
    )
    assert history.stopped is None and history.best_epoch == 1
    assert same(bits(model), seen[1 if restore_best else 2])


def test_min_delta_asks_for_more_than_a_little():
    model, (x, y) = small(), regression()
    stopping = EarlyStopping(patience=2, monitor="score", min_delta=0.5)
    history = model.fit(x, y, metrics=[scripted([3, 2.8, 2.6, 2.4, 2])], early_stopping=stopping, epochs=9, verbose=0)
    assert len(history) == 3 and history.best_epoch == 0


def test_more_accuracy_is_better():
    model, (x, y) = small(activation="sigmoid"), regression()
    options = {"loss": "binary_crossentropy", "metrics": ["accuracy"], "optimizer": Adam(0.05), "verbose": 0}
    stopping = EarlyStopping(patience=50, monitor="accuracy")
    history = model.fit(x, y > 0, early_stopping=stopping, epochs=15, **options)
    assert history["accuracy"][history.best_epoch] == max(history["accuracy"]) > history["accuracy"][0]


@pytest.mark.parametrize("validation", [False, True])
def test_early_stopping_takes_the_loss_where_there_are_no_validation_data(validation):
    x, y = regression()
    history = small().fit(x, y, early_stopping=True, validation_split=0.25 if validation else 0.0, epochs=5, verbose=0)
    losses = history["val_loss" if validation else "loss"]
    assert history.best_epoch == int(np.argmin(losses))


def test_early_stopping_survives_a_first_score_that_is_nan():
    """An epoch without a number is no best epoch."""
    model, (x, y) = small(), regression()
    stopping = EarlyStopping(patience=3, monitor="score")
    history = model.fit(
        x, y, metrics=[scripted([np.nan, 2, 1, 3, 4, 5, 6])], early_stopping=stopping, epochs=7, verbose=0
    )
    assert history.best_epoch == 2


@pytest.mark.parametrize(
    ("value", "wanted"),
    [(None, None), (False, None), (True, EarlyStopping()), (7, EarlyStopping(7)), (EarlyStopping(2), EarlyStopping(2))],
)
def test_forms_of_early_stopping(value, wanted):
    assert get_early_stopping(value) == wanted


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EarlyStopping(0), ValueError, "patience: got 0"),
        (lambda: EarlyStopping(1.5), TypeError, "patience: got 1.5"),
        (lambda: EarlyStopping(min_delta=-1), ValueError, "min_delta: got -1"),
        (lambda: EarlyStopping(restore_best="yes"), TypeError, "restore_best: got 'yes'"),
        (lambda: get_early_stopping("yes"), TypeError, "early_stopping: got 'yes'"),
        (lambda: get_early_stopping(0), ValueError, "early_stopping: got 0"),
    ],
)
def test_wrong_early_stopping_is_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_monitor_that_does_not_exist_is_an_error_before_training():
    model, (x, y) = small(), regression()
    start = bits(model)
    with pytest.raises(ValueError, match=r"early_stopping: there is no 'val_f1' to monitor, only .*'loss'"):
        model.fit(x, y, early_stopping=EarlyStopping(monitor="val_f1"), epochs=5, verbose=0)
    assert same(start, bits(model))


def test_metrics_see_targets_and_predictions_of_the_whole_epoch():
    shapes = []

    def worst(target, prediction):
        shapes.append((target.shape, prediction.shape))
        return np.abs(target - prediction).max()

    model, (x, y) = small(), regression()
    history = model.fit(x, y, metrics=[worst, "mse"], optimizer=SGD(0.0), epochs=1, batch_size=7, verbose=0)
    assert shapes == [((24, 1), (24, 1))]
    np.testing.assert_allclose(history["worst"][0], np.abs(model.predict(x)[:, 0] - y).max(), rtol=1e-5)
    np.testing.assert_allclose(history["mse"], history["loss"], rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("loss", "outputs", "activation"), [
    ("categorical_crossentropy", 3, "softmax"), ("categorical_crossentropy", 3, None),
    ("binary_crossentropy", 1, "sigmoid"), ("binary_crossentropy", 1, None),
])  # fmt: skip
def test_accuracy_of_probabilities_and_of_logits(loss, outputs, activation, dtype):
    """What a user computes from the predictions, whether the model ends with probabilities or with logits."""
    model, (x, _) = small(outputs=outputs, activation=activation, dtype=dtype), regression(60)
    y = generator(2).integers(max(outputs, 2), size=60)
    history = model.fit(x, y, loss=loss, metrics=["accuracy"], optimizer=SGD(0.0), epochs=1, verbose=0)
    out = model.predict(x)
    right = out.argmax(axis=1) == y if outputs > 1 else (out[:, 0] > (0.5 if activation else 0)) == y
    np.testing.assert_allclose(history["accuracy"], [right.mean()], rtol=1e-12)


def test_two_metrics_of_one_name_are_both_kept():
    x, y = regression()
    history = small().fit(x, y, metrics=[lambda t, p: 1.0, lambda t, p: 2.0], epochs=1, verbose=0)
    assert sorted(v[0] for name, v in history.history.items() if name not in ("loss", "learning_rate")) == [1.0, 2.0]


def test_history_tells_and_plots():
    import matplotlib

    matplotlib.use("Agg")
    model, (x, y) = small(), regression()
    history = model.fit(x, y, epochs=3, validation_split=0.25, early_stopping=1, verbose=0)
    assert model.history_ is history
    assert repr(history).startswith(f"History({len(history)} epochs: loss=") and "val_loss=" in repr(history)
    ax = history.plot()
    losses = {line.get_label(): line.get_ydata() for line in ax.lines}
    np.testing.assert_array_equal(losses["training"], history["loss"])
    np.testing.assert_array_equal(losses["validation"], history["val_loss"])
    assert history.plot(ax) is ax
    matplotlib.pyplot.close("all")


def test_a_history_of_no_epochs():
    model, (x, y) = small(), regression()
    start = bits(model)
    history = model.fit(x, y, epochs=0, verbose=1)
    assert len(history) == 0 and repr(history) == "History(0 epochs)" and same(start, bits(model))
