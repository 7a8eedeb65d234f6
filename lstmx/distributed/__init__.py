"""Work for the workers of Dask: many small models at once. It needs ``pip install 'lstmx-cpu[dask]'``."""

from lstmx.distributed._many import fit_many

__all__ = ["fit_many"]
