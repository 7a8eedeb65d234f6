"""What the engines of streams.py run: each function prepares one, in a process of its own, and measures it."""

import itertools
import os
import time
import warnings
from pathlib import Path

import numpy as np

WITHIN = 1e-5
SESSIONS = 1000
CHECKED = 5  # pushes whose outputs are compared
RATE, LIMIT = 31, 1e-3  # frames a second of a session; seconds of a push
STEPS, KNOWN = 1000, 50
SIZES = {"push": (128, 128, 1000), "subset": (1, 16, 100)}  # I, H, sessions of a push
PATHS = {"rollout": 100, "path": 1}
now = getattr(time, os.environ.get("STREAMS_CLOCK", "perf_counter"))


def fastest(call, seconds=0.5, least=5):
    """The shortest time that a call takes, after one that may prepare it."""
    call()
    found, end = [], now() + seconds
    while len(found) < least or now() < end:
        start = now()
        call()
        found.append(now() - start)
    return min(found)


def held(most=False):
    """The memory of this process in MB, now or at most so far; NaN where the system does not tell."""
    try:
        return int(Path("/proc/self/status").read_text().split("VmHWM:" if most else "VmRSS:")[1].split()[0]) / 1e3
    except OSError:
        return float("nan")


# Sessions. A form is a function that prepares states and gives another, (ids (n,), frames (n, I)) -> outputs (n, H).


def of_lstmx(task, folder):
    import lstmx

    lstm = lstmx.load(folder / "model.safetensors")
    _, H, n = SIZES[task]

    def pool():
        pool, y = lstmx.StreamPool(lstm, SESSIONS), np.empty((n, H), np.float32)
        pool.open(SESSIONS)
        return lambda ids, frames: pool.push(ids, frames, out=y)

    return {"StreamPool": pool}


class Gathered:
    """The states of all sessions, (sessions, H) each, and room for those of n of them."""

    def __init__(self, n, H):
        self.all = [np.zeros((SESSIONS, H), np.float32) for _ in range(2)]
        self.some = [np.empty((n, H), np.float32) for _ in range(2)]
        self.given = tuple(a[None] for a in self.some)  # as models take it, (1, n, H)

    def take(self, ids):
        for states, some in zip(self.all, self.some, strict=True):
            np.take(states, ids, axis=0, out=some, mode="clip")  # any other mode makes a copy
        return self.given

    def put(self, ids, after):
        for states, some in zip(self.all, after, strict=True):
            states[ids] = some[0]


def of_gathered(task, folder):
    import lstmx

    lstm = lstmx.load(folder / "model.safetensors")
    _, H, n = SIZES[task]

    def step():
        states, y = Gathered(n, H), np.empty((n, H), np.float32)

        def push(ids, frames):
            state = states.take(ids)
            lstm.step(frames, state, out=(y, state))  # in place
            states.put(ids, state)
            return y

        return push

    return {"np.take, step": step}


def open_onnxruntime(folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(os.environ["OMP_NUM_THREADS"]), 1
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])


def bound(session, inputs, outputs):
    """A binding of arrays to inputs and outputs, by name."""
    binding = session.io_binding()
    for bind, arrays in ((binding.bind_input, inputs), (binding.bind_output, outputs)):
        for name, a in arrays.items():
            bind(name, "cpu", 0, np.float32, a.shape, a.ctypes.data)
    return binding


def of_onnxruntime(task, folder):
    session = open_onnxruntime(folder)
    I, H, n = SIZES[task]

    def run():
        states = Gathered(n, H)

        def push(ids, frames):
            h, c = states.take(ids)
            y, *after = session.run(["y", "h_n", "c_n"], {"x": frames[:, None], "h": h, "c": c})
            states.put(ids, after)
            return y[:, 0]

        return push

    def binding():
        states, x, y = Gathered(n, H), np.empty((n, 1, I), np.float32), np.empty((n, 1, H), np.float32)
        (h, c), after = states.given, [np.empty((1, n, H), np.float32) for _ in range(2)]
        bind = bound(session, {"x": x, "h": h, "c": c}, {"y": y, "h_n": after[0], "c_n": after[1]})

        def push(ids, frames):
            states.take(ids)
            x[:, 0] = frames
            session.run_with_iobinding(bind)
            states.put(ids, after)
            return y[:, 0]

        return push

    return {"run": run, "io binding": binding}


def of_onnxruntime_each(task, folder):
    session = open_onnxruntime(folder)
    I, H, n = SIZES[task]

    def run():
        start = np.zeros((1, 1, H), np.float32)
        states, y = [(start, start)] * SESSIONS, np.empty((n, H), np.float32)
        names = ["y", "h_n", "c_n"]

        def push(ids, frames):
            for k, (session_id, x) in enumerate(zip(ids.tolist(), frames.reshape(n, 1, 1, I), strict=True)):
                h, c = states[session_id]
                y[k], *states[session_id] = session.run(names, {"x": x, "h": h, "c": c})
            return y

        return push

    def binding():
        """All are pushed each time, so that all read one of two buffers of (h, c) and write the other."""
        x, y = np.empty((SESSIONS, 1, 1, I), np.float32), np.empty((SESSIONS, 1, 1, H), np.float32)
        buffers = [np.zeros((2, SESSIONS, 1, 1, H), np.float32) for _ in range(2)]

        def bind(k, before, after):
            inputs = {"x": x[k], "h": before[0, k], "c": before[1, k]}
            return bound(session, inputs, {"y": y[k], "h_n": after[0, k], "c_n": after[1, k]})

        both = [[bind(k, *pair) for k in range(SESSIONS)] for pair in (buffers, buffers[::-1])]
        turns = itertools.cycle(both)

        def push(ids, frames):
            x[ids, 0, 0] = frames
            binds = next(turns)
            for session_id in ids.tolist():
                session.run_with_iobinding(binds[session_id])
            return y[ids, 0, 0]

        push.buffers = buffers  # bindings hold addresses alone
        return push

    return {"run": run, "io binding": binding}


def torch_lstm(folder, cell=False):
    """nn.LSTM, or nn.LSTMCell, and nn.Linear if there is a Dense layer, with the weights of ours."""
    import torch

    torch.set_grad_enabled(False)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with np.load(folder / "weights.npz") as file:
        weights = {name: torch.from_numpy(file[name]) for name in file.files}
    w, u, b = (weights.pop(name) for name in ("weight_ih_l0", "weight_hh_l0", "bias_l0"))
    lstm = torch.nn.LSTMCell(w.shape[1], u.shape[1]) if cell else torch.nn.LSTM(w.shape[1], u.shape[1])
    for parameter, value in zip(lstm.parameters(), (w, u, b, torch.zeros_like(b)), strict=True):
        parameter.copy_(value)
    if not weights:
        return lstm, None
    linear = torch.nn.Linear(u.shape[1], len(weights["bias"]))
    linear.load_state_dict(weights)
    return lstm, linear


def of_torch(task, folder):
    import torch

    lstm, _ = torch_lstm(folder)
    _, H, n = SIZES[task]

    def gathered():
        states = [torch.zeros(1, SESSIONS, H) for _ in range(2)]
        some = tuple(torch.empty(1, n, H) for _ in range(2))

        @torch.inference_mode()
        def push(ids, frames):
            ids = torch.from_numpy(ids)
            for a, part in zip(states, some, strict=True):
                torch.index_select(a, 1, ids, out=part)
            y, after = lstm(torch.from_numpy(frames)[None], some)
            for a, part in zip(states, after, strict=True):
                a.index_copy_(1, ids, part)
            return y[0].numpy()

        return push

    return {"index_select, nn.LSTM": gathered}


def sessions(task, engine, folder):
    """Seconds of a push, in its fastest form."""
    I, _, n = SIZES[task]
    rng = np.random.default_rng(0)
    turns = [(rng.permutation(SESSIONS)[:n], rng.normal(size=(n, I)).astype(np.float32)) for _ in range(20)]
    took, forms = {}, globals()[f"of_{engine}"](task, folder)
    for form, start in forms.items():
        push = start()
        y = np.stack([push(*turn).copy() for turn in turns[:CHECKED]])
        check(y, folder / f"{engine}.npy")
        endless = itertools.cycle(turns)
        took[form] = fastest(lambda push=push, endless=endless: push(*next(endless)))
    form = min(took, key=took.get)
    return {"time": took[form], "form": form}


def check(y, path):
    """Keep outputs; those of several forms of one engine must agree."""
    if path.exists():
        np.testing.assert_allclose(y, np.load(path), rtol=WITHIN, atol=WITHIN)
    np.save(path, y)


def realtime(task, engine, folder):
    """The most sessions within the limit: their number, that of a push, and the time that 99 of 100 pushes take."""
    import lstmx

    lstm, rng, most = lstmx.load(folder / "model.safetensors"), np.random.default_rng(0), 2**15
    pool, best = lstmx.StreamPool(lstm, most), {"sessions": 0, "push": 0, "p99": float("nan")}
    ids, frames = rng.permutation(pool.open(most)), rng.normal(size=(most, 128)).astype(np.float32)
    for n in 2 ** np.arange(12):
        y, took, end = np.empty((n, 128), np.float32), [], now() + 1
        parts = itertools.cycle([slice(k, k + n) for k in range(0, most, n)])
        while len(took) < 200 or now() < end:
            part = next(parts)
            start = now()
            pool.push(ids[part], frames[part], out=y)
            took.append(now() - start)
        p99, carried = float(np.percentile(took, 99)), int(n / np.mean(took) / RATE)
        if p99 < LIMIT and carried > best["sessions"]:
            best = {"sessions": carried, "push": int(n), "p99": p99}
    return best


# The closed loop.


def rollout(task, engine, folder):
    """Seconds of a rollout."""
    paths, rng = PATHS[task], np.random.default_rng(0)
    x = rng.normal(size=(KNOWN, 1)).astype(np.float32)
    noise = 0.1 * rng.normal(size=(paths, STEPS, 1)).astype(np.float32)
    took, forms = {}, globals()[f"rollout_{engine}"](folder, x, noise)
    for form, call in forms.items():
        check(call(), folder / f"{engine}.npy")
        took[form] = fastest(call, 1.5)
    form = min(took, key=took.get)
    return {"time": took[form], "form": form}


def rollout_lstmx(folder, x, noise):
    import lstmx

    model = lstmx.load(folder / "model.safetensors")
    return {"rollout": lambda: model.rollout(x, STEPS, noise=noise, paths=len(noise))}


def rollout_torch(folder, x, noise):
    import torch

    (lstm, linear), (cell, _) = torch_lstm(folder), torch_lstm(folder, cell=True)
    x, noise, paths = torch.from_numpy(x), torch.from_numpy(noise), len(noise)

    def begin():
        _, state = lstm(x[:, None])
        h, c = (a[0].expand(paths, -1).contiguous() for a in state)
        return h, c, torch.empty(paths, STEPS, 1)

    @torch.inference_mode()
    def cells():
        h, c, results = begin()
        for t in range(STEPS):
            y = linear(h) + noise[:, t]
            results[:, t] = y
            h, c = cell(y, (h, c))
        return results.numpy()

    @torch.inference_mode()
    def layers():
        h, c, results = begin()
        state = h[None], c[None]
        for t in range(STEPS):
            y = linear(state[0][0]) + noise[:, t]
            results[:, t] = y
            state = lstm(y[None], state)[1]
        return results.numpy()

    return {"nn.LSTMCell": cells, "nn.LSTM": layers}


def rollout_torchscript(folder, x, noise):
    import torch

    (lstm, _), (cell, linear) = torch_lstm(folder), torch_lstm(folder, cell=True)
    x, noise, paths = torch.from_numpy(x), torch.from_numpy(noise), len(noise)

    class Loop(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.linear = cell, linear

        def forward(self, h, c, noise, results):
            for t in range(noise.size(1)):
                y = self.linear(h) + noise[:, t]
                results[:, t] = y
                h, c = self.cell(y, (h, c))
            return results

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        loop = torch.jit.freeze(torch.jit.script(Loop().eval()))

    @torch.inference_mode()
    def call():
        _, state = lstm(x[:, None])
        h, c = (a[0].expand(paths, -1).contiguous() for a in state)
        return loop(h, c, noise, torch.empty(paths, STEPS, 1)).numpy()

    return {"TorchScript": call}


# Training.


def fit(lstmx, model, x, y, **options):
    """Seconds of the fastest epoch, by what `fit` measures."""

    class Clock(lstmx.Callback):
        seconds = float("inf")

        def on_epoch_begin(self, training, epoch):
            self.start = now()

        def on_epoch_end(self, training, epoch, logs):
            self.seconds = min(self.seconds, now() - self.start)

    clock = Clock()
    model.fit(x, y, callbacks=[clock], verbose=0, **options)
    return clock.seconds


def memory(task, engine, folder):
    """Of an epoch on 16 long sequences: seconds, and MB that it takes; the parameters after."""
    import lstmx

    N, T, I, H, rng = 16, 10_000, 32, 128, np.random.default_rng(0)
    model = lstmx.Sequential([lstmx.LSTM(I, H), lstmx.Dense(H, 1)], random_state=0)
    x, y = (rng.normal(size=(N, T, F)).astype(np.float32) for F in (I, 1))
    whole, before = model.memory(N, T, training=True), held()
    budget = whole if engine == "whole" else whole // 8
    options = {} if engine == "whole" else {"memory": budget}
    seconds = fit(lstmx, model, x, y, epochs=2, batch_size=N, **options)
    check(np.concatenate([p.ravel() for p in model.parameters().values()]), folder / f"{engine}.npy")
    return {"time": seconds, "memory": held(most=True) - before, "form": f"budget {budget / 1e6:.0f} MB"}


def tbptt(task, engine, folder):
    """Of an epoch on one series: seconds, and MB of the whole process."""
    import lstmx

    T = int(engine)
    series = np.sin(np.arange(T + 1, dtype=np.float32) / 5)[None, :, None]
    model = lstmx.Sequential([lstmx.LSTM(1, 32), lstmx.Dense(32, 1)], random_state=0)
    seconds = fit(lstmx, model, series[:, :-1], series[:, 1:], epochs=1, tbptt=100)
    return {"time": seconds, "memory": held(most=True)}
