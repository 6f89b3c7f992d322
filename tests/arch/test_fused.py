"""The fused planes against a dense computation over all pairs of positions."""

import numpy as np
import pytest
from scipy import special

from widescape.arch import fused
from widescape.arch.fused import (
    Apply,
    Branch,
    Convolve,
    Pool,
    Program,
    available,
    flops_per_pair,
    kernels,
    own,
    supports,
)
from widescape.arch.fused_program import KINDS
from widescape.core.errors import DtypeError, NonFiniteError, ShapeError

pytestmark = pytest.mark.skipif(not available(), reason="needs numba")
if available():
    from widescape.arch import fused_tracks
    from widescape.arch.fused_duals import own_moments

RELU = Apply("abrelu", 0.0, 1.0)
LEAKY = Apply("abrelu", 0.3, 1.1)
ERF = Apply("erf", 1.3, 0.7, 0.2)
GELU = Apply("gelu")
SINE = Apply("sine", 1.2, 0.8, 0.4)
RBF = Apply("rbf", 0.6)
SAME = Convolve((3, 3), (False, False), 2.0, 0.1, 2.1, 0.15)
TORUS = Convolve((3, 3), (True, True), 1.7, 0.2, 1.9, 0.25)
PUSH, SWAP, ADD = Branch("push"), Branch("swap"), Branch("add")


def windows(matrix, step):
    """A over all pairs of positions, as a sum over offsets of gathered matrices."""
    height, width = matrix.shape[:2]
    total = np.zeros_like(matrix)
    for offset in np.ndindex(*step.window):
        index, inside = [], []
        for k, size in enumerate((height, width)):
            moved = np.arange(size) + offset[k] - (step.window[k] - 1) // 2
            index.append(moved % size)
            inside.append(step.wrap[k] | ((moved >= 0) & (moved < size)))
        live = np.outer(*inside)
        total += matrix[np.ix_(*index, *index)] * live[:, :, None, None] * live[None, None]
    return total / np.prod(step.window)


def dual(step, q, k, p):
    """T and its slope from the covariance alone."""
    a, b, c = step.a, step.b, step.c
    product = np.sqrt(q * p)
    if step.kind == "abrelu":
        angle = np.arccos(np.clip(np.divide(k, product, out=np.zeros_like(k), where=product > 0), -1, 1))
        slope = (a * a + b * b) / 2 - (a - b) ** 2 * angle / (2 * np.pi)
        return (a - b) ** 2 * product * np.sin(angle) / (2 * np.pi) + slope * k, slope
    if step.kind == "erf":
        q, k, p = b * b * q, b * b * k, b * b * p
        d = np.sqrt((1 + 2 * q) * (1 + 2 * p) - 4 * k * k)
        return a * a * 2 / np.pi * np.arctan2(2 * k, d) + c * c, a * a * b * b * 4 / (np.pi * d)
    if step.kind == "gelu":
        area = (1 + q) * (1 + p)
        d = np.sqrt(area - k * k)
        angle = np.arctan2(k, d)
        t = k / 4 + ((k * k + q * p * d * d) / (area * d) + k * angle) / (2 * np.pi)
        return t, 1 / 4 + angle / (2 * np.pi) + k / (2 * np.pi * d) * (1 / d**2 + (1 - q * p) / area + 1)
    if step.kind == "sine":
        near, far = np.exp(-b * b * ((q + p) / 2 - k)), np.exp(-b * b * ((q + p) / 2 + k))
        return a * a / 2 * (near - np.cos(2 * c) * far), a * a * b * b / 2 * (near + np.cos(2 * c) * far)
    t = np.exp(-a * (q + p - 2 * k))
    return t, 2 * a * t


def diagonal(matrix):
    return np.einsum("ijij->ij", matrix)


def dense(program, x, y):
    """K and Theta of two images by the definition, with all pairs of positions at once, of x, of y and of both."""
    state = [np.einsum("ijc,klc->ijkl", u, v) / x.shape[2] for u, v in ((x, y), (x, x), (y, y))]
    state.append(np.zeros_like(state[0]))
    stack = []
    for step in program.steps:
        if isinstance(step, Convolve):
            means = [windows(m, step) for m in state]
            theta = step.weight * means[3] + step.gain * means[0] + step.constant
            state = [*(step.weight * m + step.bias for m in means[:3]), theta]
        elif isinstance(step, Apply):
            q, p = diagonal(state[1]), diagonal(state[2])
            moments = [(q, state[0], p), (q, state[1], q), (p, state[2], p)]
            duals = [dual(step, u[:, :, None, None] + 0 * k, k, v[None, None] + 0 * k) for u, k, v in moments]
            state = [*(t for t, _ in duals), state[3] * duals[0][1]]
        elif isinstance(step, Pool):
            p0, p1 = step.window
            shape = (state[0].shape[0] // p0, p0, state[0].shape[1] // p1, p1)
            state = [step.scale * m.reshape(shape + shape).mean((1, 3, 5, 7)) for m in state]
        elif step.kind == "push":
            stack.append(state)
        elif step.kind == "swap":
            state, stack[-1] = stack[-1], state
        else:
            state = [m + n for m, n in zip(state, stack.pop(), strict=True)]
    ends = [m.mean() if program.end == "mean" else diagonal(m).mean() for m in state]
    return ends[0], ends[3], ends[1]


def images(rng, n, size, channels=2):
    return rng.normal(size=(n, *size, channels))


def check(program, size, rng, *, rtol=1e-10):
    x, y = images(rng, 2, size), images(rng, 2, size)
    nngp, ntk = kernels(program, x, y, ntk=True)
    expected = np.array([[dense(program, u, v) for v in y] for u in x])
    scale = np.sqrt(np.outer([dense(program, u, u)[0] for u in x], [dense(program, v, v)[0] for v in y]))
    np.testing.assert_allclose(nngp, expected[..., 0], rtol=rtol, atol=rtol * scale.max() * 0.1)
    np.testing.assert_allclose(ntk, expected[..., 1], rtol=rtol, atol=rtol * abs(expected[..., 1]).max() * 0.1)
    np.testing.assert_allclose(own(program, x)[0], expected[:, 0, 2], rtol=rtol)


ACCEPTED = [
    (1, False, "diagonal", 0.553124942337, 0.681683280687),
    (1, False, "mean", 0.676824571104, 0.930074063755),
    (1, True, "diagonal", 0.482066851703, 0.393819637266),
    (1, True, "mean", 0.715479861970, 0.854308174873),
    (2, False, "mean", 0.798793112101, 1.302470494631),
    (2, True, "diagonal", 0.967127028382, 1.228068899396),
]


@pytest.mark.parametrize(("depth", "wrap", "end", "nngp", "ntk"), ACCEPTED)
@pytest.mark.parametrize("axis", [1, 2])
def test_relu_networks_on_four_positions_have_the_published_kernels(depth, wrap, end, nngp, ntk, axis):
    x = np.array([[1.0, 2, 3, 4], [0, 1, 0, -1]])
    x = np.expand_dims(x, (3 - axis, 3))
    window = (3, 1) if axis == 1 else (1, 3)
    program = Program((Convolve(window, (wrap, wrap), 2.0, 0.1, 2.0, 0.1), RELU) * depth, end)
    k, theta = kernels(program, x[:1], x[1:], ntk=True)
    assert k.item() == pytest.approx(nngp, abs=1e-12)
    assert (k + theta).item() == pytest.approx(ntk, abs=1e-12)


@pytest.mark.parametrize("end", ["mean", "diagonal"])
@pytest.mark.parametrize("size", [(4, 4), (5, 3), (6, 1), (1, 6), (1, 1), (2, 3)])
@pytest.mark.parametrize("convolution", [SAME, TORUS], ids=["same", "torus"])
def test_planes_equal_the_dense_covariance_at_all_pairs_of_positions(size, convolution, end, rng):
    check(Program((convolution, RELU, convolution, RELU), end), size, rng)


@pytest.mark.parametrize("window", [(1, 1), (2, 3), (5, 2), (1, 4), (7, 7)])
def test_windows_of_any_size_and_mixed_padding_equal_the_dense_computation(window, rng):
    mixed = Convolve(window, (True, False), 1.5, 0.05, 1.0, 0.3)
    other = Convolve(window[::-1], (False, True), 1.2, 0.0, 0.7, 0.0)
    check(Program((mixed, RELU, other, LEAKY, SAME), "mean"), (5, 4), rng)


@pytest.mark.parametrize("activation", [RELU, LEAKY, Apply("abrelu", -1.0, 1.0), ERF, GELU, SINE, RBF], ids=str)
def test_each_activation_twice_equals_the_dense_computation(activation, rng):
    check(Program((SAME, activation, TORUS, activation), "mean"), (4, 3), rng)


def test_one_more_pooling_moves_planes_as_the_dense_mean_over_both_windows(rng):
    steps = (SAME, RELU, Pool((2, 2)), TORUS, RELU, Pool((2, 1), 1.3), SAME, GELU)
    check(Program(steps, "mean"), (4, 6), rng)
    check(Program(steps, "diagonal"), (8, 4), rng)
    check(
        Program((SAME, ERF, Pool((3, 1)), Convolve((3, 1), (False, False), 1.0, 0.1, 1.0, 0.1), RELU), "mean"),
        (6, 1),
        rng,
    )
    check(Program((Pool((2, 2)), Pool((1, 2)), SAME, RELU), "mean"), (2, 4), rng)


@pytest.mark.parametrize("activation", [RELU, ERF], ids=str)
def test_branches_add_as_the_dense_covariances_do(activation, rng):
    block = (PUSH, activation, SAME, activation, TORUS, SWAP, Convolve((1, 1), (False, False), 0.5, 0.0, 0.5, 0.0), ADD)
    nested = (PUSH, PUSH, RELU, SAME, ADD, RELU, TORUS, ADD)
    check(Program((SAME, *block, activation, SAME, *nested, RELU), "mean"), (4, 3), rng)


def test_programs_without_steps_average_the_pixels(rng):
    check(Program((), "mean"), (3, 2), rng)
    check(Program((), "diagonal"), (3, 2), rng)


NETWORKS = {
    "relu": (SAME, RELU) * 4,
    "torus": (TORUS, RELU) * 4,
    "leaky": (SAME, LEAKY) * 4,
    "residual": (SAME, PUSH, RELU, SAME, ADD, RELU, SAME),
    "pooled": (SAME, RELU, Pool((2, 2)), SAME, RELU),
    "erf": (SAME, ERF) * 2,
    "sine": (SAME, SINE) * 2,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_pair_of_equal_images_has_the_variance_of_one(name, rng):
    x = images(rng, 2, (4, 4))
    for end in ("mean", "diagonal"):
        program = Program(NETWORKS[name], end)
        k, _ = kernels(program, x, x.copy(), ntk=False)
        np.testing.assert_allclose(np.diag(k), own(program, x)[0], rtol=1e-15)


@pytest.mark.parametrize("name", ["relu", "torus", "leaky", "residual"])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 4e-15), (np.float32, 2e-6)])
def test_flat_patches_stay_parallel_through_relu_layers(name, dtype, rtol):
    """Images of one color, and multiples of it, on a torus without bias: K is a product of the scales, exactly."""
    steps = tuple(
        Convolve(s.window, (True, True), s.weight, 0.0, s.gain, 0.0) if isinstance(s, Convolve) else s
        for s in NETWORKS[name]
    )
    color = np.array([0.3, -1.7, 0.9])
    x = np.stack([scale * np.broadcast_to(color, (4, 4, 3)) for scale in (1.0, 3.0, 0.1)]).astype(dtype)
    k, theta = kernels(Program(steps, "mean"), x, ntk=True)
    one = dense(Program(steps, "diagonal"), x[0].astype(float), x[0].astype(float))
    outer = np.outer([1, 3, 0.1], [1, 3, 0.1])
    np.testing.assert_allclose(k, one[2] * outer, rtol=rtol)
    np.testing.assert_allclose(theta, one[1] * outer, rtol=max(rtol, 1e-7))


@pytest.mark.parametrize("distance", [1e-3, 1e-6, 1e-9])
def test_relu_shows_the_angle_of_nearly_equal_images(distance):
    """The slope of a ReLU is 1/2 - angle / (2 pi), and the product of pixels loses an angle below 1e-8."""
    x = np.array([0.6, 0.8])
    y = np.cos(distance) * x + np.sin(distance) * np.array([-0.8, 0.6])
    linear = Convolve((1, 1), (False, False), 1.0, 0.0, 0.0, 1.0)
    _, theta = kernels(Program((linear, RELU), "mean"), x[None, None, None], y[None, None, None], ntk=True)
    assert 0.5 - theta.item() == pytest.approx(distance / (2 * np.pi), rel=1e-7, abs=2e-16)


NEAR = [
    # E[phi'^2] and E[phi^2] at variance 1
    (Apply("erf", 1.0, 1.0), 4 / (np.pi * np.sqrt(5)), 2 / np.pi * np.arcsin(2 / 3)),
    (Apply("sine", 1.0, 1.0), (1 + np.exp(-2)) / 2, (1 - np.exp(-2)) / 2),
    (RBF, 1.2, 1.0),
]


@pytest.mark.parametrize(("activation", "slope", "variance"), NEAR, ids=lambda v: getattr(v, "kind", ""))
def test_smooth_activations_turn_small_angles_by_the_ratio_of_slopes(activation, slope, variance):
    """E[(phi(u) - phi(v))^2] = E[phi'^2] angle^2 for unit variances, and a ReLU behind shows the new angle in Theta.

    At an angle of 1e-7 the covariance itself is rounded to 1 percent of the gap.
    """
    angle = 1e-7
    root = np.sqrt(2.0)
    x = np.array([root, 0.0])[None, None, None]
    y = np.array([root * np.cos(angle), root * np.sin(angle)])[None, None, None]
    linear = Convolve((1, 1), (False, False), 1.0, 0.0, 0.0, 1.0)
    _, theta = kernels(Program((activation, linear, RELU), "mean"), x, y, ntk=True)
    turned = angle * np.sqrt(slope / variance)
    assert 0.5 - theta.item() == pytest.approx(turned / (2 * np.pi), rel=1e-6, abs=1e-16)


@pytest.mark.parametrize("activation", [RELU, LEAKY, ERF, GELU, SINE], ids=lambda step: step.kind)
def test_opposite_images_keep_their_obtuse_angles(activation, rng):
    x = images(rng, 1, (4, 3))
    y = 0.1 * images(rng, 1, (4, 3)) - x
    convolution = Convolve((3, 3), (True, False), 1.5, 0.0, 1.0, 0.5)
    program = Program((convolution, activation) * 3, "diagonal")
    expected = dense(program, x[0], y[0])
    k, theta = kernels(program, x, y, ntk=True)
    assert k.item() == pytest.approx(expected[0], rel=1e-10)
    assert theta.item() == pytest.approx(expected[1], rel=1e-10)


def test_zero_pixels_and_black_borders_equal_the_dense_computation(rng):
    x = images(rng, 2, (5, 4))
    x[:, :3] = 0
    x[1, :, 0] = 0
    plain = Convolve((3, 3), (False, False), 2.0, 0.0, 1.0, 1.0)
    for end in ("mean", "diagonal"):
        program = Program((plain, RELU) * 3, end)
        k, theta = kernels(program, x, ntk=True)
        expected = dense(program, x[0], x[1])
        assert k[0, 1] == pytest.approx(expected[0], rel=1e-10)
        assert theta[0, 1] == pytest.approx(expected[1], rel=1e-10)


def test_one_batch_alone_gives_the_symmetric_kernel(rng):
    x = images(rng, 4, (4, 4))
    program = Program(NETWORKS["pooled"], "mean")
    alone, both = kernels(program, x, ntk=True), kernels(program, x, x.copy(), ntk=True)
    for a, b in zip(alone, both, strict=True):
        np.testing.assert_array_equal(a, a.T)
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.parametrize("held", [True, False], ids=["held", "made anew"])
def test_tracks_can_be_given_and_blocks_do_not_matter(held, rng, monkeypatch):
    for size, steps in (
        ((4, 4), NETWORKS["pooled"]),
        ((4, 1), (RELU, Pool((2, 1)), SAME, RELU)),
        ((4, 4), (TORUS, ERF)),
    ):
        program = Program(steps, "mean")
        x, y = images(rng, 3, size), images(rng, 2, size)
        whole, variances = kernels(program, x, y, ntk=True), own(program, x)[0]
        monkeypatch.setattr(fused, "_HELD_BYTES", 2**20 if held else 0)
        monkeypatch.setattr(fused_tracks, "_TOGETHER", 2 * 16)
        (again, first), (_, second) = own(program, x), own(program, y)
        assert [len(tracks) for tracks in first] == [3] * held
        block = kernels(program, x[1:], y, ntk=True, tracks1=[tracks[1:] for tracks in first], tracks2=second)
        np.testing.assert_array_equal(again, variances)
        np.testing.assert_array_equal(whole[0][1:], block[0])
        np.testing.assert_array_equal(whole[1][1:], block[1])
        monkeypatch.undo()


@pytest.mark.parametrize("activation", [ERF, GELU, SINE], ids=lambda step: step.kind)
def test_own_moments_are_gaussian_means_of_the_function_and_its_radial_derivative(activation):
    """E[phi(u)^2] and E[Z^2 phi'(sqrt(q) Z)^2] against a quadrature of the functions themselves."""
    a, b, c = activation.a, activation.b, activation.c
    z, weight = np.polynomial.hermite_e.hermegauss(200)
    weight = weight / np.sqrt(2 * np.pi)
    q = np.array([0.0, 1e-6, 0.3, 1.0, 2.5])
    x = np.sqrt(q)[:, None] * z
    normal, density = special.ndtr(x), np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    phi, slope = {
        "erf": (a * special.erf(b * x) + c, 2 * a * b / np.sqrt(np.pi) * np.exp(-((b * x) ** 2))),
        "gelu": (x * normal, normal + x * density),
        "sine": (a * np.sin(b * x + c), a * b * np.cos(b * x + c)),
    }[activation.kind]
    variance, radial = np.empty_like(q), np.empty_like(q)
    own_moments(KINDS[activation.kind], a, b, c, q, variance, radial)
    np.testing.assert_allclose(variance, phi**2 @ weight, rtol=1e-12)
    np.testing.assert_allclose(radial, (z * slope) ** 2 @ weight, rtol=1e-12)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-14), (np.float32, 4e-7)])
def test_the_arc_cosine_kernels_are_met_at_all_angles(dtype, rtol):
    """E[phi(u) phi(v)] = (sin t + (pi - t) cos t) / (2 pi) and E[phi'(u) phi'(v)] = (pi - t) / (2 pi) for a ReLU."""
    angles = np.linspace(0.02, np.pi - 0.02, 97)
    x = np.array([1.0, 0.0]).astype(dtype)[None, None, None] * dtype(np.sqrt(2))
    y = np.stack([np.cos(angles), np.sin(angles)], 1).astype(dtype)[:, None, None] * dtype(np.sqrt(2))
    angles = np.arctan2(y[:, 0, 0, 1].astype(float), y[:, 0, 0, 0].astype(float))
    linear = Convolve((1, 1), (False, False), 1.0, 0.0, 0.0, 1.0)
    k, theta = kernels(Program((linear, RELU), "mean"), x, y, ntk=True)
    size = np.linalg.norm(x.astype(float)) * np.linalg.norm(y.astype(float), axis=-1).ravel() / 2
    expected = size * (np.sin(angles) + (np.pi - angles) * np.cos(angles)) / (2 * np.pi)
    np.testing.assert_allclose(k[0], expected, rtol=0, atol=rtol / 4)
    np.testing.assert_allclose(theta[0], (np.pi - angles) / (2 * np.pi), rtol=0, atol=rtol / 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_stays_within_its_rounding(name, rng):
    x = images(rng, 2, (4, 4))
    program = Program(NETWORKS[name], "mean")
    wide, narrow = kernels(program, x, ntk=True), kernels(program, x.astype(np.float32), ntk=True)
    for a, b in zip(wide, narrow, strict=True):
        assert b.dtype == np.float64
        np.testing.assert_allclose(b, a, rtol=3e-6)


@pytest.mark.parametrize("name", ["relu", "leaky", "residual", "pooled", "erf"])
def test_the_nngp_alone_is_the_same_number(name, rng):
    x = images(rng, 2, (4, 4))
    program = Program(NETWORKS[name], "mean")
    alone = kernels(program, x, ntk=False)
    assert alone[1] is None
    np.testing.assert_allclose(alone[0], kernels(program, x, ntk=True)[0], rtol=1e-15)


def test_work_grows_with_planes_and_steps():
    steps = (SAME, RELU)
    plane = flops_per_pair(Program(steps, "diagonal"), (8, 8))
    assert flops_per_pair(Program(steps, "mean"), (8, 8)) == 64 * plane
    assert flops_per_pair(Program(steps * 2, "diagonal"), (8, 8)) == 2 * plane
    assert flops_per_pair(Program((*steps, Pool((2, 2))), "diagonal"), (8, 8)) == 9 * plane


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((Pool((2, 2)), Pool((3, 1))), "Step 1.*does not divide the image of 2 x 2"),
        ((PUSH, Pool((2, 2)), ADD), "Step 1.*a branch is open"),
        ((ADD,), "Step 0.*no branch is open"),
        ((PUSH,), "1 branches are open at the end"),
        ((Convolve((3, 3), (True, True), 0.0, 0.1, 1.0, 0.0),), "positive weight"),
    ],
)
def test_programs_outside_of_its_reach_are_refused_by_name(steps, words):
    program = Program(steps, "mean")
    assert not supports(program, (4, 4))
    with pytest.raises(NotImplementedError, match=words):
        kernels(program, np.ones((1, 4, 4, 1)), ntk=False)
    with pytest.raises(NotImplementedError, match=words):
        own(program, np.ones((1, 4, 4, 1)))


def test_images_that_do_not_fit_are_refused():
    program = Program((SAME, RELU), "mean")
    assert supports(program, (4, 4))
    x = np.ones((1, 4, 4, 1))
    with pytest.raises(ShapeError, match="`x1` has shape"):
        kernels(program, x[0], ntk=False)
    with pytest.raises(ShapeError, match="give both the same"):
        kernels(program, x, x[:, :3], ntk=False)
    with pytest.raises(DtypeError, match="float16"):
        kernels(program, x.astype(np.float16), ntk=False)
    with pytest.raises(ValueError, match="NaN or infinite"):
        kernels(program, x * np.nan, ntk=False)
    with pytest.raises(NonFiniteError, match="overflow"):
        kernels(Program((SAME, RELU), "mean"), x.astype(np.float32) * 1e30, ntk=False)
