"""The bar of one epoch, on a terminal and in a notebook. Needs rich, which only bars load."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column


class NotebookBar(Progress):
    """One output of a cell, drawn anew in place; the last drawing stays in the saved notebook.

    rich's own way needs ipywidgets: without them it shows nothing, and with them the bar is gone
    once the notebook is opened again.
    """

    _output: Any = None

    def start(self) -> None:
        """Nothing: the first task shows the bar."""

    def refresh(self) -> None:
        from IPython.display import display

        if self._output is None:
            self._output = display(self, display_id=True)
        else:
            self._output.update(self)

    def stop(self) -> None:
        self.refresh()


def make_bar() -> Progress | None:
    """A bar that is drawn when asked; None where there is neither terminal nor notebook."""
    console = Console()
    if not console.is_terminal and not console.is_jupyter:
        return None
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20, table_column=Column(no_wrap=True)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[rate]}"),
        # Where the line is too long for the terminal, only the logs give way: to a second line.
        TextColumn("{task.fields[logs]}", table_column=Column(overflow="fold")),
    )
    kind = NotebookBar if console.is_jupyter else Progress
    # Drawn by the loop: a thread of its own would take time from the steps.
    return kind(*columns, console=console, auto_refresh=False)
