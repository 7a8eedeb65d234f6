"""When any allocation of a call fails: a MemoryError, and nothing is left behind that would change the next call."""

import ctypes
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import lstmx
from lstmx import LSTM, functional
from lstmx.functional import allocate

LENGTHS = [4, 0, 5, 2]


@pytest.fixture(autouse=True)
def restored():
    yield
    allocate._allocations_left = None


def flat(result):
    """All arrays of a result, in order; tapes are left out."""
    if isinstance(result, np.ndarray):
        return [result]
    if isinstance(result, dict):
        return [a for value in result.values() for a in flat(value)]
    return [a for part in result for a in flat(part)] if isinstance(result, tuple | list) else []


def assert_same_bits(found, wanted):
    found, wanted = flat(found), flat(wanted)
    assert len(found) == len(wanted) > 0
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def failing(call, least):
    """Run `call` with 0, 1, 2, ... allocations granted until it succeeds; yield after each failure, `least` or more."""
    for granted in range(1000):
        allocate._allocations_left = granted
        try:
            call()
            assert granted >= least
            return
        except MemoryError as error:
            assert "on request" in str(error)
        finally:
            allocate._allocations_left = None
        yield granted
    raise AssertionError("more than 1000 allocations")


def model(bidirectional=True, dtype="float32"):
    return LSTM(3, 6, 2, bidirectional=bidirectional, dropout=0.5, dtype=dtype, random_state=0)


def data(lstm, form):
    """x, state, dy, dstate and the lengths argument in one of the forms."""
    rng = np.random.default_rng(1)
    states = (2 * lstm.directions, 4, 6)
    x, dy = rng.normal(size=(4, 5, 3)), rng.normal(size=(4, 5, lstm.output_size()))
    state, dstate = ([rng.normal(size=states) for _ in range(2)] for _ in range(2))
    if form == "single":
        return x[0], [s[:, 0] for s in state], dy[0], [s[:, 0] for s in dstate], {}
    if form == "list":
        cut = ([a[:n] for a, n in zip(array, LENGTHS, strict=True)] for array in (x, dy))
        return next(cut), state, next(cut), dstate, {}
    return x, state, dy, dstate, {"lengths": LENGTHS} if form == "ragged" else {}


forms = pytest.mark.parametrize("form", ["batch", "ragged", "list", "single"])
given = pytest.mark.parametrize("given", [True, False])
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


@given
@forms
@pytest.mark.parametrize("method", ["__call__", "forward", "trace"])
@dtypes
def test_calls_survive_every_failure(dtype, method, form, given):
    lstm = model(dtype=dtype)
    x, state, _, _, options = data(lstm, form)
    options |= {"rng": 3} if method == "forward" else {}

    def call():
        result = getattr(lstm, method)(x, state if given else None, **options)
        if method == "trace":
            return [getattr(result, name)[1, 1] for name in "ifgoch"]
        return result

    wanted, parameters = call(), lstm.parameters()
    compiled = method == "__call__" and dtype == "float64" and form in ("batch", "single") and not given  # see below
    for _ in failing(call, 0 if compiled else 4):
        assert_same_bits(call(), wanted)
    assert_same_bits(lstm.parameters(), parameters)


@given
@forms
def test_backward_survives_every_failure_with_a_new_tape(form, given):
    lstm = model()
    x, state, dy, dstate, options = data(lstm, form)
    tapes = []

    def forward():
        return lstm.forward(x, state, rng=3, **options)[2]

    def backward(tape):
        return lstm.backward(tape, dy if given else None, dstate if given else None)

    wanted = backward(forward())
    tapes.append(forward())
    for _ in failing(lambda: backward(tapes[-1]), 4):
        # Its gates may be half overwritten: a used tape says so, and one that is not used gives the right gradients.
        try:
            assert_same_bits(backward(tapes[-1]), wanted)
        except RuntimeError as error:
            assert str(error).startswith("tape: ")
        assert_same_bits(backward(forward()), wanted)
        tapes.append(forward())


@given
@forms
def test_backward_survives_every_failure_with_a_retained_tape(form, given):
    lstm = model()
    x, state, dy, dstate, options = data(lstm, form)
    tape = lstm.forward(x, state, rng=3, **options)[2]

    def backward():
        return lstm.backward(tape, dy if given else None, dstate if given else None, retain=True)

    wanted = backward()
    for _ in failing(backward, 4):
        assert_same_bits(backward(), wanted)


@given
@pytest.mark.parametrize("single", [False, True])
@dtypes
def test_steps_survive_every_failure(dtype, single, given):
    lstm = model(bidirectional=False, dtype=dtype)
    x, state, _, _, _ = data(lstm, "batch")
    x_t = x[0, 0] if single else x[:, 0]
    state = [s[:, 0] for s in state] if single else state
    kept = [s.copy() for s in state]

    def step():
        return lstm.step(x_t, state if given else None)

    wanted = step()
    for _ in failing(step, 2 if given else 0):  # a compiled call allocates in C
        assert_same_bits(step(), wanted)
    assert_same_bits(list(state), kept)


def test_functional_calls_survive_every_failure():
    lstm = model()
    x, (h0, c0), dy, _, options = data(lstm, "ragged")
    weights, state, dy = lstm._weights(0, 0).arrays.values(), (h0[0], c0[0]), dy[..., :6]

    def forward():
        return functional.lstm_forward(x, *weights, state, reverse=True, **options)

    def step():
        return functional.lstm_step(x[:, 0], state, *weights)

    tape = forward()[2]

    def backward():
        return functional.lstm_backward(tape, dy, state, retain=True)

    for call in (forward, step, backward):
        wanted = call()
        for _ in failing(call, 2):
            assert_same_bits(call(), wanted)


def _whole_model(dtype):
    layers = [LSTM(3, 9, 2, bidirectional=True, dropout=0.3), lstmx.Dense(18, 5, "tanh"), lstmx.MeanPool()]
    return lstmx.Sequential([*layers, lstmx.Dense(5, 2, "softmax")], random_state=0).astype(dtype)


def fitted(dtype="float32", lengths=None):
    """Parameters and losses after a small fit."""
    net, rng = _whole_model(dtype), np.random.default_rng(0)
    x, y = rng.normal(size=(7, 6, 3)), rng.integers(0, 2, 7)
    net.fit(x, y, lengths=lengths, loss="categorical_crossentropy", epochs=2, batch_size=4, random_state=0, verbose=0)
    return net.parameters(), np.array(net.history_.history["loss"])


@pytest.mark.parametrize("lengths", [None, [6, 0, 5, 6, 1, 2, 3]])
@dtypes
def test_models_survive_every_failure_in_predict(dtype, lengths):
    net = _whole_model(dtype)
    x = np.random.default_rng(0).normal(size=(7, 6, 3))
    for size in (None, 3):
        wanted, least = net.predict(x, lengths=lengths, batch_size=size), 4 if size or lengths else 0
        for _ in failing(lambda size=size: net.predict(x, lengths=lengths, batch_size=size), least):
            assert_same_bits(net.predict(x, lengths=lengths, batch_size=size), wanted)


def test_a_fit_that_fails_leaves_a_usable_model():
    """It keeps finite weights, can be fitted again, and the next fit of a fresh model is as if nothing had been."""
    wanted, x = fitted(), np.ones((7, 6, 3))
    nets = []

    def fit():
        nets.append(_whole_model("float32"))
        nets[-1].fit(x, np.zeros(7, int), loss="categorical_crossentropy", epochs=2, batch_size=4, verbose=0)

    for granted in failing(fit, 20):
        net = nets.pop()
        assert all(np.isfinite(p).all() and not p.flags.writeable for p in net.parameters().values())
        first = net.predict(x)
        net.set_parameters(net.parameters())
        assert_same_bits(net.predict(x), first)
        if granted % 8 == 0:
            net.fit(x, np.zeros(7, int), loss="categorical_crossentropy", epochs=1, verbose=0)
            assert_same_bits(fitted(), wanted)


# ------------------------------------------------------------------------------------------ every array of NumPy's

MALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
CALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t)
REALLOC = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Handler(ctypes.Structure):
    """PyDataMem_Handler of NumPy's C API."""

    _fields_ = [
        ("name", ctypes.c_char * 127), ("version", ctypes.c_uint8), ("ctx", ctypes.c_void_p), ("malloc", MALLOC),
        ("calloc", CALLOC), ("realloc", REALLOC), ("free", FREE),
    ]  # fmt: skip


class Memory:
    """What NumPy allocates for arrays, in Python and in C, fails when `left` has run down to 0.

    Nothing is ever freed (`free` gets `ctx`, NULL): that may happen while an exception is set, when no Python runs.
    """

    def __init__(self):
        libc = ctypes.CDLL(None)
        for name in ("malloc", "calloc", "realloc"):
            getattr(libc, name).restype = ctypes.c_void_p
        libc.malloc.argtypes = [ctypes.c_size_t]
        libc.calloc.argtypes = [ctypes.c_size_t] * 2
        libc.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self.left = None

        def granted():
            if self.left is not None:
                self.left -= 1
            return self.left is None or self.left >= 0

        self.handler = Handler(
            b"failing", 1, None, MALLOC(lambda _, n: libc.malloc(n) if granted() else None),
            CALLOC(lambda _, n, size: libc.calloc(n, size) if granted() else None),
            REALLOC(lambda _, p, n: libc.realloc(p, n) if granted() else None), ctypes.cast(libc.free, FREE),
        )  # fmt: skip
        self.name = b"mem_handler"
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        capsule = new(ctypes.addressof(self.handler), self.name, None)
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        core = getattr(np, "_core", None) or np.core
        api = ctypes.cast(get(core._multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
        ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(api[304])(capsule)  # PyDataMem_SetHandler


def check_every_array():
    """Runs in a child: every allocation of every call fails once."""
    memory = Memory()
    calls = {}
    for dtype in ("float32", "float64"):
        lstm, two = LSTM(20, 70, 2, dtype=dtype, random_state=0), model(dtype=dtype)
        one = LSTM(3, 5, dtype=dtype, random_state=0)
        x, x_two = (np.random.default_rng(1).normal(size=(2, 7, i)).astype(dtype) for i in (20, 3))
        calls |= {
            f"{dtype} plain": lambda lstm=lstm, x=x: lstm(x),
            f"{dtype} one": lambda one=one, x=x_two: one(x[0]),
            f"{dtype} both": lambda two=two, x=x_two: two(x),
            f"{dtype} step": lambda lstm=lstm, x=x: lstm.step(x[:, 0]),
            f"{dtype} stream": lambda lstm=lstm, x=x: lstm.stream(x),
            f"{dtype} packing": lambda one=one, x=x_two: (one.store.changed(), one(x), one.step(x[:, 0]))[1:],
            f"{dtype} training": lambda two=two, x=x_two: _gradients(two, x),
            f"{dtype} fit": lambda dtype=dtype: fitted(dtype, [6, 0, 5, 6, 1, 2, 3]),
        }
    for name, call in calls.items():
        wanted = call()
        for granted in [*range(100), *range(100, 10_000, 17)]:
            memory.left = granted
            try:
                call()
                break
            except MemoryError:
                pass
            finally:
                memory.left = None
            if granted < 30 or granted % 5 == 0:
                assert_same_bits(call(), wanted)
        assert granted >= 3, name
        print(name, granted)


def _gradients(lstm, x):
    y, state, tape = lstm.forward(x, rng=0)
    grads = lstm.backward(tape, y)
    return y, state, grads.x, grads.state, grads.params


@pytest.mark.skipif(os.name != "posix", reason="NumPy's memory handled by libc")
def test_calls_survive_the_failure_of_any_array():
    """Those of compiled code too, which `allocate` does not see."""
    path = os.pathsep.join([str(Path(lstmx.__file__).parents[1]), str(Path(__file__).parent)])
    code = "import os, test_allocation as t; t.check_every_array(); print('done', flush=True); os._exit(0)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr


def test_working_memory_is_reused_once_nothing_refers_to_it():
    spare = allocate.Spare(limit=1 << 20, smallest=1 << 10, count=4)
    block = spare.take(5000)
    address, view = block.ctypes.data, block[100:200].view(np.float32)
    del block
    other = spare.take(5000)
    assert other.ctypes.data != address  # a view still reads the first
    del view
    assert spare.take(4000).ctypes.data == address
    assert spare.take(2000).ctypes.data != address  # it would waste more than half


def test_spare_memory_is_bounded():
    spare = allocate.Spare(limit=1 << 20, smallest=1 << 10, count=4)
    used = [spare.take(n) for n in (100, 300_000, 1 << 19, 5000, 200_000, 250_000, 150_000, 8000, 9000)]
    assert all(block.nbytes >= n for block, n in zip(used, (100, 300_000), strict=False))
    assert len({block.ctypes.data for block in used}) == len(used)
    assert len(spare._blocks) <= 4 and sum(block.nbytes for block in spare._blocks) <= 1 << 20
    spare.clear()
    assert not spare._blocks


def test_threads_never_share_a_block():
    spare, failed = allocate.Spare(limit=1 << 20, smallest=1 << 10, count=8), []

    def work(mark):
        for _ in range(3000):
            block = spare.take(2000)
            block[:] = mark
            time.sleep(0)
            if (block != mark).any():
                failed.append(mark)

    workers = [threading.Thread(target=work, args=(mark,)) for mark in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed
