"""How a process of ours starts another: the same code, on the same interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

_HOME = str(Path(__file__).parent.parent)


def command(module: str) -> list[str]:
    """To be followed by arguments. What `python -m` would put first, the folder one was started in, comes last: no file
    in it takes the place of a module that it happens to share its name with.
    """
    start = f"import sys, runpy; sys.path.append({_HOME!r}); runpy.run_module({module!r}, run_name='__main__')"
    return [sys.executable, "-P", "-c", start]
