"""The compiled core.

Importing it loads the OpenMP runtime. Left to itself, GCC's lets idle threads spin for a millisecond; where another
program wants the core they sit on, a small call then takes twenty times as long. So it is told to spin for some 50 us,
unless the environment says something else.
"""

import importlib
import os

_LIMITED = not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys()

if _LIMITED:
    os.environ["GOMP_SPINCOUNT"] = "3000"
try:
    importlib.import_module("lstmx._core.loop")  # loads the runtime, which reads the variable now and never again
except ModuleNotFoundError as error:
    if error.name != "lstmx._core.loop":
        raise
    folder = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    raise ImportError(
        f"{folder!r} holds the source of lstmx, which is not compiled there, and Python has found it before an "
        "installed lstmx: start Python in another folder, or compile it there: pip install -e ."
    ) from error
finally:
    if _LIMITED:
        del os.environ["GOMP_SPINCOUNT"]
