r"""
From pixels to kernels: what pooling knows
==========================================

A convolutional network of infinite width that ends in a mean over all positions learns digits from few examples; the
same network without that mean does no better than one without convolutions.

Three networks with two hidden layers: fully connected, convolutional with a flattened image at its end, and
convolutional with a global mean there. The kernel of the second compares each pixel with the same pixel of the other
image only; the kernel of the third compares all pairs of pixels, so it sees that a digit was moved.
"""

import numpy as np

from widescape import arch, data, kernels, predict
from widescape.core.chart import Chart, Series
from widescape.report.figures import draw

# %%
# 32 digits to learn from, about three of each kind, and 224 to be tested on.

x_train, y_train, x_test, y_test = data.load("digits").subset(32, 224).arrays()
x_train, x_test = data.standardize(x_train, x_test)
relu, scales = arch.Relu(), {"w_std": 2**0.5, "b_std": 0.1}
nets = {
    "fully connected": arch.fc(2, 512, 10, activation=relu, **scales),
    "convolutions, flattened": arch.cnn_vec(2, 512, 10, activation=relu, **scales),
    "convolutions, global mean": arch.cnn_gap(2, 512, 10, activation=relu, **scales),
}

# %%
# One kernel matrix for each, with training digits in its first rows and test digits below, and Gaussian-process
# regression over a range of regularizers.

regs = 10.0 ** np.arange(-6, 1.5, 0.5)
series = []
for name, net in nets.items():
    both = kernels.gram(net, np.concatenate([x_train, x_test]), x_train, get="nngp")
    gram, cross = both[:32], both[32:]
    curve = predict.regularizer_curve(gram, y_train, cross, test_labels=y_test, regs=regs)
    smallest, larger = 0, int(np.searchsorted(regs, 0.09))
    for i in (smallest, larger):
        score = f"{curve.accuracy[i]:.3f} ± {curve.accuracy_stderr[i]:.3f}"
        print(f"{name}: accuracy {score} at the regularizer {regs[i]:.0e}")
    print(f"   condition number {np.linalg.cond(gram):.0e}")
    series.append(Series(regs, curve.accuracy, name, style="both"))

figure = draw(
    Chart(
        name="pooling",
        title="32 digits to learn from",
        x_label="regularizer over the mean of the kernel's diagonal",
        y_label="accuracy on 224 digits",
        series=tuple(series),
        x_scale="log",
    )
)

# %%
# With the smallest regularizer the global mean gains ten points: 0.924 ± 0.018 of the digits are right, instead of
# 0.817 ± 0.026 and 0.799 ± 0.027. Convolutions without it gain nothing: at infinite width a flattened image is read by
# weights that each position has for itself, so a digit that was moved is another digit.
#
# The same mean asks for precision. It makes the spectrum of the kernel steep, with a condition number of 1e+05 instead
# of 8e+02, and what tells digits apart sits in the small eigenvalues: a regularizer of 0.1, which changes little for
# the other two, leaves an accuracy of 0.491.
