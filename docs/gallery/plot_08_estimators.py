r"""
Probabilities that mean what they say
=====================================

A classifier of the scikit-learn kind, whose regularizer and probabilities are both calibrated by leave-one-out.

Regression on one-hot targets gives outputs, not probabilities. `NTKClassifier` turns them into probabilities by one
number, chosen so that each training label is as likely as can be when its own example is left out.
"""

from itertools import pairwise

import numpy as np
from matplotlib import pyplot as plt
from sklearn.pipeline import make_pipeline

from widescape import data
from widescape.estimators import InputScaler, NTKClassifier

# %%
# Half of the labels of 4 and 9 among 300 training digits are exchanged, so that there is something to be unsure about.

part = data.load("digits").subset(300, 500)
rng = np.random.default_rng(1)
exchanged = {4: 9, 9: 4}


def noisy(labels):
    """Labels, half of the fours and nines exchanged."""
    return np.array([exchanged.get(y, y) if rng.random() < 0.5 else y for y in labels])


y_train, y_test = noisy(part.y_train), noisy(part.y_test)

# %%
# No validation set is needed: ``reg="loo"`` takes the regularizer with the least leave-one-out loss.

model = make_pipeline(InputScaler(), NTKClassifier(reg="loo")).fit(part.x_train, y_train)
classifier = model[-1]
probabilities = model.predict_proba(part.x_test)
right = model.predict(part.x_test) == y_test
print(f"regularizer {classifier.reg_:.3f} of the mean diagonal")
print(f"accuracy {right.mean():.3f} on test images, {classifier.loo_accuracy_:.3f} by leave-one-out")

# %%
# A reliability diagram: among images to which the model gives its class a certain probability, how many are right?

confidence = probabilities.max(axis=1)
edges = [0.0, 0.5, 0.7, 0.9, 0.97, 1.0]
figure, axes = plt.subplots(figsize=(5.2, 3.5), layout="constrained")
axes.plot([0.2, 1], [0.2, 1], color="gray", linestyle="dashed", label="perfect calibration")
for low, high in pairwise(edges):
    chosen = (confidence > low) & (confidence <= high)
    if not chosen.any():
        continue
    n, share = chosen.sum(), right[chosen].mean()
    error = np.sqrt((share * n + 1) / (n + 2) * (n - share * n + 1) / (n + 2) / n)
    axes.errorbar(confidence[chosen].mean(), share, error, color="#0072b2", marker="o", capsize=3)
    said = confidence[chosen].mean()
    print(f"{low:.2f} to {high:.2f}: {said:.2f} said, {share:.2f} ± {error:.2f} right, {n} images")
axes.set_xlabel("mean probability of the predicted class")
axes.set_ylabel("share that is right")
axes.legend(frameon=False)

# %%
# Seven images in ten get a probability above 0.7, and these are right as often as they say. Where the model
# is least sure it is right more often than it says: with several classes left, one number for all outputs is not
# enough.
