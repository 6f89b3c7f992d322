"""The certificate of convergence: PL* on a ball, from the kernel at its center and the curvature inside."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from widescape.arch.base import network_of
from widescape.core import checks
from widescape.core.errors import NonSmoothWarning, NotCertifiable, ShapeError, UnderparameterizedWarning
from widescape.core.evidence import EXACT, Evidence, bound, certified, sampled
from widescape.core.random import named_generator, named_key
from widescape.core.result import Result, quantity
from widescape.core.status import Status
from widescape.curvature import System
from widescape.curvature.inspection import kinks, lower_floats, reverse_only
from widescape.curvature.spectrum import SVD_ENTRIES, KernelSpectrum, SpectrumStatus, kernel_spectrum
from widescape.landscape.feasibility import Problem, Radius, Solution, solve, solve_integrated
from widescape.landscape.norm_propagation import NetworkBound, network_bound
from widescape.landscape.second_derivative import hessian_norm

HessianBound = float | Callable[[float], float]
_POINTS = 4  # of a ball, at which the curvature is searched where nobody bounds it
_SAFETY = 1.5  # on the searched curvature, which is too small
_ROUNDS = 4
_DIFFERENCE = 1e-5  # step of a central difference, in units of a parameter
_WELL_CONDITIONED = 1e-7  # lambda_min over lambda_max, above which the kernel itself resolves it to many digits

_RIGOROUS = certified(
    "the inequality of a trapping ball, with a proved curvature bound and the smallest eigenvalue less its rounding; "
    "of kernel and residual as computed in float64"
)
_LESS_ROUNDING = certified("of the kernel as computed in float64, less 4 N eps trace(K)")
_SAMPLED = sampled(f"the curvature is {_SAFETY} times the largest found at {_POINTS} points: no proof")


class CertificateStatus(Status):
    """What the certificate says."""

    OK = "Descent from here converges to zero loss inside the ball, at the rate."
    SAMPLED = "Descent from here converges as OK says, if the curvature that a search found is the true one: no proof."
    CURVED = "The outputs are too curved for the residual: no ball is known to trap descent (h > 1)."
    STEP = "No ball is known to trap descent at this learning rate or inside this radius, although h <= 1."
    SINGULAR = "The tangent kernel is singular up to rounding at this point, so nothing can be certified from here."
    RANK = "There are fewer parameters than residuals, so the tangent kernel is singular everywhere."


class Certificate(Result):
    """Whether gradient descent is guaranteed to fit the data from a point, how fast, and inside what ball.

    With K the tangent kernel, r the residual, |D^2 F| <= beta on the ball of radius R: there
    sigma_min(J) >= sqrt(lambda_min0) - R beta, so L is mu-PL* with mu its square, and descent never leaves the ball if
    that is wide enough.
    Where nothing is certified, mu is 0, the rate 1, lr_max 0 and the radius infinite: true, and empty. A certificate of
    gradient flow covers no learning rate: its ball is too small for descent, and lr_max is 0.
    """

    source = "liu2020loss"
    status: CertificateStatus = quantity(EXACT, "what the certificate says")
    certified: bool = quantity(_RIGOROUS, "whether a ball traps descent")
    rigorous: bool = quantity(EXACT, "whether the curvature bound is proved, not sampled")
    h: float = quantity(
        _RIGOROUS,
        "residual times curvature over what lambda_min allows: certified up to 1 (up to 2 at a small given lr)",
    )
    mu: float = quantity(_RIGOROUS, "PL* constant on the ball, a lower bound of lambda_min(K)")
    radius: float = quantity(_RIGOROUS, "radius of the ball that the parameters do not leave")
    lr_max: float = quantity(_RIGOROUS, "learning rate, 1/smoothness, up to which descent is covered; 0 for flow")
    rate: float = quantity(
        _RIGOROUS,
        "factor of the loss: 1 - mu/smoothness per step (or that of lr), exp(-2 mu) per unit of time for flow",
    )
    smoothness: float = quantity(
        _RIGOROUS, "bound of the loss's Hessian where, in the ball, the loss is at most that at the center"
    )
    curvature: float = quantity(_RIGOROUS, "bound of |D^2 F| on the ball")
    lambda_min0: float = quantity(_LESS_ROUNDING, "smallest eigenvalue of K at the center")
    kappa0: float = quantity(Evidence("exact", note="quotient of rounded eigenvalues"), "condition number of K there")
    residual: float = quantity(EXACT, "|r| at the center; the loss is half its square")
    lr: float | None = quantity(EXACT, "the learning rate that was asked about", default=None)
    flow: bool = quantity(EXACT, "gradient flow instead of descent")
    reason: str = quantity(EXACT, "why, in words")


def certify_pl_star(
    system: System,
    params: Any = None,
    *,
    hessian_bound: HessianBound | None = None,
    flow: bool = False,
    radius: Radius = "tight",
    lr: float | None = None,
    integrated: bool = False,
    assume_smooth: bool = False,
    key: jax.Array | None = None,
) -> Certificate:
    """Whether gradient descent on the square loss is guaranteed to reach zero loss from here.

    If c |r_0| <= R (sqrt(lambda_0) - R beta(R)) for some R, with lambda_0 the smallest eigenvalue of the tangent
    kernel, beta(R) a bound of |D^2 F| on the ball, c = 1 for gradient flow and 2 for descent at 1/smoothness, then L is
    mu-PL* on the ball with sqrt(mu) = sqrt(lambda_0) - R beta(R), a solution exists there, and
    L_t <= (1 - lr mu)^t L_0. h = c |r_0| / max_R R (sqrt(lambda_0) - R beta(R)) says how far that is; for a constant
    beta it is 4 c beta |r_0| / lambda_0. It does not change when parameters, or outputs and targets, are scaled.

    Computed in float64 whatever the system's own precision. What is certified is about the kernel and the residual as
    they come out of that: a function that loses all digits inside (1e15 + w - 1e15) is beyond it.

    Args:
        system: a function with square loss. Its outputs must be twice differentiable.
        params: where, as a PyTree or flat; None for the system's own parameters.
        hessian_bound: a proved bound of |D^2 F| on balls around `params`: a number for all radii, or a non-decreasing
            function of the radius (of the residuals: divided by sqrt(n) for the mean). None takes
            `network_bound` if the function is the `apply` of a `widescape.arch` network that it covers, and
            else 1.5 times what a search finds, which proves nothing (`rigorous` is False).
        flow: certify gradient flow, dw/dt = -grad L, instead of descent.
        radius: ``"tight"`` takes c |r_0| / sqrt(mu), ``"paper"`` 2 sqrt(2 smoothness L_0) / mu (liu2020loss).
        lr: a learning rate below 2/smoothness of descent, with c = 2 / (2 - lr smoothness); None for all up to
            1/smoothness. h is that of None either way.
        integrated: let the curvature add up along the path instead of taking its worst everywhere; h is then half of
            what it was for a constant bound.
        assume_smooth: vouch for a function that is written with maxima or choices and smooth nevertheless.
        key: of a search; `jax.random.key(0)` if None.

    Raises:
        NotCertifiable: another loss than the square; kinks; a function that computes in float32 inside.
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Warns:
        NonSmoothWarning: before it refuses a kinked function.
        UnderparameterizedWarning: fewer parameters than residuals.

    Cost: a tangent kernel, its eigenvalues (4/3 N^3), and 200 evaluations of the bound; below a lambda_min of 1e-7
    lambda_max also the singular values of J, if it is small. A search takes 3,500 to 10,000 forward passes more.

    Example:
        >>> A, y = np.array([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), np.ones(2)
        >>> linear = System(lambda w, x: x @ w, np.zeros(3), A, y)
        >>> found = certify_pl_star(linear, hessian_bound=0.0)
        >>> found.certified, round(found.mu, 6), round(found.radius, 6), round(found.rate, 6)
        (True, 1.0, 2.828427, 0.75)
    """
    double = _certifiable(system, assume_smooth=assume_smooth)
    point = double.vector(params)
    checks.choice(radius, "radius", Radius)
    if lr is not None:
        lr = checks.number(lr, "lr", "certify_pl_star")
        checks.positive(lr, "lr", "certify_pl_star")
        if flow:
            raise ValueError("gradient flow has no learning rate; leave out `lr`, or certify descent with flow=False.")
    if integrated and radius == "paper":
        raise ValueError("the radius of the paper has no integrated form; use radius='tight'.")
    _check_derivative(double, point)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnderparameterizedWarning)  # said below, once
        spectrum = _spectrum(double, point)
    residual = float(np.linalg.norm(double.residual(point)))
    known = {"residual": residual, "flow": flow, "lr": lr}
    if spectrum.status in (SpectrumStatus.RANK, SpectrumStatus.SINGULAR):
        return _hopeless(spectrum, known)

    def problem(curvature: HessianBound) -> Problem:
        lower = spectrum.lam_min_lower or 0.0
        return Problem(residual, lower, spectrum.lam_max, curvature, flow, lr, radius)

    solver = solve_integrated if integrated else solve
    curvature = _given(hessian_bound, double, point) if hessian_bound is not None else _own_bound(double, point)
    if curvature is not None:
        return _judged(solver(problem(curvature)), spectrum, known, rigorous=True)
    solution = _searched(double, point, lambda beta: solver(problem(beta)), key)
    return _judged(solution, spectrum, known, rigorous=False)


def two_layer_hessian_bound(X: Any, a: Any, sup_d2: float, m: int) -> float:  # noqa: N803
    """A bound of |D^2 F| for f = sum_r a_r sigma(w_r . x)/sqrt(m) with fixed a.

    Of the sum over examples; divide it by sqrt(n) for the mean. It is sup|sigma''| max|a_r| max|x_i| |X|/sqrt(m), where
    |X| is the largest singular value of the inputs. The same on every ball, since the weights do not enter.

    Args:
        X: inputs (n, d).
        a: output weights (m,), or one that all share.
        sup_d2: the largest absolute second derivative of sigma, 4/(3 sqrt(3)) for tanh.
        m: width, by whose root the outputs are divided.

    Raises:
        ShapeError, DtypeError, ValueError: arguments that do not fit.

    Cost: one singular value of X.

    Example:
        >>> round(two_layer_hessian_bound(np.eye(2), np.array([1.0, -1.0, 1.0, -1.0]), 0.5, 4), 6)
        0.25
    """
    inputs = checks.batch(X, "X")
    weights = checks.real_array(a, "a")
    checks.all_finite(weights, "a")
    checks.count(m, "m", "two_layer_hessian_bound")
    if weights.size not in (1, m):
        raise ShapeError(f"`a` has shape {weights.shape}, but the width `m` is {m}; give one output weight a neuron.")
    slope = checks.number(sup_d2, "sup_d2", "two_layer_hessian_bound")
    checks.not_negative(slope, "sup_d2", "two_layer_hessian_bound")
    longest = float(np.sqrt((inputs**2).sum(axis=1).max()))
    return slope * float(np.abs(weights).max()) * longest * float(np.linalg.norm(inputs, 2)) / m**0.5


def _certifiable(system: System, *, assume_smooth: bool) -> System:
    """The system in float64, refused where no certificate can exist."""
    system.require_targets()
    if system.loss != "square":
        raise NotCertifiable(
            "a certificate needs the square loss: its squared gradient is at least 2 mu times the loss. Cross entropy "
            "has no such mu. Track `pl_trajectory` instead, or train on one-hot targets with loss='square'."
        )
    found = () if assume_smooth else kinks(system)
    if found:
        warnings.warn(
            f"the function has kinks ({', '.join(found)}): its second derivative is zero almost everywhere and says "
            "nothing about how its Jacobian changes.",
            NonSmoothWarning,
            stacklevel=3,
        )
        raise NotCertifiable(
            f"the function is written with {', '.join(found)}, so its Jacobian may jump and no curvature bounds it. "
            "Use a smooth activation (tanh, GELU, softplus); if the function is smooth nevertheless, pass "
            "assume_smooth=True."
        )
    double = system.as_float64()
    lower = lower_floats(double)
    if lower:
        raise NotCertifiable(
            f"the function computes in lower precision inside ({lower[0]}); a certificate needs float64 throughout."
        )
    return double


def _spectrum(system: System, point: np.ndarray) -> KernelSpectrum:
    """Eigenvalues of the kernel; singular values of the Jacobian where the kernel's rounding would cost digits."""
    dense = kernel_spectrum(system, point, method="dense", progress=False)
    good = dense.lam_min > _WELL_CONDITIONED * dense.lam_max
    if good or system.num_residuals * system.num_params > SVD_ENTRIES:
        return dense
    return kernel_spectrum(system, point, method="svd", progress=False)


def _check_derivative(system: System, point: np.ndarray) -> None:
    """Refuse a function whose derivative rules are not those of its values, as behind a stopped gradient.

    Along d = J^T z / |J^T z|, in which frozen parameters do not move, z . F must change by |J^T z|.
    """
    z = named_generator(None, "derivative").standard_normal(system.num_residuals)
    pulled = system.vjp(z, point)
    slope = float(np.linalg.norm(pulled))
    if slope == 0:
        return
    step = _DIFFERENCE * max(1.0, float(np.linalg.norm(point)) / point.size**0.5)
    ahead, behind = (system.F(point + sign * step / slope * pulled).reshape(-1) for sign in (1, -1))
    rounding = float(np.abs(z) @ np.abs(ahead)) * np.finfo(np.float64).eps / step
    if abs(float(z @ (ahead - behind)) / (2 * step) - slope) > 1e-2 * slope + 100 * rounding:
        raise NotCertifiable(
            "the derivative of the function is not the change of its values (a stopped gradient, or a rule of its "
            "own): descent along it promises nothing."
        )


def _own_bound(system: System, point: np.ndarray) -> HessianBound | None:
    net = network_of(system.f)
    if net is None:
        return None
    try:
        return network_bound(net, system.unravel(point), system.x, reduction=system.reduction)
    except NotCertifiable:  # layers without a bound; the search takes over and says that it proves nothing
        return None


def _given(hessian_bound: HessianBound, system: System, point: np.ndarray) -> HessianBound:
    if isinstance(hessian_bound, NetworkBound):
        hessian_bound.require_center(system.unravel(point), system.x, system.reduction)
    if callable(hessian_bound):
        return hessian_bound
    value = checks.number(hessian_bound, "hessian_bound", "certify_pl_star")
    checks.not_negative(value, "hessian_bound", "certify_pl_star")
    return value


def _searched(
    system: System, point: np.ndarray, solver: Callable[[float], Solution], key: jax.Array | None
) -> Solution:
    """A solution with the largest curvature found on a sphere as large as its own radius."""
    backward = reverse_only(system)
    if backward:
        raise NotCertifiable(
            f"the function holds a {backward}, which has no forward derivative, so its curvature cannot be searched; "
            "give `hessian_bound`."
        )
    root = named_key(jax.random.key(0) if key is None else key, "certificate")
    generator = named_generator(root, "points")
    most = float(hessian_norm(system, point, key=root))
    solution, reach = solver(_SAFETY * most), 0.0
    for turn in range(_ROUNDS):
        if solution.radius is None or solution.radius <= reach:
            break
        reach = solution.radius
        for i in range(_POINTS):
            direction = generator.standard_normal(point.size)
            away = point + reach * direction / np.linalg.norm(direction)
            most = max(most, float(hessian_norm(system, away, restarts=1, key=named_key(root, turn, i))))
        solution = solver(_SAFETY * most)
    return solution


def _judged(solution: Solution, spectrum: KernelSpectrum, known: dict[str, Any], *, rigorous: bool) -> Certificate:
    names = ("certified", "h", "mu", "radius", "lr_max", "rate", "smoothness", "curvature")
    stands: dict[str, Evidence] = {} if rigorous else dict.fromkeys(names, _SAMPLED)
    if solution.radius is None:
        return Certificate(
            status=CertificateStatus.CURVED if solution.h > 1 else CertificateStatus.STEP,
            reason=_why_not(solution.h, rigorous),
            rigorous=rigorous,
            h=solution.h,
            stands=stands,
            **_nothing(spectrum, known),
        )
    largest = 0.0 if known["flow"] else 1 / solution.smoothness
    step = largest if known["lr"] is None else known["lr"]
    per_step = 1 - step * solution.mu * (2 - step * solution.smoothness)
    return Certificate(
        status=CertificateStatus.OK if rigorous else CertificateStatus.SAMPLED,
        certified=True,
        rigorous=rigorous,
        h=solution.h,
        mu=solution.mu,
        radius=solution.radius,
        lr_max=largest,
        rate=float(np.exp(-2 * solution.mu)) if known["flow"] else per_step,
        smoothness=solution.smoothness,
        curvature=solution.beta,
        lambda_min0=spectrum.lam_min_lower or 0.0,
        kappa0=spectrum.kappa,
        reason="a ball traps descent"
        + ("." if rigorous else ", if the sampled curvature is as large as the true one; that is not proved."),
        stands=stands,
        **known,
    )


def _why_not(h: float, rigorous: bool) -> str:
    proof = "" if rigorous else ", by a sampled curvature"
    if h > 1:
        return f"h is {h:.3g}{proof}; it must be at most 1. A smaller residual (train on) or more width helps."
    return (
        f"h is {h:.3g}{proof}, which is enough for learning rates up to 1/smoothness and the sharper radius, but not "
        "for these. Leave out `lr` and `radius`, or lower `lr`."
    )


def _hopeless(spectrum: KernelSpectrum, known: dict[str, Any]) -> Certificate:
    if spectrum.status is SpectrumStatus.RANK:
        warnings.warn(
            f"there are {spectrum.num_params:,} parameters for {spectrum.order:,} residuals: no certificate can exist.",
            UnderparameterizedWarning,
            stacklevel=3,
        )
        status = CertificateStatus.RANK
    else:
        status = CertificateStatus.SINGULAR
    return Certificate(
        status=status,
        rigorous=False,
        h=float("inf"),
        reason=status.value,
        stands={"h": bound("upper", "no curvature was looked at")},
        **_nothing(spectrum, known),
    )


def _nothing(spectrum: KernelSpectrum, known: dict[str, Any]) -> dict[str, Any]:
    """The fields of a certificate that certifies nothing."""
    return {
        "certified": False,
        "mu": 0.0,
        "radius": float("inf"),
        "lr_max": 0.0,
        "rate": 1.0,
        "smoothness": float("inf"),
        "curvature": float("inf"),
        "lambda_min0": spectrum.lam_min_lower or 0.0,
        "kappa0": spectrum.kappa,
        **known,
    }
