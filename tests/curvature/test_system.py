"""A System agrees with dense mathematics: values, derivatives and adjoints of any function of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import logsumexp

from widescape.core.errors import DtypeError, NonFiniteError, ShapeError
from widescape.curvature import System

N, D, K, C = 5, 3, 4, 2
P = D * K + K * C


def mlp(params, x):
    return jnp.tanh(x @ params["A"]) @ params["B"]


def data(seed=0):
    rng = np.random.default_rng(seed)
    params = {"A": rng.normal(size=(D, K)), "B": rng.normal(size=(K, C))}
    return params, rng.normal(size=(N, D)), rng.normal(size=(N, C)), rng.integers(0, C, N)


def dense(w, x):
    """Outputs (n, c) and their Jacobian (n, c, p), written out by hand."""
    A, B = w[: D * K].reshape(D, K), w[D * K :].reshape(K, C)
    h = np.tanh(x @ A)
    J = np.zeros((len(x), C, len(w)))
    for i in range(len(x)):
        for o in range(C):
            J[i, o, : D * K] = np.outer(x[i], (1 - h[i] ** 2) * B[:, o]).ravel()
            for j in range(K):
                J[i, o, D * K + j * C + o] = h[i, j]
    return h @ B, J


def square(reduction="sum"):
    params, x, y, _ = data()
    return System(mlp, params, x, y, reduction=reduction)


def classifier(reduction="sum"):
    params, x, _, labels = data()
    return System(mlp, params, x, labels, loss="cross_entropy", reduction=reduction)


SQUARE = {reduction: square(reduction) for reduction in ("sum", "mean")}
ENTROPY = {reduction: classifier(reduction) for reduction in ("sum", "mean")}
reductions = pytest.mark.parametrize("reduction", ["sum", "mean"])
VECTORS = hnp.arrays(np.float64, (P,), elements=st.floats(-3, 3))
OUTPUTS = hnp.arrays(np.float64, (N, C), elements=st.floats(-3, 3))


def weight(reduction):
    return 1 / N if reduction == "mean" else 1.0


def central_differences(function, w, step=1e-6):
    basis = np.eye(len(w)) * step
    return np.array([(function(w + e) - function(w - e)) / (2 * step) for e in basis])


# Against dense references.


def test_sizes_and_the_flat_vector_are_those_of_the_parameters():
    params, x, *_ = data()
    system = System(mlp, params, x)
    assert (system.num_examples, system.num_outputs, system.num_params) == (N, C, P)
    assert np.array_equal(system.flat, np.concatenate([params["A"].ravel(), params["B"].ravel()]))


@given(VECTORS)
@settings(deadline=None, max_examples=20)
def test_outputs_are_those_of_the_function(w):
    assert np.allclose(SQUARE["sum"].F(w), dense(w, data()[1])[0], rtol=0, atol=1e-13)


@reductions
@given(w=VECTORS)
@settings(deadline=None, max_examples=20)
def test_the_square_loss_is_half_the_squared_residual_and_its_gradient_the_jacobian_on_it(reduction, w):
    _, x, y, _ = data()
    F, J = dense(w, x)
    r = ((F - y) * weight(reduction) ** 0.5).ravel()
    system = SQUARE[reduction]
    assert np.allclose(system.residual(w), r, rtol=0, atol=1e-12)
    assert np.isclose(system.value(w), r @ r / 2, rtol=1e-12, atol=0)
    gradient = weight(reduction) * np.einsum("nc,ncp->p", F - y, J)
    assert np.allclose(system.grad(w), gradient, rtol=0, atol=1e-11)


@reductions
@given(w=VECTORS)
@settings(deadline=None, max_examples=20)
def test_cross_entropy_is_logsumexp_minus_the_logit_and_its_gradient_softmax_minus_one_hot(reduction, w):
    _, x, _, labels = data()
    F, J = dense(w, x)
    loss = np.sum(logsumexp(F, axis=1) - F[np.arange(N), labels])
    slope = np.exp(F - logsumexp(F, axis=1, keepdims=True)) - np.eye(C)[labels]
    system = ENTROPY[reduction]
    assert np.isclose(system.value(w), weight(reduction) * loss, rtol=1e-12, atol=1e-14)
    assert np.allclose(system.grad(w), weight(reduction) * np.einsum("nc,ncp->p", slope, J), rtol=0, atol=1e-12)


@given(VECTORS, VECTORS, OUTPUTS)
@settings(deadline=None, max_examples=20)
def test_forward_and_backward_products_are_those_with_the_jacobian_and_adjoint(w, v, z):
    _, J = dense(w, data()[1])
    system = SQUARE["sum"]
    forward, backward = system.jvp(v, w), system.vjp(z, w)
    assert forward.shape == (N, C)
    assert np.allclose(forward, J @ v, rtol=0, atol=1e-11)
    assert np.allclose(backward, np.einsum("nc,ncp->p", z, J), rtol=0, atol=1e-11)
    assert np.isclose(np.sum(forward * z), v @ backward, rtol=1e-11, atol=1e-10)
    assert np.array_equal(system.vjp(z.ravel(), w), backward)


@reductions
def test_gradients_are_central_differences_of_the_loss(reduction):
    for system in (SQUARE[reduction], ENTROPY[reduction]):
        assert np.allclose(system.grad(), central_differences(system.value, system.flat), rtol=0, atol=1e-8)


def test_without_a_point_everything_is_at_the_given_parameters():
    system, entropy = SQUARE["sum"], ENTROPY["sum"]
    v, z = np.arange(P) / P, np.ones((N, C))
    for name, arguments in (("F", ()), ("residual", ()), ("value", ()), ("grad", ()), ("jvp", (v,)), ("vjp", (z,))):
        method = getattr(system, name)
        assert np.array_equal(method(*arguments), method(*arguments, w=system.flat)), name
    assert entropy.value() == entropy.value(entropy.flat)


@reductions
def test_a_callable_loss_is_the_loss_of_one_example(reduction):
    params, x, y, labels = data()
    own_square = System(mlp, params, x, y, loss=lambda o, t: jnp.sum((o - t) ** 2) / 2, reduction=reduction)
    own_entropy = System(
        mlp, params, x, labels, loss=lambda o, t: -jnp.take(jax.nn.log_softmax(o), t), reduction=reduction
    )
    for own, known in ((own_square, SQUARE[reduction]), (own_entropy, ENTROPY[reduction])):
        assert own.value() == pytest.approx(known.value(), rel=1e-14)
        assert np.allclose(own.grad(), known.grad(), rtol=0, atol=1e-13)


def test_a_function_with_one_output_per_example_has_flat_outputs():
    params, x, y, _ = data()
    one = System(lambda p, x: mlp(p, x)[:, 0], params, x, y[:, 0])
    F, J = dense(one.flat, x)
    assert one.num_outputs == 1
    assert np.allclose(one.F(), F[:, 0], rtol=0, atol=1e-13)
    assert np.allclose(one.grad(), (F - y)[:, 0] @ J[:, 0], rtol=0, atol=1e-12)
    assert one.jvp(np.ones(P)).shape == (N,)
    assert np.allclose(one.vjp(np.ones(N)), J[:, 0].sum(axis=0), rtol=0, atol=1e-12)


def test_a_single_example_and_a_single_parameter_are_enough():
    system = System(lambda w, x: w * x, np.array([3.0]), np.array([2.0]), np.array([1.0]))
    assert (system.value(), system.grad().tolist()) == (12.5, [10.0])
    assert System(lambda w, x: w * x, np.float64(3), np.array([2.0])).F().tolist() == [6.0]


# Parameters and inputs of any structure.

NESTINGS = {
    "tuple": (lambda A, B: (A, B), lambda p: {"A": p[0], "B": p[1]}),
    "layers": (
        lambda A, B: {"first": [{"weight": A}], "second": (None, (B,))},
        lambda p: {"A": p["first"][0]["weight"], "B": p["second"][1][0]},
    ),
    "rows": (lambda A, B: [list(A), list(B)], lambda p: {"A": jnp.stack(p[0]), "B": jnp.stack(p[1])}),
    "flat": (
        lambda A, B: np.concatenate([A.ravel(), B.ravel()]),
        lambda p: {"A": p[: D * K].reshape(D, K), "B": p[D * K :].reshape(K, C)},
    ),
}


@pytest.mark.parametrize("nesting", NESTINGS)
def test_differently_nested_parameters_give_the_same_numbers(nesting):
    pack, unpack = NESTINGS[nesting]
    params, x, y, _ = data()
    system = System(lambda p, x: mlp(unpack(p), x), pack(params["A"], params["B"]), x, y)
    known = SQUARE["sum"]
    v, z = np.linspace(-1, 1, P), np.linspace(-1, 1, N * C).reshape(N, C)
    assert np.array_equal(system.flat, known.flat)
    for a, b in (
        (system.value(), known.value()),
        (system.F(), known.F()),
        (system.grad(), known.grad()),
        (system.jvp(v), known.jvp(v)),
        (system.vjp(z), known.vjp(z)),
    ):
        assert np.allclose(a, b, rtol=0, atol=1e-13)


def test_unraveling_undoes_flattening():
    params, x, *_ = data()
    system = System(mlp, params, x)
    again = system.unravel(2 * system.flat)
    assert sorted(again) == ["A", "B"]
    for name, leaf in params.items():
        assert np.array_equal(again[name], 2 * leaf)
        assert np.asarray(again[name]).dtype == np.float64


def test_unraveled_parameters_are_arrays_of_numpy_as_all_results():
    system = SQUARE["sum"]
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(system.unravel(system.flat)))


def test_inputs_may_be_trees_with_examples_first():
    params, x, y, _ = data()
    scales = np.linspace(1, 2, N)
    inputs = {"image": x, "scale": scales, "index": np.arange(N)}
    system = System(lambda p, i: mlp(p, i["image"]) * i["scale"][:, None], params, inputs, y)
    F = dense(system.flat, x)[0] * scales[:, None]
    assert np.isclose(system.value(), np.sum((F - y) ** 2) / 2, rtol=1e-13)


# Precision.

ALL_DOUBLE = [
    ("params", np.float64, np.float32),
    ("x", np.float32, np.float64),
    ("both", np.float64, np.float64),
]


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize(("which", "params_dtype", "x_dtype"), ALL_DOUBLE)
def test_everything_is_float64_if_parameters_or_inputs_are(which, params_dtype, x_dtype, flag):
    params, x, y, _ = data()
    params, x = jax.tree.map(lambda a: a.astype(params_dtype), params), x.astype(x_dtype)
    with jax.enable_x64(flag):
        system = System(mlp, params, x, y)
        results = {
            "F": system.F(),
            "jvp": system.jvp(np.ones(P)),
            "vjp": system.vjp(np.ones((N, C))),
            "grad": system.grad(),
        }
        assert jnp.ones(1).dtype == (jnp.float64 if flag else jnp.float32)
    assert {name: result.dtype.name for name, result in results.items()} == dict.fromkeys(results, "float64")
    w = np.concatenate([params["A"].ravel(), params["B"].ravel()]).astype(np.float64)
    F, J = dense(w, x.astype(np.float64))
    assert np.allclose(results["F"], F, rtol=0, atol=1e-13)
    assert np.allclose(results["grad"], np.einsum("nc,ncp->p", F - y, J), rtol=0, atol=1e-12)


def test_one_double_among_the_parameters_makes_all_double():
    params, x, y, _ = data()
    mixed = {"A": params["A"].astype(np.float32), "B": params["B"]}
    system = System(mlp, mixed, x.astype(np.float32), y)
    step = np.zeros(P)
    step[0] = 1e-9  # far below the resolution of float32
    change = (system.F(system.flat + step) - system.F()) / 1e-9
    assert np.allclose(change, system.jvp(step / 1e-9), rtol=0, atol=1e-5)


@pytest.mark.parametrize("flag", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_lower_precision_stays_what_it_is(dtype, flag):
    params, x, y, _ = data()
    with jax.enable_x64(flag):
        params = jax.tree.map(lambda a: jnp.asarray(a, dtype), params)
        system = System(mlp, params, jnp.asarray(x, dtype), np.asarray(jnp.asarray(y, dtype)))
        results = (system.flat, system.F(), system.grad(), system.jvp(np.ones(P)), system.vjp(np.ones((N, C))))
    assert [a.dtype.name for a in results] == [dtype] * 5
    assert all(type(a) is np.ndarray for a in results)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_function_sees_the_precision_of_its_system_as_the_default(dtype):
    seen = []

    def f(w, x):
        seen.append(jnp.ones(1).dtype.name)
        return x * w

    with jax.enable_x64(False):
        System(f, np.ones(1, dtype), np.ones(1, dtype), np.ones(1, dtype)).grad()
    assert seen == [dtype] * len(seen)
    assert len(seen) >= 2


def test_float32_agrees_with_float64_to_its_own_rounding():
    params, x, y, _ = data()
    single = System(mlp, jax.tree.map(np.float32, params), np.float32(x), y)
    assert np.allclose(single.grad(), SQUARE["sum"].grad(), rtol=1e-4, atol=1e-4)


# Tracing, and what the system holds on to.


def test_nothing_is_traced_again_at_another_point_or_along_another_vector():
    traces = []

    def counted(params, x):
        traces.append(1)
        return mlp(params, x)

    params, x, y, _ = data()
    system = System(counted, params, x, y)
    assert len(traces) == 1  # the shape of the outputs
    calls = {
        "value": lambda s: system.value(s * system.flat),
        "grad": lambda s: system.grad(s * system.flat),
        "F": lambda s: system.F(list(s * system.flat)),
        "residual": lambda s: system.residual(s * system.flat),
        "jvp": lambda s: system.jvp(np.full(P, s), s * system.flat),
        "vjp": lambda s: system.vjp(np.full((N, C), s)),
    }
    system.grad()
    for name, call in calls.items():
        call(1.0)
        before = len(traces)
        call(2.0)
        call(3.0)
        assert len(traces) == before, name


def test_two_systems_of_one_function_keep_their_own_data():
    params, x, y, _ = data()
    first, second = System(mlp, params, x, y), System(mlp, params, 2 * x, y)
    first.value()
    assert np.isclose(second.value(), np.sum((dense(second.flat, 2 * x)[0] - y) ** 2) / 2, rtol=1e-13)
    assert first.value() == SQUARE["sum"].value()


@pytest.mark.parametrize("which", ["params", "x", "y", "labels"])
def test_changing_an_argument_afterwards_changes_nothing(which):
    params, x, y, labels = data()
    loss = "cross_entropy" if which == "labels" else "square"
    system = System(mlp, params, x, labels if which == "labels" else y, loss=loss)
    known = (ENTROPY if which == "labels" else SQUARE)["sum"]
    changed = {"params": params["A"], "x": x, "y": y, "labels": labels}[which]
    changed[...] = 0
    assert np.allclose(system.grad(), known.grad(), rtol=0, atol=1e-13)
    assert system.value() == pytest.approx(known.value(), rel=1e-13)


# Refusals.


@pytest.mark.parametrize(
    "leaf", [1, True, np.arange(3), np.ones(3, bool), np.ones(3, complex), "text", np.array([None])], ids=repr
)
def test_parameters_that_are_not_real_floating_point_are_refused_by_place(leaf):
    with pytest.raises(DtypeError, match=r"params\['a'\]\[1\]"):
        System(lambda p, x: x, {"a": [np.ones(2), leaf]}, np.ones(3))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_parameters_inputs_and_targets_that_are_not_finite_are_refused(bad):
    params, x, y, _ = data()
    broken = np.array([[1.0, bad]])
    with pytest.raises(ValueError, match=r"`params\['B'\]` has 1 entries .* at \(0, 1\)"):
        System(mlp, params | {"B": broken}, x, y)
    with pytest.raises(ValueError, match=r"`x.*` has 1 entries"):
        System(lambda p, i: i["a"], params, {"a": np.ones(1), "b": broken}, None)
    with pytest.raises(ValueError, match="`y` has 1 entries"):
        System(mlp, params, x, np.where(np.arange(N * C).reshape(N, C) == 3, bad, y))


@pytest.mark.parametrize("params", [{}, (), None, {"a": None}], ids=repr)
def test_a_system_without_parameters_is_refused(params):
    with pytest.raises(ShapeError, match="params"):
        System(lambda p, x: x, params, np.ones(3))


@pytest.mark.parametrize(
    "x",
    [np.ones((0, D)), {}, None, 1.0, {"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones(2), "b": 1.0}],
    ids=["empty", "no leaves", "none", "scalar", "different", "scalar leaf"],
)
def test_inputs_without_a_common_number_of_examples_are_refused(x):
    with pytest.raises(ShapeError, match="`x`"):
        System(lambda p, x: jnp.ones(2), np.ones(2), x)


@pytest.mark.parametrize(
    "f",
    [
        lambda p, x: jnp.sum(x),
        lambda p, x: x[:-1] @ p,
        lambda p, x: jnp.zeros((N, 2, 2)),
        lambda p, x: (x @ p).T,
        lambda p, x: (x @ p, x),
        lambda p, x: None,
        lambda p, x: {"logits": x @ p},
    ],
    ids=["scalar", "too few", "three axes", "transposed", "tuple", "nothing", "dict"],
)
def test_functions_that_do_not_return_one_row_per_example_are_refused(f):
    with pytest.raises((ShapeError, TypeError), match="`f`"):
        System(f, np.ones((D, C)), np.ones((N, D)))


def test_functions_with_outputs_that_are_not_real_are_refused():
    with pytest.raises((DtypeError, TypeError), match="`f`"):
        System(lambda p, x: jnp.argmax(x @ p, axis=1), np.ones((D, C)), np.ones((N, D)))


@pytest.mark.parametrize("shape", [(N,), (N, 1), (C, N), (N - 1, C), ()])
def test_targets_of_another_shape_than_the_outputs_are_refused(shape):
    params, x, *_ = data()
    with pytest.raises(ShapeError, match=r"`y`"):
        System(mlp, params, x, np.ones(shape))


def test_integer_targets_of_the_square_loss_are_refused():
    params, x, *_ = data()
    with pytest.raises(DtypeError, match="`y`"):
        System(mlp, params, x, np.ones((N, C), int))


@pytest.mark.parametrize(
    "y", [np.zeros(N), np.zeros(N - 1, int), np.zeros((N, C), int), np.zeros(N, bool), 0], ids=repr
)
def test_labels_are_integers_one_for_each_example(y):
    params, x, *_ = data()
    with pytest.raises(ShapeError, match="`y`"):
        System(mlp, params, x, y, loss="cross_entropy")


@pytest.mark.parametrize("label", [-1, C])
def test_labels_without_a_logit_are_refused(label):
    params, x, _, labels = data()
    with pytest.raises(ValueError, match=rf"`y` runs from .* lie in 0 \.\.\. {C - 1}"):
        System(mlp, params, x, np.where(np.arange(N) == 2, label, labels), loss="cross_entropy")


def test_cross_entropy_of_a_single_flat_output_is_refused():
    params, x, _, labels = data()
    with pytest.raises(ShapeError, match="logits"):
        System(lambda p, x: mlp(p, x)[:, 0], params, x, labels, loss="cross_entropy")


@pytest.mark.parametrize("y", [np.ones(N + 1), 3.0, np.ones((1, N))], ids=["long", "scalar", "transposed"])
def test_targets_of_a_callable_loss_are_one_for_each_example(y):
    params, x, *_ = data()
    with pytest.raises(ShapeError, match="`y`"):
        System(mlp, params, x, y, loss=lambda o, t: jnp.sum(o) * jnp.sum(t))


def test_unknown_losses_and_reductions_are_refused_and_the_known_ones_listed():
    params, x, y, _ = data()
    with pytest.raises(ValueError, match="'hinge'; choose one of 'square', 'cross_entropy'"):
        System(mlp, params, x, y, loss="hinge")
    with pytest.raises(ValueError, match="'max'; choose one of 'sum', 'mean'"):
        System(mlp, params, x, y, reduction="max")


def test_residuals_belong_to_the_square_loss():
    params, x, y, _ = data()
    for system in (ENTROPY["sum"], System(mlp, params, x, y, loss=lambda o, t: jnp.sum(o - t))):
        with pytest.raises(ValueError, match="square"):
            system.residual()


@pytest.mark.parametrize("name", ["value", "grad", "residual"])
def test_losses_need_targets_and_derivatives_of_outputs_do_not(name):
    params, x, *_ = data()
    system = System(mlp, params, x)
    with pytest.raises(ValueError, match="targets"):
        getattr(system, name)()
    assert np.array_equal(system.jvp(np.ones(P)), SQUARE["sum"].jvp(np.ones(P)))


@pytest.mark.parametrize("method", ["F", "value", "grad", "residual", "unravel", "jvp"])
@pytest.mark.parametrize("shape", [(P + 1,), (P - 1,), (1, P), (), (0,)])
def test_vectors_of_the_wrong_length_are_refused(method, shape):
    with pytest.raises(ShapeError, match=f"must be a flat vector of {P} entries"):
        getattr(SQUARE["sum"], method)(np.ones(shape))


@pytest.mark.parametrize("shape", [(N * C + 1,), (N, C + 1), (C, N), (N, 1, C), ()])
def test_cotangents_are_shaped_like_the_outputs_or_flat(shape):
    with pytest.raises(ShapeError, match="`z`"):
        SQUARE["sum"].vjp(np.ones(shape))


@pytest.mark.parametrize("method", ["F", "grad", "jvp"])
def test_vectors_of_integers_or_with_nan_are_refused(method):
    with pytest.raises(DtypeError):
        getattr(SQUARE["sum"], method)(np.ones(P, int))
    with pytest.raises(ValueError, match="NaN or infinite"):
        getattr(SQUARE["sum"], method)(np.full(P, np.nan))


def test_an_overflow_is_an_error_and_not_a_nan():
    system = System(lambda w, x: jnp.exp(w * x), np.array([1.0]), np.array([1.0]), np.array([0.0]))
    with pytest.raises(NonFiniteError):
        system.F(np.array([1e4]))
    with pytest.raises(NonFiniteError):
        system.grad(np.array([400.0]))
    assert system.F(np.array([0.0])).tolist() == [1.0]
