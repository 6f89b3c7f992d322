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
    RectifiedPower,
    Relu,
    Sign,
    Sin,
)
from widescape.arch.base import Layer, network_of
from widescape.arch.branches import Concat, Parallel, Prod, Residual, Sum
from widescape.arch.conv import Conv, LocalConv
from widescape.arch.covariance import Covariance
from widescape.arch.dense import Dense
from widescape.arch.elementwise import Elementwise
from widescape.arch.limit import Kernel
from widescape.arch.normalization import BatchNorm, LayerNorm
from widescape.arch.numerical import Activation, Sigmoid, Silu, Softmax, Softplus, Tanh
from widescape.arch.parse import from_text
from widescape.arch.plan import NetworkPlan
from widescape.arch.pooling import AvgPool, Flatten, GlobalAvgPool, GlobalSumPool, MaxPool, SumPool
from widescape.arch.presets import cnn_gap, cnn_vec, default_network, fc, myrtle, resnet, wide_resnet
from widescape.arch.spec import Signal
from widescape.arch.structure import Frozen, Identity, Repeat, Sequential

__all__ = [
    "ABRelu",
    "Abs",
    "Activation",
    "AvgPool",
    "BatchNorm",
    "Concat",
    "Conv",
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
    "GlobalAvgPool",
    "GlobalSumPool",
    "Hermite",
    "Identity",
    "Kernel",
    "Layer",
    "LayerNorm",
    "LeakyRelu",
    "LocalConv",
    "MaxPool",
    "NetworkPlan",
    "Parallel",
    "Polynomial",
    "Prod",
    "Rbf",
    "RectifiedPower",
    "Relu",
    "Repeat",
    "Residual",
    "Sequential",
    "Sigmoid",
    "Sign",
    "Signal",
    "Silu",
    "Sin",
    "Softmax",
    "Softplus",
    "Sum",
    "SumPool",
    "Tanh",
    "cnn_gap",
    "cnn_vec",
    "default_network",
    "fc",
    "from_text",
    "myrtle",
    "network_of",
    "resnet",
    "wide_resnet",
]
