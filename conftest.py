"""What the doctests of the package leave out."""

# Adapters import their neighbours at once: tests/test_interop_neighbours.py runs their examples where these are.
collect_ignore = ["lstmx/interop/aeon.py", "lstmx/interop/sktime.py"]
