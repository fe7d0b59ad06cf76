"""`voice-bridge simulate`: scenarios run, a line each, a summary, a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from rich.console import Console

from bridge.errors import UsageError
from bridge.rehearsal.run import Clock, Run, not_compared, run, silence_logs, wants_speech
from bridge.settings import config_folder
from bridge.sim import report as reports
from bridge.sim.report import CallResult
from bridge.sim.scenario import load_all

GOLDEN: Final = "golden"  # the folder beside the scenarios
_SHOWN: Final = 4
_SUFFIX: Final = {"html": ".html", "json": ".json", "junit": ".xml"}


def simulate(
    files: Sequence[Path],
    console: Console,
    *,
    clock: str = "virtual",
    calls: int = 1,
    report: str | None = None,
    out: Path | None = None,
    timeline: Path | None = None,
    update_golden: bool = False,
    against: str = "",
    config: Path | None = None,
) -> int:
    """The exit code: 0 if every call was as its scenario expects. Raises UsageError, ConfigError for mistakes."""
    if clock not in ("virtual", "real"):
        raise UsageError(f"--clock {clock}: write virtual or real")
    if report is not None and report not in _SUFFIX:
        raise UsageError(f"--report {report}: write html, json or junit")
    silence_logs()
    scenarios = load_all(files)
    mute = wants_speech(scenarios)
    if mute:
        raise UsageError(
            f"{mute[0].name} needs speech (so do {len(mute)} of the {len(scenarios)} scenarios), and it is not "
            "installed here: pip install 'voice-bridge[local]'"
        )
    golden = None if against else _golden(files)
    how = Run(cast(Clock, clock), calls, golden, update_golden, timeline, against, config_folder(config))

    def told(result: CallResult) -> None:
        console.print(reports.line(result), markup=False, highlight=False, soft_wrap=True)
        for failure in "\n".join(result.failures).splitlines():
            console.print(f"      {failure}", style="red", markup=False, highlight=False, soft_wrap=True)

    results = run(scenarios, how, told)
    console.print(reports.summary(results), markup=False, highlight=False, soft_wrap=True)
    missing = not_compared(scenarios, how)
    if missing:
        names = ", ".join(missing[:_SHOWN]) + ", ..." * (len(missing) > _SHOWN)
        console.print(
            f"Not compared, for want of a golden timeline (--update-golden writes it): {len(missing)} ({names})",
            highlight=False,
            soft_wrap=True,
        )
    if report is not None:
        path = out or Path("calls" + _SUFFIX[report])
        write = {"html": reports.as_html, "json": reports.as_json, "junit": reports.as_junit}[report]
        path.write_text(write(results), encoding="utf-8")
        console.print(f"Written: {path}", highlight=False)
    return 0 if all(result.passed for result in results) else 1


def _golden(files: Sequence[Path]) -> Path:
    """Golden timelines lie in a folder beside the scenarios."""
    first = files[0]
    return (first if first.is_dir() else first.parent) / GOLDEN
