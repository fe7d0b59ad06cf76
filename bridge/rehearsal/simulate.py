"""`voice-bridge simulate`: scenarios run, a line each, a summary, a report."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, cast

from rich.console import Console

from bridge.errors import UsageError
from bridge.localmodel import EXTRA
from bridge.rehearsal.keeping import can_fill, can_write, kept
from bridge.rehearsal.run import Clock, Run, not_compared, run, silence_logs, timeline_name, wants_speech
from bridge.settings import config_folder
from bridge.sim import report as reports
from bridge.sim.report import CallResult
from bridge.sim.scenario import Scenario, load_all

GOLDEN: Final = Path("golden")  # beside each scenario
_SHOWN: Final = 4
_SUFFIX: Final = {"html": ".html", "json": ".json", "junit": ".xml"}


def simulate(
    files: Sequence[Path],
    console: Console,
    *,
    clock: str | None = None,
    calls: int = 1,
    report: str | None = None,
    out: Path | None = None,
    timeline: Path | None = None,
    update_golden: bool = False,
    against: str = "",
    config: Path | None = None,
) -> int:
    """The exit code: 0 if every call was as its scenario expects. Raises UsageError, ConfigError for mistakes."""
    if clock not in (None, "virtual", "real"):
        raise UsageError(f"--clock {clock}: write virtual or real")
    for option, unfit in (("--clock virtual", clock == "virtual"), ("--update-golden", update_golden)):
        if against and unfit:
            raise UsageError(f"--against: somebody else's server keeps its own time, so leave out {option}")
    if update_golden and (clock == "real" or calls > 1):
        raise UsageError(
            "--update-golden: only single calls on the virtual clock repeat; leave out --clock and --calls"
        )
    page = _page(report, out)
    silence_logs()
    scenarios = _load(files)
    mute = wants_speech(scenarios)
    if mute:
        raise UsageError(
            f"{mute[0].name} needs speech ({len(mute)} of {len(scenarios)}), and it is not installed here: get {EXTRA}"
        )
    if page is not None:
        can_write(page[1], "--out")
    if timeline is not None:
        _each_its_own(
            "--timeline",
            ((timeline / timeline_name(one, n), one) for one in scenarios for n in range(1, one.repeat * calls + 1)),
        )
    if update_golden:
        _each_its_own("--update-golden", ((one.folder / GOLDEN / timeline_name(one), one) for one in scenarios))
    golden = None if against else GOLDEN
    how = Run(cast(Clock, clock or "virtual"), calls, golden, update_golden, timeline, against, config_folder(config))

    calls_in_all, judged = sum(one.repeat * calls for one in scenarios), itertools.count(1)

    def told(result: CallResult) -> None:
        status.update(f"{next(judged)} of {calls_in_all} calls ...")
        console.print(reports.line(result), markup=False, highlight=False, soft_wrap=True)
        for failure in "\n".join(result.failures).splitlines():
            console.print(f"      {failure}", style="red", markup=False, highlight=False, soft_wrap=True)

    with console.status(f"0 of {calls_in_all} calls ...") as status:
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
    if timeline is not None:
        console.print(f"Written: {timeline}", markup=False, highlight=False, soft_wrap=True)
    if page is not None:
        kind, path = page
        write = {"html": reports.as_html, "json": reports.as_json, "junit": reports.as_junit}[kind]
        with kept(path):
            path.write_text(write(results), encoding="utf-8")
        console.print(f"Written: {path}", markup=False, highlight=False, soft_wrap=True)
    return 0 if all(result.passed for result in results) else 1


def _page(report: str | None, out: Path | None) -> tuple[str, Path] | None:
    """The kind of report that is wanted, and its file. The one tells the other."""
    if report is not None and report not in _SUFFIX:
        raise UsageError(f"--report {report}: write html, json or junit")
    if out == Path("-"):
        raise UsageError("--out -: a report is a file; name it")
    if out is not None and report is None:
        report = next((kind for kind, suffix in _SUFFIX.items() if suffix == out.suffix.lower()), None)
        if report is None:
            raise UsageError(f"--out {out}: what kind of report is this? Add --report html, json or junit")
    return None if report is None else (report, out or Path("calls" + _SUFFIX[report]))


def _load(files: Sequence[Path]) -> list[Scenario]:
    try:
        for path in files:
            if path.is_dir():
                os.listdir(path)  # one that lets nobody in would pass for empty
        return load_all(files)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}. Name scenarios this user may read") from None


def _each_its_own(option: str, kept: Iterable[tuple[Path, Scenario]]) -> None:
    """Raises UsageError where two scenarios have one file, or one that cannot be written."""
    of: dict[Path, Scenario] = {}
    for file, scenario in kept:
        other = of.setdefault(file, scenario)
        if other.source != scenario.source:
            raise UsageError(
                f"{option}: {other.source} and {scenario.source} would both write {file}; give one another `name:`"
            )
    for folder in dict.fromkeys(file.parent for file in of):
        can_fill(folder, option)
    for file in of:
        can_write(file, option)
