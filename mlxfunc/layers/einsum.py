"""EinsumDense: a Dense that sums over whichever axes an equation names."""

from __future__ import annotations

import re
import string
from typing import Any

import mlx.core as mx

from .. import initializers
from ..layer import InputSpec
from .core import KernelLayer

_EQUATION = re.compile(
    r"\.\.\.([a-zA-Z]+),([a-zA-Z]+)->\.\.\.([a-zA-Z]+)"
    r"|([a-zA-Z]+)(\.\.\.)?,([a-zA-Z]+)->([a-zA-Z]+)(\.\.\.)?"
)


class EinsumDense(KernelLayer):
    """activation(einsum(equation, x, weight) + bias).

    equation "abc,cd->abd": the letters of x, of weight and of the result; x and the result may
    both begin or both end with "...". `output_shape` has the sizes of the result without the
    batch and without what "..." stands for; `bias_axes` are the letters of the result along which
    the bias has entries. The weight keeps the layout of the equation; its initializer takes what
    is summed for inputs.

    Source: https://keras.io/api/layers/core_layers/einsum_dense/
    """

    def __init__(
        self,
        equation: str,
        output_shape: int | tuple[int | None, ...],
        activation: Any = None,
        bias_axes: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activation=activation, use_bias=bias_axes is not None, **kwargs)
        if not _EQUATION.fullmatch(equation):
            raise ValueError(
                f"{self.name}: expected an equation such as 'ab,bc->ac' or '...b,bc->...c', got "
                f"{equation!r}. Letters name axes."
            )
        self.equation, self.bias_axes = equation, bias_axes
        self._sizes = (output_shape,) if isinstance(output_shape, int) else tuple(output_shape)

    def _argument(self, name: str) -> Any:
        # The attribute `output_shape` is what the node API says of the layer's calls.
        return self._sizes if name == "output_shape" else super()._argument(name)

    def get_config(self) -> dict[str, Any]:
        return {key: value for key, value in super().get_config().items() if key != "use_bias"}

    def build(self, input_shape: tuple) -> None:
        x, kernel, y = self.spell(len(input_shape))
        self.input_spec = InputSpec(ndim=len(x))
        self.input_spec.check(self.name, input_shape)
        sizes = self.sizes(x, y, input_shape)
        unknown = [c for c in kernel + (self.bias_axes or "") if sizes.get(c) is None]
        unknown += [c for c in y if c not in x + kernel] + [
            c for c in self.bias_axes or "" if c not in y
        ]
        if unknown:
            raise ValueError(
                f"{self.name}: expected a known size for {unknown[0]!r} of {self.equation!r}, got "
                f"input shape {input_shape} and output_shape {self._sizes}. Each letter of the "
                "weight is an axis of the input or of the result."
            )
        fixed = kernel + (self.bias_axes or "")
        axes = {axis: sizes[c] for axis, c in enumerate(x) if c in fixed}
        self.input_spec = InputSpec(ndim=len(x), axes=axes)  # einsum would broadcast a size of 1
        self._spelled = f"{x},{kernel}->{y}"
        summed = [axis for axis, c in enumerate(kernel) if c not in y]
        made = [axis for axis, c in enumerate(kernel) if c in y]
        self.add_weight(
            name="weight",
            shape=tuple(sizes[c] for c in kernel),
            initializer=initializers.with_fans(self.kernel_initializer, summed, made),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.bias_axes is not None:
            first = min(y.find(c) for c in self.bias_axes)
            self.add_bias(tuple(sizes[c] if c in self.bias_axes else 1 for c in y[first:]))

    def spell(self, rank: int) -> list[str]:
        """The letters of x, weight and result, with letters for what "..." stands for."""
        x, kernel, y = re.split(",|->", self.equation)
        unused = (c for c in string.ascii_letters if c not in self.equation)
        elided = "".join(next(unused) for _ in range(rank - len(x.replace("...", ""))))
        return [x.replace("...", elided), kernel, y.replace("...", elided)]

    def sizes(self, x: str, y: str, input_shape: tuple) -> dict[str, Any]:
        """The size of each letter's axis; None is dynamic."""
        known = dict(zip(x, input_shape, strict=True))
        letters = [c for c in y if c in self.equation]
        given = letters if self.equation.startswith("...") else letters[1:]
        if len(given) != len(self._sizes):
            raise ValueError(
                f"{self.name}: expected output_shape with {len(given)} sizes for "
                f"{self.equation!r}, got {self._sizes}. The batch is not one of them."
            )
        for letter, size in zip(given, self._sizes, strict=True):
            if known.get(letter) is None:
                known[letter] = size
            elif size not in (None, known[letter]):
                raise ValueError(
                    f"{self.name}: expected size {known[letter]} for {letter!r} of "
                    f"{self.equation!r}, as in the input {input_shape}, got output_shape "
                    f"{self._sizes}."
                )
        return known

    def call(self, inputs: mx.array) -> mx.array:
        return self.finish(mx.einsum(self._spelled, inputs, self.weight))
