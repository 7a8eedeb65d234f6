"""How the tile engine's threads could break: OpenMP's settings, forks, Ctrl-C, subnormals, other threads' changes.

No test asserts a time; LIMIT is when a program counts as hanging.
"""

import gc
import os
import sys
import threading
import tracemalloc

import numpy as np
import pytest
from test_same_bits import CUTS, cutting, problem, same
from test_same_bits import child as run_child

from lstmx import LSTM, RNN, Dense, Last, Sequential
from lstmx._core import loop
from lstmx._core.isa import describe
from lstmx.functional import engine as engines

pytestmark = pytest.mark.skipif(engines.NAME != "tile", reason="about the tile engine's threads")

LIMIT = 20  # seconds until a run counts as hanging
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
threaded_cuts = pytest.mark.parametrize("cut", ["rows", "units"])

START = """
LIMIT = 20
import faulthandler, gc, os, signal, sys, threading, time
import numpy as np, lstmx
from test_same_bits import cutting, everything, problem, same
faulthandler.dump_traceback_later(LIMIT, exit=True)
"""


def child(code, *arguments, **environment):
    return run_child(START + code, *map(str, arguments), timeout=3 * LIMIT, **environment).split()


# ------------------------------------------------------------------------------------------ OpenMP's settings

CALLERS = """
lstm = lstmx.LSTM(30, 200, random_state=0)
p = problem(lstm, 3, 25)
with lstmx.num_threads(1):
    wanted = everything(lstm, p)
failed = []
def work(k):
    try:
        for _ in range(4):
            with lstmx.num_threads(2 + k % 3):
                same(everything(lstm, p), wanted)
    except BaseException as error:
        failed.append(error)
with cutting(sys.argv[1], 2):
    callers = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    [c.start() for c in callers]; [c.join() for c in callers]
print(len(failed), *failed[:1])
"""


@threaded_cuts
@pytest.mark.parametrize(
    "setting",
    [{}, {"OMP_THREAD_LIMIT": "1"}, {"OMP_THREAD_LIMIT": "3"}, {"OMP_DYNAMIC": "true"}, {"OMP_NUM_THREADS": "1"},
     {"OMP_WAIT_POLICY": "passive"}],
    ids=lambda s: " ".join(map("=".join, s.items())) or "none",
)  # fmt: skip
def test_eight_callers_at_once_finish_with_equal_bits_whatever_openmp_gives(setting, cut):
    assert child(CALLERS, cut, **setting) == ["0"]


FLAT = """
import tracemalloc
lstm, one = lstmx.LSTM(3, 20, bidirectional=True, random_state=0), lstmx.LSTM(3, 20, random_state=0)
x = np.ones((4, 5, 3), "f4")
def work(count):
    state = None
    for k in range(count):
        lstm(x[: 1 + k % 4, : 1 + k % 5])
        y, state = one.step(x[:, 0], state)
        lstm.backward(lstm.forward(x)[2], None)
def callers(count):
    made = [threading.Thread(target=work, args=(count,)) for _ in range(8)]
    [c.start() for c in made]; [c.join() for c in made]
    gc.collect()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
callers(100)
tracemalloc.start()
callers(20)
before = tracemalloc.get_traced_memory()[0]
callers(20)
grown = tracemalloc.get_traced_memory()[0] - before
tracemalloc.stop()
before = resident()
callers(1000)
print(grown, resident() - before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
def test_memory_is_flat_over_eight_times_a_thousand_calls():
    python, resident = map(int, child(FLAT))
    assert python < 20_000
    assert resident < 2**22  # 50 bytes a call would be 400 kB: the rest is what allocators keep for the threads


# ------------------------------------------------------------------------------------------ forks

FORK = """
cut, when = sys.argv[1:]
def model():
    return lstmx.Sequential([lstmx.LSTM(5, 80, 2), lstmx.Last(), lstmx.Dense(80, 1)], random_state=0)
x = np.random.default_rng(0).normal(size=(16, 20, 5)).astype("f4")
def fit():
    m = model()
    m.fit(x, x[:, 0, 0], epochs=2, batch_size=8, random_state=0, verbose=0)
    return m.parameters()
with cutting(cut, 3):
    wanted, trained = model().predict(x), fit()
    busy = threading.Thread(target=lambda: [model().predict(x) for _ in range(40)])
    if when == "during":
        busy.start()
    forked = os.fork()
    if forked == 0:
        try:
            signal.alarm(LIMIT)
            assert lstmx.get_num_threads() == 1
            same(model().predict(x), wanted)
            same(fit(), trained)
        except BaseException as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitpid(forked, 0)[1]
    if when == "during":
        busy.join()
    same(model().predict(x), wanted)
print(status)
"""


@forks
@threaded_cuts
@pytest.mark.parametrize("when", ["after", "during"])
def test_a_forked_child_predicts_and_trains_with_equal_bits(cut, when):
    assert child("import warnings; warnings.simplefilter('ignore')\n" + FORK, cut, when) == ["0"]


# ------------------------------------------------------------------------------------------ Ctrl-C

INTERRUPT = """
from lstmx.functional.engine import get_engine
from lstmx.functional.context import SequenceContext
cut, threads, what, times = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
N, T, H = 8, 6000 if what == "backward" else 20000, 512       # seconds of work, of which little is done
lstm = lstmx.LSTM(1, H, random_state=0)
p = problem(lstm, 3, 4)
wanted = everything(lstm, p)
if what == "forward":
    x = np.broadcast_to(np.float32(1), (N, T, 1))
    out = np.zeros((N, T, H), "f4"), tuple(np.zeros((2, 1, N, H), "f4"))
    last = out[0][:, -1]
    def call():
        lstm.stream(x, None, out=out)
else:
    context = SequenceContext(np.full(N, T), T)
    shapes = {"gates": (N * T, 4 * H), "h_prev": (N * T, H), "c_prev": (N * T, H)}
    slabs = {name: np.zeros(shape, "f4") for name, shape in shapes.items()}
    dy, flow = np.zeros((N * T, H), "f4"), np.zeros((N * T, H), "f4")
    dy[0] = 1
    last = flow[0]                                           # the last that backward writes
    def call():
        out = {name[:-3]: np.empty_like(w) for name, w in lstm.parameters().items()}
        dh, dc = np.zeros((2, N, H), "f4")
        get_engine().backward(np.zeros((N * T, 1), "f4"), lstm._weights(0, 0), context, False, slabs, dy, dh, dc, None,
                              False, out, (flow, np.zeros_like(flow)))
done = 0
for k in range(times):
    timer = threading.Timer(0.1 + 0.007 * k, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with cutting(cut, threads):
            call()
            timer.join()
    except KeyboardInterrupt:
        done += not last.any()
same(everything(lstm, p), wanted)
with cutting(cut, threads):
    same(everything(lstm, p), wanted)
print(done)
"""


@posix
@pytest.mark.parametrize("what", ["forward", "backward"])
@pytest.mark.parametrize(
    ("cut", "threads", "times"), [("serial", 1, 2), ("rows", 2, 2), ("units", 2, 5), ("units", 7, 9)]
)
def test_ctrl_c_ends_a_long_call_before_its_end_and_the_model_is_usable(cut, threads, what, times):
    """More threads than cores: some are always a barrier behind when the call is cancelled."""
    assert int(child(INTERRUPT, cut, threads, what, times)[0]) == times


@posix
@pytest.mark.parametrize("what", ["forward", "backward"])
def test_ctrl_c_ends_a_long_call_of_the_blas_engine(what):
    pytest.importorskip("scipy")
    program = INTERRUPT.split("same(everything")[0].replace("wanted = everything(lstm, p)\n", "") + "print(done)"
    program = program.replace("np.broadcast_to(np.float32(1), (N, T, 1))", 'np.ones((N, T, 1), "f4")')
    assert child(program, "serial", 1, what, 2, LSTMX_ENGINE="blas") == ["2"]


FIT = """
lstm, both = lstmx.LSTM(2, 256, random_state=0), lstmx.LSTM(1, 256, bidirectional=True, random_state=0)
model = lstmx.Sequential([lstm, lstmx.Last(), lstmx.Dense(256, 1)], random_state=0)
x = np.ones((32, 400, 2), "f4")
def fit():
    model.fit(x, x[:, 0, 0], epochs=1000, batch_size=8, verbose=0)
def call():
    both(np.broadcast_to(np.float32(1), (1, 1_000_000, 1)))
for work in (fit, call):
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        with cutting("mixed", 3):
            work()
    except KeyboardInterrupt:
        print("interrupted", np.isfinite(model.predict(x[:2, :9])).all(), both(x[:2, :9, :1])[0].shape == (2, 9, 512))
"""


@posix
def test_ctrl_c_ends_a_fit_and_a_call_of_both_directions():
    assert child(FIT) == ["interrupted", "True", "True"] * 2


# ------------------------------------------------------------------------------------------ the control word


@pytest.mark.parametrize("cut", CUTS)
def test_subnormals_are_flushed_inside_and_kept_outside(cut):
    """In every caller: calls that would give subnormal numbers give 0, arithmetic after them does not."""
    lstm = LSTM(20, 100, bias=False, random_state=0)
    p = problem(lstm, 12, 4)
    lstm.set_parameters({"weight_ih_l0": np.full((400, 20), 1e-30)})
    x = np.full_like(p["x"], 1e-11)  # W_ih x is about 1e-40
    found = []

    def work():
        with cutting(cut, 3):
            y, (h, c) = lstm(x)
            z, _, tape = lstm.forward(x)
            lstm.backward(tape, np.full_like(y, 1e-30))
        found.append(not (y.any() or h.any() or c.any() or z.any()))
        found.append(bool(np.float32(1e-38) * np.float32(0.1) > 0))
        found.append(bool((np.full(33, 1e-38, np.float32) * np.float32(0.1) > 0).all()))

    for _ in range(2):
        caller = threading.Thread(target=work)
        caller.start()
        caller.join()
    work()
    assert found == [True] * 9


WORKERS = """
import ctypes
libm, openmp = ctypes.CDLL("libm.so.6"), ctypes.CDLL("libgomp.so.1")
def control():
    state = (ctypes.c_uint32 * 8)()
    libm.fegetenv(state)
    return state[7] & 0xFFC0                                 # MXCSR without the sticky flags
seen = []
note = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: seen.append((threading.get_native_id(), control())))
def look():
    seen.clear()
    openmp.GOMP_parallel(note, None, 3, 0)
    return sorted(seen)
before = look()
lstm = lstmx.LSTM(30, 200, random_state=0)
p = problem(lstm, 12, 20)
for cut in ("rows", "units"):
    with cutting(cut, 3):
        everything(lstm, p)
    assert look() == before, (before, seen)
print(len(before), before[0][1] == control())
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.uname().machine != "x86_64" or not loop.openmp(),
    reason="reads MXCSR in the threads of GCC's OpenMP",
)
def test_the_control_word_is_unchanged_in_worker_threads():
    with open("/proc/self/maps") as file:
        if "libgomp" not in file.read():
            pytest.skip("another OpenMP runtime")
    assert child(WORKERS) == ["3", "True"]


# ------------------------------------------------------------------------------------------ bounds

GUARD = """
import ctypes, math, mmap
from lstmx.functional import allocate
libc = ctypes.CDLL(None)
PAGE = mmap.PAGESIZE
def at_the_end(shape, dtype, alignment=1):
    # An array before a page that may not be touched; as near as its alignment lets it be.
    dtype, shape = np.dtype(dtype), shape if isinstance(shape, tuple) else (shape,)
    count = math.prod(shape)
    room = -(-count * dtype.itemsize // alignment) * alignment
    pages = -(-room // PAGE) + 1
    memory = mmap.mmap(-1, pages * PAGE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert libc.mprotect(ctypes.c_void_p(start + (pages - 1) * PAGE), ctypes.c_size_t(PAGE), 0) == 0
    array = np.frombuffer(memory, dtype, count, (pages - 1) * PAGE - room).reshape(shape)
    array.fill(np.nan if dtype.kind == "f" else 0)
    return array
def moved(array):
    found = at_the_end(array.shape, array.dtype)
    found[...] = array
    return found
plain = allocate.empty, allocate.aligned
def guard(on):
    aligned = lambda shape, dtype, reuse=False: at_the_end(shape, dtype, 64)
    allocate.empty, allocate.aligned = (at_the_end, aligned) if on else plain
"""

GUARD_KERNELS = """
from lstmx.functional import engine
from test_same_bits import COVER
if sys.argv[1] == "general":
    engine.get_engine()._fused = lambda *_: False
for dtype in ("float32", "float64"):
    for I, H in COVER:
        lstm = lstmx.LSTM(I, H, 1 + I % 2, bidirectional=H % 2 == 0, dtype=dtype, random_state=0)
        for N in (1, 2, 13):
            p = problem(lstm, N, 3)
            guard(False)
            lstm.store.changed()
            wanted = everything(lstm, p)
            guard(True)
            lstm.store.changed()                            # panels before a guard page too
            for cut in ("serial", "mixed"):
                with cutting(cut, 3):
                    same(everything(lstm, {k: moved(a) for k, a in p.items()}), wanted)
            if lstm.directions == 1:
                y, (h, c) = lstm(p["x"], (p["h"], p["c"]))
                out = moved(y), (moved(h), moved(c))
                same(lstm.stream(moved(p["x"]), (moved(p["h"]), moved(p["c"])), out=out), (y, (h, c)))
                for n in range(N):
                    same(lstm(moved(p["x"][n]), (moved(p["h"][:, n]), moved(p["c"][:, n])))[0], y[n])
print("done", flush=True)
os._exit(0)
"""

GUARD_CALLS = """
import test_ownership as calls
copied = calls.copied
def at_pages(value):
    value = copied(value)
    if isinstance(value, np.ndarray):
        return value if 0 in value.strides or value.base is not None else moved(value)
    if isinstance(value, dict):
        return {k: at_pages(v) for k, v in value.items()}
    return type(value)(map(at_pages, value)) if type(value) in (list, tuple) else value
def both(program):
    results = []
    for on in (False, True):
        guard(on)
        calls.copied = at_pages if on else copied
        user = calls.User(False)
        program(user)
        results.append(user.results)
    same(*results)
calls.both = both
calls.HIDDEN = int(sys.argv[1])
small = calls.HIDDEN < 64
for form in calls.FORMS if small else ("batch", "one", "one step", "one row", "wide one row", "lengths"):
    calls.test_an_lstm(form, 1, False)
    calls.test_the_functions(form)
    if small:
        calls.test_an_lstm(form, 2, True)
    for head in calls.HEADS if small else ("softmax",):
        calls.test_a_model(head, form)
for shape in ((4, 3), (1, 3), (3,)):
    calls.test_a_stream(shape)
print("done", flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages by mprotect")
@pytest.mark.parametrize("path", ["fused", "general"])
@pytest.mark.parametrize("isa", describe()["usable"])
def test_nothing_is_read_or_written_behind_an_array(isa, path):
    """Parameters' panels, slabs, scratch, inputs and outputs end where a page begins that may not be touched."""
    assert child(GUARD + GUARD_KERNELS, path, LSTMX_ISA=isa) == ["done"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="protects pages by mprotect")
@pytest.mark.parametrize("isa", [pytest.param(i, marks=() if i == describe()["active"] else pytest.mark.long)
                                 for i in describe()["usable"]])  # fmt: skip
@pytest.mark.parametrize("hidden", [7, 65, 255])
def test_no_public_call_reads_or_writes_behind_an_array(isa, hidden):
    """The calls of test_ownership, one row and one step among them, with what they are given and what they allocate."""
    assert child(GUARD + GUARD_CALLS, hidden, LSTMX_ISA=isa) == ["done"]


# ------------------------------------------------------------------------------------------ parameters set meanwhile


def networks():
    layers = {
        "one": lambda: LSTM(4, 40, random_state=0),
        "deep": lambda: LSTM(4, 24, 3, bidirectional=True, random_state=0),
        "rnn": lambda: RNN(4, 24, 2, bidirectional=True, random_state=0),
        "model": lambda: Sequential([LSTM(4, 24, 2), Dense(24, 9, "tanh"), Last(), Dense(9, 2)], random_state=0),
    }
    return pytest.mark.parametrize("make", layers.values(), ids=layers)


def two_sets(network):
    rng = np.random.default_rng(7)
    return [{k: rng.normal(size=p.shape).astype(p.dtype) for k, p in network.parameters().items()} for _ in range(2)]


def predict(network, x, dtype="float32"):
    """By every way: plain arrays and others."""
    x = x.astype(dtype)
    return network.predict(x) if isinstance(network, Sequential) else network(x)[0]


@networks()
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_running_call_keeps_the_parameters_it_began_with(make, dtype, monkeypatch):
    """Parameters set between any two parts of a call change nothing of it."""
    network, x = make(), np.random.default_rng(0).normal(size=(3, 6, 4))
    old, new = two_sets(network)
    wanted = []
    for parameters in (old, new):
        network.set_parameters(parameters)
        wanted.append(predict(network, x, dtype).tobytes())
    engine, left = engines.get_engine(), 0

    def late(part):
        def call(*arguments, **options):
            nonlocal left
            left -= 1
            if left == 0:
                network.set_parameters(new)
            return part(*arguments, **options)

        return call

    for name in ("forward", "product", "stack"):
        monkeypatch.setattr(engine, name, late(getattr(engine, name)), raising=False)
    for moment in range(1, 12):
        network.set_parameters(old)
        left = moment
        assert predict(network, x, dtype).tobytes() in wanted, moment
        if left <= 0:
            assert predict(network, x, dtype).tobytes() == wanted[1], moment


@networks()
def test_a_running_backward_pass_keeps_the_parameters_of_its_tape(make, monkeypatch):
    network, x = make(), np.random.default_rng(0).normal(size=(3, 6, 4)).astype("f4")
    old, new = two_sets(network)
    engine, left = engines.get_engine(), 0

    def gradients():
        tape = network.forward(x)[-1]
        return network.backward(tape, np.ones_like(predict(network, x)))

    def late(part):
        def call(*arguments, **options):
            nonlocal left
            result = part(*arguments, **options)
            left -= 1
            if left == 0:
                network.set_parameters(new)
            return result

        return call

    network.set_parameters(old)
    wanted = gradients()
    monkeypatch.setattr(engine, "backward", late(engine.backward), raising=False)
    for moment in range(1, 7):
        network.set_parameters(old)
        left = moment
        same(gradients()._asdict(), wanted._asdict())


@networks()
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters_set_by_one_thread_while_others_predict_are_the_old_or_the_new(make, dtype):
    network, x = make(), np.random.default_rng(0).normal(size=(3, 6, 4))
    sets = two_sets(network)
    wanted = set()
    for parameters in sets:
        network.set_parameters(parameters)
        wanted.add(predict(network, x, dtype).tobytes())
    found, over = set(), threading.Event()

    def work():
        while not over.is_set():
            found.add(predict(network, x, dtype).tobytes())

    callers = [threading.Thread(target=work) for _ in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for caller in callers:
            caller.start()
        for k in range(300):
            network.set_parameters(sets[k % 2])
    finally:
        over.set()
        for caller in callers:
            caller.join()
        sys.setswitchinterval(interval)
    assert found <= wanted
    assert predict(network, x, dtype).tobytes() in wanted


def test_memory_of_replaced_parameters_is_freed():
    lstm, x = LSTM(8, 64, 2, random_state=0), np.ones((2, 3, 8), np.float32)
    parameters = lstm.parameters()

    def work(count):
        for _ in range(count):
            lstm.set_parameters(parameters)
            lstm(x)
            lstm.backward(lstm.forward(x)[2], None)

    tracemalloc.start()
    try:
        work(5)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        work(30)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
