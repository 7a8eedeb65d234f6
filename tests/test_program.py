"""Compiled programs, pools and rollouts against the layers' general path, and what they promise beside their results:
they allocate nothing, end on Ctrl-C, and take no lock of others.
"""

import contextlib
import gc
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import tracemalloc

import numpy as np
import pytest
from fuzz import Draw
from test_same_bits import CUTS, cutting, same

import lstmx
from lstmx import (
    LSTM,
    Activation,
    Dense,
    Dropout,
    Embedding,
    FinalState,
    Last,
    MeanPool,
    Sequential,
    StreamPool,
    Unmask,
)
from lstmx.functional import engine as engines
from lstmx.functional import kernels
from lstmx.functional.states import leaves
from lstmx.layers.compiled import CompiledLayers
from lstmx.model import rollout

pytestmark = pytest.mark.skipif(engines.NAME != "tile", reason="bits are a promise of the tile engine")

LIMIT = 20  # seconds until a run counts as hanging
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
HERE = os.path.dirname(os.path.dirname(lstmx.__file__))
START = """
    import os, signal, sys, threading, time
    import numpy as np, lstmx
    from lstmx import LSTM, Dense, Last, MeanPool, Sequential, StreamPool
"""


def child(code, *arguments, **environment):
    """The words that a program in a process of its own prints."""
    command = [sys.executable, "-P", "-c", textwrap.dedent(START + code), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": HERE, "PYTHONFAULTHANDLER": "1"} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * LIMIT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


# ------------------------------------------------------------------------------------------ drawn models


def draw_layers(d, tokens):
    """Layers of every kind that a program has, in any order that a model takes; the last width fits a rollout."""
    sizes, shared = (1, 2, 3, 8, 9, 16, 17, 33), list(kernels.ACTIVATIONS)
    width = d.one(*sizes)
    layers = [Embedding(tokens, width)] if tokens else []
    for _ in range(d.one(0, 1, 1, 1, 2, 3)):
        if d.one(False, False, True):
            layers.append(d.one(Dropout(0.5), Activation(d.one("tanh", "sigmoid", "softmax")), Unmask()))
        if d.one(False, False, True):
            layers.append(Dense(width, width := d.one(*sizes), d.one(*shared)))
        H = d.one(*sizes)
        cell, proj = d.cell(5, H)
        proj = proj if proj < H else 0
        layers.append(LSTM(width, H, d.one(1, 1, 2, 3), proj_size=proj, cell=cell, bias=d.one(True, True, False)))
        width = proj or H
    if not layers or d.one(False, True):
        layers.append(Dense(width, width := d.one(*sizes), d.one(*shared)))
    recurrent = isinstance(layers[-1], LSTM)
    layers += d.one([], [], [Last()], [MeanPool()], [FinalState()] if recurrent else [Last()])
    if tokens or d.one(False, True):
        layers.append(Dense(width, tokens or d.one(*sizes), "softmax" if tokens else d.one(*shared)))
    if d.one(False, False, True):
        layers.append(Dropout(0.5) if tokens else Activation("tanh"))
    return layers


def draw_model(d, tokens):
    model = Sequential(draw_layers(d, tokens), random_state=int(d.rng.integers(100))).astype(d.dtype)
    values = {name: d.rng.uniform(-0.6, 0.6, p.shape) for name, p in model.parameters().items()}
    model.set_parameters(values)
    return model


def draw_x(d, model, tokens, *lead):
    return d.rng.integers(0, tokens, lead) if tokens else d.normal(*lead, model.input_size)


def laid(d, x):
    """The same numbers where a program reads them: contiguous, time first, within larger arrays, or read-only."""
    if x.ndim < 2:
        return x
    kind = d.one("plain", "time first", "within", "read-only")
    if kind == "time first":
        return np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1) if x.ndim > 2 else x
    if kind == "within":
        wide = np.zeros([n + 2 for n in x.shape], x.dtype)
        view = wide[tuple(slice(1, n + 1) for n in x.shape)]
        view[...] = x
        return view
    x = x.copy()
    x.flags.writeable = kind != "read-only"
    return x


def copied(value):
    if isinstance(value, tuple):
        return tuple(map(copied, value))
    return None if value is None else value.copy()


@pytest.fixture
def paths(monkeypatch):
    """Within ``paths("general")`` or ``paths("compiled")`` calls go that way, and no other; within ``paths("loop")``
    rollouts, which may read what is known either way.
    """
    loop = rollout._Reader.loop

    def compiled(*given):
        found = loop(*given)
        assert found is not None, "the general path"
        return found

    @contextlib.contextmanager
    def way(name):
        with monkeypatch.context() as patch:
            if name == "general":
                for name in ("run", "stream"):
                    patch.setattr(CompiledLayers, name, lambda *_: None)
                patch.setattr(rollout._Reader, "loop", lambda *_: None)
            elif name == "loop":
                patch.setattr(rollout._Reader, "loop", compiled)
            else:
                patch.setattr(StreamPool, "_advance", lambda *_: pytest.fail("the general path"))
                patch.setattr(Sequential, "forward_rows", lambda *_: pytest.fail("the general path"))
            yield

    return way


def bits(value):
    return [a.tobytes() for a in leaves(value)]


def check_streams(d, model, tokens, paths):
    """A stream in chunks of any length, with `out` or without; what is given stays as it is."""
    lead = d.one((), (1,), (2,), (5,), (13,), (40,), (300,))
    T = d.one(1, 2, 9, 30) if lead != (300,) else 7
    if not lead:
        T = d.one(3, 30, 1100)
    x = draw_x(d, model, tokens, *lead, T)
    state, wanted_state, t = None, None, 0
    while t < T:
        k = int(d.rng.integers(1, T - t + 1))
        step = k == 1 and d.one(True, False)
        block = x[(*[slice(None)] * len(lead), t if step else slice(t, t + k))]
        call = model.step if step else model.stream
        with paths("general"):
            wanted = call(block, wanted_state)
        if not (block.ndim or not tokens):  # a single integer is no array
            found = call(block, state)
        else:
            block, before = laid(d, block), bits(state)
            with paths("compiled"):
                found = call(block, state)
                assert bits(state) == before
                out = copied(found)
                for array in leaves(out):
                    array.fill(7)
                if state is not None and d.one(True, False):  # in place
                    out = out[0], copied(state)
                    again = call(block, out[1], out=out)
                else:
                    again = call(block, state, out=out)
                assert again[0] is out[0] and again[1] is out[1]
                assert bits(again) == bits(found)
        assert bits(found) == bits(wanted), (k, step)
        state, wanted_state = found[1], wanted[1]
        t += k


def check_pool(d, model, tokens, paths):
    """Sessions in any company, with `out` or without."""
    N, T = d.one(1, 3, 17), 12
    x = draw_x(d, model, tokens, N, T)
    pool, done = StreamPool(model, N + 2), np.zeros(N, np.int64)
    pool.close(pool.open(2)[:1])
    ids = pool.open(N)
    with paths("general"):
        per_step = model.predict(x) if model.per_step else None
    for _ in range(8):
        k = int(d.rng.integers(1, 4))
        some = d.rng.permutation(np.flatnonzero(done + k <= T))[: d.rng.integers(1, N + 1)]
        if not len(some):
            break
        step = k == 1 and d.one(True, False)
        frames = np.stack([x[n, done[n]] if step else x[n, done[n] : done[n] + k] for n in some])
        done[some] += k
        shape = (len(some), model.output_size) if step or not model.per_step else (len(some), k, model.output_size)
        out = np.full(shape, 7, model.dtype) if d.one(True, False) else None
        with paths("compiled"):
            y = pool.push(ids[some], laid(d, frames), out=out)
        assert out is None or y is out
        for n, own in zip(some, y, strict=True):
            if model.per_step:
                same(own, per_step[n, done[n] - 1] if step else per_step[n, done[n] - k : done[n]])
            else:
                with paths("general"):
                    same(own, model.predict(x[n, : done[n]]))


def check_rollout(d, model, tokens, paths):
    """The closed loop, carried and by windows."""
    N, steps, window = d.one(1, 2, 5), d.one(1, 2, 7), d.one(None, None, 1, 4)
    x = draw_x(d, model, tokens, N, 6)
    options = {"window": window, "random_state": 3, "return_state": window is None}
    if tokens:
        options["feedback"] = d.one("argmax", "sample")
    else:
        I, O = model.input_size, model.output_size
        feedback = [*d.rng.permutation(I)[:O].tolist(), *[None] * max(0, O - I)]
        free = I - sum(f is not None for f in feedback)
        options |= {"feedback": feedback, "noise": d.one(None, 0.5)}
        options["exog"] = d.normal(N, steps - 1, free) if free and steps > 1 else None
    if options.get("noise") or options["feedback"] == "sample":
        options["paths"] = d.one(None, 1, 30)
    with paths("loop"):
        found = model.rollout(x, steps, **options)
    with paths("general"):
        wanted = model.rollout(x, steps, **options)
    assert bits(found) == bits(wanted)


CASES = [pytest.param(k, marks=[pytest.mark.long] * (k >= 60)) for k in range(600)]


@pytest.mark.parametrize("case", CASES)
def test_drawn_models_have_the_bits_of_the_general_path(case, paths):
    d = Draw(case)
    tokens = d.one(0, 0, 0, 11)
    model = draw_model(d, tokens)
    assert CompiledLayers(model.layers).program is not None
    with np.errstate(over="ignore", invalid="ignore"), cutting(d.one(*CUTS), d.one(1, 2, 3)):
        check_streams(d, model, tokens, paths)
        check_pool(d, model, tokens, paths)
        check_rollout(d, model, tokens, paths)


def test_ids_and_frames_in_any_form_take_the_compiled_push(paths):
    model = Sequential([LSTM(3, 4), Dense(4, 2)], random_state=0)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype("f4")
    wanted, wide = model.predict(x), np.repeat(x, 2, axis=2)
    for frames in (x, x.astype("f8"), x.astype(">f4"), x.tolist(), wide[..., ::2], np.asfortranarray(x), x[:, ::-1]):
        for form in (np.asarray, list, tuple, lambda ids: ids.astype("u4"), lambda ids: np.repeat(ids, 2)[::2]):
            pool, out = StreamPool(model, 2), np.empty_like(wanted)
            ids = form(pool.open(2))
            with paths("compiled"):
                assert pool.push(ids, frames, out=out) is out
                again = StreamPool(model, 2)
                found = again.push(form(again.open(2)), frames)
            same(out, found)
            same(out, wanted if np.array_equal(frames, x) else model.predict(x[:, ::-1]))


def test_a_count_that_is_given_is_never_divided_by_0(paths):
    model = Sequential([LSTM(2, 3), MeanPool()], random_state=0)
    x = np.ones((1, 4, 2), "f4")
    total, count = model.stream(x)[1][1]
    for given in (-4, -9):
        state = model.stream(x)[1][0], (total, np.full_like(count, given))
        with paths("general"):
            wanted = model.stream(x, state)
        with paths("compiled"):
            assert bits(model.stream(x, state)) == bits(wanted)


# ------------------------------------------------------------------------------------------ threads and room


SMALL_TEAM = """
    deep = Sequential([LSTM(2, 3, 150), Dense(3, 2)], random_state=0)
    x = np.random.default_rng(0).normal(size=(64, 4, 2)).astype("f4")
    lstmx.set_num_threads(1)
    wanted = deep.rollout(x, 9), deep.rollout(x[:, :3], 5, window=3)
    lstmx.set_num_threads(16)      # of which the process gets 2
    print(all(np.array_equal(deep.rollout(x, 9), wanted[0])
              and np.array_equal(deep.rollout(x[:, :3], 5, window=3), wanted[1]) for _ in range(3)))
"""


def test_a_team_smaller_than_wanted_has_room_for_its_larger_shares():
    assert child(SMALL_TEAM, OMP_THREAD_LIMIT="2", OMP_DYNAMIC="false") == ["True"]


def test_a_step_of_a_wide_layer_may_have_threads(monkeypatch):
    """Its weights come from the third cache, or from memory: that is shared out, though operations are few."""
    asked = []
    monkeypatch.setattr(engines.threads, "get_num_threads", lambda: asked.append(1) or 1)
    for H, wide in ((512, True), (64, False)):
        model = Sequential([LSTM(H, H), Dense(H, 1)], random_state=0)
        x = np.ones((1, H), "f4")
        pool = StreamPool(model, 2)
        for call in (lambda m=model, x=x: m.step(x), lambda p=pool, x=x: p.push(p.open(1), x)):
            asked.clear()
            call()
            assert bool(asked) == wide


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs affinity")
def test_the_core_counts_the_cpus_that_affinity_leaves():
    from lstmx._core import loop

    assert loop.cpus() in (0, len(os.sched_getaffinity(0)))
    assert lstmx.functional.threads._cpus() == len(os.sched_getaffinity(0))


def run_threads(works):
    failures = []

    def guarded(work):
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3 * LIMIT)
    assert not failures and not any(thread.is_alive() for thread in threads), failures


def wide_model(dtype="float32"):
    return Sequential([LSTM(3, 40, 2), Dense(40, 3)], random_state=0).astype(dtype)


def test_rollouts_streams_and_pushes_of_eight_threads_have_equal_bits():
    model, shared = wide_model(), StreamPool(wide_model(), 400)
    x = np.random.default_rng(0).normal(size=(200, 12, 3)).astype("f4")
    whole, future = model.predict(x), model.rollout(x, 20)

    def roll():
        for _ in range(3):
            same(model.rollout(x, 20), future)

    def push(pool):
        ids = pool.open(200)
        for t in range(0, 12, 3):
            same(pool.push(ids, x[:, t : t + 3]), whole[:, t : t + 3])
        pool.close(ids)

    def stream():
        state = None
        for t in range(0, 12, 4):
            y, state = model.stream(x[:, t : t + 4], state)
            same(y, whole[:, t : t + 4])

    with lstmx.num_threads(3):
        own = [lambda: push(StreamPool(model, 200))] * 2
        run_threads([roll, roll, lambda: push(shared), lambda: push(shared), stream, stream, *own])


FORK = """
    import warnings
    warnings.simplefilter("ignore")                         # Python's, of a fork beside threads
    model = Sequential([LSTM(3, 40, 2), Dense(40, 3)], random_state=0)
    x = np.random.default_rng(0).normal(size=(200, 12, 3)).astype("f4")
    whole, future = model.predict(x), model.rollout(x, 20)
    pool = StreamPool(model, 200)
    ids = pool.open(200)
    with lstmx.num_threads(2):
        pool.push(ids, x[:, :6])
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            equal = np.array_equal(pool.push(ids, x[:, 6:]), whole[:, 6:])
            os._exit(0 if equal and np.array_equal(model.rollout(x, 20), future) else 1)
        print(os.waitpid(pid, 0)[1], np.array_equal(pool.push(ids, x[:, 6:]), whole[:, 6:]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_goes_on():
    assert child(FORK) == ["0", "True"]


def test_a_pool_that_is_held_holds_no_other():
    model = wide_model()
    held, others = StreamPool(model, 2), [StreamPool(model, 2) for _ in range(2)]
    x, done = np.ones((2, 3), "f4"), []
    held.open(2)

    def use(pool):
        pool.push(pool.open(2), x)
        pool.reset([0])
        pool.snapshot()
        done.append("other")

    waiting = threading.Thread(target=lambda: (held.push(np.arange(2), x), done.append("held")))
    with held._turns.turn:
        waiting.start()
        run_threads([lambda p=p: use(p) for p in others])
        model.rollout(np.ones((1, 2, 3)), 3)
        assert done == ["other", "other"]
    waiting.join(LIMIT)
    assert done == ["other", "other", "held"]


def test_memory_that_is_lacking_when_parameters_change_leaves_a_pool_as_it_was(monkeypatch):
    model, x = wide_model(), np.ones((2, 3), "f4")
    pool = StreamPool(model, 2)
    ids = pool.open(2)

    def fail(*_):
        raise MemoryError

    model.set_parameters(model.parameters())
    with monkeypatch.context() as patch:
        patch.setattr(type(engines.get_engine()), "sessions", fail)
        for _ in range(2):
            with pytest.raises(MemoryError):
                pool.push(ids, x)
    monkeypatch.setattr(StreamPool, "_advance", lambda *_: pytest.fail("the general path"))
    same(pool.push(ids, x), model.predict(x[:, None])[:, 0])


def test_outputs_do_not_go_over_ids():
    pool = StreamPool(Sequential([LSTM(2, 4)], random_state=0), 2)
    both = np.concatenate([pool.open(2)] * 2)
    with pytest.raises(ValueError, match=r"^out: overlaps with what is read"):
        pool.push(both[:2], np.ones((2, 2), "f4"), out=both.view("f4").reshape(2, 4))
    assert both.tolist() == [0, 1, 0, 1] and not pool.state(0)[0][0].any()


FAR = """
    import mmap
    row = 2**31 + 64                                        # values: beyond the integers of BLAS
    memory = mmap.mmap(-1, 4 * (row + 64), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000)  # MAP_NORESERVE
    flat = np.frombuffer(memory, "f4")
    x = np.lib.stride_tricks.as_strided(flat, (2, 5), (4 * row, 4))
    x[...] = np.random.default_rng(0).normal(size=(2, 5))
    model = Sequential([LSTM(5, 6), Dense(6, 2)], random_state=0)
    pool = StreamPool(model, 2)
    print(np.array_equal(pool.push(pool.open(2), x), model.step(x.copy())[0]), np.array_equal(*[
        model.step(a)[0] for a in (x, x.copy())]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs address space without memory")
@pytest.mark.parametrize("engine", ["tile", "blas"])
def test_rows_that_lie_far_apart(engine):
    if engine == "blas":
        pytest.importorskip("scipy")
    assert child(FAR, LSTMX_ENGINE=engine) == ["True", "True"]


# ------------------------------------------------------------------------------------------ Ctrl-C

INTERRUPT = """
    def made(*layers):
        model = Sequential(layers, random_state=0)
        rng = np.random.default_rng(1)
        model.set_parameters({k: rng.uniform(-0.5, 0.5, p.shape) for k, p in model.parameters().items()})
        return model

    # Minutes of work, in blocks that are short for themselves or long: of all of it little is done.
    small, wide, caught = made(LSTM(1, 4), Dense(4, 1)), made(LSTM(1, 512), Dense(512, 1)), 0
    for what in sys.argv[1:]:
        model = wide if "wide" in what else small
        N, T = (8, 10**6) if model is wide else (1, 10**8)
        x = np.zeros((N, T, 1), "f4")                       # pages that nobody has written to are no memory
        out = np.zeros((N, T, 1), "f4")
        pool = StreamPool(model, N + 1)
        ids, short = pool.open(N), np.ones((N, 3, 1), "f4")
        y = pool.push(ids, short)
        before = [a.tobytes() for a in pool._arrays]
        state = model.stream(short)[1]
        timer = threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            if "push" in what:
                pool.push(ids, x, out=out)
            elif "rollout" in what:
                model.rollout(np.ones((1000 if "many" in what else 1, 2, 1)), 10**5 if "many" in what else 10**7)
            else:
                model.stream(x, None, out=(out, state))
            timer.join()
        except KeyboardInterrupt:
            caught += not out[:, -1].any()
        assert [a.tobytes() for a in pool._arrays] == before
        assert np.array_equal(model.stream(short)[0], y)
        assert np.array_equal(pool.push(ids, short), model.stream(np.concatenate([short, short], axis=1))[0][:, 3:])
    print(caught)
"""


@posix
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.long), 2])
def test_ctrl_c_ends_long_calls_and_sessions_are_as_they_were(threads):
    calls = "stream", "wide stream", "push", "wide push", "wide rollout", "wide rollout of many"
    assert child(INTERRUPT, *calls, OMP_NUM_THREADS=str(threads)) == [str(len(calls))]


HANDLER = """
    model, seen, tiny = Sequential([LSTM(1, 4), Dense(4, 1)], random_state=0), [], float("1e-310")
    pool = StreamPool(model, 500)
    x = np.zeros((1, 10**6, 1), "f4")

    def handler(*_):
        seen.append(tiny * 0.5 > 0)

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    calls = (lambda: model.rollout(np.ones((300, 2, 1)), 3000), lambda: model.stream(x),
             lambda: pool.push(pool.open(1), x))
    for call in calls:
        before = len(seen)
        while len(seen) < before + 3:
            call()
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(all(seen))
"""


@posix
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.long), 2])
def test_signal_handlers_within_calls_see_subnormals(threads):
    assert child(HANDLER, OMP_NUM_THREADS=str(threads)) == ["True"]


def test_subnormals_of_a_rollout_are_those_of_steps(paths):
    """They are flushed within layers, and not in what is between them."""
    model = Sequential([MeanPool(), Dense(2, 2)], random_state=0).astype("float64")
    x, noise = np.full((2, 5, 2), 3e-308), np.full((2, 8, 2), 1e-310)
    for p in (model, Sequential([LSTM(2, 2), MeanPool()], random_state=0).astype("float64")):
        with paths("loop"):
            found = p.rollout(x, 8, noise=noise)
        with paths("general"):
            same(found, p.rollout(x, 8, noise=noise))


# ------------------------------------------------------------------------------------------ real-time use

COUNTER = """
#define _GNU_SOURCE
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>
extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
int counting;
long counted;
static void count(void) { if (counting) __atomic_add_fetch(&counted, 1, __ATOMIC_RELAXED); }
void *malloc(size_t n) { count(); return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { count(); return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { count(); return __libc_realloc(p, n); }
void *aligned_alloc(size_t line, size_t n) { count(); return __libc_memalign(line, n); }
void *memalign(size_t line, size_t n) { count(); return __libc_memalign(line, n); }
int posix_memalign(void **p, size_t line, size_t n) {
    count();
    *p = __libc_memalign(line, n);
    return *p ? 0 : ENOMEM;
}
void *mmap(void *at, size_t n, int kind, int flags, int file, long offset) {
    count();
    return (void *)syscall(SYS_mmap, at, n, kind, flags, file, offset);
}
"""

PUSHES = """
    import ctypes, tracemalloc
    from lstmx import Cell

    counting, counted = (kind.in_dll(ctypes.CDLL(None), name) for kind, name in
                         ((ctypes.c_int, "counting"), (ctypes.c_long, "counted")))
    counting.value = 1
    ctypes.create_string_buffer(100_000)
    assert counted.value > 0                                # it counts
    N, H = 300, 48                                          # work enough for two threads
    models = [
        [LSTM(8, H)], [LSTM(8, H), Dense(H, 3)], [LSTM(8, H, 2)],
        [LSTM(8, H, cell=Cell(layer_norm="haste")), Dense(H, 1)],
        [LSTM(8, H, dtype="float64"), Dense(H, 3, dtype="float64")], [LSTM(8, H), MeanPool(), Dense(H, 2, "softmax")],
    ]
    opened = []
    sys.addaudithook(lambda event, _: opened.append(event) if event.startswith(("open", "os.", "tempfile")) else None)
    for layers in models:
        model = Sequential(layers, random_state=0)
        pool, rng = StreamPool(model, N), np.random.default_rng(0)
        ids, width = pool.open(N), model.output_size
        some = [rng.permutation(ids)[:count] for count in (N, 250, 1)]
        frames = rng.normal(size=(N, 8)).astype(model.dtype)
        calls = [(chosen, frames[: len(chosen)], np.empty((len(chosen), width), model.dtype)) for chosen in some]
        calls.append((calls[0][0], rng.normal(size=(N, 2, 8)).astype(model.dtype),
                      np.empty((N, 2, width) if model.per_step else (N, width), model.dtype)))

        def pushes(count, pool=pool, calls=calls):
            for k in range(count):
                chosen, frame, out = calls[k & 3]
                pool.push(chosen, frame, out=out)

        pushes(20)
        opened.clear()
        counted.value = 0
        pushes(1000)
        found = counted.value
        files = len(opened)
        tracemalloc.start()
        pushes(8)
        tracemalloc.clear_traces()
        start = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        pushes(8)
        peak = tracemalloc.get_traced_memory()[1] - start
        tracemalloc.stop()
        print(found, files, peak < 2000)
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory):
    """A library that counts the allocations of a process it is preloaded into."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs a C compiler, and libraries that are loaded before others")
    folder = tmp_path_factory.mktemp("counter")
    (folder / "counter.c").write_text(COUNTER)
    command = [compiler, "-O1", "-shared", "-fPIC", "-o", str(folder / "counter.so"), str(folder / "counter.c")]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("the C library has no such functions beneath malloc")
    return folder / "counter.so"


@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer has an allocator of its own")
@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_push_allocates_nothing_and_opens_no_file(counter, threads):
    """As the process sees it. Small objects of Python's (a method, an integer) come from memory that it keeps, and are
    not counted; they are some hundred bytes at most.
    """
    lines = child(PUSHES, LD_PRELOAD=str(counter), OMP_NUM_THREADS=str(threads), PYTHONMALLOC="pymalloc")
    assert lines == ["0", "0", "True"] * 6


def test_memory_stays_flat_over_many_shapes():
    model, rng = Sequential([LSTM(3, 8, 2), Dense(8, 3)], random_state=0), np.random.default_rng(0)

    def calls(count):
        for _ in itertools.repeat(None, count):
            x = np.zeros((*rng.integers(1, 40, size=2), 3), "f4")
            _, state = model.stream(x)
            model.stream(x, state, out=model.stream(x, state))
            model.step(x[:, 0], state)
            model.rollout(x, int(rng.integers(1, 30)), window=rng.choice([None, 1]))

    tracemalloc.start()
    try:
        calls(100)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        calls(200)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000
