"""Architectures as data: one description gives a finite network and its infinite-width limit."""

from widescape.arch.activations import (
    ABRelu,
    Abs,
    Cos,
    Erf,
    Exp,
    Gaussian,
    Gelu,
    Hermite,
    LeakyRelu,
    Polynomial,
    Rbf,
    Relu,
    Sign,
    Sin,
)
from widescape.arch.base import Layer, network_of
from widescape.arch.covariance import Covariance
from widescape.arch.dense import Dense
from widescape.arch.elementwise import Elementwise
from widescape.arch.limit import Kernel
from widescape.arch.numerical import Activation, Sigmoid, Silu, Softmax, Softplus, Tanh
from widescape.arch.parse import from_text
from widescape.arch.presets import default_network, fc
from widescape.arch.spec import Signal
from widescape.arch.structure import Flatten, Frozen, Identity, Sequential

__all__ = [
    "ABRelu",
    "Abs",
    "Activation",
    "Cos",
    "Covariance",
    "Dense",
    "Elementwise",
    "Erf",
    "Exp",
    "Flatten",
    "Frozen",
    "Gaussian",
    "Gelu",
    "Hermite",
    "Identity",
    "Kernel",
    "Layer",
    "LeakyRelu",
    "Polynomial",
    "Rbf",
    "Relu",
    "Sequential",
    "Sigmoid",
    "Sign",
    "Signal",
    "Silu",
    "Sin",
    "Softmax",
    "Softplus",
    "Tanh",
    "default_network",
    "fc",
    "from_text",
    "network_of",
]
