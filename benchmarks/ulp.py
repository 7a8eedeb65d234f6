"""Measures the error of the functions of vmath.h in units in the last place, for the active instruction set.

``python benchmarks/ulp.py`` goes through all 2**32 float32 values (a quarter of an hour a function on one core) and
10**8 float64 values spread over the exponents; ``--quick`` takes one float32 in 997. ``LSTMX_ISA`` chooses the kernels.
float32 is compared with float64, float64 with NumPy's long double (64 bits of mantissa on x86-64).

Only arguments and exact results that are normal numbers count: subnormals are zero in the kernels.
"""

import argparse

import numpy as np

from lstmx._core import isa, kernels

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one float32 in 997")
    stride = 997 if parser.parse_args().quick else 1
    print("instruction set:", isa.describe()["active"])
    chunk = 2**22
    for name in ("sigmoid", "tanh", "exp", "expm1", "softplus"):
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
