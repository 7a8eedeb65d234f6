"""Tells a rank that has died, or whose host is gone, from one that is slow."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from typing import Any


BEAT, BYE = 0, 1  # what a message says


class Heartbeats:
    """A daemon thread that sends each other rank a byte every second, and counts the seconds in which one sends none.

    It counts its own seconds, so that a process that has been stopped for a while takes nobody for dead. MPI itself may
    never return from a send to a process that has died: that of mpich over libfabric and TCP does not, and keeps all
    threads that call it. A second thread, which leaves MPI alone, then ends this process, with the error that nobody
    else can raise.

    Parameters
    ----------
    MPI : module
        ``mpi4py.MPI``, of which threads may be used at once (MPI_THREAD_MULTIPLE).
    comm : Intracomm
        Its own.
    """

    TICK = 1.0  # seconds
    SILENCE = 20  # of them, after which a rank is lost
    PATIENCE = 3  # more of them, after which a process that MPI keeps is ended

    def __init__(self, MPI: Any, comm: Any) -> None:
        self.MPI, self.comm = MPI, comm
        self.others = [rank for rank in range(comm.Get_size()) if rank != comm.Get_rank()]
        self._missed = dict.fromkeys(self.others, 0)
        self._gone: set[int] = set()  # ranks that have said goodbye
        self._requests: dict[int, Any] = {}
        self._words = {word: np.array([word], np.uint8) for word in (BEAT, BYE)}
        self._closing = threading.Event()
        self._sending, self._held = -1, 0  # the rank that a word is being sent to, and for how many ticks
        targets = {"lstmx-heartbeats": self._run, "lstmx-heartbeats-watch": self._watch}
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in targets.items()]
        for thread in self._threads:
            thread.start()

    @property
    def lost(self) -> list[int]:
        """The ranks that have been silent for too long."""
        if self._held >= self.SILENCE:
            return [self._sending]
        return [rank for rank, missed in self._missed.items() if missed >= self.SILENCE and rank not in self._gone]

    @classmethod
    def told(cls, lost: list[int], size: int) -> str:
        """What an error says of ranks that are lost."""
        which = ("ranks " if len(lost) > 1 else "rank ") + " and ".join(map(str, lost))
        return (
            f"comm: nothing was heard of {which} of {size} for {cls.SILENCE} s: the process has ended, or its host "
            "cannot be reached. Training ends; an estimator with checkpoint=path goes on by resume=True"
        )

    def _run(self) -> None:
        while not self._closing.wait(self.TICK):
            for rank in self.others:
                self._missed[rank] += 1
                self._send(rank, BEAT)
            self._receive()

    def _watch(self) -> None:
        while not self._closing.wait(self.TICK):
            self._held += self._sending >= 0
            if self._held >= self.SILENCE + self.PATIENCE:
                sys.stderr.write(f"{self.told([self._sending], 1 + len(self.others))}\n")
                sys.stderr.flush()
                os._exit(1)

    def _send(self, rank: int, word: int) -> bool:
        """Send a word, unless an earlier one is still on its way."""
        self._sending = rank
        try:
            before = self._requests.get(rank)
            if before is not None and not before.Test():
                return False
            self._requests[rank] = self.comm.Isend(self._words[word], rank)
            return True
        except self.MPI.Exception:  # it cannot be reached: its silence says so
            return False
        finally:
            self._sending, self._held = -1, 0

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
        """End the threads, but one that MPI keeps."""
        self._closing.set()
        for thread in self._threads:
            thread.join(2 * self.TICK)

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
