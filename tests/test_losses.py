"""Losses and metrics against frozen PyTorch numbers, finite differences, and their definitions.

Tolerances. FROZEN: float64 sums of 35 terms in another order, and exp and log within 4 ULP. DIFFERENCES: central
differences with a step of 1e-6 in float64 are good to about 1e-9. SINGLE: float32 has 1.2e-7, times a few terms.
"""

from pathlib import Path

import numpy as np
import pytest

from lstmx.losses import LOSSES, METRICS, accuracy, get_loss, get_metrics
from lstmx.testing import finite_difference

FROZEN = {"rtol": 1e-13, "atol": 1e-14}
DIFFERENCES = {"rtol": 1e-7, "atol": 1e-8}
SINGLE = {"rtol": 2e-6, "atol": 2e-6}

NAMES = sorted(LOSSES)
ROWS, OUTPUTS = 7, 5


def frozen(name):
    with np.load(Path(__file__).parent / "data" / "torch_optim.npz") as data:
        return {key: data[f"loss/{name}/{key}"] for key in ("pred", "target", "value", "grad")}


def problem(name, dtype=np.float64, one_hot=False, seed=0):
    """(prediction, target, weight), no two weights alike, one of them 0."""
    rng = np.random.default_rng(seed)
    prediction = 2 * rng.normal(size=(ROWS, OUTPUTS))
    weight = rng.uniform(0.2, 3, ROWS)
    weight[2] = 0
    if name == "categorical_crossentropy":
        target = rng.integers(OUTPUTS, size=ROWS)
        if one_hot:
            target = np.eye(OUTPUTS)[target].astype(dtype)
    elif name == "binary_crossentropy":
        target = rng.integers(2, size=(ROWS, OUTPUTS)).astype(dtype)
    else:
        target = rng.normal(size=(ROWS, OUTPUTS)).astype(dtype)
    return prediction.astype(dtype), target, weight.astype(dtype)


def by_hand(name, p, y, weight):
    """The definition, in float64 and without any care for overflow."""
    p = p.astype(np.float64)
    d = p - y if y.ndim == 2 else None
    if name == "mse":
        each = (d**2).mean(axis=1)
    elif name == "mae":
        each = np.abs(d).mean(axis=1)
    elif name == "huber":
        each = np.where(np.abs(d) <= 1, d**2 / 2, np.abs(d) - 0.5).mean(axis=1)
    elif name == "binary_crossentropy":
        s = 1 / (1 + np.exp(-p))
        each = -(y * np.log(s) + (1 - y) * np.log(1 - s)).mean(axis=1)
    else:
        log_s = p - np.log(np.exp(p).sum(axis=1, keepdims=True))
        each = -log_s[np.arange(len(y)), y] if y.ndim == 1 else -(y * log_s).sum(axis=1)
    return float((weight * each).sum())


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_equal_pytorch(name):
    data = frozen(name)
    pred = data["pred"]
    value, gradient = LOSSES[name]().total(pred, data["target"], np.ones(len(pred)))
    np.testing.assert_allclose(value / len(pred), data["value"], **FROZEN)
    np.testing.assert_allclose(gradient / len(pred), data["grad"], **FROZEN)


@pytest.mark.parametrize("name", NAMES)
def test_frozen_numbers_are_not_degenerate(name):
    data = frozen(name)
    assert abs(data["value"]) > 1e-2
    assert (data["grad"] != 0).all()
    assert len(np.unique(np.abs(data["grad"]))) > (0 if name == "mae" else 4)
    if name == "huber":  # both branches
        size = np.abs(data["pred"] - data["target"])
        assert (size < 1).any() and (size > 1).any()


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_value_is_the_definition(name, one_hot):
    p, y, weight = problem(name, one_hot=one_hot, seed=1)
    np.testing.assert_allclose(LOSSES[name]().total(p, y, weight)[0], by_hand(name, p, y, weight), rtol=1e-12)


@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences_with_weights(name, one_hot):
    p, y, weight = problem(name, one_hot=one_hot, seed=2)
    loss = LOSSES[name]()
    gradient = loss.total(p, y, weight)[1]
    wanted = finite_difference(lambda: loss.total(p, y, weight)[0], p)
    assert np.abs(wanted[weight > 0]).min() > 1e-6
    np.testing.assert_allclose(gradient, wanted, **DIFFERENCES)
    assert (gradient[2] == 0).all()  # the row of weight 0


@pytest.mark.parametrize("name", ["binary_crossentropy", "categorical_crossentropy"])
def test_soft_targets_have_the_right_gradient(name):
    rng = np.random.default_rng(3)
    p, weight = rng.normal(size=(4, 3)), rng.uniform(0.5, 2, 4)
    y = rng.uniform(size=(4, 3))
    if name == "categorical_crossentropy":
        y[:2] /= y[:2].sum(axis=1, keepdims=True)  # and rows that do not sum to 1
    loss = LOSSES[name]()
    wanted = finite_difference(lambda: loss.total(p, y, weight)[0], p)
    np.testing.assert_allclose(loss.total(p, y, weight)[1], wanted, **DIFFERENCES)
    np.testing.assert_allclose(loss.total(p, y, weight)[0], by_hand(name, p, y, weight), rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_as_float64_and_stays_float32(name):
    p, y, weight = problem(name, np.float32, seed=4)
    value, gradient = LOSSES[name]().total(p, y, weight)
    target = y if y.ndim == 1 else y.astype(np.float64)
    value64, gradient64 = LOSSES[name]().total(p.astype(np.float64), target, weight.astype(np.float64))
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(value, value64, **SINGLE)
    np.testing.assert_allclose(gradient, gradient64, **SINGLE)


def test_labels_and_one_hot_give_the_same_bits_of_gradient():
    p, labels, weight = problem("categorical_crossentropy", seed=5)
    loss = LOSSES["categorical_crossentropy"]()
    value, gradient = loss.total(p, labels, weight)
    value_hot, gradient_hot = loss.total(p, np.eye(OUTPUTS)[labels], weight)
    np.testing.assert_allclose(value, value_hot, rtol=1e-15)
    assert (gradient == gradient_hot).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("labels", [np.array([0, 1]), np.array([[1.0, 0.0], [0.0, 1.0]])], ids=["labels", "one_hot"])
def test_categorical_extreme_logits_do_not_overflow(dtype, labels):
    z = np.array([[1e4, -1e4], [1e4, -1e4]], dtype)  # right, and wrong by 2e4
    labels = labels if labels.ndim == 1 else labels.astype(dtype)
    value, gradient = LOSSES["categorical_crossentropy"]().total(z, labels, np.ones(2, dtype))
    assert value == 2e4
    np.testing.assert_array_equal(gradient, np.array([[0, 0], [1, -1]], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_extreme_logits_do_not_overflow(dtype):
    z = np.array([[1e4], [-1e4], [1e4], [-1e4]], dtype)
    y = np.array([[1], [0], [0], [1]], dtype)
    value, gradient = LOSSES["binary_crossentropy"]().total(z, y, np.ones(4, dtype))
    assert value == 2e4
    np.testing.assert_array_equal(gradient, np.array([[0], [0], [1], [-1]], dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_small_losses_keep_their_digits(dtype):
    """log(1 + exp(-30)) is 9.4e-14: not rounded to 0, as log(sigmoid) would be."""
    value, _ = LOSSES["binary_crossentropy"]().total(
        np.array([[30.0]], dtype), np.array([[1.0]], dtype), np.ones(1, dtype)
    )
    np.testing.assert_allclose(value, np.exp(-30.0), rtol=1e-5)


def test_huber_joins_its_branches():
    loss, one = LOSSES["huber"](), np.ones(1)
    inside, outside = (loss.total(np.array([[d]]), np.zeros((1, 1)), one) for d in (1 - 1e-9, 1 + 1e-9))
    np.testing.assert_allclose(inside[0], outside[0], atol=3e-9)
    np.testing.assert_allclose(inside[1], outside[1], atol=3e-9)


def test_sum_over_many_rows_is_accurate_in_float32():
    """100,000 float32 terms: a naive float32 chain would be off by 1e-4."""
    rng = np.random.default_rng(6)
    p = rng.normal(size=(100_000, 1)).astype(np.float32)
    value, _ = LOSSES["mse"]().total(p, np.zeros_like(p), np.ones(len(p), np.float32))
    np.testing.assert_allclose(value, (p.astype(np.float64) ** 2).sum(), rtol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_are_not_changed(name):
    p, y, weight = problem(name, seed=7)
    before = p.copy(), y.copy(), weight.copy()
    LOSSES[name]().total(p, y, weight)
    for now, then in zip((p, y, weight), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_give_zero(name):
    target = np.zeros(0, np.int64) if name == "categorical_crossentropy" else np.zeros((0, 2))
    value, gradient = LOSSES[name]().total(np.zeros((0, 2)), target, np.zeros(0))
    assert value == 0 and gradient.shape == (0, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_the_divisor_divides_the_gradient_alone(name, dtype):
    p, y, weight = problem(name, dtype, seed=8)
    value, gradient = LOSSES[name]().total(p, y, weight)
    divided, part = LOSSES[name]().total(p, y, weight, 7.3)
    assert divided == value
    np.testing.assert_array_equal(part, gradient / dtype(7.3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("outputs", [1, 2, 9, 16, 17, 40])
@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_the_same_bits_of_gradient_alone(name, outputs, dtype):
    rng = np.random.default_rng(9)
    p, weight = rng.normal(size=(67, outputs)).astype(dtype), rng.uniform(size=67).astype(dtype)
    y = rng.uniform(size=p.shape).astype(dtype)
    whole = LOSSES[name]().total(p, y, weight, 3.0)[1]
    for r in range(0, 67, 7):
        one = slice(r, r + 1)
        np.testing.assert_array_equal(LOSSES[name]().total(p[one], y[one], weight[one], 3.0)[1], whole[one])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", NAMES)
def test_nan_and_inf_reach_the_loss_and_no_other_row(name, value):
    p, y, weight = problem(name, np.float32, seed=10)
    clean = LOSSES[name]().total(p, y, weight)[1]
    p[4, 3] = value
    total, gradient = LOSSES[name]().total(p, y, weight)
    # infinitely sure, and perhaps right
    harmless = np.isinf(value) and (name == "binary_crossentropy" or (name[:3] == "cat" and value < 0))
    assert not np.isfinite(total) or harmless
    np.testing.assert_array_equal(np.delete(gradient, 4, axis=0), np.delete(clean, 4, axis=0))


@pytest.mark.parametrize("label", [-1, OUTPUTS, 2**40])
def test_labels_out_of_range_are_an_error(label):
    p, y, weight = problem("categorical_crossentropy", seed=11)
    y[3] = label
    with pytest.raises(IndexError, match=f"label {label} for {OUTPUTS} outputs"):
        LOSSES["categorical_crossentropy"]().total(p, y, weight)


@pytest.mark.parametrize("name", NAMES)
def test_targets_of_another_shape_are_an_error(name):
    p, _, weight = problem(name, seed=12)
    for wrong in (np.zeros((ROWS - 1, OUTPUTS)), np.zeros((ROWS, OUTPUTS + 1)), np.zeros(ROWS + 1, np.int64)):
        with pytest.raises(ValueError, match="target: got shape"):
            LOSSES[name]().total(p, wrong, weight)


@pytest.mark.parametrize(
    ("name", "activation", "computed_with"),
    [
        ("mse", "tanh", "tanh"),
        ("mae", "linear", "linear"),
        ("huber", "softmax", "softmax"),
        ("binary_crossentropy", "sigmoid", "linear"),
        ("binary_crossentropy", "linear", "linear"),
        ("categorical_crossentropy", "softmax", "linear"),
        ("categorical_crossentropy", "linear", "linear"),
    ],
)
def test_get_loss_fuses_the_final_activation(name, activation, computed_with):
    loss, used = get_loss(name, activation)
    assert type(loss) is LOSSES[name] and used == computed_with


@pytest.mark.parametrize("name", ["MSE", "cross_entropy", None, 3, print])
def test_unknown_loss_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=r"loss: got .*, must be one of 'mse', .*'categorical_crossentropy'"):
        get_loss(name, "linear")


@pytest.mark.parametrize(
    ("name", "activation"),
    [
        ("binary_crossentropy", "softmax"),
        ("binary_crossentropy", "tanh"),
        ("categorical_crossentropy", "sigmoid"),
        ("categorical_crossentropy", "relu"),
    ],
)
def test_cross_entropy_after_the_wrong_activation_says_what_to_use(name, activation):
    with pytest.raises(ValueError, match=rf"{name} needs a model that ends with .* None \(logits\).*'{activation}'"):
        get_loss(name, activation)


@pytest.mark.parametrize(
    ("target", "prediction", "wanted"),
    [
        ([2, 0, 1, 1], [[0.1, 0.2, 0.7], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]], 0.75),
        ([[0, 0, 1], [1, 0, 0]], [[0.1, 0.2, 0.7], [0.3, 0.5, 0.2]], 0.5),
        ([[1.0], [0.0], [1.0], [0.0]], [[0.9], [0.4], [0.2], [0.6]], 0.5),
        ([[1, 1], [0, 0]], [[0.9, 0.2], [0.1, 0.1]], 0.75),  # two labels an output: each counts
    ],
    ids=["labels", "one_hot", "binary", "multilabel"],
)
def test_accuracy(target, prediction, wanted):
    assert accuracy(np.array(target), np.array(prediction)) == wanted


def test_errors_as_metrics():
    target, prediction = np.array([[1.0], [-2.0], [0.5]]), np.array([[2.0], [-2.5], [0.5]])
    np.testing.assert_allclose(METRICS["mae"](target, prediction), 0.5, rtol=1e-15)
    np.testing.assert_allclose(METRICS["mse"](target, prediction), 1.25 / 3, rtol=1e-15)


def test_get_metrics_takes_a_name_a_function_or_several():
    def spread(target, prediction):
        return 0.0

    assert list(get_metrics("mae")) == ["mae"]
    assert get_metrics(spread) == {"spread": spread}
    assert list(get_metrics(["accuracy", spread, "mse"])) == ["accuracy", "spread", "mse"]
    assert get_metrics(()) == {}


@pytest.mark.parametrize("metrics", ["f1", ["mae", "R2"], [5]])
def test_unknown_metric_lists_the_known_ones(metrics):
    with pytest.raises(ValueError, match=r"metrics: got .*, must be one of 'accuracy', 'mae', 'mse'"):
        get_metrics(metrics)
