"""The ranks that train a model together, over an MPI communicator of mpi4py.

Whatever ranks do together begins with one small allgather, the header: how the rank is, what it is about to do, and
some numbers. A rank that has failed, wherever that was, sends a header that says so, and after it its error: so all
meet at the next header, and all end there. Only a rank that dies sends nothing; `heartbeats` notices that.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import signal
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from lstmx._version import __version__
from lstmx.functional import engine, validate
from lstmx.functional.messages import warn
from lstmx.training.exchange import Exchange, RankExchange
from lstmx.training.heartbeats import Heartbeats
from lstmx.training.shards import NUMBERS, bounds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, NoReturn, Self

    from lstmx._types import Array
    from lstmx.training.trainer import TrainerState


SPIN = 2e-3  # seconds for which a rank that waits asks again at once
PAUSE = 1e-3  # seconds, the most that it sleeps then
CHUNK = 2**30  # bytes that are sent at once; counts of MPI are 32-bit integers
WELL, FAILED, INTERRUPTED = range(3)  # how a rank is
_let_others_run = getattr(os, "sched_yield", lambda: None)  # which Windows has not
KINDS = ("bytes", "numbers", "flags", "end")  # of what ranks do together


class Alone:
    """One process: does by itself what `Ranks` do together.

    Parameters
    ----------
    shards : int, optional
        Into how many parts batches are cut; None: they are not.
    """

    rank, size, exact = 0, 1, True
    sent, seconds, waited = 0, 0.0, 0.0

    def __init__(self, shards: int | None = None) -> None:
        self.shards: Any = shards

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def end(self, error: BaseException | None) -> None:
        """Tell all ranks that this one has ended, well or with an error."""

    def agree(self, terms: Callable[[], dict[str, Any]]) -> None:
        """An error on all ranks if something is not the same on all of them."""

    def of_first(self, make: Callable[[], Any]) -> Any:
        """On all ranks what `make` gives on the first, where alone it is called."""
        return make()

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return bool(flag)

    def all(self, items: list[tuple[Any, Any]]) -> list[Any]:
        """What all ranks have, in the order of the keys; items are pairs of a key and what is wanted."""
        return [item for _, item in sorted(items, key=lambda pair: pair[0])]

    def gathered(self, items: list[tuple[Any, Any]]) -> list[Any]:
        """The same on the first rank; [] on the others."""
        return self.all(items)

    def share_generator(self, rng: np.random.Generator) -> None:
        """Give it the state of the first rank's."""

    def share_parameters(self, state: TrainerState) -> None:
        """Give it those of the first rank's, right after all have agreed."""

    def numbers(self, rate: float, own: Array) -> tuple[float, Array]:
        """(the first rank's learning rate, the numbers of all shards) from those of this rank's."""
        return rate, own

    def exchange(self, gradient: Array) -> Exchange:
        """What makes the mean gradient of a batch from those of its shards."""
        return Exchange()


class Ranks(Alone):
    """The ranks of a communicator, as a context in which they train together.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        It is duplicated: no message of the user's is touched.
    shards : int, optional
        Of a batch; by default 8.
    exact : bool
        Whether gradients are added in the order of the tree, else as MPI likes.

    Attributes
    ----------
    rank, size : int
    sent : int
        Bytes that this rank has sent to others, where the collectives are those of rings.
    seconds, waited : float
        That exchanges have taken; and those of them in which, at headers, a rank waits for the slowest.
    """

    def __init__(self, MPI: Any, comm: Any, shards: int | None, exact: bool) -> None:
        self._MPI, self._given, self.shards, self.exact = MPI, comm, shards, exact
        self.rank, self.size = comm.Get_rank(), comm.Get_size()
        self.sent, self.seconds, self.waited = 0, 0.0, 0.0
        self._room = 0  # numbers of a header
        self._ended = False  # all ranks know that all of them end
        self._torn = False  # this one has left in the middle of something
        self._interrupted = False
        self._beats: Heartbeats | None = None
        self._handler: Any = None
        self._exchange: RankExchange | None = None

    # Begin and end.

    def __enter__(self) -> Self:
        self._comm = self._duplicate()
        self._take_interrupts()
        try:
            if self.size > 1 and self._MPI.Query_thread() >= self._MPI.THREAD_MULTIPLE:
                self._beats = Heartbeats(self._MPI, self._duplicate())
            self._begin()
        except BaseException as error:
            self.__exit__(None, error, None)
            raise
        return self

    def _begin(self) -> None:
        """Check what is given, and whether ranks agree: here, where an error of one is told to all."""
        self.shards = 8 if self.shards is None else validate.count("shards", self.shards)
        validate.flag("exact", self.exact)
        family = engine.describe()
        kernels = f"{family['engine']}, {'fused' if family['isa']['fma'] else 'not fused'} multiply-add"
        mine = {"lstmx": __version__, "numpy": np.__version__, "kernels": kernels, "shards": self.shards,
                "exact": self.exact}  # fmt: skip
        self.agree(lambda: mine)
        self._room = NUMBERS * -(-self.shards // self.size)
        if self.size > self.shards and self.rank == 0:
            warn(f"shards: got {self.shards} for {self.size} ranks, so that {self.size - self.shards} of them have no "
                 "work; give more shards")  # fmt: skip

    def _duplicate(self) -> Any:
        comm, request = self._given.Idup()
        self._wait(request)
        return comm

    def __exit__(self, *raised: Any) -> None:
        try:
            self.end(raised[1])
        finally:
            self._close()

    def end(self, error: BaseException | None) -> None:
        """As of `Alone`."""
        if self._ended or self._torn:
            return
        if error is not None and self.size > 1:
            error.add_note(f"on rank {self.rank} of {self.size}, and the others end with it")
        self._header("end", error=error)
        self._ended = True
        if error is None and self._interrupted:  # since then: too late to tell the others
            raise KeyboardInterrupt

    def _close(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
        if self._beats is not None:
            self._beats.stop()
        if self._torn:
            if self.size > 1:
                _abort_at_exit(self._given)
            return
        if self._beats is not None and self._beats.say_goodbye():
            self._beats.comm.Free()
        self._comm.Free()

    def _take_interrupts(self) -> None:
        """The first Ctrl-C ends training at the next header, where it tears nothing apart; the second one at once."""
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return

        def handle(number: int, frame: Any) -> None:
            if self._interrupted:
                self._torn = not self._ended
                raise KeyboardInterrupt
            self._interrupted = True

        self._handler = signal.signal(signal.SIGINT, handle)

    # The header.

    def _header(
        self, kind: str, size: int = 0, rate: float = 0.0, numbers: Any = (), error: BaseException | None = None
    ) -> Array:
        """What all ranks say (ranks, 4 + numbers); an error if one of them has failed."""
        if self._ended:
            raise RuntimeError("comm: training has ended on all ranks, which do nothing together any more")
        text, state = b"", WELL
        if error is not None:
            state = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
            text = f"{type(error).__name__}\n{error}".encode()
        elif self._interrupted:
            state = INTERRUPTED
        own = np.zeros(4 + self._room)
        own[:4] = state, KINDS.index(kind), len(text) if state else size, rate
        own[4 : 4 + np.size(numbers)] = np.reshape(numbers, -1)
        found = np.empty((self.size, len(own)))
        before = self.seconds
        self._wait(self._comm.Iallgather(own, found), (self.size - 1) * own.nbytes)
        self.waited += self.seconds - before
        bad = np.flatnonzero(found[:, 0])
        if len(bad):
            sizes = [int(row[2]) if row[0] else 0 for row in found]
            texts = self._send_bytes(text, sizes)
            self._ended = True
            if error is None:
                self._raise(int(bad[0]), int(found[bad[0], 0]), texts[bad[0]].decode())
        elif (found[:, 1] != found[0, 1]).any():
            self._ended = True
            doing = ", ".join(f"rank {r}: {KINDS[int(k)]}" for r, k in enumerate(found[:, 1]))
            raise RuntimeError(f"comm: the ranks are no longer in step ({doing}); a callback or a source of batches "
                               "must do the same on all of them")  # fmt: skip
        return found

    def _raise(self, rank: int, state: int, text: str) -> NoReturn:
        """The error of another rank, or an interrupt of any."""
        name, _, message = text.partition("\n")
        if state == INTERRUPTED:
            raise KeyboardInterrupt(f"rank {rank} of {self.size} was interrupted")
        if name == "FloatingPointError":
            raise FloatingPointError(f"{message} (on rank {rank} of {self.size})")
        raise RuntimeError(f"comm: rank {rank} of {self.size} has failed, and training ends on all: {name}: {message}")

    def _wait(self, request: Any, nbytes: int = 0) -> None:
        """Until it is done: ask again and again, at first at once and then with pauses, in which Ctrl-C is seen."""
        start = time.perf_counter()
        with self.to_the_end():
            while not self._is_done(request):
                waited = time.perf_counter() - start
                if waited < SPIN:
                    _let_others_run()  # sleep(0) would take as long as a whole exchange
                    continue
                time.sleep(min(waited / 8, PAUSE))
                lost = self._beats.lost if self._beats is not None else ()
                if lost:
                    raise RuntimeError(f"{Heartbeats.told(lost, self.size)}, and what was learnt stays")
        self.sent += nbytes
        self.seconds += time.perf_counter() - start

    def _is_done(self, request: Any) -> bool:
        try:
            return request.Test()
        except self._MPI.Exception as error:
            raise RuntimeError(f"comm: the exchange has failed, perhaps as another rank has ended: {error}") from error

    # What ranks do together.

    @contextlib.contextmanager
    def to_the_end(self) -> Iterator[None]:
        """What all ranks have begun and must end: a rank that fails in there can tell the others no more."""
        try:
            yield
        except BaseException:
            self._torn = True
            raise

    def _send_bytes(self, own: bytes, sizes: list[int], everyone: bool = True) -> list[bytes]:
        """What each rank has sent, to all or, without `everyone`, to the first (others get nothing)."""
        parts: list[list[bytes]] = [[] for _ in sizes]
        step = max(CHUNK // self.size, 1)
        for first in range(0, max(sizes), step):
            counts = [min(max(size - first, 0), step) for size in sizes]
            mine = np.frombuffer(own[first : first + step], np.uint8)
            takes = everyone or self.rank == 0
            found = np.empty(sum(counts) if takes else 0, np.uint8)
            if everyone:
                self.gather_all(mine, found, counts)
            else:
                request = self._comm.Igatherv(mine, [found, counts] if takes else None, 0)
                self._wait(request, mine.nbytes * (self.rank > 0))
            ends = np.cumsum(counts)
            for k, (end, count) in enumerate(zip(ends, counts, strict=True)):
                parts[k].append(found[end - count : end].tobytes() if takes else b"")
        return [b"".join(part) for part in parts]

    def _pickled(self, own: Any, everyone: bool = True) -> list[Any]:
        """What each rank has given, or None where nothing came."""
        data = b"" if own is None else pickle.dumps(own, pickle.HIGHEST_PROTOCOL)
        sizes = self._header("bytes", len(data))[:, 2].astype(np.int64).tolist()
        with self.to_the_end():
            parts = self._send_bytes(data, sizes, everyone)
        return [pickle.loads(part) if part else None for part in parts]

    def agree(self, terms: Callable[[], dict[str, Any]]) -> None:
        """As of `Alone`."""
        found = self._pickled({name: str(value) for name, value in terms().items()})
        for rank, theirs in enumerate(found):
            for name in found[0] | theirs:
                one, other = found[0].get(name), theirs.get(name)
                if one != other:
                    self._ended = True
                    raise ValueError(f"comm: {name} is {one} on rank 0, but {other} on rank {rank}; it must be the "
                                     "same on all ranks")  # fmt: skip

    def of_first(self, make: Callable[[], Any]) -> Any:
        """As of `Alone`."""
        return self._pickled((make(),) if self.rank == 0 else None)[0][0]

    def any(self, flag: bool) -> bool:
        """As of `Alone`."""
        return bool(self._header("flags", int(flag))[:, 2].any())

    def all(self, items: list[tuple[Any, Any]]) -> list[Any]:
        """As of `Alone`."""
        return super().all([pair for part in self._pickled(items) for pair in part])

    def gathered(self, items: list[tuple[Any, Any]]) -> list[Any]:
        """As of `Alone`."""
        found = self._pickled(items, everyone=False)
        return super().all([pair for part in found for pair in part]) if self.rank == 0 else []

    def share_generator(self, rng: np.random.Generator) -> None:
        """As of `Alone`."""
        self.agree(lambda: {"random_state": type(rng.bit_generator).__name__})
        rng.bit_generator.state = self.of_first(lambda: rng.bit_generator.state)

    def share_parameters(self, state: TrainerState) -> None:
        """As of `Alone`."""
        with self.to_the_end():
            for array in (state.values, *state.tables.values()):
                self._wait(self._comm.Ibcast(array, 0), array.nbytes * (self.size > 1))

    def numbers(self, rate: float, own: Array) -> tuple[float, Array]:
        """As of `Alone`."""
        found, cut = self._header("numbers", rate=rate, numbers=own), bounds(self.shards, self.size)
        parts = [found[r, 4 : 4 + NUMBERS * (cut[r + 1] - cut[r])] for r in range(self.size)]
        return float(found[0, 3]), np.concatenate(parts).reshape(self.shards, NUMBERS)

    def exchange(self, gradient: Array) -> Exchange:
        """As of `Alone`."""
        if self.size == 1:
            return super().exchange(gradient)
        if self._exchange is None:
            self._exchange = RankExchange(self, self.shards, gradient)
        return self._exchange

    def all_to_all(self, sent: Array, counts: list[int], received: Array, others: list[int]) -> None:
        """Parts of an array, of so many elements, to each rank, and its parts from each."""
        mine = counts[self.rank] * sent.itemsize
        self._wait(self._comm.Ialltoallv([sent, counts], [received, others]), sent.nbytes - mine)

    def gather_all(self, own: Array, whole: Array, counts: list[int]) -> None:
        """The arrays of all ranks, of so many elements, one after the other, to all."""
        self._wait(self._comm.Iallgatherv(own, [whole, counts]), (self.size - 1) * own.nbytes)

    def add_all(self, array: Array) -> None:
        """The sum of the arrays of all ranks, in place and in an order that nobody promises."""
        request = self._comm.Iallreduce(self._MPI.IN_PLACE, array, self._MPI.SUM)
        self._wait(request, 2 * array.nbytes * (self.size - 1) // self.size)


_torn: list[Any] = []  # communicators of which a rank is lost


def _abort_at_exit(comm: Any) -> None:
    """MPI_Finalize would wait for a rank that is lost: when this program ends, end the others instead."""
    if not _torn:
        atexit.register(_abort)
    _torn.append(comm)


def _abort() -> None:
    time.sleep(2 * Heartbeats.TICK)  # others notice too, and say so
    if hasattr(signal, "alarm"):  # MPI_Abort asks the launcher, and waits for ever if that cannot be reached
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(3)
    _torn[0].Abort(1)


def open_ranks(comm: Any, shards: int | None, exact: bool) -> Alone:
    """`Ranks` of a communicator; or `Alone` where there is none."""
    if comm is None:
        validate.flag("exact", exact)
        return Alone(None if shards is None else validate.count("shards", shards))
    remedy = "must be an intracommunicator of mpi4py, such as MPI.COMM_WORLD; pip install 'lstmx-cpu[mpi]' mpich"
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise TypeError(f"comm: got {type(comm).__name__}, {remedy} ({error})") from None
    if isinstance(comm, MPI.Comm) and comm == MPI.COMM_NULL:
        raise ValueError("comm: got MPI.COMM_NULL, of which this process is no rank; call fit on its ranks alone")
    if not isinstance(comm, MPI.Intracomm):
        raise TypeError(f"comm: got {type(comm).__name__}, {remedy}")
    return Ranks(MPI, comm, shards, exact)
