"""Beyond one machine by Dask: predictions for collections of any size, and many small models at once.

Nothing of Dask is imported before it is used; ``pip install 'lstmx-cpu[dask]'`` brings it. Training one model on many
nodes is ``fit(comm=)`` of models and estimators.
"""

from lstmx.distributed._many import fit_many
from lstmx.distributed._predict import predict

__all__ = ["fit_many", "predict"]
