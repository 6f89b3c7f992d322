"""Representations and Taylor models in scikit-learn's manner."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from widescape import arch, features, predict
from widescape.core.errors import AssumptionWarning, RankWarning, ShapeError
from widescape.estimators import (
    IdentityRepresentation,
    LayerRepresentation,
    LinearTaylorClassifier,
    LinearTaylorRegressor,
    NeuralRepresentation,
    PolynomialRepresentation,
    QuadraticTaylorClassifier,
    QuadraticTaylorRegressor,
    RandomFeatureMap,
    Whitener,
    second_order_certificate,
)

pytestmark = pytest.mark.filterwarnings("ignore:.* fits ended with a gradient")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 3))
Y = X[:, 0] * X[:, 1] + 0.05 * RNG.normal(size=120)
UNLABELED = RNG.normal(size=(400, 3))
QUICK = {"width": 8, "activation": "square", "lam": 1e-3, "max_iter": 60, "certify": False}


@pytest.mark.claim("chen2020hierarchical/I6")
@pytest.mark.parametrize("model", [LinearTaylorRegressor(width=40), QuadraticTaylorRegressor(**QUICK)])
def test_a_pipeline_predicts_what_its_two_halves_do(model):
    representation = NeuralRepresentation(10, activation=arch.Gelu()).fit(UNLABELED)
    pipeline = make_pipeline(FrozenEstimator(representation), clone(model)).fit(X, Y)
    alone = clone(model).fit(representation.transform(X), Y)
    assert (pipeline.predict(X) == alone.predict(representation.transform(X))).all()


def test_a_neural_representation_is_a_feature_map_and_a_whitener():
    parts = make_pipeline(RandomFeatureMap(12, activation=arch.Gelu(), random_state=3), Whitener("pca")).fit(UNLABELED)
    whole = NeuralRepresentation(12, activation=arch.Gelu(), whiten="pca", random_state=3).fit(UNLABELED)
    np.testing.assert_allclose(parts.transform(X), whole.transform(X), rtol=1e-9)
    assert whole.n_components_ == 12
    assert whole.second_moment_eigs_.shape == (12,)
    assert list(whole.get_feature_names_out()[:2]) == ["neuralrepresentation0", "neuralrepresentation1"]


@pytest.mark.filterwarnings("ignore::widescape.core.errors.RankWarning")
@pytest.mark.parametrize(
    "transformer",
    [
        RandomFeatureMap(6, activation="square"),
        Whitener(),
        NeuralRepresentation(6, activation="square", whiten="pca"),
        PolynomialRepresentation(2),
        IdentityRepresentation(),
        LayerRepresentation(jnp.multiply, 2.0),
    ],
)
def test_jax_arrays_come_back_as_jax_arrays(transformer):
    fitted = transformer.fit(UNLABELED)
    out = fitted.transform(jnp.asarray(X[:4], jnp.float32))
    assert isinstance(out, jax.Array)
    expected = fitted.transform(X[:4])
    assert isinstance(expected, np.ndarray)
    np.testing.assert_allclose(out, expected, rtol=2e-3, atol=2e-4)
    with pytest.raises(ShapeError, match="`fit` saw 3 features"):
        fitted.transform(jnp.ones((2, 5)))


def test_polynomials_are_all_monomials_up_to_the_degree():
    h = PolynomialRepresentation(3, whiten=None).fit_transform(X)
    assert h.shape == (120, 20)
    np.testing.assert_allclose(h[:, -1], X[:, 2] ** 3)
    white = PolynomialRepresentation(2, whiten="pca").fit(UNLABELED)
    moments = white.transform(UNLABELED)
    np.testing.assert_allclose(moments.T @ moments / 400, np.eye(10), atol=1e-8)


def test_a_layer_of_a_network_is_a_representation():
    net = arch.Sequential(arch.Dense(5), arch.Erf(), arch.Dense(2))
    params = net.init(jax.random.key(0), (3,))
    expected = features.layer_activations(net, params, X)["2 Erf"]
    np.testing.assert_allclose(LayerRepresentation(net, params).fit_transform(X), expected, atol=1e-6)
    np.testing.assert_allclose(LayerRepresentation(net, params, layer=1, batch=7).fit_transform(X), expected, atol=1e-6)
    flat = LayerRepresentation(lambda p, x: p * x, 3.0, input_shape=(1, 3)).fit_transform(X)
    np.testing.assert_allclose(flat, 3 * X, rtol=1e-6)
    with pytest.raises(ValueError, match="`layer` is 7, but the network has 3 layers"):
        LayerRepresentation(net, params, layer=7).fit(X)
    with pytest.raises(ShapeError, match="`input_shape` is \\(2, 2\\), but the table has 3 columns"):
        LayerRepresentation(net, params, input_shape=(2, 2)).fit(X)
    with pytest.raises(TypeError, match="`net` is None"):
        LayerRepresentation().fit(X)


def test_a_grid_search_goes_through_a_pipeline():
    pipeline = make_pipeline(NeuralRepresentation(6, activation=arch.Gelu()), LinearTaylorRegressor(width=20))
    grid = {"neuralrepresentation__n_features": [4, 6], "lineartaylorregressor__ridge": [1.0, 1e6]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    assert search.best_params_["lineartaylorregressor__ridge"] == 1.0


@pytest.mark.claim("chen2020hierarchical/I5")
@pytest.mark.parametrize(
    "model",
    [
        LinearTaylorRegressor(width=20),
        QuadraticTaylorRegressor(**QUICK),
        QuadraticTaylorRegressor(width=4, max_iter=10),
    ],
)
@pytest.mark.filterwarnings("ignore:the chosen `lam`")
def test_the_same_seed_gives_the_same_fit_bit_for_bit(model):
    one, same = (clone(model).fit(X, Y).predict(X) for _ in range(2))
    assert (one == same).all()
    assert (clone(model).set_params(random_state=1).fit(X, Y).predict(X) != one).any()
    assert (pickle.loads(pickle.dumps(clone(model).fit(X, Y))).predict(X) == one).all()


def test_several_targets_are_fitted_as_if_one_by_one():
    both = np.stack([Y, X[:, 2] ** 2], axis=1)
    for model in (LinearTaylorRegressor(width=20, ridge=1e-2), QuadraticTaylorRegressor(**QUICK)):
        together = clone(model).fit(X, both)
        assert together.W_.shape[0] == 2
        apart = [clone(model).fit(X, column).predict(X) for column in both.T]
        np.testing.assert_allclose(together.predict(X), np.stack(apart, axis=1), rtol=1e-6, atol=1e-7)


def test_infinite_width_is_kernel_regression_with_the_limit():
    model = LinearTaylorRegressor(width=None, ridge=1e-2).fit(X, Y)
    net = features.infinite_linear_taylor("relu", float(np.mean(X**2)))
    gp = predict.GP(net.kernel(X).ntk, Y, reg=1e-2, kind="ntk")
    np.testing.assert_allclose(model.predict(X[:5]), gp.mean(net.kernel(X[:5], X).ntk), rtol=1e-9, atol=1e-11)
    wide = LinearTaylorRegressor(width=20000, ridge=1e-2, solver="dual").fit(X, Y)
    assert np.abs(wide.predict(X) - model.predict(X)).max() < 0.05
    chosen = LinearTaylorRegressor(width=None, ridge=(1e-3, 10.0)).fit(X, Y)
    assert chosen.lam_ == 1e-3
    assert LinearTaylorRegressor(width=None).fit(X, Y).loo_mse_ <= chosen.loo_mse_


@pytest.mark.filterwarnings("ignore:the chosen `lam`")
def test_a_grid_holds_out_rows_and_one_value_uses_all():
    search = QuadraticTaylorRegressor(width=8, activation="square", lam=(1e-5, 1e-3, 10.0), certify=False)
    model = clone(search).set_params(validation=(X[100:], Y[100:])).fit(X[:100], Y[:100])
    assert model.lam_ < 10
    alone = clone(search).set_params(lam=model.lam_).fit(X[:100], Y[:100])
    assert (alone.predict(X) == model.predict(X)).all()
    held_out = clone(search).fit(X, Y)
    assert held_out.score(X, Y) > 0.9
    assert (held_out.predict(X) != clone(search).set_params(lam=held_out.lam_).fit(X, Y).predict(X)).any()


def test_the_certificate_is_about_the_rows_of_the_fit():
    model = QuadraticTaylorRegressor(
        width=8, activation="square", lam=1e-2, tol=1e-8, max_iter=2000, dtype="float64"
    ).fit(X, Y)
    certificate = model.certificate_
    assert certificate.grad_norm <= 1e-8
    assert certificate.min_hess_eig >= -1e-6
    assert second_order_certificate(model, X, Y) == certificate
    assert second_order_certificate(model, X[:50], Y[:50]).grad_norm > 1e-4
    np.testing.assert_allclose(np.einsum("ni,ij,nj->n", X, model.quadratic_form(), X), model.predict(X), rtol=1e-9)


def test_all_solvers_reach_the_same_quadratic_form():
    options = {**QUICK, "tol": 1e-9, "max_iter": 3000, "dtype": "float64", "lam": 1e-2}
    found = [QuadraticTaylorRegressor(**options, solver=s).fit(X, Y).quadratic_form() for s in ("lbfgs", "convex")]
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.filterwarnings("ignore:the chosen `lam`")
def test_classes_are_found_by_curved_boundaries():
    inside = np.where((X**2).sum(axis=1) < 2.4, "in", "out")
    thirds = np.digitize((X**2).sum(axis=1), [1.6, 3.2])
    for model in (
        QuadraticTaylorClassifier(**{**QUICK, "lam": 1e-4}, intercept=True),
        LinearTaylorClassifier(width=200, intercept=True),
    ):
        assert clone(model).fit(X, inside).score(X, inside) > 0.95
        assert clone(model).fit(X, thirds).score(X, thirds) > 0.85
    model = QuadraticTaylorClassifier(**QUICK, intercept=True).fit(X, thirds)
    shares = model.predict_proba(X)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (model.classes_[shares.argmax(axis=1)] == model.predict(X)).all()
    binary = QuadraticTaylorClassifier(width=8, lam=1e-3).fit(X, inside)
    np.testing.assert_allclose(binary.predict_proba(X)[:, 1], 1 / (1 + np.exp(-binary.decision_function(X))))
    assert not hasattr(QuadraticTaylorClassifier(loss="squared"), "predict_proba")
    assert second_order_certificate(binary, X, inside) == binary.certificate_


@pytest.mark.claim("chen2020hierarchical/R3")
def test_what_does_not_fit_is_refused():
    for activation in ("relu", arch.LeakyRelu(), arch.Sign()):
        with pytest.raises(ValueError, match="second derivative"):
            QuadraticTaylorRegressor(activation=activation).fit(X, Y)
    with pytest.raises(ValueError, match="even"):
        QuadraticTaylorRegressor(width=7).fit(X, Y)
    with pytest.raises(ValueError, match="`lam`"):
        QuadraticTaylorRegressor(lam=-1.0).fit(X, Y)
    with pytest.raises(ValueError, match="`lam` is empty"):
        QuadraticTaylorRegressor(lam=()).fit(X, Y)
    with pytest.raises(ValueError, match="convex"):
        QuadraticTaylorRegressor(solver="convex", lam=1e-3).fit(X, Y)
    with pytest.raises(ValueError, match="constant"):
        QuadraticTaylorRegressor(lam=1e-3, max_iter=2, certify=False).fit(X, Y).quadratic_form()
    with pytest.raises(ValueError, match="`init_scale`"):
        QuadraticTaylorRegressor(**QUICK, init_scale=0.0).fit(X, Y)
    with pytest.raises(ValueError, match="one class only"):
        QuadraticTaylorClassifier().fit(X, np.ones(120, int))
    with pytest.raises(ValueError, match="`random_state`"):
        LinearTaylorRegressor(random_state=-1).fit(X, Y)
    with pytest.raises(ValueError, match="all inputs are zero"):
        LinearTaylorRegressor().fit(0 * X, Y)
    with pytest.raises(ValueError, match="10 samples have singular second moments of 20 features"):
        NeuralRepresentation(20).fit(X[:10])
    with pytest.raises(ValueError, match="'best'"):
        LinearTaylorRegressor(width=None, ridge="best").fit(X, Y)
    with pytest.raises(AttributeError, match="not fitted"):
        _ = NeuralRepresentation(20).n_components_
    with pytest.raises(ValueError, match="features"):
        Whitener().fit(X).transform(X[:, :2])


@pytest.mark.claim("chen2020hierarchical/R2")
@pytest.mark.filterwarnings("ignore:the chosen `lam`")
def test_what_is_doubtful_is_warned_of():
    with pytest.warns(RankWarning, match="of 12 directions"):
        NeuralRepresentation(12, activation="square").fit(UNLABELED)
    with pytest.warns(UserWarning, match="all targets are 2"):
        QuadraticTaylorRegressor(**QUICK).fit(X, np.full(120, 2.0))
    with pytest.warns(UserWarning, match="the chosen `lam` 10 is the smallest"):
        QuadraticTaylorRegressor(**{**QUICK, "lam": (10.0, 20.0)}).fit(X, Y)
    with pytest.warns(AssumptionWarning, match="8 rows for 3 features"):
        QuadraticTaylorRegressor(**{**QUICK, "lam": (1e-3, 1e-2)}).fit(X[:10], Y[:10])


def test_probabilities_far_from_the_data_are_numbers():
    thirds = np.digitize(X[:, 0], [-0.5, 0.5])
    model = QuadraticTaylorClassifier(**{**QUICK, "lam": 1e-8, "activation": "relu3"}, intercept=True).fit(X, thirds)
    shares = model.predict_proba(50 * X)
    assert np.isfinite(shares).all()
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_labels_that_fit_did_not_see_are_refused():
    labels = np.where(Y > 0, "ant", "bee")
    model = QuadraticTaylorClassifier(**{**QUICK, "lam": (1e-3, 1e-2)}, validation=(X, np.full(120, "cow")))
    with pytest.raises(ValueError, match="`validation` has the label 'cow'"):
        model.fit(X, labels)
    fitted = QuadraticTaylorClassifier(**QUICK).fit(X, labels)
    with pytest.raises(ValueError, match="`y` has the label 'zzz'"):
        second_order_certificate(fitted, X, ["zzz"] * 120)


def test_a_layer_passes_derivatives_and_takes_integers():
    net = arch.Sequential(arch.Dense(5), arch.Erf(), arch.Dense(2))
    body = LayerRepresentation(net, net.init(jax.random.key(0), (3,))).fit(X)
    out = body.transform(jnp.asarray(X[:4], jnp.float32))
    assert isinstance(out, jax.Array)
    np.testing.assert_allclose(out, body.transform(X[:4]), rtol=1e-5)
    assert jax.grad(lambda x: body.transform(x).sum())(jnp.asarray(X[:4], jnp.float32)).any()
    whole = RandomFeatureMap(4).fit(X)
    np.testing.assert_allclose(whole.transform(jnp.array([[1, 2, 3]])), whole.transform([[1, 2, 3]]), rtol=1e-6)


def test_unfinished_fits_are_warned_of():
    with pytest.warns(ConvergenceWarning, match="conjugate gradients ended at a relative residual"):
        model = LinearTaylorRegressor(width=200, ridge=1e-12, solver="cg", tol=1e-14, max_steps=3).fit(X, Y)
    assert model.status_ is features.LinearTaylorStatus.MAX_STEPS
    assert model.residual_ > 1e-14
    with pytest.warns(ConvergenceWarning, match="1 of 1 fits ended"):
        QuadraticTaylorRegressor(width=8, lam=1e-3, max_iter=2, certify=False).fit(X, Y)


@pytest.mark.filterwarnings("ignore:the chosen `lam`")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("model", "changes"),
    [
        (
            LinearTaylorRegressor(width=20, ridge=1e-2),
            {"width": 10, "activation": "relu3", "ridge": 1.0, "intercept": True, "symmetric": True, "random_state": 1},
        ),
        (
            QuadraticTaylorRegressor(**QUICK, tol=1e-3),
            {
                "width": 4,
                "activation": "relu3",
                "reg": "nuclear",
                "lam": 1.0,
                "loss": "huber",
                "solver": "adam",
                "max_iter": 2,
                "tol": 1.0,
                "init_scale": 0.9,
                "intercept": True,
                "dtype": "float64",
                "random_state": 1,
            },
        ),
        (
            QuadraticTaylorRegressor(**{**QUICK, "lam": (1e-3, 1e-2)}, tol=1e-3),
            {"validation": 0.5, "warm_start": True},
        ),
    ],
)
def test_every_parameter_reaches_the_fit(model, changes):
    base = clone(model).fit(X, Y).predict(X)
    for name, value in changes.items():
        other = clone(model).set_params(**{name: value}).fit(X, Y).predict(X)
        assert (other != base).any(), name


def test_the_solver_of_the_linear_model_is_the_one_asked_for():
    for solver in ("dual", "primal", "cg"):
        model = LinearTaylorRegressor(width=10, ridge=1e-2, solver=solver, tol=1e-3).fit(X, Y)
        status = features.LinearTaylorStatus.CONVERGED if solver == "cg" else features.LinearTaylorStatus.SOLVED
        assert model.status_ is status
        assert (model.residual_ > 1e-9) == (solver == "cg")  # a loose tolerance shows


def test_starts_have_the_scale_of_the_representation():
    model = LinearTaylorRegressor(width=2000, ridge=1e-2).fit(10 * X, Y)
    assert np.square(10 * X @ model.W0_.T).mean() == pytest.approx(1, rel=0.1)


@pytest.mark.filterwarnings("ignore::widescape.core.errors.RankWarning")
def test_representations_whiten_as_asked():
    plain = LayerRepresentation(jnp.multiply, 2.0, whiten="zca").fit_transform(UNLABELED)
    np.testing.assert_allclose(plain.T @ plain / 400, np.eye(3), atol=1e-6)
    base = NeuralRepresentation(6, activation=arch.Gelu()).fit(UNLABELED).transform(X)
    changes = {"shrinkage": 1.0, "center": True, "bias_scale": 2.0, "weight_dist": "gaussian", "rescale_input": False}
    for name, value in {**changes, "whiten": None, "rank_tol": 0.5, "random_state": 1}.items():
        other = NeuralRepresentation(6, **{"activation": arch.Gelu(), name: value}).fit(UNLABELED).transform(X)
        assert np.abs(other - base).max() > 1e-6, name


def test_validation_labels_count_with_their_own_signs():
    inside = np.where((X**2).sum(axis=1) < 2.4, "in", "out")
    search = QuadraticTaylorClassifier(
        **{**QUICK, "lam": (1e-4, 1.0)}, intercept=True, validation=(X[80:], inside[80:])
    )
    with pytest.warns(UserWarning, match="the chosen `lam` 0.0001"):
        search.fit(X[:80], inside[:80])
