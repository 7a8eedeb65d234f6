"""
Who speaks? Ragged sequences, one class each
============================================

Nine men say the same two vowels; an utterance has 7 to 29 frames of 12 features. Which of the men is it?
"""

from pathlib import Path

import matplotlib.pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

import lstmx

output = Path("lstmx-examples")
output.mkdir(exist_ok=True)

# %%
# A ragged batch is a list of arrays, ``(T_i, 12)`` each.

(train, speakers), (test, test_speakers) = lstmx.datasets.load_japanese_vowels()
print(len(train), "utterances to learn from, of", sorted({len(x) for x in train}), "frames")

# %%
# A fifth of the utterances is held out; training stops when it no longer gains from more, and the best weights stay.

classifier = lstmx.LSTMClassifier(
    hidden_size=64, bidirectional=True, pooling="mean", dropout=0.3, early_stopping=True, validation_fraction=0.2,
    n_iter_no_change=15, random_state=0,
)  # fmt: skip
classifier.fit(train, speakers)
accuracy = classifier.score(test, test_speakers)
print(f"accuracy on {len(test)} other utterances: {accuracy:.3f}")

# %%
# The file holds classes and scaling too, and is read without scikit-learn.

classifier.save(output / "speakers.safetensors")
loaded = lstmx.load(output / "speakers.safetensors")
assert (loaded.predict_proba(test) == classifier.predict_proba(test)).all()

# %%
# How training went, and who is taken for whom:

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
lstmx.LossCurveDisplay.from_estimator(classifier, ax=left)
ConfusionMatrixDisplay.from_estimator(classifier, test, test_speakers, ax=right, colorbar=False, cmap="Blues")
right.set_title(f"{len(test)} utterances: who is taken for whom, {accuracy:.1%} right")
right.set(xlabel="taken for speaker", ylabel="utterances of speaker")
figure.savefig(output / "classification.png", dpi=110)
print(f"the picture is {output / 'classification.png'}")
