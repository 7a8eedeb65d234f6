"""Tells a rank that has died, or whose host is gone, from one that is slow."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any


BEAT, BYE = 0, 1  # what a message says


class Heartbeats:
    """A daemon thread that sends each other rank a byte every second, and counts the seconds in which one sends none.

    It counts its own seconds, so that a process that has been stopped for a while takes nobody for dead.

    Parameters
    ----------
    MPI : module
        ``mpi4py.MPI``, of which threads may be used at once (MPI_THREAD_MULTIPLE).
    comm : Intracomm
        Its own.
    """

    TICK = 1.0  # seconds
    SILENCE = 20  # of them, after which a rank is lost

    def __init__(self, MPI: Any, comm: Any) -> None:
        self.MPI, self.comm = MPI, comm
        self.others = [rank for rank in range(comm.Get_size()) if rank != comm.Get_rank()]
        self._missed = dict.fromkeys(self.others, 0)
        self._gone: set[int] = set()  # ranks that have said goodbye
        self._requests: dict[int, Any] = {}
        self._words = {word: np.array([word], np.uint8) for word in (BEAT, BYE)}
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lstmx-heartbeats", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> list[int]:
        """The ranks that have been silent for too long."""
        return [rank for rank, missed in self._missed.items() if missed >= self.SILENCE and rank not in self._gone]

    def _run(self) -> None:
        while not self._closing.wait(self.TICK):
            for rank in self.others:
                self._missed[rank] += 1
                self._send(rank, BEAT)
            self._receive()

    def _send(self, rank: int, word: int) -> bool:
        """Send a word, unless an earlier one is still on its way."""
        try:
            before = self._requests.get(rank)
            if before is not None and not before.Test():
                return False
            self._requests[rank] = self.comm.Isend(self._words[word], rank)
            return True
        except self.MPI.Exception:  # it cannot be reached: its silence says so
            return False

    def _receive(self) -> None:
        word, status = np.empty(1, np.uint8), self.MPI.Status()
        try:
            while self.comm.Iprobe(status=status):
                self.comm.Recv(word, status.Get_source())
                self._missed[status.Get_source()] = 0
                if word[0] == BYE:
                    self._gone.add(status.Get_source())
        except self.MPI.Exception:
            pass

    def stop(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join()

    def say_goodbye(self, seconds: float = 5.0) -> bool:
        """After `stop`, where all ranks do so: wait until all messages have come, for then the communicator can be
        freed. Returns whether they have.
        """
        waiting, end = set(self.others), time.monotonic() + seconds
        while waiting or self._gone != set(self.others) or not self._all_sent():
            waiting -= {rank for rank in waiting if self._send(rank, BYE)}
            self._receive()
            if time.monotonic() > end:
                return False
            time.sleep(1e-4)
        return True

    def _all_sent(self) -> bool:
        return all(request.Test() for request in self._requests.values())
