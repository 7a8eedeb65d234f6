"""kill -9 in the middle of saves: the file is the old one or the new one, whole, always.

A child saves two models to one path, in turn, and is killed after a random part of the time that this takes.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import lstmx

from . import Failed, environment

NAME = "kills"
TITLE = "kill -9 during saves"
SAVER = """
import os, random, sys, time
import lstmx
path, seed = sys.argv[1], int(sys.argv[2])
models = [lstmx.load(path + end) for end in (".one", ".two")]
rng = random.Random(seed)
def slow(name):                     # between the steps of a save, where a kill should fall as well
    call = getattr(os, name)
    def slowed(*given):
        time.sleep(rng.random() * 0.001)
        return call(*given)
    return slowed
for name in ("write", "fsync", "chmod", "replace"):
    setattr(os, name, slow(name))
for line in sys.stdin:              # one line, one child
    if os.fork() == 0:
        rng.seed(line)
        rng.shuffle(models)
        print(os.getpid(), flush=True)
        while True:
            for model in models:
                model.save(path)
    os.wait()
    print("gone", flush=True)
"""


def models():
    """Two that differ in kind and in size."""
    head = [lstmx.Last(), lstmx.Dense(48, 2)]
    return lstmx.LSTM(8, 24, random_state=0), lstmx.Sequential([lstmx.LSTM(64, 48), *head], random_state=0)


def run(seconds, seed):
    """Kills until the time is over."""
    rng = random.Random(seed)
    found = {"kills": 0, "found the one": 0, "found the other": 0, "left a temporary file": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        for model, end in zip(models(), (".one", ".two"), strict=True):
            model.save(f"{path}{end}")
        wanted = [Path(f"{path}{end}").read_bytes() for end in (".one", ".two")]
        models()[0].save(path)
        command = [sys.executable, "-c", SAVER, str(path), str(seed)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env=environment(), start_new_session=True, **pipes) as parent:
            try:
                end = time.monotonic() + seconds
                while not found["kills"] or time.monotonic() < end:
                    _kill(parent, rng)
                    try:
                        content, left = _look(path, wanted)
                    except Failed as error:
                        raise Failed(f"kills: after {found['kills']} of --seed {seed}: {error}") from None
                    found["kills"] += 1
                    found["found the one" if content == wanted[0] else "found the other"] += 1
                    found["left a temporary file"] += left
            finally:
                os.killpg(parent.pid, signal.SIGKILL)  # and a child that saves on
        models()[1].save(path)
        if len(os.listdir(folder)) != 3:
            raise Failed(f"kills: the next save leaves {os.listdir(folder)}")
    return found


def _look(path, wanted):
    """The content of the file after a kill, and whether there is a temporary one."""
    left = [name for name in os.listdir(path.parent) if not name.startswith("model.safetensors")]
    content = path.read_bytes()
    if content not in wanted:
        raise Failed(f"there are {len(content)} bytes, which is neither file")
    if len(left) > 1:
        raise Failed(f"killed saves have left {left}")
    lstmx.load(path)
    return content, len(left) == 1


def _kill(parent, rng):
    """Lets a child save for a moment."""
    parent.stdin.write(f"{rng.random()}\n")
    parent.stdin.flush()
    child = int(parent.stdout.readline())
    time.sleep(rng.random() * 0.03)
    os.kill(child, signal.SIGKILL)
    if parent.stdout.readline() != "gone\n":
        raise Failed("kills: the child ended by itself")
