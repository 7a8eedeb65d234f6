"""The speed and memory of lstmx, by asv: ``pip install asv virtualenv threadpoolctl``, then, in benchmarks/:

``asv machine --yes`` once; ``asv run --quick --show-stderr "HEAD^!"`` builds the last commit and runs everything once;
``asv continuous main HEAD`` compares two commits; ``asv run --python=same`` measures the lstmx installed beside asv,
without a build; ``-b step`` chooses by name. OpenBLAS reads environment variables of its own, which are left alone.
GFLOP/s are better when higher, which asv does not know: it calls a gain there a regression.
"""
