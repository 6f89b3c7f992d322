"""Every operator of a System is the dense matrix that it stands for, whatever the loss, chunks and structure."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax

from widescape.core.errors import DtypeError, ShapeError
from widescape.curvature import System, kernel_spectrum, tangent_kernel

N, D, K, C = 6, 2, 3, 2
P = K + D * K + K * C


def network(params, x):
    hidden = jnp.tanh(x["image"] @ params["w"] + params["b"][None]) * x["scale"][:, None]
    return hidden @ params["v"]


def single(params, x):
    return network(params, x)[:, 0]


def normalized(params, x):
    """Batch normalization in training mode: every output depends on every example."""
    hidden = x["image"] @ params["w"] + params["b"][None]
    centered = hidden - hidden.mean(axis=0, keepdims=True)
    return jnp.tanh(centered / jnp.sqrt(hidden.var(axis=0, keepdims=True) + 0.1)) @ params["v"]


MODELS = {"(n, c)": network, "(n,)": single, "mixing": normalized}


def parameters(seed=0):
    r = np.random.default_rng(seed)
    return {"b": r.normal(size=K), "v": r.normal(size=(K, C)), "w": r.normal(size=(D, K))}


def inputs(seed=1):
    r = np.random.default_rng(seed)
    return {"image": r.normal(size=(N, D)), "scale": r.uniform(0.5, 2, N)}


TARGETS = np.random.default_rng(2).normal(size=(N, C))
LABELS = np.random.default_rng(3).integers(0, C, N)
W, U, V, Z = (np.random.default_rng(s).normal(size=size) for s, size in ((4, P), (5, P), (6, P), (7, N * C)))


def log_cosh(output, target):
    return jnp.sum(jnp.log(jnp.cosh(output - target)))


LOSSES = {"square": "square", "cross entropy": "cross_entropy", "callable": log_cosh}


def make(model="(n, c)", loss="square", reduction="sum", **options):
    targets = LABELS if loss == "cross entropy" else TARGETS if model != "(n,)" else TARGETS[:, 0]
    options = {"loss": LOSSES[loss], "reduction": reduction, "mixes_examples": model == "mixing"} | options
    return System(MODELS[model], parameters(), inputs(), targets, **options)


@cache
def dense(model):
    """Outputs (n, c), their Jacobian (n, c, p) and Hessians (n, c, p, p) at `W`, of the whole batch at once."""

    def flat(w):
        params = {"b": w[:K], "v": w[K : K + K * C].reshape(K, C), "w": w[K + K * C :].reshape(D, K)}
        return MODELS[model](params, jax.tree.map(jnp.asarray, inputs())).reshape(N, -1)

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jax.jit(lambda w: (flat(w), jax.jacobian(flat)(w), jax.hessian(flat)(w)))(W))


def slopes(model, loss):
    """Gradient (n, c) and Hessian (n, c, c) of the loss of each example in its outputs."""
    F = dense(model)[0]
    if loss == "cross entropy":
        s = softmax(F, axis=1)
        return s - np.eye(C)[LABELS], np.einsum("ni,ij->nij", s, np.eye(C)) - np.einsum("ni,nj->nij", s, s)
    r = F - TARGETS[:, : F.shape[1]]
    gradient, diagonal = (r, np.ones_like(r)) if loss == "square" else (np.tanh(r), 1 / np.cosh(r) ** 2)
    return gradient, np.einsum("ni,ij->nij", diagonal, np.eye(F.shape[1]))


def weight(reduction):
    return 1 / N if reduction == "mean" else 1.0


def gauss_newton(model, loss, reduction="sum"):
    _, J, _ = dense(model)
    return weight(reduction) * np.einsum("nip,nij,njq->pq", J, slopes(model, loss)[1], J)


def hessian(model, loss, reduction="sum"):
    rest = np.einsum("ni,nipq->pq", slopes(model, loss)[0], dense(model)[2])
    return gauss_newton(model, loss, reduction) + weight(reduction) * rest


def rows(model):
    return dense(model)[1].reshape(-1, P)


def close(a, b, atol=1e-11):
    np.testing.assert_allclose(a, b, rtol=0, atol=atol)


reductions = pytest.mark.parametrize("reduction", ["sum", "mean"])
models = pytest.mark.parametrize("model", MODELS)
with_loss = pytest.mark.parametrize(
    ("model", "loss"),
    [(m, name) for m in ("(n, c)", "(n,)") for name in LOSSES if m != "(n,)" or name != "cross entropy"]
    + [("mixing", "square"), ("mixing", "cross entropy")],
)


# Against dense matrices.


@with_loss
@reductions
def test_products_with_the_hessian_are_those_of_gauss_newton_and_the_curvature_of_the_outputs(model, loss, reduction):
    system = make(model, loss, reduction)
    close(system.hvp(V, W), hessian(model, loss, reduction) @ V)


@with_loss
@reductions
def test_gauss_newton_takes_the_curvature_of_the_loss_between_two_jacobians(model, loss, reduction):
    system = make(model, loss, reduction)
    close(system.ggn_mv(V, W), gauss_newton(model, loss, reduction) @ V)


@models
def test_the_jacobian_lists_outputs_within_examples(model):
    system = make(model)
    close(system.jacobian(W), rows(model))
    assert system.jacobian(W).shape == (system.num_residuals, system.num_params)


@models
@reductions
def test_the_kernel_is_the_jacobian_times_its_transpose_and_its_mean_is_divided_by_the_examples(model, reduction):
    system = make(model, reduction=reduction)
    kernel = weight(reduction) * rows(model) @ rows(model).T
    z = Z[: len(kernel)]
    close(system.kernel_mv(z, W), kernel @ z)
    close(tangent_kernel(system, W), kernel)


@models
def test_second_derivatives_of_the_outputs_are_their_hessians_between_two_vectors(model):
    system = make(model)
    expected = np.einsum("nipq,p,q->ni", dense(model)[2], U, V)
    got = system.second_derivative(U, V, W)
    assert got.shape == system.F().shape
    close(got.reshape(expected.shape), expected)


@models
def test_the_adjoint_of_the_second_derivative_is_the_hessian_of_a_combination_of_outputs(model):
    system = make(model)
    z = Z[: system.num_residuals].reshape(N, -1)
    expected = np.einsum("ni,nipq,q->p", z, dense(model)[2], U)
    close(system.second_adjoint(z.ravel(), U, W), expected)
    close(system.second_adjoint(z.reshape(system.F().shape), U, W), expected)


@with_loss
def test_the_largest_curvature_of_the_loss_in_the_outputs_is_that_of_each_example(model, loss):
    expected = np.linalg.eigvalsh(slopes(model, loss)[1])[:, -1]
    for reduction in ("sum", "mean"):
        close(make(model, loss, reduction).output_curvature(W), expected)


@given(hnp.arrays(np.float64, (2, N * C), elements=st.floats(-5, 5)))
@settings(deadline=None, max_examples=30)
@pytest.mark.claim("liu2020loss/I3")
def test_products_with_the_kernel_are_those_with_the_dense_kernel_to_1e_10(vectors):
    system, kernel = make(), tangent_kernel(make(), W)
    close(kernel, rows("(n, c)") @ rows("(n, c)").T)
    for z in vectors:
        close(system.kernel_mv(z, W), kernel @ z, atol=1e-10)
    close(system.kernel_mv(vectors[0], W) @ vectors[1], vectors[0] @ system.kernel_mv(vectors[1], W), atol=1e-10)


@given(hnp.arrays(np.float64, (2, P), elements=st.floats(-5, 5)), st.floats(-3, 3))
@settings(deadline=None, max_examples=30)
def test_products_are_linear_and_symmetric(vectors, a):
    u, v = vectors
    system = make(loss="cross entropy", reduction="mean")
    for product in (system.hvp, system.ggn_mv):
        close(product(u + a * v, W), product(u, W) + a * product(v, W), atol=1e-10)
        close(u @ product(v, W), v @ product(u, W), atol=1e-10)
    assert v @ system.ggn_mv(v, W) >= -1e-12
    close(make().second_derivative(u, v, W), make().second_derivative(v, u, W), atol=1e-9)


# Chunks and compiled functions.

OPERATORS = {
    "F": (),
    "residual": (),
    "value": (),
    "grad": (),
    "output_curvature": (),
    "jvp": (V,),
    "vjp": (Z,),
    "jacobian": (),
    "kernel_mv": (Z,),
    "hvp": (V,),
    "ggn_mv": (V,),
    "second_derivative": (U, V),
    "second_adjoint": (Z, U),
}


SOME = ("value", "jacobian", "kernel_mv", "hvp", "second_adjoint")


@cache
def whole(name):
    return getattr(make(reduction="mean"), name)(*OPERATORS[name], w=W)


# Not dividing the examples, one, dividing them, and more than there are.
@pytest.mark.claim("liu2020loss/I12")
@pytest.mark.parametrize("chunk", [4, *(pytest.param(c, marks=pytest.mark.slow) for c in (1, 2, N + 1))])
def test_chunks_of_data_change_no_operator(chunk):
    system = make(reduction="mean", chunk=chunk)
    for name, arguments in OPERATORS.items():
        got = getattr(system, name)(*arguments, w=W)
        assert np.shape(got) == np.shape(whole(name)), name
        np.testing.assert_allclose(got, whole(name), rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("loss", ["cross entropy", "callable"])
def test_chunks_change_no_operator_of_another_loss(loss, chunk):
    system = make(loss=loss, chunk=chunk)
    close(system.hvp(V, W), hessian("(n, c)", loss) @ V)
    close(system.ggn_mv(V, W), gauss_newton("(n, c)", loss) @ V)
    one = make("(n,)", chunk=chunk)
    close(one.kernel_mv(Z[:N], W), rows("(n,)") @ rows("(n,)").T @ Z[:N])


@pytest.mark.claim("liu2020loss/I12")
def test_a_compiled_function_gives_the_operators_and_the_spectrum_of_the_plain_one():
    plain = make(reduction="mean")
    compiled = System(jax.jit(network), parameters(), inputs(), TARGETS, reduction="mean")
    for name, arguments in OPERATORS.items():
        np.testing.assert_allclose(
            getattr(compiled, name)(*arguments, w=W), whole(name), rtol=0, atol=1e-12, err_msg=name
        )
    close(kernel_spectrum(compiled, W).eigs, kernel_spectrum(plain, W).eigs)


def test_the_kernel_and_its_spectrum_do_not_depend_on_chunks():
    for chunk in (1, 4):
        system = make(reduction="mean", chunk=chunk)
        close(tangent_kernel(system, W), tangent_kernel(make(reduction="mean"), W))
        for method in ("svd", "dense"):
            close(kernel_spectrum(system, W, method=method).eigs, kernel_spectrum(make(reduction="mean"), W).eigs)


# Examples that are mixed.


def test_of_a_function_that_mixes_examples_one_example_alone_says_something_else():
    unaware = make("mixing", mixes_examples=False).jacobian(W)
    assert np.abs(unaware - rows("mixing")).max() > 0.1
    assert np.linalg.norm(rows("mixing")) > 1


def test_a_function_that_mixes_examples_is_not_cut_into_chunks():
    with pytest.raises(ValueError, match="mixes examples cannot be worked on in chunks"):
        make("mixing", chunk=2)


# Parameters: vectors, structure, precision.

NESTINGS = {
    "tuple": (lambda p: (p["v"], p["b"], p["w"]), lambda q: {"v": q[0], "b": q[1], "w": q[2]}),
    "other names": (
        lambda p: {"z": p["b"], "a": [{"w": p["w"]}, None], "k": (p["v"],)},
        lambda q: {"b": q["z"], "w": q["a"][0]["w"], "v": q["k"][0]},
    ),
    "columns": (
        lambda p: [p["b"], list(p["w"].T), p["v"].T.copy()],
        lambda q: {"b": q[0], "w": jnp.stack(q[1]).T, "v": q[2].T},
    ),
}


@pytest.mark.claim("liu2020loss/I11")
@pytest.mark.parametrize("nesting", NESTINGS)
def test_order_and_nesting_of_parameters_change_no_result(nesting):
    pack, unpack = NESTINGS[nesting]
    known = make(reduction="mean")
    system = System(lambda q, x: network(unpack(q), x), pack(parameters()), inputs(), TARGETS, reduction="mean")

    def packed(v):
        return system.vector(pack(known.unravel(v)))

    assert not np.array_equal(packed(W), W)
    close(system.value(packed(W)), known.value(W))
    close(system.F(packed(W)), known.F(W))
    close(system.grad(packed(W)), packed(known.grad(W)))
    close(system.hvp(packed(V), packed(W)), packed(known.hvp(V, W)))
    close(system.ggn_mv(packed(V), packed(W)), packed(known.ggn_mv(V, W)))
    close(system.kernel_mv(Z, packed(W)), known.kernel_mv(Z, W))
    close(tangent_kernel(system, packed(W)), tangent_kernel(known, W))
    ours, theirs = kernel_spectrum(system, packed(W)), kernel_spectrum(known, W)
    close(ours.eigs, theirs.eigs)
    assert ours.lam_min == pytest.approx(theirs.lam_min, rel=1e-9)


def test_a_vector_of_parameters_is_flat_or_a_tree_like_them_or_their_own():
    system = make()
    assert np.array_equal(system.vector(), system.flat)
    assert np.array_equal(system.vector(W), W)
    assert np.array_equal(system.vector(system.unravel(W)), W)
    assert np.array_equal(system.vector({name: jnp.asarray(leaf) for name, leaf in parameters().items()}).shape, (P,))
    flat = System(lambda w, x: x @ w, np.ones(3), np.eye(3))
    assert flat.vector(np.arange(3.0)).tolist() == [0, 1, 2]
    scalar = System(lambda w, x: w * x, np.float64(3), np.ones(2))
    assert scalar.vector(np.float64(5)).tolist() == [5]
    assert scalar.vector(np.array([5.0])).tolist() == [5]


@pytest.mark.parametrize(
    "params",
    [
        np.ones(P + 1),
        np.ones((1, P)),
        parameters() | {"b": np.ones(K + 1)},
        list(parameters().values()),
        {"b": np.ones(K)},
        1.0,
    ],
    ids=["long", "two axes", "another shape", "another structure", "incomplete", "number"],
)
def test_parameters_unlike_those_of_the_system_are_refused(params):
    for function in (make().vector, lambda p: tangent_kernel(make(), p), lambda p: kernel_spectrum(make(), p)):
        with pytest.raises(ShapeError, match="params"):
            function(params)


def test_parameters_that_are_integers_or_not_finite_are_refused():
    with pytest.raises(DtypeError, match="params"):
        make().vector(np.ones(P, int))
    with pytest.raises(DtypeError, match=r"params\['b'\]"):
        make().vector(parameters() | {"b": np.ones(K, int)})
    with pytest.raises(ValueError, match=r"params.*NaN"):
        make().vector(np.full(P, np.nan))
    with pytest.raises(ValueError, match=r"params\['b'\].*NaN"):
        make().vector(parameters() | {"b": np.full(K, np.inf)})


@pytest.mark.parametrize("flag", [False, True])
def test_a_system_of_single_precision_computes_in_it_and_agrees_to_its_rounding(flag):
    half = jax.tree.map(np.float32, (parameters(), inputs()))
    with jax.enable_x64(flag):
        system = System(network, *half, TARGETS.astype(np.float32), reduction="mean")
        for name in OPERATORS if flag else SOME:
            got = getattr(system, name)(*OPERATORS[name], w=W)
            np.testing.assert_allclose(got, whole(name), rtol=0, atol=2e-4, err_msg=name)
            assert name == "value" or got.dtype == np.float32, name
    assert not system.double


def test_the_double_of_a_system_keeps_everything_but_its_precision():
    half = jax.tree.map(np.float32, (parameters(), inputs()))
    for loss, targets, chunk in (
        ("square", np.float32(TARGETS), 4),
        ("cross_entropy", LABELS, None),
        (log_cosh, TARGETS, None),
    ):
        single = System(network, *half, targets, loss=loss, reduction="mean", chunk=chunk)
        double = single.as_float64()
        assert double.double
        assert double.as_float64() is double
        assert (double.loss, double.reduction, double.chunk) == (loss, "mean", chunk)
        assert np.array_equal(double.flat, single.flat.astype(np.float64))
        assert double.value() == pytest.approx(single.value(), rel=1e-5)
        step = np.zeros(P)
        step[0] = 1e-9  # lost in single precision
        assert double.value(double.flat + step) != double.value()
    assert System(normalized, *half, mixes_examples=True).as_float64().mixes_examples
    assert System(network, *half).as_float64().y is None


@pytest.mark.parametrize("name", ["hvp", "ggn_mv", "output_curvature"])
def test_curvature_of_the_loss_needs_targets_and_that_of_the_outputs_does_not(name):
    system = System(network, parameters(), inputs())
    with pytest.raises(ValueError, match="targets"):
        getattr(system, name)(*OPERATORS[name])
    close(system.kernel_mv(Z, W), make().kernel_mv(Z, W))
    close(system.second_adjoint(Z, U, W), make().second_adjoint(Z, U, W))


@pytest.mark.parametrize("name", [name for name, arguments in OPERATORS.items() if arguments])
def test_vectors_that_do_not_fit_are_refused(name):
    arguments = OPERATORS[name]
    for i in range(len(arguments)):
        wrong = [*arguments[:i], arguments[i][:-1], *arguments[i + 1 :]]
        with pytest.raises(ShapeError, match="must be a flat vector of"):
            getattr(make(), name)(*wrong)
    with pytest.raises(ShapeError, match="`w`"):
        getattr(make(), name)(*arguments, w=W[:-1])


# Programs are shared, data are not.


def test_systems_of_one_function_and_one_shape_share_their_programs_and_never_their_data():
    traces = []

    def counted(params, x):
        traces.append(1)
        return network(params, x)

    params, x = parameters(), inputs()
    other = {"image": x["image"][::-1] * 2, "scale": x["scale"] + 1}
    first = System(counted, params, x, TARGETS, chunk=4)
    made = len(traces)  # to see the shape of the outputs
    results = {name: getattr(first, name)(*OPERATORS[name]) for name in SOME}
    before = len(traces)
    second = System(counted, jax.tree.map(lambda a: 3 * a, params), other, TARGETS + 1, chunk=4)
    fresh = System(network, jax.tree.map(lambda a: 3 * a, params), other, TARGETS + 1)
    assert len(traces) == before + made
    for name in SOME:
        arguments = OPERATORS[name]
        np.testing.assert_allclose(
            getattr(second, name)(*arguments), getattr(fresh, name)(*arguments), rtol=1e-12, atol=1e-10, err_msg=name
        )
        assert np.array_equal(getattr(first, name)(*arguments), results[name]), name
    assert len(traces) == before + made


def test_another_loss_reduction_or_chunk_is_another_program():
    values = {
        "sum": make().value(),
        "mean": make(reduction="mean").value() * N,
        "callable": make(loss="callable").value(),
        "chunk": make(chunk=2).value(),
    }
    r = np.asarray(network(parameters(), inputs())) - TARGETS
    assert values["sum"] == pytest.approx(np.sum(r**2) / 2, rel=1e-5)
    assert values["mean"] == pytest.approx(values["sum"], rel=1e-13)
    assert values["chunk"] == pytest.approx(values["sum"], rel=1e-13)
    assert values["callable"] == pytest.approx(np.sum(np.log(np.cosh(r))), rel=1e-5)
