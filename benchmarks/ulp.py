"""Measures the error of sigmoid, tanh and exp in units in the last place, for the active instruction set.

``python benchmarks/ulp.py`` goes through all 2**32 float32 values (about ten minutes a function on one core) and 10**8
float64 values spread over the exponents; ``--quick`` takes one float32 in 997. ``LSTMX_ISA`` chooses the kernels.
float32 is compared with NumPy's long double, float64 with the same (64 bits of mantissa on x86-64).

Only arguments and exact results that are normal numbers count: subnormals are zero in the kernels.
"""

import argparse

import numpy as np

from lstmx._core import simd

WIDE = np.longdouble


def exact(name, x):
    """The function in extended precision; the forms are chosen to keep relative accuracy."""
    x = x.astype(WIDE)
    if name == "exp":
        return np.exp(x)
    if name == "tanh":
        return np.tanh(x)
    return WIDE(1) / (WIDE(1) + np.exp(-x))


def worst(name, x):
    """(largest error in ULP, its argument) over the normal cases of x."""
    info = np.finfo(x.dtype)
    out = np.empty_like(x)
    getattr(simd, name)(x, out)
    with np.errstate(all="ignore"):
        want = exact(name, x)
        size = np.abs(want)
        normal = (np.abs(x) >= info.tiny) & (size >= info.tiny) & (size <= info.max) & np.isfinite(x)
        exponent = np.floor(np.log2(np.where(normal, size, 1)))
        ulp = np.exp2(exponent - info.nmant)
        error = np.where(normal, np.abs(out.astype(WIDE) - want) / ulp, 0)
    error[np.isnan(error)] = np.inf
    at = int(np.argmax(error))
    return float(error[at]), x[at]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one float32 in 997")
    stride = 997 if parser.parse_args().quick else 1
    print("instruction set:", simd.isa()["active"])
    chunk = 2**22
    for name in ("sigmoid", "tanh", "exp"):
        found = (0.0, None)
        for start in range(0, 2**32, chunk * stride):
            bits = np.arange(start, min(start + chunk * stride, 2**32), stride, dtype=np.uint64).astype(np.uint32)
            found = max(found, worst(name, bits.view(np.float32)), key=lambda pair: pair[0])
        print(f"float32 {name:8s} {found[0]:.3f} ULP at {found[1]!r}")
        rng = np.random.default_rng(0)
        found = (0.0, None)
        for _ in range(25 if stride == 1 else 1):
            x = np.concatenate(
                [
                    rng.uniform(-745, 745, chunk // 4),
                    rng.normal(size=chunk // 4),
                    rng.uniform(-1, 1, chunk // 4),
                    rng.integers(0, 2**64, chunk // 4, dtype=np.uint64).view(np.float64),
                ]
            )
            found = max(found, worst(name, x), key=lambda pair: pair[0])
        print(f"float64 {name:8s} {found[0]:.3f} ULP at {found[1]!r}")


if __name__ == "__main__":
    main()
