"""How the parameters of an LSTM begin: `init`, `forget_bias` and `chrono`."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from tolerances import SIGMAS

import lstmx
from lstmx import LSTM, Cell, Dense, Last, Sequential

H = 64


def start(**options):
    return LSTM(options.pop("inputs", 32), H, random_state=options.pop("seed", 0), dtype="float64", **options)


def blocks(array, gates=4):
    """Of the gates i, f, g, o, or i, g, o."""
    return array.reshape(gates, H, *array.shape[1:])


def assert_uniform(sample, bound):
    """U(-bound, bound): its range, and its mean and variance within what chance does."""
    assert np.abs(sample).max() <= bound and np.abs(sample).max() > 0.9 * bound
    n = sample.size
    assert abs(sample.mean()) < SIGMAS * bound / np.sqrt(3 * n)
    assert abs(sample.var() - bound**2 / 3) < SIGMAS * bound**2 * np.sqrt(4 / 45 / n)


def test_the_default_is_glorot_and_orthogonal_with_open_forget_gates():
    parameters = start().parameters()
    for block in blocks(parameters["weight_ih_l0"]):
        assert_uniform(block, np.sqrt(6 / (32 + H)))
    for block in blocks(parameters["weight_hh_l0"]):
        assert np.abs(block @ block.T - np.eye(H)).max() < 1e-12
    assert_array_equal(blocks(parameters["bias_l0"]).T, [[0, 1, 0, 0]] * H)


def test_the_numbers_of_the_default_stay_as_they_are():
    """Those of a seed are part of what a release promises; the sums were taken before there was a choice."""
    found = LSTM(3, 5, 2, bidirectional=True, random_state=7).parameters()
    sums = {"weight_ih_l0": 1.3822, "weight_hh_l0": -0.8696, "weight_hh_l1": -0.8011, "weight_ih_l1_reverse": -1.1821}
    assert {name: round(float(found[name][0].sum()), 4) for name in sums} == sums


@pytest.mark.parametrize("proj", [0, 24])
def test_uniform_is_what_pytorch_does(proj):
    found = start(init="uniform", proj_size=proj).parameters()
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    theirs = {name: p.detach().numpy() for name, p in torch.nn.LSTM(32, H, proj_size=proj).named_parameters()}
    theirs["bias_l0"] = theirs.pop("bias_ih_l0") + theirs.pop("bias_hh_l0")
    assert found.keys() == theirs.keys()
    for name in found:
        if name != "bias_l0":
            for parameters in (found, theirs):
                assert_uniform(parameters[name], 1 / np.sqrt(H))
    for parameters in (found, theirs):  # the sum of two: a triangle
        bias, bound = parameters["bias_l0"], 1 / np.sqrt(H)
        assert bound < np.abs(bias).max() <= 2 * bound
        assert abs(bias.var() - 2 * bound**2 / 3) < SIGMAS * bound**2 * np.sqrt(0.62 / bias.size)


def test_uniform_does_not_touch_peepholes_and_norms():
    plain = start().parameters()
    for cell in (Cell(peephole=True), Cell(layer_norm="haste"), Cell(layer_norm="tflite"), Cell(learn_state=True)):
        usual, found = (start(cell=cell, init=name).parameters() for name in ("glorot", "uniform"))
        for name in usual.keys() - plain.keys():
            assert_array_equal(found[name], usual[name])


@pytest.mark.parametrize("init", ["glorot", "uniform"])
def test_a_forget_bias_takes_the_place_of_the_usual_one(init):
    usual, found = start(init=init), start(init=init, forget_bias=2.5)
    i, f, g, o = blocks(found.parameters()["bias_l0"])
    assert_array_equal(f, 2.5)
    for ours, theirs in zip((i, g, o), np.delete(blocks(usual.parameters()["bias_l0"]), 1, axis=0), strict=True):
        assert_array_equal(ours, theirs)
    assert_array_equal(found.parameters()["weight_hh_l0"], usual.parameters()["weight_hh_l0"])
    i, g, o = blocks(start(init=init, forget_bias=2.5, cell=Cell(cifg=True)).parameters()["bias_l0"], 3)
    assert_array_equal(i, -2.5)  # f = 1 - sigmoid(-2.5) = sigmoid(2.5)


@pytest.mark.parametrize("init", ["glorot", "uniform"])
def test_chrono_spreads_memories_over_the_time_scales(init):
    i, f, g, o = blocks(start(init=init, chrono=500, seed=1).parameters()["bias_l0"])
    assert_array_equal(i, -f)
    assert_uniform(np.exp(f) - 250, 249)  # exp(b_f) is U(1, 499)
    if init == "glorot":
        assert_array_equal([g, o], 0)
    i, g, o = blocks(start(init=init, chrono=500, cell=Cell(cifg=True)).parameters()["bias_l0"], 3)
    assert_uniform(np.exp(-i) - 250, 249)


def test_every_layer_and_direction_draws_its_own():
    lstm = LSTM(3, 5, 2, bidirectional=True, chrono=50, init="uniform", random_state=0)
    first = {p.flat[0] for name, p in lstm.parameters().items()}
    assert len(first) == len(lstm.parameters()) == 12


def test_a_model_that_seeds_its_layers_begins_as_they_say():
    layers = [LSTM(32, H, init="uniform", forget_bias=-1.0), Last(), Dense(H, 1)]
    found = Sequential(layers, random_state=3).parameters()
    assert_array_equal(blocks(found["0.bias_l0"])[1], -1)
    assert_uniform(found["0.weight_hh_l0"].astype("f8"), 1 / np.sqrt(H) + 1e-7)


def test_what_is_not_usual_is_shown_copied_and_saved(tmp_path):
    assert not {"init", "forget_bias", "chrono"} & LSTM(1, 1).config().keys()
    for options in ({"init": "uniform"}, {"forget_bias": 0.0}, {"init": "uniform", "chrono": 30.0}):
        lstm = LSTM(3, 4, **options, random_state=0)
        assert options.items() <= lstm.config().items()
        lstm.save(tmp_path / "model")
        again = [lstmx.load(tmp_path / "model"), lstm.copy(), pickle.loads(pickle.dumps(lstm))]
        for other in (*again, eval(repr(lstm)[:-1] + ", random_state=0)", vars(lstmx))):
            assert other.config() == lstm.config() and (other.init, other.chrono) == (lstm.init, lstm.chrono)
            assert_array_equal(other.parameters()["bias_l0"], lstm.parameters()["bias_l0"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"init": "he"}, ValueError, "init: got 'he', must be one of 'glorot', 'uniform'"),
        ({"init": None}, ValueError, "init: got None"),
        ({"forget_bias": "1"}, TypeError, "forget_bias: got '1', must be a number"),
        ({"forget_bias": True}, TypeError, "forget_bias: got True"),
        ({"forget_bias": np.nan}, ValueError, "forget_bias: got nan"),
        ({"chrono": 2}, ValueError, "chrono: got 2, must be a finite number above 2"),
        ({"chrono": np.inf}, ValueError, "chrono: got inf"),
        ({"chrono": 9, "forget_bias": 1}, ValueError, "chrono: got 9 beside forget_bias=1, .* leave one out"),
        ({"chrono": 9, "bias": False}, ValueError, "chrono: got 9.*no bias.*bias=False; leave chrono out"),
        ({"forget_bias": 1, "bias": False}, ValueError, "forget_bias: got 1.*no bias.*bias=False; leave"),
        ({"forget_bias": 1, "cell": Cell(layer_norm="fastrnn")}, ValueError, 'no bias.*layer_norm="fastrnn" shifts'),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_an_error(options, error, message):
    with pytest.raises(error, match=message):
        LSTM(1, 1, **options)
