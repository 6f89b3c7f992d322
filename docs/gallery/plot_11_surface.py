r"""
What does a picture of a loss show?
===================================

A surface shows one plane of very many dimensions; which plane, and how much of the run lies in it, decides what is
seen.
"""

import jax
import numpy as np

from widescape import landscape
from widescape.curvature import System
from widescape.report.figures import draw

# %%
# A small network fits twenty points of a Chebyshev polynomial by gradient descent.

x = np.linspace(-1, 1, 20)[:, None]
y = 8 * x**4 - 8 * x**2 + 1


def f(params, x):
    """Two hidden layers of tanh units."""
    (w1, b1), (w2, b2), (w3, b3) = params
    h = jax.numpy.tanh(x @ w1 + b1)
    return jax.numpy.tanh(h @ w2 + b2) @ w3 + b3


rng = np.random.default_rng(3)
sizes = ((1, 50), (50, 50), (50, 1))
params = [(rng.standard_normal(size) / size[0] ** 0.5, np.zeros((1, size[1]))) for size in sizes]
system = System(f, params, x, y, reduction="mean")
run = landscape.gradient_descent(system, 0.05, 4000, keep_every=50)
print(f"loss from {run.loss[0]:.3f} to {run.loss[-1]:.5f}")

# %%
# The plane in which the run moves most holds nearly all of it; a plane of two random directions holds next to nothing.

plane = landscape.trajectory_directions(run)
print(f"principal plane: {plane.explained.sum():.1%} of the squared distances from the end")
first, second = (landscape.random_direction(params, filter_axis=-1, key=jax.random.key(i)) for i in (0, 1))
random = landscape.project_trajectory(run, system.vector(first), system.vector(second))
print(f"random plane:    {random.explained:.2%}")

# %%
# The surface over the principal plane. In a survey's page it can be turned by hand.

path = landscape.project_trajectory(run, *plane.directions).coordinates
room = 0.4 * np.ptp(path)
xs, ys = (np.linspace(path[:, i].min() - room, path[:, i].max() + room, 41) for i in (0, 1))
surface = landscape.surface_2d(
    system, run.w, *plane.directions, xs, ys, trajectory=run, note="The two principal directions of the run"
)
figure = draw(surface.charts()[0])

# %%
# How sharp it is where the run ended, against what descent at this rate can follow:

sharpness = landscape.sharpness(system, run.w)
print(f"largest Hessian eigenvalue {float(sharpness):.1f}; 2 / learning rate is {2 / run.lr:.0f}")
line = landscape.mli_report(*landscape.interpolate(system, run.snapshots[0], run.w))
print(f"on the straight line from start to end the loss rises by at most {line.delta:.2g}")
