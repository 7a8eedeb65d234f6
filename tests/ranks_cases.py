"""What ranks train in the tests of training on many of them: mpiexec runs ``ranks_cases.py FOLDER CASE ...``.

Each case takes a communicator, or None for the same on one process, and gives what must be equal: plain JSON values.
"""

import contextlib
import hashlib
import io
import json
import os
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import tolerances

import lstmx
from lstmx import LSTM, SGD, Adam, AdamW, Callback, Dense, Dropout, Embedding, Last, Masking, Sequential

DTYPES = ("float32", "float64")


def rng(seed=0):
    return np.random.default_rng(seed)


def vectors(n=30, steps=7, seed=0):
    x = rng(seed).normal(size=(n, steps, 3))
    return x, x.sum(axis=(1, 2))


def ragged(n=30, seed=0):
    random = rng(seed)
    x = [random.normal(size=(t, 3)) for t in random.integers(0, 20, n)]
    return x, [a.cumsum(axis=0)[:, :1] for a in x]


def net(*, steps=False, dtype="float32", dropout=0.3, outputs=1, activation=None, seed=1, first=()):
    layers = [*first, LSTM(3, 7, 2, dropout=dropout), *([] if steps else [Last()]), Dropout(dropout)]
    return Sequential([*layers, Dense(7, outputs, activation)], random_state=seed).astype(dtype)


def fingerprint(model):
    """Of the parameters and the history of a model."""
    found = hashlib.blake2b(digest_size=12)
    for p in model.parameters().values():
        found.update(p.tobytes())
    return found.hexdigest() + repr(model.history_.history) + repr((model.history_.stopped, model.history_.best_epoch))


def how(comm, **more):
    return {"comm": comm, "shards": 8, "epochs": 2, "batch_size": 12, "random_state": 3, "verbose": 0,
            "optimizer": AdamW(0.01, weight_decay=0.1), **more}  # fmt: skip


def plain(comm, dtype):
    """Dropout, a part held out, metrics, early stopping."""
    model = net(dtype=dtype)
    model.fit(*vectors(), validation_split=0.2, metrics=["mae"], early_stopping=1, **how(comm, epochs=4))
    return fingerprint(model)


def of_different_lengths(comm, dtype):
    """Weights, clipping, a rate that falls, validation data given."""
    model = net(steps=True, dtype=dtype)
    x, y = ragged()
    weight = rng(5).uniform(size=len(x)) * (rng(6).uniform(size=len(x)) > 0.3)
    rate = Adam(lambda step: 0.01 / (1 + step))
    more = how(comm, optimizer=rate, clip_norm=0.5, clip_value=0.1, sample_weight=weight, metrics="mse")
    model.fit(x, y, validation_data=ragged(150, 9), **more)
    return fingerprint(model)


def order(target, prediction):
    """A metric that tells in which order rows come."""
    return float((np.arange(len(target)) * target[:, 0]).sum())


def truncated(comm, dtype):
    model = net(steps=True, dtype=dtype)
    model.fit(*ragged(), tbptt=(3, 6), metrics=["mse", order], validation_split=0.3, **how(comm))
    pooled = net(dtype=dtype)
    x, _ = ragged()
    pooled.fit(x, np.arange(30.0), tbptt=4, **how(comm))
    return fingerprint(model) + fingerprint(pooled)


def in_little_memory(comm, dtype):
    """And as much as it likes: the same."""
    found = []
    for memory in ("1400kB" if dtype == "float64" else "900kB", None):
        model = net(dtype=dtype)
        model.fit(*vectors(33, 600), memory=memory, **how(comm, batch_size=32, epochs=1))
        found.append(fingerprint(model))
    assert found[0] == found[1]
    return found


def embedding(comm, dtype):
    layers = [Embedding(9, 4, padding_idx=0, mask_padding=True), LSTM(4, 8), Last(), Dense(8, 3, "softmax")]
    model = Sequential(layers, random_state=0).astype(dtype)
    tokens = rng().integers(9, size=(40, 7))
    more = how(comm, loss="categorical_crossentropy", class_weight="balanced", metrics="accuracy")
    model.fit(tokens, tokens.sum(axis=1) % 3, **more)
    found = fingerprint(model)
    model.fit(tokens, tokens.sum(axis=1) % 3, tbptt=3, **more | {"class_weight": {0: 2.0, 1: 0.0}})
    return found + fingerprint(model)


def masked(comm, dtype):
    x, y = vectors()
    x[rng(7).uniform(size=x.shape[:2]) < 0.3] = 0
    model = net(dtype=dtype, first=[Masking(0.0)])
    model.fit(x, y, shuffle="exact", **how(comm))
    return fingerprint(model)


def source(comm, dtype):
    """A function of the shard; of its shards some end before others, and one is used up before the last epoch."""
    x, y = vectors(37)

    def batches(shard):
        mine = range(shard, 37, 8)
        for k in range(0, len(mine), 2):
            part = list(mine[k : k + 2])
            yield x[part], y[part], np.ones(len(part))

    options = how(comm)
    del options["batch_size"]
    found = []
    for steps in (None, 2, 5):
        model = net(dtype=dtype)
        model.fit(batches, steps_per_epoch=steps, validation_data=lambda: [vectors(5), vectors(70, seed=2)], **options)
        found.append(fingerprint(model))
    once = {shard: iter([(x[shard::8], y[shard::8])] * (5 if shard == 7 else 9)) for shard in range(8)}
    model = net(dtype=dtype)
    model.fit(lambda shard: once[shard], steps_per_epoch=3, **options | {"epochs": 3})
    assert model.history_.stopped == "exhausted" and len(model.history_) == 2
    return [*found, fingerprint(model)]


def few(comm, dtype):
    """Fewer sequences than shards, one shard, and an odd number of them."""
    found = []
    for n, batch_size, shards in ((3, 2, 8), (1, 4, 8), (30, 7, 5), (30, 12, 1), (9, 9, 3)):
        model = net(dtype=dtype)
        model.fit(*vectors(n), **how(comm, batch_size=batch_size, shards=shards))
        found.append(fingerprint(model))
    return found


def of_the_first(comm, dtype):
    """Models, generators and rates that are others on each rank: all are the first rank's."""
    rank = comm.rank if comm else 0
    model = net(dtype=dtype, seed=rank)
    model.fit(*vectors(), **how(comm, random_state=np.random.default_rng(rank)))
    model.fit(*vectors(), **how(comm, random_state=None))  # goes on with the generator of the model
    model.fit(*vectors(), **how(comm, optimizer=Adam(lambda step: 0.01 + rank)))
    tokens = Sequential([Embedding(9, 4), LSTM(4, 8), Last(), Dense(8, 1)], random_state=rank).astype(dtype)
    tokens.fit(rng().integers(9, size=(40, 7)), np.arange(40.0), **how(comm))
    return fingerprint(model) + fingerprint(tokens)


def any_order(comm, dtype):
    """``exact=False``: all ranks have the same, but it is that of no tree."""
    if comm is None:
        return None
    found, tokens = "", rng().integers(9, size=(40, 7))
    embedded = Sequential([Embedding(9, 4), LSTM(4, 8), Last(), Dense(8, 1)], random_state=0).astype(dtype)
    for model, *data in ((net(dtype=dtype), *vectors()), (embedded, tokens, tokens.sum(axis=1) / 30)):
        exact = model.copy()
        exact.fit(*data, **how(comm, optimizer=SGD(0.01)))
        model.fit(*data, exact=False, **how(comm, optimizer=SGD(0.01)))
        for name, p in exact.parameters().items():
            np.testing.assert_allclose(model.parameters()[name], p, **tolerances.ENGINES[dtype])
        found += fingerprint(model)
    return found


def watched(comm, dtype):
    """Callbacks that stop training on the last rank alone, after an epoch or before the first; and what they see."""
    seen = []

    class Watch(Callback):
        def on_train_begin(self, trainer):
            assert trainer.rank == (comm.rank if comm else 0)

        def on_batch_end(self, trainer, batch, loss):
            seen.append(loss)

        def on_epoch_end(self, trainer, epoch, logs):
            seen.append(logs["mae"])
            last = comm.size - 1 if comm else 0
            return epoch == 1 and trainer.rank == last

    model = net(dtype=dtype)
    model.fit(*vectors(), metrics=["mae"], callbacks=Watch(), **how(comm, epochs=5))
    assert model.history_.stopped == "callback" and len(model.history_) == 2

    class Never(Callback):
        def on_train_begin(self, trainer):
            if trainer.rank == (comm.size - 1 if comm else 0):
                trainer.stop()

    never = net(dtype=dtype)
    never.fit(*vectors(), callbacks=Never(), **how(comm))
    assert never.history_.stopped == "callback" and len(never.history_) == 0
    return [fingerprint(model), seen]


BITS = (plain, of_different_lengths, truncated, in_little_memory, embedding, masked, source, few, watched,
        of_the_first, any_order)  # fmt: skip


def bits(comm):
    """Name and type -> what each of them gives."""
    warnings.simplefilter("ignore")  # of fewer shards than ranks
    return {f"{case.__name__} {dtype}": case(comm, dtype) for case in BITS for dtype in DTYPES}


# Estimators.


def estimators(comm):
    warnings.simplefilter("ignore")  # they do not converge
    folder, found = FOLDER, {}
    x, y = vectors(40)
    quick = {"hidden_size": 5, "max_iter": 4, "random_state": 0, "dropout": 0.2}
    how = {"comm": comm, "shards": 4}
    rank = comm.rank if comm else 0

    def of(estimator):
        values = [p.tobytes() for p in estimator.parameters_.values()]
        digest = hashlib.blake2b(b"".join(values), digest_size=12).hexdigest()
        return digest + repr((estimator.loss_curve_, estimator.validation_scores_, estimator.n_iter_, estimator.t_))

    found["classifier"] = of(lstmx.LSTMClassifier(early_stopping=True, **quick).fit(x, y > 0, **how))
    found["regressor"] = of(lstmx.LSTMRegressor(**quick).fit(x, y, np.arange(40) % 3, **how))
    found["detector"] = of(lstmx.LSTMAnomalyDetector(**quick).fit(x, **how))
    found["transformer"] = of(lstmx.LSTMTransformer(**quick).fit(x, **how))
    found["forecaster"] = of(lstmx.LSTMForecaster(8, 2, **quick).fit(np.sin(np.arange(90.0)), **how))
    seeded = quick | {"random_state": None if rank else 7}
    found["seed of the first"] = of(lstmx.LSTMRegressor(**seeded).fit(x, y, **how))
    # A checkpoint of two epochs, that only the first rank sees, gone on from: here, and on another number of ranks.
    path = folder / "checkpoint.safetensors" if rank == 0 else folder / "nowhere" / "checkpoint.safetensors"
    found["whole"] = of(lstmx.LSTMRegressor(**quick).fit(x, y, **how))
    lstmx.LSTMRegressor(**quick | {"max_iter": 2}, checkpoint=path).fit(x, y, **how)
    found["resumed"] = of(lstmx.LSTMRegressor(**quick, checkpoint=path, resume=True).fit(x, y, **how))
    other = folder / "other.safetensors" if rank == 0 else path
    found["resumed elsewhere"] = of(lstmx.LSTMRegressor(**quick, checkpoint=other, resume=True).fit(x, y, **how))
    return found


def checkpointed(comm, **more):
    warnings.simplefilter("ignore")
    reg = lstmx.LSTMRegressor(5, random_state=0, dropout=0.2, **{"max_iter": 4} | more)
    reg.fit(*vectors(40), comm=comm)
    return [reg.loss_curve_, hashlib.blake2b(reg.parameters_["0.weight_ih_l0"].tobytes()).hexdigest()]


def checkpoint_whole(comm):
    return checkpointed(comm)


def checkpoint_begun(comm):
    return checkpointed(comm, max_iter=2, checkpoint=FOLDER / "begun.safetensors")


def checkpoint_gone_on(comm):
    return checkpointed(comm, checkpoint=FOLDER / "begun.safetensors", resume=True)


# Failures. Each gives (the error's class, its text, the fingerprint of the model, why it has stopped).


def ending(comm, fit):
    model = net(dropout=0.0)
    try:
        fit(model)
    except BaseException as error:
        stopped = None if model.history_ is None else model.history_.stopped
        weights = hashlib.blake2b(b"".join(p.tobytes() for p in model.parameters().values()), digest_size=8).hexdigest()
        return [type(error).__name__, str(error), weights, stopped]
    return ["nothing"]


class On(Callback):
    """Does something after a batch of the second epoch, on one rank."""

    def __init__(self, rank, what, batch=1):
        self.rank, self.what, self.batch = rank, what, batch

    def on_batch_end(self, trainer, batch, loss):
        if trainer.state.epoch == 1 and batch == self.batch and trainer.rank == self.rank:
            self.what()


def a_callback_fails(comm):
    def fail():
        raise LookupError("no such thing")

    return ending(comm, lambda model: model.fit(*vectors(), callbacks=On(1, fail), **how(comm)))


def a_source_fails(comm):
    x, y = vectors(16)

    def batches(shard):
        yield x[:2], y[:2]
        if shard == 7:
            raise OSError("the disk is gone")
        yield x[2:4], y[2:4]

    options = how(comm)
    del options["batch_size"]
    return ending(comm, lambda model: model.fit(batches, **options))


def a_source_holds_nan(comm):
    x, y = vectors(16)

    def batches(shard):
        yield x[:2], y[:2]
        yield x[2:4], y[2:4] * (np.nan if shard == 6 else 1)

    options = how(comm)
    del options["batch_size"]
    return ending(comm, lambda model: model.fit(batches, **options))


def an_argument_is_wrong(comm):
    x, y = vectors()
    return ending(comm, lambda model: model.fit(x, y[: 20 if comm.rank == 1 else 30], **how(comm)))


def shards_are_wrong(comm):
    return ending(comm, lambda model: model.fit(*vectors(), **how(comm, shards=8 * (comm.rank == 0))))


def a_warning_is_an_error(comm):
    with warnings.catch_warnings(action="error"):
        return ending(comm, lambda model: model.fit(*vectors(), **how(comm, shards=1)))


def communicators(comm):
    """Of one rank, of ranks that were split, of threads, and those that are none."""
    from mpi4py import MPI

    def of(given):
        model = net()
        model.fit(*vectors(), **how(given))
        return fingerprint(model)

    pair, found = [comm.Dup(), comm.Dup()], [of(MPI.COMM_SELF), of(comm.Split(comm.rank)), of(comm.Create_cart([2]))]
    threads = [threading.Thread(target=lambda c=c: found.append(of(c))) for c in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pair[0].Free()
    other = comm.Split(comm.rank).Create_intercomm(0, comm, 1 - comm.rank)
    bad = {"freed": pair[0], "null": MPI.COMM_NULL, "between": other, "number": 3}
    return found, {name: ending(comm, lambda model, c=c: model.fit(*vectors(), **how(c))) for name, c in bad.items()}


def data_hold_nan(comm):
    x, y = vectors()
    y[23] = np.nan  # in the last shard of the second batch
    return ending(comm, lambda model: model.fit(x, y, **how(comm, shuffle=False)))


def a_gradient_is_nan(comm):
    """All ranks see that at once, but the data are with one. Gates are full where X is infinite: the loss is finite."""
    x, y = vectors()
    x[23, 1, 0] = np.inf
    return ending(comm, lambda model: model.fit(x, y, **how(comm, shuffle=False)))


def an_interrupt(comm):
    return ending(
        comm,
        lambda model: model.fit(
            *vectors(), callbacks=On(1, lambda: signal.raise_signal(signal.SIGINT)), **how(comm, epochs=50)
        ),
    )


def an_interrupt_before_bytes(comm):
    """The header of which says how many bytes follow, when none do."""
    last = On(1, lambda: signal.raise_signal(signal.SIGINT), batch=2)
    return ending(comm, lambda model: model.fit(*vectors(), callbacks=last, metrics="mae", **how(comm)))


class AtTheEnd(Callback):
    """One rank is late, and another is interrupted while it waits."""

    def on_train_end(self, trainer):
        if trainer.rank == 0:
            time.sleep(1)
        else:
            threading.Timer(0.3, signal.raise_signal, [signal.SIGINT]).start()


def an_interrupt_at_the_end(comm):
    return ending(comm, lambda model: model.fit(*vectors(), callbacks=AtTheEnd(), **how(comm)))


def interrupted_estimator(comm, interrupt):
    warnings.simplefilter("ignore")
    reg = lstmx.LSTMRegressor(5, max_iter=10, random_state=0)
    run = lstmx.training.Trainer._one_epoch

    def one_epoch(self, epochs):
        if self.state.epoch == 3 and self.rank == 1:
            interrupt()
        run(self, epochs)

    lstmx.training.Trainer._one_epoch = one_epoch
    reg.fit(*vectors(), comm=comm)
    lstmx.training.Trainer._one_epoch = run
    return [reg.n_iter_, reg.loss_curve_]


def an_interrupted_estimator(comm):
    return interrupted_estimator(comm, lambda: signal.raise_signal(signal.SIGINT))


def an_estimator_whose_callback_interrupts(comm):
    """Which no handler of signals has seen."""

    def interrupt():
        raise KeyboardInterrupt

    return interrupted_estimator(comm, interrupt)


def configurations_differ(comm):
    rank = comm.rank
    cases = {
        "batch_size": lambda: {"batch_size": 12 + rank},
        "epochs": lambda: {"epochs": 2 + rank},
        "shards": lambda: {"shards": 8 + rank},
        "exact": lambda: {"exact": rank == 0},
        "optimizer": lambda: {"optimizer": Adam(0.01 * (1 + rank))},
        "tbptt": lambda: {"tbptt": 2 + rank},
        "validation data": lambda: {"validation_data": vectors(20 + rank)},
        "random_state": lambda: {"random_state": np.random.Generator((np.random.PCG64, np.random.Philox)[rank](0))},
    }
    found = {name: ending(comm, lambda model, c=case: model.fit(*vectors(), **how(comm) | c()))
             for name, case in cases.items()}  # fmt: skip
    (x, y), weight = vectors(), np.ones(30)
    weight[15] += rank
    cases = {
        "X": lambda model: model.fit(x + rank, y, **how(comm)),
        "y": lambda model: model.fit(x, y + rank, **how(comm)),
        "sample_weight": lambda model: model.fit(x, y, sample_weight=weight, **how(comm)),
    }
    found |= {name: ending(comm, case) for name, case in cases.items()}
    found["layers"] = ending(comm, lambda model: net(dropout=0.1 * rank).fit(*vectors(), **how(comm)))
    warnings.simplefilter("ignore")
    reg = lstmx.LSTMRegressor(4, max_iter=1 + rank, random_state=0, standardize=False, warm_start=True).fit(*vectors())
    found["training so far"] = ending(comm, lambda model: reg.set_params(max_iter=3).fit(*vectors(), comm=comm))
    return found


def a_user_receives_own_messages(comm):
    """Sent before and after, of any tag: training neither takes nor sends one."""
    other = 1 - comm.rank
    sent = comm.isend("before", other, tag=0)
    more = comm.isend("before", other, tag=77)
    net().fit(*vectors(), **how(comm))
    assert comm.recv(source=other, tag=77) == "before" and comm.recv(source=other) == "before"
    sent.wait()
    more.wait()
    return not comm.iprobe()


def a_rank_dies(comm):
    lstmx.training.heartbeats.Heartbeats.SILENCE = 4
    start = time.monotonic()

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    found = ending(comm, lambda model: model.fit(*vectors(), callbacks=On(1, die), **how(comm, epochs=500)))
    return [*found, time.monotonic() - start]


def a_rank_is_slow(comm):
    """Computing, or in a callback, for longer than a dead rank is waited for."""
    lstmx.training.heartbeats.Heartbeats.SILENCE = 15  # 3 s: a busy machine may keep a rank for some tenths
    lstmx.training.heartbeats.Heartbeats.TICK = 0.2
    model = net()
    model.fit(*vectors(), callbacks=On(1, lambda: time.sleep(4)), **how(comm))
    return fingerprint(model)


def out_of_step(comm):
    """A callback that does on one rank alone what all must do together."""

    class Alone(Callback):
        def on_epoch_end(self, trainer, epoch, logs):
            if trainer.rank == 1:
                trainer.evaluate(trainer.data)

    return ending(comm, lambda model: model.fit(*vectors(), callbacks=Alone(), **how(comm)))


def two_interrupts(comm):
    lstmx.training.heartbeats.Heartbeats.SILENCE = 4

    def interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    return ending(comm, lambda model: model.fit(*vectors(), callbacks=On(1, interrupt), **how(comm, epochs=500)))


def kernels_differ(comm):
    return ending(comm, lambda model: model.fit(*vectors(), **how(comm)))


def has_heartbeats(comm):
    found = []
    look = lambda epoch, logs: found.append(any(t.name == "lstmx-heartbeats" for t in threading.enumerate()))  # noqa: E731
    net().fit(*vectors(), callbacks=look, **how(comm, epochs=1))
    return found[0]


def nothing_is_left(comm):
    """[Communicators, those freed, threads, whether Ctrl-C is as it was] after three fits, two of which fail."""
    from mpi4py import MPI

    made, duplicate = [], lstmx.training.ranks.Ranks._duplicate

    def recorded(self):
        made.append(duplicate(self))
        return made[-1]

    lstmx.training.ranks.Ranks._duplicate = recorded
    net().fit(*vectors(), **how(comm))
    a_callback_fails(comm)
    an_interrupt(comm)
    handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return [len(made), sum(c == MPI.COMM_NULL for c in made), threading.active_count(), handled]


def words(comm):
    """[Whether there was output, how many warnings] of a fit that diverges, and of an estimator's."""
    shown, found = io.StringIO(), []
    with (
        contextlib.redirect_stdout(shown),
        contextlib.redirect_stderr(shown),
        warnings.catch_warnings(record=True) as w,
    ):
        warnings.simplefilter("always")
        net().fit(*vectors(), **how(comm, verbose=2, optimizer=SGD(1e3), clip_norm=1.0))
        found.append([len(shown.getvalue()) > 0, len(w)])
        before = len(shown.getvalue())
        lstmx.LSTMRegressor(4, max_iter=2, verbose=2, random_state=0).fit(*vectors(), comm=comm)
        return [*found, [len(shown.getvalue()) > before, len(w) - found[0][1]]]


def bytes_sent(comm):
    """Those of an update, beside the size of the gradient."""
    seen = []

    class See(Callback):
        def on_batch_end(self, trainer, batch, loss):
            seen.append(trainer.ranks.sent)

    model = net()
    model.fit(*vectors(24), callbacks=See(), **how(comm))
    return [seen[-1] - seen[-2], 4 * model.size]


def alone(folder):
    """What one process gives, without MPI."""
    global FOLDER
    FOLDER = Path(folder)
    return {"bits": bits(None), "estimators": estimators(None)}


def main(folder, *names):
    global FOLDER
    from mpi4py import MPI

    comm, FOLDER = MPI.COMM_WORLD, Path(folder)
    found = {name: globals()[name](comm) for name in names}
    (FOLDER / f"{comm.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
