"""Figures as docs/performance.json keeps them, and the page and plots made of them."""

import io
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.compare import Figure, Outcome, Target, table

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, DATA = DOCS / "performance.md", DOCS / "performance.json"
COLORS = 16  # of a plot; with all that antialiasing makes its file is several times as large
TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


def read_report(path: Path = DATA) -> dict[str, Outcome]:
    """The outcomes by name that write_report kept."""
    if not path.exists():
        return {}
    return {name: _outcome(fields) for name, fields in json.loads(path.read_text()).items()}


def write_report(report: Mapping[str, Outcome], docs: Path = DOCS) -> None:
    """Write the figures, their part of the page, and the plots."""
    fields = {name: asdict(outcome) for name, outcome in report.items()}
    (docs / DATA.name).write_text(json.dumps(fields, indent=1, ensure_ascii=False) + "\n")
    page = docs / PAGE.name
    page.write_text(with_figures(page.read_text(), section(report)))
    plot_ratios(report, docs / "ratios.png")
    if "growth" in report:
        plot_growth(report["growth"], docs / "growth.png")


def markers(name: str = "") -> tuple[str, str]:
    """The lines of a page that figures lie between; name is that of the module in bench."""
    what, module = name or "figures", f"bench.{name}" if name else "bench"
    start = f"<!-- {what}: made by python -m {module}; edit the text above or below, not here -->"
    return start, f"<!-- end of {what} -->"


def with_figures(page: str, figures: str, name: str = "") -> str:
    """The page with its part between the markers replaced."""
    start, end = markers(name)
    before, _, rest = page.partition(start)
    _, closed, after = rest.partition(end)
    if not closed:
        raise SystemExit(f"the page has no place for the figures between {start} and {end}")
    return f"{before}{start}\n\n{figures}\n\n{end}{after}"


def section(report: Mapping[str, Outcome]) -> str:
    """The Markdown of all outcomes: what they were measured on, plots, tables."""
    parts = [machine(), "![Ratios and their targets](ratios.png)"]
    for name, outcome in report.items():
        parts.append(f"### {outcome.title}\n\n`python -m bench.{name}`\n\n{table(outcome)}")
        if name == "growth":
            parts.append("![Rates by depth](growth.png)")
    return "\n\n".join(parts)


def machine() -> str:
    """The machine and the versions in a sentence."""
    import psutil

    from llamacli.machine import physical_cores
    from llamacli.machine.devices import find_devices

    memory = psutil.virtual_memory().total / 2**30
    processor = ", ".join(device.description for device in find_devices())
    packages = ", ".join(f"{name} {version(name)}" for name in ("llama-cpp-python", "numpy"))
    return (
        f"Measured on {physical_cores()} cores of {processor}, {memory:.0f} GiB, "
        f"{platform.system()}, Python {platform.python_version()}, {packages}; medians of runs in "
        "turn, with the lowest and the highest. A ratio is that of each round."
    )


def plot_ratios(report: Mapping[str, Outcome], path: Path) -> None:
    """Ratios that have a target, with their range, beside the target."""
    ratios = {
        f"{outcome.title.split(',')[0]}: {one.name}": one
        for outcome in report.values()
        for one in outcome.ratios
        if one.target
    }
    if not ratios:
        return
    figure, axes = _subplots(9, 0.6 + 0.32 * len(ratios))
    for row, one in enumerate(ratios.values()):
        assert one.target is not None
        color = "tab:green" if one.target.met(one.median) else "tab:red"
        axes.plot([one.lowest, one.highest], [row, row], color=color, linewidth=2)
        axes.plot(one.median, row, "o", color=color, markersize=5)
        axes.plot(one.target.limit, row, "<" if one.target.most else ">", color="black")
    axes.set_yticks(range(len(ratios)), list(ratios), fontsize=8)
    axes.set_ylim(len(ratios) - 0.5, -0.5)
    axes.set_xscale("log")
    left, right = axes.get_xlim()
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS], fontsize=8)
    axes.set_xlim(left, right)
    axes.minorticks_off()
    axes.axvline(1, color="gray", linewidth=0.5)
    axes.set_xlabel("ratio (line: range, dot: median, triangle: target)", fontsize=8)
    _save(figure, path)


def plot_growth(outcome: Outcome, path: Path) -> None:
    """Seconds a token by depth: a straight line where attention alone grows."""
    lines: dict[str, list[tuple[int, float]]] = {}
    for one in outcome.figures:
        name, _, depth = one.name.rpartition(" at ")
        lines.setdefault(name, []).append((int(depth), 1000 / one.median))
    figure, axes = _subplots(6, 3.5)
    for name, points in lines.items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
    axes.set_xlabel("depth, tokens")
    axes.set_ylabel("milliseconds a token")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    _save(figure, path)


def _subplots(width: float, height: float) -> Any:
    from matplotlib.figure import Figure as Canvas  # pyplot would keep every one

    figure = Canvas(figsize=(width, height))
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> None:
    from PIL import Image

    figure.tight_layout()
    figure.savefig(drawn := io.BytesIO(), dpi=80, bbox_inches="tight")
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(COLORS).save(path, "PNG", optimize=True)


def _outcome(fields: Mapping[str, Any]) -> Outcome:
    figures, ratios = (tuple(map(_figure, fields[key])) for key in ("figures", "ratios"))
    return Outcome(fields["title"], figures, ratios, fields["note"])


def _figure(fields: Mapping[str, Any]) -> Figure:
    target = fields["target"] and Target(**fields["target"])
    return Figure(**{**fields, "target": target})
