r"""
What a frozen random layer buys
===============================

A polynomial of degree 4 in eight dimensions that looks at one direction only. How many examples does it take, with and
without a random layer below the model that is trained?

Four models: ridge regression on the tangent features of a wide network (linear, the NTK) and the network's second-order
Taylor model (quadratic), each on the inputs and on a random layer of 55 squares, whitened on unlabeled inputs.
"""

from widescape import features
from widescape.report.figures import draw

problem = features.LowRankPolynomial(d=8, p=4, kind="harmonic")
models = features.four_learners(n_features=55)
curves = features.sample_complexity_curve(
    models, problem, ns=(75, 200, 600), seeds=3, n_val=500, n_test=1000, progress=False
)
for name in curves.models:
    print(f"{name:<12}", curves.median(name).round(2))

# %%
# The target is a harmonic: nothing of it can be fitted by a polynomial of lower degree, so that an error of 1 means
# that nothing was learned. The floor is a theorem: no kernel that depends on the angle of two inputs alone, with
# whatever regularizer, falls below 1 - n/294 on average over directions, for there are 294 harmonics of degree 4 in
# 8 dimensions.

figure = draw(curves.charts()[0])

# %%
# The quadratic model on the random layer stays well below the floor. A quadratic form in features of degree 2 is a
# polynomial of degree 4, and one of few directions has low rank, which the regularizer favors.

fitted = [row["selected"] for row in curves.rows() if row["model"] == "Quad-Neural"]
print("directions that the features span:", {chosen["rank"] for chosen in fitted})

# %%
# Where the median error falls to a half:

for name in curves.models:
    below = curves.ns[curves.median(name) <= 0.5]
    print(f"{name:<12} {f'{below[0]} examples' if len(below) else 'not up to 600'}")

# %%
# The squares are chosen for this target. With the paper's step activation nothing of this shows at such sizes: see
# the page on features for why.
