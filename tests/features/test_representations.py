"""Random features, second moments and whitening."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from widescape import arch
from widescape.core.errors import DtypeError, NonFiniteError, RankWarning, ShapeError
from widescape.features.neural_representations import neural_representation
from widescape.features.random_layers import RandomFeatures, input_scale, random_features
from widescape.features.second_moments import second_moment, unlabeled_samples, whitening


def _sphere(n, d, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return x * (d**0.5 / np.linalg.norm(x, axis=1, keepdims=True))


def test_a_random_layer_is_the_activation_of_an_affine_map():
    layer = random_features(3, 7, activation="relu", bias_scale=2.0, input_scale=0.5, seed=4)
    x = _sphere(6, 3)
    np.testing.assert_allclose(layer(x), np.maximum(0.5 * x @ layer.weights.T + layer.bias, 0), rtol=1e-14)


def test_rows_lie_on_the_unit_sphere_or_have_unit_expected_norm():
    sphere = random_features(16, 1000, weight_dist="sphere").weights
    gaussian = random_features(16, 20000, weight_dist="gaussian").weights
    np.testing.assert_allclose(np.linalg.norm(sphere, axis=1), 1, rtol=1e-14)
    squares = np.square(gaussian).sum(axis=1)
    assert abs(squares.mean() - 1) < 4 * squares.std() / 20000**0.5


def test_the_step_is_one_at_zero():
    layer = RandomFeatures(np.array([[1.0]]), np.array([0.0]), "step")
    assert layer(np.array([[-1.0], [0.0], [2.0]])).ravel().tolist() == [0.0, 1.0, 1.0]


def test_features_of_jax_arrays_are_jax_arrays_that_can_be_differentiated():
    layer = random_features(3, 5, activation=arch.Gelu())
    x = _sphere(4, 3)
    out = layer(jnp.asarray(x))
    assert isinstance(out, jax.Array)
    np.testing.assert_allclose(out, layer(x), rtol=1e-4, atol=1e-5)
    assert jax.grad(lambda v: layer(v).sum())(jnp.asarray(x)).shape == x.shape


def test_the_same_seed_draws_the_same_layer():
    one, same, other = (random_features(4, 6, seed=s) for s in (1, 1, 2))
    assert (one.weights == same.weights).all()
    assert (one.bias == same.bias).all()
    assert not (one.weights == other.weights).any()


@pytest.mark.claim("chen2020hierarchical/I1")
def test_rotating_inputs_and_weights_together_leaves_zca_outputs_unchanged():
    x0, x = _sphere(400, 4), _sphere(20, 4, seed=1)
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(4, 4)))[0]
    layer = random_features(4, 6, activation=arch.Gelu())
    turned = RandomFeatures(layer.weights @ turn, layer.bias, layer.activation, layer.input_scale)

    def outputs(layer, x0, x):
        return whitening(second_moment(x0, layer))(layer(x))

    np.testing.assert_allclose(outputs(layer, x0, x), outputs(turned, x0 @ turn, x @ turn), atol=1e-9)


@pytest.mark.parametrize("mode", ["zca", "pca", "cholesky"])
@pytest.mark.claim("chen2020hierarchical/C6")
def test_whitened_features_have_the_identity_as_second_moments(mode):
    x0 = _sphere(600, 5)
    h = neural_representation(x0, 8, activation=arch.Gelu(), whiten=mode)(x0)
    np.testing.assert_allclose(h.T @ h / 600, np.eye(8), atol=1e-8)


@pytest.mark.claim("chen2020hierarchical/C6")
def test_zca_of_features_without_full_rank_is_a_projector():
    x0 = _sphere(800, 3)
    with pytest.warns(RankWarning, match="9 of 20 directions"):
        representation = neural_representation(x0, 20, activation="square", whiten="zca")
    h = representation(x0)
    moments = h.T @ h / 800
    np.testing.assert_allclose(moments @ moments, moments, atol=1e-8)
    assert np.trace(moments) == pytest.approx(9, abs=1e-8)  # (d + 1)(d + 2)/2 - 1 for d = 3


@pytest.mark.claim("chen2020hierarchical/C10")
def test_square_features_on_the_sphere_keep_all_quadratics_but_one():
    x0 = _sphere(unlabeled_samples(192), 16)
    with pytest.warns(RankWarning, match="152 of 192"):
        representation = neural_representation(x0, 192, activation="square", whiten="pca")
    assert representation.whitened.rank == 152
    assert representation(x0[:10]).shape == (10, 152)


def test_second_moments_do_not_depend_on_the_chunks():
    h = np.random.default_rng(0).normal(size=(5000, 4)) + 100.0
    whole, pieces = second_moment(h, center=True), second_moment(iter(np.array_split(h, 7)), center=True)
    np.testing.assert_allclose(whole.matrix, np.cov(h.T, bias=True), rtol=1e-10)
    np.testing.assert_allclose(whole.matrix, pieces.matrix, rtol=1e-9)
    np.testing.assert_allclose(whole.mean, h.mean(axis=0), rtol=1e-12)
    assert pieces.samples == 5000


@pytest.mark.claim("chen2020hierarchical/P1")
def test_dead_and_constant_features_are_counted():
    h = np.random.default_rng(0).normal(size=(50, 5))
    h[:, 1], h[:, 3], h[:, 4] = 0.0, 1.0, 1.0
    moment = second_moment(h)
    assert (moment.dead, moment.constant) == (1, 2)
    with pytest.warns(RankWarning, match="1 features are always zero, 2 constant"):
        whitening(moment)


def test_centered_whitening_takes_off_the_mean():
    h = np.random.default_rng(0).normal(size=(300, 3)) + np.array([5.0, 0.0, -2.0])
    white = whitening(second_moment(h, center=True))(h)
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-10)
    np.testing.assert_allclose(white.T @ white / 300, np.eye(3), atol=1e-9)


@pytest.mark.claim("chen2020hierarchical/P2")
def test_fewer_samples_than_features_are_refused_unless_shrunk():
    h = np.random.default_rng(0).normal(size=(10, 20))
    moment = second_moment(h)
    with pytest.raises(ValueError, match="10 samples have singular second moments of 20 features"):
        whitening(moment)
    with pytest.warns(RankWarning, match="10 of 20"):
        white = whitening(moment, shrinkage=0.1, mode="pca")
    assert white.rank == 10
    values = white.eigenvalues[:10]
    np.testing.assert_allclose(
        np.linalg.eigvalsh(white(h).T @ white(h) / 10)[::-1], values / (values + 0.1 * values.sum() / 20), rtol=1e-9
    )


@pytest.mark.claim("chen2020hierarchical/P3")
def test_cholesky_of_moments_without_full_rank_is_refused():
    h = np.random.default_rng(0).normal(size=(40, 3)) @ np.ones((3, 4))
    with pytest.raises(ValueError, match="a Cholesky factor needs all"):
        whitening(second_moment(h), mode="cholesky")
    with pytest.raises(ValueError, match="larger `shrinkage`"):
        whitening(second_moment(h), mode="cholesky", shrinkage=1e-17)


@pytest.mark.claim("chen2020hierarchical/P3")
def test_cholesky_keeps_to_the_tolerance_of_the_rank_where_nothing_is_shrunk():
    moment = second_moment(np.random.default_rng(0).normal(size=(40, 2)) * [1.0, 1e-5])
    with pytest.raises(ValueError, match="1 of 2 directions"):
        whitening(moment, mode="cholesky")
    assert whitening(moment, mode="cholesky", rank_tol=0.0).rank == 2


@pytest.mark.parametrize("n", [40, 3])
def test_cholesky_of_shrunk_moments_needs_no_full_rank(n):
    h = np.random.default_rng(0).normal(size=(n, 3)) @ np.ones((3, 4))
    moment = second_moment(h)
    found = whitening(moment, mode="cholesky", shrinkage=0.1)
    assert found.rank == 4
    shrunk = moment.matrix + 0.1 * np.trace(moment.matrix) / 4 * np.eye(4)
    np.testing.assert_allclose(found.matrix.T @ shrunk @ found.matrix, np.eye(4), atol=1e-12)


@pytest.mark.claim("chen2020hierarchical/P3")
def test_eigenvalues_that_rounding_made_negative_give_no_nan():
    h = np.random.default_rng(0).normal(size=(500, 2)) @ np.random.default_rng(1).normal(size=(2, 30))
    with pytest.warns(RankWarning, match="2 of 30"):
        white = whitening(second_moment(h), rank_tol=0.0)
    assert np.isfinite(white(h)).all()


def test_bad_arguments_are_refused_by_name():
    layer = random_features(3, 4)
    with pytest.raises(ValueError, match="'cube'"):
        random_features(3, 4, activation="cube")
    with pytest.raises(ValueError, match="`weight_dist`"):
        random_features(3, 4, weight_dist="cube")
    with pytest.raises(ShapeError, match="has 2 features, but these random features take 3"):
        layer(np.ones((2, 2)))
    with pytest.raises(ShapeError, match="must be \\(n, 3\\)"):
        layer(jnp.ones((2, 2)))
    with pytest.raises(ShapeError, match="it must be a matrix"):
        layer(np.ones((2, 3, 1)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        layer(np.full((2, 3), np.nan))
    with pytest.raises(ValueError, match="`x` is zero"):
        input_scale(np.zeros((3, 2)))
    with pytest.raises(ShapeError, match="holds no inputs"):
        second_moment(iter([]))
    with pytest.raises(ShapeError, match="a chunk has 3 features, but those before have 2"):
        second_moment(iter([np.ones((2, 2)), np.ones((2, 3))]))
    with pytest.raises(ValueError, match="`rank_tol`"):
        whitening(second_moment(np.eye(3)), rank_tol=1.0)
    with pytest.raises(ValueError, match="all features are zero"):
        whitening(second_moment(np.zeros((3, 2))))
    with pytest.raises(ShapeError, match="has 3 features, but the whitening takes 2"):
        whitening(second_moment(np.eye(2)))(np.ones((1, 3)))
    squares = random_features(3, 4, activation="square")
    with pytest.raises(NonFiniteError, match="features overflow"):
        squares(np.full((1, 3), 1e200))


@pytest.mark.parametrize("seed", [2**32, 2**32 + 1, 2**70])
def test_seeds_beyond_those_of_jax_are_refused(seed):
    with pytest.raises(ValueError, match=r"random_features: `seed` is \d+; choose 0 <= seed < 2\^32"):
        random_features(3, 4, seed=seed)
    assert random_features(3, 4, seed=2**32 - 1).weights.shape == (4, 3)


def test_integers_of_jax_are_refused_like_those_of_numpy():
    layer, white = random_features(3, 4), whitening(second_moment(_sphere(30, 3), center=True))
    for call in (layer, white, jax.jit(layer), jax.jit(white.__call__)):
        with pytest.raises(DtypeError, match=r"has dtype int32; real numbers are needed. Convert it: `\w.astype"):
            call(jnp.ones((2, 3), dtype="int32"))
        with pytest.raises(ShapeError, match=r"has shape \(2, 1\); it must be \(n, 3\)"):
            call(jnp.ones((2, 1)))  # would broadcast against the mean
    with pytest.raises(DtypeError, match=r"Convert it: `x.astype\(float\)`.$"):
        layer(np.ones((2, 3), dtype=int))
    with pytest.raises(DtypeError, match="complex"):
        layer(jnp.ones((2, 3), dtype="complex64"))


def test_tables_and_lists_of_rows_are_inputs():
    x = _sphere(60, 2).astype("float32").astype("float64")
    gelu = arch.Gelu()
    expected, whole = second_moment(x).matrix, neural_representation(x, 4, activation=gelu)(x)
    for given in (pd.DataFrame(x), x.tolist(), tuple(map(tuple, x)), list(x), [pd.DataFrame(x)], [x.tolist()]):
        np.testing.assert_array_equal(second_moment(given).matrix, expected)
    for given in (pd.DataFrame(x), x.tolist(), jnp.asarray(x)):
        np.testing.assert_array_equal(neural_representation(given, 4, activation=gelu)(x), whole)
    for empty in ([], (), np.ones((0, 2))):
        with pytest.raises(ShapeError):
            second_moment(empty)
        with pytest.raises(ShapeError):
            neural_representation(empty, 4)


def test_what_is_wrong_with_numbers_is_called_by_its_name():
    x = _sphere(30, 3)
    logs = random_features(3, 4, activation=jnp.log)
    with pytest.raises(NonFiniteError, match="features are NaN: `activation` has no value"):
        logs(x)
    with pytest.raises(NonFiniteError, match="`features` gives entries that are NaN"):
        second_moment(x, lambda v: v * np.nan)
    with pytest.raises(ShapeError, match="`features` turns inputs"):
        second_moment(x, lambda v: v.sum(axis=1))
    with pytest.raises(NonFiniteError, match="second moments overflow"):
        second_moment(1e200 * x)
    with pytest.raises(NonFiniteError, match="overflow"):
        random_features(3, 4, input_scale=1e200)(1e200 * x)
    for size in (1e-170, 1e-155):
        with pytest.raises(ValueError, match="too small"):
            whitening(second_moment(size * x))
    with pytest.raises(ValueError, match="all features are constant"):
        whitening(second_moment(np.full((30, 3), 0.1), center=True))


def test_an_activation_without_a_hash_is_taken():
    class Unhashable:
        __hash__ = None

        def __call__(self, t):
            return jnp.tanh(t)

    x = _sphere(5, 3)
    found = random_features(3, 4, activation=Unhashable())(x)
    np.testing.assert_allclose(found, random_features(3, 4, activation=jnp.tanh)(x), rtol=1e-13)


def test_an_input_scale_survives_huge_and_tiny_inputs():
    x = _sphere(10, 3)
    for size in (1e-300, 1e300):
        assert input_scale(size * x) * size == pytest.approx(1, rel=1e-12)
