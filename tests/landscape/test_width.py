"""Oracles: systems whose measures are exact powers of the width, and random networks of growing width."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape.core.errors import NonFiniteError
from widescape.curvature import System
from widescape.curvature.spectrum import tangent_kernel
from widescape.landscape.certificate import certify_pl_star
from widescape.landscape.second_derivative import hessian_norm
from widescape.landscape.width import WidthReport, _power, width_scaling


def bent(w, x):
    """At w = (0, 1): Hessian diag(x_1, 0), gradient (0, x_2)."""
    return x[:, 0] * w[0] ** 2 / 2 + x[:, 1] * w[1]


def powers(curvature, slope, noise=0.0, **options):
    """Curvature and gradient scale as given powers of the width, but for log-normal noise."""

    def make(m, key):
        z = noise * np.asarray(jax.random.normal(key, (2,), jnp.float32), float)
        x = np.array([[m**curvature * np.exp(z[0]), m**slope * np.exp(z[1])]])
        return System(bent, np.array([0.0, 1.0]), x, np.zeros(1), **options)

    return make


def shallow(params, x):
    hidden = jnp.tanh(jnp.matmul(x, params["w"]) / np.sqrt(x.shape[1]))
    return jnp.matmul(hidden, params["v"]) / np.sqrt(params["v"].size)


def two_hidden(params, x):
    hidden = jnp.tanh(jnp.matmul(x, params["w"]) / np.sqrt(x.shape[1]))
    hidden = jnp.tanh(jnp.matmul(hidden, params["u"]) / np.sqrt(params["v"].size))
    return jnp.matmul(hidden, params["v"]) / np.sqrt(params["v"].size)


def shallow_curved(params, x):
    z = shallow(params, x)
    return z + z**2 / 2


def two_hidden_curved(params, x):
    z = two_hidden(params, x)
    return z + z**2 / 2


def networks(f, n=1, d=10):
    """Standard normal weights, inputs of length root d."""
    x = np.random.default_rng(2).normal(size=(n, d))
    x *= np.sqrt(d) / np.linalg.norm(x, axis=1, keepdims=True)
    shapes = {"w": lambda m: (d, m), "v": lambda m: (m,)} | ({"u": lambda m: (m, m)} if "two" in f.__name__ else {})

    def make(m, key):
        r = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return System(f, {name: r.normal(size=shape(m)) for name, shape in shapes.items()}, x, np.zeros(n))

    return make


@pytest.mark.parametrize(("curvature", "slope"), [(-0.5, 0.0), (0.25, -2.0), (0.0, 1.0)])
def test_exact_powers_of_the_width_come_back_exactly(curvature, slope):
    metrics = ("hessian_norm", "gradient_norm", "bilinear_norm")
    found = width_scaling(powers(curvature, slope), [4, 16, 32, 1024], seeds=2, metrics=metrics)
    for name, power in zip(metrics, (curvature, slope, curvature), strict=True):
        assert found.slope(name) == (pytest.approx(power, abs=1e-9), pytest.approx(0, abs=1e-9))
        np.testing.assert_allclose(found.median(name), found.widths**power, rtol=1e-9)
    assert found.values.shape == (3, 4, 2)
    assert found.widths.tolist() == [4, 16, 32, 1024]


def test_the_power_is_that_of_the_medians_whatever_one_draw_does():
    def make(m, key):
        wild = 1e3 if m == 4 and next(draws) == 0 else 1.0
        return System(bent, np.array([0.0, 1.0]), np.array([[1.0, wild * m**0.5]]), np.zeros(1))

    draws = iter(range(100))
    found = width_scaling(make, [4, 64], seeds=3, metrics=["gradient_norm"])
    assert found.slope("gradient_norm")[0] == pytest.approx(0.5, abs=1e-12)
    assert found.slope("gradient_norm")[1] > 0.5
    np.testing.assert_array_equal(found.medians, np.median(found.values, axis=2))


@pytest.mark.parametrize(("seeds", "least"), [(1, 0.95), (2, 0.75), (3, 0.95), (4, 0.75), (5, 0.95), (10, 0.85)])
def test_the_standard_error_of_the_power_is_its_scatter_over_repetitions_or_more_for_an_even_number(seeds, least, rng):
    """Mean squared errors against the mean of squared standard errors, to about 1% by 20,000 repetitions."""
    sizes = [2, 8, 32, 64]
    laws = np.array(sizes)[:, None] ** -0.5
    draws = laws * np.exp(0.3 * rng.normal(size=(20_000, 4, seeds)))
    slopes, errors = np.array([_power(sizes, np.median(one, axis=1), one) for one in draws]).T
    assert abs((slopes + 0.5).mean()) < 4 * slopes.std() / np.sqrt(20_000)
    assert least < ((slopes + 0.5) ** 2).mean() / (errors**2).mean() < 1.05


def test_a_report_holds_the_line_through_its_medians_and_the_scatter_of_its_draws():
    found = width_scaling(powers(-0.5, 0.3, noise=0.2), [4, 16, 80], metrics=("hessian_norm", "gradient_norm"))
    x = np.log(found.widths)
    for i, draws in enumerate(found.values):
        assert found.slopes[i] == pytest.approx(np.polyfit(x, np.log(np.median(draws, axis=1)), 1)[0], rel=1e-10)
        rest = np.log(draws) - found.slopes[i] * (x - x.mean())[:, None]
        scatter = ((rest - rest.mean()) ** 2).sum() / 13
        expected = np.sqrt(scatter * np.pi / (8 + np.pi) / ((x - x.mean()) ** 2).sum())
        assert found.slopes_stderr[i] == pytest.approx(expected, rel=1e-10)
        assert 0.01 < expected < 0.1


@pytest.mark.slow
def test_each_draw_is_the_measure_of_its_network():
    seen = []

    def make(m, key):
        seen.append(networks(shallow, n=3, d=2)(m, key))
        return seen[-1]

    names = ("hessian_norm", "gradient_norm", "bilinear_norm", "h", "trained_kernel_change")
    found = width_scaling(make, [3, 6], seeds=2, metrics=names, train=(0.1, 5))
    assert len(seen) == 4
    for system, values in zip(seen, found.values.reshape(5, 4).T, strict=True):
        measures = dict(zip(names, values, strict=True))
        first = np.stack([system.second_adjoint(np.eye(3)[0], v) for v in np.eye(system.num_params)])
        assert measures["hessian_norm"] == pytest.approx(np.abs(np.linalg.eigvalsh(first)).max(), rel=1e-9)
        assert measures["gradient_norm"] == pytest.approx(np.linalg.norm(system.jacobian()[0]), rel=1e-12)
        assert measures["bilinear_norm"] == pytest.approx(float(hessian_norm(system)), rel=1e-2)
        assert measures["h"] == pytest.approx(certify_pl_star(system).h, rel=0.1)
        w = system.flat
        for _ in range(5):
            w = w - 0.1 * system.grad(w)
        before, after = tangent_kernel(system), tangent_kernel(system, w)
        change = np.linalg.norm(after - before) / np.linalg.norm(before)
        assert measures["trained_kernel_change"] == pytest.approx(change, rel=1e-9)


def test_the_kernel_changes_by_a_step_of_the_given_radius():
    """F = |w|^2/2 has K = |w|^2, which a step of length R from the origin's neighborhood raises to about R^2."""

    def make(m, key):
        return System(lambda w, x: jnp.sum(w**2)[None] / 2, np.full(m, 1e-6), np.zeros(1), np.zeros(1))

    for radius in (0.5, 2.0):
        found = width_scaling(make, [2, 8], seeds=2, metrics=["kernel_change"], radius=radius)
        share = radius**2 / (found.widths * 1e-12)
        np.testing.assert_allclose(found.values[0], np.tile(share[:, None], 2), rtol=1e-4)
        assert found.slope("kernel_change")[0] == pytest.approx(-1, abs=1e-4)


def test_with_a_mean_measures_are_of_residuals_over_root_n():
    def make(reduction):
        def one(m, key):
            x = np.tile([[m**0.5, m**0.25]], (4, 1))
            return System(bent, np.array([0.0, 1.0]), x, np.zeros(4), reduction=reduction)

        return one

    names = ("hessian_norm", "gradient_norm")
    whole, mean = (width_scaling(make(kind), [4, 16], seeds=1, metrics=names) for kind in ("sum", "mean"))
    np.testing.assert_allclose(mean.values, whole.values / 2, rtol=1e-12)


def test_draws_depend_on_width_and_seed_alone():
    make = networks(shallow, d=3)
    names = ("gradient_norm", "kernel_change")
    here = width_scaling(make, [4, 8], seeds=2, metrics=names)
    longer = width_scaling(make, [2, 8, 4], seeds=3, metrics=names[::-1], key=jax.random.key(0))
    np.testing.assert_array_equal(here.values, longer.values[::-1][:, [2, 1], :2])
    assert len(set(longer.values.ravel())) == longer.values.size
    other = width_scaling(make, [4, 8], seeds=2, metrics=names, key=jax.random.key(5))
    assert (other.values != here.values).all()


def test_a_measure_that_vanishes_or_is_infinite_has_no_power_and_no_line():
    flat = width_scaling(powers(-np.inf, 0.5), [4, 16], seeds=2, metrics=("hessian_norm", "gradient_norm"))
    assert flat.median("hessian_norm").tolist() == [0, 0]
    assert np.isnan(flat.slope("hessian_norm")[0])
    assert flat.slope("hessian_norm")[1] == float("inf")
    assert flat.slope("gradient_norm")[0] == pytest.approx(0.5, abs=1e-9)
    assert [s.label for s in flat.charts()[0].series] == ["gradient norm: width^0.50"]

    singular = lambda m, key: System(lambda w, x: w[:1] * w[1:], np.zeros(2), np.zeros(1), np.ones(1))  # noqa: E731
    none = width_scaling(singular, [4, 16], seeds=1, metrics=["h"])
    assert none.values.ravel().tolist() == [float("inf")] * 2
    assert np.isnan(none.slopes[0])
    assert none.charts()[0].series == ()


def test_training_that_diverges_is_told_and_not_measured():
    with pytest.raises(NonFiniteError, match="diverged; lower the learning rate 100"):
        width_scaling(
            lambda m, key: System(lambda w, x: w**3, np.full(1, 2.0), np.zeros(1), np.zeros(1)),
            [1, 2],
            metrics=["trained_kernel_change"],
            train=(100.0, 50),
        )


def test_what_cannot_be_scaled_is_refused():
    make = powers(0.0, 0.0)
    with pytest.raises(ValueError, match="at least two different widths"):
        width_scaling(make, [4, 4])
    with pytest.raises(TypeError, match=r"`widths` is 4\.5"):
        width_scaling(make, [4.5, 8])
    with pytest.raises(ValueError, match="`widths` is 0"):
        width_scaling(make, [0, 8])
    with pytest.raises(ValueError, match="`seeds` is 0"):
        width_scaling(make, [4, 8], seeds=0)
    with pytest.raises(ValueError, match="`metrics` is 'sharpness'"):
        width_scaling(make, [4, 8], metrics=["sharpness"])
    with pytest.raises(ValueError, match="`radius` is 0"):
        width_scaling(make, [4, 8], radius=0.0)
    with pytest.raises(ValueError, match="needs `train`"):
        width_scaling(make, [4, 8], metrics=["trained_kernel_change"])


def test_a_report_prints_charts_and_saves(tmp_path):
    found = width_scaling(powers(-0.5, 0.0, noise=0.1), [4, 16], metrics=("hessian_norm", "gradient_norm"))
    assert found.evidence("slopes").stderr == "slopes_stderr"
    first, _ = found.charts()[0].series
    np.testing.assert_array_equal(first.low, found.values[0].min(axis=1))
    np.testing.assert_array_equal(first.high, found.values[0].max(axis=1))
    np.testing.assert_array_equal(first.y, found.medians[0])
    assert WidthReport.load(found.save(tmp_path / "width.zip")) == found
    assert len(str(found).splitlines()) < 20


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/E2")
@pytest.mark.parametrize(
    ("linear", "curved", "widths", "steepest", "flattest", "level"),
    [
        (shallow, shallow_curved, [128, 256, 512, 1024, 2048], -0.60, -0.30, 0.08),
        (two_hidden, two_hidden_curved, [32, 64, 128, 256], -0.60, -0.33, 0.10),
    ],
    ids=["one hidden layer", "two hidden layers"],
)
def test_the_hessian_shrinks_with_the_width_unless_the_output_is_curved(
    linear, curved, widths, steepest, flattest, level, measured
):
    names = ("hessian_norm", "gradient_norm")
    straight = width_scaling(networks(linear), widths, metrics=names)
    bent = width_scaling(networks(curved), widths, metrics=names)
    slope, error = straight.slope("hessian_norm")
    constant = bent.slope("hessian_norm")[0]
    gradients = straight.median("gradient_norm")
    spread = gradients.max() / gradients.min() - 1
    measured(
        f"{linear.__name__.replace('_', ' ')}, widths {widths[0]} to {widths[-1]}: slope {slope:.3f} ± {error:.3f}, "
        f"with a curved output {constant:.3f} and norm at least {bent.median('hessian_norm').min():.2f}; "
        f"|grad f| varies by {spread:.1%}"
    )
    assert steepest <= slope <= flattest
    assert abs(constant) <= level
    assert bent.median("hessian_norm").min() > 0.5
    if linear is shallow:
        assert spread < 0.10
