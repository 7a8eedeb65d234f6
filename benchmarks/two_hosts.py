"""Training by MPI over two hosts: two network namespaces joined by a link, one rank in each, without and with delay.

    python benchmarks/two_hosts.py [--delay 20] [--hidden 50] [--json docs/two_hosts.json]

Linux, as root, with iproute2 and util-linux. The same model is trained by one rank alone and by two over the link; the
weights must be equal to the last bit. Then a rank is lost in the middle, killed or out of reach: all must
end.

All runs in a namespace of processes whose first one reads our end of a pipe: however this program ends, that one ends,
and with it, by the kernel, hosts, link and ranks. The link is a pair of veth devices; netem delays it, or where the
kernel has no netem two tap devices between which this program carries each frame after its time.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from subprocess import PIPE

import distributed_mpi

ADDRESSES = "10.77.0.1", "10.77.0.2"
DEVICE = "link0"
HOST = "nsenter", "--net", "--mount", "--target"
SIZE = {"batch": 64, "steps": 100, "batches": 4, "epochs": 5}
MESSAGES = [8, 64, 512, 2048, 8192, 32768, 131072, 524288]
LIMIT = 30  # seconds in which all must have ended after a loss
# MPI between two processes of one machine would not use the network: it is told to.
BY_TCP = {"UCX_TLS": "tcp,self", "FI_PROVIDER": "tcp", "FI_TCP_IFACE": DEVICE}


# The hosts.


def call(*command):
    """Run a command; what it says if it fails is in the error."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


class Delay(threading.Thread):
    """Two tap devices; a frame that is sent into one comes out of the other after so many seconds."""

    def __init__(self, seconds):
        super().__init__(daemon=True)
        self.seconds, self.ends, self.names = seconds, [], []
        for k in range(2):
            end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
            self.names.append(f"lx{os.getpid()}{'ab'[k]}")
            self._make(end, self.names[-1])
            self.ends.append(end)
        self.over, self.tell = os.pipe()

    @staticmethod
    def _make(end, name):
        import fcntl

        tap, plain = 0x0002, 0x1000  # IFF_TAP, IFF_NO_PI
        fcntl.ioctl(end, 0x400454CA, name.encode().ljust(16, b"\0") + (tap | plain).to_bytes(2, "little") + bytes(22))

    def run(self):
        waiting = collections.deque()  # (when, where to, frame), in order: all wait equally long
        while True:
            left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            ready = select.select([*self.ends, self.over], [], [], left)[0]
            if self.over in ready:
                return
            for end in ready:
                with contextlib.suppress(BlockingIOError):
                    while True:
                        frame = os.read(end, 65536)
                        waiting.append((time.monotonic() + self.seconds, self.ends[end == self.ends[0]], frame))
            while waiting and waiting[0][0] <= time.monotonic():
                _, to, frame = waiting.popleft()
                with contextlib.suppress(OSError):  # a device that is down loses frames, as a cable would
                    os.write(to, frame)

    def close(self):
        if self.is_alive():
            os.write(self.tell, b"x")
            self.join()
        for end in (*self.ends, self.over, self.tell):
            os.close(end)


class Hosts:
    """Two hosts with a link of so many seconds of delay each way; a context."""

    def __init__(self, delay=0.0):
        self.delay, self.by = delay, "veth"
        self.pids, self._holders, self._delayed = [], [], None

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self):
        pid = "read -r pid rest < /proc/self/stat"  # as it is numbered outside
        self._begin(
            ["unshare", "--pid", "--mount", "--fork"], f"{pid}; mount -t proc proc /proc && echo $pid && exec cat"
        )
        self._within = ["nsenter", "--pid", "--mount", "--target", self.pids.pop()]
        # UCX looks for devices in /sys, which shows those of the namespace that has mounted it.
        host = [*self._within, "unshare", "--net", "--mount"]
        for _ in ADDRESSES:
            self._begin(host, "mount -t sysfs sysfs /sys && echo $$ && exec cat")
        peer = ["peer", "name", DEVICE, "netns", self.pids[1]]
        self.inside(0, "ip", "link", "add", DEVICE, "type", "veth", *peer)
        if self.delay:
            try:
                for k in range(2):
                    self.inside(
                        k, "tc", "qdisc", "add", "dev", DEVICE, "root", "netem", "delay", f"{self.delay * 1e3}ms"
                    )
                self.by = "veth, netem"
            except OSError:
                self.inside(0, "ip", "link", "del", DEVICE)
                self._carry()
        for k, address in enumerate(ADDRESSES):
            self.inside(k, "ip", "addr", "add", f"{address}/24", "dev", DEVICE)
            for device in ("lo", DEVICE):
                self.inside(k, "ip", "link", "set", device, "up")
        while any(self._link(k)["operstate"] == "DOWN" for k in range(2)):  # until both ends have seen each other
            time.sleep(0.05)

    def _begin(self, command, script):
        process = subprocess.Popen([*command, "sh", "-c", script], stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
        self._holders.append(process)
        said = process.stdout.readline()
        if not said:
            raise OSError(f"no namespace, which needs Linux and root: {process.communicate()[1].strip()}")
        self.pids.append(said.strip())

    def _carry(self):
        self._delayed = Delay(self.delay)
        for name, pid in zip(self._delayed.names, self.pids, strict=True):
            call(*self._within, "ip", "link", "set", name, "netns", pid, "name", DEVICE)
        self._delayed.start()
        self.by = "tap devices, delayed by a program"

    def inside(self, k, *command):
        """What a command says on host k."""
        return call(*self.enter(k), *command)

    def enter(self, k):
        """The words before a command that is to run on host k."""
        return [*self._within, *HOST, self.pids[k]]

    def sent(self):
        """Bytes that both hosts have sent."""
        return sum(self._link(k)["stats64"]["tx"]["bytes"] for k in range(2))

    def _link(self, k):
        return json.loads(self.inside(k, "ip", "-s", "-j", "link", "show", DEVICE))[0]

    def agent(self, folder):
        """A program that mpiexec takes for ssh: ``agent [-x] ADDRESS COMMAND``."""
        path = Path(folder) / "agent"
        cases = "\n".join(f"{a}) host={pid} ;;" for a, pid in zip(ADDRESSES, self.pids, strict=True))
        path.write_text(f'#!/bin/sh\n[ "$1" = -x ] && shift\ncase $1 in\n{cases}\nesac\nshift\n'
                        f'exec {" ".join(HOST)} $host sh -c "$*"\n')  # fmt: skip
        path.chmod(0o700)
        return path

    def start(self, folder, job, *options, **environment):
        """Two ranks of this program, one on each host."""
        from lstmx.bench.environment import of_workers

        command = [distributed_mpi.mpiexec(), "-launcher", "ssh", "-launcher-exec", str(self.agent(folder)),
                   "-hosts", ",".join(ADDRESSES), "-ppn", "1", "-n", "2", *options]  # fmt: skip
        worker = [sys.executable, __file__, "--worker", json.dumps(job)]
        return subprocess.Popen([*self.enter(0), *command, *worker], stdout=PIPE, stderr=PIPE,
                                text=True, env=of_workers(1, BY_TCP | environment))  # fmt: skip

    def close(self):
        if self._delayed is not None:
            self._delayed.close()
            self._delayed = None
        for holder in self._holders:  # the first ends all
            holder.communicate()
        self._holders = []


# What ranks do.


def train(size):
    """By one rank alone or by all of MPI: seconds of a step, and what the weights are on each rank."""
    import lstmx

    comm, more = None, {}
    if size["ranks"] > 1:
        from mpi4py import MPI

        comm = MPI.COMM_WORLD
        more = {"comm": comm}
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # by which mpich tells of a rank that has died
        sys.stderr.write(f"rank {comm.rank} is process {os.getpid()}\n")
    (x, y), model, ends = distributed_mpi.series(size), distributed_mpi.network(size["hidden"]), []

    class Watch(lstmx.Callback):
        def on_batch_end(self, trainer, batch, loss):
            ends.append(time.perf_counter())

    more |= {"epochs": size["epochs"], "batch_size": size["batch"], "shards": distributed_mpi.SHARDS}
    model.fit(x, y, shuffle=False, verbose=0, callbacks=Watch(), **more)
    digest = hashlib.sha256(b"".join(a.tobytes() for a in model.parameters().values())).hexdigest()
    return {
        "seconds": distributed_mpi.shortest(ends, size["batches"]),
        "weights": comm.allgather(digest) if comm else [digest],
        "steps": size["epochs"] * size["batches"],
    }


def messages(size):
    return distributed_mpi.pass_messages(size, 2, {})


WORKERS = {"train": train, "messages": messages}


# What is measured.


def finish(process):
    said, errors = process.communicate(timeout=900)
    if process.returncode:
        raise RuntimeError(f"{process.args} ended with {process.returncode}:\n{errors}")
    return json.loads(said.splitlines()[-1])


def alone(size):
    """The same training by one rank, on this host."""
    from lstmx.bench.environment import of_workers

    command = [sys.executable, __file__, "--worker", json.dumps(["train", size | {"ranks": 1}])]
    return finish(subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True, env=of_workers(1)))


def together(delay, size, tries):
    """Messages and training over a link with so much delay."""
    with tempfile.TemporaryDirectory() as folder, Hosts(delay) as hosts:
        times = finish(hosts.start(folder, ["messages", {"messages": MESSAGES, "tries": tries}]))["times"]
        before = hosts.sent()
        found = finish(hosts.start(folder, ["train", size | {"ranks": 2}]))
        found["sent"] = (hosts.sent() - before) / found["steps"]
        return found | {"delay": delay, "by": hosts.by, "times": times}


def kill(hosts, process):
    hosts.inside(1, "kill", "-9", process)


def cut(hosts, process):
    hosts.inside(1, "ip", "link", "set", DEVICE, "down")


# What happens -> what does it, options of mpiexec, environment.
LOSSES = {
    "rank 1 was killed (kill -9)": (kill, [], {}),
    "rank 1 was killed, and mpiexec was told not to end the others (-disable-auto-cleanup)": (
        kill, ["-disable-auto-cleanup"], {"MPIR_CVAR_CH4_NETMOD": "ofi"},
    ),
    "the link was cut": (cut, [], {}),
}  # fmt: skip


def lost(what, size):
    """Rank 1 is lost in the middle: seconds until mpiexec has ended, and the error of rank 0, if any."""
    with tempfile.TemporaryDirectory() as folder, Hosts() as hosts:
        lose, options, environment = LOSSES[what]
        process = hosts.start(folder, ["train", size | {"ranks": 2, "epochs": 1_000_000}], *options, **environment)
        said = ""
        while (found := re.search("rank 1 is process ([0-9]+)", said)) is None:
            line = process.stderr.readline()
            if not line:
                raise RuntimeError(f"the ranks have not begun: {said}")
            said += line
        time.sleep(3)
        start = time.monotonic()
        lose(hosts, found[1])
        try:
            said += process.communicate(timeout=LIMIT)[1]
        except subprocess.TimeoutExpired:
            hosts.close()
            said += process.communicate()[1]
            raise AssertionError(f"{what}: not all have ended within {LIMIT} s; they said:\n{said}") from None
        error = re.search("^(?:RuntimeError: )?(comm: .*)", said, re.M)
        return {"what": what, "seconds": time.monotonic() - start, "error": error and error[1]}


def measure(delay, size, tries):
    """What docs/two_hosts.json holds."""
    one = alone(size)
    links = [together(d, size, tries if d == 0 else max(3, tries // 20)) for d in (0.0, delay)]
    for link in links:
        if set(link["weights"]) != set(one["weights"]):
            raise AssertionError(f"two ranks have trained something else than one: {link['weights']}, {one['weights']}")
    return {"size": size, "alone": one, "links": links, "lost": [lost(what, size) for what in LOSSES]}


def main():
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--delay", type=float, default=20, help="milliseconds on the way to the other host, and back")
    parser.add_argument("--hidden", type=int, default=50)
    parser.add_argument("--tries", type=int, default=200, help="how often a message goes there and back")
    parser.add_argument("--json", type=Path, help="write what was measured")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        kind, size = options.worker
        found = WORKERS[kind](size)
        if distributed_mpi.is_first():
            print(json.dumps(found))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = measure(options.delay / 1e3, SIZE | {"hidden": options.hidden}, options.tries)
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
