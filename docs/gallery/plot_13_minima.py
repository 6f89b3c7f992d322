r"""
A bad minimum, and the neuron that does not remove it
=====================================================

Adding one exponential neuron to each output leaves no bad local minimum: that is a theorem. What happens to a network
that sits in one?

The trap: two ReLU units that are affine on all three data, at the best affine fit. Its loss is 1/2, the best is 0, and
every small step from there goes up or stays.
"""

import jax
import optax

from widescape import landscape
from widescape.report.figures import draw

trap = landscape.problems.affine_trap()
w = trap.params("trap")
system = trap.system("trap")
phi, outer = landscape.model_basis(system)
print(landscape.classify_point(trap.objective, w, phi=phi, Q=outer))

# %%
# Nothing was found against it, and nothing could be: it is a local minimum. With the neuron added at zero it is none
# any more, although the Hessian still has no negative eigenvalue: the perturbable gradient basis shows it, and
# a witness, parameters with a lower value, proves it.

model = landscape.augment_exp(trap.f, dx=1, dy=1)
q = model.init(jax.random.key(0), w)
at_zero = {**q, "W": 0.0 * q["W"]}
phi, outer = landscape.augmented_basis(model, trap.loss, 1e-2, trap.X, trap.y)
report = landscape.pgb_certificate(phi, outer, at_zero)
print(report)
print(f"the witness is lower by {report.value - report.witness_value:.2e}")

# %%
# So training leaves the trap. Where does it go?

scaled = landscape.augment_exp(trap.f, dx=1, dy=1, coords="scaled")
run = landscape.train_augmented(
    scaled,
    trap.loss,
    scaled.init(jax.random.key(0), w),
    (trap.X, trap.y),
    opt=optax.adam(1e-2),
    steps=5000,
    progress=False,
)
print(run.status)
figure = draw(run.charts()[0])

# %%
# The objective falls and the loss of the network alone does not: the neuron fits what the network left over. Its
# amplitude goes to zero all the while, as in the theorem, but its contribution does not.

print(f"amplitude {run.a[-1, 0]:.4f}, offset {run.b[-1, 0]:.2f}, contribution {run.contribution[-1]:.3f}")

# %%
# With the outputs of the trap held fixed, a neuron that grows without bound hides a sixth of the loss; the infimum is
# approached, never reached.

escape = landscape.escape_value(system.F(), trap.X, trap.y, trap.loss)
print(f"from {escape.loss:.4f} to {escape.value:.4f}, at infinity: {escape.at_infinity}")
