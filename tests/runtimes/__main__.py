"""Prints the table of files, runtimes and errors, and puts all tables into export/README.md."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import version

from mlx2onnx import support

from cases import CASES
from runtimes.engines import RUNTIMES
from runtimes.measure import Outcome, measure
from runtimes.rows import ROWS
from runtimes.web import HERE

README = HERE.parents[1] / "export" / "README.md"


def main() -> None:
    insert("layers", support.layer_table(case.model() for case in CASES))
    insert("primitives", support.family_list(support.primitive_families()))
    outcomes = []
    for row in ROWS:
        outcomes.append([measure(row, runtime) for runtime in RUNTIMES])
        print(row.name, *(f"{o.error:.0e}" for o in outcomes[-1]), file=sys.stderr)
    made = error_table(outcomes)
    print(made)
    problems = [o.problem for line in outcomes for o in line if o.problem]
    if problems:
        sys.exit("\n".join(problems))
    insert("runtimes", made)


def insert(marker: str, text: str) -> None:
    """Replaces what stands between two markers of the README."""
    start, end = f"<!-- {marker} -->\n", f"<!-- /{marker} -->\n"
    before, rest = README.read_text().split(start)
    README.write_text(before + start + text + end + rest.split(end)[1])


def error_table(outcomes: Sequence[Sequence[Outcome]]) -> str:
    """A row a file, a column a runtime, and below it the reasons of gaps and tolerances."""
    notes: list[str] = []
    rows = [[line[0].row.name, *(_cell(o, notes) for o in line)] for line in outcomes]
    below = "".join(f"{i}. {note}\n" for i, note in enumerate(notes, 1))
    return f"{support.table(['file', *RUNTIMES], rows)}\n{below}\n{_versions()}\n"


def _cell(outcome: Outcome, notes: list[str]) -> str:
    row, gap, note = outcome.row, outcome.gap, None
    if gap is not None:
        note = f"{outcome.runtime.split(',')[0]} {gap.reason}"
    elif row.reason:
        note = f"Tolerance {row.tolerance:g}: {row.reason}."
    if note and note not in notes:
        notes.append(note)
    value = "**wrong**" if outcome.problem else "gap" if gap else f"{outcome.error:.0e}"
    return f"{value} ({notes.index(note) + 1})" if note else value


def _versions() -> str:
    web = json.loads((HERE / "package.json").read_text())["dependencies"]["onnxruntime-web"]
    names = {"ONNX Runtime": "onnxruntime", "onnx": "onnx", "OpenVINO": "openvino", "MLX": "mlx"}
    found = [f"{name} {version(package)}" for name, package in names.items()]
    return ", ".join([*found, f"ONNX Runtime Web {web}"]) + "."


if __name__ == "__main__":
    main()
