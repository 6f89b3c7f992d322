"""The largest edge of a minimum spanning tree between two minima is the least over all paths: an ultrametric."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from widescape.core.errors import DtypeError, ShapeError
from widescape.core.result import Result
from widescape.paths.spanning import Tree, TreeStatus, connectivity_tree

INF = float("inf")


def symmetric(values, size, diagonal=0.0):
    matrix = np.full((size, size), float(diagonal))
    matrix[np.triu_indices(size, 1)] = values
    return np.triu(matrix, 1) + np.triu(matrix, 1).T + np.diag(np.diagonal(matrix))


@st.composite
def saddle_matrices(draw):
    """Saddles from few values, so that zeros, ties and absent paths are common, above minima of loss 0."""
    size = draw(st.integers(1, 6))
    values = st.one_of(st.sampled_from([0.0, 1.0, 2.0, INF]), st.floats(0, 10))
    pairs = size * (size - 1) // 2
    return symmetric(draw(st.lists(values, min_size=pairs, max_size=pairs)), size)


def least_over_all_paths(matrix, i, j):
    others = [k for k in range(len(matrix)) if k not in (i, j)]
    best = INF
    for count in range(len(others) + 1):
        for stops in itertools.permutations(others, count):
            walk = (i, *stops, j)
            best = min(best, max(matrix[a, b] for a, b in itertools.pairwise(walk)))
    return best


@given(saddle_matrices())
def test_minimax_is_the_least_maximum_over_all_paths_through_the_minima(matrix):
    tree = connectivity_tree(matrix)
    for i, j in itertools.combinations(range(len(matrix)), 2):
        assert tree.minimax[i, j] == tree.minimax[j, i] == least_over_all_paths(matrix, i, j)
    np.testing.assert_array_equal(np.diagonal(tree.minimax), np.diagonal(matrix))


@given(saddle_matrices())
def test_minimax_is_an_ultrametric_below_the_direct_saddles(matrix):
    minimax = connectivity_tree(matrix).minimax
    assert (minimax <= matrix).all()
    assert (minimax[:, None, :] <= np.maximum(minimax[:, :, None], minimax.T[None, :, :])).all()


@given(saddle_matrices())
def test_the_edges_form_a_tree_by_rising_saddle_whose_paths_have_the_minimax_as_their_largest(matrix):
    tree = connectivity_tree(matrix)
    assert (np.diff(tree.saddles) >= 0).all()
    np.testing.assert_array_equal(tree.saddles, [matrix[i, j] for i, j in tree.edges])
    alone = np.full_like(matrix, INF)
    for i, j in tree.edges:
        alone[i, j] = alone[j, i] = matrix[i, j]
    for i, j in itertools.combinations(range(len(matrix)), 2):
        assert least_over_all_paths(alone, i, j) == tree.minimax[i, j]
    assert tree.status.ok == bool(np.isfinite(tree.minimax).all()) == (len(tree.edges) == len(matrix) - 1)


@given(saddle_matrices())
def test_suggested_are_all_pairs_across_the_worst_edge_with_a_higher_saddle_of_their_own(matrix):
    tree = connectivity_tree(matrix)
    suggested = {tuple(pair) for pair in tree.suggested.tolist()}
    pairs = set(itertools.combinations(range(len(matrix)), 2))
    if not tree.status.ok:
        assert tree.worst is None
        assert suggested == {p for p in pairs if tree.minimax[p] == INF}
    elif len(matrix) == 1:
        assert tree.worst is None
        assert not suggested
    else:
        assert tuple(tree.worst) == tuple(tree.edges[-1])
        rest = connectivity_tree(_only(matrix, tree.edges[:-1])).minimax
        assert suggested == {p for p in pairs if rest[p] == INF and matrix[p] > tree.saddles[-1]}
    own = [matrix[i, j] for i, j in tree.suggested]
    assert own == sorted(own, reverse=True)


def _only(matrix, edges):
    kept = np.full_like(matrix, INF)
    for i, j in edges:
        kept[i, j] = kept[j, i] = matrix[i, j]
    return kept


def test_a_saddle_of_exactly_zero_is_an_edge():
    tree = connectivity_tree(symmetric([0.0, 5.0, 0.0], 3))
    assert tree.edges.tolist() == [[0, 1], [1, 2]]
    assert tree.saddles.tolist() == [0.0, 0.0]
    assert tree.minimax[0, 2] == 0.0


def test_components_without_a_path_between_them_are_infinitely_apart_and_suggested():
    tree = connectivity_tree(symmetric([1.0, INF, INF, INF, INF, 2.0], 4))
    assert tree.status is TreeStatus.DISCONNECTED
    assert tree.edges.tolist() == [[0, 1], [2, 3]]
    assert tree.minimax[0, 2] == tree.minimax[1, 3] == INF
    assert tree.worst is None
    assert tree.suggested.tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


def test_unknown_pairs_across_the_worst_edge_are_suggested_before_known_ones():
    """A chain 0 - 1 - 2 - 3 whose middle edge is the worst."""
    tree = connectivity_tree(symmetric([1.0, 7.0, INF, 3.0, 9.0, 2.0], 4))
    assert tree.worst.tolist() == [1, 2]
    assert tree.suggested.tolist() == [[0, 3], [1, 3], [0, 2]]


def test_the_diagonal_holds_the_losses_of_the_minima_and_does_not_enter_the_tree():
    matrix = symmetric([3.0, 2.0, 4.0], 3)
    np.fill_diagonal(matrix, [0.5, -1.0, INF])
    tree = connectivity_tree(matrix)
    assert np.diagonal(tree.minimax).tolist() == [0.5, -1.0, INF]
    np.testing.assert_array_equal(tree.edges, connectivity_tree(symmetric([3.0, 2.0, 4.0], 3)).edges)
    lowest = next(s for s in tree.charts()[0].series if s.label == "minima")
    assert lowest.y.tolist() == [-1.0, 0.5]


def test_one_minimum_is_a_tree_without_edges():
    tree = connectivity_tree([[0.25]])
    assert (tree.status, tree.worst) == (TreeStatus.OK, None)
    assert (tree.edges.shape, tree.suggested.shape, tree.minimax.tolist()) == ((0, 2), (0, 2), [[0.25]])
    assert tree.charts()


def test_single_precision_is_symmetric_up_to_its_rounding_and_the_larger_saddle_counts():
    matrix = symmetric([1.0, 2.0, 3.0], 3).astype(np.float32)
    matrix[0, 1] = np.nextafter(np.float32(1), np.float32(2))
    assert connectivity_tree(matrix).saddles[0] == matrix[0, 1] > 1


def test_evidence_says_on_which_side_the_minimax_lies_and_the_tree_survives_a_file(tmp_path):
    tree = connectivity_tree(symmetric([1.0, 2.0, 3.0], 3))
    assert (tree.evidence("minimax").kind, tree.evidence("minimax").side) == ("bound", "upper")
    assert Result.load(tree.save(tmp_path / "tree")) == tree
    assert isinstance(Tree.load(tmp_path / "tree"), Tree)


@pytest.mark.parametrize("shape", [(2, 3), (0, 0), (4,), (2, 2, 2)])
def test_a_matrix_that_is_not_square_is_refused(shape):
    with pytest.raises(ShapeError, match="square"):
        connectivity_tree(np.zeros(shape))


def test_saddles_that_are_no_numbers_or_not_symmetric_are_refused():
    with pytest.raises(ValueError, match=r"nan at \(0, 1\)"):
        connectivity_tree(symmetric([np.nan], 2))
    with pytest.raises(ValueError, match=r"-inf at \(0, 1\)"):
        connectivity_tree(symmetric([-INF], 2))
    with pytest.raises(ValueError, match=r"not symmetric: 1.0 at \(0, 1\) and 2.0 at \(1, 0\)"):
        connectivity_tree([[0.0, 1.0], [2.0, 0.0]])
    with pytest.raises(ValueError, match=r"not symmetric: inf at \(1, 2\) and 2.0"):
        connectivity_tree([[0.0, 1.0, 1.0], [1.0, 0.0, INF], [1.0, 2.0, 0.0]])
    with pytest.raises(DtypeError):
        connectivity_tree(np.ones((2, 2), int))


def test_a_saddle_below_the_loss_of_an_end_is_refused():
    with pytest.raises(ValueError, match=r"1.0 at \(0, 1\), below the loss 1.5 of an end"):
        connectivity_tree([[0.5, 1.0], [1.0, 1.5]])
    assert connectivity_tree([[0.5, 1.5], [1.5, 1.5]]).saddles.tolist() == [1.5]
