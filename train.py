
import numpy as np
from mpi4py import MPI
import lstmx

comm = MPI.COMM_WORLD
rng = np.random.default_rng(0)  # the same data on every rank
X = rng.normal(size=(256, 20, 3)).astype("float32")
y = X.sum(axis=(1, 2))

model = lstmx.Sequential([lstmx.LSTM(3, 16), lstmx.Last(), lstmx.Dense(16, 1)], random_state=0)
history = model.fit(X, y, comm=comm, epochs=3, verbose=0, random_state=0)
if comm.rank == 0:
    model.save("model.safetensors")
