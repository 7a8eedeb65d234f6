"""Estimators: a fit beside that of the model inside, predictions, and a search with one job and with two."""

import warnings

import numpy as np

import lstmx

from .common import THREADS, Benchmark, batch, limit_threads, once, sizes

EPOCHS = 5


class Classifier(Benchmark):
    """`LSTMClassifier` with a fixed number of epochs."""

    params = (("T7..29 N270 I12 H64",), THREADS)
    param_names = ("shape", "threads")

    @once
    def setup(self, shape, threads):
        limit_threads(threads)
        warnings.simplefilter("ignore")  # no fit here converges
        shape = sizes(shape)
        self.x = batch(shape)
        self.y = np.random.default_rng(0).integers(9, size=len(self.x))
        self.classifier = lstmx.LSTMClassifier(shape["H"], max_iter=EPOCHS, n_iter_no_change=EPOCHS, random_state=0)
        self.classifier.fit(self.x, self.y)

    def time_fit(self, shape, threads):
        self.classifier.fit(self.x, self.y)

    def time_predict(self, shape, threads):
        self.classifier.predict(self.x)

    def time_predict_one(self, shape, threads):
        self.classifier.predict(self.x[:1])


class Search(Benchmark):
    """A search over six fits in joblib's worker processes, which must not take more threads than there are CPUs."""

    params = ((1, 2),)
    param_names = ("jobs",)
    repeat = (1, 2, 10.0)

    @once
    def setup(self, jobs):
        from sklearn.model_selection import GridSearchCV

        lstmx.set_num_threads(None)
        warnings.simplefilter("ignore")
        self.x = batch(sizes("T30 N400 I4 H50"))
        self.y = np.arange(len(self.x)) % 2
        estimator = lstmx.LSTMClassifier(50, max_iter=EPOCHS, n_iter_no_change=EPOCHS, random_state=0)
        self.search = GridSearchCV(estimator, {"alpha": [0.0, 1e-3]}, cv=3, n_jobs=jobs)
        self.time_search(jobs)  # starts the workers, which import lstmx and scikit-learn once

    def time_search(self, jobs):
        self.search.fit(self.x, self.y)
