"""BLAS as SciPy carries it."""

LARGEST: int

def product_table() -> object: ...
