"""Many minima, connected by their lowest saddles: a minimum spanning tree, and its bound for each pair."""

from typing import Any

import numpy as np

from widescape.core import checks
from widescape.core.chart import Chart, Series
from widescape.core.errors import ShapeError
from widescape.core.evidence import EXACT, bound
from widescape.core.result import Result, quantity
from widescape.core.status import Status

_ROUNDING = {8: 1e-8, 4: 1e-4}  # of the largest entry, by the size of one in bytes; coarser for fewer


class TreeStatus(Status):
    """Whether the minima form one tree."""

    OK = "All minima are connected."
    DISCONNECTED = "Some minima are connected by no known path; find paths for the suggested pairs."


class Tree(Result):
    """A minimum spanning tree of minima, whose edges are the saddles between them."""

    source = "draxler2018essentially"
    status: TreeStatus = quantity(EXACT, "whether all minima are connected")
    edges: np.ndarray = quantity(EXACT, "pairs of minima that the tree connects, by rising saddle, (E, 2)")
    saddles: np.ndarray = quantity(EXACT, "their saddles (E,)")
    minimax: np.ndarray = quantity(
        bound(
            "upper", "of the least maximum of the loss over all paths, as far as the given saddles are maxima of paths"
        ),
        "largest saddle on the tree's path between each pair, inf without one; the given diagonal (M, M)",
    )
    worst: np.ndarray | None = quantity(EXACT, "the edge of largest saddle (2,); None without edges or if disconnected")
    suggested: np.ndarray = quantity(
        EXACT,
        "pairs across the worst edge, or across components, whose own saddle is unknown, and then those whose own "
        "saddle is above the edge's, highest first (S, 2)",
    )

    def charts(self) -> tuple[Chart, ...]:
        """The saddles of the tree in rising order, and the losses of the minima."""
        losses = np.sort(np.diagonal(self.minimax))
        losses = losses[np.isfinite(losses)]
        series = [Series(np.arange(1.0, len(self.saddles) + 1), self.saddles, "edges of the tree", style="both")]
        if losses.size:
            series.append(Series(np.arange(1.0, len(losses) + 1), losses, "minima", style="points"))
        positive = all((line.y > 0).all() for line in series)
        return (
            Chart(
                name="spanning_tree",
                title="Saddles of the minimum spanning tree",
                x_label="rank",
                y_label="loss",
                series=tuple(series),
                y_scale="log" if positive else "linear",
                caption=f"{len(self.saddles)} edges between {len(self.minimax)} minima, each in rising order.",
            ),
        )


def connectivity_tree(saddle_matrix: Any) -> Tree:
    """The minimum spanning tree of minima under their saddles, and the bound it gives for each pair.

    With s_ij the largest loss on the path known between minima i and j, paths can be joined at minima, so that the
    least maximum over all paths obeys m_ij <= max(m_ik, m_kj). The least bound that follows from all s is the largest
    saddle on the path between i and j in a minimum spanning tree; over pairs it is an ultrametric.

    Args:
        saddle_matrix: s, symmetric (M, M); inf where no path is known. The diagonal holds the losses of the minima, or
            inf where they are not given; it does not enter the tree.

    Returns:
        a `Tree`. Of equal saddles the pair that is first in the matrix is taken. To lower the largest bound, look
        for paths between the suggested pairs.

    Raises:
        ShapeError: the matrix is not square, or empty.
        DtypeError: it does not hold real floating-point numbers.
        ValueError: it is not symmetric, holds NaN or -inf, or a saddle is below the loss of one of its ends.

    Cost: a sort of all pairs; M^2 memory.

    Example:
        >>> inf = float("inf")
        >>> tree = connectivity_tree([[0.0, 3.0, 1.0], [3.0, 0.0, 2.0], [1.0, 2.0, 0.0]])
        >>> tree.edges.tolist(), tree.saddles.tolist(), float(tree.minimax[0, 1]), tree.suggested.tolist()
        ([[0, 2], [1, 2]], [1.0, 2.0], 2.0, [[0, 1]])
        >>> connectivity_tree([[0.0, inf], [inf, 0.0]]).status.name
        'DISCONNECTED'
    """
    matrix = _checked(saddle_matrix)
    minimax = np.full_like(matrix, np.inf)
    np.fill_diagonal(minimax, np.diagonal(matrix))
    component = sides = np.arange(len(matrix))
    edges = []
    for i, j in _by_saddle(matrix):
        if component[i] == component[j]:
            continue
        one, other = np.flatnonzero(component == component[i]), np.flatnonzero(component == component[j])
        minimax[np.ix_(one, other)] = minimax[np.ix_(other, one)] = matrix[i, j]
        edges.append((i, j))
        sides, component = component, np.where(component == component[j], component[i], component)
    pairs = np.asarray(edges, dtype=np.int64).reshape(-1, 2)
    whole = len(pairs) == len(matrix) - 1
    return Tree(
        status=TreeStatus.OK if whole else TreeStatus.DISCONNECTED,
        edges=pairs,
        saddles=matrix[pairs[:, 0], pairs[:, 1]],
        minimax=minimax,
        worst=pairs[-1] if whole and edges else None,
        suggested=_suggested(matrix, sides, matrix[edges[-1]]) if whole and edges else _suggested(matrix, component),
    )


def _by_saddle(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Pairs i < j with a known saddle, by rising saddle."""
    rows, columns = np.triu_indices(len(matrix), 1)
    saddles = matrix[rows, columns]
    order = np.argsort(saddles, kind="stable")[: int(np.isfinite(saddles).sum())]
    return list(zip(rows[order].tolist(), columns[order].tolist(), strict=True))


def _suggested(matrix: np.ndarray, component: np.ndarray, above: float = -np.inf) -> np.ndarray:
    """Pairs i < j of different components with a saddle above the given one, by falling saddle."""
    rows, columns = np.triu_indices(len(matrix), 1)
    saddles = matrix[rows, columns]
    chosen = np.flatnonzero((component[rows] != component[columns]) & (saddles > above))
    chosen = chosen[np.argsort(-saddles[chosen], kind="stable")]
    return np.column_stack([rows[chosen], columns[chosen]])


def _checked(saddle_matrix: Any) -> np.ndarray:
    """The matrix in float64, exactly symmetric."""
    given = checks.real_array(saddle_matrix, "saddle_matrix")
    if given.ndim != 2 or given.shape[0] != given.shape[1] or given.size == 0:
        raise ShapeError(f"`saddle_matrix` has shape {given.shape}; it must be a square matrix.")
    matrix = given.astype(np.float64)
    if not (matrix > -np.inf).all():
        i, j = np.argwhere(~(matrix > -np.inf))[0]
        raise ValueError(f"`saddle_matrix` is {matrix[i, j]} at ({i}, {j}); give a number, or inf where none is known.")
    known = np.isfinite(matrix)
    rounding = _ROUNDING.get(given.dtype.itemsize, 1e-2) * float(np.abs(matrix[known]).max(initial=0))
    numbers = np.where(known, matrix, 0)
    away = np.where(known & known.T, np.abs(numbers - numbers.T), 0)
    skew = (known != known.T) | (away > rounding)
    if skew.any():
        i, j = np.argwhere(skew)[0]
        raise ValueError(
            f"`saddle_matrix` is not symmetric: {matrix[i, j]} at ({i}, {j}) and {matrix[j, i]} at ({j}, {i}); take "
            "the smaller of the two where both are maxima of paths."
        )
    losses = np.where(np.isfinite(np.diagonal(matrix)), np.diagonal(matrix), -np.inf)
    below = matrix < np.maximum(losses[:, None], losses[None, :]) - rounding
    if below.any():
        i, j = np.argwhere(below)[0]
        raise ValueError(
            f"`saddle_matrix` is {matrix[i, j]} at ({i}, {j}), below the loss {max(losses[i], losses[j])} of an end; "
            "the maximum of a path is no less than that. Put the losses of the minima on the diagonal, or inf."
        )
    return np.maximum(matrix, matrix.T)
