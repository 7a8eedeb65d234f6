"""lstmx.RNN: gradients, PyTorch's numbers, the same bits in any batch, streams, models and files."""

import json
from pathlib import Path

import numpy as np
import pytest
from lstm_cases import LENGTHS, assert_same
from tolerances import FINITE_DIFFERENCE, PEER

import lstmx
from lstmx.functional import sequences
from lstmx.layers import Run
from lstmx.testing import finite_difference, gradcheck

KINDS = [{}, {"num_layers": 2, "bidirectional": True}, {"activation": "relu", "bias": False, "init": "uniform"}]
kinds = pytest.mark.parametrize("options", KINDS, ids=["plain", "stacked_bidirectional", "relu"])
with np.load(Path(__file__).parent / "data" / "torch_rnn.npz") as file:
    TORCH = dict(file)
CASES = sorted({key.split("/")[0] for key in TORCH})


def make(*sizes, dtype="float64", seed=0, **options):
    """An RNN whose every parameter is far from 0 and from the others."""
    rnn = lstmx.RNN(*sizes, dtype=dtype, random_state=seed, **options)
    rng = np.random.default_rng(seed + 1)
    rnn.set_parameters({name: rng.uniform(-0.8, 0.8, p.shape) for name, p in rnn.parameters().items()})
    return rnn


def draw(*shape, seed=2, dtype="float64"):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@kinds
def test_every_gradient_is_that_of_finite_differences(options):
    rnn, x = make(3, 4, **options), draw(5, 7, 3)
    state = draw(rnn.num_layers * rnn.directions, 5, 4)
    mask, reset = draw(5, 7, seed=3) > -0.7, draw(5, 7, seed=4) > 0.8
    for given in ({}, {"lengths": LENGTHS}, {"mask": mask}, {"reset": reset}, {"mask": mask, "reset": reset}):
        for start in (None, state):
            gradcheck(rnn, x, start, **given, **FINITE_DIFFERENCE)
    gradcheck(rnn, [x[n, :T] for n, T in enumerate(LENGTHS)], **FINITE_DIFFERENCE)
    gradcheck(rnn, x[0], state[:, 0], **FINITE_DIFFERENCE)
    gradcheck(rnn, x[:0], **FINITE_DIFFERENCE)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_flow_is_the_gradient_of_every_output(activation):
    """dL/dh_t by finite differences: the state is disturbed between two calls."""
    rnn, x, dy = make(2, 3, activation=activation), draw(2, 6, 2), draw(2, 6, 3, seed=5)
    found = sequences(x, 2, rnn.dtype)
    rows, context = found.all()
    *_, tape = rnn.forward_rows(rows, context, None, Run(keep=True))
    flow = {(0, 0): (np.empty((12, 3)), None)}
    out = {name: np.empty_like(p) for name, p in rnn.parameters().items()}
    rnn.backward_rows(tape, context.pack(dy, own=True), out, False, flow=flow)
    dh = context.unpack(flow[0, 0][0])
    for t in range(1, 6):
        h = rnn(x[:, :t])[1]

        def loss(h=h, t=t):
            y, _ = rnn(x[:, t:], h)
            return float((y * dy[:, t:]).sum() + (h[0] * dy[:, t - 1]).sum())

        np.testing.assert_allclose(dh[:, t - 1], finite_difference(loss, h)[0], **FINITE_DIFFERENCE)


@pytest.mark.parametrize("name", CASES)
def test_it_gives_what_pytorch_gives(name):
    case = {key.partition("/")[2]: value for key, value in TORCH.items() if key.startswith(f"{name}/")}
    config = json.loads(str(case["config"]))
    rnn = lstmx.RNN(**config)
    rnn.set_parameters({key[6:]: value for key, value in case.items() if key.startswith("param/")})
    y, h_n, tape = rnn.forward(case["x"], case["h0"], lengths=case.get("lengths"))
    grads = rnn.backward(tape, case["dy"], case["dh_n"])
    pairs = [(y, case["y"]), (h_n, case["h_n"]), (grads.x, case["grad/x"]), (grads.state, case["grad/h0"])]
    pairs += [(grads.params[name], case[f"grad/{name}"]) for name in rnn.parameters()]
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, **PEER[config["dtype"]])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@kinds
def test_a_sequence_has_the_same_bits_in_any_batch(dtype, options):
    rnn = make(3, 17, dtype=dtype, **options)
    x, state = draw(5, 7, 3, dtype=dtype), draw(rnn.num_layers * rnn.directions, 5, 17, dtype=dtype)
    y, h_n, tape = rnn.forward(x, state, lengths=LENGTHS)
    dy = draw(*y.shape, dtype=dtype)
    grads = rnn.backward(tape, dy)
    for n, T in enumerate(LENGTHS):
        own, h_own, tape = rnn.forward(x[n, :T], state[:, n])
        assert_same(y[n, :T], own)
        assert_same(h_n[:, n], h_own)
        assert not y[n, T:].any()
        alone = rnn.backward(tape, dy[n, :T])
        assert_same(grads.x[n, :T], alone.x)
        assert_same(grads.state[:, n], alone.state)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_whole_in_chunks_and_step_by_step_are_the_same_bits(dtype):
    rnn, x = make(3, 9, 2, dtype=dtype), draw(4, 8, 3, dtype=dtype)
    y, h_n = rnn(x)
    parts, state = [], None
    for block in (x[:, :3], x[:, 3:4], x[:, 4:]):
        part, state = rnn.stream(block, state)
        parts.append(part)
    assert_same(np.concatenate(parts, axis=1), y)
    assert_same(state, h_n)
    state = None
    for t in range(8):
        y_t, state = rnn.step(x[:, t], state)
        assert_same(y_t, y[:, t])
    single, state = rnn.step(x[0, 0])
    assert_same(single, y[0, 0])
    assert state.shape == (2, 9)


def test_what_is_masked_does_not_exist_and_an_episode_begins_anew():
    rnn, x = make(3, 4, bidirectional=True), draw(2, 6, 3)
    mask = np.ones((2, 6), bool)
    mask[0, [0, 3]] = False
    broken = np.where(mask[..., None], x, np.nan)
    y, h_n = rnn(broken, mask=mask)
    own, h_own = rnn(x[0, mask[0]])
    assert_same(y[0, mask[0]], own)
    assert not y[0, ~mask[0]].any()
    assert_same(h_n[:, 0], h_own)
    y, _ = rnn(x, reset=np.arange(6) == np.array([[4], [-1]]))
    assert_same(y[0], np.concatenate([rnn(x[0, :4])[0], rnn(x[0, 4:])[0]]))


def test_what_a_tape_is_good_for():
    rnn, x = make(2, 3), draw(2, 4, 2)
    y, _, tape = rnn.forward(x)
    first, second = rnn.backward(tape, y, retain=True), rnn.backward(tape, y)
    assert_same(first.x, second.x)
    with pytest.raises(RuntimeError, match="already used"):
        rnn.backward(tape, y)
    y, _, tape = rnn.forward(x)
    rnn.set_parameters(rnn.parameters())
    with pytest.raises(RuntimeError, match="have been set"):
        rnn.backward(tape, y)


def test_nothing_to_do_is_done():
    rnn = make(3, 4, 2)
    y, h_n, tape = rnn.forward(draw(0, 5, 3))
    assert (y.shape, h_n.shape) == ((0, 5, 4), (2, 0, 4))
    assert not any(g.any() for g in rnn.backward(tape, y).params.values())
    state = draw(2, 3, 4)
    y, h_n = rnn(draw(3, 0, 3), state)
    assert y.shape == (3, 0, 4)
    assert_same(h_n, state)


def test_wrong_arguments_are_named():
    rnn, both = make(3, 4), make(3, 4, bidirectional=True)
    with pytest.raises(ValueError, match=r"state: got shape \(1, 4\), must be .*\(L\*D, N, H\)"):
        rnn(draw(2, 5, 3), draw(1, 4))
    with pytest.raises(ValueError, match="dstate"):
        rnn.backward(rnn.forward(draw(2, 5, 3))[2], None, draw(1, 3, 4))
    with pytest.raises(ValueError, match="activation"):
        lstmx.RNN(3, 4, activation="cosine")
    with pytest.raises(ValueError, match=r"step, stream: .*from the end"):
        both.step(draw(3))
    with pytest.raises(ValueError, match=r"step, stream: .*from the end"):
        both.stream(draw(5, 3))
    with pytest.raises(TypeError, match="got a list"):
        rnn.stream([draw(5, 3)])
    with pytest.raises(ValueError, match="x_t: got shape"):
        rnn.step(draw(4))


@kinds
def test_it_is_saved_loaded_and_copied(options, tmp_path):
    rnn, x = make(3, 5, **options), draw(2, 4, 3)
    rnn.save(tmp_path / "rnn.safetensors")
    for other in (lstmx.load(tmp_path / "rnn.safetensors"), rnn.copy()):
        assert other.config() == rnn.config()
        assert_same(other(x)[0], rnn(x)[0])
    assert rnn.astype("float32")(x)[0].dtype == np.float32


def test_it_begins_as_documented():
    rnn = lstmx.RNN(7, 9, dtype="float64", random_state=0)
    w = rnn.parameters()["weight_hh_l0"]
    np.testing.assert_allclose(w @ w.T, np.eye(9), **PEER["float64"])
    assert not rnn.parameters()["bias_l0"].any()
    low = [abs(p).max() for p in lstmx.RNN(7, 400, init="uniform", random_state=0).parameters().values()]
    assert low[0] < low[2] and max(low[:2]) <= 1 / 20 and low[2] <= 2 / 20


@pytest.mark.parametrize("pool", [lstmx.Last, lstmx.FinalState, lstmx.MeanPool])
def test_a_model_of_it_is_fitted_saved_and_streamed(pool, tmp_path):
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(T, 2)) for T in rng.integers(3, 8, 60)]
    y = np.array([a[-2:, 0].sum() for a in x])
    model = lstmx.Sequential([lstmx.RNN(2, 12), pool(), lstmx.Dense(12, 1)], random_state=0)
    history = model.fit(x, y, optimizer=lstmx.Adam(0.02), epochs=25, verbose=0)
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    model.save(tmp_path / "model.safetensors")
    loaded = lstmx.load(tmp_path / "model.safetensors")
    assert_same(loaded.predict(x), model.predict(x))
    state = None
    for x_t in x[0]:
        y_t, state = model.step(x_t, state)
    np.testing.assert_allclose(y_t, model.predict(x)[0], **PEER["float32"])


def test_gradients_through_a_model_with_a_mask():
    layers = [
        lstmx.RNN(2, 3, bidirectional=True, dtype="float64"),
        lstmx.FinalState(),
        lstmx.Dense(6, 1, dtype="float64"),
    ]
    model = lstmx.Sequential(layers, random_state=0)
    gradcheck(model, draw(3, 5, 2), mask=draw(3, 5, seed=9) > -0.5, **FINITE_DIFFERENCE)


def test_a_chain_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="RNN needs sequences"):
        lstmx.Sequential([lstmx.RNN(2, 3), lstmx.Last(), lstmx.RNN(3, 3)])
    with pytest.raises(ValueError, match="one direction; leave it out"):
        lstmx.Sequential([lstmx.RNN(2, 3), lstmx.FinalState("sum")])


def test_the_gradient_flow_of_a_model_has_its_outputs_and_no_memory():
    model = lstmx.Sequential([lstmx.RNN(2, 3, 2), lstmx.Last(), lstmx.Dense(3, 1)], random_state=0).astype("float64")
    x, y = draw(4, 60, 2), draw(4)
    flow = model.gradient_flow(x, y)
    assert list(flow.dh) == [(0, 0, 0), (0, 1, 0)] and not flow.dc
    last = np.broadcast_to(2 * (model.predict(x) - y[:, None]) / 4, (4, 1)) * model.parameters()["2.weight"]
    np.testing.assert_allclose(flow.dh[0, 1, 0][:, -1], last, **PEER["float64"])
    with pytest.warns(UserWarning, match="gradients vanish on their way back"):
        small = lstmx.Sequential([lstmx.RNN(2, 8, init="uniform"), lstmx.Last(), lstmx.Dense(8, 1)], random_state=0)
        small.fit(x, y, epochs=1, verbose=0, monitor="gradients")


def test_the_nonlinearity_of_pytorch_is_the_activation():
    with pytest.raises(TypeError, match=r"^RNN: got an unexpected argument 'nonlinearity'; did you mean activation"):
        lstmx.RNN(2, 3, nonlinearity="relu")


def test_norms_of_its_gradients_are_those_of_h():
    model = lstmx.Sequential([lstmx.RNN(2, 3), lstmx.Last(), lstmx.Dense(3, 1)], random_state=0)
    flow = model.gradient_flow(np.ones((2, 5, 2)), np.ones((2, 1)))
    assert flow.norms().keys() == {(0, 0, 0)} and (flow.norms()[0, 0, 0] == flow.norms("h")[0, 0, 0]).all()
