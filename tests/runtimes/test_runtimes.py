"""Every row in every runtime, at batch 1 and 3; a gap must still be one."""

from pathlib import Path

import pytest
from mlx2onnx import support

from runtimes.engines import RUNTIMES
from runtimes.measure import measure
from runtimes.rows import ROWS

README = (Path(__file__).parents[2] / "export" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_runtime_gives_what_mlx_does(row, runtime):
    problem = measure(row, runtime).problem
    assert problem is None, problem


def first_column(marker):
    table = README.split(f"<!-- {marker} -->")[1].split(f"<!-- /{marker} -->")[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    return rows[2:]


def test_the_docs_list_every_row_layer_and_primitive():
    assert first_column("runtimes") == [row.name for row in ROWS], "make runtimes"
    listed = {name for cell in first_column("layers") for name in cell.split(", ")}
    known = {name for names in support.layer_families().values() for name in names}
    assert listed == known, "make runtimes"
    assert support.family_list(support.primitive_families()) in README, "make runtimes"


def test_what_is_not_exact_has_its_reason():
    assert all(row.tolerance <= 1e-5 or row.reason for row in ROWS)
    assert all(gap.reason and gap.match for row in ROWS for gap in row.gaps.values())
