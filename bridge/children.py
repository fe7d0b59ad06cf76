"""How a process of ours starts another: the same code, on the same interpreter."""

from __future__ import annotations

import sys
from pathlib import Path

_HOME = str(Path(__file__).parent.parent)


def command(module: str) -> list[str]:
    """To be followed by arguments. The package is the one this is a part of, and the folder one was started in is not
    looked into first, as by `python -m`: no file in it takes the place of a module that has its name.
    """
    ours = f"import sys; sys.path.insert(0, {_HOME!r}); import bridge; del sys.path[0]"
    return [sys.executable, "-P", "-c", f"{ours}; import runpy; runpy.run_module({module!r}, run_name='__main__')"]
