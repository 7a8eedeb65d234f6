"""What a fresh Python process pays: to import lstmx, and to load a model and predict; numpy alone is for comparison."""

import subprocess
import sys
import tempfile
from pathlib import Path

import lstmx

from .common import Benchmark, once

PROGRAMS = {
    "numpy": "import numpy",
    "import": "import lstmx",
    "load and predict": "import numpy, lstmx\nlstmx.load({path!r}).predict(numpy.zeros((1, 100, 1)))",
}


class Start(Benchmark):
    """Time of the program by itself (the interpreter's own start aside), and the most memory that its process held."""

    params = (tuple(PROGRAMS),)
    param_names = ("program",)
    repeat = (2, 5, 3.0)
    warmup_time = 0  # each sample is a process of its own

    @once
    def setup(self, program):
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name, "model.safetensors")
        layers = [lstmx.LSTM(1, 32), lstmx.Last(), lstmx.Dense(32, 1)]
        lstmx.Sequential(layers, random_state=0).save(path)
        self.code = PROGRAMS[program].format(path=str(path))

    def timeraw_run(self, program):
        return self.code

    def track_peak_memory(self, program):
        """Linux only: what getrusage reports elsewhere may be the parent's."""
        if sys.platform != "linux":
            raise NotImplementedError
        report = "\nprint(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
        output = subprocess.run([sys.executable, "-c", self.code + report], capture_output=True, text=True, check=True)
        return int(output.stdout) / 1024

    track_peak_memory.unit = "MiB"
