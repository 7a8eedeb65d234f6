"""``fit(monitor="gradients")``: what is measured, and when it warns.

Tolerances. MEASURED: float64 sums of a few dozen terms in another order.
"""

import math
import warnings

import numpy as np
import pytest
from training_data import bits, same

import lstmx
from lstmx import LSTM, Cell, Dense, Embedding, FinalState, Last, MeanPool, Sequential
from lstmx.training import GradientMonitor

MEASURED = {"rtol": 1e-9, "atol": 0}
RELU = Cell(activations=("sigmoid", "relu", "relu"))


def model_of(lstm, pool=Last, recurrent=1.0):
    """A model of an LSTM whose recurrent weights are so many times what they would be."""
    lstm.set_parameters({name: recurrent * p for name, p in lstm.parameters().items() if "weight_hh" in name})
    dense = Dense(lstm.output_size(), 1, dtype=lstm.dtype)
    return Sequential([lstm, *([pool()] if pool else []), dense], random_state=0)


def data(steps=60, n=32, per_step=False):
    x = np.random.default_rng(0).normal(size=(n, steps, 2))
    return x, x[..., 0] if per_step else x[:, :, 0].mean(axis=1)


def warned(model, x, y, **options):
    """(history, messages) of a fit."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        history = model.fit(x, y, verbose=0, monitor="gradients", **({"epochs": 1} | options))
    return history, [str(warning.message) for warning in found]


HEALTHY = {
    "as it begins": {},
    "of two layers": {"num_layers": 2},
    "bidirectional": {"bidirectional": True, "pool": FinalState},
    "an output per step": {"pool": None},
    "a mean": {"pool": MeanPool},
    "a long memory": {"chrono": 400, "steps": 400},
    "merged": {"bidirectional": True, "merge": "sum"},
    "projected": {"proj_size": 6},
}


@pytest.mark.parametrize("options", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_network_is_not_warned_about(options):
    options = dict(options)
    pool, steps = options.pop("pool", Last), options.pop("steps", 60)
    history, messages = warned(
        model_of(LSTM(2, 16, random_state=0, **options), pool), *data(steps, per_step=pool is None)
    )
    assert messages == []
    numbers = [values[0] for name, values in history.history.items() if "gradient_first" in name]
    assert len(numbers) == options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    assert all(1e-6 < value < 1 for value in numbers)


@pytest.mark.parametrize("pool", [Last, MeanPool, None])
def test_a_vanishing_network_is_warned_about(pool):
    """A mean and outputs per step give every step a gradient of its own; what vanishes does so all the same."""
    history, messages = warned(
        model_of(LSTM(2, 16, forget_bias=-3.0, random_state=0), pool), *data(per_step=pool is None), epochs=2
    )
    assert len(messages) == 1  # once a fit
    assert messages[0].startswith("gradients vanish on their way back through layers[0] (LSTM l0): in epoch 1 a share")
    assert "chrono=T" in messages[0] and history["0.gradient_first_l0"][0] < 1e-20


def test_an_exploding_network_is_warned_about():
    history, messages = warned(model_of(LSTM(2, 16, random_state=0), recurrent=12), *data(), epochs=2)
    assert len(messages) == 1
    assert messages[0].startswith("gradients explode on their way back through layers[0] (LSTM l0): in epoch 1 that at")
    assert "set clip_norm=1" in messages[0] and history["0.gradient_largest_l0"][0] > 1e3
    _, messages = warned(model_of(LSTM(2, 16, random_state=0), recurrent=12), *data(), clip_norm=2.5)
    assert "lower clip_norm (2.5)" in messages[0]


def test_the_layer_that_vanishes_is_named():
    lower, upper = LSTM(2, 8, chrono=60, random_state=0), LSTM(8, 8, bidirectional=True, random_state=1)
    arrays = {name: p.copy() for name, p in upper.parameters().items()}
    arrays["bias_l0_reverse"][8:16] = -20
    arrays["weight_hh_l0_reverse"][:] = 0
    upper.set_parameters(arrays)
    history, messages = warned(Sequential([lower, upper, FinalState(), Dense(16, 1)], random_state=0), *data())
    assert len(messages) == 1 and "layers[1] (LSTM l0_reverse)" in messages[0]
    assert history["1.gradient_first_l0"][0] > 1e-6 > history["1.gradient_first_l0_reverse"][0]


@pytest.mark.parametrize("lengths", [None, [9, 4, 1, 9]], ids=str)
@pytest.mark.parametrize("pool", [Last, None])
def test_the_numbers_are_those_of_the_gradient_flow(pool, lengths):
    model = model_of(LSTM(2, 5, dtype="float64", random_state=0), pool)
    x, y = data(9, 4, per_step=pool is None)
    lengths = np.full(4, 9) if lengths is None else np.array(lengths)
    last = np.zeros((4, 9))
    last[np.arange(4), lengths - 1] = 1
    flow = model.gradient_flow(x, y, lengths=lengths, sample_weight=last if pool is None else None)
    dh, dc = (np.linalg.norm(flows[0, 0, 0], axis=2) for flows in (flow.dh, flow.dc))
    sent = (dh * last).sum() / 4
    first = math.exp(np.log(dc[:, 0]).mean()) / sent
    history, _ = warned(model, x, y, lengths=lengths, batch_size=4, shuffle=False)
    np.testing.assert_allclose(history["0.gradient_first_l0"], [first], **MEASURED)
    np.testing.assert_allclose(history["0.gradient_largest_l0"], [flow.norms("c")[0, 0, 0].max() / sent], **MEASURED)


def test_training_is_the_same_with_it():
    x, y = data(20)
    models = [
        Sequential([LSTM(2, 8, 2, dropout=0.3), lstmx.Dropout(0.2), Last(), Dense(8, 1)], random_state=0)
        for _ in range(2)
    ]
    for model, monitor in zip(models, (None, "gradients"), strict=True):
        model.fit(x, y, epochs=3, batch_size=8, verbose=0, monitor=monitor)
    assert same(*map(bits, models))
    losses = [model.history_["loss"] for model in models]
    assert losses[0] == losses[1]


def test_it_measures_every_so_many_updates_and_every_epoch_has_a_number(monkeypatch):
    monkeypatch.setattr(GradientMonitor, "EVERY", 5)
    seen = []
    measure = GradientMonitor._measure
    monkeypatch.setattr(
        GradientMonitor, "_measure", staticmethod(lambda *given: seen.append(measure(*given)) or seen[-1])
    )
    x, y = data(20)
    history, _ = warned(model_of(LSTM(2, 8, random_state=0)), x, y, epochs=4, batch_size=10)  # 4 batches an epoch
    assert len(seen) == 4  # updates 0, 5, 10, 15
    np.testing.assert_allclose(history["0.gradient_first_l0"], [first for first, _ in seen], rtol=1e-12)
    monkeypatch.setattr(GradientMonitor, "EVERY", 7)
    seen.clear()
    history, _ = warned(model_of(LSTM(2, 8, random_state=0)), x, y, epochs=3, batch_size=10)
    assert len(seen) == 2 and len(set(history["0.gradient_first_l0"][1:])) == 1
    np.testing.assert_allclose(history["0.gradient_first_l0"][1], seen[1][0], rtol=1e-12)


def test_without_it_the_history_is_as_ever():
    history = model_of(LSTM(2, 4, random_state=0)).fit(*data(10), epochs=1, verbose=0)
    assert list(history.history) == ["loss", "learning_rate"]


def test_it_is_seen_by_callbacks_and_not_printed(capsys):
    logs = {}
    model_of(LSTM(2, 4, random_state=0)).fit(
        *data(10), epochs=1, verbose=2, monitor="gradients", callbacks=lambda epoch, found: logs.update(found) or False
    )
    assert "0.gradient_first_l0" in logs and "gradient" not in "".join(capsys.readouterr())


def test_embeddings_train_with_it():
    model = Sequential([Embedding(5, 3), LSTM(3, 4), Last(), Dense(4, 1)], random_state=0)
    tokens = np.random.default_rng(0).integers(5, size=(12, 7))
    history, messages = warned(model, tokens, tokens[:, 0] / 5.0, epochs=2)
    assert messages == [] and len(history["1.gradient_first_l0"]) == 2


def test_a_batch_without_weight_is_no_update_and_the_next_is_measured():
    model = model_of(LSTM(2, 4, random_state=0))
    x, y = data(10, 8)
    weight = np.array([0.0, 0, 0, 0, 1, 1, 1, 1])
    history, _ = warned(model, x, y, sample_weight=weight, batch_size=4, shuffle=False)
    assert 0 < history["0.gradient_first_l0"][0] < 1


@pytest.mark.parametrize(
    ("layers", "monitor", "message"),
    [
        ([Last(), Dense(2, 1)], "gradients", r'^monitor: "gradients" are those of recurrent layers, but the model has'),
        ([LSTM(2, 4), Last(), Dense(4, 1)], "val_loss", r"^monitor: got 'val_loss'.*EarlyStopping\(monitor=\.\.\.\)"),
    ],
)
def test_what_cannot_be_watched_is_explained(layers, monitor, message):
    with pytest.raises(ValueError, match=message):
        Sequential([layer.copy() for layer in layers], random_state=0).fit(*data(5), verbose=0, monitor=monitor)


@pytest.mark.filterwarnings("error")
def test_a_direction_that_the_loss_does_not_ask_has_not_lost_its_gradient():
    """Last reads the second direction after one step: what it has read before, from the end, is nothing."""
    rng = np.random.default_rng(0)
    layers = [lstmx.LSTM(2, 8, bidirectional=True), lstmx.LSTM(16, 8, bidirectional=True), lstmx.Last()]
    model = lstmx.Sequential([*layers, lstmx.Dense(16, 1)], random_state=0)
    x = rng.normal(size=(32, 12, 2))
    history = model.fit(x, x[:, 0, :1], epochs=2, verbose=0, monitor="gradients").history
    assert np.isnan(history["1.gradient_first_l0_reverse"]).all()
    assert (
        np.isfinite(history["1.gradient_first_l0"]).all() and np.isfinite(history["0.gradient_first_l0_reverse"]).all()
    )
