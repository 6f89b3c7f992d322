"""Four curves of sample complexity: Quad-Neural learns a harmonic of degree 4 where the three others do not."""

import warnings

import numpy as np
import pytest

from widescape import features
from widescape.core.blas import serial_blas
from widescape.core.errors import AssumptionWarning, RankWarning
from widescape.features import LowRankPolynomial
from widescape.features.row_store import digest

PROBLEM = LowRankPolynomial(16, 4, kind="harmonic")
OTHERS = ("NTK-Raw", "NTK-Neural", "Quad-Raw")


@pytest.fixture(scope="module")
def curves():
    with serial_blas():
        return features.sample_complexity_curve(features.four_learners(), PROBLEM, (500, 1000, 2000), 3, progress=False)


@pytest.mark.slow
@pytest.mark.claim("chen2020hierarchical/E1")
def test_quad_neural_learns_the_harmonic_and_the_others_do_not(curves, measured):
    best = curves.median("Quad-Neural")
    others = np.stack([curves.median(name) for name in OTHERS])
    assert curves.values.shape == (4, 3, 3)
    assert (best <= [0.90, 0.40, 0.15]).all()
    assert (others >= [[0.93, 0.80, 0.55]]).all()
    assert others[:, 2].min() / best[2] >= 4
    assert (np.diff(best) < 0).all()
    low = ", ".join(f"{value:.2f}" for value in others.min(axis=0))
    measured(
        f"Quad-Neural {best[0]:.2f}, {best[1]:.2f}, {best[2]:.3f} at n = 500, 1000, 2000; least of the others {low}"
    )


@pytest.mark.slow
def test_linear_models_stay_above_the_floor_of_the_figure(curves):
    floor = 1 - curves.ns / 3740
    for name in ("NTK-Raw", "NTK-Neural"):
        assert (curves.median(name) > floor).all()
    shown = curves.charts()[0].series
    assert [series.label for series in shown[:4]] == ["NTK-Raw", "NTK-Neural", "Quad-Raw", "Quad-Neural"]
    np.testing.assert_allclose(shown[4].y, 1 - shown[4].x / 3740)


@pytest.mark.slow
def test_every_fit_says_what_it_selected(curves):
    rows = curves.rows()
    assert {row["selected"]["rank"] for row in rows if row["model"].endswith("Neural")} == {152}
    assert {row["selected"]["ridge"] for row in rows if row["model"].startswith("NTK")} <= {1e-4, 1e-2, 0.1, 1.0, 10.0}
    quadratic = [row["selected"] for row in rows if row["model"].startswith("Quad")]
    assert {chosen["lam"] for chosen in quadratic} <= {1e-3, 1e-2, 1e-1}
    assert all(chosen["at_edge"] == (chosen["lam"] != 1e-2) for chosen in quadratic)
    assert not any("rank" in row["selected"] for row in rows if row["model"].endswith("Raw"))


# The learners, on small problems.

SMALL = {"n_features": 20, "linear_width": 40, "raw_width": 8, "neural_width": 8}
CIRCLE = LowRankPolynomial(3, 2, kind="harmonic")


def learn(name, **options):
    """What a learner makes of 40 examples, with all warnings as errors, and the data it saw."""
    learner, asked = features.four_learners(**{**SMALL, **options})[name], []
    x, y = CIRCLE.sample(40, seed=5)
    held, test = (CIRCLE.sample(60, seed=5, part=part) for part in ("validation", "test"))

    def unlabeled(count):
        asked.append(count)
        return CIRCLE.unlabeled(count, seed=5)

    return learner(x, y, validation=held, unlabeled=unlabeled, seed=5), (x, y), held, test[0], asked


def test_the_linear_learner_is_ridge_regression_with_the_ridge_that_validation_prefers():
    predict, (x, y), held, test, asked = learn("NTK-Neural", ridges=(1e-3, 1.0))
    assert asked == [400]
    unlabeled = CIRCLE.unlabeled(400, seed=5)
    with pytest.warns(RankWarning, match="9 of 20"):
        h = features.neural_representation(unlabeled, 20, activation="square", whiten="pca", seed=5)
    w0, a = features.taylor_weights(40, 9, mean_square=float((h(x) ** 2).sum(axis=1).mean()), seed=5)
    errors, outputs = {}, {}
    for ridge in (1e-3, 1.0):
        fit = features.fit_linear_taylor(h(x), y, w0, a, reg=ridge, solver="primal")
        errors[ridge] = np.mean((features.linear_taylor_outputs(h(held[0]), w0, a, fit.W) - held[1]) ** 2)
        outputs[ridge] = features.linear_taylor_outputs(h(test), w0, a, fit.W)
    best = min(errors, key=errors.get)
    assert predict.selected == {"rank": 9, "ridge": best, "at_edge": True}
    np.testing.assert_allclose(predict(test), outputs[best], atol=1e-8)


def test_the_quadratic_learner_is_the_selected_fit():
    predict, (x, y), held, test, asked = learn("Quad-Raw", lams=(1e-3, 1e-2, 1e-1))
    assert asked == []
    w0, a = features.taylor_weights(8, 3, mean_square=3.0, seed=5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumptionWarning)
        warnings.filterwarnings("ignore", "the chosen `lam`")
        found = features.select_lam(
            x, y, *held, (1e-3, 1e-2, 1e-1), W0=w0, a=a, activation="relu3", seed=5, progress=False
        )
    expected = features.quadratic_outputs(test, found.fit.W, w0, a, activation="relu3")
    np.testing.assert_allclose(predict(test), expected, rtol=1e-3, atol=1e-4)
    assert predict.selected["lam"] == found.lam
    assert predict.selected["at_edge"] == found.at_edge


def test_unlabeled_inputs_are_twenty_for_each_feature_unless_asked_otherwise():
    neural = features.NeuralInputs(10, "relu", samples=30)
    asked = []
    represent, rank = neural.fitted(
        lambda count: asked.append(count) or np.random.default_rng(0).normal(size=(count, 3)), 0
    )
    assert asked == [30]
    assert represent(np.ones((2, 3))).shape == (2, rank)
    plain, width = features.NeuralInputs(10, "relu", whiten=None).fitted(lambda count: np.ones((count, 3)), 0)
    assert width == 10
    assert plain(np.ones((1, 3))).shape == (1, 10)


def test_learners_are_told_apart_by_what_they_are():
    first, again, other = (features.four_learners(lams=lams) for lams in ((1e-2,), (1e-2,), (1e-1,)))
    assert {name: digest(own) for name, own in first.items()} == {name: digest(own) for name, own in again.items()}
    assert digest(first["Quad-Raw"]) != digest(other["Quad-Raw"])
    assert digest(first["NTK-Raw"]) == digest(other["NTK-Raw"])
    assert len({digest(own) for own in first.values()}) == 4


def test_other_warnings_of_a_fit_are_heard():
    learner, x = features.four_learners(**SMALL)["Quad-Raw"], CIRCLE.sample(30, seed=0)[0]
    with pytest.warns(UserWarning, match="all targets are 2"):
        learner(x, np.full(30, 2.0), validation=(x, np.full(30, 2.0)), unlabeled=None, seed=0)


# The energy of features by degree.


@pytest.mark.claim("chen2020hierarchical/K7")
@pytest.mark.parametrize("d", [3, 16, 100])
def test_energies_of_square_features_are_those_of_a_polynomial_of_degree_two(d):
    """The kernel is 6 + 4 rho + 2 rho^2, and rho^2 = 1/d + (1 - 1/d) P_2(rho)."""
    found = features.degree_energies(d, "square", max_degree=6)
    np.testing.assert_allclose(found.energies, [6 + 2 / d, 4, 2 * (1 - 1 / d), 0, 0, 0, 0], atol=1e-10)
    assert found.rest == pytest.approx(0, abs=1e-10)
    assert found.total == pytest.approx(12, rel=1e-13)


@pytest.mark.parametrize(("activation", "limits"), [("step", (0.091888, 0.015315)), ("relu", (1 / 3, 0.0459))])
def test_energies_of_high_dimensions_are_the_coefficients_of_the_kernel(activation, limits):
    """Half the distance at twice the dimension: the difference to the limit is O(1/d)."""
    near, far = (features.degree_energies(d, activation).energies[1:3] for d in (300, 150))
    np.testing.assert_allclose(2 * near - far, limits, rtol=1e-3)


@pytest.mark.claim("chen2020hierarchical/K7")
@pytest.mark.parametrize("activation", ["step", "relu"])
def test_energies_are_those_of_drawn_features(activation, rng):
    """The mean over features of the second moment that a least-squares fit of degree k takes, in standard errors."""
    d, count = 4, 2000
    x = rng.normal(size=(2000, d))
    x *= d**0.5 / np.linalg.norm(x, axis=1, keepdims=True)
    h = features.random_features(d, count, activation=activation, weight_dist="gaussian", seed=1)(x)
    pairs = [(i, j) for i in range(d) for j in range(i, d)][:-1]  # the last square is given by the norm
    bases = [np.ones((len(x), 1)), x, np.stack([x[:, i] * x[:, j] for i, j in pairs], axis=1)]
    found, before = features.degree_energies(d, activation, max_degree=2), 0.0
    for k in range(3):
        q = np.linalg.qr(np.hstack(bases[: k + 1]))[0]
        taken = np.square(q.T @ h).sum(axis=0) / len(x)
        part = taken - before
        before = taken
        assert abs(part.mean() - found.energies[k]) < 4 * part.std() / count**0.5 + 4e-3 * found.energies[k]


def test_shares_add_up_with_the_rest():
    found = features.degree_energies(16)
    variance = found.total - found.energies[0]
    assert found.shares.sum() + found.rest / variance == pytest.approx(1, rel=1e-13)
    assert found.charts()[0].series[0].y[1] == found.shares[1] == pytest.approx(0.0994, abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ((2,), ValueError, "`d`"),
        ((301,), ValueError, "up to 300"),
        ((16, "tanh"), ValueError, "`activation`"),
        ((3, "step", 101), ValueError, "above degree 100"),
        ((300, "step", 20), ValueError, "above degree 6"),
    ],
)
def test_energies_refuse_what_they_cannot_divide(arguments, kind, words):
    d, *activation = arguments[:2]
    with pytest.raises(kind, match=words):
        features.degree_energies(d, *activation, **({"max_degree": arguments[2]} if arguments[2:] else {}))


@pytest.mark.parametrize(("d", "degree"), [(3, 100), (16, 41), (100, 9), (300, 6)])
def test_energies_of_the_last_degrees_are_right(d, degree):
    """Of square features, which have none above degree two."""
    found = features.degree_energies(d, "square", max_degree=degree)
    np.testing.assert_allclose(found.energies[:3], [6 + 2 / d, 4, 2 * (1 - 1 / d)], rtol=1e-10)
    np.testing.assert_allclose(found.energies[3:], 0, atol=1e-8 * found.total)
