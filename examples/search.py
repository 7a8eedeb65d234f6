"""
Digits read row by row: a pipeline, and a search
================================================

An image of 8 rows is a sequence of 8 steps with 8 features. A pipeline scales and classifies; a search tries eight
settings of it, two at a time.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import Pipeline

import lstmx

output = Path("lstmx-examples")
output.mkdir(exist_ok=True)

images, digits = load_digits(return_X_y=True)
train, test, y, y_test = train_test_split(
    images.reshape(-1, 8, 8).astype(np.float32), digits, test_size=0.25, stratify=digits, random_state=0
)

# %%
# ``LSTMClassifier`` scales its features itself unless told otherwise; here a step of the pipeline does.

pipeline = Pipeline(
    [
        ("scale", lstmx.SequenceScaler()),
        ("classify", lstmx.LSTMClassifier(standardize=False, tol=1e-3, n_iter_no_change=5, random_state=0)),
    ]
)
grid = {"classify__hidden_size": [16, 32, 64, 128], "classify__bidirectional": [False, True]}
search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(train, y)
print(f"best: {search.best_params_}, accuracy on the test set {search.score(test, y_test):.3f}")

# %%
# The cross-validated accuracy of all candidates, and what a logistic regression makes of the same images as they are:

results, sizes = search.cv_results_, grid["classify__hidden_size"]
linear = cross_val_score(LogisticRegression(max_iter=5000), train.reshape(len(train), -1) / 16, y, cv=3).mean()
figure, ax = plt.subplots(figsize=(8, 5), layout="constrained")
for both, name in ((False, "one direction"), (True, "both directions")):
    rows = results["param_classify__bidirectional"] == both
    ax.errorbar(
        sizes, results["mean_test_score"][rows], results["std_test_score"][rows], marker="o", capsize=4, label=name
    )
ax.axhline(linear, color="0.5", linestyle=":", label="logistic regression on the pixels")
ax.set(xlabel="hidden_size", ylabel="accuracy, cross-validated", title="1,347 digits read row by row")
ax.set_xscale("log", base=2)
ax.set_xticks(sizes, sizes)
ax.legend(loc="lower right")
figure.savefig(output / "search.png", dpi=110)
print(f"the picture is {output / 'search.png'}")
