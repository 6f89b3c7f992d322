"""Half-size networks on half of the features stay near the network, dropout does not; paths are as low as proved."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from study_claims import claims
from widescape.core.errors import DataError
from widescape.studies import catalog, nguyen2021connectivity
from widescape.studies.study import Study, Verdict

TINY = nguyen2021connectivity._Scale(
    None, 2, 16, seeds=2, rate=3e-3, epochs=10, annex_epochs=5, draws=2, masks=5, widths=(8,), seen=100
)


@pytest.fixture(scope="module")
def study(mnist):
    return catalog.run("nguyen2021connectivity", quick=True, progress=False)


@pytest.fixture(scope="module")
def tiny():
    """The digits experiment in a second: two small networks, hardly trained, and the path between them."""
    key = jax.random.key(5)
    return nguyen2021connectivity._experiment(nguyen2021connectivity._digits(0), TINY, optax.adam, key, False)[0]


@pytest.mark.slow
@pytest.mark.claim("nguyen2021connectivity/M1")
def test_on_mnist_annexes_stay_near_the_network_at_every_layer_and_dropout_is_far_above(study, measured):
    parts = []
    for i in range(2):
        own = study.results[f"mnist_layers_{i}"]
        annexes, net = own.condition.losses, own.condition.net_loss
        assert len(annexes) == 5
        assert (annexes <= max(2 * net, 0.02)).all()
        assert own.dropout.losses.max() >= 10 * annexes.max()
        parts.append(f"annexes at most {annexes.max():.2g}, network {net:.2g}, dropout {own.dropout.losses.max():.2g}")
    for name in ("mnist_annexes", "mnist_dropout"):
        assert claims(study)[name].verdict is Verdict.REPRODUCED
    measured("four hidden layers of 64, 2,000 images: " + "; ".join(parts))


@pytest.mark.slow
def test_the_claims_about_paths_are_reproduced_and_say_what_the_points_of_the_paths_say(study):
    found = claims(study)
    for name in ("digits", "mnist"):
        path, losses = study.results[f"{name}_path"], study.results[f"{name}_losses"]
        ends = [study.results[f"{name}_layers_{i}"].condition for i in range(2)]
        assert path.value == path.per_waypoint.max() == found[f"{name}_path"].value
        assert path.value == pytest.approx(max(own.bound for own in ends), rel=1e-9)
        assert losses.profile.max <= path.value * (1 + 1e-6)
        assert losses.profile.kinds == path.kinds
        np.testing.assert_allclose(path.per_waypoint[[0, -1]], [own.net_loss for own in ends], rtol=1e-9)
        np.testing.assert_allclose(losses.line.loss[[0, -1]], [own.net_loss for own in ends], rtol=1e-3)
        assert list(losses.levels.values()) == [study.results[f"{name}_layers_{i}"].dropout.bound for i in range(2)]
    assert all(found[name].verdict is Verdict.REPRODUCED for name in found if name.startswith("digits"))
    for name in ("mnist_path", "mnist_theorem", "mnist_segments", "mnist_line"):
        assert found[name].verdict is Verdict.REPRODUCED, found[name]


@pytest.mark.slow
def test_features_get_better_with_the_layer_and_with_the_width(study, tmp_path):
    found, own = claims(study), study.results["tradeoff"]
    assert own.names == ("2 x 32", "2 x 64", "4 x 64")
    for name in ("readout_deeper", "readout_wider"):
        assert found[name].verdict is Verdict.REPRODUCED, found[name]
    assert found["width_deeper"].verdict is not Verdict.NOT_REPRODUCED
    assert found["readout_deeper"].value == sum(part[-1] <= part[1] for part in own.linear_errors)
    names = [chart.name for chart in study.charts()]
    assert [name.split("-")[0] for name in names] == [
        "mnist_layers_0", "mnist_losses", "digits_layers_0", "digits_losses", "tradeoff", "tradeoff",
    ]  # fmt: skip
    assert {own.label for own in study.charts()[0].series} == {"annexes", "dropout"}
    assert {own.label for own in study.charts()[1].series} == {"constructed path", "straight line"}
    assert len(study.charts()[1].markers) == 2
    assert Study.load(study.save(tmp_path / "study.zip")) == study


@pytest.mark.slow
def test_without_mnist_its_claims_are_inconclusive_and_say_why(monkeypatch):
    load = nguyen2021connectivity.data.load

    def absent(name, **options):
        if name == "mnist":
            raise DataError("mnist is not here.")
        return load(name, **options)

    monkeypatch.setattr(nguyen2021connectivity.data, "load", absent)
    monkeypatch.setattr(nguyen2021connectivity, "_DIGITS", TINY)
    own = nguyen2021connectivity.run(quick=True, progress=False)
    of_digits = [one for one in own.claims if one.name.startswith("digits")]
    rest = [one for one in own.claims if one not in of_digits]
    assert len(of_digits) == 6
    assert [one.name for one in rest] == [
        "mnist_annexes", "mnist_dropout", "mnist_path", "mnist_theorem", "mnist_segments", "mnist_line",
        "readout_deeper", "width_deeper", "readout_wider",
    ]  # fmt: skip
    assert all(one.verdict is Verdict.INCONCLUSIVE for one in rest)
    assert all("mnist is not here" in one.measured for one in rest)
    assert own.figures == ("digits_layers_0", "digits_losses")


@pytest.mark.slow
def test_layers_that_break_a_claim_are_not_counted(tiny):
    own = tiny.layers[0]

    def changed(annexes, net_loss, dropout):
        condition = dataclasses.replace(own.condition, losses=np.array(annexes), net_loss=net_loss)
        return dataclasses.replace(own, condition=condition, dropout=dataclasses.replace(own.dropout, bound=dropout))

    near, far = nguyen2021connectivity._near, nguyen2021connectivity._far
    assert near(changed([0.02, 0.0, 0.019], 0.0, 1.0))
    assert not near(changed([0.0, 0.0201, 0.0], 0.01, 1.0))
    assert near(changed([0.0, 0.2, 0.0], 0.1, 1.0))
    assert far(changed([0.01, 0.1, 0.02], 0.5, 1.0))
    assert not far(changed([0.01, 0.1, 0.02], 0.5, 0.99))
    scale = dataclasses.replace(TINY, seeds=3)
    some = dataclasses.replace(tiny, layers=(changed([0.0] * 3, 0.0, 1.0), changed([0.5] * 3, 0.1, 1.0)))
    annexes, dropout = nguyen2021connectivity._mnist_claims(some, scale)[:2]
    assert (annexes.value, annexes.undecided, annexes.verdict) == (1, 1, Verdict.NOT_REPRODUCED)
    assert (dropout.value, dropout.undecided, dropout.verdict) == (1, 1, Verdict.NOT_REPRODUCED)


@pytest.mark.slow
def test_a_path_as_high_as_untrained_networks_is_not_called_low(tiny):
    found = {own.name: own for own in nguyen2021connectivity._digits_claims(tiny)}
    assert found["digits_path"].value > 0.02
    assert found["digits_path"].verdict is Verdict.NOT_REPRODUCED
    assert found["digits_theorem"].verdict is Verdict.REPRODUCED  # whatever the losses are
    assert tiny.test.per_waypoint_error.max() > 0
    wrong = dataclasses.replace(tiny, path=dataclasses.replace(tiny.path, reports_value=tiny.path.value * 1.00001))
    assert nguyen2021connectivity._is_proved_value("t", wrong).verdict is Verdict.NOT_REPRODUCED


def test_networks_are_drawn_as_he_does_and_digits_are_held_out_at_random():
    own = nguyen2021connectivity._digits(0)
    assert (own.x.shape, own.test_x.shape, own.x.dtype) == ((1437, 64), (360, 64), np.float32)
    rows = {tuple(row) for row in own.x} & {tuple(row) for row in own.test_x}
    assert not rows
    assert not np.array_equal(own.test_y, nguyen2021connectivity._digits(1).test_y)
    scale = dataclasses.replace(TINY, epochs=1)
    net = nguyen2021connectivity._trained(own, scale, (2, 64), optax.adam, jax.random.key(0), False)
    for layer in (part for part in net.system.params if part):
        assert abs(np.mean(layer["w"] ** 2) * len(layer["w"]) / 2 - 1) < 5 * (2 / layer["w"].size) ** 0.5
        assert not layer["b"].any()
    assert net.chain.widths == (64, 64, 64, 10)
    assert (net.chain.layers[0][0] != net.system.params[1]["w"]).any()


def test_images_are_scaled_to_plus_and_minus_one(mnist):
    own = nguyen2021connectivity._mnist(0, TINY)
    assert own.x.shape == (60_000, 784)
    assert (own.x.min(), own.x.max(), own.test_x.min()) == (-1, 1, -1)
    few = nguyen2021connectivity._mnist(3, nguyen2021connectivity._QUICK)
    assert (len(few.x), len(few.test_x)) == (2000, 2000)
    assert not np.array_equal(few.x, nguyen2021connectivity._mnist(4, nguyen2021connectivity._QUICK).x)


def test_the_papers_size_is_as_stated_and_excludes_the_quick_one():
    own = nguyen2021connectivity._PAPER
    assert (own.images, own.depth, own.width, own.rate, own.epochs) == (None, 10, 245, 1e-3, 200)
    assert (own.annex_epochs, own.draws, own.masks, own.seeds) == (400, 20, 200, 10)
    with pytest.raises(ValueError, match="`quick` and `full` exclude"):
        nguyen2021connectivity.run(quick=True, full=True)
