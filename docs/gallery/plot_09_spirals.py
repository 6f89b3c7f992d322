r"""
Depth and time on two spirals
=============================

What an infinitely wide network predicts between the points, after a short and after a long training.

Two spirals that wind around each other are easy to see and hard for a linear model. `NTKClassifier` is the mean of
infinitely wide networks under gradient descent; its parameter ``t`` is how long they train.
"""

import numpy as np
from matplotlib import pyplot as plt

from widescape import arch, data
from widescape.estimators import NTKClassifier

# %%
# 300 points of the plane, and a network of two hidden layers of error functions.

part = data.spirals(n_train=300, n_test=1000, noise=0.03)
net = arch.fc(depth=2, width=512, n_out=2, activation=arch.Erf(), w_std=1.5, b_std=1.0)

# %%
# The same network after three times. Colors show the difference of its two outputs.

times = (10.0, 1000.0, None)
grid = np.linspace(-1.15, 1.15, 80)
plane = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
figure, axes = plt.subplots(1, 3, figsize=(8.4, 3.2), layout="constrained", sharey=True)
for ax, t in zip(axes, times, strict=True):
    model = NTKClassifier(net, reg=1e-6, t=t).fit(part.x_train, part.y_train)
    height = model.decision_function(plane).reshape(80, 80)
    ax.contourf(grid, grid, height, levels=np.linspace(-1.5, 1.5, 13), cmap="RdBu_r", extend="both", alpha=0.7)
    for label, shape in ((0, "o"), (1, "s")):
        own = part.x_train[part.y_train == label]
        ax.scatter(*own.T, s=6, marker=shape, color="#053061" if label == 0 else "#67001f")
    accuracy = model.score(part.x_test, part.y_test)
    name = "the end of training" if t is None else f"time {t:g}"
    ax.set_title(name, fontsize=9)
    ax.set_aspect("equal")
    print(f"{name}: accuracy {accuracy:.3f} on {len(part.y_test)} test points")

# %%
# Gradient descent learns the directions with the largest eigenvalues of the kernel first, and these vary slowly in the
# plane: at time 10 the network has seen little more than a half-plane, and 0.610 of the test points are right. At time
# 1,000 it is 0.923, and at the end all 1,000 are: the inner windings, which vary fastest, come last.
