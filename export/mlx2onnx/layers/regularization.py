"""Layers that only act while training: nothing is written for them."""

from __future__ import annotations

from mlxfunc import layers
from mlx2onnx.layers.core import nothing
from mlx2onnx.layers.registry import rule

rule(
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.AlphaDropout,
    layers.ActivityRegularization,
)(nothing)
