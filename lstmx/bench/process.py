"""The parent's side of a worker process, and of the fresh processes of the task `import`."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lstmx.bench import environment, onnx_engines, tasks

if TYPE_CHECKING:
    import os

    from lstmx.bench.shapes import Shape


TIMEOUT = 300.0  # seconds for one answer


class WorkerError(Exception):
    """The worker ended, did not answer or answered with an error."""


class WorkerProcess:
    """A worker, started at once.

    Parameters
    ----------
    name : str
        An engine of `tasks.ENGINES`, or "module:Class".
    threads : int
    timeout : float
    """

    def __init__(self, name: str, threads: int, timeout: float = TIMEOUT) -> None:
        target, _, variables = tasks.ENGINES.get(name, (name, (), {}))
        self.name, self.timeout = name, timeout
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process: Any = subprocess.Popen(
            [sys.executable, "-P", "-m", "lstmx.bench.worker", target, str(threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=environment.of_workers(threads, variables),
        )  # fmt: skip
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.versions = self._receive()["versions"]
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=self.timeout)
        except queue.Empty:
            self.close()
            raise WorkerError(f"no answer in {self.timeout:g} s") from None
        if line is None:
            status = self._process.wait()
            last = self._last_words()
            self.close()
            raise WorkerError(f"the process ended with status {status}{last}")
        reply = json.loads(line)
        if "error" in reply:
            raise WorkerError(reply["error"])
        return reply

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """The worker's answer to a request."""
        try:
            self._process.stdin.write(json.dumps({"op": op} | arguments) + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):  # it has ended; reading says how
            pass
        return self._receive()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        self._reader.join(timeout=5)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(OSError):
                stream.close()


# What a fresh process does for the task `import`; T, I, H are those of the model written by `models`.
PROGRAMS = {
    "lstmx": "import numpy, lstmx\nlstmx.load({path!r}).predict(numpy.zeros((1, {T}, {I}), 'float32'))",
    "onnxruntime": (
        "import numpy, onnxruntime\n"
        "session = onnxruntime.InferenceSession({path!r}, providers=['CPUExecutionProvider'])\n"
        "session.run(None, {{'X': numpy.zeros(({T}, 1, {I}), 'float32')}})"
    ),
    "openvino": (
        "import numpy, openvino\nmodel = openvino.Core().compile_model({path!r}, 'CPU')\n"
        "model(numpy.zeros(({T}, 1, {I}), 'float32'))"
    ),
}
FRAME = """
import sys, time
start = time.perf_counter()
{body}
seconds = time.perf_counter() - start
try:
    memory = int(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]) / 1024
except OSError:
    import resource
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
print(seconds, memory)
"""


class FreshProcess:
    """Runs an engine's program in new processes; lstmx's model has a Dense layer more.

    Bytecode of all packages is kept beside the model, from a first process that is not timed: not every checkout or
    environment keeps any.

    Parameters
    ----------
    name : str
    shape : Shape
    folder : str
        For the model.
    """

    def __init__(self, name: str, shape: Shape, folder: str | os.PathLike[str]) -> None:
        import lstmx

        self.name = name
        path = Path(folder, f"{name}.safetensors" if name == "lstmx" else f"{name}.onnx")
        if name == "lstmx":
            layers = [lstmx.LSTM(shape.I, shape.H), lstmx.Last(), lstmx.Dense(shape.H, 1)]
            lstmx.Sequential(layers, random_state=0).save(path)
        else:
            onnx_engines.write_model(shape.name, path)
        body = PROGRAMS[name].format(path=str(path), T=shape.T, I=shape.I)
        self._command = [sys.executable, "-P", "-c", FRAME.format(body=body)]
        self._bytecode = {"PYTHONPYCACHEPREFIX": str(Path(folder, "bytecode")), "PYTHONDONTWRITEBYTECODE": ""}
        self.time(1)

    def time(self, threads: int) -> dict[str, float]:
        """{"seconds", "memory"}: the program's time without the interpreter's start, the peak of memory in MiB."""
        done = subprocess.run(
            self._command,
            env=environment.of_workers(threads, self._bytecode),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode:
            raise WorkerError(
                f"status {done.returncode}: {(done.stderr.strip().splitlines() or ['no message'])[-1][:300]}"
            )
        seconds, memory = (float(word) for word in done.stdout.split()[-2:])
        return {"seconds": seconds, "memory": memory}
