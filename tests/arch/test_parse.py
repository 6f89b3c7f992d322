"""Architectures survive being written down, and text that is none runs nothing."""

import pytest

from widescape import arch
from widescape.arch import from_text

NETWORKS = [
    arch.default_network(3),
    arch.fc(2, 16, 1, activation=arch.Erf(), w_std=1.1, b_std=0.3, param="standard", base_width=16),
    arch.Sequential(arch.Flatten(), arch.Frozen(arch.Dense(4)), arch.LeakyRelu(0.2), arch.Dense(1, 1.5, None)),
    arch.Sequential(arch.Dense(4), arch.Polynomial((0.0, 1.0, -0.5)), arch.Dense(4), arch.Tanh(), arch.Dense(1)),
    arch.Sequential(arch.Dense(4), arch.ABRelu(-1.0, 2.0), arch.Dense(2), arch.Sin(1.0, 2.0, -0.3), arch.Identity()),
]


@pytest.mark.parametrize("net", NETWORKS)
def test_what_repr_prints_is_read_back_as_the_same_network(net):
    assert from_text(repr(net)) == net
    assert hash(from_text(str(net))) == hash(net)


def test_presets_arithmetic_and_qualified_names_are_understood():
    net = arch.fc(2, 16, 10, activation=arch.Relu(), w_std=2**0.5, b_std=0.1)
    assert from_text("arch.fc(2, 4*4, 10, activation=arch.Relu(), w_std=2**0.5, b_std=1/10)") == net
    assert from_text("default_network(7)") == arch.default_network(7)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("__import__('os').system('true')", "no layer or preset 'system'"),
        ("open('x')", "no layer or preset 'open'"),
        ("(lambda: 1)()", "no layer or preset ''"),
        ("Layer()", "abstract"),
        ("Kernel()", "no layer or preset 'Kernel'"),
        ("Activation(abs)", "'abs' is not understood"),
        ("1 + 1", "no network"),
        ("fc(1)", "missing"),
        ("fc(**{})", "not understood"),
        ("Dense(9**9**9)", "too large"),
        ("Dense(1/0)", "division by zero"),
        ("Dense('a' * 3)", "no number"),
        ("Dense(", "no expression"),
        ("Dense(1)" + " " * 30_000, "at most"),
        ("(" * 5000 + ")" * 5000, "no expression"),
        ("Dense(2, 1" + "+1" * 3000 + ")", "no expression"),
        ("Dense(" + "*".join(["999999**99"] * 20) + ")", "too large"),
        ("Dense(" + "*".join(["999999"] * 50) + ")", "too large"),
        ("Dense(2, (-2)**0.5)", "no real number"),
        ("fc(10**9, 8, 1, activation=Relu())", "more than 10000"),
    ],
)
def test_text_that_describes_no_network_is_refused_with_the_part(text, reason):
    with pytest.raises(ValueError, match=reason):
        from_text(text)
