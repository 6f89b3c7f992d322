"""Spectral densities by quadrature: against dense spectra, another library, and their own standard errors."""

import jax
import numpy as np
import pytest

from specimens import symmetric
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature.density import SpectralDensity, slq_density


def mixture(grid, centers, weights, width):
    """sum_j w_j N(x; c_j, width^2), in one expression."""
    z = (grid[:, None] - centers[None]) / width
    return np.exp(-(z**2) / 2) @ weights / (width * np.sqrt(2 * np.pi))


def area(density):
    return np.trapezoid(density.density, density.grid)


@pytest.mark.claim("liu2020loss/C9")
def test_the_quadrature_of_one_probe_has_the_moments_of_the_operator(rng, measured):
    d, v = np.arange(1.0, 51.0), rng.normal(size=50)
    v /= np.linalg.norm(v)
    found = slq_density(lambda u: d * u, 50, 50, start=v[None])
    expected = [np.sum(d**q * v**2) for q in range(6)]
    errors = [abs(found.weights[0] @ found.nodes[0] ** q / e - 1) for q, e in enumerate(expected)]
    measured(f"moments 0 to 5 of diag(1..50): largest relative error {max(errors):.0e}")
    assert max(errors) < 1e-8
    assert [found.moment(q)[0] for q in range(6)] == pytest.approx(expected, rel=1e-8)


@pytest.mark.slow
def test_another_library_integrates_functions_to_the_same(rng):
    decomp, funm = pytest.importorskip("matfree.decomp"), pytest.importorskip("matfree.funm")
    H, probes = symmetric(rng, 60), rng.normal(size=(3, 60))
    found = slq_density(lambda u: H @ u, 60, 9, start=probes)
    with jax.enable_x64(True):
        matrix = jax.numpy.asarray(H)
        integrand = funm.monte_carlo_funm_sym(funm.dense_funm_sym_eigh(jax.numpy.exp), decomp.tridiag_sym(9))
        theirs = [float(integrand(lambda u: matrix @ u, jax.numpy.asarray(p))) / (p @ p) for p in probes]
    np.testing.assert_allclose(np.sum(found.weights * np.exp(found.nodes), axis=1), theirs, rtol=1e-12)


def test_all_unit_vectors_as_probes_give_the_smoothed_spectrum_itself(rng):
    H = symmetric(rng, 12)
    found = slq_density(lambda u: H @ u, 12, 12, start=np.eye(12), width=0.2)
    expected = mixture(found.grid, np.linalg.eigvalsh(H), np.full(12, 1 / 12), 0.2)
    np.testing.assert_allclose(found.density, expected, atol=1e-13)
    assert found.evidence("density").kind == "sampled"


def test_the_density_is_the_mean_over_probes_and_its_error_their_spread(rng):
    H = symmetric(rng, 100)
    found = slq_density(lambda u: H @ u, 100, 15, probes=5)
    curves = np.stack(
        [mixture(found.grid, *rule, found.width) for rule in zip(found.nodes, found.weights, strict=True)]
    )
    np.testing.assert_allclose(found.density, curves.mean(0), atol=1e-13)
    np.testing.assert_allclose(found.density_stderr, curves.std(0, ddof=1) / 5**0.5, atol=1e-13)
    assert (found.num_products, found.steps.tolist()) == (75, [15] * 5)
    assert found.evidence("density").stderr == "density_stderr"


@pytest.mark.parametrize("width", [None, 0.05])
def test_the_density_integrates_to_one(rng, width):
    H = symmetric(rng, 100)
    found = slq_density(lambda u: H @ u, 100, 30, width=width)
    assert area(found) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.weights.sum(1), 1, rtol=1e-13)
    default = 0.01 * (found.nodes.max() - found.nodes.min())
    assert found.width == (default if width is None else width)


def test_signs_weigh_the_eigenvalues_of_a_diagonal_operator_equally():
    d = np.array([0.0, 1.0, 3.0, 7.0])
    found = slq_density(lambda u: d * u, 4, 4)
    np.testing.assert_allclose(found.nodes, np.tile(d, (8, 1)), atol=1e-14)
    np.testing.assert_allclose(found.weights, 0.25, rtol=1e-13)
    np.testing.assert_allclose(found.density_stderr, 0, atol=1e-12)


def test_moments_and_densities_err_by_their_standard_error(rng):
    H = symmetric(rng, 12)
    values = np.linalg.eigvalsh(H)
    point = np.array([np.median(values)])
    truth = [np.mean(values), np.mean(values**3), mixture(point, values, np.full(12, 1 / 12), 0.5)[0]]
    scores = []
    for seed in range(150):
        found = slq_density(lambda u: H @ u, 12, 12, probes=16, width=0.5, grid=point, key=jax.random.key(seed))
        pairs = [found.moment(1), found.moment(3), (found.density[0], found.density_stderr[0])]
        scores.append([(value - true) / error for (value, error), true in zip(pairs, truth, strict=True)])
    z = np.array(scores)
    assert (np.abs(z.mean(0)) < 4 * z.std(0) / 150**0.5).all()
    assert (np.abs((z**2).mean(0) - 15 / 13) < 4 * (z**2).std(0) / 150**0.5).all()


def test_outliers_of_weight_one_in_dim_appear_once():
    d = np.concatenate([np.linspace(0, 1, 499), [20.0]])
    found = slq_density(lambda u: d * u, 500, 60)
    assert (np.sum(found.nodes > 2, axis=1) == 1).all()
    np.testing.assert_allclose(found.weights[:, -1], 1 / 500, rtol=1e-10)


def test_an_invariant_subspace_is_padded_without_weight(rng):
    d = np.repeat([-1.0, 2.0], 20)
    found = slq_density(lambda u: d * u, 40, 6, start=rng.normal(size=(3, 40)))
    assert found.steps.tolist() == [2, 2, 2]
    np.testing.assert_allclose(found.nodes, np.tile([-1, 2, 2, 2, 2, 2], (3, 1)), rtol=1e-13)
    assert not found.weights[:, 2:].any()
    assert found.moment(2)[0] == pytest.approx(4 * found.weights[:, 1].mean() + found.weights[:, 0].mean(), rel=1e-12)
    assert area(found) == pytest.approx(1, abs=1e-6)


def test_one_probe_has_an_infinite_standard_error(rng):
    H = symmetric(rng, 30)
    found = slq_density(lambda u: H @ u, 30, 5, probes=1)
    assert np.isinf(found.density_stderr).all()
    assert found.moment(1)[1] == float("inf")
    (series,) = found.charts()[0].series
    assert series.low is None


@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("dim", [1, 40])
def test_a_multiple_of_the_identity_is_one_peak(value, dim):
    found = slq_density(lambda u: value * u, dim, 1)
    assert found.grid[np.argmax(found.density)] == pytest.approx(value, abs=2 * found.width)
    assert area(found) == pytest.approx(1, abs=1e-6)
    assert found.moment(3)[0] == pytest.approx(value**3, rel=1e-12)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_the_density_scales_inversely_with_the_operator(rng, scale):
    H = symmetric(rng, 40)
    plain, scaled = (slq_density(lambda u, s=s: s * (H @ u), 40, 12) for s in (1.0, scale))
    for name, factor in {"nodes": 1 / scale, "grid": 1 / scale, "density": scale, "density_stderr": scale}.items():
        np.testing.assert_allclose(
            getattr(scaled, name) * factor, getattr(plain, name), rtol=1e-7, atol=1e-9 * np.max(getattr(plain, name))
        )


def test_the_chart_is_logarithmic_and_stays_positive():
    d = np.concatenate([np.linspace(0, 1, 199), [30.0]])
    found = slq_density(lambda u: d * u, 200, 20)
    (chart,) = found.charts()
    (series,) = chart.series
    assert chart.y_scale == "log"
    assert (series.low > 0).all()
    assert (series.low <= series.y).all()
    assert (series.y <= series.high).all()
    assert found.density.min() < series.y.min()  # the gap before the outlier is drawn at the floor


def test_a_key_decides_the_probes_and_a_density_loads_bit_for_bit(rng, tmp_path):
    H = symmetric(rng, 30)
    found = [slq_density(lambda u: H @ u, 30, 5, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] == slq_density(lambda u: H @ u, 30, 5)
    assert found[0] != found[2]
    assert SpectralDensity.load(found[0].save(tmp_path / "density.zip")) == found[0]
    assert len(str(found[0]).splitlines()) < 20


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"k": 80}, ValueError, "`k` is 80, but the operator has dimension 20; choose 1 <= k <= 20"),
        ({"probes": 0}, ValueError, "`probes` is 0"),
        ({"width": 0.0}, ValueError, "`width` is 0.0"),
        ({"width": 1e-4}, ValueError, "`num_grid` is 1000, but nodes from .* choose num_grid >= "),
        ({"num_grid": 1}, ValueError, "`num_grid` is 1"),
        ({"grid": np.zeros((2, 2))}, ShapeError, r"`grid` has shape \(2, 2\)"),
        ({"grid": np.arange(3)}, DtypeError, "`grid` has dtype int64"),
        ({"start": np.ones(20)}, ShapeError, r"a single v as v\[None\]"),
        ({"start": np.zeros((2, 20))}, ValueError, "zero probe in row 0"),
        ({"start": np.full((2, 20), np.nan)}, ValueError, "`start` has 40 entries"),
        ({"mv": lambda u: u * np.nan}, NonFiniteError, "NaN or infinite"),
    ],
)
def test_the_density_refuses(arguments, error, words):
    given = {"mv": lambda u: np.arange(20.0) * u, "dim": 20, "k": 5} | arguments
    with pytest.raises(error, match=words):
        slq_density(**given)


def test_a_moment_beyond_the_largest_double_is_refused():
    found = slq_density(lambda u: 1e150 * np.arange(20.0) * u, 20, 5)
    with pytest.raises(NonFiniteError, match="order 3"):
        found.moment(3)
    with pytest.raises(TypeError, match="integer"):
        found.moment(0.5)
