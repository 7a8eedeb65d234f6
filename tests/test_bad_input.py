"""Whatever a caller passes: an error that names the argument and changes nothing, never a crash; many callers."""

import os
import re
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lstmx import LSTM
from lstmx.functional import lstm_backward, lstm_forward, lstm_step

I, H, L, N, T = 3, 4, 2, 2, 5
many = settings(
    deadline=None, max_examples=100, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)


def parameters_of(lstm):
    rng = np.random.default_rng(1)
    return {name: rng.uniform(-0.8, 0.8, p.shape) for name, p in lstm.parameters().items()}


def make(**options):
    lstm = LSTM(I, H, L, dtype="float64", **options)
    lstm.set_parameters(parameters_of(lstm))
    return lstm


RNG = np.random.default_rng(0)
LSTM_ = make()
PARAMETERS = {name: p.copy() for name, p in LSTM_.parameters().items()}
X, DY = RNG.normal(size=(N, T, I)), RNG.normal(size=(N, T, H))
STATE, DSTATE = (tuple(RNG.normal(size=(L, N, H)) for _ in range(2)) for _ in range(2))
WEIGHTS = LSTM_._weights(0, 0).arrays
ONE_STATE, ONE_DSTATE = (STATE[0][0], STATE[1][0]), (DSTATE[0][0], DSTATE[1][0])


# Any argument

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 8), st.integers(2**62, 2**80), st.integers(-(2**80), -(2**62)),
    st.floats(), st.complex_numbers(), st.text(max_size=3), st.binary(max_size=3),
    st.sampled_from([10**400, np.float16(0.5), np.int8(3), np.datetime64("2020-01-01"), object(), Ellipsis, len, int]),
)  # fmt: skip
kinds = st.sampled_from(
    ["?", "i1", "u8", ">i4", "i8", "f2", "f4", ">f4", "f8", "c16", "U2", "S2", "O", "M8[s]", "m8[s]", "f4,f4"]
)
shapes = st.one_of(
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
    st.sampled_from([(N, T, I), (T, N, I), (N, T, H), (T, I), (L, N, H), (N, H), (4 * H, I), (4 * H, H), (4 * H,)]),
)


@st.composite
def arrays(draw):
    """An array of any type and shape; small integers, or NaN and inf where it can hold them."""
    kind, shape = np.dtype(draw(kinds)), draw(shapes)
    array = np.zeros(shape, kind)
    if kind.kind in "fc":
        array[...] = draw(st.sampled_from([0.5, -2.0, np.nan, np.inf, -np.inf]))
    elif kind.kind in "iuO":
        array[...] = draw(st.sampled_from([0, 1, 2, 5, 7]))
    masked = draw(st.sampled_from([False, False, False, True]))
    return np.ma.masked_array(array) if masked and kind.names is None else array


leaves = st.one_of(scalars, arrays())
sensible = st.one_of(
    leaves,
    st.recursive(leaves, lambda a: st.lists(a, max_size=3) | st.lists(a, max_size=3).map(tuple), max_leaves=6),
    st.dictionaries(st.text(max_size=2), leaves, max_size=2),
    st.sampled_from([set(), range(3), iter([1.0, 2.0]), memoryview(b"abc"), np.float64, [[[1.0, 2.0, 3.0], [4.0]]],
                     [[1, 2], 3], [[[[[]]]]]]),
)  # fmt: skip
anything = sensible | st.sampled_from([np.broadcast_to(0.5, (2, 2**40, I)), np.zeros((2**40, 0, I))])
pairs = anything | st.tuples(anything, anything) | st.tuples(arrays(), arrays())


def attempt(function, arguments, name, others=()):
    """Call; an error must be of three types and name the argument, or one that must fit it, before the first colon."""
    try:
        with np.errstate(all="ignore"):
            function(**arguments)
    except (ValueError, TypeError, KeyError) as error:
        message = str(error.args[0])
        names = "|".join((name, *others))
        assert re.search(rf"\b({names})\b", message.split(":")[0]), f"{type(error).__name__}: {message}"
    except MemoryError:
        pass  # for an absurd size
    for key, value in LSTM_.parameters().items():
        np.testing.assert_array_equal(value, PARAMETERS[key])


sizes = st.one_of(anything.filter(lambda a: not isinstance(a, int | np.integer)), st.integers(-5, 40),
                  st.integers(2**62, 2**80))  # fmt: skip
CONSTRUCTOR = {
    "input_size": sizes, "hidden_size": sizes, "bias": anything, "bidirectional": anything, "dropout": anything,
    "dtype": anything, "random_state": sensible,
    "num_layers": sizes.filter(lambda a: not isinstance(a, int) or a < 40),  # it would build that many
}  # fmt: skip


@pytest.mark.parametrize("name", CONSTRUCTOR)
def test_the_constructor_names_what_it_refuses(name):
    @many
    @given(CONSTRUCTOR[name])
    def check(value):
        attempt(LSTM, {"input_size": I, "hidden_size": H, name: value}, name)

    check()


@pytest.mark.parametrize("method", ["__call__", "trace", "forward"])
@pytest.mark.parametrize(
    ("name", "values", "others"),
    [("x", anything, ("state", "lengths")), ("state", pairs, ()), ("lengths", anything, ())],
    ids=["x", "state", "lengths"],
)
def test_a_call_names_what_it_refuses(method, name, values, others):
    @many
    @given(values)
    def check(value):
        good = {"x": X, "state": STATE, "lengths": [T, 2]}
        attempt(getattr(LSTM_, method), good | {name: value}, name, others)

    check()


def test_a_call_with_only_an_input_names_it():
    @many
    @given(anything)
    def check(value):
        attempt(LSTM_, {"x": value}, "x")

    check()


def test_forward_names_the_generator_it_refuses():
    dropping = make(dropout=0.5)

    @many
    @given(sensible)  # NumPy would read the whole of an absurd array as a seed
    def check(value):
        attempt(dropping.forward, {"x": X, "rng": value}, "rng")

    check()


@pytest.mark.parametrize("name", ["x_t", "state"])
@pytest.mark.parametrize("single", [False, True])
def test_a_step_names_what_it_refuses(name, single):
    good = {"x_t": X[:, 0], "state": STATE}
    if single:
        good = {"x_t": X[0, 0], "state": tuple(s[:, 0] for s in STATE)}

    @many
    @given(pairs)
    def check(value):
        attempt(LSTM_.step, good | {name: value}, name, ("state",))

    check()


@pytest.mark.parametrize("form", ["array", "list", "single"])
@pytest.mark.parametrize("name", ["dy", "dstate", "retain"])
def test_backward_names_what_it_refuses_and_keeps_the_tape(name, form):
    x, state, dy, dstate = {
        "array": (X, STATE, DY, DSTATE),
        "list": ([X[0], X[1, :2]], STATE, [DY[0], DY[1, :2]], DSTATE),
        "single": (X[0], [s[:, 0] for s in STATE], DY[0], [s[:, 0] for s in DSTATE]),
    }[form]
    wanted = LSTM_.backward(LSTM_.forward(x, state)[2], dy, dstate)

    @many
    @given(pairs)
    def check(value):
        tape = LSTM_.forward(x, state)[2]
        good = {"tape": tape, "dy": dy, "dstate": dstate, "retain": True}
        attempt(LSTM_.backward, good | {name: value}, name)
        if not (name == "retain" and value is False):
            found = LSTM_.backward(tape, dy, dstate)
            for a, b in zip(found.state, wanted.state, strict=True):
                np.testing.assert_array_equal(a, b)
            for key, b in wanted.params.items():
                np.testing.assert_array_equal(found.params[key], b)

    check()


def test_backward_names_a_tape_that_is_none():
    @many
    @given(anything)
    def check(value):
        with pytest.raises(TypeError, match=r"^tape"):
            LSTM_.backward(value, DY)

    check()


@pytest.mark.parametrize("name", ["weight_ih_l0", "bias_l1"])
def test_set_parameters_names_what_it_refuses_and_sets_nothing(name):
    @many
    @given(anything)
    def check(value):
        lstm = make()
        try:
            with np.errstate(all="ignore"):
                lstm.set_parameters({"weight_hh_l0": np.ones((4 * H, H)), name: value})
        except (ValueError, TypeError) as error:
            assert str(error).startswith(f"{name}: "), str(error)
            for key, p in lstm.parameters().items():
                np.testing.assert_array_equal(p, PARAMETERS[key])

    check()


def test_set_parameters_takes_a_dict_of_known_names():
    @many
    @given(anything.filter(lambda a: not isinstance(a, dict) or a) | st.dictionaries(scalars, leaves, min_size=1))
    def check(value):
        lstm = make()
        with pytest.raises((TypeError, KeyError), match="parameters: "):
            lstm.set_parameters(value)

    check()


FUNCTIONAL = {
    "x": ("state", "lengths"), "weight_ih": ("x", "weight_hh"), "weight_hh": ("weight_ih", "bias", "state"), "bias": (),
    "state": (), "lengths": (), "reverse": (),
}  # fmt: skip


@pytest.mark.parametrize(("name", "others"), FUNCTIONAL.items(), ids=FUNCTIONAL.keys())
def test_functional_forward_names_what_it_refuses(name, others):
    good = {"x": X, **WEIGHTS, "state": ONE_STATE, "lengths": [T, 2], "reverse": False}

    @many
    @given(pairs if name == "state" else anything)
    def check(value):
        attempt(lstm_forward, good | {name: value}, name, others)

    check()


STEP = {"x_t": ("state",), "weight_ih": ("x_t", "weight_hh"), "weight_hh": ("weight_ih", "bias", "state"), "bias": (),
        "state": ()}  # fmt: skip


@pytest.mark.parametrize(("name", "others"), STEP.items(), ids=STEP.keys())
def test_functional_step_names_what_it_refuses(name, others):
    good = {"x_t": X[:, 0], **WEIGHTS, "state": ONE_STATE}

    @many
    @given(pairs if name == "state" else anything)
    def check(value):
        attempt(lstm_step, good | {name: value}, name, others)

    check()


@pytest.mark.parametrize("name", ["dy", "dstate", "retain"])
def test_functional_backward_names_what_it_refuses_and_keeps_the_tape(name):
    wanted = lstm_backward(lstm_forward(X, **WEIGHTS)[2], DY, ONE_DSTATE)

    @many
    @given(pairs)
    def check(value):
        tape = lstm_forward(X, **WEIGHTS)[2]
        good = {"tape": tape, "dy": DY, "dstate": ONE_DSTATE, "retain": True}
        attempt(lstm_backward, good | {name: value}, name)
        if not (name == "retain" and value is False):
            np.testing.assert_array_equal(lstm_backward(tape, DY, ONE_DSTATE).x, wanted.x)

    check()


def test_functional_backward_names_a_tape_that_is_none():
    @many
    @given(anything)
    def check(value):
        with pytest.raises(TypeError, match=r"^tape"):
            lstm_backward(value, DY)

    check()


@pytest.mark.parametrize("name", ["N", "T", "training"])
def test_memory_names_what_it_refuses(name):
    @many
    @given(anything)
    def check(value):
        attempt(LSTM_.memory, {"N": 2, "T": 3, name: value}, name)

    check()


# What always is an error, whatever the rest

NEVER_NUMBERS = {
    "None": None, "text": "abc", "bytes": b"abc", "object": object(), "dict": {"a": 1}, "set": {1.0}, "function": len,
    "complex": X * 1j, "objects": X.astype(object), "dates": X.astype("M8[s]"), "texts": X.astype("U8"),
    "masked": np.ma.masked_array(X, X > 0), "records": np.zeros((N, T, I), "f4,f4"),
    "ragged nested": [[[1.0, 2.0, 3.0], [4.0]]], "ragged rows": [[1.0, 2.0, 3.0], [4.0]], "generator": (a for a in X),
    "5 dimensions": X[None, None], "scalar": 1.0,
}  # fmt: skip
never_numbers = pytest.mark.parametrize("value", NEVER_NUMBERS.values(), ids=NEVER_NUMBERS.keys())


@never_numbers
def test_what_is_no_array_of_numbers_is_refused_as_x(value):
    for method in (LSTM_, LSTM_.forward, LSTM_.trace):
        with pytest.raises((ValueError, TypeError), match=r"^x"):
            method(value)
    with pytest.raises((ValueError, TypeError), match=r"^x_t"):
        LSTM_.step(value)
    with pytest.raises((ValueError, TypeError), match=r"^x"):
        lstm_forward(value, **WEIGHTS)


@never_numbers
def test_what_is_no_array_of_numbers_is_refused_as_a_state(value):
    for pair in ((value, STATE[1]), (STATE[0], value)):
        with pytest.raises((ValueError, TypeError), match=r"^state"):
            LSTM_(X, pair)
        with pytest.raises((ValueError, TypeError), match=r"^dstate"):
            LSTM_.backward(LSTM_.forward(X)[2], DY, pair)
    if value is not None:
        with pytest.raises((ValueError, TypeError), match=r"^state"):
            LSTM_(X, value)
        with pytest.raises((ValueError, TypeError), match=r"^dy"):
            LSTM_.backward(LSTM_.forward(X)[2], value)


@pytest.mark.parametrize(
    "value",
    ["abc", 5, 5.0, [5.0, 2.0], [5, np.nan], [np.inf, 2], ["5", "2"], [5, None], [5, [2]], [[5, 2]], [5], [5, 2, 1],
     [5, 6], [5, -1], [5, 10**30], [5, -(10**30)], [5, 2**63], np.array([5, 2**64 - 1], "u8"), [5j, 2], [True, False],
     {5: 2}, np.ma.masked_array([5, 2], [False, True]), len, np.array([5, 2], object), np.array([5, 2], "m8[s]")],
    ids=str,
)  # fmt: skip
def test_what_are_no_lengths_is_refused(value):
    for call in (lambda: LSTM_(X, lengths=value), lambda: lstm_forward(X, **WEIGHTS, lengths=value)):
        with pytest.raises((ValueError, TypeError), match=r"^lengths: "):
            call()


@pytest.mark.parametrize(
    "value",
    ["single precision", "float16", "complex64", ">f4", "", int, object, None, 3, [1], (), np.zeros(3)],
    ids=str,
)
def test_what_is_neither_float32_nor_float64_is_no_type(value):
    for call in (lambda: LSTM(I, H, dtype=value), lambda: LSTM_.astype(value)):
        with pytest.raises((ValueError, TypeError), match=r"^dtype: .*float32.*float64"):
            call()


@pytest.mark.parametrize(
    "value",
    [-0.1, 1, 1.5, 50, np.nan, np.inf, -np.inf, 10**400, "0.5", b"0.5", None, 1j, [0.5], True, np.array([0.5]), {}],
    ids=lambda a: str(a)[:12],
)
def test_what_is_no_rate_is_refused(value):
    with pytest.raises((ValueError, TypeError), match=r"^dropout: "):
        LSTM(I, H, 2, dropout=value)


@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
@pytest.mark.parametrize("value", [2**45, 2**62, 2**63, 10**30])
def test_an_absurd_size_is_a_clean_error(name, value):
    try:
        LSTM(**({"input_size": I, "hidden_size": H} | {name: value}))
    except MemoryError:
        return
    except ValueError as error:
        assert re.match(r"(input|hidden)_size\b", str(error)), str(error)
    else:
        raise AssertionError("built it")


def in_a_process(script, *, seconds=60, **environment):
    """Run Python code, where a crash or a hang harms nobody; what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], timeout=seconds, capture_output=True, text=True,
        env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr[-2000:]}"
    return done.stdout


if sys.platform == "linux":

    def test_arrays_beyond_memory_are_memory_errors():
        # 2**32 elements and more, which NumPy views in a few bytes: no product of sizes may wrap around.
        out = in_a_process("""
            import resource
            import numpy as np
            from lstmx import LSTM
            from lstmx.functional import lstm_forward
            lstm = LSTM(3, 4)
            wanted = lstm(np.ones((2, 3, 3)))[0]
            with open("/proc/self/statm") as file:
                used = int(file.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + 2**31, used + 2**31))

            def calls(x):
                yield lambda: lstm(x)
                yield lambda: lstm.forward(x)
                yield lambda: lstm_forward(x, *lstm._weights(0, 0).arrays.values())
                if x.ndim == 2:
                    yield lambda: lstm.step(x)
                elif len(x) < 2**20:
                    yield lambda: lstm(x, lengths=np.full(len(x), x.shape[1]))

            for shape in ((2, 2**31, 3), (2**31, 2, 3), (2**16 + 1, 2**16, 3), (1, 2**45, 3), (2**31, 3)):
                for call in calls(np.broadcast_to(np.float32(0.5), shape)):
                    try:
                        call()
                    except MemoryError:
                        print("refused", shape)
                    except ValueError as error:
                        assert str(error).startswith("x"), error
                        print("refused", shape)
            assert np.array_equal(lstm(np.ones((2, 3, 3)))[0], wanted)
        """)
        assert out.count("refused") == 19


@pytest.mark.parametrize(
    "pair",
    ["LSTM(3, 4), LSTM(3, 64)", "LSTM(3, 4), LSTM(3, 500)", "LSTM(3, 4), LSTM(3000, 4)"],  # whose arrays are larger
)
def test_the_tape_of_another_model_is_an_error_and_no_crash(pair):
    out = in_a_process(f"""
        import numpy as np
        from lstmx import LSTM
        first, second = {pair}
        tape = first.forward(np.zeros((50, 40, 3)))[2]
        try:
            second.backward(tape, None)
        except TypeError as error:
            print(error)
    """)
    assert out.startswith("tape")


# The likeliest mistakes, and what the message says

ONE = LSTM(1, H)
TWO = LSTM(I, H, bidirectional=True)
LIST = [X[0], X[1, :2]]
TIME_FIRST = X.swapaxes(0, 1)


def backward(dy, dstate=None, x=X):
    return LSTM_.backward(LSTM_.forward(x)[2], dy, dstate)


MISTAKES = {
    "features missing": (lambda: LSTM_(X[..., 0]), ValueError,
                         r"x: got shape \(2, 5\), must be \(N, T, 3\) for a batch, \(T, 3\) for one sequence, or"),
    "wrong number of features": (lambda: LSTM_(X[..., :2]), ValueError,
                                 r"x: got shape \(2, 5, 2\), must be \(N, T, 3\)"),
    "features not last": (lambda: LSTM_(X.swapaxes(1, 2)), ValueError,
                          r"x: .*features come last: write x.swapaxes\(1, 2\)"),
    "one series of one feature": (lambda: ONE(np.zeros(7)), ValueError,
                                  r"x: got shape \(7,\).*write x\[\.\.\., None\]"),
    "series of one feature": (lambda: ONE(np.zeros((4, 7))), ValueError,
                              r"x: got shape \(4, 7\).*write x\[\.\.\., None\]"),
    "an axis too many": (lambda: LSTM_(X[None]), ValueError, r"x: got shape \(1, 2, 5, 3\), must be"),
    "one step to a call": (lambda: LSTM_(X[0, 0]), ValueError, r"x: got shape \(3,\), must be"),
    "a sequence to step": (lambda: LSTM_.step(X), ValueError,
                           r"x_t: got shape \(2, 5, 3\), must be \(N, 3\) or \(3,\)"),
    "missing values as None": (lambda: LSTM_([[1.0, None, 2.0]]), TypeError,
                               "x: got dtype object, must be real numbers"),
    "ragged in an object array": (lambda: LSTM_(np.array([*LIST, None], object)[:2]), TypeError, "x: got dtype object"),
    "one sequence of the list wrong": (lambda: LSTM_([X[0], X[1, :, :2]]), ValueError,
                                       r"x\[1\]: got shape \(5, 2\), must be \(T_n, 3\)"),
    "a list of steps": (lambda: LSTM_(list(X[0])), ValueError, r"x\[0\]: got shape \(3,\), must be \(T_n, 3\)"),
    "complex numbers": (lambda: LSTM_(np.fft.fft(X)), TypeError, "x: got dtype complex128, must be real numbers"),
    "texts": (lambda: LSTM_(X.astype(str)), TypeError, "x: got dtype <U.*, must be real numbers"),
    "a masked array": (lambda: LSTM_(np.ma.masked_invalid(X)), TypeError, "x: got a masked array.*fill it.*lengths"),
    "lengths too long": (lambda: LSTM_(X, lengths=[5, 6]), ValueError,
                         "lengths: sequence 1 has length 6, must be between 0 and T = 5"),
    "lengths negative": (lambda: LSTM_(X, lengths=[-1, 5]), ValueError,
                         "lengths: sequence 0 has length -1, must be between"),
    "lengths with a list": (lambda: LSTM_(LIST, lengths=[5, 2]), ValueError,
                            "lengths: a list of sequences carries its own lengths; leave the argument out"),
    "lengths with one sequence": (lambda: LSTM_(X[0], lengths=[5]), ValueError,
                                  r"lengths: x is one sequence of shape \(5, 3\); cut it"),
    "lengths as floats": (lambda: LSTM_(X, lengths=np.array([5.0, 2.0])), TypeError,
                          r"lengths: got dtype float64, must be integers; use lengths.astype\(int\)"),
    "one length for all": (lambda: LSTM_(X, lengths=3), ValueError,
                           r"lengths: got shape \(\), must be \(N,\) = \(2,\)"),
    "a mask for lengths": (lambda: LSTM_(X, lengths=X[..., 0] > 0), TypeError,
                           "lengths: got dtype bool, must be integers"),
    "a mask of integers": (lambda: LSTM_(X, lengths=np.ones((N, T), int)), ValueError,
                           r"lengths: got shape \(2, 5\), must be \(N,\) = \(2,\): one length per sequence"),
    "time first": (lambda: LSTM_(TIME_FIRST, lengths=[5, 2]), ValueError,
                   r"lengths: got shape \(2,\), must be \(N,\) = \(5,\): one length per sequence"),
    "time first, with state": (lambda: LSTM_(TIME_FIRST, STATE), ValueError,
                               r"state h: got shape \(2, 2, 4\), must be \(L\*D, N, H\) = \(2, 5, 4\)"),
    "lengths as the state": (lambda: LSTM_(X, [5, 2]), ValueError, r"state h: got shape \(\), must be \(L\*D, N, H\)"),
    "only h": (lambda: LSTM_(X, STATE[0]), TypeError, r"state: got ndarray, must be a pair of arrays \(h, c\)"),
    "state of one layer": (lambda: LSTM_(X, [s[:1] for s in STATE]), ValueError,
                           r"state h: got shape \(1, 2, 4\), must be \(L\*D, N, H\) = \(2, 2, 4\)"),
    "state of one direction": (lambda: TWO(X, [s[:1] for s in STATE]), ValueError,
                               r"state h: got shape \(1, 2, 4\), must be \(L\*D, N, H\) = \(2, 2, 4\)"),
    "state of another batch": (lambda: LSTM_(X[:1], STATE), ValueError,
                               r"state h: got shape \(2, 2, 4\), must be \(L\*D, N, H\) = \(2, 1, 4\)"),
    "state without layers": (lambda: LSTM_(X, ONE_STATE), ValueError, r"state h: got shape \(2, 4\), must be"),
    "c of another width": (lambda: LSTM_(X, (STATE[0], STATE[1][..., :3])), ValueError,
                           r"state c: got shape \(2, 2, 3\)"),
    "batched state, one sequence": (lambda: LSTM_(X[0], [s[:, :1] for s in STATE]), ValueError,
                                    r"state h: got shape \(2, 1, 4\), must be \(L\*D, H\) = \(2, 4\)"),
    "batched state, one step": (lambda: LSTM_.step(X[0, 0], STATE), ValueError,
                                r"state.*: got shape \(2, 2, 4\), must be \(L\*D, H\) = \(2, 4\)"),
    "a stream of both directions": (lambda: TWO.step(X[:, 0]), ValueError,
                                    "step, stream: a bidirectional layer, as an LSTM with"),
    "dy of the last step": (lambda: backward(DY[:, -1]), ValueError,
                            r"dy: got shape \(2, 4\), must be the shape of y = \(2, 5, 4\)"),
    "dy of other features": (lambda: backward(X), ValueError, r"dy: got shape \(2, 5, 3\), must be the shape of y"),
    "the loss as dy": (lambda: backward(1.0), ValueError, r"dy: got shape \(\), must be the shape of y"),
    "dy of a list as an array": (lambda: backward(DY, x=LIST), ValueError,
                                 r"dy: must be a list of 2 arrays \(T_n, 4\)"),
    "a list of padded dy": (lambda: backward(list(DY), x=LIST), ValueError,
                            r"dy\[1\]: got shape \(5, 4\), must be the shape of y\[[1n]\] = \(2, 4\)"),
    "dstate without a pair": (lambda: backward(DY, DSTATE[0]), TypeError, r"dstate: got ndarray, must be a pair"),
    "y for the tape": (lambda: LSTM_.backward(DY, None), TypeError, "tape: got ndarray, must be the tape"),
    "all of forward for the tape": (lambda: LSTM_.backward(LSTM_.forward(X), DY), TypeError,
                                    "tape: got tuple, must be the"),
    "hidden size as a float": (lambda: LSTM(I, 64 / 2), TypeError, "hidden_size: got 32.0, must be an integer"),
    "hidden size zero": (lambda: LSTM(I, 0), ValueError, "hidden_size: got 0, must be at least 1"),
    "layers as text": (lambda: LSTM(I, H, "2"), TypeError, "num_layers: got '2', must be an integer"),
    "dropout in per cent": (lambda: LSTM(I, H, 2, dropout=20), ValueError,
                            "dropout: got 20, must be .* at least 0 and below 1"),
    "bidirectional as a number": (lambda: LSTM(I, H, bidirectional=2), TypeError,
                                  "bidirectional: got 2, must be True or"),
    "half precision": (lambda: LSTM(I, H, dtype=np.float16), ValueError,
                       'dtype: got .*, must be "float32" or "float64"'),
    "a seed of text": (lambda: LSTM(I, H, random_state="seed"), TypeError,
                       "random_state: got 'seed', must be None, a non-neg"),
    "a negative seed": (lambda: LSTM(I, H, random_state=-1), TypeError,
                        "random_state: got -1, must be None, a non-negative"),
    "a name without its layer": (lambda: LSTM_.set_parameters({"weight_ih": WEIGHTS["weight_ih"]}), KeyError,
                                 '"?parameters: no \'weight_ih\' here; there are .*weight_ih_l0'),
    "a second bias": (lambda: LSTM_.set_parameters({"bias_ih_l0": np.zeros(16)}), KeyError, ".*no 'bias_ih_l0' here"),
    "weights as Keras has them": (lambda: LSTM_.set_parameters({"weight_ih_l0": WEIGHTS["weight_ih"].T}), ValueError,
                                  r"weight_ih_l0: got shape \(3, 16\), must be the shape of the parameter = \(16, 3\)"),
    "weights as a list": (lambda: LSTM_.set_parameters(list(WEIGHTS.values())), TypeError,
                          "parameters: got list, must be a"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_likely_mistake_gets_a_helpful_message(name):
    call, error, message = MISTAKES[name]
    with pytest.raises(error, match=r"^" + message):
        call()


# Many callers at once


@pytest.mark.long
@pytest.mark.parametrize(("n", "t", "h"), [(1, 3, 4), (8, 20, 24)], ids=["holds the GIL", "releases the GIL"])
def test_concurrent_calls_on_one_model_give_equal_bits(n, t, h):
    lstm = LSTM(8, h, 2, bidirectional=True, random_state=0)
    stream = LSTM(8, h, random_state=0)
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(n, t, 8)).astype("f"), rng.normal(size=(n, t, 2 * h)).astype("f")
    lengths = rng.integers(0, t + 1, n)

    def run(k):
        if k % 4 == 0:
            _, _, tape = lstm.forward(x, lengths=lengths)
            grads = lstm.backward(tape, dy)
            return [grads.x, *grads.params.values()]
        if k % 4 == 1:
            y, (h_t, c_t) = stream.step(x[:, 0])
            return [y, h_t, c_t]
        y, (h_n, c_n) = lstm(x, lengths=lengths if k % 4 == 2 else None)
        return [y, h_n, c_n]

    wanted = [run(k) for k in range(4)]
    failures, start = [], threading.Barrier(8)

    def work(first):
        try:
            start.wait(20)
            for k in range(200):
                found = run(first + k)
                for a, b in zip(found, wanted[(first + k) % 4], strict=True):
                    np.testing.assert_array_equal(a, b)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    assert not failures, failures[0]


def test_models_are_built_and_set_while_others_run():
    lstm = LSTM(3, 16, random_state=0)
    values = [LSTM(3, 16, random_state=k).parameters() for k in range(2)]
    x = np.random.default_rng(0).normal(size=(4, 10, 3))
    allowed = []
    for value in values:
        lstm.set_parameters(value)
        allowed.append(lstm(x)[0])
    stop, failures = threading.Event(), []

    def read():
        while not stop.is_set():
            y = lstm(x)[0]
            if not any(np.array_equal(y, a) for a in allowed):
                failures.append("a mixture of old and new parameters")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for k in range(300):
        lstm.set_parameters(values[k % 2])
    stop.set()
    for reader in readers:
        reader.join(60)
    assert not failures


if hasattr(os, "fork"):

    @pytest.mark.parametrize("trained", [False, True])
    def test_the_fork_of_a_process_that_used_threads_predicts(trained):
        in_a_process(f"""
            import os, signal, sys, time
            import numpy as np
            import lstmx
            lstmx.set_num_threads(4)
            lstm = lstmx.LSTM(32, 128, 2, random_state=0)
            x = np.random.default_rng(0).normal(size=(256, 4, 32)).astype("f")
            y, _ = lstm(x)
            if {trained}:
                lstm.backward(lstm.forward(x)[2], y)
            lstmx.get_num_threads()  # also tells the NumPy engine, which has no threads, that the parent may have some
            child = os.fork()
            if child == 0:
                equal = np.array_equal(lstm(x)[0], y) and np.isfinite(lstm.backward(lstm.forward(x)[2], y).x).all()
                os._exit(0 if equal and lstmx.get_num_threads() == 1 else 3)
            end = time.monotonic() + 20
            while time.monotonic() < end:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    sys.exit(os.waitstatus_to_exitcode(status))
                time.sleep(0.01)
            os.kill(child, signal.SIGKILL)
            sys.exit("the child hangs")
        """)  # fmt: skip
