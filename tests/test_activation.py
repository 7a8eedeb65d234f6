"""The Activation layer: its functions by definition, its gradients by differences, its bits alone and in any batch."""

import math

import numpy as np
import pytest
from tolerances import FINITE_DIFFERENCE

import lstmx
from lstmx import reference_cells
from lstmx.functional.cell import ACTIVATIONS as OF_CELLS
from lstmx.layers.activation import ACTIVATIONS, normal_distribution

# A few operations on numbers of order 10; sigmoid and tanh are good to 3 and 4 ULP.
SAME = {"float32": {"rtol": 2e-6, "atol": 1e-6}, "float64": {"rtol": 2e-14, "atol": 1e-14}}
NUMBERS = {"affine": (1.3, 0.4), "scaled_tanh": (1.7, 0.6)}
SPECS = [(name, *NUMBERS[name]) if name in NUMBERS else name for name in ACTIVATIONS]
SPECS += [("leaky_relu", 0.3), ("thresholded_relu", 0.5), ("hard_sigmoid", 1 / 6, 0.5), ("elu", 0.7)]
BY_DEFINITION = {
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * np.vectorize(lambda z: math.erfc(-z / math.sqrt(2)) / 2)(x),
    "gelu_tanh": lambda x: x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2,
    "selu": lambda x: 1.0507009873554805 * np.where(x < 0, 1.6732632423543772 * np.expm1(x), x),
    "exp": np.exp,
}
specs = pytest.mark.parametrize("spec", SPECS, ids=str)
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape) * 3


def model(spec, dtype="float64"):
    return lstmx.Sequential(
        [lstmx.Dense(3, 5, dtype=dtype), lstmx.Activation(spec), lstmx.Dense(5, 2, dtype=dtype)], random_state=0
    )


def wanted(spec, x):
    name, *numbers = (spec,) if isinstance(spec, str) else spec
    if name in BY_DEFINITION:
        return BY_DEFINITION[name](x)
    return reference_cells.activate((name, *numbers) if numbers else name, x)


@specs
@dtypes
def test_it_is_what_its_definition_says(spec, dtype):
    x = draw(2, 7, 5).astype(dtype)
    layer = lstmx.Activation(spec)
    net = lstmx.Sequential([lstmx.Dense(5, 5, dtype=dtype), layer])
    net.set_parameters({"0.weight": np.eye(5), "0.bias": np.zeros(5)})
    y = net.predict(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, wanted(spec, x.astype("f8")), **SAME[dtype])


def test_the_normal_distribution_is_accurate_on_both_sides():
    """Its tail too: relative to what Python's erfc gives, whose argument is rounded as ours is."""
    x = np.linspace(-37, 9, 4001)
    found = normal_distribution(x)
    wanted = np.array([math.erfc(-z / math.sqrt(2)) / 2 for z in x])
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=0)
    near = np.abs(x) < 3
    np.testing.assert_allclose(found[near], wanted[near], rtol=4e-15, atol=0)
    assert normal_distribution(np.array([-np.inf, np.inf, 0.0])).tolist() == [0, 1, 0.5]


@specs
def test_its_gradient_equals_finite_differences(spec):
    lstmx.testing.gradcheck(model(spec), draw(2, 4, 3), lengths=[4, 1], **FINITE_DIFFERENCE)


@specs
@dtypes
def test_a_row_has_the_same_bits_in_any_batch_and_step_by_step(spec, dtype):
    net, x = model(spec, dtype), draw(9, 5, 3).astype(dtype)
    y, state = net.predict(x), None
    for n in range(9):
        assert (net.predict(x[n : n + 1]) == y[n]).all()
    for t in range(5):
        y_t, state = net.step(x[:, t], state)
        assert (y_t == y[:, t]).all()
    assert all((a == b).all() for a, b in zip(net.predict([*x[:, :3], x[0, :2]]), [*y[:, :3], y[0, :2]], strict=True))


@specs
@dtypes
def test_a_nan_stays_in_its_row_and_extremes_make_no_others(spec, dtype):
    x = np.zeros((3, 1, 4), dtype)
    x[1, 0, 2], x[2, 0] = np.nan, (-80, 80, -1e-30, 1e-30)
    layer = lstmx.Activation(spec)
    net = lstmx.Sequential([lstmx.Dense(4, 4, dtype=dtype), layer])
    net.set_parameters({"0.weight": np.eye(4), "0.bias": np.zeros(4)})
    rows, tape = net.forward(x)
    assert np.isnan(rows[1, 0, 2]) and np.isfinite(rows[[0, 2]]).all()
    dx = net.backward(tape, np.ones_like(rows)).x
    assert np.isfinite(dx[[0, 2]]).all()


def test_it_is_saved_copied_and_shown():
    net = model(("hard_sigmoid", 1 / 6, 0.5))
    again = type(net).from_state(*net.state())
    assert again.layers[1].activation == ("hard_sigmoid", 1 / 6, 0.5)
    assert repr(again.layers[1]) == repr(net.copy().layers[1]) and "hard_sigmoid" in repr(net)
    assert lstmx.Activation(("hard_sigmoid", 0.2, 0.5)).activation == "hard_sigmoid"  # as by default


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("swish", "activation: got 'swish', must be one of 'sigmoid', 'tanh', 'relu'"),
        (None, "activation: got None, must be a name or as"),
        ("affine", "activation: affine has no default alpha and beta"),
        (("relu", 1), "activation: got .* relu takes no alpha"),
        (("elu", "a"), "activation"),
    ],
)
def test_what_it_does_not_know_is_an_error(spec, message):
    with pytest.raises((TypeError, ValueError), match=message):
        lstmx.Activation(spec)


def test_it_knows_all_that_cells_know():
    assert ACTIVATIONS.keys() >= OF_CELLS.keys()
