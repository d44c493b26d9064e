"""A script written for our API, run by Keras: the same text, its imports renamed."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any


def for_keras(script: str, **replaced: Any) -> ModuleType:
    """The module that tests/<script>.py is when `mlxfunc` is called `keras`.

    `replaced` are names that the script calls differently where Keras 3 has dropped an argument.
    """
    path = Path(__file__).with_name(f"{script}.py")
    text = re.sub(r"^(from|import) mlxfunc\b", r"\1 keras", path.read_text(), flags=re.MULTILINE)
    module = ModuleType(f"{script}_for_keras")
    module.__file__ = str(path)
    exec(compile(text, str(path), "exec"), vars(module))
    vars(module).update(replaced)
    return module
