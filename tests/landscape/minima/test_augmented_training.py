"""Training with added variables: success, escape, overflow, what is kept, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from specimens import bowl
from widescape.core.errors import AssumptionWarning
from widescape.core.result import Result
from widescape.curvature import System
from widescape.landscape import problems
from widescape.landscape.minima import pieces
from widescape.landscape.minima.augmentation import augment_exp, augmented_loss
from widescape.landscape.minima.augmented_training import TrainReport, train_augmented, train_scaled
from widescape.landscape.minima.monitor import EscapeMonitor

ADAM = optax.adam(2e-2)


def line(theta, x):
    return x @ theta


LINE = augment_exp(line, dx=2, dy=1)


@pytest.fixture
def fit(rng):
    """Five examples that a linear function fits."""
    x = rng.standard_normal((5, 2))
    return x, x @ np.array([[1.0], [-2.0]])


def cosine(steps):
    return optax.adam(optax.cosine_decay_schedule(2e-2, steps))


@pytest.mark.slow
@pytest.mark.claim("kawaguchi2019elimination/C11")
def test_with_a_soft_target_the_neuron_vanishes_at_the_attained_minimum(measured):
    soft = problems.free_logits()
    model = augment_exp(soft.system())
    start = model.init(jax.random.key(0), soft.params("start"))
    report = train_augmented(model, soft.loss, start, (soft.X, soft.y), lam=0.01, opt=cosine(20_000), steps=20_000)
    assert report.status == "vanished"
    assert report.best_loss == pytest.approx(0.39439769, abs=5e-9)
    assert report.contribution[-1] < 1e-6
    logits = report.theta_best - report.theta_best[0]
    np.testing.assert_allclose(logits, np.log([1.0, 1 / 18, 1 / 18]), atol=1e-6)
    measured(f"L = {report.best_loss:.8f}, G = {report.contribution[-1]:.1g}, rho = {report.residual[-1]:.1g}")


@pytest.mark.claim("kawaguchi2019elimination/C11")
def test_with_a_hard_target_there_is_a_warning_and_nothing_vanishes(measured):
    hard = problems.free_logits(hard=True)
    model = augment_exp(hard.system())
    far = model.init(None, np.array([60.0, 0.0, 0.0]))  # G = 0 and group residuals below every tolerance
    for start in (far, model.init(None, hard.params("start"))):
        with pytest.warns(AssumptionWarning, match="no minimum"):
            report = train_augmented(model, "cross_entropy", start, (hard.X, hard.y), opt=ADAM, steps=400, every=100)
        assert not report.assumptions
        assert "vanished" not in report.statuses
    measured("0 of 10 records are vanished, also where rho < 1e-8 and G = 0")


@pytest.mark.slow
@pytest.mark.claim("liang2018adding/V1")
def test_with_the_polynomial_hinge_on_separable_labels_the_neuron_vanishes_at_zero_training_error(measured):
    x = np.random.default_rng(1).standard_normal((12, 2))
    y = np.sign(x @ np.array([[1.0], [-0.5]]))
    x = 3 * (x + 0.3 * y * np.array([[1.0, -0.5]]))  # a margin
    report = train_augmented(LINE, "poly_hinge", LINE.init(None, np.zeros((2, 1))), (x, y), opt=ADAM, steps=20_000)
    assert report.status == "vanished"
    assert np.abs(report.a[-1]) < 1e-6
    assert report.contribution[-1] < 1e-6
    assert (np.sign(x @ report.theta_best) == y).all()
    assert "escaping" not in report.statuses
    measured(f"training error 0, |a| = {np.abs(report.a[-1]).max():.1g}, L = {report.loss[-1]:.1g}")


@pytest.mark.slow
def test_a_realizable_fit_vanishes_in_both_coordinates(fit):
    scaled = augment_exp(line, dx=2, dy=1, coords="scaled")
    for model in (LINE, scaled):
        report = train_augmented(model, "square", model.init(None, np.zeros((2, 1))), fit, opt=0.2, steps=4000)
        assert report.status == "vanished"
        assert "escaping" not in report.statuses[5:]
        np.testing.assert_allclose(report.theta_best, [[1.0], [-2.0]], atol=1e-6)


@pytest.mark.slow
def test_an_optimizer_with_a_line_search_is_given_the_objective(fit):
    searched = train_augmented(LINE, "square", report_start(LINE), fit, opt=optax.lbfgs(), steps=60)
    assert searched.status == "vanished"
    np.testing.assert_allclose(searched.theta_best, [[1.0], [-2.0]], atol=1e-6)


def report_start(model):
    return model.init(None, np.zeros((2, 1)))


@pytest.mark.claim("kawaguchi2019elimination/P2")
def test_from_the_dead_region_training_escapes_although_the_objective_looks_fine(measured):
    dead = problems.dead_region()
    model = augment_exp(dead.system(), coords="scaled")
    start = model.init(None, dead.params("dead"))
    report = train_augmented(model, dead.loss, start, (dead.X, dead.y), opt=ADAM, steps=3000)
    assert report.status == "escaping"
    assert not report.status.ok
    assert "vanished" not in report.statuses
    assert np.abs(report.a[-1]).max() < 0.05
    assert report.modified_loss[-1] < 0.6 < 2 / 3 <= report.loss[-1]
    assert report.best_loss == pytest.approx(2 / 3, rel=1e-12)
    np.testing.assert_allclose(report.theta_best["c"], 1.0, rtol=1e-14)
    measured(f"objective {report.modified_loss[-1]:.3g}, L = {report.loss[-1]:.3g}: best L = 2/3 of the start is kept")


def test_the_best_parameters_are_those_of_the_least_loss_of_all_steps_and_not_of_the_objective(fit):
    x, y = fit
    start, taken = report_start(LINE), 40
    optimizer = optax.sgd(0.9, momentum=0.9)  # oscillates
    report = train_augmented(LINE, "square", start, fit, opt=optimizer, steps=taken, every=taken)
    objective, state, q = augmented_loss(LINE, "square", 1e-2), None, start
    losses, thetas = [], []
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(objective))
        state = optimizer.init(q)
        for _ in range(taken + 1):
            losses.append(np.mean((x @ np.asarray(q["theta"]) - y) ** 2) / 2)
            thetas.append(np.asarray(q["theta"]))
            updates, state = optimizer.update(slope(q, x, y), state, q)
            q = optax.apply_updates(q, updates)
    best = int(np.argmin(losses))
    assert 0 < best < taken
    assert report.best_loss == pytest.approx(losses[best], rel=1e-12)
    np.testing.assert_allclose(report.theta_best, thetas[best], rtol=1e-12)
    np.testing.assert_allclose(report.q["theta"], thetas[-1], rtol=1e-10)
    np.testing.assert_allclose(report.loss, [losses[0], losses[-1]], rtol=1e-10)


def test_a_run_that_overflows_ends_with_a_status_and_keeps_what_came_before(fit):
    start = report_start(LINE)
    report = train_augmented(LINE, "square", start, fit, opt=2.5, steps=4000, every=5)
    assert report.status == "overflowed"
    assert 1 < len(report.steps) < 700
    assert all(np.isfinite(values).all() for values in (report.loss, report.modified_loss, report.variables))
    assert report.best_loss <= report.loss[0]
    lost = train_augmented(LINE, "square", start | {"a": np.ones(1), "b": np.array([2000.0])}, fit, opt=0.1, steps=50)
    assert lost.status == "overflowed"
    assert len(lost.steps) == len(lost.rows) == len(lost.charts()) == 0
    assert lost.best_loss == pytest.approx(np.mean(fit[1] ** 2) / 2, rel=1e-13)


def test_pieces_of_any_length_share_one_program_and_do_not_change_the_outcome(fit):
    options = {"opt": ADAM, "steps": 37}
    one = train_augmented(LINE, "square", report_start(LINE), fit, every=37, **options)
    programs = pieces._advance._cache_size()
    many = train_augmented(LINE, "square", report_start(LINE), fit, every=5, **options)
    assert many.steps.tolist() == [0, 5, 10, 15, 20, 25, 30, 35, 37]
    assert one.variables.tobytes() == many.variables.tobytes()
    assert pieces._advance._cache_size() == programs


def test_rows_are_those_of_a_monitor_and_survive_saving(fit, tmp_path):
    report = train_augmented(LINE, "square", report_start(LINE), fit, opt=ADAM, steps=600, every=150)
    monitor = EscapeMonitor(LINE, "square", 1e-2)
    last = monitor.update(report.q, *fit)
    row = report.rows[-1]
    assert (row.step, row.status) == (600, report.status)
    assert row.modified_loss == pytest.approx(last.modified_loss, rel=1e-13)
    assert row.residual == pytest.approx(last.residual, rel=1e-12)
    again = TrainReport.load(report.save(tmp_path / "report"))
    assert again == report
    assert again.rows == report.rows
    assert isinstance(row, Result)
    with pytest.raises(ValueError, match="loaded"):
        _ = again.theta_best
    titles = {chart.name: [series.label for series in chart.series] for chart in report.charts()}
    assert titles == {
        "hidden_loss": ["L, model alone", "objective"],
        "added_term": ["max |a|", "G, the added term", "max b"],
    }


def test_weight_decay_on_the_added_variables_is_refused_and_on_theta_alone_is_not(fit):
    def train(optimizer, **options):
        return train_augmented(LINE, "square", report_start(LINE), fit, opt=optimizer, steps=3, **options)

    with pytest.raises(ValueError, match="moves a, b, W at zero gradient"):
        train(optax.adamw(1e-2))
    with pytest.raises(ValueError, match="moves W at zero gradient"):
        train(optax.chain(optax.masked(optax.add_decayed_weights(1e-2), only("W")), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="zero gradient"):  # a rate that starts at zero hides the first step
        train(optax.adamw(optax.linear_schedule(0.0, 1e-2, 10)))
    gathered = optax.MultiSteps(optax.adamw(0.05, weight_decay=0.5), 5).gradient_transformation()
    late = optax.adamw(optax.join_schedules([optax.constant_schedule(0.0), optax.constant_schedule(0.1)], [10]))
    for decaying in (gathered, late):
        with pytest.raises(ValueError, match="as weight decay or noise does"):
            train(decaying)
    with pytest.raises(ValueError, match="cannot be probed"):
        train(optax.stateless(lambda g, _: jax.tree.map(lambda v: -0.1 * v / jnp.linalg.norm(v), g)))
    with pytest.raises(ValueError, match="moves a, b at zero gradient"):
        train_scaled(bowl, np.ones(2), opt=optax.adamw(1e-2), steps=3)
    decayed = train(optax.chain(optax.masked(optax.add_decayed_weights(1e-2), only("theta")), optax.sgd(0.1)))
    assert decayed.status == "running"


def only(name):
    return {"theta": False, "a": False, "b": False, "W": False} | {name: True}


@pytest.mark.parametrize("lam", [0.0, -1.0])
def test_a_weight_that_is_not_positive_is_refused(lam, fit):
    with pytest.raises(ValueError, match="`lam`"):
        train_augmented(LINE, "square", report_start(LINE), fit, lam=lam, opt=0.1, steps=1)
    with pytest.raises(ValueError, match="`lam`"):
        train_scaled(bowl, np.ones(2), lam=lam, opt=0.1, steps=1)


def test_arguments_that_do_not_fit_are_refused(fit):
    def train(data=fit, steps=3, **options):
        return train_augmented(LINE, "square", report_start(LINE), data, **{"opt": 0.1, "steps": steps, **options})

    with pytest.raises(ValueError, match="`steps`"):
        train(steps=0)
    with pytest.raises(ValueError, match="`every`"):
        train(every=0)
    with pytest.raises(TypeError, match="`optimizer`"):
        train(opt="adam")
    with pytest.raises(TypeError, match="`data`"):
        train(data=fit[0])
    with pytest.raises(ValueError, match="targets"):
        train(data=System(line, np.zeros((2, 1)), fit[0]))
    with pytest.raises(ValueError, match="examples"):
        train(data=(fit[0], fit[1][:2]))
    with pytest.raises(ValueError, match="another objective"):
        train(monitor=EscapeMonitor(LINE, "square", 0.5))
    with pytest.raises(TypeError, match="one real number"):
        train_scaled(lambda theta: theta, np.ones(2), opt=0.1, steps=1)
    with pytest.raises(ValueError, match="`tol`"):
        train_scaled(bowl, np.ones(2), opt=0.1, steps=1, tol=0.0)
    with pytest.raises(ValueError, match="lower bound"):
        train_scaled(lambda theta: -bowl(theta), np.ones(2), opt=0.1, steps=1)
    with pytest.raises(TypeError, match="`theta0` is None"):
        train_scaled(bowl, None, opt=0.1, steps=1)
    with pytest.raises(TypeError, match="complex"):
        train_scaled(bowl, 1j * np.ones(2), opt=0.1, steps=1)
    with pytest.raises(ValueError, match="`theta0`"):
        train_scaled(bowl, np.array([np.nan]), opt=0.1, steps=1)


def test_a_system_brings_its_data(fit):
    system = System(line, np.zeros((2, 1)), *fit)
    model = augment_exp(system)
    ours = train_augmented(model, "square", report_start(model), system, opt=ADAM, steps=37, every=37)
    theirs = train_augmented(LINE, "square", report_start(LINE), fit, opt=ADAM, steps=37, every=37)
    assert ours.variables.tobytes() == theirs.variables.tobytes()


def test_a_scaled_loss_vanishes_where_it_is_solved_and_escapes_at_a_bad_minimum():
    cubic = problems.scalar_cubic()
    solved = train_scaled(cubic.objective, np.array([-2.5]), opt=ADAM, steps=6000)
    assert solved.status == "vanished"
    assert solved.theta_best[0] == pytest.approx(cubic.params("optimum")[0], rel=1e-9)
    trapped = train_scaled(cubic.system("minimum"), None, opt=ADAM, steps=3000)
    assert trapped.status == "escaping"
    assert "vanished" not in trapped.statuses
    assert trapped.loss[-1] == pytest.approx(16 / 9, rel=1e-12)
    ends = trapped.a[-1, 0] * np.exp(trapped.b[-1, 0])
    assert ends == pytest.approx(trapped.contribution[-1], rel=1e-13)
    assert abs(ends - 1) < 0.02
    assert trapped.modified_loss[-1] == pytest.approx(16 / 9, rel=0.01)
    assert trapped.rows[-1].w_norms is None
    accepted = train_scaled(cubic.objective, np.array([1.0]), opt=ADAM, steps=3000, tol=2.0)
    assert accepted.status == "running"


def tiny_bowl(theta):
    return 1e-9 * jnp.sum((theta - 1) ** 2)


def test_a_small_loss_is_solved_relative_to_where_it_began():
    assert train_scaled(tiny_bowl, np.zeros(1, int), opt=0.1, steps=3).status == "running"
    solved = train_scaled(tiny_bowl, np.zeros(1), opt=cosine(3000), steps=3000, every=3000)
    assert solved.loss[-1] < 1e-17
    assert solved.status == "vanished"


def test_integer_parameters_are_numbers(fit):
    whole = report_start(LINE) | {"theta": np.zeros((2, 1), int)}
    ours = train_augmented(LINE, "square", whole, fit, opt=ADAM, steps=37, every=37)
    theirs = train_augmented(LINE, "square", report_start(LINE), fit, opt=ADAM, steps=37, every=37)
    assert ours.variables.tobytes() == theirs.variables.tobytes()


def curve(theta, x):
    return theta * jnp.exp(x)


@pytest.mark.slow
@pytest.mark.parametrize("lam", [0.1, 0.01])
def test_a_run_that_succeeds_slowly_is_called_escaping_at_most_until_its_added_term_has_fallen(lam):
    x = np.array([[-1.0], [0.0], [1.0]])
    model = augment_exp(curve, dx=1, dy=1)
    start = model.init(None, np.array(0.0)) | {"a": np.array([0.9]), "W": np.ones((1, 1))}
    report = train_augmented(model, "square", start, (x, np.exp(x)), lam=lam, opt=0.05, steps=8000)
    assert report.loss[0] > 10 * report.modified_loss[0]
    assert report.status == ("vanished" if lam == 0.1 else "running")
    called = [row.contribution for row in report.rows if row.status == "escaping"]
    assert all(value > report.contribution[0] / 5 for value in called)
    assert not called or lam == 0.01


@pytest.mark.slow
def test_an_escape_that_hides_a_sixth_of_the_loss_is_found_once_and_kept():
    trap = problems.affine_trap()
    model = augment_exp(trap.system(), coords="scaled")
    labels = {"theta": "fixed", "c": "free", "b": "free", "W": "free"}
    optimizer = optax.multi_transform({"fixed": optax.set_to_zero(), "free": cosine(6000)}, labels)
    start = model.init(None, trap.params("trap")) | {"W": np.ones((1, 1))}
    report = train_augmented(model, trap.loss, start, (trap.X, trap.y), lam=0.01, opt=optimizer, steps=6000)
    names = [status.name for status in report.statuses]
    assert report.modified_loss[-1] > 0.8 * report.loss[-1]
    first = names.index("ESCAPING")
    assert report.steps[first] <= 600
    assert set(names[:first]) == {"RUNNING"}
    assert set(names[first:]) == {"ESCAPING"}


def test_a_loss_that_falls_below_zero_is_warned_about_and_nothing_is_certified():
    with pytest.warns(AssumptionWarning, match="fell to") as seen:
        report = train_scaled(lambda theta: bowl(theta) - 0.5, np.ones(2), opt=ADAM, steps=300)
    assert seen[0].filename == __file__
    assert not report.assumptions
    assert "vanished" not in report.statuses


PROBLEMS = {
    "scalar_cubic": ("optimum", ("minimum", "maximum")),
    "dead_region": ("optimum", ("dead",)),
    "affine_trap": ("optimum", ("trap",)),
    "linear_chain": ("optimum", ("origin",)),
    "linear_product": (None, ("{1,2}", "{1}")),
    "linear_regression": (None, ("minimum",)),
    "decayed_affine_trap": (None, ("trap",)),
    "linear_autoencoder": (None, ("{5,6}", "{}")),
    "relu_teacher": ("teacher", ()),
    "degenerate_resnet": (None, ("degenerate",)),
    "free_logits": ("minimum", ()),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_success_is_never_called_escaping_and_escape_never_vanished_on_the_problems_of_the_library(name):
    problem = getattr(problems, name)()
    success, failures = PROBLEMS[name]
    model = augment_exp(problem.system(), coords="scaled")

    def train(params):
        start = model.init(None, params)
        return train_augmented(model, problem.loss, start, (problem.X, problem.y), opt=cosine(2000), steps=2000)

    for at in failures:
        report = train(problem.params(at))
        assert report.status == "escaping"
        assert "vanished" not in report.statuses
    if success is not None:
        near = jax.tree.map(lambda leaf: leaf * 1.02, problem.params(success))
        report = train(near)
        assert "escaping" not in report.statuses
        assert train(problem.params(success)).statuses[0] == "vanished"
