r"""
A tangent kernel on its way to the limit
========================================

The tangent kernel of a random network approaches that of infinite width as its layers grow, and its error falls with
the square root of the width.

The kernel of a finite network is random: it depends on the parameters that were drawn. Two things happen as the width
grows. The spread from one network to the next falls, and so does the distance of their mean from the limit.
"""

import jax
import numpy as np

from widescape import arch, data, kernels
from widescape.core.chart import Chart, Marker, Series
from widescape.report.figures import draw

# %%
# Twelve digits are enough: a kernel has an entry for each pair.

part = data.load("digits").subset(12, 1)
(x,) = data.standardize(part.x_train)
net = arch.fc(depth=2, width=64, n_out=1, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
limit = net.kernel(x).ntk
size = np.linalg.norm(limit)

# %%
# For each width, thirty networks: how far is one of them, and how far is their mean, from the limit?

widths = [16, 32, 64, 128, 256, 512]
num_networks = 30
one, one_error, mean, noise = [], [], [], []
for width in widths:
    single = []
    for i in range(num_networks):
        params = net.init(jax.random.key(i), x.shape[1:], width=width, dtype="float64")
        single.append(np.linalg.norm(kernels.empirical_ntk(net.apply, params, x) - limit) / size)
    one.append(np.mean(single))
    one_error.append(np.std(single, ddof=1) / num_networks**0.5)
    sampled = kernels.monte_carlo(net, jax.random.key(1), num_networks, x, get="ntk", width=width)
    mean.append(np.linalg.norm(sampled.mean - limit) / size)
    noise.append(np.linalg.norm(sampled.stderr) / size)
    print(
        f"width {width:3d}: one network {one[-1]:.3f} ± {one_error[-1]:.3f}, mean of {num_networks} {mean[-1]:.3f}, "
        f"its standard error {noise[-1]:.3f}"
    )

one, one_error = np.array(one), np.array(one_error)
slope = np.polyfit(np.log(widths), np.log(one), 1)[0]
print(f"power of the width for one network: {slope:.2f}")

# %%
# Monte Carlo knows its own error. `stderr` says how far the mean of thirty networks is expected to be from the mean of
# all networks of this width; where the distance to the limit is about as large, thirty networks cannot tell the mean
# from the limit.

figure = draw(
    Chart(
        name="ntk-width",
        title="Tangent kernels approach their limit with the width",
        x_label="hidden width",
        y_label="relative distance to the limit",
        series=(
            Series(widths, one, "one network", one - one_error, one + one_error, style="both"),
            Series(widths, mean, f"mean of {num_networks} networks", style="both"),
            Series(widths, noise, "standard error of that mean", style="line"),
        ),
        x_scale="log",
        y_scale="log",
        markers=(Marker(0.1, "10% off"),),
    )
)

# %%
# A single network comes closer to the limit with a power of the width near -1/2: -0.47 here. The mean of thirty is
# closer, but at no width further from the limit than about twice its own standard error, so these thirty networks do
# not show how far the mean over all networks is from it. A single network of width 512 is still 11% off.
