"""Set up before NumPy and SciPy load their BLAS."""

import os

# Tests multiply small matrices, where more BLAS threads only wait for each other; tests of threads say what they need.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
