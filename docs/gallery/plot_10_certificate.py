r"""
From which step on is convergence certain?
==========================================

Gradient descent on a wide network converges; a certificate says from which step on that is no longer a matter of luck.

If the residual :math:`r` at some step satisfies :math:`h = 8\beta|r|/\lambda_{\min} \le 1`, with :math:`\beta` a bound
of the curvature and :math:`\lambda_{\min}` the smallest eigenvalue of the tangent kernel, descent from there reaches
zero loss inside a known ball at a known rate. The residual shrinks as training goes, so sooner or later it holds.
"""

import numpy as np

from widescape import arch, data, landscape
from widescape.curvature import System
from widescape.report.figures import draw

# %%
# Thirty digits, odd against even, centered and of unit length. One hidden layer of 4,096 tanh units whose second half
# repeats the first with the opposite sign, so that training starts at zero; the read-out is frozen.

part = data.load("digits").subset(30, 10)
x = part.x_train.reshape(30, -1)
x = x - x.mean(axis=0, keepdims=True)
x *= x.shape[1] ** 0.5 / np.linalg.norm(x, axis=1, keepdims=True)
y = 1.0 - 2.0 * (part.y_train[:, None] % 2)
width = 4096
half = np.random.default_rng(0).standard_normal((x.shape[1], width // 2))
signs = np.repeat([1.0, -1.0], width // 2)[:, None]
net = arch.Sequential(arch.Dense(width), arch.Tanh(), arch.Frozen(arch.Dense(1)))
system = System(net.apply, ({"w": np.concatenate([half, half], axis=1)}, (), {"w": signs}), x, y)

# %%
# The bound of the curvature is proved, from the layers alone (norm propagation), and asks for nothing.

start = landscape.certify_pl_star(system)
print(start.reason)

# %%
# Train, and look every ten steps.

run = landscape.gradient_descent(system, 0.1, 500, keep_every=10)
found = landscape.first_certified_step(system, run)
print(found)
print(found.certificate)

# %%
# What is promised from there on: the loss, the ball, and that the kernel stays well conditioned. Descent keeps to it.

at = run.snapshots[list(run.snapshot_steps).index(found.step)]
check = landscape.check_certificate(system, found.certificate, 500, params=at)
print(f"loss within its bound, parameters in the ball, eigenvalue above mu: {check.holds}")
print(f"rate {check.measured_rate:.4f}, promised {check.rate:.4f}")
print(f"moved {check.max_distance:.3f}, promised at most {check.radius:.3f}")
print(f"smallest eigenvalue {check.min_eigenvalue:.4f}, promised at least {check.mu:.4f}")

figure = draw(found.charts()[0])

# %%
# The certificate covers the last leg only: at the certified step the loss is a small share of what it was. With a
# proved bound no step before is covered, and one hidden layer is where such bounds are good; deeper ones are loose.
