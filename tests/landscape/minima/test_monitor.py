"""The monitor: its numbers against NumPy, its verdict on success, on escape, at saddles and past overflow."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize

from widescape.core.errors import AssumptionWarning
from widescape.core.precision import call_in_float64
from widescape.landscape import problems
from widescape.landscape.minima.assumptions import scales_of
from widescape.landscape.minima.augmentation import augment_exp, augmented_loss
from widescape.landscape.minima.losses import group_residual
from widescape.landscape.minima.monitor import EscapeMonitor, measure
from widescape.landscape.minima.verdicts import Measured, Rules
from widescape.landscape.problem import squared_error

LAM = 0.01
CUBIC = problems.scalar_cubic()
MODELS = {coords: augment_exp(CUBIC.f, dx=1, dy=1, coords=coords) for coords in ("raw", "scaled")}


def line(theta, x):
    return x @ theta


LINE = augment_exp(line, dx=1, dy=1)


def monitor_of(coords="raw", **options):
    return EscapeMonitor(MODELS[coords], CUBIC.loss, LAM, **options)


def on_escape_path(b, coords="raw"):
    """At the bad minimum w = 1 of the cubic, with the best amplitude for an offset b."""
    r, size = 4 / 3, np.exp(b)
    a = -r * size / (size**2 + LAM)
    amplitude = {"a": np.array([a])} if coords == "raw" else {"c": np.array([a * size])}
    return {"theta": np.array([1.0]), "b": np.array([b]), "W": np.zeros((1, 1)), **amplitude}


def net(theta, x):
    return jnp.tanh(x @ theta)


@pytest.mark.parametrize("coords", ["raw", "scaled"])
def test_the_numbers_of_a_row_are_those_of_numpy(coords, rng):
    x, y = np.repeat(rng.standard_normal((3, 2)), 2, axis=0), rng.standard_normal((6, 3))
    model = augment_exp(net, dx=2, dy=3, coords=coords)
    a, b, W = rng.standard_normal(3), rng.standard_normal(3), rng.standard_normal((3, 2))
    amplitude = {"a": a} if coords == "raw" else {"c": a * np.exp(b)}
    q = {"theta": rng.standard_normal((2, 3)), "b": b, "W": W, **amplitude}
    with pytest.warns(AssumptionWarning, match="different target"):
        row = EscapeMonitor(model, "square", LAM).update(q, x, y)
    outputs, added = np.tanh(x @ q["theta"]), a * np.exp(x @ W.T + b)
    loss = np.mean(np.sum((outputs - y) ** 2, axis=1)) / 2
    modified = np.mean(np.sum((outputs + added - y) ** 2, axis=1)) / 2 + LAM * a @ a
    assert row.loss == pytest.approx(loss, rel=1e-13)
    assert row.modified_loss == pytest.approx(modified, rel=1e-13)
    assert row.hidden == pytest.approx(1 - modified / loss, rel=1e-12)
    assert row.contribution == pytest.approx(np.abs(added).max(), rel=1e-13)
    assert row.residual == pytest.approx(
        np.linalg.norm(group_residual(outputs, x, y, "square"), axis=1).max() / 6, rel=1e-13
    )
    np.testing.assert_allclose(row.a, a, rtol=1e-13)
    np.testing.assert_allclose(row.w_norms, np.linalg.norm(W, axis=1), rtol=1e-13)
    assert row.identity_defect <= 1e-12 * row.gradient_norm
    assert (row.step, row.b.tolist()) == (0, b.tolist())
    objective, shift, size = augmented_loss(model, "square", LAM), 1e-6, 0.0
    for name, leaf in q.items():
        for i in np.ndindex(leaf.shape):
            ends = []
            for sign in (1, -1):
                moved = leaf.copy()
                moved[i] += sign * shift
                ends.append(objective(q | {name: moved}, x, y))
            size += ((ends[0] - ends[1]) / (2 * shift)) ** 2
    assert row.gradient_norm == pytest.approx(np.sqrt(size), rel=1e-7)


@pytest.mark.claim("kawaguchi2019elimination/P2")
@pytest.mark.parametrize("coords", ["raw", "scaled"])
def test_on_an_escape_path_amplitude_and_gradient_vanish_and_the_verdict_is_escaping(coords, measured):
    monitor = monitor_of(coords, window=5)
    rows = [monitor.update(on_escape_path(b, coords), CUBIC.X, CUBIC.y) for b in np.linspace(0, 15, 31)]
    assert all(row.status == ("running" if row.step < 5 else "escaping") for row in rows)
    assert np.abs(rows[-1].a).max() < 1e-6
    assert rows[-1].gradient_norm < 1e-6
    assert rows[-1].modified_loss < 1e-10
    assert rows[-1].contribution == pytest.approx(4 / 3, rel=1e-6)
    assert rows[-1].loss == pytest.approx(16 / 9, rel=1e-12)
    measured(f"|a| = {np.abs(rows[-1].a).max():.1g}, gradient {rows[-1].gradient_norm:.1g}, G = 1.333: escaping")


def variables(z):
    return {"theta": z[:1], "a": z[1:2], "b": z[2:3], "W": z[3:].reshape(1, 1)}


@jax.jit
def value_and_slope(z):
    objective = augmented_loss(MODELS["raw"], CUBIC.loss, LAM)
    return jax.value_and_grad(lambda z: objective(variables(z), CUBIC.X, CUBIC.y))(z)


@pytest.mark.claim("kawaguchi2019elimination/P3")
def test_convergence_of_a_quasi_newton_method_is_overridden_on_an_escape_path(measured):
    monitor, statuses = monitor_of(), []
    found = minimize(
        lambda z: call_in_float64(value_and_slope, z),
        np.array([1.0, 0.0, 0.0, 0.1]),
        method="BFGS",
        jac=True,
        options={"gtol": 1e-3},
        callback=lambda z: statuses.append(monitor.update(variables(z), CUBIC.X, CUBIC.y).status),
    )
    row = monitor.update(variables(found.x), CUBIC.X, CUBIC.y)
    assert found.success
    assert row.status == "escaping"
    assert "vanished" not in statuses
    assert row.loss > 1
    measured(f"BFGS reports success at objective {found.fun:.1g}, where L = {row.loss:.3g}: escaping")


def test_a_run_to_a_global_minimum_ends_as_vanished_and_is_never_called_escaping():
    monitor, x, y = EscapeMonitor(LINE, "square", LAM), np.array([[1.0], [2.0]]), np.array([[2.0], [4.0]])
    statuses = []
    for t in range(0, 1000, 20):
        gone = 0.97**t
        q = {"theta": np.array([[2 - gone]]), "a": np.array([0.1 * gone]), "b": np.array([0.3]), "W": np.array([[0.1]])}
        statuses.append(monitor.update(q, x, y, step=t).status)
    assert statuses[-1] == "vanished"
    assert statuses[-1].ok
    assert "escaping" not in statuses
    assert "stuck" not in statuses


def test_hidden_loss_below_the_floor_is_not_called_escaping():
    # L = 1e-5 and an objective near 1e-8: nearly all of the loss is hidden, and there is nothing to worry about
    x, y = np.array([[-1.0], [1.0]]), np.array([[-1.0], [1.0]])
    model = augment_exp(lambda theta, x: x + theta, dx=1, dy=1)
    off = np.sqrt(2e-5)
    q = {"theta": np.array(off), "a": np.array([-off * np.exp(-9.0)]), "b": np.array([9.0]), "W": np.zeros((1, 1))}
    monitor = EscapeMonitor(model, "square", LAM, window=1)
    row = [monitor.update(q, x, y) for _ in range(2)][-1]
    assert row.hidden > 0.99
    assert row.status == "running"
    above = q | {"theta": np.array(0.1), "a": 22.4 * q["a"]}
    monitor = EscapeMonitor(model, "square", LAM, window=1)
    assert [monitor.update(above, x, y).status.name for _ in range(2)] == ["RUNNING", "ESCAPING"]


def sequence(a, b, G, loss=0.5, modified=0.4):
    """Rows of which a fifth of the loss is hidden."""
    n = len(a)
    return Measured(
        np.full(n, modified), np.full(n, loss), np.array(G), np.array(a)[:, None], np.array(b)[:, None],
        np.zeros((n, 1)), np.full(n, 0.1), np.full(n, 0.01), np.zeros(n),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("a", "b", "G", "status"),
    [
        ([0.3, 0.2, 0.1], [1.0, 1.4, 2.1], [0.8, 0.8, 0.8], "escaping"),
        ([0.3, 0.2, 0.31], [1.0, 1.4, 2.1], [0.8, 0.8, 0.8], "running"),  # an amplitude rose
        ([0.3, 0.2, 0.1], [1.0, 1.0, 1.0005], [0.8, 0.8, 0.8], "running"),  # b did not grow
        ([0.3, 0.2, 0.1], [1.0, 1.4, 2.1], [0.8, 0.7, 0.6], "running"),  # the added term goes away
    ],
)
def test_less_hidden_loss_counts_only_while_amplitudes_fall_and_offsets_grow(a, b, G, status):
    rules, rows = Rules(1e-6, 1e-8, 1e-3, 200, True), sequence(a, b, G)
    assert rules.verdict(np.array([0, 100, 200]), rows) == status
    assert rules.verdict(np.array([0, 100, 199]), rows) == "running"  # the window is not full
    within = Rules(1e-6, 1e-8, 0.2, 200, True)
    assert within.verdict(np.array([0, 100, 200]), rows) == "running"  # hidden loss of 0.1 is below this floor


def test_most_of_the_loss_hidden_counts_as_escape_only_where_the_added_term_does_not_fall():
    rules = Rules(1e-6, 1e-8, 1e-3, 2, True)
    for modified, G, last in [
        (0.2, [0.8, 0.8, 0.8], "escaping"),  # 60 % hidden
        (0.3, [0.8, 0.8, 0.8], "running"),  # 40 %
        (0.2, [0.8, 0.6, 0.6], "running"),
        (0.2, [0.6, 0.8, 0.62], "running"),  # rose and falls again
    ]:
        found = rules.statuses(np.arange(3), sequence([0.1] * 3, [1.0] * 3, G, modified=modified))
        assert [status.name for status in found] == ["RUNNING", "RUNNING", last.upper()]


def test_an_escape_once_found_holds_until_most_of_the_added_term_is_gone():
    rules = Rules(1e-6, 1e-8, 1e-3, 2, True)
    G = [0.8, 0.8, 0.8, 0.4, 0.25, 0.19, 0.1]
    found = rules.statuses(np.arange(7), sequence([0.1] * 7, [1.0] * 7, G, modified=0.2))
    assert [status == "escaping" for status in found] == [False, False, True, True, True, False, False]


def test_growth_is_judged_over_half_of_the_run_where_that_is_longer_than_the_window():
    # at the end of a cosine schedule nothing moves within a window any more
    rules, steps = Rules(1e-6, 1e-8, 1e-3, 2, True), np.arange(9)
    b, a = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.5, 1.5, 1.5], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.4, 0.4, 0.4]
    rows = sequence(a, b, [0.5] * 9, modified=[0.5] * 8 + [0.4])  # only the last hides loss
    assert rules.verdict(steps, rows) == "escaping"
    assert rules.verdict(steps[5:], rows.row(slice(5, None))) == "running"


def test_a_monitor_remembers_the_rows_of_a_window():
    G = [0.9, 0.7, 0.5, 0.35, 0.25, 0.25, 0.25, 0.25, 0.25]  # the first row that still compares well is the fifth
    rows = sequence([0.1] * 9, [1.0] * 9, G, modified=0.2)
    found = Rules(1e-6, 1e-8, 1e-3, 3, True).statuses(np.arange(9), rows)
    assert [status == "escaping" for status in found] == [False] * 8 + [True]
    lasting = monitor_of(window=3)
    for _ in range(3):
        assert lasting.update(on_escape_path(1.0), CUBIC.X, CUBIC.y).status == "running"
    assert lasting.update(on_escape_path(1.0), CUBIC.X, CUBIC.y).status == "escaping"


def near_saddle(gradient=0.0, G=0.0, residual=0.1):
    return sequence([0.0], [0.0], [G], modified=0.5)._replace(
        gradient_norm=np.array([gradient]), residual=np.array([residual])
    )


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"gradient": 5e-6}, "stuck"),
        ({"gradient": 5e-5}, "running"),  # above 1e-5
        ({"gradient": 5e-6, "residual": 1e-3}, "running"),  # above 1e-3 of the residual
        ({"G": 5e-7}, "stuck"),
        ({"G": 5e-7, "residual": 1e-4}, "running"),
    ],
)
def test_a_saddle_is_reported_where_neither_gradient_nor_added_term_explain_the_residual(values, status):
    assert Rules(1e-6, 1e-8, 1e-3, 200, True).verdict(np.array([0]), near_saddle(**values)) == status


POINT = np.array([[1.0]])


def itself(theta, x):
    return theta * x


def small_square(output, target):
    return jnp.sum((output - target) ** 2) * 1e-4


def double_well(output, target):
    return jnp.sum((output**2 - 1) ** 2)


def status_of(theta, x, y, loss="square", **options):
    model = augment_exp(itself, dx=1, dy=1)
    return EscapeMonitor(model, loss, LAM, **options).update(model.init(None, theta), x, y).status


def test_small_targets_and_one_misfit_among_many_examples_are_no_global_minimum():
    x = np.array([[-1.0], [0.5], [1.0]])
    for scale in (1.0, 1e-8):
        assert status_of(0.0, x, scale * np.array([[1.0], [0.0], [2.0]])) != "vanished"
    x = np.linspace(1.0, 2.0, 2000)[:, None]
    y = x.copy()
    assert status_of(1.0, x, y) == "vanished"
    y[17] += 1e-5  # rho is 5e-9
    assert status_of(1.0, x, y) != "vanished"


def test_tolerances_are_those_of_the_caller_in_units_of_the_data():
    x = np.array([[-1.0], [0.5], [1.0]])
    for scale in (1.0, 1e3):
        y = scale * x
        assert status_of(scale * (1 + 1e-7), x, y) != "vanished"
        assert status_of(scale * (1 + 1e-7), x, y, tol_r=1e-6) == "vanished"
        model = augment_exp(itself, dx=1, dy=1)
        q = model.init(None, scale) | {"a": np.array([1e-5 * scale])}
        for tol_g, status in ((1e-6, False), (1e-4, True)):
            row = EscapeMonitor(model, "square", LAM, tol_g=tol_g).update(q, x, y)
            assert (row.status == "vanished") == status


def test_thresholds_do_not_depend_on_the_dtype_of_targets_or_the_units_of_the_loss():
    x = np.array([[-1.0], [0.0], [1.0]])
    y = np.array([[1000.0], [0.0], [2000.0]])
    found = [scales_of(squared_error, targets, 1) for targets in (y, y.astype(np.int64))]
    assert found[0] == found[1] == pytest.approx((y.std(), 2 * y.std(), y.var()), rel=1e-13)
    assert scales_of(small_square, y, 1) == pytest.approx((y.std(), 2e-4 * y.std(), 1e-4 * y.var()), rel=1e-13)
    assert scales_of("square", np.full((3, 1), 0.1), 1) == pytest.approx((0.1, 0.1, 0.005), rel=1e-13)
    assert scales_of("cross_entropy", np.array([0, 2]), 3) == pytest.approx((1, np.sqrt(2 / 3), np.log(3)), rel=1e-13)
    monitor = EscapeMonitor(augment_exp(itself, dx=1, dy=1), "square", LAM)
    monitor.update(monitor.objective.model.init(None, 0.0), x, y)
    rules = monitor.rules
    found = (rules.contribution, rules.residual, rules.floor, rules.still, rules.ratio)
    wanted = (1e-6 * y.std(), 1e-8 * y.std() / 3, 1e-3 * y.var() / 2, 1e-5 * y.var() / 2, 1.0)
    assert found == pytest.approx(wanted, rel=1e-13)


def test_losses_that_are_not_convex_and_models_in_single_precision_are_warned_about_and_certify_nothing():
    with pytest.warns(AssumptionWarning, match="second derivative") as seen:
        assert status_of(0.0, POINT, 0 * POINT, double_well) != "vanished"
    assert [warning.filename for warning in seen] == [__file__]
    model = augment_exp(lambda theta, x: (theta * x).astype(np.float32), dx=1, dy=1)
    with pytest.warns(AssumptionWarning, match="float32"):
        row = EscapeMonitor(model, "square", LAM).update(model.init(None, 1.0), POINT, POINT)
    assert row.status == "running"


def test_where_the_neuron_is_zero_at_the_affine_trap_the_run_is_stuck():
    trap = problems.affine_trap()
    model = augment_exp(trap.system())
    q = {"theta": trap.params("trap"), "a": np.zeros(1), "b": np.zeros(1), "W": np.zeros((1, 1))}
    row = EscapeMonitor(model, trap.loss, LAM).update(q, trap.X, trap.y)
    assert row.status == "stuck"
    assert row.gradient_norm < 1e-12
    moved = EscapeMonitor(model, trap.loss, LAM).update(q | {"W": np.ones((1, 1))}, trap.X, trap.y)
    assert moved.status == "running"
    assert moved.gradient_norm == pytest.approx(2 / 3 * (np.cosh(1) - 1), rel=1e-12)


def test_numbers_that_overflow_have_a_status_and_do_not_stop_the_monitor():
    monitor = monitor_of()
    lost = on_escape_path(1.0) | {"b": np.array([2000.0])}
    row = monitor.update(lost, CUBIC.X, CUBIC.y)
    assert row.status == "overflowed"
    assert not row.status.ok
    assert monitor.update(on_escape_path(1.0), CUBIC.X, CUBIC.y).step == 0
    assert monitor.update(on_escape_path(2.0), CUBIC.X, CUBIC.y, step=200).status == "escaping"


def test_equal_inputs_with_different_targets_are_warned_about_once_and_nothing_is_certified():
    x = np.array([[1.0], [1.0], [2.0]])
    q = LINE.init(None, np.array([[2.0]]))
    monitor = EscapeMonitor(LINE, "square", LAM)
    with pytest.warns(AssumptionWarning, match="1 examples have the input") as seen:
        row = monitor.update(q, x, np.array([[1.0], [3.0], [4.0]]))
    assert row.residual < 1e-15  # the group of two is fitted optimally
    assert row.status == "running"
    monitor.update(q, x, np.array([[1.0], [3.0], [4.0]]))
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert monitor.update(q, x, np.array([[2.0], [2.0], [4.0]])).status == "vanished"


def test_a_loss_without_a_minimum_is_warned_about_and_nothing_is_certified():
    hard = problems.free_logits(hard=True)
    model = augment_exp(hard.system())
    monitor = EscapeMonitor(model, "cross_entropy", LAM)
    far = model.init(None, np.array([60.0, 0.0, 0.0]))
    with pytest.warns(AssumptionWarning, match="1 examples has no minimum"):
        row = monitor.update(far, hard.X, hard.y)
    assert row.residual < 1e-8
    assert row.contribution < 1e-6
    assert row.status == "running"


def test_equal_inputs_are_judged_as_a_group_and_different_ones_alone():
    def measured(x):
        q = LINE.init(None, np.array([[2.0]]))
        groups = np.unique(x, return_inverse=True)[1].reshape(-1)
        return call_in_float64(measure, augmented_loss(LINE, "square", LAM), q, x, np.array([[1.0], [3.0]]), groups)

    assert measured(np.array([[1.0], [1.0]])).residual == pytest.approx(0, abs=1e-15)
    assert measured(np.array([[1.0], [1.5]])).residual == pytest.approx(0.5, rel=1e-14)


def test_new_data_begin_anew_and_steps_must_increase():
    monitor = monitor_of()
    assert monitor.update(on_escape_path(0.0), CUBIC.X, CUBIC.y, step=10).step == 10
    assert monitor.update(on_escape_path(0.5), CUBIC.X, CUBIC.y).step == 11
    with pytest.raises(ValueError, match="increase"):
        monitor.update(on_escape_path(1.0), CUBIC.X, CUBIC.y, step=11)
    assert monitor.update(on_escape_path(1.0), CUBIC.X, CUBIC.y + 1.0).step == 0


def test_arguments_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`tol_g`"):
        monitor_of(tol_g=-1.0)
    with pytest.raises(ValueError, match="`window`"):
        monitor_of(window=0)
    with pytest.raises(ValueError, match="`lam`"):
        EscapeMonitor(LINE, squared_error, 0.0)
    monitor = monitor_of()
    with pytest.raises(ValueError, match="no data yet"):
        _ = monitor.rules
    with pytest.raises(ValueError, match="examples"):
        monitor.update(on_escape_path(0.0), CUBIC.X[:0], CUBIC.y[:0])
    with pytest.raises(TypeError, match="`q`"):
        monitor.update(on_escape_path(0.0, "scaled"), CUBIC.X, CUBIC.y)
    with pytest.raises(TypeError, match="feature_map"):
        monitor.update(on_escape_path(0.0), {"x": CUBIC.X}, CUBIC.y)
    with pytest.raises(TypeError, match="list"):
        monitor.update(on_escape_path(0.0), CUBIC.X.tolist(), CUBIC.y)
