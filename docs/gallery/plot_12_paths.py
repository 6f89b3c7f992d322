r"""
Four ways from one solution to another
======================================

Two networks are trained from different starts. On the straight line between them the loss is as high as for guessing.
Is there a way around, and can its largest loss be known rather than sampled?
"""

import jax
import optax

from widescape import arch, data, paths, train
from widescape.curvature import System
from widescape.paths.figures import path_chart
from widescape.report.figures import draw

# %%
# Five hundred digits, three hidden layers of 64 ReLU units, two starts.

part = data.load("digits").subset(500, 100)
x = part.x_train.reshape(500, -1).astype("float32")
net = arch.fc(depth=3, width=64, n_out=10, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
ends = []
for seed in (0, 1):
    start = net.init(jax.random.key(seed), (64,), dtype="float32")
    system = System(net.apply, start, x, part.y_train, loss="cross_entropy", reduction="mean")
    run = train.fit(system, optax.adam(0.01), 600, 50, key=jax.random.key(seed))
    ends.append(system.starting_at(run.w))
print([round(end.value(), 5) for end in ends])

# %%
# The straight line; the line to the second network with its hidden units in another order, which changes no output; and
# a quadratic Bezier curve, whose middle point is trained.

first, second = ends
merged = paths.merge(first, first.params, second.params, paths.permutation_spec(net, first.params))
print(f"barrier {merged.naive.value:.3f}, with units aligned {merged.aligned.value:.3f}")
curve = paths.fit_curve(first, first.params, second.params, steps=300, optimizer=optax.adam(0.01))
print(f"largest loss seen on the curve {curve.max:.4f}")

# %%
# The constructive path. Half-size networks are trained on half of the frozen features of every layer; if they fit, so
# does a path that is made of them, by weights that nothing reads.

reports = [paths.feature_condition(end, draws=2, steps=600, batch=50, lr=2e-3) for end in ends]
for report in reports:
    print([f"{loss:.1e}" for loss in report.losses])
path = paths.connect(first, second, *reports)
bound = paths.path_bound(path, first, second, *reports)
print(f"{path.num_segments} segments; the largest loss on them is {bound.value:.4f}, and that is proved")
print(f"at most {100 * bound.error:.1f}% of the digits are misread anywhere on the path")

# %%
# Dropping half of the units, and rescaling the outputs, is the older condition. It asks for more than is needed.

dropout = paths.dropout_stability(first, draws=50)
print(f"dropout leaves a loss of {dropout.bound:.2f}")

profile = paths.evaluate_path(
    System(paths.Layered.__call__, path.points[0], x, part.y_train, loss="cross_entropy", reduction="mean"), path, 5
)
lines = {
    "straight line": (merged.naive.t, merged.naive.loss),
    "aligned units": (merged.aligned.t, merged.aligned.loss),
    "trained curve": (curve.t, curve.loss),
    "constructive path": (profile.s, profile.loss),
}
figure = draw(path_chart(lines, {"dropout": dropout.bound}))

# %%
# The points of the path are half-size networks beside dead weights: it speaks of the training loss, and is no evidence
# of a wide basin.
