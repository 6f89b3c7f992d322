"""The layer: a specification without parameters, from which a finite network and its limit are made."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from widescape.arch import limit as _limit
from widescape.arch.covariance import Covariance, Level
from widescape.arch.fused_program import Step
from widescape.arch.layouts import LayoutChoice, no_positions
from widescape.arch.limit import Get, Kernel
from widescape.arch.spec import Signal, scales_of
from widescape.core import checks
from widescape.core.errors import ShapeError
from widescape.core.precision import has_float64

if TYPE_CHECKING:
    from widescape.arch.plan import NetworkPlan

Params = Any


class Layer(ABC):
    """Base of all layers. A subclass is a frozen dataclass with four short methods.

    `out` says what shape comes out, `parameters` draws the parameters, `forward` applies the finite layer
    and `limit` the infinite one. Side by side, they let a reader see that the two networks agree. Any layer
    is a network: it can be initialized, applied and taken to its limit.

    Layers hash, compare, print and pickle; to JAX they are static and hold no arrays.
    """

    ends_stage: bool = False
    """Whether a compiled program of the limit ends after this layer."""
    alone: bool = False
    """Whether the layer is a compiled program of its own."""
    has_width: bool = False
    """Whether the layer has a number of outputs that it was given."""
    mixes_positions: bool = False
    """Whether variances behind the layer cannot be found from variances before it."""
    ends_program: Literal["", "mean", "diagonal"] = ""
    """Which pairs of positions the fused path ends in a mean over, where the layer takes them away."""
    is_chain: bool = False
    """Whether the layers inside this one act one after the other."""
    needs_mean: bool = False
    """Whether the limit depends on whether the mean of what reaches the layer vanishes."""
    takes_branches: bool = False
    """Whether the layer works on the several signals of a `Parallel`."""
    ntk_caution: str = ""
    """What to warn of when the tangent kernel is asked for."""
    pair_flops: int = 4
    """About how many floating-point operations the limit takes per pair of examples; for plans."""
    pair_arrays: int = 0
    """Temporary arrays per pair of examples beyond the few that every block needs; for plans."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        jax.tree_util.register_static(cls)

    def __post_init__(self) -> None:
        """Turn scales into plain floats; a subclass with checks of its own calls this first."""
        for name, value in scales_of(self).items():
            numbers = value if isinstance(value, tuple | list) else (value,)
            checked = tuple(checks.number(v, name, type(self).__name__) for v in numbers)
            object.__setattr__(self, name, checked if isinstance(value, tuple | list) else checked[0])

    @property
    def label(self) -> str:
        """The layer in a few words, for messages and plans."""
        return type(self).__name__

    @abstractmethod
    def out(self, signal: Signal) -> Signal:
        """The signal after the layer; raises `ShapeError` where the layer does not fit."""

    def parameters(self, key: jax.Array, signal: Signal, dtype: Any) -> Params:
        """Random parameters for this input; an empty tuple for a layer without any."""
        del key, signal, dtype
        return ()

    def spreads(self, signal: Signal) -> Any:
        """The variances with which `parameters` are drawn, in their structure."""
        del signal
        return ()

    @abstractmethod
    def forward(self, params: Params, h: jax.Array, signal: Signal) -> jax.Array:
        """The finite layer on a batch `h` (n, *signal.shape)."""

    @abstractmethod
    def limit(self, cov: Covariance) -> Covariance:
        """What the layer does to second moments as widths go to infinity.

        Raises:
            NotTractableError: no closed form exists; the message says what to do instead.
            NonGaussianInputError: the layer needs Gaussian input.
        """

    def children(self) -> tuple["Layer", ...]:
        """The layers inside this one, in the order in which they act."""
        return ()

    def stages(self) -> tuple["Layer", ...]:
        """The parts that are compiled one by one and run in turn; together they are this layer."""
        return (self,)

    def carried(self, after: Level, signal: Signal) -> Level:
        """Which pairs of positions the limit needs before the layer, if it needs `after` behind it."""
        return after if no_positions(signal) else max(after, Level.POSITIONS)

    def plane_axes(self, signal: Signal) -> tuple[str, ...] | None:
        """How positions and their shifted partners move together, along each axis; None if they do not.

        ``"any"``: both keep their places; ``"circular"``: only if shifts wrap around; ``"linear"``: only if they do
        not; ``"same"``: either way, as long as no positions were lost before; ``"same-linear"``: both.
        """
        del signal
        return None

    def steps(self, signal: Signal, *, frozen: bool) -> tuple[Step, ...] | None:
        """The layer for the fused path over positions; None if that path does not know it.

        Args:
            signal: what reaches the layer; an image.
            frozen: whether its parameters are held fixed.
        """
        del signal, frozen
        return None

    def prepared(self, signal: Signal) -> "Layer":
        """The layer with what its limit has to know about the widths of finite layers."""
        del signal
        return self

    def with_hidden_width(self, width: int, *, is_last: bool = True) -> "Layer":
        """The same architecture with every hidden width replaced: all but the last one, if it comes last itself."""
        del width, is_last
        return self

    def init(
        self, key: jax.Array, input_shape: tuple[int, ...], *, width: int | None = None, dtype: Any = "float32"
    ) -> Params:
        """Random parameters of the finite network.

        Args:
            key: a key of `jax.random.key`.
            input_shape: shape of one example, channels last; ``(d,)`` for vectors.
            width: replaces every hidden width, if given. `apply` takes the widths from the parameters.
            dtype: of the parameters. The draws of different dtypes are different numbers.

        Returns:
            a PyTree with the structure of the architecture.

        Raises:
            ShapeError: a layer does not fit its input; the message names the layer.
        """
        shape = _input_shape(input_shape)
        if width is not None:
            checks.count(width, "width", "init")
        network = self if width is None else self.with_hidden_width(width)
        signal = Signal.of_input(shape)
        try:
            network.out(signal)
        except ShapeError as error:
            hint = (
                ""
                if width is None
                else f" (with every hidden width {width}; the outputs need a last layer of their own)"
            )
            raise ShapeError(f"{error}{hint}") from error
        dtype = jnp.dtype(dtype)
        if dtype == jnp.float64:
            with jax.enable_x64(True):
                return network.parameters(key, signal, dtype)
        return network.parameters(key, signal, dtype)

    def initial_variances(self, input_shape: tuple[int, ...], *, width: int | None = None) -> Any:
        """The variance with which each parameter is drawn: 1 in the NTK parameterization.

        The bridge between parameterizations: a learning rate of eta in the NTK parameterization is eta times the
        variance in another, and weight decay is decay divided by it (lee2020finite, layer-wise decay).

        Args:
            input_shape: shape of one example.
            width: replaces every hidden width, if given.

        Returns:
            a PyTree like that of `init`, with one float for each array.
        """
        network = self if width is None else self.with_hidden_width(width)
        signal = Signal.of_input(_input_shape(input_shape))
        network.out(signal)
        return network.spreads(signal)

    def apply(self, params: Params, x: Any) -> jax.Array:
        """The finite network's output.

        Args:
            params: from `init`.
            x: a batch of examples (n, *input_shape), floating point.

        Returns:
            (n, c) for a network that ends in a dense layer of width c.

        Raises:
            DtypeError: `x` holds integers.
            ShapeError: `x` does not fit the parameters; the message names the layer.
        """
        if not isinstance(x, jax.Array):
            x = checks.real_array(x, "x")
        if has_float64(params):  # the network is in double precision, whatever the process-wide flag says
            with jax.enable_x64(True):
                return self._applied(params, jnp.asarray(x))
        return self._applied(params, jnp.asarray(x))

    def _applied(self, params: Params, x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            checks.real_array(jnp.zeros((), x.dtype), "x")
        if x.ndim < 2:
            raise ShapeError(f"`x` has shape {x.shape}; give a batch, examples first: x[None] for a single example.")
        return self.forward(params, x, Signal.of_input(x.shape[1:]))

    def kernel(
        self,
        x1: Any,
        x2: Any = None,
        *,
        get: Get | Iterable[Get] = ("nngp", "ntk"),
        dtype: Any = "float64",
        layout: LayoutChoice = "auto",
    ) -> Kernel:
        """The NNGP and tangent kernels of the infinitely wide network.

        Widths of hidden layers go to infinity; kernels are per output channel. Computed in float64 whatever
        the process-wide flag says. Another value of a scale (`w_std`, ...) compiles nothing new, and inside
        ``with jax.enable_x64(True):`` kernels can be differentiated with respect to inputs and scales.

        Args:
            x1: a batch (n1, *shape) of floating-point examples.
            x2: another batch (n2, *shape); None stands for `x1`, with an exact diagonal.
            get: which kernels.
            dtype: ``"float64"``, or ``"float32"`` for comparisons of precision.
            layout: for networks with pooling, how pairs of positions are held: ``"planes"``, one shift between
                positions after the other (stride 1, global pooling), or ``"full"``, all at once. ``"auto"`` takes
                planes where they apply. The kernels are the same.

        Returns:
            a `Kernel` with `nngp` and `ntk`, (n1, n2), None where not asked for. For a network whose outputs have
            positions, means over equal positions.

        Raises:
            DtypeError, ShapeError, ValueError: input that is not a batch of finite real numbers.
            NotTractableError, NonGaussianInputError: there is no limit; names the layer.
            QuadratureError: a numerical integral is too coarse.
            PrecisionError: traced input in less than float64.
            MemoryBudgetError: the batches are too large for one piece.

        Cost: 2 n1 n2 d flops and about 40 per pair and layer; holds five arrays of (n1, n2). For large batches use
        `widescape.kernels.gram`. With S positions per example, convolutions take S times that, and S^2 times before a
        pooling; `describe` counts it.

        Example:
            >>> from widescape import arch
            >>> net = arch.fc(depth=1, width=64, n_out=1, activation=arch.Relu(), w_std=2**0.5)
            >>> k = net.kernel([[1.0, 0.0], [0.0, 1.0]])
            >>> bool(abs(k.nngp[0, 1] * 3.141592653589793 - 1) < 1e-12)
            True
        """
        return _limit.kernel(self, x1, x2, get, dtype, layout)

    def describe(self, input_shape: tuple[int, ...] | None = None, *, layout: LayoutChoice = "auto") -> "NetworkPlan":
        """What the layers are, what the infinite-width limit carries between them, and what a pair of examples costs.

        Args:
            input_shape: shape of one example, channels last; None for 32 x 32 x 3 if the layers work on images in two
                dimensions, and for 1,000 features otherwise.
            layout: as for `kernel`.

        Returns:
            a `NetworkPlan`, which prints as a table; nothing is computed.

        Raises:
            ShapeError: a layer does not fit its input.

        Example:
            >>> from widescape import arch
            >>> plan = arch.cnn_gap(depth=2, width=64, n_out=1).describe((8, 8, 1))
            >>> plan.carried[0], plan.entries.tolist()
            ('all pairs of positions, shift by shift', [4096, 4096, 4096, 4096, 1, 1])
        """
        from widescape.arch.plan import describe

        return describe(self, self._usual_shape() if input_shape is None else _input_shape(input_shape), layout)

    def _usual_shape(self) -> tuple[int, ...]:
        for shape in ((1000,), (32, 32, 3), (64, 3), (16, 16, 16, 3)):
            try:
                self.out(Signal.of_input(shape))
            except ShapeError:
                continue
            return shape
        raise ShapeError("give `input_shape`: the network fits none of the usual ones.")


def _input_shape(shape: Any) -> tuple[int, ...]:
    if isinstance(shape, int):
        raise TypeError(f"`input_shape` is {shape}; give the shape of one example as a tuple: ({shape},).")
    result = tuple(shape)
    if not result:
        raise ShapeError("`input_shape` is empty; give the shape of one example, for instance (784,).")
    for n in result:
        checks.count(n, "input_shape", "init")
    return result


def network_of(function: Any) -> Layer | None:
    """The network whose `apply` a function is; None for any other function."""
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, Layer) and getattr(function, "__name__", "") == "apply" else None
