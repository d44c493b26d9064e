"""THE table: one row a layer configuration, kept by family in `rows/`. Every runner loops over it.

A row is made with our layers or with Keras's: `case.make()`, `case.make(keras.layers)`.
"""

from case import Case, apply, masked, randomize
from rows.core import ACTIVATION, CORE, EINSUM, MERGING, PREPROCESSING, REGULARIZATION
from rows.sequence import ATTENTION, RECURRENT
from rows.spatial import CONVOLUTION, NORMALIZATION, POOLING, RESHAPING

CASES: list[Case] = [
    *(*CORE, *EINSUM, *MERGING, *CONVOLUTION, *POOLING, *NORMALIZATION, *ACTIVATION),
    *(*REGULARIZATION, *RESHAPING, *ATTENTION, *PREPROCESSING, *RECURRENT),
]
__all__ = ["CASES", "RECURRENT", "Case", "apply", "masked", "randomize"]
