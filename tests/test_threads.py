"""Threads change neither bits nor the ability to finish."""

import gc
import os
import signal
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

import lstmx
from lstmx._core import job, loop
from lstmx.functional import allocate, threads
from lstmx.functional.read import sequences

LIMIT = 20  # seconds until a run counts as hanging


@pytest.fixture
def fine_grain():
    """Threads even for tiny calls."""
    before = job.set_limits(0, 0, 1)
    yield
    job.set_limits(*before)


def make(seed=0, dtype="float32"):
    rng = np.random.default_rng(seed)
    lstm = lstmx.LSTM(5, 17, num_layers=2, bidirectional=True, dtype=dtype, random_state=seed)
    return lstm, rng.normal(size=(13, 9, 5)).astype(dtype), rng.integers(0, 10, size=13)


def everything(lstm, x, lengths):
    y, state, tape = lstm.forward(x, lengths=lengths)
    grads = lstm.backward(tape, np.cos(y))
    return [y, *state, lstm(x, lengths=lengths)[0], grads.x, *grads.state, *grads.params.values()]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [2, 3, 7])
def test_bits_do_not_depend_on_the_number_of_threads(fine_grain, threads, dtype):
    lstm, x, lengths = make(dtype=dtype)
    with lstmx.num_threads(1):
        one = everything(lstm, x, lengths)
    with lstmx.num_threads(threads):
        many = everything(lstm, x, lengths)
    assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(
    ("N", "T", "cohorts", "layer"),
    [
        (20, 60, 2, {"num_layers": 2}),
        (33, 47, 2, {"reverse": True}),
        (130, 40, 4, {"bidirectional": True}),
        (256, 36, 8, {}),
    ],
)
def test_bits_of_cohorts_do_not_depend_on_the_number_of_threads(fine_grain, N, T, cohorts, layer, ragged, dtype):
    """Threads have cohorts to themselves (2, 4, 8), or share them (3, 5, 16)."""
    rng = np.random.default_rng(N)
    lstm = lstmx.LSTM(5, 17, dtype=dtype, random_state=0, **layer)
    x = rng.normal(size=(N, T, 5)).astype(dtype)
    lengths = rng.integers(0, T + 1, N) if ragged else np.full(N, T)
    lengths[:8] = T
    _, context = sequences(x, 5, lstm.dtype, lengths=lengths).all()
    assert len(context.cohorts) == (cohorts if not ragged else job.count_cohorts(N, lengths.sum())) + 1
    with lstmx.num_threads(1):
        one = everything(lstm, x, lengths)
    for count in (2, 3, 4, 5, 8, 16):
        with lstmx.num_threads(count):
            many = everything(lstm, x, lengths)
        assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True)), count


@pytest.mark.parametrize("hidden, lengths", [(150, [40, 7, 25]), (100, [40])], ids=["rows", "one short row"])
@pytest.mark.parametrize("patience", [-1, 0], ids=["at once", "after a wait"])
def test_bits_are_the_same_if_a_team_falls_apart(patience, hidden, lengths):
    limits, before = job.set_limits(0, 0, 100), loop.set_patience(patience)  # threads split the units
    rng = np.random.default_rng(0)
    lstm = lstmx.LSTM(32, hidden, num_layers=2, random_state=0)
    x = rng.normal(size=(len(lengths), 40, 32)).astype("f4")
    try:
        with lstmx.num_threads(1):
            one = everything(lstm, x, np.array(lengths))
        for count in (2, 3, 5):
            with lstmx.num_threads(count):
                many = everything(lstm, x, np.array(lengths))
            assert all(np.array_equal(a, b) for a, b in zip(one, many, strict=True)), count
    finally:
        loop.set_patience(before)
        job.set_limits(*limits)


@pytest.mark.parametrize("rows_per_thread", [1, 100], ids=["rows", "units"])
def test_waiting_is_told_for_each_thread(rows_per_thread):
    before, rng = job.set_limits(0, 0, rows_per_thread), np.random.default_rng(0)
    lstm, x = lstmx.LSTM(32, 96, random_state=0), rng.normal(size=(13, 30, 32)).astype("f4")
    try:
        with lstmx.num_threads(2):
            found = threads.waiting(lambda: everything(lstm, x, None), 3, 2)
    finally:
        job.set_limits(*before)
    if loop.openmp():
        assert len(found) == 2 and all(0 < part < 1 for part in found)
    assert not any(loop.record_work(False)[1]), "nothing is recorded when nobody asked"


def test_num_threads_is_local_to_its_context():
    lstmx.set_num_threads(3)
    try:
        seen = []
        with lstmx.num_threads(2):
            worker = threading.Thread(target=lambda: seen.append(lstmx.get_num_threads()))
            worker.start()
            worker.join()
            inside = lstmx.get_num_threads()
        expected = (2, 3, 3) if loop.openmp() else (1, 1, 1)
        assert (inside, seen[0], lstmx.get_num_threads()) == expected
    finally:
        lstmx.set_num_threads(None)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", True])
def test_wrong_thread_counts(bad):
    with pytest.raises((TypeError, ValueError), match=r"^n: got"):
        lstmx.set_num_threads(bad)
    with pytest.raises((TypeError, ValueError), match=r"^n: got"), lstmx.num_threads(bad):
        pass


@pytest.mark.parametrize("more", [1, 10**6, 10**30])
def test_more_threads_than_could_be_of_use_are_refused(more):
    before, most = lstmx.get_num_threads(), threads.MOST
    for way in (lstmx.set_num_threads, lambda n: lstmx.num_threads(n).__enter__()):
        with pytest.raises(ValueError, match=rf"^n: got {most + more}, must be at most {most}, which is 64 or 8 for "):
            way(most + more)
    assert lstmx.get_num_threads() == before and most >= max(64, 8 * os.cpu_count())


def test_openmp_may_ask_for_more():
    code = "import lstmx; from lstmx.functional import threads; print(1 <= lstmx.get_num_threads() <= threads.MOST)"
    env = os.environ | {"OMP_NUM_THREADS": "100000"}
    run = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=LIMIT)
    assert run.stdout == "True\n", run.stderr


def peak(call):
    """Bytes that a call allocates at its peak, those included that are kept for the next."""
    call()
    allocate.spare.clear()
    gc.collect()
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("layers", "shape", "run"),
    [
        (lambda: [lstmx.LSTM(64, 16), lstmx.Last(), lstmx.Dense(16, 1)], (4, 400, 64), 2),  # four rows have two
        (lambda: [lstmx.Dense(256, 1)], (256, 60, 256), 1),  # a row of the gradient of W has one
    ],
    ids=["LSTM", "Dense"],
)
def test_scratch_is_for_the_threads_that_run_and_not_for_all_there_may_be(layers, shape, run):
    model, x = lstmx.Sequential(layers(), random_state=0), np.random.default_rng(0).normal(size=shape).astype("f4")
    y, found = x[:, :, 0] if model.per_step else x[:, 0, 0], {}
    for n in (run, threads.MOST):
        with lstmx.num_threads(n):
            found[n] = peak(lambda: model.fit(x, y, epochs=1, batch_size=len(x), verbose=0))
    assert found[threads.MOST] <= found[run] + 200_000, found


CHILD = """
import numpy as np, threading, lstmx
from lstmx._core import job
job.set_limits(0, 0, 1)
x = np.random.default_rng(0).normal(size=(8, 6, 3)).astype("f4")
lstm = lstmx.LSTM(3, 16, random_state=0)
want = lstm(x)[0]
got = []
def work():
    for _ in range(20):
        got.append(np.array_equal(lstm(x)[0], want))
callers = [threading.Thread(target=work) for _ in range(8)]
[c.start() for c in callers]; [c.join() for c in callers]
assert len(got) == 160 and all(got)
print("done")
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "setting",
    [{}, {"OMP_THREAD_LIMIT": "1"}, {"OMP_DYNAMIC": "true"}, {"OMP_NUM_THREADS": "7"}, {"OPENBLAS_NUM_THREADS": "2"}],
)
def test_eight_concurrent_callers_finish_whatever_openmp_gives(setting):
    run = subprocess.run(
        [sys.executable, "-c", CHILD], env=os.environ | setting, capture_output=True, text=True, timeout=6 * LIMIT
    )
    assert run.stdout == "done\n", run.stderr


FORK = """
import numpy as np, os, signal, lstmx
from lstmx._core import job
job.set_limits(0, 0, 1)
lstmx.set_num_threads(2)
x = np.random.default_rng(0).normal(size=(32, 20, 8)).astype("f4")
model = lstmx.Sequential([lstmx.LSTM(8, 64), lstmx.Last(), lstmx.Dense(64, 1)], random_state=0)
model.fit(x, x.sum(axis=(1, 2)), epochs=2, verbose=0)
want = model.predict(x)
lstmx.get_num_threads()  # counts as use: the reference engine does not ask
child = os.fork()
if child == 0:
    signal.alarm(%d)
    assert lstmx.get_num_threads() == 1
    os._exit(0 if np.allclose(model.predict(x), want, rtol=1e-5, atol=1e-6) else 1)
assert os.waitpid(child, 0)[1] == 0
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_predicts_serially_after_training_in_the_parent():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK % LIMIT], capture_output=True, text=True, timeout=3 * LIMIT
    )
    assert run.stdout == "done\n", run.stderr


FORK_IN_A_FIT = """
import numpy as np, os, signal, threading, lstmx
from lstmx.functional.threads import Lock
lstmx.set_num_threads(1)
x = np.random.default_rng(0).normal(size=(8, 5, 2)).astype("f4")
make = lambda: lstmx.Sequential([lstmx.LSTM(2, 4), lstmx.Last(), lstmx.Dense(4, 1)], random_state=0)
begun, end = threading.Event(), threading.Event()
def pause(epoch, logs):
    begun.set()
    end.wait(%(limit)d)
def fit(model, **more):
    return model.fit(x, x.sum(axis=(1, 2)), epochs=2, verbose=0, random_state=0, **more)
model, other, nested = make(), make(), make()
thread = threading.Thread(target=fit, args=(model,), kwargs={"callbacks": [pause]})
thread.start()
begun.wait(%(limit)d)
held = Lock()
held.acquire()
def in_child(check):
    child = os.fork()
    if child == 0:
        signal.alarm(%(limit)d)
        try:
            check()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
def alone():    # the thread that fitted the model is not in the child
    assert not model.fitting
    model.set_parameters({k: p * 1 for k, p in other.parameters().items()})
    assert fit(model).history["loss"] == fit(other).history["loss"]
    assert held.locked()    # by the thread that forked, which goes on here
    held.release()
in_child(alone)
assert model.fitting and held.locked()
def refused():  # but a fit that forks goes on in the child
    try:
        fit(nested)
    except RuntimeError:
        return
    raise AssertionError
fit(nested, callbacks=[lambda epoch, logs: in_child(refused)])
end.set()
thread.join()
fit(model)
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_during_a_fit_fits_that_model():
    code = FORK_IN_A_FIT % {"limit": LIMIT}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=3 * LIMIT
    )
    assert run.stdout == "done\n", run.stdout + run.stderr


INTERRUPTED = """
import signal, sys, numpy as np, lstmx
model = lstmx.Sequential([lstmx.LSTM(2, 4), lstmx.Last(), lstmx.Dense(4, 1)], random_state=0)
x = np.ones((3, 2), "f4")
parameters = model.parameters()
def handler(*_):
    model.step(x)           # of the same lock, from inside
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, handler)
hits = 0
for k in range(400):
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-6 + k * 5e-7)
        for _ in range(4):
            model.set_parameters(parameters)
            model.step(x)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        hits += 1
print(hits > 20)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_ctrl_c_and_signal_handlers_leave_no_lock_taken():
    run = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=3 * LIMIT)
    assert run.stdout == "True\n", run.stdout + run.stderr


def test_a_section_is_for_one_thread_and_once():
    section, order = threads.Section(), []

    def inside():
        order.append("inside")
        with pytest.raises(RuntimeError, match="this thread is in a call of the same object already"):
            section.run(order.append, "never")
        other.start()
        other.join(0.05)
        order.append("out")
        return 7

    other = threading.Thread(target=lambda: section.run(order.append, "other"))
    assert section.run(inside) == 7
    other.join(LIMIT)
    assert order == ["inside", "out", "other"]
    with pytest.raises(ZeroDivisionError):
        section.run(lambda: 1 / 0)
    section.run(order.append, "again")
    with section.turn, section.turn:
        order.append("both")
    assert order[3:] == ["again", "both"]


def test_locks_are_not_kept_alive():
    before = len(threads.Lock._all)
    for _ in range(10):
        lstmx.Sequential([lstmx.LSTM(1, 1)])
    gc.collect()
    assert len(threads.Lock._all) <= before


@pytest.mark.long
def test_memory_stays_flat_over_many_shapes():
    rng = np.random.default_rng(0)
    lstm = lstmx.LSTM(3, 5, bidirectional=True, random_state=0)

    def calls(count):
        for _ in range(count):
            x = np.zeros((*rng.integers(1, 12, size=2), 3), np.float32)
            y, _, tape = lstm.forward(x, lengths=rng.integers(0, x.shape[1] + 1, size=len(x)))
            lstm.backward(tape, y)
            lstm(x)

    tracemalloc.start()
    try:
        calls(200)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        calls(2000)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 50_000
