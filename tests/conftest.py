"""Set up before NumPy and SciPy load their BLAS."""

import os

collect_ignore = ["data"]  # scripts that make data, some with PyTorch

# Tests multiply small matrices, where more BLAS threads only wait for each other; tests of threads say what they need.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
