"""Aligned networks on digits: barriers fall as the study says, and what it counts is what its results hold."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from study_claims import claims
from widescape import data
from widescape.core.errors import DataError
from widescape.paths import Merge
from widescape.studies import ainsworth2022rebasin, catalog
from widescape.studies.study import Study, Verdict

WIDTHS = (16, 64, 256)
METHODS = ("naive", "weights", "activations")


@pytest.fixture(scope="module")
def study():
    return catalog.run("ainsworth2022rebasin", quick=True, progress=False)


def barriers(study):
    """Barriers by their results, (widths, pairs, methods)."""
    return np.array(
        [[[study.results[f"barrier_{m}_{i}_{kind}"].value for kind in METHODS] for i in range(2)] for m in WIDTHS]
    )


@pytest.mark.slow
@pytest.mark.claim("ainsworth2022rebasin/E2")
def test_matching_lowers_the_barriers_and_more_so_in_wider_networks(study):
    found = claims(study)
    assert len(found) == 11
    open_claims = ("mnist_weights", "mnist_activations")
    assert all(found[name].verdict is Verdict.INCONCLUSIVE for name in open_claims)
    for name, own in found.items():  # whether barriers fall from width to width in both of two pairs is chance
        assert own.verdict is Verdict.REPRODUCED or name in (*open_claims, "wider_weights", "wider_activations"), own
    heights = barriers(study)
    assert (np.diff(heights.mean(axis=1), axis=0) < 0).all()
    assert (heights[1:, :, 2] <= 0.35 * heights[1:, :, 0]).mean() > 0.5
    assert (heights[:, :, 1] <= 0.6 * heights[:, :, 0]).mean() > 0.5
    for k, width in enumerate(WIDTHS):
        assert found[f"weights_{width}"].value == np.sum(heights[k, :, 1] <= 0.6 * heights[k, :, 0])
    for k, width in enumerate(WIDTHS[1:], 1):
        assert found[f"activations_{width}"].value == np.sum(heights[k, :, 2] <= 0.35 * heights[k, :, 0])
    for j, method in enumerate(METHODS[1:], 1):
        assert found[f"wider_{method}"].value == np.sum((np.diff(heights[:, :, j], axis=0) < 0).all(axis=0))


@pytest.mark.slow
def test_the_networks_were_trained_and_their_merges_are_those_of_the_barriers(study):
    for width in WIDTHS:
        for method in METHODS[1:]:
            own = study.results[f"width_{width}_{method}"]
            assert isinstance(own, Merge)
            assert max(own.loss_a, own.loss_b) < 0.3
            assert own.naive == study.results[f"barrier_{width}_0_naive"]
            assert own.aligned == study.results[f"barrier_{width}_0_{method}"]
            assert own.alignment.method.startswith(method)
            assert sorted(own.alignment.permutations) == ["P1", "P2"]
    values = barriers(study)[:, :, 0].ravel()
    assert len(set(values)) == len(values)  # no two pairs are the same


@pytest.mark.slow
@pytest.mark.claim("ainsworth2022rebasin/I6")
@pytest.mark.claim("ainsworth2022rebasin/I7")
def test_planted_permutations_keep_the_function_and_are_found(study):
    found = claims(study)
    for name in ("permuted", "planted"):
        assert found[name].value == found[name].trials == 6


@pytest.mark.slow
def test_the_study_shows_each_merge_and_comes_back_from_its_file(study, tmp_path):
    names = [f"width_{width}_{method}-merge" for width in WIDTHS for method in METHODS[1:]]
    assert [chart.name for chart in study.charts()] == names
    assert len(str(study).splitlines()) < 20
    assert len(study.table()) == 11
    assert Study.load(study.save(tmp_path / "study.zip")) == study


def height(value):
    return SimpleNamespace(aligned=SimpleNamespace(value=value))


def pair(naive, weights, activations):
    """What the claims read of a pair of networks."""
    shares = (weights / naive, activations / naive)
    return SimpleNamespace(naive=naive, shares=shares, weights=height(weights), activations=height(activations))


def test_pairs_whose_barrier_stays_or_grows_with_width_are_not_counted():
    good, bad = pair(1.0, 0.59, 0.34), pair(1.0, 0.61, 0.36)
    for method in (0, 1):
        own = ainsworth2022rebasin._lowered(method, 64, [good, bad, bad])
        assert (own.value, own.trials, own.verdict) == (1, 3, Verdict.NOT_REPRODUCED)
    falling, rising = (pair(1.0, 0.5, 0.2), pair(1.0, 0.2, 0.3)), (pair(1.0, 0.5, 0.2), pair(1.0, 0.6, 0.1))
    by_width = {16: [falling[0], falling[0], rising[0]], 64: [falling[1], falling[1], rising[1]]}
    assert ainsworth2022rebasin._falls("weights", by_width).value == 2
    assert ainsworth2022rebasin._falls("activations", by_width).value == 1


@pytest.mark.slow
def test_a_network_that_is_no_permutation_of_the_other_is_not_called_recovered(monkeypatch):
    monkeypatch.setattr(ainsworth2022rebasin, "_EPOCHS", 1)
    own = ainsworth2022rebasin._pair(jax.random.key(0), 16, *ainsworth2022rebasin._digits())
    key = jax.random.key(1)
    assert [found.value for found in ainsworth2022rebasin._symmetry(key, {16: [own]})] == [1, 1]

    def scaled(spec, perm, params):
        return jax.tree.map(lambda leaf: leaf + 0.1 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), params)

    monkeypatch.setattr(ainsworth2022rebasin, "apply_permutation", scaled)
    assert [found.value for found in ainsworth2022rebasin._symmetry(key, {16: [own]})] == [0, 0]


def test_without_mnist_its_claims_are_inconclusive_and_say_why(monkeypatch):
    def absent(*_, **__):
        raise DataError("no files of mnist")

    monkeypatch.setattr(data, "load", absent)
    found, missing = ainsworth2022rebasin._mnist(jax.random.key(0), print)
    for own in ainsworth2022rebasin._mnist_claims(found, missing):
        assert own.verdict is Verdict.INCONCLUSIVE
        assert "no files of mnist" in own.measured


@pytest.mark.slow
def test_mnist_networks_are_merged_by_their_losses_on_test_images(monkeypatch, rng):
    few = SimpleNamespace(
        x_train=rng.uniform(size=(500, 28, 28, 1)),
        y_train=np.arange(500) % 10,
        x_test=rng.uniform(size=(30, 28, 28, 1)),
        y_test=np.arange(30) % 10,
    )
    monkeypatch.setattr(data, "load", lambda name, download: few)
    monkeypatch.setattr(ainsworth2022rebasin, "_MNIST_EPOCHS", 2)
    found, missing = ainsworth2022rebasin._mnist(jax.random.key(0), print)
    assert not missing
    assert [own.alignment.method.split()[0].rstrip(",") for own in found] == ["weights", "activations"]
    assert len(found[0].w) == 784 * 512 + 512 + 2 * (512 * 512 + 512) + 512 * 10 + 10
    assert found[0].loss_a != found[0].loss_b
    low, high = (dataclasses.replace(found[0].aligned, value=value) for value in (0.04, 0.06))
    changed = tuple(dataclasses.replace(found[0], aligned=own) for own in (low, high))
    verdicts = [own.verdict for own in ainsworth2022rebasin._mnist_claims(changed, "")]
    assert verdicts == [Verdict.REPRODUCED, Verdict.NOT_REPRODUCED]


def test_the_digits_are_1437_of_a_fixed_permutation_of_all():
    x, y = ainsworth2022rebasin._digits()
    assert x.shape == (1437, 64)
    assert (x.dtype, x.min(), x.max()) == (np.float32, 0, 1)
    assert np.bincount(y).min() > 100
    np.testing.assert_array_equal(ainsworth2022rebasin._digits()[0], x)
