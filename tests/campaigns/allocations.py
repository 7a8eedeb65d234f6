"""Every allocation of a call fails, one after the other: a MemoryError, nothing changed, nothing kept.

A case is a call on a model of random sizes, and a way to fail: by the counter of `lstmx.functional.allocate`, or by a
malloc that is preloaded (malloc.c) and refuses the n-th block of at least `LARGE` bytes, or that and all after it;
arrays, Python's and other libraries' blocks, but not what NumPy needs beside its arrays. n counts up until the call
succeeds. After each failure the model must be as before and the same call give the same bits.
The whole is done twice: what is held after the second time and was not after the first is a leak.
"""

import contextlib
import ctypes
import functools
import gc
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import lstmx
from lstmx.functional import allocate

from . import Failed, run_cases

NAME = "allocations"
TITLE = "The failure of every allocation"
LARGE = 2048  # bytes: smaller blocks are mostly Python's own
LIMIT = 120  # seconds of a case
EACH = 60  # the first allocations fail one by one; of those after them ever fewer
WAYS = "counter", "one", "all after"
LEAK = 32 << 10  # bytes of large blocks that may be held afterwards: Python's dicts and lists grow
N, T = 9, 17
HANDLER = ctypes.c_char_p(b"mem_handler")  # NumPy asks for this name, and keeps no copy


def run(seconds, first):
    """Cases in children which have the malloc preloaded."""
    with tempfile.TemporaryDirectory() as folder:
        return run_cases(NAME, seconds, first, LIMIT, LD_PRELOAD=build(folder), OPENBLAS_NUM_THREADS="1")


def available():
    """Whether malloc.c can be built: by GCC, for glibc."""
    return os.name == "posix" and bool(shutil.which("gcc")) and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")


def build(folder):
    """The path of the library that malloc.c makes."""
    if not available():
        raise Failed("needs gcc and glibc, for a malloc that fails and measures")
    path = Path(folder, "malloc.so")
    source = Path(__file__).with_name("malloc.c")
    subprocess.run(["gcc", "-std=gnu11", "-O2", "-shared", "-fPIC", str(source), "-o", str(path)], check=True)
    return str(path)


class Malloc:
    """The preloaded malloc."""

    def __init__(self):
        library = ctypes.CDLL(None)
        self.watch, self.refuse = library.lstmx_test_watch, library.lstmx_test_refuse
        self.refused, self.held = library.lstmx_test_refused, library.lstmx_test_held
        self.largest = library.lstmx_test_largest
        self.watch.argtypes, self.refuse.argtypes = [ctypes.c_size_t], [ctypes.c_long, ctypes.c_int]
        self.refused.restype = self.held.restype = ctypes.c_long
        self.largest.restype = ctypes.c_size_t


@functools.cache
def malloc():
    """The one of this process, which watches from now on, NumPy's arrays too."""
    found = Malloc()
    found.watch(LARGE)
    handler = ctypes.c_char.in_dll(ctypes.CDLL(None), "lstmx_test_arrays")
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    core = getattr(np, "_core", None) or np.core
    api = ctypes.cast(get(core._multiarray_umath._ARRAY_API, None), ctypes.POINTER(ctypes.c_void_p))
    set_handler = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.py_object)(api[304])  # PyDataMem_SetHandler
    set_handler(new(ctypes.addressof(handler), HANDLER, None))
    return found


class Job:
    """A call that is to fail, and how to see that it left nothing behind.

    Attributes
    ----------
    call : callable
        Its results are arrays, nested.
    state : callable
        Arrays, or bytes, of all that must be as before after a failure.
    undo : callable
        Takes back what a call that succeeds has changed.
    """

    def __init__(self, call, state, undo=lambda: None):
        self.call, self.state, self.undo = call, state, undo


def parts(found):
    """All arrays and bytes of a nested result, in order."""
    if isinstance(found, dict):
        return [part for key in found for part in parts(found[key])]
    if isinstance(found, tuple | list):
        return [part for one in found for part in parts(one)]
    return [np.asarray(found)] if isinstance(found, np.ndarray | np.generic | float) else [found]


def same(found, wanted):
    """Whether nested results have equal bits; a NaN is equal to itself."""
    found, wanted = parts(found), parts(wanted)
    return len(found) == len(wanted) and all(
        (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) if isinstance(b, np.ndarray) else a == b
        for a, b in zip(found, wanted, strict=True)
    )


class Draw:
    """The model and the data of a case."""

    def __init__(self, number):
        rng = self.rng = np.random.default_rng(number)
        self.dtype = str(rng.choice(["float32", "float64"]))
        sizes = (1, 24), (8, 72), (1, 3)
        self.inputs, self.hidden, self.layers = (int(rng.integers(*between)) for between in sizes)
        self.both = bool(rng.integers(2))
        self.lengths = [*rng.integers(0, T + 1, N - 1).tolist(), T] if rng.integers(2) else None
        self.x = rng.normal(size=(N, T, self.inputs)).astype(self.dtype)

    def lstm(self, both=None):
        """An LSTM with drawn sizes."""
        both = self.both if both is None else both
        return lstmx.LSTM(self.inputs, self.hidden, self.layers, bidirectional=both, dtype=self.dtype, random_state=0)

    def model(self, both=None, outputs=3, head=True):
        """A Sequential around it."""
        lstm = self.lstm(both)
        head = [lstmx.MeanPool()] if head else []
        dense = lstmx.Dense(lstm.output_size(), outputs, dtype=self.dtype)
        return lstmx.Sequential([lstm, *head, dense], random_state=0)


def _forward(draw, folder):
    lstm = draw.lstm()
    return Job(lambda: lstm(draw.x, lengths=draw.lengths), lstm.parameters)


def _backward(draw, folder):
    lstm = draw.lstm()

    def call():
        y, state, tape = lstm.forward(draw.x, lengths=draw.lengths, rng=0)
        grads = lstm.backward(tape, y)
        return y, state, grads.x, grads.state, grads.params

    return Job(call, lstm.parameters)


def _trace(draw, folder):
    lstm = draw.lstm()

    def call():
        trace = lstm.trace(draw.x, lengths=draw.lengths)
        return [getattr(trace, name)[0, 0] for name in "ifgoch"]

    return Job(call, lstm.parameters)


def _packing(draw, folder):
    """A call that packs the weights anew."""
    lstm = draw.lstm()

    def call():
        lstm.set_parameters({"bias_l0": lstm.parameters()["bias_l0"]})
        return lstm(draw.x)

    return Job(call, lstm.parameters)


def _predict(draw, folder):
    model = draw.model()
    size = draw.rng.choice([None, 4])
    return Job(lambda: model.predict(draw.x, lengths=draw.lengths, batch_size=size), model.parameters)


def _fit(draw, folder):
    """A fit that fails keeps finite weights; the next one, of a new model, is as ever."""
    y, fresh = draw.rng.normal(size=(N, 3)), draw.model()
    kept = [fresh]

    def fit():
        kept[0] = model = fresh.copy()
        model.fit(draw.x, y, lengths=draw.lengths, epochs=1, batch_size=4, random_state=0, verbose=0)
        return model.parameters(), model.predict(draw.x)

    def state():
        arrays = kept[0].predict(draw.x), *kept[0].parameters().values()
        return all(bool(np.isfinite(a).all()) for a in arrays)

    return Job(fit, state)


def _save(draw, folder):
    model, path = draw.model(), Path(folder, "saved.safetensors")
    model.save(path)
    after = path.read_bytes()
    draw.model(outputs=2).save(path)
    before = path.read_bytes()

    def undo():
        if path.read_bytes() != after:
            raise Failed("a save that went through did not write what it must")
        path.write_bytes(before)

    return Job(lambda: model.save(path), lambda: (path.read_bytes(), os.listdir(folder), model.parameters()), undo)


def _load(draw, folder):
    path = Path(folder, "loaded.safetensors")
    draw.model().save(path)
    return Job(lambda: lstmx.load(path).parameters(), path.read_bytes)


def _stream(draw, folder):
    lstm = draw.lstm(both=False)
    state = lstm(draw.x)[1]
    return Job(lambda: (lstm.stream(draw.x, state), lstm.step(draw.x[:, 0], state)), lambda: (lstm.parameters(), state))


def _push(draw, folder):
    pool = lstmx.StreamPool(draw.model(both=False, head=False), N + 3)
    ids = pool.open(N)
    pool.push(ids, draw.x[:, :2])
    before = pool.snapshot()
    return Job(lambda: pool.push(ids, draw.x), lambda: (pool.ids, pool.state(ids)), lambda: pool.restore(before))


def _rollout(draw, folder):
    model = draw.model(both=False, outputs=draw.inputs, head=False)
    return Job(lambda: model.rollout(draw.x, 6), model.parameters)


CALLS = (
    _forward, _backward, _trace, _packing, _predict, _fit, _save, _load, _stream, _push, _rollout
)  # fmt: skip


def names():
    """Of the calls, as `case` counts them."""
    return [make.__name__[1:] for make in CALLS]


def case(number):
    """One call, and one way to fail."""
    draw, make, way = Draw(number), CALLS[number % len(CALLS)], WAYS[number // len(CALLS) % len(WAYS)]
    threads = int(draw.rng.integers(1, 3))
    with tempfile.TemporaryDirectory() as folder, lstmx.num_threads(threads):
        job = make(draw, folder)
        wanted, state = job.call(), None
        job.undo()
        state, held, failures = job.state(), [], 0
        for _ in range(2):
            failures += _sweep(job, way, wanted, state)
            allocate.spare.clear()
            gc.collect()
            held.append(malloc().held())
        if held[1] - held[0] > LEAK:
            raise Failed(f"{held[1] - held[0]} bytes are held after {failures // 2} failures, by {way}")
    return {make.__name__[1:]: failures, f"by {way}": failures, "failures": failures}


def _sweep(job, way, wanted, state):
    """The call with ever more allocations granted, until it succeeds; how often it failed."""
    failures, granted = 0, 0
    while True:
        try:
            with _failing(way, granted) as refused:
                found = job.call()
            if not same(found, wanted):
                raise Failed(f"other results with {granted} allocations, by {way}")
            job.undo()
            if not refused():
                return failures
        except MemoryError:
            failures += 1
        if not same(job.state(), state):
            raise Failed(f"changed by the failure of allocation {granted}, by {way}")
        if failures < 20 or failures % 7 == 0:
            if not same(job.call(), wanted):
                raise Failed(f"other results after the failure of allocation {granted}, by {way}")
            job.undo()
        granted += 1 if granted < EACH else 1 + granted // 16


@contextlib.contextmanager
def _failing(way, granted):
    """Allocations fail after so many; gives whether one did."""
    before = malloc().refused()
    if way == "counter":
        allocate._allocations_left = granted
    else:
        malloc().refuse(granted, way == "all after")
    try:
        yield lambda: malloc().refused() > before
    finally:
        allocate._allocations_left = None
        malloc().refuse(-1, 0)
