r"""
Stopping early is a regularizer
===============================

Gradient flow stopped at a time and ridge regression with a matching regularizer give nearly the same predictions.

Gradient flow fits each eigenvector of the kernel by the factor :math:`1 - e^{-w\tau}` after the rescaled time
:math:`\tau`, ridge regression by :math:`w/(w + \lambda)`. Both pass large eigenvalues and hold back small ones, and
they agree best where :math:`\tau = 1/\lambda`.
"""

import numpy as np

from widescape import arch, data, kernels, predict
from widescape.core.chart import Chart, Series
from widescape.report.figures import draw

# %%
# Digits again, with one training label in ten replaced by a random one: something to be regularized away.

part = data.load("digits").subset(500, 500)
x_train, y_train, x_test, y_test = part.arrays()
x_train, x_test = data.standardize(x_train, x_test)
rng = np.random.default_rng(0)
y_train = np.where(rng.random(500) < 0.1, rng.integers(0, 10, 500), y_train)
net = arch.fc(depth=2, width=512, n_out=10, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
gram = kernels.gram(net, x_train, get="ntk")
cross = kernels.gram(net, x_test, x_train, get="ntk")
targets, goal = predict.one_hot(y_train, 10), predict.one_hot(y_test, 10)

# %%
# One eigendecomposition each gives the whole path. The loss of `GradientFlow` is a mean over all :math:`n = mC`
# entries, so its time :math:`t` enters as :math:`\tau = t/n`.

regs = np.logspace(-3, 1.5, 28)  # in units of the mean of the diagonal
noise = regs * np.trace(gram) / len(gram)
times = targets.size / noise
ridge = predict.reg_path(gram, targets, cross, regs)
stopped = predict.GradientFlow(gram, targets).test(times, cross)


def loss(outputs):
    """Mean squared error on the test points."""
    return np.mean((outputs - goal) ** 2, axis=(1, 2))


figure = draw(
    Chart(
        name="ridge-time",
        title="Test loss of ridge regression, and of gradient flow stopped at time n/λ",
        x_label="regularizer λ / mean of the kernel's diagonal",
        y_label="test loss",
        series=(Series(regs, loss(ridge), "ridge"), Series(regs, loss(stopped), "gradient flow, stopped at n/λ")),
        x_scale="log",
    )
)

# %%
# Equal losses could hide different predictions, so compare these too.

apart = np.sqrt(np.mean((ridge - stopped) ** 2, axis=(1, 2)) / np.mean(ridge**2, axis=(1, 2)))
same = np.mean(ridge.argmax(axis=2) == stopped.argmax(axis=2), axis=1)
for i in (0, 9, 18, 27):
    print(f"reg {regs[i]:6.3f}: predictions apart by {apart[i]:.1%}, the same digit for {same[i]:.1%} of the images")
print(f"least loss: ridge {loss(ridge).min():.5f} at {regs[loss(ridge).argmin()]:.2g};", end=" ")
print(f"flow {loss(stopped).min():.5f} at {regs[loss(stopped).argmin()]:.2g}")

# %%
# With little regularization the two predictions are nearly equal (0.2% apart). They part slowly, by 14% at a
# regularizer equal to the mean of the diagonal, and still name the same digit for almost all images. Their least losses
# are within 2% of each other: neither is the better regularizer here.
