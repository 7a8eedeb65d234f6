"""fit on long sequences: truncated back-propagation, and exact back-propagation in a memory budget."""

import gc
import pickle
import tracemalloc

import numpy as np
import pytest
from estimators_data import in_batch, interrupt
from lstm_cases import assert_same
from tolerances import FINITE_DIFFERENCE, PEER
from training_data import bits, generator, same

import lstmx
from lstmx import (
    LSTM,
    RNN,
    SGD,
    Activation,
    Callback,
    Cell,
    Dense,
    Dropout,
    Embedding,
    FinalState,
    Last,
    Masking,
    MeanPool,
    Sequential,
    training,
)
from lstmx.functional import allocate, engine, kernels, threads

MODELS = {
    "per step": lambda: [LSTM(2, 7, 2, dropout=0.2), Dropout(0.1), Dense(7, 2)],
    "classes per step": lambda: [LSTM(2, 7, cell=Cell(learn_state=True)), Dense(7, 3, "softmax")],
    "embedding": lambda: [Embedding(9, 3, padding_idx=1), LSTM(3, 7), Dense(7, 2)],
    "masked": lambda: [Masking(), LSTM(2, 7, cell=Cell(zoneout=0.2)), Dense(7, 2)],
    "rnn": lambda: [RNN(2, 7), Dense(7, 2)],
    "last": lambda: [LSTM(2, 7, cell=Cell(recurrent_dropout=0.2)), Last(), Dense(7, 2)],
    "mean": lambda: [LSTM(2, 7), MeanPool(), Dense(7, 3, "softmax")],
    "masked mean": lambda: [Masking(), LSTM(2, 7), Activation("tanh"), MeanPool(), Dense(7, 2)],
}


OPTIMIZER = "adam" if engine.NAME == "tile" else SGD(0.01)  # Adam enlarges what other engines are off by


def data(kind, N=16, T=90, ragged=False, seed=0):
    """(X, y, options of fit)."""
    rng, model = generator(seed), Sequential(MODELS[kind]())
    x = rng.integers(9, size=(N, T)) if model.embedding else rng.normal(size=(N, T, 2))
    if isinstance(model.layers[0], Masking):
        x[rng.random((N, T)) < 0.4] = 0
    lead = (N, T) if model.per_step else (N,)
    y, options = rng.normal(size=(*lead, 2)), {"metrics": "mse"}
    if model.output_size == 3:
        y = rng.integers(3, size=lead)
        options = {"loss": "categorical_crossentropy", "metrics": "accuracy", "class_weight": {0: 2.0, 2: 0.5}}
    if ragged:
        options["lengths"] = rng.permutation(np.resize([T, T // 2, 0, T - 1, 1, T // 3], N))
    if kind == "per step":
        options["sample_weight"] = rng.random(lead)
    if kind == "last":
        options["sample_weight"] = rng.random(N)
    return x, y, options


def fit(kind, x, y, options, *, dtype="float32", epochs=2, optimizer=OPTIMIZER, **more):
    model = Sequential(MODELS[kind](), random_state=0).astype(dtype)
    more = {"batch_size": 10, "verbose": 0, "random_state": 1, "clip_norm": 1.0, "validation_split": 0.2} | more
    history = model.fit(x, y, epochs=epochs, optimizer=optimizer, **options, **more)
    return model, history


def least_memory(kind, dtype, N, T):
    model = Sequential(MODELS[kind]()).astype(dtype)
    with pytest.raises(ValueError, match="takes at least") as caught:
        model.memory(N, T, training=True, memory=1)
    return int(str(caught.value).split("at least ")[1].split(";")[0].replace(",", ""))


def assert_same_fit(one, other):
    for name, p in other[0].parameters().items():
        assert_same(one[0].parameters()[name], p, name)
    assert one[1].history.keys() == other[1].history.keys()
    for name, values in other[1].history.items():
        if engine.NAME == "tile":
            assert one[1][name] == values, name
        else:
            assert_same(np.array(one[1][name], other[0].dtype), np.array(values, other[0].dtype), name)


# Exact, in a budget.


@pytest.mark.skipif(engine.NAME != "tile", reason="a promise of the tile engine")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", MODELS)
def test_a_budget_changes_no_bit(kind, ragged, dtype):
    x, y, options = data(kind, ragged=ragged)
    seen, original = [], training.Recomputed.plan
    budget = least_memory(kind, dtype, 10, 90)

    def plan(self, batch, longest):
        seen.append((original(self, batch, longest), longest))
        return seen[-1][0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.Recomputed, "plan", plan)
        found = fit(kind, x, y, options, dtype=dtype, memory=budget)
        assert_same_fit(found, fit(kind, x, y, options, dtype=dtype))
    assert any(steps < longest for steps, longest in seen)


@pytest.mark.skipif(engine.NAME != "tile", reason="a promise of the tile engine")
@pytest.mark.parametrize("pool", [[], [MeanPool()]], ids=["per step", "mean"])
def test_a_budget_changes_no_bit_where_threads_share_the_work(pool, monkeypatch):
    model = Sequential([LSTM(2, 64, 2, dropout=0.2), *pool, Dense(64, 1)], random_state=0)
    x = generator().normal(size=(40, 90, 2))
    y, asked, number = x[:, 0, :1] if pool else x[:, :, :1], [], threads.get_num_threads
    monkeypatch.setattr(threads, "get_num_threads", lambda: asked.append(number()) or asked[-1])
    found = []
    for count in (1, 2, 5):
        one = model.copy()
        with lstmx.num_threads(count):
            memory = None if count == 1 else model.memory(40, 90, training=True) // 2
            one.fit(x, y, epochs=2, batch_size=40, memory=memory, verbose=0, random_state=1)
        found.append(bits(one))
    assert same(found[1], found[0]) and same(found[2], found[0])
    assert set(asked) == {1, 2, 5}  # there is work enough for them


@pytest.mark.parametrize("kind", ["per step", "mean"])
def test_many_validation_data_have_the_same_loss(kind):
    x, y, options = data(kind, N=160, ragged=True)
    options.pop("sample_weight", None)
    for more in ({"memory": least_memory(kind, "float32", 10, 90)}, {"tbptt": 90}):
        more |= {"validation_split": 0.9, "epochs": 1}
        assert_same_fit(fit(kind, x, y, options, **more), fit(kind, x, y, options, validation_split=0.9, epochs=1))


def test_a_large_budget_is_no_budget():
    x, y, options = data("per step")
    assert_same_fit(fit("per step", x, y, options, memory="1GB"), fit("per step", x, y, options))


@pytest.mark.parametrize("lengths", [[70, 0, 0], [0, 0, 0], [1, 1, 1]])
def test_a_budget_with_empty_sequences(lengths):
    x, y, _ = data("per step", N=3, T=400)
    options = {"lengths": np.array(lengths)}
    more = {"batch_size": 3, "validation_split": 0.0}
    one = fit("per step", x, y, options, memory=least_memory("per step", "float32", 3, 400), **more)
    assert_same_fit(one, fit("per step", x, y, options, **more))


class Peak(Callback):
    """The peak of what a fit allocates beyond what there is when it begins."""

    def on_train_begin(self, trainer):
        gc.collect()
        self.base = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()

    def on_epoch_end(self, trainer, epoch, logs):
        self.bytes = tracemalloc.get_traced_memory()[1] - self.base


def peak_of(model, x, y, **options):
    watch = Peak()
    allocate.spare.clear()
    tracemalloc.start()
    try:
        model.fit(x, y, epochs=2, batch_size=len(x), verbose=0, callbacks=[watch], random_state=0, **options)
    finally:
        tracemalloc.stop()
    return watch.bytes


WIDE = {
    "dense": lambda: [LSTM(8, 64), Dense(64, 1)],
    "two layers": lambda: [LSTM(8, 64, 2, dropout=0.2), Dropout(0.1), Dense(64, 5)],
    "mean": lambda: [LSTM(8, 64), MeanPool(), Dense(64, 1)],
    "embedding": lambda: [Embedding(50, 32), LSTM(32, 64), Dense(64, 1)],
    "activations": lambda: [Dense(8, 64), Activation("gelu"), LSTM(64, 32), Activation("tanh"), Dense(32, 1)],
    "rnn": lambda: [RNN(8, 64, 2), Dense(64, 1)],
    "drops": lambda: [LSTM(8, 64, cell=Cell(zoneout=0.1, recurrent_dropout=0.2, weight_dropout=0.1)), Dense(64, 1)],
    "norms": lambda: [LSTM(8, 64, proj_size=16, cell=Cell(layer_norm="haste")), Dense(16, 1)],
}


@pytest.mark.long
@pytest.mark.skipif(allocate.DEBUG, reason="debug runs keep no memory for the next call")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", WIDE)
def test_a_fit_keeps_to_its_budget(kind, dtype):
    model = Sequential(WIDE[kind](), random_state=0).astype(dtype)
    rng, N, T = generator(), 8, 2000
    x = rng.integers(50, size=(N, T)) if model.embedding else rng.normal(size=(N, T, 8)).astype(dtype)
    y = rng.normal(size=(N, T, model.output_size) if model.per_step else (N, 1)).astype(dtype)
    whole = model.memory(N, T, training=True)
    assert whole / 2 < peak_of(model.copy(), x, y) < 1.02 * whole
    for share in (3, 5):
        said = model.memory(N, T, training=True, memory=whole // share)
        assert 0.6 * whole / share < said <= whole // share
        assert peak_of(model.copy(), x, y, memory=whole // share) < 1.02 * said


def test_what_a_budget_cannot_hold_is_told_beforehand():
    x, y, options = data("per step")
    before = Sequential(MODELS["per step"](), random_state=0)
    least = least_memory("per step", "float32", 10, 90)
    weights = bits(before)
    with pytest.raises(ValueError, match=f"memory: got 1,000 bytes, but a batch of 10 .* at least {least:,}; give as"):
        before.fit(x, y, batch_size=10, memory=1000, verbose=0, **options)
    assert same(bits(before), weights) and before.history_ is None
    assert before.memory(10, 90, training=True, memory=least) == least
    with pytest.raises(ValueError, match="takes at least"):
        before.memory(10, 90, training=True, memory=least - 1)


def test_memory_of_a_model():
    model = Sequential(MODELS["per step"]())
    assert model.memory(8, 100) < model.memory(8, 100, training=True) < model.memory(8, 200, training=True)
    assert model.memory(0, 0) >= 0 and model.memory(0, 0, training=True, memory="1MB") >= 0
    with pytest.raises(ValueError, match="memory: a budget is that of training"):
        model.memory(8, 100, memory="1MB")
    with pytest.raises(TypeError, match=r"N: got 1\.5"):
        model.memory(1.5, 100)
    with pytest.raises(TypeError, match="training: got 1"):
        model.memory(1, 100, training=1)


# Truncated.


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("tbptt", [90, (30, 90), (1000, 1000)])
def test_a_truncation_that_cuts_nothing_off(kind, ragged, tbptt):
    """With k1 of all steps the bits are those without; a pooled model has its one loss where all have been read."""
    x, y, options = data(kind, ragged=ragged)
    if tbptt == (30, 90) and (kind not in ("last", "mean") or ragged):
        return
    assert_same_fit(fit(kind, x, y, options, tbptt=tbptt), fit(kind, x, y, options))


def by_hand(lstm, dense, x, y, k1, k2, rate):
    """Training by lstm.forward and backward, the squared error of a dense layer (w, b), and SGD: all in float64."""
    state, begin, losses, T = None, 0, [], x.shape[1]
    w, b = dense
    for start in range(0, T, k1):
        stop = min(start + k1, T)
        h, _, tape = lstm.forward(x[:, begin:stop], state)
        own = h[:, start - begin :]
        error = (own[..., None, :] * w).sum(axis=-1) + b - y[:, start:stop]
        losses.append((error**2).mean())
        d = 2 * error / error.size
        dh = np.zeros_like(h)
        dh[:, start - begin :] = (d[..., None] * w).sum(axis=-2)
        grads = lstm.backward(tape, dh).params
        following = max(0, start + 2 * k1 - k2)
        if following > begin:
            _, state = lstm(x[:, begin:following], state)
            begin = following
        w = w - rate * (d[..., None] * own[..., None, :]).sum(axis=(0, 1))
        b = b - rate * d.sum(axis=(0, 1))
        lstm.set_parameters({name: p - rate * grads[name] for name, p in lstm.parameters().items()})
    return lstm.parameters() | {"w": w, "b": b}, losses


@pytest.mark.parametrize(("k1", "k2"), [(5, 5), (5, 15), (4, 20), (30, 30), (1, 3)])
def test_truncated_gradients_are_those_of_a_loop(k1, k2):
    model = Sequential([LSTM(2, 4, 2), Dense(4, 2)], random_state=0).astype("float64")
    rng = generator()
    x, y = rng.normal(size=(3, 23, 2)), rng.normal(size=(3, 23, 2))
    lstm, weights = model.layers[0].copy(), model.parameters()
    wanted, losses = by_hand(lstm, (weights["1.weight"], weights["1.bias"]), x, y, k1, k2, 0.3)
    history = model.fit(x, y, optimizer=SGD(0.3), epochs=1, tbptt=(k1, k2), shuffle=False, verbose=0)
    for name, p in model.parameters().items():
        name = {"1.weight": "w", "1.bias": "b"}.get(name, name[2:])
        np.testing.assert_allclose(p, wanted[name], **PEER["float64"], err_msg=name)
    steps = [min(k1, 23 - t) for t in range(0, 23, k1)]
    np.testing.assert_allclose(history["loss"], [np.average(losses, weights=steps)], **PEER["float64"])


@pytest.mark.parametrize(("k1", "k2"), [(6, 6), (4, 12)])
def test_truncated_gradients_are_those_of_pytorch(k1, k2):
    torch = pytest.importorskip("torch")
    model = Sequential([LSTM(2, 5), Dense(5, 1)], random_state=0).astype("float64")
    net, head = torch.nn.LSTM(2, 5, batch_first=True).double(), torch.nn.Linear(5, 1).double()
    weights = {name: torch.tensor(p) for name, p in model.parameters().items()}
    with torch.no_grad():
        net.weight_ih_l0.copy_(weights["0.weight_ih_l0"])
        net.weight_hh_l0.copy_(weights["0.weight_hh_l0"])
        net.bias_ih_l0.copy_(weights["0.bias_l0"])
        net.bias_hh_l0.zero_()
        head.weight.copy_(weights["1.weight"])
        head.bias.copy_(weights["1.bias"])
    net.bias_hh_l0.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in [*net.parameters(), *head.parameters()] if p.requires_grad], 0.2)
    rng = generator(1)
    x, y = rng.normal(size=(4, 24, 2)), rng.normal(size=(4, 24, 1))
    inputs, targets, state, begin = torch.tensor(x), torch.tensor(y), None, 0
    for start in range(0, 24, k1):
        stop, following = start + k1, max(0, start + 2 * k1 - k2)
        h, after = state, state
        if begin < following < stop:
            first, h = net(inputs[:, begin:following], state)
            after = tuple(a.detach() for a in h)
            second, _ = net(inputs[:, following:stop], h)
            outputs = torch.cat([first, second], dim=1)
        else:
            outputs, h = net(inputs[:, begin:stop], state)
            after = tuple(a.detach() for a in h) if following == stop else state
        optimizer.zero_grad()
        ((head(outputs[:, start - begin :]) - targets[:, start:stop]) ** 2).mean().backward()
        optimizer.step()
        state, begin = after, following
    model.fit(x, y, optimizer=SGD(0.2), epochs=1, tbptt=(k1, k2), shuffle=False, verbose=0)
    wanted = {
        "0.weight_ih_l0": net.weight_ih_l0, "0.weight_hh_l0": net.weight_hh_l0, "0.bias_l0": net.bias_ih_l0,
        "1.weight": head.weight, "1.bias": head.bias,
    }  # fmt: skip
    for name, p in model.parameters().items():
        np.testing.assert_allclose(p, wanted[name].detach().numpy(), **PEER["float64"], err_msg=name)


@pytest.mark.parametrize(("k1", "k2", "begin"), [(5, 5, 10), (5, 10, 5)])
@pytest.mark.parametrize("layers", [lambda: [LSTM(2, 3), Dense(3, 1)], lambda: [RNN(2, 3), Dense(3, 1)]])
def test_truncated_gradients_are_differences_of_what_is_cut_off(layers, k1, k2, begin):
    """Steps without weight make no update, so that the state before the last window is that of the first weights."""
    model = Sequential(layers(), random_state=3).astype("float64")
    rng = generator(2)
    x, y, weight = rng.normal(size=(2, 15, 2)), rng.normal(size=(2, 15, 1)), np.zeros((2, 15))
    weight[:, 10:] = 1
    before, trained = model.parameters(), model.copy()
    history = trained.fit(
        x, y, sample_weight=weight, optimizer=SGD(1.0), epochs=1, tbptt=(k1, k2), shuffle=False, verbose=0
    )
    recurrent, trial = model.layers[0], model.copy()
    _, state = recurrent(x[:, :begin])

    def loss(name, value):
        trial.set_parameters({name: value})
        h, _ = trial.layers[0](x[:, begin:], state)
        dense = trial.layers[1].parameters()
        error = (h * dense["weight"]).sum(axis=2, keepdims=True) + dense["bias"] - y[:, begin:]
        trial.set_parameters({name: before[name]})
        return (error[:, 10 - begin :] ** 2).mean()

    np.testing.assert_allclose(history["loss"][0], loss("1.bias", before["1.bias"]), **PEER["float64"])
    for name, p in before.items():
        wanted = np.empty_like(p)
        for k in np.ndindex(p.shape):
            step = np.zeros_like(p)
            step[k] = 1e-6
            wanted[k] = (loss(name, p + step) - loss(name, p - step)) / 2e-6
        np.testing.assert_allclose(p - trained.parameters()[name], wanted, **FINITE_DIFFERENCE, err_msg=name)


@pytest.mark.parametrize("pool", [Last, FinalState, MeanPool])
def test_the_loss_of_a_pooled_model_comes_where_a_sequence_ends(pool):
    model = Sequential([LSTM(2, 3), pool(), Dense(3, 1)], random_state=0).astype("float64")
    rng = generator()
    x, y, lengths = rng.normal(size=(3, 12, 2)), rng.normal(size=(3, 1)), np.array([4, 0, 11])
    losses, wanted = [], model.copy()
    for chosen, begin, stop in (([0, 1], 0, 5), ([2], 5, 15)):  # windows of 5 and of 10 steps
        lstm, dense = wanted.layers[0], wanted.layers[2].parameters()
        _, state = lstm(x[chosen, :begin], lengths=np.minimum(lengths[chosen], begin))
        own = np.clip(lengths[chosen] - begin, 0, None)
        h, _, tape = lstm.forward(x[chosen, begin:stop], state, lengths=own)
        whole = np.maximum(lengths[chosen], 1)
        pooled, dh = np.zeros((len(chosen), 3)), np.zeros_like(h)
        earlier, _ = lstm(x[chosen, :begin], lengths=np.minimum(lengths[chosen], begin))
        for n, steps in enumerate(own):
            if pool is MeanPool:
                pooled[n] = (earlier[n].sum(axis=0) + h[n, :steps].sum(axis=0)) / whole[n]
                dh[n, :steps] = 1 / whole[n]
            elif steps:
                pooled[n], dh[n, steps - 1] = h[n, steps - 1], 1
        error = (pooled * dense["weight"]).sum(axis=1, keepdims=True) + dense["bias"] - y[chosen]
        losses.append((error**2).sum())
        d = 2 * error / len(chosen)
        grads = lstm.backward(tape, dh * (d * dense["weight"])[:, None]).params
        change = {f"0.{name}": g for name, g in grads.items()}
        change |= {"2.weight": (d * pooled).sum(axis=0, keepdims=True), "2.bias": d.sum(axis=0)}
        wanted.set_parameters({name: p - 0.1 * change[name] for name, p in wanted.parameters().items()})
    seen = []
    model.fit(
        x, y, lengths=lengths, optimizer=SGD(0.1), epochs=1, tbptt=(5, 10), shuffle=False, verbose=0,
        callbacks=[lambda epoch, logs: seen.append(logs["loss"])],
    )  # fmt: skip
    assert model.history_.history["loss"] == seen
    for name, p in model.parameters().items():
        np.testing.assert_allclose(p, wanted.parameters()[name], **PEER["float64"], err_msg=name)
    np.testing.assert_allclose(seen, [sum(losses) / 3], **PEER["float64"])


def test_updates_are_counted_and_schedules_follow_them():
    x, y, options = data("rnn", N=4, T=40)
    model = Sequential(MODELS["rnn"](), random_state=0)
    states = []

    class Watch(Callback):
        def on_batch_end(self, trainer, batch, loss):
            states.append((trainer.state.updates, batch))

    rate = lstmx.CosineDecay(0.01, 20)
    history = model.fit(
        x, y, optimizer=SGD(rate), tbptt=(10, 20), batch_size=2, epochs=2, verbose=0, callbacks=[Watch()], **options
    )
    assert states == [(4, 0), (8, 1), (12, 0), (16, 1)]
    assert history["learning_rate"] == [rate(7), rate(15)]


def test_early_stopping_validation_and_callbacks():
    x, y, options = data("per step", N=20, T=50, ragged=True)
    _, history = fit("per step", x, y, options, epochs=30, tbptt=20, early_stopping=2, optimizer=SGD(1e-12))
    assert history.stopped == "early" and len(history) == 3 and history.best_epoch == 0


@pytest.mark.parametrize("kind", MODELS)
def test_memory_maps_are_read_segment_by_segment(kind, tmp_path):
    x, y, options = data(kind)
    for name, array in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", array)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
    for more in ({"tbptt": (7, 21)}, {"memory": least_memory(kind, "float32", 10, 90)}):
        assert_same_fit(fit(kind, *maps, options, **more), fit(kind, x, y, options, **more))


def test_lists_of_sequences():
    x, y, options = data("rnn", ragged=True)
    lengths = options.pop("lengths")
    lists = [[a[:n] for a, n in zip(array, lengths, strict=True)] for array in (x, y)]
    options |= {"sample_weight": [np.linspace(0, 1, n) for n in lengths]}
    padded = {"lengths": lengths, "metrics": "mse", "sample_weight": np.zeros((16, 90))}
    for n, w in enumerate(options["sample_weight"]):
        padded["sample_weight"][n, : len(w)] = w
    for more in ({"tbptt": (7, 21)}, {"memory": least_memory("rnn", "float32", 10, 90)}):
        assert_same_fit(fit("rnn", *lists, options, **more), fit("rnn", x, y, padded, **more))


def grown(steps):
    """Peak bytes of a fit over one series."""
    series = np.sin(np.arange(steps + 1, dtype=np.float32) / 5)[None, :, None]
    model = Sequential([LSTM(1, 64), Dense(64, 1)], random_state=0)
    x, y = series[:, :-1], series[:, 1:]
    allocate.spare.clear()
    gc.collect()
    tracemalloc.start()
    try:
        model.fit(x, y, epochs=1, tbptt=1000, verbose=0, validation_data=(x, y))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("steps", [60_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_memory_does_not_grow_with_the_steps(steps):
    assert grown(steps) < 1.1 * grown(10_000)


# Errors and interruptions.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"tbptt": (10, 25)},
            r"tbptt: got k1 = 10 and k2 = 25, but k2 must be a multiple .* use \(10, 20\) or \(10, 30\)",
        ),
        ({"tbptt": (10, 5)}, r"use \(10, 10\)$"),
        ({"tbptt": (1, 2, 3)}, "tbptt: got .* must be a number of steps k, or a pair"),
        ({"tbptt": 0}, "tbptt: got 0, must be at least 1"),
        ({"tbptt": 5, "memory": "1GB"}, "memory: got tbptt as well"),
        ({"tbptt": 5, "monitor": "gradients"}, 'tbptt: monitor="gradients" measures on whole sequences'),
        ({"memory": "1GB", "monitor": "gradients"}, 'memory: monitor="gradients"'),
        ({"memory": "much"}, "memory: got 'much', must be bytes or a string such as \"200MB\""),
    ],
)
def test_bad_options(options, words):
    model = Sequential(MODELS["rnn"](), random_state=0)
    x, y, _ = data("rnn")
    before = bits(model)
    with pytest.raises(ValueError, match=words):
        model.fit(x, y, verbose=0, **options)
    assert same(bits(model), before)


@pytest.mark.parametrize("bad", ["10", 1.5, (1, 2.0), True])
def test_a_truncation_of_another_type(bad):
    x, y, _ = data("rnn")
    with pytest.raises((TypeError, ValueError), match="tbptt: got"):
        Sequential(MODELS["rnn"](), random_state=0).fit(x, y, verbose=0, tbptt=bad)


@pytest.mark.parametrize("options", [{"tbptt": 5}, {"memory": "1GB"}])
@pytest.mark.parametrize(
    "layers",
    [lambda: [LSTM(2, 3, bidirectional=True)], lambda: [LSTM(2, 3, reverse=True)],
     lambda: [lstmx.Reversed(), LSTM(2, 3)], lambda: [RNN(2, 3, bidirectional=True)]],
)  # fmt: skip
def test_models_that_read_from_the_end_are_refused(layers, options):
    x, model = generator().normal(size=(4, 9, 2)), Sequential(layers(), random_state=0)
    with pytest.raises(ValueError, match=f"{next(iter(options))}: this model reads sequences from their end"):
        model.fit(x, np.zeros((4, 9, model.output_size)), verbose=0, **options)
    with pytest.raises(ValueError, match="memory: a model that reads sequences from their end"):
        model.memory(4, 9, training=True, memory="1GB")


@pytest.mark.parametrize("array", ["X", "y"])
def test_an_error_names_epoch_batch_and_steps(array):
    x, y, options = data("rnn", N=4, T=90)
    (x if array == "X" else y)[2, 37, 0] = np.nan
    model = Sequential(MODELS["rnn"](), random_state=0)
    where = f"{array} holds NaN or infinite values, .* in sequence 2, step 37"
    with pytest.raises(FloatingPointError, match=f"loss is nan in epoch 1, batch 2, steps 30 to 39: {where}"):
        model.fit(x, y, tbptt=(10, 20), batch_size=2, shuffle=False, verbose=0, **options)
    assert all(np.isfinite(p).all() for p in model.parameters().values())
    budget = model.memory(2, 900, training=True, memory=least_memory("rnn", "float32", 2, 900))
    x, y = np.resize(x, (4, 900, 2)), np.resize(y, (4, 900, 2))
    with pytest.raises(FloatingPointError, match=f"loss is nan in epoch 1, batch ., steps 0 to .*{array} holds NaN"):
        model.fit(x, y, memory=budget, batch_size=2, shuffle=False, verbose=0, **options)


def test_an_interrupted_fit_keeps_what_it_has_learnt():
    x, y, options = data("rnn", N=8)
    model = Sequential(MODELS["rnn"](), random_state=0)
    before = bits(model)
    with in_batch(1, 1, interrupt), pytest.raises(KeyboardInterrupt):
        model.fit(x, y, tbptt=10, batch_size=4, epochs=3, verbose=0, random_state=0, **options)
    assert model.history_.stopped == "interrupted" and len(model.history_) == 1
    assert not same(bits(model), before) and all(np.isfinite(p).all() for p in model.parameters().values())
    model.fit(x, y, tbptt=10, epochs=1, verbose=0)


@pytest.mark.parametrize("segments", [lambda m: training.Truncated(10, 20), lambda m: training.Recomputed(m, 1 << 19)])
def test_training_goes_on_from_a_pickled_state_to_the_same_bits(segments):
    from training_data import trainer

    x, y, _ = data("rnn", T=200)
    results = []
    for cut in (False, True):
        model = Sequential(MODELS["rnn"](), random_state=0)
        run = trainer(model, (x, y), optimizer=lstmx.Adam(0.01))
        run.segments = segments(model)
        run.run(2 if cut else 4)
        if cut:
            state = pickle.loads(pickle.dumps(run.state))
            run = trainer(model, (x, y), optimizer=lstmx.Adam(0.01), state=state)
            run.segments = segments(model)
            run.run(4)
        results.append((bits(model), run.state.history.history))
    assert same(results[0][0], results[1][0]) and results[0][1] == results[1][1]


def test_a_sum_in_parts_has_the_bits_of_the_whole():
    rng = generator()
    for dtype in (np.float32, np.float64):
        for count in (0, 1, 4095, 4096, 4097, 30_000):
            values = rng.normal(size=count).astype(dtype)
            cuts = [0, *sorted(rng.integers(0, count + 1, size=9).tolist()), count]
            found = kernels.Sum(count)
            for k in rng.permutation(len(cuts) - 1):
                found.add(cuts[k], values[cuts[k] : cuts[k + 1]])
            assert found.total() == kernels.total(values)
