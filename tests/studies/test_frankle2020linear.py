"""Siblings that share their first steps: what the study counts, and that its training can be cut into pieces."""

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from study_claims import claims
from widescape import arch, data
from widescape.core.errors import DataError
from widescape.studies import catalog, frankle2020linear
from widescape.studies.study import Study, Verdict


@pytest.fixture(scope="module")
def study():
    return catalog.run("frankle2020linear", quick=True, progress=False)


@pytest.mark.slow
def test_siblings_on_digits_end_connected_when_they_share_the_first_part_of_training(study):
    found = claims(study)
    assert list(found) == ["lenet", "fitted", "unstable_at_first", "stable_early", "stay_stable", "falls", "loss"]
    assert found["stable_early"].verdict is Verdict.REPRODUCED, found["stable_early"]
    assert found["falls"].value < 0  # of two pairs in three networks, the exact order is chance
    assert found["unstable_at_first"].verdict is not Verdict.NOT_REPRODUCED
    assert (found["lenet"].undecided, found["lenet"].verdict) == (3, Verdict.INCONCLUSIVE)


@pytest.mark.slow
def test_the_claims_say_what_the_kept_measurements_say(study):
    found = claims(study)
    errors = [study.results[f"digits_error_{i}"] for i in range(3)]
    losses = [study.results[f"digits_loss_{i}"] for i in range(3)]
    for own in (*errors, *losses):
        assert own.ks.tolist() == [0, 64, 256, 512, 1024]
        assert own.stop == 40 * (1297 // 20)
        assert own.barriers.shape == (5, 2)
        np.testing.assert_array_equal(own.stable, own.barriers.mean(axis=1) < 0.02)
    assert found["unstable_at_first"].value == pytest.approx(np.mean([own.barrier[0] for own in errors]), rel=1e-12)
    assert found["stable_early"].value == sum(own.stable[:4].any() for own in errors)
    assert found["stay_stable"].value == sum(own.stable[3:].all() for own in errors)
    early, first = (np.mean([own.barrier[k] for own in losses]) for k in (3, 0))
    assert found["loss"].value == pytest.approx(early / first, rel=1e-12)
    for error, loss in zip(errors, losses, strict=True):  # the same siblings
        assert (loss.end_losses > 0).all()
        assert np.abs(error.end_losses * 1297 - np.round(error.end_losses * 1297)).max() < 1e-3


@pytest.mark.slow
def test_the_study_shows_the_barriers_of_error_and_loss_and_comes_back_from_its_file(study, tmp_path):
    assert [chart.name for chart in study.charts()] == ["digits_error_0-instability", "digits_loss_0-instability"]
    assert len(str(study).splitlines()) < 20
    assert Study.load(study.save(tmp_path / "study.zip")) == study


@pytest.fixture(scope="module")
def small():
    """A small recipe on a few digits."""
    net = arch.fc(1, 8, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.0, param="standard")
    whole = frankle2020linear._digits()
    return dataclasses.replace(whole, net=net, x=whole.x[:100], y=whole.y[:100], epochs=4)


@pytest.mark.slow
def test_training_to_a_step_and_on_is_training_in_one_go(small):
    system, key = small.system(jax.random.key(0)), jax.random.key(1)
    whole = frankle2020linear._train(small, system, system.params, key, 0, 17)
    first = frankle2020linear._train(small, system, system.params, key, 0, 7)  # in the middle of an epoch
    for one, other in zip(
        jax.tree.leaves(whole), jax.tree.leaves(frankle2020linear._train(small, system, first, key, 7, 17)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    apart = frankle2020linear._train(small, system, first, jax.random.key(2), 7, 17)
    assert (jax.tree.leaves(apart)[-1] != jax.tree.leaves(whole)[-1]).any()


def test_the_error_is_the_share_of_wrong_answers(small):
    system = small.system(jax.random.key(0))
    answers = system.F().argmax(axis=1)
    assert small.error(system).value() == pytest.approx(np.mean(answers != small.y), rel=1e-6)


def test_error_and_loss_belong_to_the_same_siblings_and_a_key_gives_others_than_the_next(small):
    error, loss = frankle2020linear._siblings(small, jax.random.key(3), (0, 2), 2)
    again = frankle2020linear._siblings(small, jax.random.key(3), (0, 2), 2)
    other = frankle2020linear._siblings(small, jax.random.key(4), (0, 2), 2)
    assert again == (error, loss)
    assert (other[1].end_losses != loss.end_losses).all()
    assert (loss.end_losses[..., 0] != loss.end_losses[..., 1]).all()
    assert error.ks.tolist() == [0, 10]
    assert error.stop == 20


def made(small, barriers):
    """An instability of the error with these barriers at 0, 5, 10 and 15 of 20 steps."""
    error, _ = frankle2020linear._siblings(small, jax.random.key(3), (0, 1, 2, 3), 2)
    values = np.asarray(barriers)
    stable = values < 0.02
    first = int(error.ks[stable.argmax()]) if stable.any() else None
    return dataclasses.replace(error, barrier=values, stable=stable, first_stable_k=first)


def test_networks_that_do_something_else_are_not_counted(small):
    never = made(small, [0.3, 0.3, 0.3, 0.3])
    back = made(small, [0.01, 0.3, 0.0, 0.3])
    late = made(small, [0.3, 0.3, 0.3, 0.0])
    early, stays = (of([never, back, late]) for of in (frankle2020linear._stable_early, frankle2020linear._stay_stable))
    assert (early.value, early.verdict) == (1, Verdict.NOT_REPRODUCED)
    assert (stays.value, stays.verdict) == (0, Verdict.NOT_REPRODUCED)
    assert early.measured == "1 of 3; stable from none, 0.0%, 75.0%"
    assert stays.measured == "0 of 3; stable for good from none, none, 75.0%"
    assert frankle2020linear._unstable_at_first([made(small, [0.001] * 4)] * 3).verdict is Verdict.NOT_REPRODUCED
    assert frankle2020linear._falls([back]).verdict is Verdict.NOT_REPRODUCED
    assert frankle2020linear._falls([never]).verdict is Verdict.INCONCLUSIVE
    assert frankle2020linear._loss_falls([late]).value == 1
    fitted, unfitted = (dataclasses.replace(back, end_losses=np.full((4, 2, 2), end)) for end in (0.019, 0.021))
    unstable = dataclasses.replace(late, end_losses=fitted.end_losses)
    lenet = frankle2020linear._lenet_claim([fitted, unfitted, unstable], "")
    assert (lenet.value, lenet.verdict) == (1, Verdict.NOT_REPRODUCED)
    assert frankle2020linear._fitted([fitted, unfitted]).value == 1


def test_without_mnist_its_claim_is_inconclusive_and_says_why(monkeypatch):
    def absent(*_, **__):
        raise DataError("no files of mnist")

    monkeypatch.setattr(data, "load", absent)
    found, missing = frankle2020linear._lenets(jax.random.key(0), print, False)
    own = frankle2020linear._lenet_claim(found, missing)
    assert own.verdict is Verdict.INCONCLUSIVE
    assert "no files of mnist" in own.measured


@pytest.mark.slow
def test_lenet_has_266_610_parameters_and_its_siblings_are_measured_from_initialization_on(monkeypatch, rng):
    few = SimpleNamespace(x_train=rng.uniform(size=(120, 28, 28, 1)), y_train=np.arange(120) % 10)
    monkeypatch.setattr(data, "load", lambda name, download: few)
    recipe = frankle2020linear._mnist()
    assert recipe.x.shape == (120, 784)
    assert recipe.system(jax.random.key(0)).num_params == 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10 == 266_610
    found, missing = frankle2020linear._lenets(jax.random.key(0), print, False)
    assert not missing
    assert [own.ks.tolist() for own in found] == [[0, 2]] * 3
    assert {own.stop for own in found} == {20}
    own = frankle2020linear._lenet_claim(found, missing)
    assert (own.trials, own.undecided) == (3, 0)
    assert own.value == 0  # random images are not fitted in 20 steps
    fitted = [dataclasses.replace(one, end_losses=np.zeros((2, 2, 2)), stable=np.array([True, True])) for one in found]
    assert frankle2020linear._lenet_claim(fitted, missing).verdict is Verdict.REPRODUCED
