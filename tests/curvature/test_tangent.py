"""Tangent kernels: three methods against the dense Jacobian, closed forms, and each other."""

import functools
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from widescape import arch, kernels
from widescape.core.errors import DtypeError, MemoryBudgetError, NonFiniteError, ShapeError
from widescape.curvature import System, tangent_kernel
from widescape.curvature import program as _program
from widescape.curvature.factors import Model
from widescape.curvature.program import read, trace

NHWC = ("NHWC", "HWIO", "NHWC")
GENERAL = ("jacobian", "ntvp")
ALL = (*GENERAL, "structured")
OUTPUTS = ("trace", "diag", "full")


def mlp() -> tuple[Any, Any, tuple[int, ...]]:
    net = arch.fc(2, 24, 3, activation=arch.Gelu(), w_std=1.3, b_std=0.2)
    return net.apply, net.init(jax.random.key(0), (5,), dtype="float64"), (5,)


def frozen() -> tuple[Any, Any, tuple[int, ...]]:
    net = arch.Sequential(
        arch.Dense(16, 1.2, 0.1), arch.Relu(), arch.Frozen(arch.Dense(12, 1.0, 0.3)), arch.Erf(), arch.Dense(3, 1.1)
    )
    return net.apply, net.init(jax.random.key(1), (5,), dtype="float64"), (5,)


def resnet() -> tuple[Any, Any, tuple[int, ...]]:
    """A residual network in plain JAX: convolutions, a shortcut with a shared weight, normalization, pooling."""

    def f(p: Any, x: Any) -> Any:
        conv = functools.partial(jax.lax.conv_general_dilated, dimension_numbers=NHWC)
        h = conv(x, p["stem"], (1, 1), "SAME")
        for _ in range(2):  # the block's weights are used twice
            inner = jax.nn.relu(conv(h, p["block"], (1, 1), "SAME") + p["bias"][None, None, None])
            h = h + inner
        h = conv(h, p["down"], (2, 2), "VALID")
        h = (h - h.mean(-1, keepdims=True)) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-3) * p["gain"][None, None, None]
        return jnp.mean(jnp.tanh(h), axis=(1, 2)) @ (p["out"].T * 0.5)

    r = np.random.default_rng(2)
    params = {
        "stem": r.normal(size=(3, 3, 2, 4)) / 4,
        "block": r.normal(size=(3, 3, 4, 4)) / 6,
        "bias": r.normal(size=4),
        "down": r.normal(size=(2, 2, 4, 5)) / 4,
        "gain": r.normal(size=5),
        "out": r.normal(size=(3, 5)),
    }
    return f, params, (6, 6, 2)


def positions() -> tuple[Any, Any, tuple[int, ...]]:
    """One weight on every position, from the left and from the right, through a nested jit."""

    def f(p: Any, x: Any) -> Any:
        h = jax.jit(lambda w, x: jnp.einsum("npk,kh->nph", x, w))(-(p[0] - 0.3) / 2.0, x)
        z = jnp.einsum("hk,nph->nkp", p[1], jnp.tanh(h))
        return jnp.sum(z**2, axis=2) @ jnp.reshape(p[2], (4, 2)) + jax.lax.stop_gradient(p[2])[None, :2]

    r = np.random.default_rng(3)
    return f, [r.normal(size=(3, 6)), r.normal(size=(6, 4)), r.normal(size=8)], (5, 3)


def recurrent() -> tuple[Any, Any, tuple[int, ...]]:
    """A scan over time: nothing of it has structure but the read-out."""

    def f(p: Any, x: Any) -> Any:
        def step(h: Any, xt: Any) -> Any:
            return jnp.tanh(h @ p["w"] + xt @ p["u"]), None

        h, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], 4)) * x[:, 0, :1], jnp.swapaxes(x, 0, 1))
        return h @ p["v"]

    r = np.random.default_rng(4)
    return f, {"w": r.normal(size=(4, 4)) / 2, "u": r.normal(size=(2, 4)), "v": r.normal(size=(4, 2))}, (3, 2)


MODELS = {"mlp": mlp, "frozen": frozen, "resnet": resnet, "positions": positions, "recurrent": recurrent}


def batch(shape: tuple[int, ...], n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, *shape))


def dense_jacobian(f: Any, params: Any, x: Any) -> np.ndarray:
    """(n, c, p), all at once."""
    with jax.enable_x64(True):
        leaves = jax.tree.leaves(jax.jacrev(lambda p: f(p, jnp.asarray(x)))(params))
        n, c = f(params, jnp.asarray(x)).shape
        return np.concatenate([np.asarray(leaf).reshape(n, c, -1) for leaf in leaves], axis=2)


def dense_kernel(f: Any, params: Any, x1: Any, x2: Any, outputs: str) -> np.ndarray:
    full = np.einsum("nop,mqp->nmoq", dense_jacobian(f, params, x1), dense_jacobian(f, params, x2))
    diagonal = np.diagonal(full, axis1=2, axis2=3)
    return {"full": full, "diag": diagonal, "trace": diagonal.mean(-1)}[outputs]


@pytest.mark.claim("lee2020finite/I16")
@pytest.mark.claim("lee2020finite/A6")
@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("name", ["mlp", *(pytest.param(m, marks=pytest.mark.slow) for m in MODELS if m != "mlp")])
def test_three_methods_agree_with_the_dense_jacobian(name: str, outputs: Any, measured: Any) -> None:
    f, params, shape = MODELS[name]()
    x1, x2 = batch(shape, 6, 10), batch(shape, 6, 11)
    expected = dense_kernel(f, params, x1, x2, outputs)
    scale = np.abs(expected).max()
    worst = 0.0
    for method in ALL:
        both = kernels.empirical_ntk(f, params, x1, x2, method=method, outputs=outputs)
        alone = kernels.empirical_ntk(f, params, x1, method=method, outputs=outputs)
        assert both.dtype == np.float64
        assert both.shape == expected.shape
        worst = max(worst, np.abs(both - expected).max() / scale)
        worst = max(worst, np.abs(alone - dense_kernel(f, params, x1, x1, outputs)).max() / np.abs(alone).max())
    assert worst < 1e-12
    if outputs == "full":
        measured(f"{name}: {worst:.0e}")


@pytest.mark.claim("lee2020finite/I17")
@pytest.mark.parametrize("method", ALL)
def test_trace_is_the_mean_of_the_diagonal_of_the_full_kernel(method: Any) -> None:
    f, params, shape = mlp()
    x = batch(shape, 6, 12)
    trace_kernel, diag, full = (kernels.empirical_ntk(f, params, x, method=method, outputs=o) for o in OUTPUTS)
    np.testing.assert_allclose(diag, np.diagonal(full, axis1=2, axis2=3), rtol=1e-12)
    np.testing.assert_allclose(trace_kernel, diag.mean(-1), rtol=1e-12)


def test_a_linear_model_has_the_inner_product_as_its_kernel(rng: np.random.Generator) -> None:
    x1, x2, w = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), rng.normal(size=3)
    for method in ALL:
        k = kernels.empirical_ntk(lambda w, x: x @ w, w, x1, x2, method=method, outputs="full")
        np.testing.assert_allclose(k[:, :, 0, 0], x1 @ x2.T, rtol=1e-14)


def test_a_two_layer_network_meets_the_formula_written_in_numpy(rng: np.random.Generator) -> None:
    # f = a . tanh(W x + b): dW gives (a tanh')(a' tanh'') x.x', db the same without x.x', da gives tanh tanh'.
    W, b, a = rng.normal(size=(6, 3)), rng.normal(size=6), rng.normal(size=6)
    x = rng.normal(size=(5, 3))
    h = np.tanh(x @ W.T + b)
    slope = a * (1 - h**2)
    expected = (slope @ slope.T) * (x @ x.T + 1) + h @ h.T

    def f(p: Any, x: Any) -> Any:
        return jnp.tanh(x @ p[0].T + p[1][None]) @ p[2]

    for method in ALL:
        np.testing.assert_allclose(kernels.empirical_ntk(f, (W, b, a), x, method=method), expected, rtol=1e-12)


@pytest.mark.parametrize("method", ALL)
def test_a_symmetric_kernel_is_symmetric_to_the_last_bit(method: Any) -> None:
    f, params, shape = mlp()
    full = kernels.empirical_ntk(f, params, batch(shape, 40, 13), method=method, outputs="full")
    assert (full == full.transpose(1, 0, 3, 2)).all()
    assert np.linalg.eigvalsh(full.transpose(0, 2, 1, 3).reshape(120, 120)).min() > -1e-10 * full.max()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "outputs"), [*zip(ALL, OUTPUTS, strict=True), ("jacobian", "diag")])
def test_chunks_do_not_change_the_kernel(method: Any, outputs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    f, params, shape = mlp()
    x1, x2 = batch(shape, 19, 14), batch(shape, 9, 15)
    one_piece = [kernels.empirical_ntk(f, params, *x, method=method, outputs=outputs) for x in ((x1,), (x1, x2))]
    monkeypatch.setattr("widescape.curvature.plan.LARGEST_CHUNK", 4)
    monkeypatch.setattr("widescape.curvature.plan._RUNTIME_BYTES", 0)
    panels = set()
    for budget in (60e3, 200e3, 900e3):
        try:
            plans = kernels.empirical_ntk(
                f, params, x1, method=method, outputs=outputs, plan=True, budget_gb=budget / 2**30
            )
        except MemoryBudgetError:
            continue
        panels.add((plans.panel, plans.passes, plans.chunk))
        assert plans.peak_bytes <= plans.budget_bytes
        for x, expected in zip(((x1,), (x1, x2)), one_piece, strict=True):
            cut = kernels.empirical_ntk(f, params, *x, method=method, outputs=outputs, budget_gb=budget / 2**30)
            np.testing.assert_allclose(cut, expected, rtol=1e-11, atol=1e-13)
    assert len(panels) > 1


def test_parameters_are_accumulated_leaf_by_leaf_when_rows_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    f, params, shape = mlp()
    x = batch(shape, 12, 16)
    expected = kernels.empirical_ntk(f, params, x, method="jacobian")
    monkeypatch.setattr("widescape.curvature.plan._RUNTIME_BYTES", 0)
    kernel = functools.partial(kernels.empirical_ntk, f, params, x, method="jacobian")
    with pytest.raises(MemoryBudgetError, match="at least"):
        kernel(budget_gb=1e-6)
    budget = next(kib / 2**20 for kib in range(4, 400, 2) if _fits(kernel, kib / 2**20))
    assert kernel(budget_gb=budget, plan=True).passes >= len(jax.tree.leaves(params))
    np.testing.assert_allclose(kernel(budget_gb=budget), expected, rtol=1e-11)


def _fits(kernel: Any, budget: float) -> bool:
    try:
        kernel(budget_gb=budget, plan=True)
    except MemoryBudgetError:
        return False
    return True


def test_a_filter_leaves_parameters_out() -> None:
    f, params, shape = mlp()
    x = batch(shape, 5, 17)
    everything = kernels.empirical_ntk(f, params, x)
    for method in ALL:
        weights = kernels.empirical_ntk(f, params, x, method=method, trainable=lambda path: "'w'" in path)
        biases = kernels.empirical_ntk(f, params, x, trainable=lambda path: "'b'" in path)
        np.testing.assert_allclose(weights + biases, everything, rtol=1e-12)
    last = len(params) - 1
    readout = kernels.empirical_ntk(f, params, x, trainable=tuple(i == last for i in range(len(params))))
    features = kernels.empirical_ntk(f, params, x, trainable=tuple(i != last for i in range(len(params))))
    np.testing.assert_allclose(readout + features, everything, rtol=1e-12)
    with pytest.raises(ValueError, match="selects no parameter"):
        kernels.empirical_ntk(f, params, x, trainable=lambda path: False)
    with pytest.raises(ShapeError, match="prefix"):
        kernels.empirical_ntk(f, params, x, trainable=(True, False))


def test_a_frozen_layer_contributes_nothing() -> None:
    f, params, shape = frozen()
    x = batch(shape, 5, 18)
    # The frozen layer is the third entry of the parameters.
    without = kernels.empirical_ntk(f, params, x, trainable=tuple(i != 2 for i in range(len(params))))
    np.testing.assert_allclose(kernels.empirical_ntk(f, params, x), without, rtol=1e-13)


def normalized(p: Any, x: Any) -> Any:
    """Batch normalization in training mode: every output depends on the whole batch."""
    h = x @ p[0]
    h = (h - h.mean(0, keepdims=True)) / jnp.sqrt(h.var(0, keepdims=True) + 1e-5)
    return jnp.tanh(h * p[2][None]) @ p[1]


@pytest.mark.slow
@pytest.mark.parametrize("outputs", OUTPUTS)
def test_functions_that_mix_examples_are_differentiated_as_whole_batches(outputs: Any, rng: Any) -> None:
    params = [rng.normal(size=(3, 8)), rng.normal(size=(8, 2)), rng.normal(size=8)]
    x1, x2 = rng.normal(size=(6, 3)), rng.normal(size=(5, 3))
    expected = dense_kernel(normalized, params, x1, x2, outputs)
    for method in (*GENERAL, "auto"):
        k = kernels.empirical_ntk(normalized, params, x1, x2, method, outputs, mixes_examples=True)
        np.testing.assert_allclose(k, expected, rtol=1e-10, atol=1e-11 * np.abs(expected).max())
    with pytest.raises(ValueError, match="mixes examples"):
        kernels.empirical_ntk(normalized, params, x1, method="structured", mixes_examples=True)


def test_inputs_may_be_trees() -> None:
    def f(p: Any, x: Any) -> Any:
        return jnp.tanh(x["a"] @ p) * x["b"][:, None]

    r = np.random.default_rng(5)
    x, w = {"a": r.normal(size=(9, 3)), "b": r.normal(size=9)}, r.normal(size=(3, 2))
    kernel = kernels.empirical_ntk(f, w, x, outputs="full", method="structured")
    np.testing.assert_allclose(kernel, kernels.empirical_ntk(f, w, x, outputs="full", method="jacobian"), rtol=1e-12)


@pytest.mark.slow
def test_ntk_vector_products_are_products_with_the_full_kernel(rng: np.random.Generator) -> None:
    for f, params, shape in (mlp(), resnet()):
        x1, x2 = batch(shape, 5, 20), batch(shape, 3, 21)
        v = rng.normal(size=(3, 3))
        full = kernels.empirical_ntk(f, params, x1, x2, outputs="full")
        product = kernels.ntk_vector_product(f, params, x1, x2)
        np.testing.assert_allclose(product(v), np.einsum("nmoq,mq->no", full, v), rtol=1e-10)
    with pytest.raises(ShapeError, match="shaped like the outputs"):
        product(v[:2])
    w, x = rng.normal(size=4), rng.normal(size=(6, 4))
    flat = kernels.ntk_vector_product(lambda w, x: x @ w, w, x)(np.ones(6))
    np.testing.assert_allclose(flat, x @ x.T @ np.ones(6), rtol=1e-12)


def test_precision_follows_the_arrays_whatever_the_flag_says() -> None:
    net = arch.fc(1, 16, 2, activation=arch.Relu())
    x = batch((4,), 6, 22)
    single = net.init(jax.random.key(0), (4,))
    double = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), single)
    for params, inputs, dtype in (
        (single, x.astype(np.float32), np.float32),
        (single, x, np.float64),
        (double, x.astype(np.float32), np.float64),
    ):
        for method in ALL:
            k = kernels.empirical_ntk(net.apply, params, inputs, method=method)
            assert k.dtype == dtype
            reference = kernels.empirical_ntk(net.apply, double, inputs.astype(np.float64), method="jacobian")
            np.testing.assert_allclose(k, reference, rtol=1e-12 if dtype == np.float64 else 2e-5)
        assert kernels.empirical_nngp(net.apply, params, inputs).dtype == dtype


@pytest.mark.slow
def test_the_kernel_is_a_jax_function_inside_transformations() -> None:
    with jax.enable_x64(True):
        f, params, shape = mlp()
        x1, x2 = jnp.asarray(batch(shape, 4, 23)), jnp.asarray(batch(shape, 3, 24))
        for method in ALL:
            kernel = functools.partial(kernels.empirical_ntk, f, method=method, outputs="full")
            np.testing.assert_allclose(jax.jit(kernel)(params, x1, x2), kernel(params, x1, x2), rtol=1e-11, atol=1e-12)
        kernel = functools.partial(kernels.empirical_ntk, f)
        np.testing.assert_allclose(jax.jit(kernel)(params, x1), kernel(params, x1), rtol=1e-11, atol=1e-12)
        slope = jax.grad(lambda x: kernels.empirical_ntk(f, params, x, x2)[0, 0])(x1)
        step = 1e-6 * np.random.default_rng(0).normal(size=x1.shape)
        difference = [kernels.empirical_ntk(f, params, np.asarray(x1) + s * step, x2)[0, 0] for s in (1, -1)]
        np.testing.assert_allclose(np.sum(slope * step), (difference[0] - difference[1]) / 2, rtol=1e-6)


def test_a_system_brings_its_parameters_and_data() -> None:
    f, params, shape = mlp()
    x = batch(shape, 5, 25)
    system = System(f, params, x)
    np.testing.assert_array_equal(kernels.empirical_ntk(system), kernels.empirical_ntk(f, params, x))
    np.testing.assert_array_equal(kernels.empirical_nngp(system), kernels.empirical_nngp(f, params, x))
    with pytest.raises(TypeError, match="System"):
        kernels.empirical_ntk(f, params)


def test_empirical_nngp_is_the_mean_product_of_outputs() -> None:
    f, params, shape = mlp()
    x1, x2 = batch(shape, 5, 26), batch(shape, 3, 27)
    with jax.enable_x64(True):
        o1, o2 = (np.asarray(f(params, jnp.asarray(x))) for x in (x1, x2))
    np.testing.assert_allclose(kernels.empirical_nngp(f, params, x1, x2), o1 @ o2.T / 3, rtol=1e-12)


class TestReadingPrograms:
    @staticmethod
    def uses(f: Any, *weights: tuple[int, ...]) -> Any:
        program = trace(lambda ws, x: f(*ws, x), [np.ones(w, np.float32) for w in weights], np.ones((1, 3), np.float32))
        return read(program, len(weights))

    def test_scales_shifts_and_rearrangements_keep_structure(self) -> None:
        uses = self.uses(lambda w, x: x @ jnp.reshape(1.0 - 2.0 * w.T, (3, 4)), (4, 3))
        assert [s.leaf for s in uses.sites.values()] == [0]
        assert uses.direct == ()

    def test_shared_weights_have_none(self) -> None:
        uses = self.uses(lambda w, x: jnp.tanh(x @ w) @ w, (3, 3))
        assert uses.sites == {}
        assert uses.direct == (0,)

    def test_a_weight_that_is_also_penalized_has_none(self) -> None:
        assert self.uses(lambda w, x: x @ w + jnp.sum(w), (3, 2)).direct == (0,)

    def test_a_nonlinear_reparameterization_has_none(self) -> None:
        assert self.uses(lambda w, x: x @ jnp.exp(w), (3, 2)).direct == (0,)
        assert self.uses(lambda w, x: x @ (w / jnp.linalg.norm(w)), (3, 2)).direct == (0,)
        assert self.uses(lambda w, g, x: x @ (g[0] * w), (3, 2), (1,)).direct == (0, 1)

    def test_a_mask_has_none(self) -> None:
        assert self.uses(lambda w, x: x @ (w * jnp.eye(3, 2)), (3, 2)).direct == (0,)

    def test_an_unused_weight_is_neither(self) -> None:
        uses = self.uses(lambda w, v, x: x @ w + jax.lax.stop_gradient(v)[:1], (3, 2), (3, 2))
        assert [s.leaf for s in uses.sites.values()] == [0]
        assert uses.direct == ()

    def test_flops_count_products(self) -> None:
        assert self.uses(lambda w, x: x @ w, (3, 2)).flops == 2 * 3 * 2

    def test_a_weight_that_is_returned_is_direct(self) -> None:
        assert self.uses(lambda w, x: w, (1, 3)).direct == (0,)


def test_factors_are_kept_where_they_cost_less() -> None:
    f, params, shape = resnet()
    model = Model(f, (True,) * len(params))
    with jax.enable_x64(True):
        uses = model.uses(params, batch(shape, 2, 28))
    names = sorted(params)
    assert {names[s.leaf] for s in uses.sites.values()} == {"stem", "down", "out"}
    assert {names[i] for i in uses.direct} == {"block", "bias", "gain"}


def test_the_plan_tells_costs_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    f, params, shape = mlp()
    monkeypatch.setattr("widescape.curvature.tangent._factor_program", None)
    plan = kernels.empirical_ntk(f, params, batch(shape, 30, 29), plan=True)
    assert plan.method == "structured"
    assert plan.cost_structured < plan.cost_jacobian
    assert plan.num_params == sum(leaf.size for leaf in jax.tree.leaves(params))
    assert plan.structured_params == 24 * 5 + 24 * 24 + 24 * 3
    full = kernels.empirical_ntk(f, params, batch(shape, 30, 29), outputs="full", plan=True)
    assert full.output_bytes == 30 * 30 * 9 * 8


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"method": "best"}, ValueError, "method"),
        ({"outputs": "sum"}, ValueError, "outputs"),
        ({"x2": np.ones((3, 4))}, ShapeError, "same features"),
        ({"x1": np.full((3, 5), np.nan)}, ValueError, "NaN"),
        ({"x1": np.ones((0, 5))}, ShapeError, "positive number of examples"),
        ({"params": ()}, ShapeError, "no arrays"),
        ({"budget_gb": 1e-9}, MemoryBudgetError, "at least"),
        ({"budget_gb": -1.0}, ValueError, "budget_gb"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, Any], error: type[Exception], match: str) -> None:
    f, params, shape = mlp()
    arguments = {"params": params, "x1": batch(shape, 3, 30), **change}
    with pytest.raises(error, match=match):
        kernels.empirical_ntk(f, **arguments)


def test_more_refusals(rng: np.random.Generator) -> None:
    x, w = rng.normal(size=(4, 3)), rng.normal(size=(3, 2))
    with pytest.raises(DtypeError, match="Leave it out"):
        kernels.empirical_ntk(lambda p, x: x @ p[0], [w, np.arange(3)], x)
    kernels.empirical_ntk(lambda p, x: x @ p[0], [w, np.arange(3)], x, trainable=[True, False])
    with pytest.raises(ShapeError, match="examples first"):
        kernels.empirical_ntk(lambda p, x: jnp.sum(x @ p), w, x)
    with pytest.raises(DtypeError, match="real"):
        kernels.empirical_ntk(lambda p, x: (x @ p).astype(int), w, x)
    with pytest.raises(ValueError, match="once each"):
        kernels.empirical_ntk(lambda p, x: jnp.exp(x + p[:, 0][None]), w, x, method="structured")
    with pytest.raises(NonFiniteError), np.errstate(all="ignore"):
        kernels.empirical_ntk(lambda p, x: jnp.exp(400.0 * (x @ p)) ** 2, np.abs(w), np.abs(x))
    with pytest.raises(TypeError, match="function"):
        kernels.empirical_ntk(3, w, x)


def test_a_program_with_a_custom_derivative_keeps_it() -> None:
    @jax.custom_jvp
    def straight(x: Any) -> Any:
        return jnp.sign(x)

    @straight.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return straight(*primals), tangents[0]

    def f(p: Any, x: Any) -> Any:
        return straight(x @ p[0]) @ p[1]

    r = np.random.default_rng(6)
    params, x = [r.normal(size=(3, 4)), r.normal(size=(4, 2))], r.normal(size=(5, 3))
    expected = dense_kernel(f, params, x, x, "full")
    np.testing.assert_allclose(
        kernels.empirical_ntk(f, params, x, method="structured", outputs="full"), expected, rtol=1e-12
    )


def test_nothing_is_compiled_twice_for_other_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    f, params, shape = mlp()
    x = batch(shape, 6, 31)
    kernels.empirical_ntk(f, params, x)
    monkeypatch.setattr(_program, "run", None)  # tracing again would fail
    other = jax.tree.map(lambda leaf: 2 * np.asarray(leaf), params)
    assert kernels.empirical_ntk(f, other, x[::-1]).shape == (6, 6)


@pytest.mark.slow
def test_memory_stays_within_the_plan() -> None:
    """High-water mark of a process above its level before the kernel, against the planned peak."""
    script = """
import resource, sys
import jax, numpy as np
from widescape import arch, kernels
net = arch.fc(2, 384, 10, activation=arch.Gelu())
params = net.init(jax.random.key(0), (300,), dtype="float64")
x = np.random.default_rng(0).normal(size=(120, 300))
kernels.empirical_nngp(net.apply, params, x)
level = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = level()
for method in ("structured", "jacobian"):
    kernels.empirical_ntk(net.apply, params, x, method=method, budget_gb=0.75)
    assert level() - before <= 0.75 * 2**30, (method, (level() - before) / 2**30)
print((level() - before) / 2**30)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_products_in_lower_precision_are_contracted_in_that_of_the_parameters(rng: np.random.Generator) -> None:
    def f(p: Any, x: Any) -> Any:
        low = jnp.bfloat16
        return (jax.nn.relu(x.astype(low) @ p[0].astype(low)) @ p[1].astype(low)).astype(jnp.float32)

    x = rng.normal(size=(5, 6)).astype(np.float32)
    params = [rng.normal(size=s).astype(np.float32) for s in ((6, 7), (7, 3))]
    rows, factors = (kernels.empirical_ntk(f, params, x, method=m) for m in ("jacobian", "structured"))
    assert factors.dtype == np.float32
    np.testing.assert_allclose(factors, rows, atol=0.02 * np.abs(rows).max())


def test_a_squeezed_output_and_a_printed_weight_do_no_harm(rng: np.random.Generator) -> None:
    x, params = rng.normal(size=(5, 3)), [rng.normal(size=(3, 4)), rng.normal(size=(4, 1))]

    def f(p: Any, x: Any) -> Any:
        jax.debug.callback(lambda w: None, p[0])
        return jnp.squeeze(jnp.tanh(x @ p[0]) @ p[1])

    def plain(p: Any, x: Any) -> Any:
        return jnp.tanh(x @ p[0]) @ p[1]

    expected = dense_kernel(plain, params, x, x, "trace")
    for method in ALL:
        np.testing.assert_allclose(kernels.empirical_ntk(f, params, x, method=method), expected, rtol=1e-12)
    assert kernels.empirical_ntk(f, params, x, plan=True).structured_params == 16


def test_functions_with_a_derivative_in_reverse_only_are_not_pushed_forward(rng: np.random.Generator) -> None:
    @jax.custom_vjp
    def double(x: Any) -> Any:
        return 2 * x

    double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

    def f(p: Any, x: Any) -> Any:
        return double(x @ p[0]) @ p[1]

    x, params = rng.normal(size=(5, 3)), [rng.normal(size=(3, 4)), rng.normal(size=(4, 2))]
    rows, factors = (kernels.empirical_ntk(f, params, x, method=m) for m in ("jacobian", "structured"))
    np.testing.assert_allclose(factors, rows, rtol=1e-12)
    with pytest.raises(ValueError, match="forward derivative"):
        kernels.empirical_ntk(f, params, x, method="ntvp")
    with pytest.raises(ValueError, match="forward derivative"):
        kernels.ntk_vector_product(f, params, x)


def test_random_keys_may_lie_among_the_parameters(rng: np.random.Generator) -> None:
    w, x = rng.normal(size=(3, 2)), rng.normal(size=(4, 3))
    params = {"w": w, "key": jax.random.key(0)}
    kernel = kernels.empirical_ntk(lambda p, x: x @ p["w"], params, x, trainable=lambda path: "w" in path)
    np.testing.assert_allclose(kernel, x @ x.T, rtol=1e-12)


def test_unused_parameters_do_no_harm_when_leaves_go_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    r = np.random.default_rng(0)
    params = {"a": r.normal(size=(6, 4000)), "b": r.normal(size=(4000, 2)), "unused": np.ones(3)}
    x = r.normal(size=(20, 6))

    def f(p: Any, x: Any) -> Any:
        return jnp.tanh(x @ p["a"]) @ p["b"]

    monkeypatch.setattr("widescape.curvature.plan._RUNTIME_BYTES", 0)
    kernel = functools.partial(kernels.empirical_ntk, f, params, x, method="structured")
    budgets = [mib / 2**10 for mib in (1, 1.5, 2, 3, 4, 6, 8, 16)]
    budget = next(b for b in budgets if _fits(kernel, b))
    assert kernel(budget_gb=budget, plan=True).passes > 1
    np.testing.assert_allclose(kernel(budget_gb=budget), kernel(), rtol=1e-11)


def test_a_transformed_call_checks_like_a_plain_one(rng: np.random.Generator) -> None:
    with jax.enable_x64(True):
        x, w = jnp.asarray(rng.normal(size=(4, 3))), jnp.asarray(rng.normal(size=(3, 2)))
        with pytest.raises(ValueError, match="no structure"):
            jax.jit(
                lambda w: kernels.empirical_ntk(lambda p, x: jnp.exp(x + p[:, 0][None]), w, x, method="structured")
            )(w)
        with pytest.raises(ShapeError, match="examples first"):
            jax.jit(lambda w: kernels.empirical_ntk(lambda p, x: (x @ p)[..., None], w, x))(w)


def test_the_kernel_of_a_system_lists_outputs_within_examples() -> None:
    f, params, shape = mlp()
    x = batch(shape, 3, 32)
    blocks = kernels.empirical_ntk(f, params, x, outputs="full")
    own = tangent_kernel(System(f, params, x))
    np.testing.assert_array_equal(own, blocks.transpose(0, 2, 1, 3).reshape(9, 9))


def test_a_system_tells_the_kernel_that_it_mixes_examples() -> None:
    def f(w: Any, x: Any) -> Any:
        h = x @ w
        return jnp.tanh(h - h.mean(axis=0, keepdims=True))

    r = np.random.default_rng(5)
    w, x = r.normal(size=(3, 2)), r.normal(size=(4, 3))
    with jax.enable_x64(True):
        rows = np.asarray(jax.jit(jax.jacobian(f))(w, x)).reshape(8, 6)
    system = System(f, w, x, mixes_examples=True)
    expected = (rows @ rows.T).reshape(4, 2, 4, 2).transpose(0, 2, 1, 3)
    np.testing.assert_allclose(kernels.empirical_ntk(system, outputs="full"), expected, rtol=0, atol=1e-12)
    with jax.enable_x64(True):
        traced = jax.jit(lambda w: kernels.empirical_ntk(system, w, outputs="full"))(w)
    np.testing.assert_allclose(traced, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("option", [{"budget_gb": 1.0}, {"plan": True}], ids=str)
def test_a_transformed_call_has_no_budget_and_no_plan(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no budget and no plan"):
        jax.jit(lambda w: kernels.empirical_ntk(lambda w, x: x @ w, w, np.eye(2), **option))(np.ones(2))
