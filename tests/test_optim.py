"""Optimisers against frozen PyTorch trajectories and their formulas; schedules; what `fit` does with them.

Tolerances. FROZEN: six float64 updates, each a few roundings, in another order than PyTorch's. EXACT_MATHS: one or two
float64 operations. SINGLE: float32 after three updates.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import lstmx
from lstmx.optim import OPTIMIZERS, get_optimizer

FROZEN = {"rtol": 1e-12, "atol": 1e-14}
EXACT_MATHS = {"rtol": 1e-14, "atol": 0}
SINGLE = {"rtol": 2e-6, "atol": 1e-6}

DATA = Path(__file__).parent / "data" / "torch_optim.npz"
with np.load(DATA) as _data:
    CASES = sorted(key.removesuffix("/config") for key in _data if key.endswith("/config"))


def frozen(name):
    """(optimiser, start, gradients, trajectory)."""
    with np.load(DATA) as data:
        config = json.loads(str(data[f"{name}/config"]))
        optimizer = getattr(lstmx, config["class"])(**config["arguments"])
        return optimizer, data["p0"], data["grads"], data[f"{name}/p"]


def run(optimizer, start, gradients, scale=1.0, decay=True):
    p = start.copy()
    moments = {name: np.zeros_like(p) for name in optimizer.moments}
    out = []
    for count, g in enumerate(gradients):
        optimizer.step(p, g.copy(), moments, count + 1, optimizer.rate(count), scale, decay)
        out.append(p.copy())
    return np.array(out)


def test_frozen_cases_cover_every_optimiser():
    assert {type(frozen(name)[0]).__name__ for name in CASES} == {"SGD", "RMSprop", "Adam", "AdamW"}


@pytest.mark.parametrize("name", CASES)
def test_trajectory_equals_pytorch(name):
    optimizer, start, gradients, wanted = frozen(name)
    assert np.abs(wanted[-1] - start).min() > 1e-6  # everything moves
    np.testing.assert_allclose(run(optimizer, start, gradients), wanted, **FROZEN)


@pytest.mark.parametrize("name", CASES)
def test_float32_follows_float64(name):
    optimizer, start, gradients, wanted = frozen(name)
    single = run(optimizer, start.astype(np.float32), gradients[:3].astype(np.float32))
    assert single.dtype == np.float32
    np.testing.assert_allclose(single, wanted[:3], **SINGLE)


@pytest.mark.parametrize("name", CASES)
def test_a_stretch_of_the_buffer_gives_the_same_bits(name):
    """The flat buffer is cut where weight decay begins and ends: vector tails must not show."""
    optimizer, start, gradients, _ = frozen(name)
    whole = run(optimizer, start, gradients)
    for part in (slice(0, 1), slice(3, 20), slice(5, 37)):
        assert (run(optimizer, start[part], gradients[:, part]) == whole[:, part]).all()


@pytest.mark.parametrize("name", CASES)
def test_scale_multiplies_the_gradient(name):
    """Clipping by norm: a power of two changes no rounding."""
    optimizer, start, gradients, _ = frozen(name)
    np.testing.assert_array_equal(run(optimizer, start, gradients, scale=0.25), run(optimizer, start, gradients * 0.25))


@pytest.mark.parametrize("name", [name for name in CASES if "decay" in name or name == "adamw"])
def test_without_decay_flag_weights_do_not_decay(name):
    optimizer, start, gradients, wanted = frozen(name)
    plain = type(optimizer)(**{**vars(optimizer), "weight_decay": 0.0})
    np.testing.assert_array_equal(run(optimizer, start, gradients, decay=False), run(plain, start, gradients))
    assert np.abs(run(plain, start, gradients) - wanted).max() > 1e-4


def test_adamw_decay_is_decoupled_from_the_gradient():
    p = run(lstmx.AdamW(0.1, weight_decay=0.5), np.array([2.0, -4.0]), np.zeros((1, 2)))
    np.testing.assert_allclose(p[0], [1.9, -3.8], **EXACT_MATHS)


def test_adam_moves_by_the_rate_at_first():
    """Bias correction: the first step is learning_rate * sign(g), whatever the size of g."""
    g = np.array([1e-3, -5.0, 1e4])
    p = run(lstmx.Adam(0.01, epsilon=0.0), np.zeros(3), g[None])
    np.testing.assert_allclose(p[0], -0.01 * np.sign(g), rtol=1e-12)


def test_sgd_by_hand():
    p = run(lstmx.SGD(0.5, momentum=0.5), np.array([1.0]), np.array([[2.0], [4.0]]))
    np.testing.assert_allclose(p[:, 0], [0.0, -2.5], **EXACT_MATHS)
    p = run(lstmx.SGD(0.5, momentum=0.5, nesterov=True), np.array([1.0]), np.array([[2.0], [4.0]]))
    np.testing.assert_allclose(p[:, 0], [-0.5, -3.75], **EXACT_MATHS)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_names_mean_the_defaults(name):
    assert get_optimizer(name) == OPTIMIZERS[name]()
    assert get_optimizer(OPTIMIZERS[name]()) == OPTIMIZERS[name]()


@pytest.mark.parametrize("optimizer", ["Adam", "lbfgs", None, 0.1, lstmx.Adam])
def test_unknown_optimiser_lists_the_known_ones(optimizer):
    with pytest.raises(ValueError, match=r"optimizer: got .* must be one of 'sgd', .*lstmx\.Adam\(1e-3\)"):
        get_optimizer(optimizer)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: lstmx.SGD(-0.1), ValueError, "learning_rate: got -0.1"),
        (lambda: lstmx.SGD(float("nan")), ValueError, "learning_rate: got nan"),
        (lambda: lstmx.SGD(float("inf")), ValueError, "learning_rate: got inf"),
        (lambda: lstmx.Adam("fast"), TypeError, "learning_rate: got 'fast'"),
        (lambda: lstmx.SGD(momentum=1.0), ValueError, "momentum: got 1.0.*below 1"),
        (lambda: lstmx.SGD(momentum=-0.1), ValueError, "momentum: got -0.1"),
        (lambda: lstmx.SGD(nesterov=True), ValueError, "nesterov: needs a momentum"),
        (lambda: lstmx.SGD(momentum=0.9, nesterov="yes"), TypeError, "nesterov: got 'yes'"),
        (lambda: lstmx.SGD(weight_decay=-1), ValueError, "weight_decay: got -1"),
        (lambda: lstmx.RMSprop(rho=1.0), ValueError, "rho: got 1.0"),
        (lambda: lstmx.RMSprop(momentum=2), ValueError, "momentum: got 2"),
        (lambda: lstmx.RMSprop(epsilon=-1e-8), ValueError, "epsilon: got -1e-08"),
        (lambda: lstmx.Adam(beta_1=1.0), ValueError, "beta_1: got 1.0"),
        (lambda: lstmx.Adam(beta_2=-0.5), ValueError, "beta_2: got -0.5"),
        (lambda: lstmx.Adam(epsilon="small"), TypeError, "epsilon: got 'small'"),
        (lambda: lstmx.AdamW(weight_decay=float("nan")), ValueError, "weight_decay: got nan"),
        (lambda: lstmx.StepDecay(-1), ValueError, "initial: got -1"),
        (lambda: lstmx.StepDecay(0.1, every=0), ValueError, "every: got 0"),
        (lambda: lstmx.StepDecay(0.1, factor=-2), ValueError, "factor: got -2"),
        (lambda: lstmx.ExponentialDecay(0.1, every=1.5), TypeError, "every: got 1.5"),
        (lambda: lstmx.CosineDecay(0.1, 0), ValueError, "steps: got 0"),
        (lambda: lstmx.CosineDecay(0.1, 10, final=-0.1), ValueError, "final: got -0.1"),
        (lambda: lstmx.Warmup(0.1, 0), ValueError, "steps: got 0"),
        (lambda: lstmx.Warmup(-0.1, 5), ValueError, "after: got -0.1"),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_optimisers_are_configuration_only():
    """One instance may serve two models: it holds no state and cannot be changed."""
    optimizer = lstmx.Adam(0.1)
    with pytest.raises(AttributeError):
        optimizer.learning_rate = 1.0
    with pytest.raises(AttributeError):
        lstmx.StepDecay(0.1).initial = 1.0


# Schedules.


@pytest.mark.parametrize(
    ("schedule", "step", "wanted"),
    [
        (lstmx.StepDecay(0.4, factor=0.5, every=10), 0, 0.4),
        (lstmx.StepDecay(0.4, factor=0.5, every=10), 9, 0.4),
        (lstmx.StepDecay(0.4, factor=0.5, every=10), 10, 0.2),
        (lstmx.StepDecay(0.4, factor=0.5, every=10), 35, 0.05),
        (lstmx.ExponentialDecay(0.4, factor=0.25, every=10), 0, 0.4),
        (lstmx.ExponentialDecay(0.4, factor=0.25, every=10), 5, 0.2),
        (lstmx.ExponentialDecay(0.4, factor=0.25, every=10), 20, 0.025),
        (lstmx.CosineDecay(0.4, 100), 0, 0.4),
        (lstmx.CosineDecay(0.4, 100, final=0.1), 50, 0.25),
        (lstmx.CosineDecay(0.4, 100, final=0.1), 100, 0.1),
        (lstmx.CosineDecay(0.4, 100, final=0.1), 5000, 0.1),
        (lstmx.Warmup(0.4, 4), 0, 0.1),
        (lstmx.Warmup(0.4, 4), 3, 0.4),
        (lstmx.Warmup(0.4, 4), 400, 0.4),
        (lstmx.Warmup(lstmx.StepDecay(0.4, 0.5, 10), 4), 1, 0.2),
        (lstmx.Warmup(lstmx.StepDecay(0.4, 0.5, 10), 4), 4, 0.4),  # the schedule begins at its own step 0
        (lstmx.Warmup(lstmx.StepDecay(0.4, 0.5, 10), 4), 14, 0.2),
    ],
)
def test_schedules(schedule, step, wanted):
    np.testing.assert_allclose(schedule(step), wanted, rtol=1e-12)
    np.testing.assert_allclose(lstmx.Adam(schedule).rate(step), wanted, rtol=1e-12)


def small_model(**options):
    return lstmx.Sequential(
        [lstmx.LSTM(2, 3, dtype="float64"), lstmx.Last(), lstmx.Dense(3, 1, dtype="float64")], random_state=0, **options
    )


def small_data(n=12):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 5, 2))
    return x, x[:, :, 0].sum(axis=1)


def test_schedule_counts_updates_not_epochs():
    seen = []

    def schedule(step):
        seen.append(step)
        return 0.01 / (step + 1)

    x, y = small_data()
    history = small_model().fit(x, y, optimizer=lstmx.SGD(schedule), epochs=3, batch_size=4, shuffle=False, verbose=0)
    assert sorted(set(seen)) == list(range(9))
    np.testing.assert_allclose(history["learning_rate"], [0.01 / 3, 0.01 / 6, 0.01 / 9], rtol=1e-12)


def test_schedule_in_fit_gives_the_bits_of_single_rates():
    x, y = small_data(4)
    by_schedule, by_hand = small_model(), small_model()
    by_schedule.fit(x, y, optimizer=lstmx.SGD(lambda step: [0.1, 0.02][step]), epochs=2, shuffle=False, verbose=0)
    for rate in (0.1, 0.02):
        by_hand.fit(x, y, optimizer=lstmx.SGD(rate), epochs=1, shuffle=False, verbose=0)
    for name, value in by_schedule.parameters().items():
        np.testing.assert_array_equal(value, by_hand.parameters()[name], err_msg=name)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), "x", None])
def test_schedule_that_returns_nonsense_is_an_error_and_leaves_the_model_usable(bad):
    x, y = small_data(4)
    model = small_model()
    before = model.predict(x)
    with pytest.raises((ValueError, TypeError), match="learning_rate"):
        model.fit(x, y, optimizer=lstmx.SGD(lambda step: bad), epochs=1, verbose=0)
    np.testing.assert_array_equal(model.predict(x), before)
    model.fit(x, y, epochs=1, verbose=0)


# In fit.


@pytest.mark.parametrize("make", [lstmx.SGD, lstmx.RMSprop, lstmx.Adam, lstmx.AdamW])
def test_weight_decay_skips_biases(make):
    """With output, loss and every gradient 0, decay alone moves the weights, and nothing moves the biases."""
    model = small_model()
    start = {name: value.copy() for name, value in model.parameters().items()}
    model.set_parameters({"2.weight": start["2.weight"] * 0, "0.bias_l0": np.linspace(1, 2, 12)})
    x = np.zeros((4, 5, 2))
    model.fit(x, np.zeros(4), optimizer=make(0.1, weight_decay=0.1), epochs=1, verbose=0)
    after = model.parameters()
    np.testing.assert_array_equal(after["0.bias_l0"], np.linspace(1, 2, 12))
    np.testing.assert_array_equal(after["2.bias"], [0])
    for name in ("0.weight_ih_l0", "0.weight_hh_l0"):
        assert (np.sign(start[name] - after[name]) == np.sign(start[name])).all(), name  # towards 0


def test_no_weight_decay_by_default_but_in_adamw():
    assert [OPTIMIZERS[name]().weight_decay for name in ("sgd", "rmsprop", "adam", "adamw")] == [0, 0, 0, 0.01]


def embedding_model(padding_idx=None):
    layers = [lstmx.Embedding(9, 3, padding_idx), lstmx.LSTM(3, 4), lstmx.Last(), lstmx.Dense(4, 1)]
    return lstmx.Sequential(layers, random_state=0)


@pytest.mark.parametrize(
    "optimizer",
    [
        lstmx.SGD(0.1),
        lstmx.SGD(0.1, momentum=0.9, weight_decay=0.1),
        lstmx.RMSprop(0.01, momentum=0.5),
        lstmx.Adam(0.01),
        lstmx.AdamW(0.01, weight_decay=0.1),
    ],
    ids=lambda o: type(o).__name__ + str(o.weight_decay),
)
def test_only_touched_rows_of_an_embedding_change(optimizer):
    model = embedding_model()
    before = model.parameters()["0.weight"].copy()
    tokens = np.array([[1, 4, 4], [7, 1, 4], [4, 7, 7]])
    model.fit(tokens, [1.0, -1.0, 0.5], optimizer=optimizer, epochs=3, batch_size=2, verbose=0, random_state=0)
    changed = (model.parameters()["0.weight"] != before).any(axis=1)
    assert changed.tolist() == [token in (1, 4, 7) for token in range(9)]


def test_moments_of_an_embedding_row_rest_while_it_is_untouched():
    """Momentum does not move a row in the batches that lack it."""
    model = embedding_model()
    rows = []

    class Watch(lstmx.Callback):
        def on_batch_end(self, trainer, batch, loss):
            rows.append(trainer.model.parameters()["0.weight"].copy())

    tokens = np.array([[1, 2], [3, 4]])
    options = {"epochs": 2, "batch_size": 1, "shuffle": False, "verbose": 0, "callbacks": [Watch()]}
    model.fit(tokens, [1.0, -1.0], optimizer=lstmx.SGD(0.1, momentum=0.9), **options)
    assert (rows[0][[1, 2]] == rows[1][[1, 2]]).all() and (rows[1][[3, 4]] == rows[2][[3, 4]]).all()
    assert (rows[1][[1, 2]] != rows[2][[1, 2]]).any()


def test_padding_row_of_an_embedding_stays_zero():
    model = embedding_model(padding_idx=0)
    tokens = np.array([[1, 4, 0], [0, 0, 4], [0, 0, 0]])
    model.fit(tokens, [1.0, -1.0, 0.5], optimizer=lstmx.AdamW(0.1), epochs=3, verbose=0)
    assert (model.parameters()["0.weight"][0] == 0).all()


def test_embedding_rows_are_updated_as_a_dense_parameter_would_be():
    """A batch with every token: the rows go the way of the formula, from the gradient that backward gives."""
    model = embedding_model().astype("float64")
    tokens = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 8, 0, 1]])
    y = np.array([[1.0], [-1.0], [0.5]])
    prediction, tape = model.forward(tokens)
    gradient = model.backward(tape, 2 * (prediction - y) / 3).params["0.weight"]
    wanted = model.parameters()["0.weight"] - 0.1 * gradient
    assert (np.abs(gradient).sum(axis=1) > 0).all()
    model.fit(tokens, y, optimizer=lstmx.SGD(0.1), epochs=1, verbose=0)
    np.testing.assert_allclose(model.parameters()["0.weight"], wanted, rtol=1e-12, atol=1e-15)
