"""Beyond one machine by Dask: predictions for collections that are larger than a machine, or faster on several.

Nothing of Dask is imported before it is used; ``pip install 'lstmx-cpu[dask]'`` brings it.
"""

from lstmx.distributed._predict import predict

__all__ = ["predict"]
