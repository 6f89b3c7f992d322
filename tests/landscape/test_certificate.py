"""Certificates against simulated descent and flow, on maps whose curvature is known exactly, and on wide networks."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specimens import doubled
from widescape.arch import Dense, Exp, Frozen, Relu, Sequential, Tanh
from widescape.core.errors import (
    NonSmoothWarning,
    NotCertifiable,
    ShapeError,
    UnderparameterizedWarning,
)
from widescape.curvature import System
from widescape.curvature.spectrum import tangent_kernel
from widescape.landscape.certificate import CertificateStatus, certify_pl_star, two_layer_hessian_bound
from widescape.landscape.first_step import check_certificate
from widescape.landscape.norm_propagation import network_bound
from widescape.landscape.pl import pl_ratio
from widescape.landscape.prediction import compare_gd_rate

TANH_BEND = 4 / (3 * np.sqrt(3))
SEEDS = st.integers(0, 10**6)


def linear():
    return System(lambda w, x: x @ w, np.zeros(3), np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), np.ones(2))


# A map F(w) = B w + A (w o w)/2 has D^2F[u, v] = A (u o v), so |D^2F| is the largest norm of a column of A, everywhere.


def quadratic_map(w, x):
    m = w.shape[0]
    return x[:, :m] @ w + x[:, m:] @ (w * w) / 2


class Bent:
    """A random quadratic map at the origin, in NumPy and as a System."""

    def __init__(self, seed, *, n=2, m=5, h=0.9, c=2):
        draws = np.random.default_rng(seed)
        self.B, self.A = draws.normal(size=(n, m)), draws.normal(size=(n, m)) * 10 ** draws.uniform(-1, 1)
        self.beta = float(np.sqrt((self.A**2).sum(axis=0).max()))
        left, values, _ = np.linalg.svd(self.B)
        self.lam_min, self.lam_max = values[-1] ** 2, values[0] ** 2
        share = draws.uniform(0, 0.3) if draws.random() < 0.7 else 1.0  # mostly along the slowest direction
        r = left[:, -1] * draws.choice([-1, 1]) * (1 - share) + share * left @ draws.normal(size=n)
        self.y = -r / np.linalg.norm(r) * h * self.lam_min / (4 * c * self.beta)
        self.system = System(quadratic_map, np.zeros(m), np.concatenate([self.B, self.A], axis=1), self.y)

    def jacobian(self, w):
        return self.B + self.A * w[None]

    def residual(self, w):
        return self.B @ w + self.A @ (w * w) / 2 - self.y

    def slope(self, w):
        return -self.jacobian(w).T @ self.residual(w)

    def obeys(self, found, path, promised, *, rounding=1e-9):
        """Points of a path against ball, PL* constant and promised loss."""
        first = self.residual(path[0])
        for w, share in zip(path, promised, strict=True):
            r = self.residual(w)
            if r @ r < 1e-18 * (first @ first):
                break
            assert r @ r <= share * (first @ first) * (1 + rounding)
            assert np.linalg.norm(w - path[0]) <= found.radius * (1 + rounding)
            J = self.jacobian(w)
            assert np.linalg.eigvalsh(J @ J.T)[0] >= found.mu * (1 - rounding)
            assert np.linalg.eigvalsh(J.T @ J + np.diag(r @ self.A))[-1] <= found.smoothness * (1 + rounding)

    def descent(self, lr, steps=300):
        path = [np.zeros(self.B.shape[1])]
        for _ in range(steps):
            path.append(path[-1] + lr * self.slope(path[-1]))
        return path

    def flow(self, dt, steps=400):
        path = [np.zeros(self.B.shape[1])]
        for _ in range(steps):
            w = path[-1]
            k1 = self.slope(w)
            k2 = self.slope(w + dt / 2 * k1)
            k3 = self.slope(w + dt / 2 * k2)
            k4 = self.slope(w + dt * k3)
            path.append(w + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
        return path


@pytest.mark.claim("liu2020loss/C1")
def test_the_linear_example_has_its_certificate_its_losses_and_its_three_radii(measured):
    system = linear()
    found = certify_pl_star(system, hessian_bound=0.0)
    paper = certify_pl_star(system, hessian_bound=0.0, radius="paper")
    flow = certify_pl_star(system, hessian_bound=0.0, flow=True)
    assert (found.certified, found.rigorous, found.status, found.h) == (True, True, CertificateStatus.OK, 0.0)
    np.testing.assert_allclose(
        [found.mu, found.kappa0, found.residual**2 / 2, found.smoothness, found.lr_max, found.rate],
        [1.0, 4.0, 1.0, 4.0, 0.25, 0.75],
        rtol=1e-6,
    )
    np.testing.assert_allclose([paper.radius, found.radius, flow.radius], [5.656854, 2.828427, 1.414214], rtol=1e-6)
    report = compare_gd_rate(system, 0.25, 60, certificate=found)
    np.testing.assert_allclose(report.loss[:3], [1.0, 0.28125, 0.158203125], rtol=1e-6)
    np.testing.assert_allclose(report.loss[21:41] / report.loss[20:40], 0.5625, rtol=1e-6)
    assert report.predicted == pytest.approx(0.5625, rel=1e-6)
    assert report.bound == pytest.approx(0.75, rel=1e-6)
    assert report.bound_ok is True
    distance = check_certificate(system, found, 200).max_distance
    assert distance == pytest.approx(np.sqrt(1.25), rel=1e-6)
    assert distance <= flow.radius
    measured(
        f"radii {paper.radius:.6f}, {found.radius:.6f}, {flow.radius:.6f}; distance {distance:.6f}; "
        f"kappa {found.kappa0:.6f}; losses {report.loss[1]:.6g}, {report.loss[2]:.9g}; factor {report.measured:.6f}"
    )


def test_a_linear_map_is_certified_wherever_it_has_full_rank_and_every_radius_holds():
    for seed in range(5):
        bent = Bent(seed, h=0.5)
        system = System(lambda w, x: x @ w, np.zeros(5), bent.B, bent.y)
        found = certify_pl_star(system, hessian_bound=0.0)
        np.testing.assert_allclose([found.mu, 1 / found.lr_max], [bent.lam_min, bent.lam_max], rtol=1e-9)
        assert found.radius == pytest.approx(2 * np.linalg.norm(bent.y) / bent.lam_min**0.5, rel=1e-9)


@pytest.mark.claim("liu2020loss/I10")
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, h=st.floats(1e-3, 1.0), share=st.floats(0.02, 1.0), radius=st.sampled_from(["tight", "paper"]))
def test_certified_descent_up_to_the_largest_rate_stays_in_the_ball_and_below_the_bound(seed, h, share, radius):
    bent = Bent(seed, h=h * (1 - 1e-9))
    found = certify_pl_star(bent.system, hessian_bound=bent.beta, radius=radius)
    assert found.h == pytest.approx(h, rel=1e-8)
    assert found.rigorous
    if radius == "paper" and not found.certified:
        assert found.status is CertificateStatus.STEP
        return
    assert found.certified
    assert found.lambda_min0 <= bent.lam_min
    lr = share * found.lr_max
    factor = 1 - lr * found.mu * (2 - lr * found.smoothness)
    assert share < 1 or factor == pytest.approx(found.rate, abs=1e-12)
    bent.obeys(found, bent.descent(lr), factor ** np.arange(301))


@pytest.mark.claim("liu2020loss/I10")
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, h=st.floats(1e-3, 1.5), share=st.floats(0.05, 1.9), form=st.sampled_from(["tight", "paper", "int"]))
def test_certified_descent_at_a_given_rate_stays_in_the_ball_and_below_the_bound(seed, h, share, form):
    bent = Bent(seed, h=h)
    lr = share / (bent.lam_max + bent.beta * np.linalg.norm(bent.y))
    options = {"integrated": True} if form == "int" else {"radius": form}
    found = certify_pl_star(bent.system, hessian_bound=bent.beta, lr=lr, **options)
    if found.certified:
        assert found.lr == lr
        assert found.rate == pytest.approx(1 - lr * found.mu * (2 - lr * found.smoothness), abs=1e-15)
        bent.obeys(found, bent.descent(lr), found.rate ** np.arange(301))


@pytest.mark.claim("liu2020loss/I10")
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, h=st.floats(1e-3, 1.99), growing=st.booleans())
def test_certified_descent_of_the_integrated_form_stays_in_the_ball_and_below_the_bound(seed, h, growing):
    bent = Bent(seed, h=h)
    bound = (lambda r: bent.beta * (1 + r)) if growing else bent.beta
    found = certify_pl_star(bent.system, hessian_bound=bound, integrated=True)
    assert found.certified or growing
    if found.certified:
        bent.obeys(found, bent.descent(found.lr_max), found.rate ** np.arange(301))


@pytest.mark.claim("liu2020loss/I10")
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, h=st.floats(0.05, 1.0), integrated=st.booleans())
def test_certified_flow_stays_in_its_smaller_ball_and_below_its_bound(seed, h, integrated):
    bent = Bent(seed, h=h * (1.98 if integrated else 1 - 1e-9), c=1)
    found = certify_pl_star(bent.system, hessian_bound=bent.beta, flow=True, integrated=integrated)
    assert found.certified
    assert found.rate == pytest.approx(np.exp(-2 * found.mu), rel=1e-12)
    dt = 0.02 / found.smoothness
    bent.obeys(found, bent.flow(dt), found.rate ** (dt * np.arange(401)), rounding=1e-7)


def test_a_certificate_of_flow_covers_no_learning_rate():
    found = certify_pl_star(linear(), hessian_bound=0.0, flow=True)
    assert (found.lr_max, found.flow) == (0.0, True)
    with pytest.raises(ValueError, match="flow"):
        certify_pl_star(linear(), hessian_bound=0.0, flow=True, lr=0.1)
    with pytest.raises(ValueError, match="flow"):
        check_certificate(linear(), found, 10)


@pytest.mark.parametrize("radius", ["tight", "paper"])
def test_a_learning_rate_beyond_two_over_the_smoothness_is_never_certified(radius):
    for lr in (0.5, 0.51, 10.0):
        found = certify_pl_star(linear(), hessian_bound=0.0, lr=lr, radius=radius)
        assert (found.certified, found.status, found.h) == (False, CertificateStatus.STEP, 0.0)
        assert (found.mu, found.rate, found.lr_max, found.radius) == (0.0, 1.0, 0.0, float("inf"))
        assert "lower `lr`" in found.reason


def test_too_much_curvature_is_not_certified_and_the_reason_gives_h():
    found = certify_pl_star(linear(), hessian_bound=1.0)
    assert found.h == pytest.approx(8 * np.sqrt(2), rel=1e-12)
    assert (found.certified, found.rigorous, found.status) == (False, True, CertificateStatus.CURVED)
    assert (found.mu, found.rate, found.lr_max, found.radius) == (0.0, 1.0, 0.0, float("inf"))
    assert "11.3" in found.reason


def test_where_the_kernel_is_singular_nothing_is_certified():
    product = System(lambda w, x: w[:1] * w[1:], np.zeros(2), np.zeros(1), np.ones(1))
    found = certify_pl_star(product, hessian_bound=1.0)
    assert (found.certified, found.status, found.h) == (False, CertificateStatus.SINGULAR, float("inf"))
    there = certify_pl_star(product, np.array([2.0, 0.0]), hessian_bound=1.0)  # K = 4, r = -1: h = 8 / 4
    assert there.h == pytest.approx(2.0, rel=1e-12)


def test_a_duplicated_example_with_two_targets_is_singular():
    system = System(lambda w, x: x @ w, np.zeros(3), np.ones((2, 3)), np.array([0.0, 1.0]))
    assert certify_pl_star(system, hessian_bound=0.0).status is CertificateStatus.SINGULAR


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, share=st.floats(1.0, 1.2))
def test_the_certified_lower_bound_of_the_kernel_is_below_its_smallest_eigenvalue_and_close(seed, share):
    bent = Bent(seed)
    found = certify_pl_star(bent.system, hessian_bound=share * bent.beta)
    assert bent.lam_min * (1 - 1e-6) <= found.lambda_min0 <= bent.lam_min
    assert found.kappa0 == pytest.approx(bent.lam_max / bent.lam_min, rel=1e-6)


def map_in_other_units(w, x):
    return x[:, -1] * quadratic_map(w / x[0, -2], x[:, :-2])


def in_other_units(bent, a, b):
    """The map times b, of parameters times a."""
    x = np.concatenate([bent.system.x, np.tile([a, b], (2, 1))], axis=1)
    return System(map_in_other_units, np.zeros(5), x, b * bent.y)


@pytest.mark.claim("liu2020loss/I4")
@settings(max_examples=15, deadline=None)
@given(seed=SEEDS, a=st.floats(1e-3, 1e3), b=st.floats(1e-3, 1e3))
def test_h_does_not_change_with_the_units_and_the_kernel_goes_with_their_squares(seed, a, b):
    bent = Bent(seed, h=0.7)
    other = in_other_units(bent, a, b)
    np.testing.assert_allclose(
        tangent_kernel(other, progress=False), (b / a) ** 2 * tangent_kernel(bent.system, progress=False), rtol=1e-10
    )
    one = certify_pl_star(bent.system, hessian_bound=bent.beta)
    two = certify_pl_star(other, hessian_bound=b / a**2 * bent.beta)
    assert two.h == pytest.approx(one.h, rel=1e-9)
    assert two.radius == pytest.approx(a * one.radius, rel=1e-8)
    assert two.mu == pytest.approx((b / a) ** 2 * one.mu, rel=1e-8)
    assert two.rate == pytest.approx(one.rate, rel=1e-8)


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/I4")
def test_h_of_a_searched_curvature_does_not_change_with_the_units_either():
    bent = Bent(3, h=0.2)
    one, two = certify_pl_star(bent.system), certify_pl_star(in_other_units(bent, 5.0, 0.1))
    assert two.h == pytest.approx(one.h, rel=1e-6)
    assert one.h == pytest.approx(1.5 * 0.2, rel=1e-3)  # the search finds beta, and takes 1.5 of it


def test_the_mean_over_examples_changes_the_units_of_the_loss_alone():
    bent = Bent(4, h=0.6)
    mean = System(quadratic_map, np.zeros(5), bent.system.x, bent.y, reduction="mean")
    one = certify_pl_star(bent.system, hessian_bound=bent.beta)
    two = certify_pl_star(mean, hessian_bound=bent.beta / np.sqrt(2))
    assert two.h == pytest.approx(one.h, rel=1e-9)
    assert two.radius == pytest.approx(one.radius, rel=1e-9)
    assert two.lr_max == pytest.approx(2 * one.lr_max, rel=1e-9)
    assert two.rate == pytest.approx(one.rate, rel=1e-9)


def test_a_searched_curvature_is_marked_as_no_proof():
    bent = Bent(1, h=0.3)
    found = certify_pl_star(bent.system)
    assert found.certified
    assert not found.rigorous
    assert "not proved" in found.reason
    kinds = {name: found.evidence(name).kind for name in ("h", "mu", "radius", "rate", "lr_max", "curvature")}
    assert set(kinds.values()) == {"sampled"}
    assert bent.beta < found.curvature <= 1.5 * bent.beta * (1 + 1e-9)
    proved = certify_pl_star(bent.system, hessian_bound=bent.beta)
    assert proved.evidence("mu").kind == "certified"
    curved = certify_pl_star(Bent(1, h=3.0).system)
    assert "sampled" in curved.reason
    assert curved.evidence("h").kind == "sampled"


def test_a_search_is_the_same_for_the_same_key():
    system = Bent(1, h=0.3).system
    assert certify_pl_star(system) == certify_pl_star(system, key=jax.random.key(0))


def small_network(activation, *, frozen=False):
    out = Dense(1)
    net = Sequential(Dense(64), activation, Frozen(out) if frozen else out)
    return net, net.init(jax.random.key(2), (3,), dtype="float64")


@pytest.mark.slow
def test_a_network_that_is_covered_gets_its_proved_bound_and_others_a_search():
    x, y = np.random.default_rng(0).normal(size=(2, 3)), np.array([[0.1], [-0.2]])
    for net, params in (small_network(Tanh()), small_network(Exp())):
        found = certify_pl_star(System(net.apply, params, x, y))
        assert found.rigorous == isinstance(net.layers[1], Tanh)


def test_the_bound_of_a_network_goes_with_the_mean_over_examples():
    net, params = small_network(Tanh())
    x, y = np.random.default_rng(0).normal(size=(2, 3)), np.array([[0.1], [-0.2]])
    one, two = (certify_pl_star(System(net.apply, params, x, y, reduction=r)) for r in ("sum", "mean"))
    assert two.h == pytest.approx(one.h, rel=1e-9)


def test_a_system_in_single_precision_is_certified_in_double():
    bent = Bent(6, h=0.5)
    single = System(quadratic_map, np.zeros(5, np.float32), bent.system.x.astype(np.float32), bent.y.astype(np.float32))
    one = certify_pl_star(bent.system, hessian_bound=bent.beta)
    assert certify_pl_star(single, hessian_bound=bent.beta).h == pytest.approx(one.h, rel=1e-5)


@pytest.mark.claim("liu2020loss/P1")
@pytest.mark.parametrize("kind", ["network", "function"])
def test_a_kinked_function_is_refused_with_a_warning(kind):
    if kind == "network":
        net, params = small_network(Relu())
        system = System(net.apply, params, np.ones((1, 3)), np.ones(1)[None])
    else:
        system = System(lambda w, x: jnp.maximum(x @ w, 0.0), np.ones(3), np.ones((1, 3)), np.ones(1))
    with (
        pytest.warns(NonSmoothWarning, match="kinks"),
        pytest.raises(NotCertifiable, match="assume_smooth"),
    ):
        certify_pl_star(system, hessian_bound=0.0)


@pytest.mark.claim("liu2020loss/P1")
def test_who_vouches_for_a_function_written_with_maxima_gets_its_certificate():
    def cubed(w, x):  # max(z, 0)^3 has a second derivative everywhere
        return jnp.maximum(x @ w, 0.0) ** 3

    system = System(cubed, np.array([2.0]), np.ones((1, 1)), np.array([7.9]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = certify_pl_star(system, hessian_bound=lambda r: 6 * (2 + r), assume_smooth=True)
    assert found.certified
    assert check_certificate(system, found, 50).holds


@pytest.mark.claim("liu2020loss/P3")
def test_fewer_parameters_than_residuals_cannot_be_certified_and_warn():
    system = System(lambda w, x: x @ w, np.zeros(2), np.eye(3)[:, :2], np.zeros(3))
    with pytest.warns(UnderparameterizedWarning, match="2 parameters for 3 residuals") as said:
        found = certify_pl_star(system, hessian_bound=0.0)
    assert len(said) == 1
    assert (found.certified, found.status, found.mu) == (False, CertificateStatus.RANK, 0.0)
    assert (found.lambda_min0, found.h) == (0.0, float("inf"))


@pytest.mark.claim("liu2020loss/P4")
@pytest.mark.parametrize("loss", ["cross_entropy", lambda out, label: jax.nn.logsumexp(out) - out[label]])
def test_another_loss_than_the_square_is_refused_but_has_a_ratio(loss):
    x = np.random.default_rng(0).normal(size=(4, 3))
    system = System(lambda w, x: x @ w, np.ones((3, 2)) * 0.1, x, np.array([0, 1, 1, 0]), loss=loss)
    with pytest.raises(NotCertifiable, match="square loss"):
        certify_pl_star(system, hessian_bound=0.0)
    chances = np.full((4, 2), 0.5)  # equal logits
    slope = x.T @ (chances - np.eye(2)[[0, 1, 1, 0]])
    assert pl_ratio(system) == pytest.approx((slope**2).sum() / 2 / (4 * np.log(2)), rel=1e-9)


def test_a_function_that_computes_in_single_precision_inside_is_refused():
    def lossy(w, x):
        return (x.astype(jnp.float32) @ w.astype(jnp.float32)).astype(w.dtype)

    system = System(lossy, np.zeros(3), np.eye(3)[:2], np.ones(2))
    with pytest.raises(NotCertifiable, match="float32"):
        certify_pl_star(system, hessian_bound=0.0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"hessian_bound": -1.0}, ValueError, "hessian_bound"),
        ({"hessian_bound": float("nan")}, ValueError, "hessian_bound"),
        ({"hessian_bound": "1"}, TypeError, "hessian_bound"),
        ({"hessian_bound": 0.0, "lr": 0.0}, ValueError, "lr"),
        ({"hessian_bound": 0.0, "lr": "fast"}, TypeError, "lr"),
        ({"hessian_bound": 0.0, "radius": "loose"}, ValueError, "radius"),
        ({"hessian_bound": 0.0, "radius": "paper", "integrated": True}, ValueError, "integrated"),
        ({"params": np.zeros(4)}, ShapeError, "params"),
        ({"params": np.full(3, np.nan)}, ValueError, "params"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(options, error, match):
    with pytest.raises(error, match=match):
        certify_pl_star(linear(), **options)


def test_without_targets_there_is_nothing_to_certify():
    with pytest.raises(ValueError, match="targets"):
        certify_pl_star(System(lambda w, x: x @ w, np.zeros(2), np.eye(2)))


# E1: f = sum_r a_r tanh(w_r . x)/sqrt(m), a = +-1 fixed, the second half of w the first with a negated, so F(w_0) = 0.


class Wide:
    """Four points on the sphere, a doubled network of width m, and plain NumPy descent of it."""

    def __init__(self, seed, m, *, n=4, d=20):
        draws = np.random.default_rng([seed, 0])
        x = draws.normal(size=(n, d))
        self.x, self.m = x / np.linalg.norm(x, axis=1, keepdims=True), m
        self.y = draws.choice([-1.0, 1.0], size=n)
        half = np.random.default_rng([seed, m]).normal(size=(d, m // 2))
        self.w0 = np.concatenate([half, half], axis=1)
        self.a = np.repeat([1.0, -1.0], m // 2)
        self.bound = two_layer_hessian_bound(self.x, self.a, TANH_BEND, m)
        self.system = System(doubled, np.stack([half, half]), self.x, self.y)

    def as_network(self):
        net = Sequential(Dense(self.m), Tanh(), Frozen(Dense(1)))
        params = ({"w": self.w0}, {}, {"w": self.a[:, None]})
        return System(net.apply, params, self.x * self.x.shape[1] ** 0.5, self.y[:, None])

    def descend(self, lr, steps):
        """Loss, distance from the start and smallest kernel eigenvalue of each step."""
        w, rows = self.w0.copy(), []
        for _ in range(steps):
            hidden = np.tanh(self.x @ w)
            r, bent = hidden @ self.a / self.m**0.5 - self.y, 1 - hidden**2
            K = (bent @ bent.T / self.m) * (self.x @ self.x.T)
            rows.append((r @ r / 2, np.linalg.norm(w - self.w0), np.linalg.eigvalsh(K)[0]))
            w -= lr * self.x.T @ (r[:, None] * bent * self.a[None]) / self.m**0.5
        return np.array(rows).T


@pytest.mark.slow
@pytest.mark.claim("liu2020loss/E1")
def test_a_priori_certificates_of_wide_tanh_networks_hold(measured):
    widths, draws = (1000, 4000, 20_000, 40_000), range(6)
    wide = {(m, seed): Wide(seed, m) for m in widths for seed in draws}
    found = {at: certify_pl_star(net.system, hessian_bound=net.bound) for at, net in wide.items()}
    h = np.array([[found[m, seed].h for seed in draws] for m in widths])
    slopes = np.polyfit(np.log(widths), np.log(h), 1)[0]
    assert (np.abs(slopes + 0.5) <= 0.05).all()
    share = np.array([[found[m, seed].certified for seed in draws] for m in widths]).mean(axis=1)
    assert share[0] == 0
    assert 0.5 <= share[1] <= 1
    assert (share[2:] >= 5 / 6).all()
    np.testing.assert_allclose(np.median(h, axis=1), [1.6, 0.81, 0.38, 0.27], rtol=0.25)
    rows = []
    for at, certificate in found.items():
        assert certificate.rigorous
        if certificate.certified:
            rows.append((at[0], *held(wide[at], certificate)))
    table = []
    for m, hs, part in zip(widths, h, share, strict=True):
        own = np.array([row[1:] for row in rows if row[0] == m])
        line = f"m={m}: h {np.median(hs):.2f}, certified {part:.0%}"
        if len(own):
            mu, lr, bound, rate, radius, distance, off = np.median(own, axis=0)
            line += (
                f", mu {mu:.3f}, lr {lr:.2f}, R {radius:.1f} (went {distance:.2f}), "
                f"factor {rate:.3f} below {bound:.3f}, off the linearized fit by {off:.2%}"
            )
        table.append(line)
    measured(f"slopes {slopes.min():.3f} to {slopes.max():.3f}; " + "; ".join(table))


def held(net, certificate):
    """What descent at 1/smoothness does, after it was checked against the certificate."""
    steps = 120
    loss, distance, smallest = net.descend(certificate.lr_max, steps)
    bound = loss[0] * (1 - certificate.lr_max * certificate.mu) ** np.arange(steps)
    above = loss >= 1e-24 * loss[0]
    assert (loss <= bound * (1 + 1e-9))[above].all()
    assert distance.max() <= certificate.radius
    assert smallest.min() >= certificate.mu
    report = compare_gd_rate(net.system, certificate.lr_max, steps, certificate=certificate)
    np.testing.assert_allclose(report.loss[:10], loss[:10], rtol=1e-9)
    off = abs(report.measured / report.linearized - 1)
    assert report.status.ok
    assert report.bound_ok
    assert off <= 0.01
    return certificate.mu, certificate.lr_max, report.bound, report.measured, certificate.radius, distance.max(), off


@pytest.mark.claim("liu2020loss/E1")
def test_the_network_route_and_the_closed_bound_give_the_same_certificate():
    net = Wide(0, 4000)
    plain, own = certify_pl_star(net.system, hessian_bound=net.bound), certify_pl_star(net.as_network())
    assert own.rigorous
    for name in ("h", "mu", "radius", "lr_max", "rate", "lambda_min0", "residual"):
        assert getattr(own, name) == pytest.approx(getattr(plain, name), rel=1e-7), name


def test_the_two_layer_bound_is_its_formula_and_above_the_truth():
    x, a, m = np.array([[0.6, 0.8], [3.0, 0.0], [0.0, 1.0]]), np.array([1.0, -2.0, 0.5, 1.0]), 4
    bound = two_layer_hessian_bound(x, a, TANH_BEND, m)
    assert bound == pytest.approx(TANH_BEND * 2 * 3 * np.sqrt(np.linalg.eigvalsh(x.T @ x)[-1]) / 2, rel=1e-12)
    # At z = w.x of one neuron the derivative is a sigma''(z) x x^T/sqrt(m) for each example.
    best = 0.0
    for theta in np.linspace(0, np.pi, 400):
        u = np.array([np.cos(theta), np.sin(theta)])
        best = max(best, 2 * TANH_BEND * np.linalg.norm((x @ u) ** 2) / 2)
    assert best <= bound
    assert two_layer_hessian_bound(x, a, 0.0, m) == 0.0


def test_the_two_layer_bound_is_attained_by_one_point():
    # One example and a neuron where tanh'' is largest.
    x, z = np.array([[0.6, 0.8]]), np.arctanh(1 / np.sqrt(3))
    system = System(lambda w, x: jnp.tanh(x @ w) / 2, x[0] * z, x, np.zeros(1))
    second = system.second_derivative(x[0], x[0])
    assert abs(float(second[0])) == pytest.approx(two_layer_hessian_bound(x, np.ones(4), TANH_BEND, 4), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((np.eye(2), np.ones(4), -0.1, 4), "sup_d2"),
        ((np.eye(2), np.ones(3), 0.5, 4), "one output weight a neuron"),
        ((np.eye(2), np.array([np.inf]), 0.5, 4), "a"),
        ((np.eye(2), np.ones(2), 0.5, 0), "m"),
    ],
)
def test_the_two_layer_bound_refuses_what_is_no_network(arguments, match):
    with pytest.raises(ValueError, match=match):
        two_layer_hessian_bound(*arguments)


# What a certificate must not be talked into.


def test_a_stopped_gradient_that_is_not_the_change_of_the_values_is_refused():
    def straight_through(w, x):
        return x @ (w + jax.lax.stop_gradient(jnp.round(w) - w))

    system = System(straight_through, np.array([0.2, 0.3]), np.eye(2), np.array([0.9, 0.6]))
    with pytest.raises(NotCertifiable, match="not the change of its values"):
        certify_pl_star(system, hessian_bound=0.0)


def test_frozen_layers_stop_gradients_and_are_certified_nevertheless():
    x = np.random.default_rng(0).normal(size=(3, 4))
    net = Sequential(Dense(64), Tanh(), Frozen(Dense(1)))
    params = net.init(jax.random.key(0), (4,), dtype="float64")
    system = System(net.apply, params, x, np.asarray(net.apply(params, x)) + 1e-4)
    assert certify_pl_star(system).certified


def test_a_solution_is_not_certified_for_rates_at_which_descent_diverges():
    system = System(lambda w, x: x @ w, np.ones(2), np.eye(2), np.ones(2))
    assert certify_pl_star(system, hessian_bound=0.0, lr=1.5).certified
    found = certify_pl_star(system, hessian_bound=0.0, lr=100.0)
    assert not found.certified
    assert found.status is CertificateStatus.STEP


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_a_bound_that_is_no_bound_is_refused(value):
    with pytest.raises(ValueError, match="hessian_bound"):
        certify_pl_star(linear(), hessian_bound=lambda radius: value)


def test_a_network_bound_is_tied_to_its_parameters_inputs_and_reduction():
    x = np.random.default_rng(0).normal(size=(3, 4))
    net = Sequential(Dense(64), Tanh(), Dense(1))
    params, other = (net.init(jax.random.key(i), (4,), dtype="float64") for i in (0, 1))
    system = System(net.apply, params, x, np.zeros((3, 1)))
    own = network_bound(net, params, x)
    assert certify_pl_star(system, hessian_bound=own).h == certify_pl_star(system).h
    for wrong in (
        network_bound(net, other, x),
        network_bound(net, params, x + 1),
        network_bound(net, params, x, reduction="mean"),
    ):
        with pytest.raises(ValueError, match="made with"):
            certify_pl_star(system, hessian_bound=wrong)


def test_a_searched_curvature_certifies_nothing_as_proved():
    x = np.random.default_rng(0).normal(size=(2, 4))
    params = np.random.default_rng(1).normal(size=(4, 50))
    system = System(lambda w, x: jnp.tanh(x @ w).sum(axis=1) / 50**0.5, params, x)
    near = System(system.f, params, x, system.F() + 1e-3)
    found = certify_pl_star(near)
    assert found.certified
    assert not found.rigorous
    assert found.status is CertificateStatus.SAMPLED
    assert {found.evidence(name).kind for name in ("certified", "mu", "radius", "rate", "h")} == {"sampled"}
    report = compare_gd_rate(near, found.lr_max, 5, certificate=found)
    assert report.evidence("bound").kind == report.evidence("bound_loss").kind == "sampled"


def test_an_ill_conditioned_kernel_is_not_computed_twice_where_its_jacobian_is_large(monkeypatch):
    matrix = np.diag([1.0, 1e-5])
    system = System(lambda w, x: x @ w, np.zeros(2), matrix, np.ones(2))
    fine = certify_pl_star(system, hessian_bound=0.0).lambda_min0
    assert fine == pytest.approx(1e-10, rel=1e-9)
    monkeypatch.setattr("widescape.landscape.certificate.SVD_ENTRIES", 1)
    coarse = certify_pl_star(system, hessian_bound=0.0).lambda_min0
    assert 0 < coarse < fine


def test_a_function_without_forward_derivatives_is_certified_by_a_given_bound_only():
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))
    system = System(lambda w, x: double(x @ w), np.zeros(3), np.eye(2, 3), np.ones(2))
    assert certify_pl_star(system, hessian_bound=0.0).mu == pytest.approx(4.0)
    with pytest.raises(NotCertifiable, match="hessian_bound"):
        certify_pl_star(system)

    @jax.custom_vjp
    def wrong(x):
        return 2 * x

    wrong.defvjp(lambda x: (2 * x, None), lambda _, g: (3 * g,))
    with pytest.raises(NotCertifiable, match="not the change of its values"):
        certify_pl_star(System(lambda w, x: wrong(x @ w), np.zeros(3), np.eye(2, 3), np.ones(2)), hessian_bound=0.0)
