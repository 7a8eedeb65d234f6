"""Measures the error of the functions of vmath.h in units in the last place, for the active instruction set.

``python benchmarks/ulp.py`` goes through all 2**32 float32 values (a quarter of an hour a function on one core) and
10**8 float64 values spread over the exponents; ``--stride 97`` takes one float32 in 97, ``--quick`` one in 997 and
fewer float64. ``LSTMX_ISA`` chooses the kernels. ``--json docs/ulp.json`` adds what was found to that file, under the
name of the instruction set; docs/make_figures.py writes it into the page about numerics.
float32 is compared with float64, float64 with NumPy's long double (64 bits of mantissa on x86-64).

Only arguments and exact results that are normal numbers count: subnormals are zero in the kernels.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from lstmx._core import isa, kernels
from lstmx.bench.environment import cpu_name

CHUNK = 2**22
FUNCTIONS = ("sigmoid", "tanh", "exp", "expm1", "softplus")

WIDER = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}
EXP_MAX = {
    np.dtype(np.float32): 88.37,
    np.dtype(np.float64): 709.43,
}  # infinite above; softmax asks for nothing above 0


def exact(name, x):
    """The function in a wider type; the forms are chosen to keep relative accuracy."""
    x = x.astype(WIDER[x.dtype])
    if name == "softplus":
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
    return 1 / (1 + np.exp(-x)) if name == "sigmoid" else getattr(np, name)(x)


def worst(name, x):
    """(largest error in ULP, its argument) over the normal cases of x."""
    info = np.finfo(x.dtype)
    if name == "exp":
        x = np.minimum(x, x.dtype.type(EXP_MAX[x.dtype]))
    if name == "expm1":  # for arguments up to 0
        x = -np.abs(x)
    out = np.empty_like(x)
    getattr(kernels, name)(x, out)
    with np.errstate(all="ignore"):
        want = exact(name, x)
        normal = (np.abs(x) >= info.tiny) & (np.abs(want) >= info.tiny) & (np.abs(want) <= info.max)
        exponent = np.frexp(np.where(normal, want, 1))[1] - 1
        error = np.where(normal, np.abs(out - want) / np.ldexp(want.dtype.type(1), exponent - info.nmant), 0)
    error[np.isnan(error)] = np.inf
    at = int(np.argmax(error))
    return float(error[at]), x[at]


def float32_values(stride):
    """Every `stride`-th float32, by its bits, in pieces."""
    for start in range(0, 2**32, CHUNK * stride):
        bits = np.arange(start, min(start + CHUNK * stride, 2**32), stride, dtype=np.uint64).astype(np.uint32)
        yield bits.view(np.float32)


def float64_values(count):
    """`count` pieces of float64: where exp and sigmoid are not constant, near 0, and of any bits."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield np.concatenate(
            [
                rng.uniform(-745, 745, CHUNK // 4),
                rng.normal(size=CHUNK // 4),
                rng.uniform(-1, 1, CHUNK // 4),
                rng.integers(0, 2**64, CHUNK // 4, dtype=np.uint64).view(np.float64),
            ]
        )


def measure(stride, pieces):
    """{function: {dtype: largest error in ULP}}, printed as they come."""
    found = {}
    for name in FUNCTIONS:
        found[name] = {}
        for dtype, values in (("float32", float32_values(stride)), ("float64", float64_values(pieces))):
            error, at = max((worst(name, x) for x in values), key=lambda pair: pair[0])
            print(f"{dtype} {name:8s} {error:.3f} ULP at {at!r}", flush=True)
            found[name][dtype] = round(error, 3)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one float32 in 997, and 4 million float64")
    parser.add_argument("--stride", type=int, default=1, help="one float32 in so many; an odd number")
    parser.add_argument("--json", type=Path, help="add what was found to this file")
    options = parser.parse_args()
    stride, pieces = (997, 1) if options.quick else (options.stride, 25)
    active = isa.describe()["active"]
    print("instruction set:", active)
    found = {"cpu": cpu_name(), "float32 stride": stride, "float64 values": pieces * CHUNK}
    found["ulp"] = measure(stride, pieces)
    if options.json:
        before = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps(dict(sorted((before | {active: found}).items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
