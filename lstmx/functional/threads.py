"""How many threads a call may use."""

from __future__ import annotations

import contextlib
import contextvars
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, ClassVar

from lstmx._core import loop
from lstmx.functional import validate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any, TypeVar

    R = TypeVar("R")


MOST = max(64, 8 * (os.cpu_count() or 1))  # each has scratch memory, and beyond the CPUs they wait for each other
_setting: int | None = None  # set_num_threads
_local: contextvars.ContextVar[int | None] = contextvars.ContextVar("lstmx_num_threads", default=None)  # num_threads
_used_threads = False  # whether this process may have started a pool
_serial = False  # whether it is the fork of one that had


class Lock:
    """A `threading.Lock` that a forked child finds open, unless the thread that forked holds it: it goes on."""

    _all: ClassVar[weakref.WeakSet[Lock]] = weakref.WeakSet()
    _make: ClassVar[Any] = staticmethod(threading.Lock)

    def __init__(self) -> None:
        self._holder: int | None = None
        self._lock = self._make()
        self._all.add(self)

    @classmethod
    def _renew_all(cls) -> None:
        for lock in list(cls._all):
            if lock._holder != threading.get_ident():
                lock._lock, lock._holder = lock._make(), None

    def acquire(self, blocking: bool = True) -> bool:
        """As `threading.Lock.acquire`."""
        taken = self._lock.acquire(blocking)
        if taken:
            self._holder = threading.get_ident()
        return taken

    def release(self) -> None:
        """As `threading.Lock.release`."""
        self._holder = None
        self._lock.release()

    def locked(self) -> bool:
        """As `threading.Lock.locked`."""
        return self._lock.locked()


class Section(Lock):
    """Code that one thread at a time is in: ``with section.turn:``, or `run`. Others wait."""

    _make = staticmethod(threading.RLock)

    @property
    def turn(self) -> Any:
        """For ``with``. The same thread may be in it again, in a signal handler, which must not wait for itself.

        It is a lock of C: Ctrl-C comes before it is taken or after, not between that and the ``with``, which would
        leave it taken for ever.
        """
        return self._lock

    def run(self, call: Callable[..., R], *arguments: Any) -> R:
        """What ``call(*arguments)`` gives.

        Raises
        ------
        RuntimeError
            If this thread is in such a call already.
        """
        with self._lock:
            if self._holder is not None:
                raise RuntimeError("this thread is in a call of the same object already, and a signal handler has made "
                                   "another; let it leave its work to the main program, in a queue say")  # fmt: skip
            self._holder = threading.get_ident()
            try:
                return call(*arguments)
            finally:
                self._holder = None


def _cgroup_quota() -> int | None:
    """CPUs that the control group grants, rounded up; None without a limit."""
    try:
        with open("/sys/fs/cgroup/cpu.max") as file:
            quota, period = file.read().split()
        return None if quota == "max" else max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return None


_QUOTA = _cgroup_quota()


def _cpus() -> int:
    """CPUs that affinity leaves, where the core does not know them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else MOST


def _after_fork() -> None:
    # The OpenMP runtime of the child believes in threads that only the parent has, and waits for them for ever.
    global _serial
    _serial = _serial or _used_threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
    os.register_at_fork(after_in_child=Lock._renew_all)


def set_num_threads(n: int | None) -> None:
    """Set how many threads calls may use together in this process; None goes back to the default.

    The default is what OpenMP gives (``OMP_NUM_THREADS``), at most the CPUs that affinity and control group leave. A
    call takes what others have left of that, and a small call takes one; the results are the same whatever it takes.
    The matrix products of the `blas` engine run on the threads of SciPy's BLAS, which ``OPENBLAS_NUM_THREADS`` sets
    before the program starts.

    Parameters
    ----------
    n : int or None
        At most 64, or 8 for each CPU if that is more.

    Examples
    --------
    >>> import lstmx
    >>> lstmx.set_num_threads(1)
    >>> lstmx.get_num_threads()
    1
    >>> lstmx.set_num_threads(None)
    """
    global _setting
    _setting = None if n is None else _count(n)


def _count(n: int) -> int:
    n = validate.count("n", n)
    if n > MOST:
        raise ValueError(f"n: got {n}, must be at most {MOST}, which is 64 or 8 for each CPU; more only wait for a CPU")
    return n


def get_num_threads() -> int:
    """The number of threads that a call made here and now may use."""
    global _used_threads
    if _serial:
        return 1
    wanted = _local.get() or _setting
    if wanted is None:
        wanted = min(loop.max_threads(), MOST)
        wanted = min(wanted, loop.cpus() or _cpus())
        if _QUOTA is not None:
            wanted = min(wanted, _QUOTA)
    if not loop.openmp():
        return 1
    _used_threads = _used_threads or wanted > 1
    return wanted


def waiting(call: Callable[[], Any], calls: int, threads: int) -> list[float]:
    """The part of the time of so many calls that each of `threads` threads does not work in, the calling thread first.

    For benchmarks: no other call of the library may run meanwhile.
    """
    loop.record_work(True)
    start = time.perf_counter()
    try:
        for _ in range(calls):
            call()
    finally:
        wall = time.perf_counter() - start
        in_teams, busy = loop.record_work(False)
    waited = [in_teams - busy[0], *(wall - seconds for seconds in busy[1:threads])]
    return [seconds / wall for seconds in waited]


@contextlib.contextmanager
def num_threads(n: int) -> Iterator[None]:
    """Within the block, calls from this thread or task use at most `n` threads.

    Parameters
    ----------
    n : int
        As in `set_num_threads`.

    Examples
    --------
    >>> import lstmx
    >>> with lstmx.num_threads(1):
    ...     lstmx.get_num_threads()
    1
    """
    token = _local.set(_count(n))
    try:
        yield
    finally:
        _local.reset(token)
