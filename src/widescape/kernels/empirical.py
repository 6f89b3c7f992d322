"""Kernels of finite networks: the empirical tangent kernel and the empirical NNGP kernel of any function."""

from collections.abc import Callable
from typing import Any, Literal, overload

import numpy as np

from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.precision import is_traced
from widescape.curvature import System, TangentPlan, tangent_vector_product
from widescape.curvature.factors import Outputs
from widescape.curvature.plan import Method
from widescape.curvature.request import Trainable
from widescape.curvature.tangent import evaluate, prepare, traced_kernel

Function = Callable[[Any, Any], Any]


@overload
def empirical_ntk(f: Function | System, params: Any = None, x1: Any = None, x2: Any = None, *, method: Method = "auto",
                  outputs: Outputs = "trace", trainable: Trainable = None, mixes_examples: bool = False,
                  budget_gb: float | None = None, progress: bool | None = None,
                  plan: Literal[False] = False) -> np.ndarray: ...  # fmt: skip
@overload
def empirical_ntk(f: Function | System, params: Any = None, x1: Any = None, x2: Any = None, *, method: Method = "auto",
                  outputs: Outputs = "trace", trainable: Trainable = None, mixes_examples: bool = False,
                  budget_gb: float | None = None, progress: bool | None = None,
                  plan: Literal[True]) -> TangentPlan: ...  # fmt: skip
def empirical_ntk(
    f: Function | System,
    params: Any = None,
    x1: Any = None,
    x2: Any = None,
    method: Method = "auto",
    outputs: Outputs = "trace",
    *,
    trainable: Trainable = None,
    mixes_examples: bool = False,
    budget_gb: float | None = None,
    progress: bool | None = None,
    plan: bool = False,
) -> np.ndarray | TangentPlan:
    """The empirical neural tangent kernel of any function of parameters and examples.

    Theta[n, n', o, o'] = sum over parameters p of (d f_o(x_n) / d p) (d f_o'(x'_n') / d p), for ``"full"``; its
    diagonal o = o' for ``"diag"``; the mean of that diagonal for ``"trace"``. No factor of the loss enters.

    Three methods give the same kernel, to rounding:

    ``"jacobian"``
        Rows of the Jacobian, chunk by chunk, contracted. Any function.
    ``"ntvp"``
        Every output direction of every example is pulled back and pushed forward. Any function; holds no
        row for longer than one chunk, and wins for full kernels of many outputs whose forward pass is cheap.
    ``"structured"``
        Weights that meet the example in one matrix product or convolution, and are used nowhere else, are
        contracted through their factors: for a dense layer the elementwise product of two small Gram matrices
        (novak2022fast). Such weights are found by reading the function's program, in our own layers and
        in plain JAX code alike; all other parameters (biases, shared weights) go through their rows.

    ``"auto"`` takes the cheapest by a count of operations; ``plan=True`` returns it.

    Computed in float64 if the parameters or inputs hold float64 arrays, whatever the process-wide flag says, else in
    their own precision. Inside `jax.jit` and other transformations it returns a traced array, in one piece.

    Args:
        f: maps (params, x) to outputs (n,) or (n, c), each output a function of its own example; or a `System`,
            whose parameters and data are then the defaults. It is compiled once for all calls, so what it reads
            beside its arguments must not change.
        params: a PyTree of real arrays.
        x1: examples (n1, ...), an array or a PyTree with examples along the first axis.
        x2: examples (n2, ...); None stands for `x1`, of which only one half is computed and mirrored.
        method: how to compute it.
        outputs: which entries.
        trainable: which parameters count: a function of a leaf's path (a string such as ``"[0]['w']"``), or a PyTree of
            booleans that is a prefix of `params`; None for all. The others are constants.
        mixes_examples: the output of an example depends on the others of its batch, as with batch
            normalization in training mode; `x1` and `x2` are then one batch each.
        budget_gb: memory for everything beyond the inputs, in units of 2^30 bytes; None for half of what is free.
        progress: show a progress bar; None shows it on a terminal.
        plan: return a `TangentPlan` and compute nothing.

    Returns:
        (n1, n2) for ``"trace"``, (n1, n2, c) for ``"diag"``, (n1, n2, c, c) for ``"full"``.

    Raises:
        ShapeError, DtypeError: arguments that do not fit.
        ValueError: ``"structured"`` where nothing has structure; entries that are not finite.
        MemoryBudgetError: not even the smallest chunk fits; names what is needed.
        NonFiniteError: the kernel overflows.

    Cost: with n examples, c outputs, p parameters and a forward pass of F flops, n c (F + p) + n^2 c p for the
    Jacobian's trace (n^2 c^2 p for the full kernel), n^2 c F for products, n c F + n^2 c (widths) for dense layers
    with structure.

    Example:
        >>> w, x = np.array([1.0, -2.0]), np.array([[1.0, 2.0], [0.0, 3.0]])
        >>> empirical_ntk(lambda w, x: x @ w, w, x).tolist()
        [[5.0, 6.0], [6.0, 9.0]]
    """
    mixes_examples = mixes_examples or (isinstance(f, System) and f.mixes_examples)
    f, params, x1 = _unpacked(f, params, x1)
    checks.choice(method, "method", Method)
    checks.choice(outputs, "outputs", Outputs)
    if is_traced(params, x1, x2):
        if budget_gb is not None or plan:
            raise ValueError("inside a JAX transformation there is no budget and no plan; call it outside.")
        return traced_kernel(f, params, x1, x2, method, outputs, trainable, mixes_examples)
    prepared = prepare(
        f,
        params,
        x1,
        x2,
        method=method,
        outputs=outputs,
        trainable=trainable,
        mixes_examples=mixes_examples,
        budget_gb=budget_gb,
    )
    return prepared.plan if plan else prepared.run(progress)


def empirical_nngp(f: Function | System, params: Any = None, x1: Any = None, x2: Any = None) -> np.ndarray:
    """The empirical NNGP kernel f(x) f(x')^T / c, averaged over the c outputs.

    Its mean over random parameters of an infinitely wide network is the NNGP kernel.

    Args:
        f: as for `empirical_ntk`.
        params: likewise.
        x1: likewise.
        x2: likewise.

    Returns:
        (n1, n2), in float64 if parameters or inputs hold float64 arrays.

    Raises:
        ShapeError, DtypeError: arguments that do not fit.
        NonFiniteError: outputs are not finite.

    Cost: one forward pass of each batch, 2 n1 n2 c flops.

    Example:
        >>> empirical_nngp(lambda w, x: x @ w, np.array([2.0, 0.0]), np.eye(2)).tolist()
        [[4.0, 0.0], [0.0, 0.0]]
    """
    f, params, x1 = _unpacked(f, params, x1)
    first = evaluate(f, params, x1)
    second = first if x2 is None else evaluate(f, params, x2)
    if first.shape[1] != second.shape[1]:
        raise ShapeError(f"`f` gives {first.shape[1]} outputs at `x1` and {second.shape[1]} at `x2`.")
    product: np.ndarray = first @ second.T / first.shape[1]
    return product


def ntk_vector_product(
    f: Function | System, params: Any = None, x1: Any = None, x2: Any = None, *, trainable: Trainable = None
) -> Callable[[Any], np.ndarray]:
    """The full tangent kernel times a vector, without the kernel: v -> J(x1) J(x2)^T v.

    Args:
        f: as for `empirical_ntk`; it may mix examples.
        params: likewise.
        x1: likewise.
        x2: likewise.
        trainable: likewise.

    Returns:
        a function of `v`, shaped like the outputs at `x2`, that returns an array shaped like the outputs at `x1`.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: each product takes about three forward passes at `x2` and two at `x1`; compiled once.

    Example:
        >>> w, x = np.array([1.0, -2.0]), np.array([[1.0, 2.0], [0.0, 3.0]])
        >>> ntk_vector_product(lambda w, x: x @ w, w, x)(np.array([1.0, 0.0])).tolist()
        [5.0, 6.0]
    """
    f, params, x1 = _unpacked(f, params, x1)
    return tangent_vector_product(f, params, x1, x2, trainable=trainable)


def _unpacked(f: Any, params: Any, x1: Any) -> tuple[Function, Any, Any]:
    """The function, parameters and inputs, from a `System` where one is given."""
    if isinstance(f, System):
        return f.f, f.params if params is None else params, f.x if x1 is None else x1
    if params is None or x1 is None:
        raise TypeError("give `params` and `x1`, or a System in the place of `f`.")
    return f, params, x1
