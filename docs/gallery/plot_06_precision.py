r"""
When float32 is not enough
==========================

The smallest eigenvalue of a kernel matrix falls as data are added, while rounding noise grows: past some size, single
precision no longer holds the matrix.

Adding examples makes a kernel matrix more nearly singular. Rounding its entries adds a small random matrix, whose norm
grows with the number of examples. Where the two meet, the small eigenvalues are noise. `precision_report` measures both
and says where they will meet.
"""

import numpy as np

from widescape import arch, data, kernels
from widescape.core.chart import Chart, Series
from widescape.report.figures import draw

# %%
# A network with small weights is a smooth function, and its kernel matrix is hard: its eigenvalues fall off fast.

full = data.load("digits")
(x,) = data.standardize(full.x_train)
net = arch.fc(depth=1, width=512, n_out=10, activation=arch.Erf(), w_std=0.5, b_std=0.5)
double = kernels.gram(net, x, get="nngp")
single = kernels.gram(net, x, get="nngp", dtype="float32")

# %%
# Every smaller data set is a corner of the same two matrices.

sizes = [40, 80, 160, 320, 640, 1280]
reports = [kernels.precision_report(double[:n, :n], "float32", lower=single[:n, :n]) for n in sizes]
for n, report in zip(sizes, reports, strict=True):
    print(
        f"{n:4d} examples: smallest eigenvalue {report.lambda_min:.1e}, noise {report.noise_norm:.1e}, "
        f"ratio {report.noise_ratio:.3f}, float32 sufficient: {report.sufficient}"
    )

# %%
# A regularizer lifts the smallest eigenvalue. The report says how much is needed for the noise to stay below a tenth of
# it, in units of the mean of the diagonal.

last = reports[-1]
print(f"needed at {sizes[-1]} examples: reg = {last.suggested_reg:.1e}")
print(f"condition number there: {last.spectrum.condition_number:.1e}")

figure = draw(
    Chart(
        name="precision",
        title="Smallest eigenvalue of the NNGP kernel, and the rounding noise of float32",
        x_label="training examples",
        y_label="size",
        series=(
            Series(sizes, np.array([r.lambda_min for r in reports]), "smallest eigenvalue", style="both"),
            Series(sizes, np.array([r.noise_norm for r in reports]), "norm of the noise", style="both"),
        ),
        x_scale="log",
        y_scale="log",
    )
)

# %%
# From 40 to 1280 examples the noise grows twentyfold while the smallest eigenvalue falls more than a hundredfold, and
# the two cross before 1280. From 640 examples on, single precision needs a regularizer; at 1280 about 1e-4 of the mean
# of the diagonal. In double precision the same matrix has a condition number of 1.8e8, which is no difficulty. That is
# why kernels are computed in float64 whatever JAX's process-wide flag says.
