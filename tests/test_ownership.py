"""What a call gives is the caller's, and so is what it takes: neither shares memory with a tape or with the model.

Each program below runs twice: as it is, and with a user who writes into everything that came back and into everything
that was given, right after each call. Both must give the same bits.
"""

import copy
import warnings

import numpy as np
import pytest
from layouts import moved

import lstmx
from lstmx import LSTM, Dense, Dropout, Embedding, FinalState, Last, MeanPool, Sequential
from lstmx._core import dense, kernels, loop, panels
from lstmx._core import rows as core_rows
from lstmx.functional import Tape, lstm_backward, lstm_forward, lstm_step

RNG = np.random.default_rng(0)
SEVEN = [1, 7, 16, 17, 3, 5, 2]  # lengths
HIDDEN = 9  # test_hazards runs the programs with others too


def arrays(value, seen=None):
    """All arrays in nested containers and lstmx objects."""
    seen = set() if seen is None else seen
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from arrays(part, seen)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from arrays(part, seen)
    elif type(value).__module__.startswith("lstmx") and hasattr(value, "__dict__"):
        yield from arrays(vars(value), seen)


def windows(series):
    """Overlapping windows of six steps, where the series lies."""
    return np.lib.stride_tricks.sliding_window_view(series, 6, axis=0, writeable=True).swapaxes(1, 2)


def copied(value):
    """Nested containers with copies of their arrays; anything else (a tape, a number) as it is."""
    if isinstance(value, np.ndarray):
        if value.ndim == 3 and value.size and value.shape[1] == 6 and value.strides[0] == value.strides[1]:  # windows
            return windows(np.concatenate([value[0], value[1:, -1]]))
        return value.copy()
    if isinstance(value, dict):
        return {key: copied(part) for key, part in value.items()}
    if isinstance(value, lstmx.functional.Gradients):
        return type(value)(*map(copied, value))
    if isinstance(value, list | tuple):
        return type(value)(map(copied, value))
    return copy.deepcopy(value) if isinstance(value, lstmx.layers.Trace) else value


def observed(function, given, options):
    """(result, arrays given, arrays that came back) of a call, tapes aside; it must change nothing that it is given."""
    mine = [a for a in arrays([[g for g in given if not isinstance(g, Tape)], options]) if a.size]
    before = [a.tobytes() for a in mine]
    result = function(*given, **options)
    assert before == [a.tobytes() for a in mine], "an argument was changed"
    parts = result if isinstance(result, tuple) else [result]
    return result, mine, [a for part in parts if not isinstance(part, Tape) for a in arrays(part)]


def overwrite(found, others):
    """Writes into arrays that came back, which must lie apart from others; those that never change may be shared."""
    for array in found:
        if array.flags.writeable or (array.base is not None and array.base.flags.writeable):
            assert not any(np.shares_memory(array, other) for other in others), array.shape
        if array.flags.writeable:
            array[...] = 0 if array.dtype.kind in "iub" else np.nan


class User:
    """Makes calls and keeps copies of what came back; if `spoils`, writes into that and into what was given."""

    def __init__(self, spoils):
        self.spoils, self.results, self.tapes = spoils, [], []

    def __call__(self, function, *given, **options):
        result, mine, found = observed(function, copied(given), copied(options))
        self.tapes += [part for part in (result if isinstance(result, tuple) else ()) if isinstance(part, Tape)]
        self.results += [a.copy() for a in found]
        kept = copied(result)
        if self.spoils:
            overwrite(found, [*mine, *(a for tape in self.tapes for a in arrays(tape))])
            overwrite(mine, [])
        return kept


def forms(features, many=SEVEN):
    """A batch, one sequence, a batch of one, one step, a ragged list, padded with lengths: (x, lengths)."""
    ragged = [RNG.normal(size=(n, features)).astype("f4") for n in many]
    whole = RNG.normal(size=(3, 5, features)).astype("f4")
    return {
        "batch": (whole, None),
        "one": (whole[0], None),
        "batch of one": (whole[:1], None),
        "one step": (whole[:, :1], None),
        "one row": (whole[:1, :1], None),
        "list": (ragged, None),
        "list of one": (ragged[:1], None),
        "lengths": (whole, [5, 0, 2]),
        "windows": (windows(RNG.normal(size=(20, features)).astype("f4")), None),
        "float64": (whole[0].astype("f8"), None),
    }


# From 16 features on windows are shared.
FORMS = forms(3) | {f"wide {name}": value for name, value in forms(17).items()}
each_form = pytest.mark.parametrize("form", FORMS)


def like(y):
    return [np.cos(a) for a in y] if isinstance(y, list) else np.cos(y)


def both(program, *arguments):
    """Runs a program as it is and spoilt, and compares all results of all its calls."""
    plain, spoilt = User(False), User(True)
    program(plain, *arguments)
    program(spoilt, *arguments)
    found, wanted = list(arrays(spoilt.results)), list(arrays(plain.results))
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype) and a.tobytes() == b.tobytes()


@each_form
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_an_lstm(form, layers, bidirectional):
    x, lengths = FORMS[form]
    features = x[0].shape[-1] if isinstance(x, list) else x.shape[-1]

    def program(user):
        lstm = LSTM(features, HIDDEN, layers, bidirectional=bidirectional, dropout=0.3, random_state=0)
        y, state = user(lstm, x, lengths=lengths)
        y, state = user(lstm, x, state, lengths=lengths)
        y, state, tape = user(lstm.forward, x, state, lengths=lengths)
        user(lstm.trace, x, state, lengths=lengths)
        user(lstm.backward, tape, like(y), state, retain=True)
        user(lstm.backward, tape, None, state)
        user(lstm.parameters)
        name = "weight_hh_l0"
        user(lstm.set_parameters, {name: np.array(lstm.parameters()[name])})
        user(lstmx.inspect.gradient_flow, lstm, x, like(y), lengths=lengths)

    both(program)


@pytest.mark.parametrize("shape", [(4, 3), (1, 3), (3,)])
def test_a_stream(shape):
    def program(user):
        lstm, state = LSTM(3, HIDDEN, 2, random_state=0), None
        for k in range(3):
            _, state = user(lstm.step, np.full(shape, k, "f4"), state)
        for k in range(3):
            _, state = user(lstm.stream, np.full((*shape[:-1], 4, 3), k, "f4"), state)

    both(program)


@each_form
def test_the_functions(form):
    x, lengths = FORMS[form]
    features = x[0].shape[-1] if isinstance(x, list) else x.shape[-1]
    w_ih, w_hh, bias = (np.sin(np.arange(4 * HIDDEN * n)).reshape(-1, n).astype("f4") for n in (features, HIDDEN, 1))

    def program(user):
        y, state, tape = user(lstm_forward, x, w_ih, w_hh, bias[:, 0], lengths=lengths)
        user(lstm_backward, tape, like(y), state, retain=True)
        user(lstm_backward, tape, like(y), state)
        user(lstm_step, np.ones((2, features), "f4"), None, w_ih, w_hh)

    both(program)


HEADS = {
    "steps": lambda n: [],
    "last": lambda n: [Last()],
    "final": lambda n: [FinalState()],
    "mean": lambda n: [MeanPool()],
    **{a: lambda n, a=a: [Last(), Dense(n, 3, a)] for a in ("linear", "relu", "tanh", "sigmoid", "softmax")},
    "dense, last": lambda n: [Dense(n, 3, "softmax"), Last()],
    "dense, mean": lambda n: [Dense(n, 3, "sigmoid"), Dropout(0.5), MeanPool()],
    "dense steps": lambda n: [Dropout(0.5), Dense(n, 3, "tanh")],
}


@each_form
@pytest.mark.parametrize("head", HEADS)
def test_a_model(head, form):
    x, lengths = FORMS[form]
    features = x[0].shape[-1] if isinstance(x, list) else x.shape[-1]

    def program(user):
        lstm = LSTM(features, HIDDEN, bidirectional=head == "final")
        model = Sequential([lstm, *HEADS[head](lstm.output_size())], random_state=0)
        user(model.predict, x, lengths=lengths)
        y, tape = user(model.forward, x, lengths=lengths, rng=0)
        user(model.trace, x, lengths=lengths)
        user(model.backward, tape, like(y))
        user(model.parameters)
        state = None
        if head != "final":
            for k in range(3):
                y, *state = user(model.step, np.full((2, features), k, "f4"), state and state[0])
        if isinstance(x, list) or x.ndim == 3:
            y = user(model.predict, x, lengths=lengths)
            user(model.fit, x, y, lengths=lengths, epochs=2, batch_size=2, verbose=0, random_state=0)
            user(model.predict, x, lengths=lengths)

    both(program)


@pytest.mark.parametrize("tokens", [np.arange(12).reshape(3, 4), np.arange(5), [np.arange(3), np.arange(6)]],
                         ids=["batch", "one", "list"])  # fmt: skip
def test_a_model_of_integers(tokens):
    def program(user):
        model = Sequential([Embedding(12, 5), LSTM(5, 4), Last()], random_state=0)
        y, tape = user(model.forward, tokens, rng=0)
        user(model.backward, tape, like(y))
        user(model.predict, tokens)
        user(model.step, np.arange(2))

    both(program)


def test_estimators():
    pytest.importorskip("sklearn")
    x = [RNG.normal(size=(n, 2)) for n in (9, 12, 9, 7, 8, 9, 10, 11)]
    series = np.sin(np.arange(60) / 3)

    def program(user):
        small = {"hidden_size": 4, "max_iter": 2, "tol": 10.0, "n_iter_no_change": 5, "random_state": 0}
        for kind, y in ((lstmx.LSTMClassifier, np.arange(8) % 2), (lstmx.LSTMRegressor, np.arange(8) / 8),
                        (lstmx.LSTMTransformer, None), (lstmx.LSTMAnomalyDetector, None)):  # fmt: skip
            estimator = kind(**small)
            user(lambda *data, fit=estimator.fit: fit(*data) and None, x, *([] if y is None else [y]))
            for name in ("predict", "predict_proba", "transform", "score_samples", "decision_function"):
                if hasattr(estimator, name):
                    user(getattr(estimator, name), x)
        forecaster = lstmx.LSTMForecaster(window=8, horizon=3, differences=(1,), **small)
        user(lambda y: forecaster.fit(y) and None, series)
        user(forecaster.predict)
        user(lambda y: forecaster.update(y) and None, series[:5])
        user(forecaster.predict)
        user(forecaster.predict_interval)
        scaler = lstmx.SequenceScaler()
        user(lambda a: scaler.fit(a) and None, x)
        user(scaler.transform, x)
        user(scaler.inverse_transform, x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        both(program)


def one_byte_off(value):
    """Nested containers with arrays that lie one byte off alignment."""
    if isinstance(value, np.ndarray):
        return moved(value)
    if isinstance(value, dict):
        return {key: one_byte_off(part) for key, part in value.items()}
    return type(value)(map(one_byte_off, value)) if type(value) in (list, tuple) else value


def test_labels_and_weights():
    x = RNG.normal(size=(8, 5, 3)).astype("f4")

    def program(user):
        model = Sequential([LSTM(3, 4), Last(), Dense(4, 3, "softmax")], random_state=0)
        labels, weight = np.arange(8) % 3, np.arange(8.0)
        user(model.fit, x, labels, loss="categorical_crossentropy", sample_weight=weight, epochs=2, verbose=0)
        user(model.predict, x)

    both(program)


@pytest.mark.parametrize("form", [name for name in FORMS if "windows" not in name])
def test_compiled_code_gets_aligned_arrays(form, monkeypatch):
    seen = []

    def watched(function):
        def call(*given, **options):
            seen.append(function)
            for array in arrays([given, options]):
                assert array.flags.aligned, function
            return function(*given, **options)

        return call

    for module in (dense, kernels, loop, panels, core_rows):
        for name, function in vars(module).copy().items():
            if type(function).__name__ == "cython_function_or_method":
                monkeypatch.setattr(module, name, watched(function))
    monkeypatch.setattr("test_ownership.copied", one_byte_off)
    test_an_lstm(form, 2, True)
    test_a_model("softmax", form)
    test_the_functions(form)
    test_a_model_of_integers(np.arange(5))
    test_labels_and_weights()
    assert len(set(seen)) > 5
