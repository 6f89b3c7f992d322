r"""
How far is training from its linearization?
===========================================

A network that is wide enough trains like its linearization, which gradient descent solves in closed form; the gap
closes as the width grows.

Linearize a network in its parameters where training starts. The residual of that linear model after :math:`k` steps is
:math:`(1 - \eta\Theta/n)^k` times the first one, with :math:`\Theta` the tangent kernel at the start. Nothing needs to
be trained to know it. Here the network itself is trained as well.
"""

import jax
import numpy as np

from widescape import arch, data, kernels, predict, train
from widescape.core.chart import Chart, Series
from widescape.curvature import System
from widescape.report.figures import draw

# %%
# Zeros against ones, forty of each part, one output with the targets 1 and -1.

full = data.load("digits")
keep, keep_test = full.y_train < 2, full.y_test < 2
x, x_test = data.standardize(full.x_train[keep][:40], full.x_test[keep_test][:40])
y = 1.0 - 2.0 * full.y_train[keep][:40, None]
net = arch.fc(depth=2, width=64, n_out=1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)

# %%
# For each width: train the network, and predict its whole path of losses from the kernel at the start.

steps = 300
series = []
for width in (32, 128, 512):
    params = net.init(jax.random.key(3), x.shape[1:], width=width, dtype="float64")
    system = System(net.apply, params, x, y, reduction="mean")
    rate = 0.5 * train.stable_rate(system)
    run = train.linearization_distance(system, steps, rate=rate, held_out=x_test)
    theta = kernels.empirical_ntk(system)
    path = predict.discrete_gd(theta, y, rate, run.steps, f0_train=system.F())
    predicted = np.mean((path - y) ** 2, axis=(1, 2)) / 2
    keep_steps = run.steps > 0
    series.append(Series(run.steps[keep_steps], run.loss[keep_steps], f"width {width}, trained", style="points"))
    series.append(Series(run.steps[keep_steps], predicted[keep_steps], f"width {width}, predicted", style="line"))
    print(f"width {width:3d}: test outputs moved by {run.moved:.2f} and ended {run.apart:.3f} from the linearization")
    print(f"           ({run.relative:.0%} of the way); the tangent kernel changed by {run.drift[-1]:.0%}")

# %%
# `linearization_distance` also trains the linearization, step by step. Its last loss is the predicted one, to rounding.

print(f"last loss of the linearization: {run.linear_loss[-1]:.12e}, predicted {predicted[-1]:.12e}")

figure = draw(
    Chart(
        name="linearization",
        title="Training loss, and what the kernel at the start predicts",
        x_label="step of gradient descent",
        y_label="loss",
        series=tuple(series),
        x_scale="log",
        y_scale="log",
    )
)

# %%
# The wider the network, the closer the points lie to their line, and the smaller is the share of the way by which the
# network and its linearization ended apart: 11%, 7% and 4%. One network of each width was trained, so these are single
# draws. What the wide network gives up is in the last number of each pair: a tangent kernel that hardly changes means
# features that hardly change.
