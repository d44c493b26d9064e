"""ConvLSTM2D: an LSTM whose projections are convolutions."""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from ..bounds import conv_general
from .cells import LSTMCell
from .core import known_size
from .recurrent import OwnCell
from .windows import extents, fits, padding_kind, same_pads, sizes


class ConvLSTM2D(OwnCell, LSTMCell):  # type: ignore[misc]
    """LSTM with Wx * x_t and Wh * h_{t-1}, convolutions, in place of the matrix products.

    x (batch, time, height, width, in) → (batch, height', width', filters), or with time as axis 1
    with `return_sequences`. Wx (4·filters, kernel height, kernel width, in), Wh the same for
    `filters` inputs, bias (4·filters), with gates i, f, g, o. `padding`, `strides` and
    `dilation_rate` are those of Wx; Wh keeps the size. The rest is as in LSTM. One dropout mask
    serves all gates of a sequence, where Keras draws one a gate.

    Source: https://keras.io/api/layers/recurrent_layers/conv_lstm2d/
    """

    rank = 5

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = 1,
        padding: str = "valid",
        data_format: str | None = None,
        dilation_rate: int | tuple[int, int] = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(filters, data_format=data_format, **kwargs)
        self.filters, self.data_format = filters, data_format
        self.kernel_size = sizes(self.name, 2, "kernel_size", kernel_size)
        self.strides = sizes(self.name, 2, "strides", strides)
        self.dilation_rate = sizes(self.name, 2, "dilation_rate", dilation_rate)
        self.padding = padding_kind(self.name, padding)
        if max(self.strides) > 1 and max(self.dilation_rate) > 1:
            raise ValueError(
                f"{self.name}: expected strides or dilation_rate to be 1, got {self.strides} and "
                f"{self.dilation_rate}. Set one of them to 1."
            )

    def get_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().get_config().items() if key != "units"}

    def build_cell(self, step_shape: tuple) -> None:
        height, width, size = (known_size(self.name, step_shape, axis) for axis in (1, 2, 3))
        self._sizes = (height, width)
        layout: Any = {"axes": (3, 0, 1, 2)}
        gates = 4 * self.filters
        self.add_weight(name="Wx", shape=(*self.kernel_size, size, gates), role="kernel", **layout)
        self.add_weight(
            name="Wh", shape=(*self.kernel_size, self.filters, gates), role="recurrent", **layout
        )
        self.add_gate_bias(gates)

    def get_initial_state(self, batch_size: int) -> list[mx.array]:
        x = mx.zeros((batch_size, *self._sizes, self.Wx.shape[-1]))
        height, width = self.project(x).shape[1:3]
        return [mx.zeros((batch_size, height, width, self.filters))] * 2

    def project(self, x: mx.array) -> mx.array:
        """Wx * x + b of x (..., height, width, in), all leading axes at once."""
        leading = x.shape[:-3]
        x = mx.flatten(x, 0, -4)
        same = self.padding == "same"
        window = (1, 1) if same else extents(self.kernel_size, self.dilation_rate)
        fits(self.name, x.shape, window)
        y = _convolve(x, self.Wx, self.strides, self.dilation_rate, same)
        return mx.unflatten(y + self.bias if self.use_bias else y, 0, leading)

    def recur(self, h: mx.array) -> mx.array:
        return _convolve(h, self.Wh, (1, 1), (1, 1), same=True)


def _convolve(
    x: mx.array, weight: mx.array, strides: tuple, dilation: tuple, same: bool
) -> mx.array:
    pads = [(0, 0), (0, 0)]
    if same:
        pads = list(map(same_pads, x.shape[1:3], extents(weight.shape[1:3], dilation), strides))
    before, after = zip(*pads, strict=True)
    return conv_general(x, weight, strides, (before, after), dilation)
