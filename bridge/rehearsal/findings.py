"""What a probe found out about a realtime server, as data and as a table for people."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

State = Literal["yes", "no", "unclear"]
Weight = Literal["must", "should", "may"]

_STYLES: dict[State, str] = {"yes": "green", "no": "red", "unclear": "yellow"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing a server can or cannot do. `must`: there is no call without it."""

    name: str
    state: State
    detail: str
    weight: Weight = "should"
    missing: str = ""  # what it means for a call where the state is not "yes"


@dataclass(slots=True)
class Report:
    """Everything found out about one server."""

    where: str
    profile: str
    model: str
    shape: str = ""  # ga, beta, hybrid: as its session.created looked
    findings: list[Finding] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)  # by name, as sent
    unknown_frames: int = 0  # neither JSON events nor audio

    @property
    def would_work(self) -> bool:
        """Whether a call through this server would work, if perhaps not in every point as it should."""
        musts = [finding for finding in self.findings if finding.weight == "must"]
        return bool(musts) and all(finding.state == "yes" for finding in musts)

    def state(self, name: str) -> State | None:
        return next((finding.state for finding in self.findings if finding.name == name), None)

    def detail(self, name: str) -> str:
        return next((finding.detail for finding in self.findings if finding.name == name), "")

    def profile_entry(self) -> str:
        """Lines for config/profiles.yaml that say what was found; empty: nothing differs from the profile used."""
        lines = [f"  can_{what}: false" for what in ("cancel", "truncate", "delete") if self.state(what) == "no"]
        if self.state("dialect") == "no":
            lines.append(f"  shape: {self.shape}")
        if self.state("session.updated") == "unclear":
            lines.append("  confirms_update: false")
        return "\n".join(["my-service:", f"  like: {self.profile}", f"  url: {self.where}", *lines]) if lines else ""

    def as_data(self) -> dict[str, object]:
        return {
            "where": self.where,
            "profile": self.profile,
            "model": self.model,
            "shape": self.shape,
            "would_work": self.would_work,
            "findings": [
                {
                    "name": finding.name,
                    "state": finding.state,
                    "weight": finding.weight,
                    "detail": finding.detail,
                    "means": "" if finding.state == "yes" else finding.missing,
                }
                for finding in self.findings
            ],
            "events": dict(sorted(self.events.items())),
            "unknown_frames": self.unknown_frames,
            "profile_entry": self.profile_entry(),
        }


def show(report: Report, console: Console) -> None:
    """The table, what is missing in plain words, and the verdict."""
    capabilities = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("capability", "", "found"):
        capabilities.add_column(column, overflow="fold")
    for finding in report.findings:
        capabilities.add_row(finding.name, f"[{_STYLES[finding.state]}]{finding.state}[/]", Text(finding.detail))
    console.print(capabilities)
    if report.events:
        names = ", ".join(f"{name} ({count})" for name, count in sorted(report.events.items()))
        console.print(f"Events seen: {names}", markup=False, highlight=False, soft_wrap=True, style="dim")
    for finding in report.findings:
        if finding.state != "yes" and finding.missing:
            console.print(f"- {finding.name}: {finding.missing}", markup=False, highlight=False, soft_wrap=True)
    entry = report.profile_entry()
    if entry:
        console.print("For config/profiles.yaml:", style="bold")
        console.print(entry, markup=False, highlight=False, soft_wrap=True)
    verdict = "[green]A call would work." if report.would_work else "[red]A call would not work."
    console.print(verdict)
