"""Oracles: quadratic maps, the diagonal Hessian of a shallow network, and dense Hessians by differences or by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from specimens import quadratic
from widescape.arch import Dense, Frozen, Sequential, Tanh
from widescape.core.errors import NonFiniteError, ShapeError
from widescape.curvature import System
from widescape.curvature.spectrum import tangent_kernel
from widescape.landscape import network_bound, two_layer_hessian_bound
from widescape.landscape.second_derivative import HessianNorm, hessian_norm

TANH_BEND = 4 / (3 * np.sqrt(3))


def symmetric(rng, n, p):
    a = rng.normal(size=(n, p, p))
    return a + a.transpose(0, 2, 1)


def on(matrices, **options):
    return System(quadratic, np.full(matrices.shape[-1], 0.3), np.asarray(matrices, float), **options)


def norm2(matrix):
    return np.abs(np.linalg.eigvalsh(matrix)).max()


def net(params, x):
    hidden = jnp.tanh(jnp.matmul(x, params[0]))
    return jnp.matmul(jnp.tanh(jnp.matmul(hidden, params[1])), params[2])


def deep(seed, *, outputs=None, n=3, widths=(2, 4, 3), **options):
    r = np.random.default_rng(seed)
    d, first, second = widths
    last = (second,) if outputs is None else (second, outputs)
    params = [r.normal(size=(d, first)), r.normal(size=(first, second)), r.normal(size=last)]
    return System(net, params, r.normal(size=(n, d)), **options)


def hessians_of_outputs(system, step=1e-5):
    """(N, p, p), by central differences of the Jacobian."""
    moves = step * np.eye(system.num_params)
    slopes = [(system.jacobian(system.flat + e) - system.jacobian(system.flat - e)) / (2 * step) for e in moves]
    return np.stack(slopes, axis=1)


@pytest.mark.parametrize("p", [1, 2, 7, 30])
def test_the_bilinear_norm_of_one_quadratic_form_is_the_norm_of_its_matrix(rng, p):
    matrices = symmetric(rng, 1, p)
    found = hessian_norm(on(matrices), iters=4000)
    assert found.value == pytest.approx(norm2(matrices[0]), rel=1e-9)
    assert found.value <= norm2(matrices[0]) * (1 + 1e-13)
    assert float(found) == found.value == found.found.max()
    assert found.found.shape == (3,)
    assert found.evidence("value").side == "lower"
    assert float(hessian_norm(on(matrices), kind="max_output")) == pytest.approx(norm2(matrices[0]), rel=1e-12)


def test_the_bilinear_norm_of_two_diagonal_forms_is_the_longest_pair_of_their_entries(rng):
    pairs = rng.normal(size=(2, 6))
    system = on(np.stack([np.diag(row) for row in pairs]))
    lengths = np.sqrt((pairs**2).sum(axis=0))
    found = hessian_norm(system, iters=2000, restarts=12)
    assert found.value == pytest.approx(lengths.max(), rel=1e-9)
    outputs = hessian_norm(system, kind="max_output")
    np.testing.assert_allclose(outputs.found, np.abs(pairs).max(axis=1), rtol=1e-12)
    assert outputs.value < found.value


def test_the_bilinear_norm_of_two_forms_is_the_largest_norm_of_their_rotations(rng):
    for _ in range(3):
        matrices = symmetric(rng, 2, 4)
        dense = max(norm2(np.cos(t) * matrices[0] + np.sin(t) * matrices[1]) for t in np.linspace(0, np.pi, 4001))
        found = float(hessian_norm(on(matrices), iters=2000, restarts=20))
        assert found == pytest.approx(dense, rel=1e-5)
        assert found <= dense * (1 + 1e-6)


def test_the_bilinear_norm_does_not_fall_with_more_alternations(rng):
    system = on(symmetric(rng, 3, 9))
    rounds = np.stack([hessian_norm(system, iters=i, restarts=4).found for i in (1, 2, 3, 4, 8, 20, 100)])
    assert (np.diff(rounds, axis=0) >= -1e-12 * rounds[-1]).all()
    assert (rounds[-1] > 1.05 * rounds[0]).all()


@pytest.mark.parametrize("outputs", [None, 2])
def test_the_norm_of_each_output_is_its_largest_absolute_eigenvalue(outputs):
    system = deep(1, outputs=outputs)
    dense = hessians_of_outputs(system)
    found = hessian_norm(system, kind="max_output")
    np.testing.assert_allclose(found.found, [norm2(h) for h in dense], rtol=1e-7)
    assert found.value == found.found.max()
    assert found.outputs.tolist() == list(range(system.num_residuals))


def test_the_point_may_be_elsewhere():
    system = deep(1)
    away = System(net, system.unravel(system.flat + 0.3), system.x)
    for kind in ("bilinear", "max_output"):
        there = hessian_norm(away, kind=kind)
        assert hessian_norm(system, away.params, kind=kind) == there
        assert hessian_norm(system, away.flat, kind=kind) == there
        assert abs(float(there) / float(hessian_norm(system, kind=kind)) - 1) > 1e-3


def test_the_bilinear_norm_lies_between_the_largest_output_and_root_n_times_it(rng):
    for _ in range(6):
        system = on(symmetric(rng, 5, 4))
        most = float(hessian_norm(system, kind="max_output"))
        found = float(hessian_norm(system, iters=1000, restarts=20))
        assert most * (1 - 1e-6) <= found <= np.sqrt(5) * most * (1 + 1e-12)
    same = on(np.tile(np.diag([3.0, 1.0]), (4, 1, 1)))
    assert float(hessian_norm(same)) == pytest.approx(6, rel=1e-9)  # all outputs alike: root N is attained
    assert float(hessian_norm(same, kind="max_output")) == pytest.approx(3, rel=1e-12)


def test_with_a_mean_the_second_derivative_is_divided_by_root_n(rng):
    matrices = symmetric(rng, 4, 3)
    plain, mean = on(matrices), on(matrices, reduction="mean")
    for kind in ("bilinear", "max_output"):
        np.testing.assert_allclose(
            hessian_norm(mean, kind=kind).found, hessian_norm(plain, kind=kind).found / 2, rtol=1e-12
        )


def test_outputs_are_chosen_by_their_places():
    system = on(np.stack([np.diag([i + 1.0, 0.5]) for i in range(20)]))
    found = hessian_norm(system, kind="max_output", outputs=[7, 2])
    np.testing.assert_allclose(found.found, [8, 3], rtol=1e-12)
    assert (found.value, found.outputs.tolist()) == (pytest.approx(8, rel=1e-12), [7, 2])
    assert float(hessian_norm(system, kind="max_output", outputs=19)) == pytest.approx(20, rel=1e-12)

    some = hessian_norm(system, kind="max_output")
    assert len(set(some.outputs.tolist())) == 16
    np.testing.assert_allclose(some.found, some.outputs + 1.0, rtol=1e-12)
    others = hessian_norm(system, kind="max_output", key=jax.random.key(9))
    assert others.outputs.tolist() != some.outputs.tolist()
    assert hessian_norm(system).outputs is None


def shallow(params, x):
    """f = sum_i v_i tanh(w_i x)/sqrt(m) of a scalar x, with fixed signs v."""
    return jnp.sum(SIGNS[None, : params.size] * jnp.tanh(params[None] * x), axis=1) / np.sqrt(params.size)


SIGNS = np.where(np.random.default_rng(3).random(2000) < 0.5, -1.0, 1.0)


@pytest.mark.claim("liu2020loss/C5")
def test_a_shallow_tanh_networks_hessian_norm_is_its_largest_diagonal_entry(rng, measured):
    worst = share = 0.0
    for m in (1, 2, 5, 17, 30, 400, 2000):
        for x in (0.4, -1.7):
            w = rng.normal(size=m)
            system = System(shallow, w, np.array([[x]]))
            t = np.tanh(w * x)
            exact = np.abs(2 * t * (1 - t**2)).max() * x**2 / np.sqrt(m)
            found = float(hessian_norm(system, kind="max_output"))
            assert found <= TANH_BEND * x**2 / np.sqrt(m) * (1 + 1e-12)
            assert found <= exact * (1 + 1e-12)
            if m <= 30:
                worst = max(worst, abs(found / exact - 1))
                assert float(hessian_norm(system)) <= exact * (1 + 1e-12)
            else:
                share = max(share, 1 - found / exact)
    measured(f"relative error {worst:.1g} up to m = 30; at most {share:.1g} below it at m = 400 and 2000")
    assert worst < 1e-8
    assert share < 5e-3


def output_map(name):
    """phi, and its first two derivatives in NumPy."""
    if name == "tanh":
        return jnp.tanh, lambda z: 1 - np.tanh(z) ** 2, lambda z: -2 * np.tanh(z) * (1 - np.tanh(z) ** 2)
    return lambda z: z + z**2 / 2, lambda z: 1 + z, np.ones_like


@pytest.mark.claim("liu2020loss/C6")
@pytest.mark.parametrize("name", ["tanh", "z + z^2/2"])
def test_a_map_of_the_outputs_scales_the_kernel_and_adds_a_rank_one_term_to_the_hessian(name, measured):
    phi, slope, bend = output_map(name)
    inner = deep(11, n=4, widths=(3, 5, 4))
    outer = System(lambda p, x: phi(net(p, x)), inner.params, inner.x)
    z, rows = inner.F(), inner.jacobian()
    kernel, expected = tangent_kernel(outer), np.outer(slope(z), slope(z)) * (rows @ rows.T)
    worst = np.abs(kernel - expected).max() / np.abs(kernel).max()
    rho = np.abs(slope(z)).min()
    lowest = np.linalg.eigvalsh(kernel)[0]
    assert lowest >= rho**2 * np.linalg.eigvalsh(rows @ rows.T)[0] * (1 - 1e-9)
    assert lowest > 1e-4

    basis = np.eye(inner.num_params)
    for i, chosen in enumerate(np.eye(4)):
        own, mapped = (np.stack([s.second_adjoint(chosen, v) for v in basis]) for s in (inner, outer))
        expected = slope(z)[i] * own + bend(z)[i] * np.outer(rows[i], rows[i])
        worst = max(worst, np.abs(mapped - expected).max() / np.abs(mapped).max())
        found = float(hessian_norm(outer, kind="max_output", outputs=[i]))
        assert found == pytest.approx(norm2(expected), rel=1e-9)
    measured(f"{name}: largest relative error {worst:.1g}, smallest eigenvalue {lowest:.2g}")
    assert worst < 1e-9


def test_a_linear_function_has_no_second_derivative(rng):
    system = System(lambda w, x: jnp.matmul(x, w), np.ones(3), rng.normal(size=(2, 3)))
    for kind in ("bilinear", "max_output"):
        assert float(hessian_norm(system, kind=kind)) == 0


@pytest.mark.slow
def test_chunks_change_nothing_and_single_precision_little():
    whole, cut = deep(4, n=5), deep(4, n=5, chunk=2)
    narrow = System(net, [np.float32(p) for p in whole.params], np.float32(whole.x))
    for kind in ("bilinear", "max_output"):
        here = hessian_norm(whole, kind=kind)
        np.testing.assert_allclose(hessian_norm(cut, kind=kind).found, here.found, rtol=1e-10)
        below = hessian_norm(narrow, kind=kind)
        assert below.found.dtype == np.float64
        assert below.value == pytest.approx(here.value, rel=2e-2 if kind == "bilinear" else 1e-5)


def test_keys_choose_the_starts():
    system = deep(5)
    first, again, other = (hessian_norm(system, iters=2, key=jax.random.key(k)).found for k in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).all()
    assert len(set(first)) == 3


def test_what_has_no_norm_is_refused():
    system = deep(0)
    for outputs in ([], [3], [-1], [0.0], [[0]], [True], "all"):
        with pytest.raises(ValueError, match=r"`outputs` is .* give places from 0 to 2"):
            hessian_norm(system, kind="max_output", outputs=outputs)
    with pytest.raises(ValueError, match="`kind` is 'frobenius'"):
        hessian_norm(system, kind="frobenius")
    for name in ("iters", "restarts"):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            hessian_norm(system, **{name: 0})
    with pytest.raises(ShapeError, match="params"):
        hessian_norm(system, np.ones(3))
    pole = System(lambda w, x: jnp.sqrt(w), np.zeros(1), np.zeros(1))
    for kind in ("bilinear", "max_output"):
        with pytest.raises(NonFiniteError, match="NaN or infinite"):
            hessian_norm(pole, kind=kind)


def test_a_norm_prints_and_saves(tmp_path):
    for kind in ("bilinear", "max_output"):
        found = hessian_norm(deep(0), kind=kind)
        assert HessianNorm.load(found.save(tmp_path / "norm.zip")) == found
        assert len(str(found).splitlines()) < 20


@pytest.mark.claim("liu2020loss/I9")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_searched_norm_in_the_ball_stays_below_the_proved_bounds(frozen):
    x = np.random.default_rng(0).normal(size=(4, 3))
    readout = Dense(1)
    net = Sequential(Dense(8), Tanh(), Frozen(readout) if frozen else readout)
    params = net.init(jax.random.key(1), (3,), dtype="float64")
    system = System(net.apply, params, x)
    bound = network_bound(net, params, x)
    for i, radius in enumerate((0.0, 1.0, 4.0)):
        step = np.random.default_rng(i).normal(size=system.num_params)
        found = float(hessian_norm(system, system.flat + radius * step / np.linalg.norm(step)))
        assert 0 < found <= bound(radius) * (1 + 1e-9)
        if frozen:
            closed = two_layer_hessian_bound(x / 3**0.5, params[2]["w"][:, 0], 4 / (3 * 3**0.5), 8)
            assert found <= closed * (1 + 1e-9)
            assert closed == pytest.approx(bound(radius), rel=1e-9)
