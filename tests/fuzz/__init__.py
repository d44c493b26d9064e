"""Random trials without end: `make fuzz SECONDS=600 SEED=…` prints what fails, and its seed.

A kind is a module of this folder with `trial(seed) -> str | None`: None when all is well or
refused with a documented error, else what went wrong. All that is random comes from the seed.
"""

KINDS = ("graphs", "archives", "functions", "onnx_files", "kills")
