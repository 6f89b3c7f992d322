from itertools import permutations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import orth
from scipy.optimize import least_squares

from widescape.core.errors import (
    AssumptionWarning,
    MemoryBudgetError,
    NonDifferentiableWarning,
    PrecisionError,
)
from widescape.core.result import Result
from widescape.curvature import System
from widescape.landscape import layerwise
from widescape.landscape.layerwise import layer_contributions, unit_blocks
from widescape.landscape.problems import affine_trap, dead_region


def tanh_net(params, x):
    return jnp.tanh(x @ params["w"] + params["b"][None]) @ params["v"] + params["c"]


@pytest.fixture(scope="module")
def converged():
    """A tanh network of one unit on fourteen points, at a critical point of the square loss."""
    rng = np.random.default_rng(3)
    X = np.linspace(-2.0, 2.0, 14)[:, None]
    Y = np.sin(1.5 * X[:, 0]) + 0.3 * rng.standard_normal(14)
    params = {"w": np.ones((1, 1)), "b": np.array([0.3]), "v": np.ones(1), "c": np.array(0.1)}
    system = System(tanh_net, params, X, Y)
    start = least_squares(system.residual, system.flat, system.jacobian, xtol=1e-15, ftol=1e-15, gtol=1e-15).x
    for _ in range(5):
        hessian = np.stack([system.hvp(e, start) for e in np.eye(4)])
        start = start - np.linalg.solve(hessian, system.grad(start))
    return system.starting_at(start)


def trap(**kwargs):
    problem = affine_trap()
    return layer_contributions(problem.f, problem.params("trap"), problem.X, problem.y, **kwargs)


def test_the_order_may_come_fifth_and_a_system_with_another_loss_in_place_of_four():
    problem, order = affine_trap(), ["v", "c", "beta", "w"]
    report = layer_contributions(problem.f, problem.params("trap"), problem.X, problem.y, order)
    assert report == trap(order=order)
    assert layer_contributions(problem.system("trap"), order=order) == report


def test_a_jacobian_that_does_not_fit_into_memory_is_refused(monkeypatch):
    monkeypatch.setattr(layerwise, "available_bytes", lambda: 100)
    with pytest.raises(MemoryBudgetError, match="a Jacobian of 3 by 7 entries"):
        trap()


def leftover(system):
    """|y - P_J y|^2 / 2 by an orthonormal basis of SciPy."""
    basis = orth(system.jacobian(), rcond=1e-10)
    y = np.ravel(system.y)
    return np.sum((y - basis @ (basis.T @ y)) ** 2) / 2


@pytest.mark.claim("kawaguchi2018depth/D1")
def test_at_the_affine_trap_contributions_leave_three_quarters(measured):
    report = trap(order=["w", "beta", "v", "c"])
    assert report.running[0] == pytest.approx(2.5, abs=1e-14)
    assert report.predicted == pytest.approx(0.75, abs=1e-14)
    assert report.actual == pytest.approx(0.75, abs=1e-14)
    assert report.rank == 2
    assert report.status == "ok"
    assert report.names == ("w", "beta", "v", "c")
    measured(f"predicted {report.predicted:.12f}, rank {report.rank}")


@pytest.mark.claim("kawaguchi2018depth/D2")
def test_at_a_converged_point_the_loss_is_what_the_jacobian_leaves(converged, measured):
    report = layer_contributions(converged)
    assert report.grad_norm < 1e-12
    assert report.defect <= 1e-10
    assert report.predicted == pytest.approx(leftover(converged), abs=1e-12)
    assert report.actual == pytest.approx(converged.value(), abs=1e-14)
    assert report.outside < 1e-12
    measured(f"defect {report.defect:.1e} at a gradient of {report.grad_norm:.1e}, loss {report.actual:.4f}")


@pytest.mark.claim("kawaguchi2018depth/D3")
def test_contributions_are_not_negative_and_their_sum_does_not_depend_on_the_order(converged):
    totals, terms = [], []
    for order in permutations("bcvw"):
        report = layer_contributions(converged, order=order)
        assert (report.values >= 0).all()
        np.testing.assert_allclose(-np.diff(report.running), report.values, atol=1e-14)
        assert report.running[0] == pytest.approx(np.sum(converged.y**2) / 2, abs=1e-13)
        totals.append(report.values.sum())
        terms.append(report.values[order.index("v")])
    np.testing.assert_allclose(totals, totals[0], rtol=1e-12)
    assert np.ptp(terms) > 0.1


def test_each_contribution_is_a_projection_on_what_the_block_adds(converged):
    order = ["w", "c", "b", "v"]
    report = layer_contributions(converged, order=order)
    jacobian, y = converged.jacobian(), converged.y
    columns = {"b": [0], "c": [1], "v": [2], "w": [3]}
    seen = np.zeros((14, 0))
    for name, value in zip(order, report.values, strict=True):
        off = np.eye(14) - seen @ np.linalg.pinv(seen, rcond=1e-12)
        added = off @ jacobian[:, columns[name]]
        assert value == pytest.approx(np.sum((added @ np.linalg.pinv(added) @ y) ** 2) / 2, abs=1e-12)
        seen = np.hstack([seen, jacobian[:, columns[name]]])


@pytest.mark.claim("kawaguchi2018depth/D4")
def test_a_unit_with_zero_outgoing_weight_never_raises_the_predicted_value(converged, rng):
    before = layer_contributions(converged).predicted
    for _ in range(5):
        own = converged.params
        larger = {
            "w": np.append(own["w"], rng.standard_normal((1, 1)), axis=1),
            "b": np.append(own["b"], rng.standard_normal()),
            "v": np.append(own["v"], 0.0),
            "c": own["c"],
        }
        with pytest.warns(AssumptionWarning, match="critical"):
            report = layer_contributions(tanh_net, larger, converged.x, converged.y)
        assert report.actual == pytest.approx(converged.value(), abs=1e-13)
        assert report.predicted <= before + 1e-13
        assert report.predicted < before - 1e-6


@pytest.mark.claim("kawaguchi2018depth/D6")
def test_with_the_output_layer_first_later_contributions_vanish(converged):
    blocks = {"output": ["v", "c"], "hidden": ["w", "b"]}
    report = layer_contributions(converged, blocks=blocks)
    assert report.values[1] < 1e-14
    assert report.values[0] == pytest.approx(np.sum(converged.F() ** 2) / 2, abs=1e-12)
    assert report.ranks.tolist() == [2, 2]
    first = layer_contributions(converged, blocks=blocks, order=["hidden", "output"])
    assert first.values[1] > 0.1
    assert trap(order=["v", "c", "beta", "w"]).values[2:].max() < 1e-14


@pytest.mark.claim("kawaguchi2018depth/D7")
def test_ranks_relative_to_a_block_would_amplify_noise(converged, measured):
    own = converged.params
    twice = {
        "w": np.repeat(own["w"], 2, axis=1),
        "b": np.repeat(own["b"], 2),
        "v": np.array([0.3, 0.7]) * own["v"],
        "c": own["c"],
    }
    system = tanh_net, twice, converged.x, converged.y
    blocks = unit_blocks(twice, {"w": 1, "b": 0, "v": 0})
    order = ["rest", "unit 0", "unit 1"]
    report = layer_contributions(*system, blocks=blocks, order=order)
    assert report.ranks.tolist() == [1, 3, 0]
    assert report.defect < 1e-10
    jacobian, y = System(*system).jacobian(), converged.y
    basis, values = np.zeros((14, 0)), []
    for name in order:  # the same, with singular values relative to what is left of the block
        left = jacobian[:, blocks[name]] - basis @ (basis.T @ jacobian[:, blocks[name]])
        vectors, sizes, _ = np.linalg.svd(left, full_matrices=False)
        kept = vectors[:, sizes > 1e-10 * sizes[0]]
        basis = np.hstack([basis, kept])
        values.append(np.sum((kept.T @ y) ** 2) / 2)
    wrong = np.sum(y**2) / 2 - sum(values)
    assert basis.shape[1] > 4
    assert abs(wrong - report.actual) > 1e-3
    measured(f"relative to the block: rank {basis.shape[1]} and {wrong:.3f} in place of 4 and {report.actual:.3f}")


def test_units_and_the_rest_hold_every_parameter_once():
    params = affine_trap().params("trap")
    blocks = unit_blocks(params, {"w": 0, "beta": 0, "v": 0})
    assert list(blocks) == ["unit 0", "unit 1", "rest"]
    assert sorted(np.concatenate(list(blocks.values())).tolist()) == list(range(7))
    assert blocks["rest"].tolist() == [2]
    assert trap(blocks=blocks).predicted == pytest.approx(0.75, abs=1e-14)
    assert unit_blocks({"W": np.zeros((2, 3))}, {"W": 1})["unit 1"].tolist() == [1, 4]


def test_layers_of_a_list_are_blocks_by_the_path_of_what_holds_them(rng):
    layers = [{"w": rng.standard_normal((2, 3)), "b": rng.standard_normal(3)}, {"w": rng.standard_normal((3, 1))}]
    X, Y = rng.standard_normal((9, 2)), rng.standard_normal((9, 1))

    def f(params, x):
        return jnp.tanh(x @ params[0]["w"] + params[0]["b"][None]) @ params[1]["w"]

    with pytest.warns(AssumptionWarning, match="train further"):
        report = layer_contributions(f, layers, X, Y, blocks={"first": "0", "second": "1"})
    assert report.names == ("first", "second")
    assert report.status == "not_critical"
    assert report.predicted == pytest.approx(leftover(System(f, layers, X, Y)), abs=1e-12)
    with pytest.warns(AssumptionWarning):
        assert layer_contributions(f, layers, X, Y).names == ("0/b", "0/w", "1/w")


def test_outputs_outside_of_the_range_of_the_jacobian_are_named():
    report = layer_contributions(lambda w, x: x[:, 0] + 0.0 * w[0] * x[:, 0], np.zeros(1), np.ones((2, 1)), np.ones(2))
    assert report.status == "outside"
    assert report.outside == pytest.approx(1.0)
    assert report.rank == 0
    assert report.predicted == pytest.approx(1.0)


def test_a_point_on_a_kink_is_warned_of():
    problem = dead_region()
    params = {**problem.params("dead"), "beta": np.array([-1.0, -3.0])}
    with pytest.warns(AssumptionWarning), pytest.warns(NonDifferentiableWarning, match="kink"):
        layer_contributions(problem.f, params, problem.X, problem.y)


def test_a_report_saves_loads_and_draws(tmp_path):
    report = trap()
    assert Result.load(report.save(tmp_path / "report.zip")) == report
    (chart,) = report.charts()
    assert chart.series[0].y[-1] == report.predicted
    assert "1 beta, 2 c" in chart.caption
    assert len(str(report).splitlines()) < 20


def test_refusals(converged):
    problem = affine_trap()
    logits = System(lambda w, x: x @ w, np.eye(2), np.eye(2), np.array([0, 1]), loss="cross_entropy")
    with pytest.raises(ValueError, match="square loss of targets that are shaped like the outputs"):
        layer_contributions(logits)
    with pytest.raises(TypeError, match="leave out"):
        layer_contributions(converged, problem.params("trap"))
    with pytest.raises(TypeError, match="`f` is 3"):
        layer_contributions(3)
    with pytest.raises(ValueError, match="name each block once"):
        trap(order=["w", "v"])
    with pytest.raises(ValueError, match="leave out 1 parameters"):
        trap(blocks={"all": ["w", "v", "beta"]})
    with pytest.raises(ValueError, match="names 'u'"):
        trap(blocks={"all": ["u"]})
    with pytest.raises(ValueError, match=r"in 0 \.\.\. 6"):
        trap(blocks={"all": np.arange(8)})
    with pytest.raises(ValueError, match="`rtol` is"):
        trap(rtol=0.0)
    with pytest.raises(ValueError, match="axes of lengths"):
        unit_blocks({"a": np.zeros(2), "b": np.zeros(3)}, {"a": 0, "b": 0})
    with pytest.raises(ValueError, match="has 1 axes"):
        unit_blocks({"a": np.zeros(2)}, {"a": 1})
    single = np.float32([1.0])
    with pytest.raises(PrecisionError, match="float32"):
        layer_contributions(lambda w, x: x[:, 0] * w[0], single, np.float32([[1.0]]), np.float32([1.0]))
    report = layer_contributions(
        lambda w, x: x[:, 0] * w[0], single, np.float32([[1.0]]), np.float32([1.0]), allow_float32=True
    )
    assert report.predicted == pytest.approx(0.0, abs=1e-14)
