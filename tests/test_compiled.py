"""Predictions and steps of plain arrays are the layers' compiled calls, with the very bits of the general path."""

import contextlib
import copy
import pickle
import sys
import threading
import warnings

import numpy as np
import pytest
from test_same_bits import same

import lstmx
from lstmx import LSTM, Activation, Dense, Dropout, Embedding, FinalState, Last, MeanPool, Sequential
from lstmx.functional import engine as engines
from lstmx.functional import kernels
from lstmx.layers import Layer
from lstmx.layers.activation import ACTIVATIONS
from lstmx.layers.compiled import CompiledLayers

pytestmark = pytest.mark.skipif(engines.NAME != "tile", reason="bits are a promise of the tile engine")

DTYPES = ["float32", "float64"]
dtypes = pytest.mark.parametrize("dtype", DTYPES)

MODELS = {
    "last": lambda I: [LSTM(I, 9), Last(), Dense(9, 3)],
    "last alone": lambda I: [LSTM(I, 9), Last()],
    "final": lambda I: [LSTM(I, 9), FinalState(), Dense(9, 2, "softmax")],
    "final of both": lambda I: [LSTM(I, 9, bidirectional=True), Dropout(0.2), FinalState(), Dense(18, 2)],
    "mean": lambda I: [LSTM(I, 17, 2), MeanPool(), Dropout(0.5), Dense(17, 4, "sigmoid"), Dropout(0.5)],
    "mean alone": lambda I: [LSTM(I, 17), MeanPool()],
    "mean of both": lambda I: [LSTM(I, 5, 2, bidirectional=True), MeanPool()],
    "steps": lambda I: [LSTM(I, 9, dropout=0.5), Dropout(0.5)],
    "steps of both": lambda I: [LSTM(I, 9, bidirectional=True)],
    "two": lambda I: [LSTM(I, 9), Dropout(0.3), LSTM(9, 8, 2), Dense(8, 5, "tanh"), Last(), Dropout(0.1)],
    "two, final": lambda I: [LSTM(I, 9), LSTM(9, 8, bidirectional=True), FinalState(), Dropout(0.1), Dropout(0.2)],
    **{a: lambda I, a=a: [Dense(I, 6, a), LSTM(6, 9), Last(), Dense(9, 3, a)] for a in kernels.ACTIVATIONS},
    **{f"{a} steps": lambda I, a=a: [LSTM(I, 9), Dense(9, 35, a)] for a in kernels.ACTIVATIONS},
    "dense": lambda I: [Dropout(0.5), Dense(I, 7), Dropout(0.5)],
    "last first": lambda I: [Last(), Dense(I, 7, "relu")],
    "mean first": lambda I: [Dropout(0.1), MeanPool(), Dense(I, 7, "tanh")],
    "dense, mean": lambda I: [Dense(I, 7), MeanPool()],
    "dense, last": lambda I: [Dense(I, 7), Last(), Dropout(0.5), Dropout(0.5)],
}
BOTH = [name for name in MODELS if "both" in name or name == "two, final"]
models = pytest.mark.parametrize("name", MODELS)
streams = pytest.mark.parametrize("name", [name for name in MODELS if name not in BOTH])


def build(name, I=3, dtype="float32", seed=0):
    return Sequential(MODELS[name](I), random_state=seed).astype(dtype)


def draw(*shape, dtype="float32", seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def strided(x):
    """The same numbers, every second of each axis."""
    wide = np.full([2 * n for n in x.shape], np.nan, x.dtype)
    wide[(slice(None, None, 2),) * x.ndim] = x
    return wide[(slice(None, None, 2),) * x.ndim]


@pytest.fixture
def compiled_only(monkeypatch):
    """Within, packed rows are an error."""

    @contextlib.contextmanager
    def only():
        with monkeypatch.context() as patch:
            patch.setattr(Sequential, "forward_rows", lambda *_: pytest.fail("the general path"))
            yield

    return only


@pytest.fixture
def general(monkeypatch):
    """general(method, ...) goes the general way."""

    def call(method, *given, **options):
        with monkeypatch.context() as patch:
            for name in ("run", "stream"):
                patch.setattr(CompiledLayers, name, lambda *_, **__: None)
            return method(*given, **options)

    return call


# ------------------------------------------------------------------------------------------ predict


@models
@dtypes
def test_a_prediction_has_the_bits_of_the_general_path(name, dtype, general, compiled_only):
    model, other = build(name, dtype=dtype), DTYPES[dtype == "float32"]
    for N in (1, 2, 3, 17):
        for T in (1, 2, 3, 17):
            x = draw(N, T, 3, dtype=dtype)
            x[0, 0, 0] = -0.0
            read_only = x.copy()
            read_only.flags.writeable = False
            wanted = general(model.predict, x)
            with compiled_only():
                found = model.predict(x)
                same([found, model.predict(read_only)], [wanted] * 2)
                same(model.predict(x, batch_size=17), wanted)
            assert not np.shares_memory(found, x)
            same(list(wanted), list(model.predict(list(x))))
            same(model.predict(x, lengths=[T] * N), wanted)
            for view in (strided(x), np.asfortranarray(x), x[::-1, ::-1].copy()[::-1, ::-1],
                         x.astype(x.dtype.newbyteorder())):  # fmt: skip
                same(model.predict(view), wanted)
            same(model.predict(x[0]), wanted[0])
            with np.errstate(over="ignore"):
                same(model.predict(x.astype(other)), general(model.predict, x.astype(other)))
            numbers = np.arange(N * T * 3).reshape(N, T, 3) % 5
            for kind in (np.int64, np.int8, np.float16, bool):
                same(model.predict(numbers.astype(kind)), model.predict(numbers.astype(kind).astype(dtype)))


@models
def test_large_batches_and_parts_have_the_same_bits(name, general, compiled_only):
    model, x = build(name), draw(257, 3, 3)
    wanted = general(model.predict, x)
    with compiled_only():
        same(model.predict(x[:256]), wanted[:256])
        same(model.predict(x), wanted)
        for size in (1, 100, 256, 257, 1000):
            same(model.predict(x, batch_size=size), wanted)


@models
@pytest.mark.parametrize("I", [3, 20])
def test_windows_have_the_same_bits(name, I, general):
    for dtype in DTYPES:
        model, series = build(name, I, dtype), draw(30, I, dtype=dtype)
        for source in (series, series.astype(DTYPES[dtype == "float32"])):
            windows = np.lib.stride_tricks.sliding_window_view(source, 6, axis=0).swapaxes(1, 2)
            wanted = model.predict(windows.astype(dtype))
            same(model.predict(windows), wanted)
            same(general(model.predict, windows), wanted)
            same(model.predict(windows[4:5]), wanted[4:5])
            same(model.predict(windows[::3]), wanted[::3])


@models
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_in_one_row_reaches_no_other(name, bad, general):
    model, x = build(name), draw(7, 4, 3)
    clean = model.predict(x)
    x[3, -1, 1] = bad
    with np.errstate(invalid="ignore"):
        found = model.predict(x)
        same(np.isnan(found), np.isnan(general(model.predict, x)))
    same(np.delete(found, 3, axis=0), np.delete(clean, 3, axis=0))
    assert bad == np.inf or np.isnan(found[3]).any() or "relu" in name or name == "last first"


@pytest.mark.parametrize("head", ["last", "mean", "final", "steps"])
@dtypes
def test_integers(head, dtype, general, compiled_only):
    layers = {"last": [Last()], "mean": [MeanPool()], "final": [FinalState()], "steps": [Dense(18, 4, "softmax")]}[head]
    model = Sequential([Embedding(11, 5), LSTM(5, 9, bidirectional=True), *layers], random_state=0).astype(dtype)
    for N, T in ((1, 1), (1, 7), (3, 1), (5, 7), (256, 2)):
        x = np.random.default_rng(N).integers(0, 11, (N, T))
        wanted = general(model.predict, x)
        with compiled_only():
            for kind in (np.int64, np.int8, np.uint16):
                same(model.predict(x.astype(kind)), wanted)
            same(model.predict(np.asfortranarray(x)), wanted)
        same(list(model.predict(list(x))), list(wanted))
    with pytest.raises(ValueError, match="11"):
        model.predict(np.array([[11]]))
    with pytest.raises(ValueError, match="-1"):
        model.predict(np.array([[-1]]))


@models
def test_shapes_that_do_not_fit_are_the_general_paths_errors_and_empty_ones_its_results(name, general):
    model = build(name)
    for x in (draw(2, 3, 4), draw(2, 3, 1), draw(2, 4), draw(4), draw(2, 2, 2, 3), np.float32(1),
              np.full((2, 3, 3), "a"), np.full((2, 3, 3), 1j)):  # fmt: skip
        for method in (model.predict, model.step):
            with pytest.raises((ValueError, TypeError)) as wanted:
                general(method, x)
            with pytest.raises(type(wanted.value)) as found:
                method(x)
            assert str(found.value) == str(wanted.value)
    for shape in ((0, 3, 3), (2, 0, 3), (0, 0, 3)):
        same(model.predict(np.empty(shape, "f4")), general(model.predict, np.empty(shape, "f4")))


# ------------------------------------------------------------------------------------------ streams


def arrays(value):
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from arrays(part)


def apart(*values):
    """No two arrays share memory."""
    every = list(arrays(values))
    for k, a in enumerate(every):
        for b in every[:k]:
            assert not np.shares_memory(a, b)


@streams
@pytest.mark.parametrize("N", [None, 1, 2, 17])
@dtypes
def test_steps_have_the_bits_of_the_general_path_and_may_alternate(name, N, dtype, general, compiled_only):
    model, lead = build(name, dtype=dtype), () if N is None else (N,)
    x = draw(5, *lead, 3, dtype=dtype)
    x[:, ..., 0] *= -0.0
    wanted, state, states = [], None, []
    for x_t in x:
        y, state = general(model.step, x_t, state)
        wanted.append(y)
        states.append(state)
    for ways in ("ccccc", "cgcgc", "gcgcg", "ggccg"):
        state = None
        for t, way in enumerate(ways):
            given, before = x[t].copy(), copy.deepcopy(state)
            with compiled_only() if way == "c" else contextlib.nullcontext():
                y, after = model.step(given, state) if way == "c" else general(model.step, given, state)
            same([y, given], [wanted[t], x[t]])
            same([y, *arrays(before)], [y, *arrays(state)])
            apart(given, state, y, after)
            same([y, *arrays(after)], [y, *arrays(states[t])])
            assert [type(a) for a in after] == [type(a) for a in states[t]]
            state = after
    whole = model.predict(x[None] if N is None else x.swapaxes(0, 1))
    same(wanted[-1] if N is None else y, (whole[0] if N is None else whole) if not model.per_step else
         whole[0, -1] if N is None else whole[:, -1])  # fmt: skip


@streams
@dtypes
def test_steps_of_other_arrays_and_states_give_what_the_general_path_gives(name, dtype, general):
    model, other = build(name, dtype=dtype), DTYPES[dtype == "float32"]
    x, state = draw(4, 3, dtype=dtype), model.step(draw(4, 3, dtype=dtype, seed=1))[1]

    def wide(value):
        return tuple(wide(v) if isinstance(v, tuple) else None if v is None else v.astype(other) for v in value)

    for given in ((strided(x), state), (np.asfortranarray(x), state), (x.astype(other), state), (x.tolist(), state),
                  (x, list(state)), (x, wide(state)), (x.astype(other), wide(state))):  # fmt: skip
        found, wanted = model.step(*given), general(model.step, *given)
        same(list(arrays(found)), list(arrays(wanted)))
        assert found[0].dtype == dtype
    for bad in (model.step(draw(1, 3, dtype=dtype))[1], model.step(draw(3, dtype=dtype))[1], state[:-1],
                (*state, None), 3, (3,) * len(state)):  # fmt: skip
        outcomes = []
        for call in (model.step, lambda *given: general(model.step, *given)):
            try:
                outcomes.append(list(arrays(call(x, bad))))
            except (ValueError, TypeError) as error:
                outcomes.append((type(error), str(error)))
        if isinstance(outcomes[1], tuple) or isinstance(outcomes[0], tuple):
            assert outcomes[0] == outcomes[1]
        else:
            same(*outcomes)


@streams
@pytest.mark.parametrize("N", [None, 1, 2, 17, 1100])
@dtypes
def test_blocks_of_a_stream_have_the_bits_of_the_whole(name, N, dtype, general, compiled_only):
    model, lead = build(name, dtype=dtype), () if N is None else (N,)
    x = draw(*lead, 23 if N != 1100 else 3, 3, dtype=dtype)
    time = len(lead)
    whole = model.predict(x)
    for cuts in ([1], [1, 2], [1, 2]) if N == 1100 else ([7], [1, 2, 9], [22], []):
        state, general_state, found, out = None, None, [], None
        for block in np.split(x, cuts, axis=time):
            with compiled_only():
                y, state = model.stream(block, state)
                if out is not None and out[0].shape == y.shape:
                    given = model.stream(block, out[1], out=out)
                    assert given[0] is out[0]
                    assert given[1] is out[1]
                    same(list(arrays(given)), list(arrays((y, state))))
            wanted, general_state = general(model.stream, block, general_state)
            same([y, *arrays(state)], [wanted, *arrays(general_state)])
            assert [type(a) for a in state] == [type(a) for a in general_state]
            out = copy.deepcopy((y, state))
            found.append(y)
        same(np.concatenate(found, axis=time) if model.per_step else found[-1], whole)
    y, state = model.stream(x)
    same(y, whole)
    if N == 17:
        for view in (np.asfortranarray(x), strided(x), x[:, ::-1].copy()[:, ::-1], x.tolist()):
            same(model.stream(view)[0], whole)
        same(model.stream(np.broadcast_to(x[:, :1], x.shape))[0], model.predict(np.repeat(x[:, :1], 23, axis=1)))


@pytest.mark.parametrize("activation", [*ACTIVATIONS, ("leaky_relu", 0.3), ("elu", 0.7)])
@dtypes
def test_streams_through_every_activation_have_the_bits_of_the_general_path(activation, dtype, general, compiled_only):
    numbers = ACTIVATIONS.get(activation)
    layer = Activation((activation, 0.5, -0.1) if numbers == (None, None) else activation)
    model = Sequential([LSTM(3, 17), Dense(17, 5), layer, Dropout(0.5), Last()], random_state=0).astype(dtype)
    model.layers[1].set_parameters({"weight": 9 * model.layers[1].parameters()["weight"]})
    x, state, wanted = draw(9, 12, 3, dtype=dtype), None, None
    x[4, 5] = np.nan
    with np.errstate(all="ignore"):
        for block in np.split(x, [1, 6], axis=1):
            y, wanted = general(model.stream, block, wanted)
            with contextlib.nullcontext() if "gelu" in activation or activation == "selu" else compiled_only():
                found, state = model.stream(block, state)
            same([found, *arrays(state)], [y, *arrays(wanted)])
            assert np.signbit(found).tobytes() == np.signbit(y).tobytes()


@streams
def test_results_are_written_to_out(name, general):
    model, x = build(name), draw(6, 4, 3)
    for way in (lambda f, *a, **k: f(*a, **k), general):
        for method, first, second in ((model.step, x[:, 0], x[:, 1]), (model.stream, x[:, :2], x[:, 2:])):
            state = method(first)[1]
            wanted = method(second, state)
            out = copy.deepcopy(wanted)
            for array in arrays(out):
                array.fill(7)
            found = way(method, second, state, out=out)
            assert found[0] is out[0]
            same(list(arrays(found)), list(arrays(wanted)))
            own = copy.deepcopy((wanted[0], state))
            same(list(arrays(way(method, second, own[1], out=own))), list(arrays(wanted)))
            read_only = copy.deepcopy(wanted)
            read_only[0].flags.writeable = False
            bad = [
                (wanted[0][:3], state), (wanted[0].astype("f8"), state), (np.asfortranarray(wanted[0]), wanted[1])
                if wanted[0].shape[-1] > 1 else (wanted[0][:2], wanted[1]), read_only, wanted[0], (wanted[0], None),
            ]  # fmt: skip
            if any(a is not None for a in state):
                bad += [(wanted[0], state[:-1]), (np.empty_like(wanted[0]), tuple(None for _ in state))]
            for value in bad:
                if isinstance(value, tuple) and value[1] is None and not any(a is not None for a in state):
                    continue
                before = copy.deepcopy((second, state))
                with pytest.raises((ValueError, TypeError), match="out"):
                    way(method, second, state, out=value)
                same(list(arrays((second, state))), list(arrays(before)))


@dtypes
def test_out_may_not_overlap_what_is_read(dtype, general):
    model = Sequential([LSTM(4, 4), LSTM(4, 4)], random_state=0).astype(dtype)
    x, state = draw(3, 4, dtype=dtype), model.step(draw(3, 4, dtype=dtype))[1]
    y, after = model.step(x, state)
    h, c = after[0]
    for out in ((x, after), (y, ((h, h), after[1])), (state[0][0][0], after), (y, ((h, c), (c, h))),
                (y, ((state[0][1], state[0][0]), after[1]))):  # fmt: skip
        for way in (lambda f, *a, **k: f(*a, **k), general):
            with pytest.raises(ValueError, match=r"out.*overlaps"):
                way(model.step, x, state, out=out)
    same(list(arrays(model.step(x, state, out=(np.empty_like(y), state)))), [y, *arrays(after)])


def test_a_stream_of_integers(general):
    model = Sequential([Embedding(11, 5), LSTM(5, 9), MeanPool(), Dense(9, 4, "softmax")], random_state=0)
    tokens = np.random.default_rng(0).integers(0, 11, (3, 8))
    wanted = model.predict(tokens)
    state = None
    for block in np.split(tokens, [1, 5], axis=1):
        found, state = model.stream(block, state)
    same(found, wanted)
    same(model.stream(tokens[0])[0], wanted[0])
    state, single = None, (None, None)
    for t in range(8):
        found, state = model.step(tokens[:, t], state)
        single = model.step(int(tokens[0, t]), single[1])
    same(found, wanted)
    same(single[0], wanted[0])
    kept = copy.deepcopy(state)
    out = model.step(tokens[:, 0])
    for bad in (11, -1):
        for way in (model.step, lambda *given, **more: general(model.step, *given, **more)):
            with pytest.raises(ValueError, match=str(bad)):
                way(np.array([1, bad, 1]), state, out=(out[0], state))
            same(list(arrays(state)), list(arrays(kept)))


def test_a_stream_of_both_directions_is_an_error():
    for name in BOTH:
        with pytest.raises(ValueError, match="direction"):
            build(name).step(draw(2, 3))


# ------------------------------------------------------------------------------------------ parameters that change


def fitted(model, x):
    model.fit(x, model.predict(x) + 1, loss="mse", epochs=1, batch_size=4, verbose=0, random_state=0)
    return model


def half(parameters):
    return {name: p / 2 for name, p in parameters.items()}


CHANGES = {
    "set": lambda m, x: m.set_parameters(half(m.parameters())),
    "set one": lambda m, x: m.set_parameters({k: p + 1 for k, p in list(m.parameters().items())[-1:]}),
    "set in a layer": lambda m, x: [layer.set_parameters(half(layer.parameters())) for layer in m.layers],
    "fit": fitted,
    "copy": lambda m, x: fitted(m.copy(), x),
    "copied before": lambda m, x: fitted(m, x).copy(),
    "deepcopy": lambda m, x: fitted(copy.deepcopy(m), x),
    "pickle": lambda m, x: fitted(pickle.loads(pickle.dumps(m)), x),
    "astype": lambda m, x: fitted(m.astype("float64"), x.astype("f8")),
    "pickle after": lambda m, x: pickle.loads(pickle.dumps(fitted(m, x).astype("float64"))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["last", "mean", "two", "dense", "steps"])
def test_compiled_calls_follow_the_parameters(name, change, general):
    model, x = build(name), draw(8, 3, 3)
    old = model.predict(x)
    model.step(x[:, 0])
    changed = CHANGES[change](model, x)
    changed = changed if isinstance(changed, Sequential) else model
    if changed.dtype == "float64":
        x, old = x.astype("f8"), old.astype("f8")
    found = changed.predict(x)
    assert np.abs(found - old).max() > 1e-4
    same(found, general(changed.predict, x))
    same(list(arrays(changed.step(x[:, 0]))), list(arrays(general(changed.step, x[:, 0]))))
    if changed is not model and change in ("copy", "deepcopy", "pickle"):
        same(model.predict(x), old)


def test_a_prediction_in_a_callback_is_that_of_the_weights_of_the_moment(general):
    x, model, seen = draw(16, 5, 3), build("two"), []

    def callback(epoch, logs):
        for given in (x, x[:1]):
            found, again = model.predict(given), model.copy().predict(given)
            same([found, general(model.predict, given)], [again, again])
        same(list(arrays(model.step(x[:, 0]))), list(arrays(model.copy().step(x[:, 0]))))
        seen.append(model.predict(x))

    model.fit(x, np.ones((16, 5)), epochs=3, verbose=0, callbacks=[callback], random_state=0)
    assert np.abs(np.diff(seen, axis=0)).max(axis=(1, 2)).min() > 0
    same(model.predict(x), seen[-1])


@pytest.mark.parametrize("method", ["predict", "step"])
def test_each_result_is_that_of_one_model_while_another_thread_sets_parameters(method):
    model, x = build("two"), draw(5, 4, 3)
    x = x if method == "predict" else x[:, 0]
    sets, wanted = [{k: p * s for k, p in model.parameters().items()} for s in (1, -2)], []

    def call():
        return tuple(a.tobytes() for a in arrays(getattr(model, method)(x)))

    for parameters in sets:
        model.set_parameters(parameters)
        wanted.append(call())
    found, over, interval = set(), threading.Event(), sys.getswitchinterval()

    def work():
        while not over.is_set():
            found.add(call())

    threads = [threading.Thread(target=work) for _ in range(4)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for k in range(400):
            model.set_parameters(sets[k % 2])
            assert call() == wanted[k % 2]
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert found and found <= set(wanted)


# ------------------------------------------------------------------------------------------ layers of users


class Own(Layer):
    """Without `compiled`."""

    def __init__(self):
        self._setup("float32", None)

    @classmethod
    def without_parameters(cls, config):
        return cls()

    def forward_rows(self, rows, context, state, run):
        return 2 * rows, context, None, None


class NoCall(Own):
    """Whose call takes nothing."""

    def compiled(self, parameters, directions):
        return lambda x: None


class Raising(Own):
    """Whose call and method raise, on demand."""

    raises = False

    def forward_rows(self, rows, context, state, run):
        if self.raises:
            raise RuntimeError("on demand")
        return super().forward_rows(rows, context, state, run)

    def compiled(self, parameters, directions):
        def call(x):
            if self.raises:
                raise RuntimeError("on demand")
            return 2 * x

        return call


class DoubleDense(Dense):
    """Has the `compiled` of Dense, but another forward_rows."""

    def forward_rows(self, rows, context, state, run):
        y, *rest = super().forward_rows(rows, context, state, run)
        return 2 * y, *rest


class DoubleLSTM(LSTM):
    """As DoubleDense."""

    def forward_rows(self, rows, context, state, run):
        y, *rest = super().forward_rows(rows, context, state, run)
        return 2 * y, *rest


@pytest.mark.parametrize("own", [Own, NoCall, Raising, lambda: DoubleDense(9, 9), lambda: DoubleLSTM(9, 9)],
                         ids=["own", "no call", "raising", "dense", "lstm"])  # fmt: skip
def test_layers_of_users_are_what_their_forward_rows_say(own, general):
    model, x = Sequential([LSTM(3, 9), own(), Last(), Dense(9, 2)], random_state=0), draw(4, 5, 3)
    wanted = general(model.predict, x)
    same(model.predict(x), wanted)
    same(model.predict(list(x)), wanted)
    state = None
    for t in range(5):
        y, state = model.step(x[:, t], state)
    same(y, wanted)
    middle = model.layers[1]
    if isinstance(middle, Raising):
        middle.raises = True
        for call in (model.predict, lambda x: model.step(x[:, 0])):
            with pytest.raises(RuntimeError, match="on demand"):
                call(x)
        middle.raises = False
        same(model.predict(x), wanted)
    if isinstance(middle, LSTM):  # a call of the layer itself is the network's
        x = draw(2, 3, 9)
        same(middle(x)[0], middle.forward(x)[0])
        same(middle.step(x[:, 0])[0], middle.forward(x)[0][:, 0])


# ------------------------------------------------------------------------------------------ estimators


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize("kind", ["LSTMClassifier", "LSTMRegressor"])
def test_estimators_predict_arrays_as_lists(kind, standardize):
    pytest.importorskip("sklearn")
    x = 3 + 2 * draw(20, 6, 2, dtype="float64")
    estimator = getattr(lstmx, kind)(hidden_size=5, max_iter=2, standardize=standardize, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(x, np.arange(20) % 2)
    for dtype in DTYPES:
        given = x.astype(dtype)
        for name in ("predict", "predict_proba"):
            method = getattr(estimator, name, None)
            if method:
                wanted = method(list(given))
                same(method(given), wanted)
                same(method(strided(given)), wanted)
                same(np.concatenate([method(given[n : n + 1]) for n in range(20)]), wanted)
