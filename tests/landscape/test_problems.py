"""Every fact that a problem states about a point, against dense linear algebra."""

from functools import partial

import jax
import jax.flatten_util
import numpy as np
import pytest

from widescape.core.errors import ShapeError
from widescape.core.precision import call_in_float64
from widescape.curvature import as_system
from widescape.landscape import problems
from widescape.landscape.problem import Problem

ALL = [
    problems.scalar_cubic(),
    problems.dead_region(),
    problems.affine_trap(),
    problems.linear_chain(2),
    problems.linear_chain(3),
    problems.linear_product(),
    problems.linear_regression(),
    problems.decayed_affine_trap(),
    problems.quartic(),
    problems.free_logits(),
    problems.free_logits(True),
    problems.linear_autoencoder(),
    problems.linear_autoencoder(4, 3),
    problems.relu_teacher(0),
    problems.degenerate_resnet(),
]
POINTS = [pytest.param(p, name, id=f"{p.name}-{name}") for p in ALL for name in p.points]
WITH = {
    fact: [pytest.param(p, name, id=f"{p.name}-{name}") for p in ALL for name in p.points if fact in p.facts(name)]
    for fact in ("gap", "escape_value", "attained", "linear")
}
STATED = {
    "loss",
    "critical",
    "gradient_square",
    "eigenvalues",
    "index",
    "lambda_min",
    "lambda_max",
    "rank",
    "minimum",
    *WITH,
    "joint",
}


@partial(jax.jit, static_argnums=0)
def _derivatives(objective, params):
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    return jax.grad(lambda w: objective(unravel(w)))(flat), jax.hessian(lambda w: objective(unravel(w)))(flat)


def derivatives(problem, name):
    """Gradient and dense Hessian of the objective at a point, in float64."""
    return call_in_float64(_derivatives, problem.objective, problem.params(name))


@pytest.mark.claim("kawaguchi2019elimination/B1")
@pytest.mark.parametrize(("problem", "name"), POINTS)
def test_value_gradient_and_hessian_are_as_stated(problem, name):
    system, facts = problem.system(name), problem.facts(name)
    assert set(facts) <= STATED
    scale = max(1.0, abs(facts["loss"]))
    rounded = 5e-11 if name == "lower" else 1e-13  # "lower" is stated to four digits of a difference of 8.6e-7
    assert abs(system.value() - facts["loss"]) < rounded * scale
    gradient, curved = derivatives(problem, name)
    gradient = np.linalg.norm(gradient)
    assert (gradient < 1e-12) == facts["critical"]
    if "gradient_square" in facts:
        assert gradient**2 == pytest.approx(facts["gradient_square"], rel=1e-12)
    eigenvalues = np.linalg.eigvalsh(curved)
    size = np.abs(eigenvalues).max() + 1
    if "eigenvalues" in facts:
        np.testing.assert_allclose(eigenvalues, facts["eigenvalues"], atol=1e-13 * size)
    if "index" in facts:
        assert np.sum(eigenvalues < -1e-10 * size) == facts["index"]
    if "rank" in facts:
        assert np.sum(np.abs(eigenvalues) > 1e-10 * size) == facts["rank"]
    for fact, value in (("lambda_min", eigenvalues[0]), ("lambda_max", eigenvalues[-1])):
        if fact in facts:
            assert value == pytest.approx(facts[fact], abs=1e-7)


@pytest.mark.claim("kawaguchi2019elimination/B1")
@pytest.mark.parametrize(("problem", "name"), POINTS)
def test_no_point_near_a_minimum_is_lower_and_some_point_near_a_saddle_is(problem, name, rng):
    facts, system = problem.facts(name), problem.system(name)
    if "minimum" not in facts or not facts["critical"]:
        return
    moves = rng.standard_normal((16, system.num_params))
    moves *= 1e-2 / np.linalg.norm(moves, axis=1, keepdims=True)
    if facts["minimum"] == "none":
        vectors = np.linalg.eigh(derivatives(problem, name)[1])[1]
        moves = np.concatenate([moves, 1e-2 * vectors.T, -1e-2 * vectors.T])
    lowest = min(system.value(system.flat + move) for move in moves) - system.value()
    if facts["minimum"] == "none":
        assert lowest < 0
    else:
        assert lowest >= -1e-14


@pytest.mark.parametrize("problem", ALL, ids=lambda p: p.name)
def test_no_point_lies_below_a_global_minimum(problem):
    best = [problem.facts(name)["loss"] for name in problem.points if problem.facts(name).get("minimum") == "global"]
    starts = problem.starts(20)
    first = problem.system()
    for i in range(20):
        start = jax.tree.map(lambda leaf: leaf[i], starts)  # noqa: B023
        assert first.value(first.vector(start)) >= max(best, default=-np.inf)
    assert all(problem.facts(name)["loss"] >= max(best, default=-np.inf) for name in problem.points)


def basis_gap(problem, name, num=8, eps=1e-2):
    """The gap by the definition: Jacobians at points of equal outputs, and least squares for a quadratic loss."""
    rng = np.random.default_rng(0)
    system = problem.system(name)
    outputs, point = np.ravel(system.F()), system.flat
    first = system.jacobian()
    null = np.linalg.svd(first)[2][np.linalg.matrix_rank(first, tol=1e-10) :].T
    stack = [first]
    for _ in range(num if null.size else 0):
        move = null @ rng.standard_normal(null.shape[1])
        move *= eps / np.linalg.norm(move)
        for _ in range(12):
            off = np.ravel(system.F(point + move)) - outputs
            if np.linalg.norm(off) < 1e-12:
                stack.append((system.jacobian(point + move) - first) / eps)
                break
            move -= np.linalg.pinv(system.jacobian(point + move), rcond=1e-8) @ off
    left, sizes, _ = np.linalg.svd(np.concatenate(stack, axis=1), full_matrices=False)
    basis = left[:, sizes > 1e-5 * sizes[0]]
    assert np.linalg.norm(outputs - basis @ (basis.T @ outputs)) < 1e-6

    root, error = outputs_apart(problem, outputs)
    left = error - (root[:, None] * basis) @ np.linalg.lstsq(root[:, None] * basis, error, rcond=None)[0]
    return error @ error - left @ left


def outputs_apart(problem, outputs):
    """Square roots of the weights with which squares of output errors enter the objective, and the weighted errors."""
    if problem is problems.decayed_affine_trap():
        root = np.sqrt([1 / 3, 1 / 3, 1 / 3, 0.01, 0.001, 0.001])
        return root, root * (outputs - np.append(problem.y, np.zeros(3)))
    factor = 0.5 if problem is problems.linear_product() else 1.0
    root = np.full(outputs.size, np.sqrt(factor / len(problem.y)))
    return root, root * (outputs - np.ravel(problem.y))


@pytest.mark.claim("kawaguchi2019elimination/B1")
@pytest.mark.parametrize(("problem", "name"), WITH["gap"])
def test_the_gap_is_as_stated(problem, name):
    assert basis_gap(problem, name) == pytest.approx(problem.facts(name)["gap"], abs=1e-6)


@pytest.mark.claim("kawaguchi2019elimination/B1")
@pytest.mark.parametrize(("problem", "name"), WITH["escape_value"])
def test_the_escape_value_is_the_infimum_over_one_exponential_neuron(problem, name):
    system = problem.system(name)
    residual = np.ravel(system.F() - problem.y)
    weights = np.linspace(-40.0, 40.0, 16001)
    neuron = np.exp(weights[:, None] * problem.X[:, 0] - np.abs(weights)[:, None])
    values = system.value() - (neuron @ residual) ** 2 / np.sum(neuron**2, axis=1) / 3
    assert values.min() == pytest.approx(problem.facts(name)["escape_value"], abs=1e-15)
    assert np.abs(weights[values.argmin()]) > 30


@pytest.mark.claim("kawaguchi2019elimination/B1")
@pytest.mark.parametrize(("problem", "name"), WITH["attained"])
def test_descent_on_free_logits_ends_only_where_a_minimum_is_attained(problem, name):
    system = problem.system(name)
    w = system.flat
    sizes = []
    for _ in range(1000):
        w = w - system.grad(w)
        sizes.append(np.linalg.norm(w))
    grows = sizes[-1] - sizes[-501] > 1e-2
    assert grows != problem.facts(name)["attained"]


@pytest.mark.claim("kawaguchi2019elimination/B1")
@pytest.mark.parametrize(("problem", "name"), WITH["linear"])
def test_the_best_linear_functions_of_inputs_and_features_are_as_stated(problem, name):
    inputs, facts = problem.X, problem.facts(name)
    features = np.tanh(inputs @ problem.params(name)["U"].T)
    for design, value in ((inputs, facts["linear"]), (np.hstack([inputs, features]), facts["joint"])):
        fit = design @ np.linalg.lstsq(design, problem.y, rcond=None)[0]
        assert np.mean((fit - problem.y) ** 2) == pytest.approx(value, abs=1e-7)


@pytest.mark.claim("kawaguchi2019elimination/B1")
def test_the_gradient_of_the_quartic_at_its_flat_points_lies_in_the_kernel_of_the_hessian():
    for name in ("flat_right", "flat_left"):
        gradient, curved = derivatives(problems.quartic(), name)
        assert np.linalg.norm(curved @ gradient) < 1e-13


@pytest.mark.claim("kawaguchi2019elimination/B1")
def test_points_near_the_decayed_trap_are_not_lower_within_the_stated_radius(rng):
    system = problems.decayed_affine_trap().system("trap")
    moves = rng.standard_normal((50, system.num_params))
    moves *= 0.01 * rng.uniform(size=(50, 1)) / np.linalg.norm(moves, axis=1, keepdims=True)
    assert min(system.value(system.flat + move) for move in moves) >= 0.5 - 1e-14


@pytest.mark.claim("kawaguchi2019elimination/B1")
def test_the_linear_autoencoder_has_twenty_two_points_of_twelve_values_with_one_index_each():
    facts = [problems.linear_autoencoder().facts(name) for name in problems.linear_autoencoder().points]
    by_value = {round(f["loss"], 9): set() for f in facts}
    for f in facts:
        by_value[round(f["loss"], 9)].add(f["index"])
    assert len(facts) == 22
    indices = [next(iter(by_value[value])) for value in sorted(by_value, reverse=True)]
    assert all(len(found) == 1 for found in by_value.values())
    assert indices == [12, *range(10, -1, -1)]


def test_data_of_the_teacher_are_standardized_and_depend_on_the_seed():
    one, other = problems.relu_teacher(0), problems.relu_teacher(1)
    assert one.X.shape == (24, 2)
    assert one.y.shape == (24, 1)
    for problem in (one, other):
        assert abs(problem.y.mean()) < 1e-14
        assert problem.y.std() == pytest.approx(1.0, abs=1e-14)
    assert not np.allclose(one.y, other.y)


def test_starts_are_stacked_gaussians_of_the_asked_scale():
    problem = problems.relu_teacher(0)
    starts = problem.starts(2000, scale=0.5, key=jax.random.key(3))
    assert starts["w"].shape == (2000, 3, 2)
    assert starts["c"].dtype == np.float64
    flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(starts)])
    assert abs(flat.mean()) < 5 * 0.5 / flat.size**0.5
    assert abs(flat.std() - 0.5) < 5 * 0.5 / (2 * flat.size) ** 0.5
    assert np.array_equal(problem.starts(5)["w"], problem.starts(5)["w"])
    assert not np.array_equal(problem.starts(5)["w"], problem.starts(5, key=jax.random.key(3))["w"])


def test_a_problem_is_one_function_whichever_way_it_is_asked():
    problem = problems.affine_trap()
    start = jax.tree.map(lambda leaf: leaf[0], problem.starts(1))
    of_parameters = as_system(problem.objective, start)
    assert of_parameters.value() == pytest.approx(problem.value(start), abs=1e-15)
    assert problem.value() == problem.value("trap") == problem.system("trap").value()
    assert problem.objective == problems.affine_trap().objective
    assert hash(problem.objective) == hash(problems.affine_trap().objective)
    assert as_system(problem.objective, start).operators == of_parameters.operators


def test_arrays_and_points_do_not_change():
    problem = problems.affine_trap()
    with pytest.raises(ValueError, match="read-only"):
        problem.X[0] = 3.0
    with pytest.raises(ValueError, match="read-only"):
        problem.params("trap")["w"][0] = 3.0
    with pytest.raises(TypeError):
        problem.points["trap"] = None


def test_equal_arguments_make_one_problem_however_they_are_written():
    assert problems.linear_chain() is problems.linear_chain(3) is problems.linear_chain(depth=np.int64(3))
    assert problems.free_logits() is problems.free_logits(False) is problems.free_logits(hard=np.False_)
    assert problems.linear_autoencoder() is problems.linear_autoencoder(6, hidden=2)
    assert problems.relu_teacher() is problems.relu_teacher(seed=0)


@pytest.mark.parametrize("make", ["linear_chain", "free_logits", "linear_autoencoder", "relu_teacher"])
def test_a_list_as_an_argument_is_named_in_the_refusal(make):
    with pytest.raises(TypeError, match=r"` is \[3\]; it must be"):
        getattr(problems, make)([3])


def test_refusals():
    with pytest.raises(ValueError, match="choose one of 'trap', 'optimum'"):
        problems.affine_trap().params("origin")
    with pytest.raises(ValueError, match="choose 1 <= hidden <= 1"):
        problems.linear_autoencoder(2, 2)
    with pytest.raises(ValueError, match="`depth` is 1"):
        problems.linear_chain(1)
    with pytest.raises(TypeError, match="`seed` is"):
        problems.relu_teacher(0.5)
    with pytest.raises(ValueError, match="`num` is 0"):
        problems.quartic().starts(0)
    with pytest.raises(ValueError, match="`scale` is -1"):
        problems.quartic().starts(2, scale=-1.0)
    with pytest.raises(ShapeError):
        problems.quartic().system().vector({"w": np.zeros(2)})
    assert isinstance(problems.quartic(), Problem)
