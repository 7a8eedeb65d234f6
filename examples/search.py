"""Digits read row by row: a pipeline, and a search over its parameters.

    python examples/search.py [--output FOLDER] [--n-jobs N]

An image of 8 rows is a sequence of 8 steps with 8 features. The features that a network learns without labels feed a
linear classifier; a network trained with the labels is searched beside it. Draws the scores of all candidates.
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline

import lstmx

parser = argparse.ArgumentParser()
parser.add_argument("--output", type=Path, default=Path("lstmx-examples"))
parser.add_argument("--n-jobs", type=int, default=2)
options = parser.parse_args()
options.output.mkdir(parents=True, exist_ok=True)

images, digits = load_digits(return_X_y=True)
train, test, y, y_test = train_test_split(
    images.reshape(-1, 8, 8).astype(np.float32), digits, test_size=0.25, stratify=digits, random_state=0
)

pipeline = Pipeline(
    [
        ("features", lstmx.LSTMTransformer(pooling="last", max_iter=20, tol=0, n_iter_no_change=100, random_state=0)),
        ("classify", LogisticRegression(max_iter=2000)),
    ]
)
network = Pipeline(
    [("classify", lstmx.LSTMClassifier(tol=1e-3, n_iter_no_change=3, learning_rate_init=0.01, random_state=0))]
)
grid = {"unsupervised features": (pipeline, {"features__hidden_size": [16, 32, 64]}),
        "trained with labels": (network, {"classify__hidden_size": [16, 32, 64]})}  # fmt: skip

figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
for name, (steps, parameters) in grid.items():
    search = GridSearchCV(steps, parameters, cv=3, n_jobs=options.n_jobs).fit(train, y)
    sizes = next(iter(parameters.values()))
    mean, deviation = search.cv_results_["mean_test_score"], search.cv_results_["std_test_score"]
    print(f"{name}: best {search.best_params_}, accuracy on the test set {search.score(test, y_test):.3f}")
    ax.errorbar(sizes, mean, deviation, marker="o", capsize=4, label=f"{name}, cross-validated")
    ax.scatter(search.best_params_[next(iter(parameters))], search.score(test, y_test), marker="*", s=150, zorder=3,
               label=f"{name}, the best on the test set")  # fmt: skip
ax.set(xlabel="hidden_size", ylabel="accuracy", xticks=sizes, title="1,797 digits read row by row")
ax.legend()
figure.savefig(options.output / "search.png", dpi=110)
print(f"the picture is {options.output / 'search.png'}")
