r"""
The spread of an ensemble, in closed form
=========================================

How much trained networks differ from one random start to the next follows from two kernels, without training any.

Networks that start at different random parameters end at different functions, even on the same data. At infinite width
their outputs after training are Gaussian, with mean :math:`P_t y` and a covariance made of the NNGP kernel (the spread
before training) and the tangent kernel (what training does to it).
"""

import jax
import matplotlib.pyplot as plt
import numpy as np

from widescape import arch, predict, train

x = np.array([-1.6, -1.2, -0.5, 0.3, 0.9, 1.5])[:, None]
y = np.sin(2 * x)
grid = np.linspace(-2.4, 2.4, 97)[:, None]
net = arch.fc(depth=1, width=1024, n_out=1, activation=arch.Erf(), w_std=1.5, b_std=0.3)

# %%
# The prediction: mean and covariance of infinitely wide networks after 200 steps at half the largest stable rate. A
# single output makes the time of `GradientFlow` the number of steps times the learning rate.

both = np.concatenate([grid, x])
k = net.kernel(both)
m = len(grid)
theta, theta_cross = k.ntk[m:, m:], k.ntk[:m, m:]
prior = predict.Covariances(train=k.nngp[m:, m:], cross=k.nngp[:m, m:], test=k.nngp[:m, :m])
rate, steps = 0.5 * predict.max_learning_rate(theta, 1), 200
limit = predict.GradientFlow(theta, y).ensemble(rate * steps, theta_cross, prior)
sigma = np.sqrt(np.diag(limit.cov))

# %%
# The experiment: forty-eight networks of width 1024, each trained by gradient descent.

runs = train.ensemble(net, jax.random.key(0), 48, x, y, rate, steps, x_test=grid, dtype="float32")
finite = runs.outputs[..., 0]

figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
line, mean = grid[:, 0], limit.mean[:, 0]
axes.fill_between(line, mean - 2 * sigma, mean + 2 * sigma, color="#0072b2", alpha=0.2, label="limit, ± 2 sigma")
axes.plot(line, mean, color="#0072b2", label="limit, mean")
axes.plot(line, finite[:8].T, color="#d55e00", linewidth=0.8, label=["trained networks", *["_"] * 7])
axes.plot(x[:, 0], y[:, 0], "o", color="black", label="training points")
axes.set(xlabel="x", ylabel="output", title="Eight trained networks in the band of the infinite-width limit")
axes.legend(frameon=False, fontsize=8)

# %%
# The band holds about 95% of the outputs at each point if they are Gaussian with this mean and variance. Count, over
# all networks and all points of the grid, and compare the spread itself.

inside = np.mean(np.abs(finite - mean) < 2 * sigma, axis=1)
ratio = np.sqrt(np.mean(finite.var(axis=0, ddof=1)) / np.mean(sigma**2))
print(f"within the band: {inside.mean():.1%} ± {inside.std(ddof=1) / len(inside) ** 0.5:.1%} of the outputs")
print(f"spread of the networks / spread of the limit: {ratio:.2f}")

# %%
# The band is a statement about networks that were never trained, and it holds: 95.7% of the outputs lie in it, with a
# standard error of 1.7% over networks, and the spread is that of the limit to two digits. The band is narrow where the
# data have tied the networks down and wide beyond them. It need not pass through the training points: after 200 steps
# some directions are still on their way, and the formula knows about that too.
