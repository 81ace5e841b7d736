"""Plots of the rows of a run: ratio against goal, and the latency of following. SVG, small, the same for equal rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams.update({"svg.hashsalt": "mqcore", "svg.fonttype": "none", "font.size": 9})

from matplotlib import pyplot  # noqa: E402  (the backend comes first)

REACHED, BELOW, GOAL = "#2a7f62", "#c8553d", "#222222"
ORDER = {  # top to bottom
    "engine": ("append_", "read_", "batch_", "crc32c_", "recover", "dedup_", "vs_", "follow_", "memory_"),
    "eos": ("eos_", "commit_", "pipeline_", "consumer_", "state_", "offset_", "snowflake", "memory_"),
}
NAMES = {"engine": "performance-ratios.svg", "eos": "performance-eos.svg"}


def draw(suite: str, rows: list[dict[str, Any]], out: Path) -> None:
    """Write the suite's ratios and, if the rows have it, performance-latency.svg into out."""
    ordered = [row for stem in ORDER[suite] for row in rows if row["name"].startswith(stem)]
    _ratios(ordered, out / NAMES[suite])
    for row in rows:
        if row["name"] == "follow_latency" and row["extra"]:
            _latency(row["extra"], out / "performance-latency.svg")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def _ratios(rows: list[dict[str, Any]], path: Path) -> None:
    """Each row's ratio as a share of its goal: the line at 1 is the goal, the whisker lowest to highest round."""
    figure, axes = pyplot.subplots(figsize=(7.2, 0.6 + 0.24 * len(rows)))
    for place, row in enumerate(rows):
        share = row["ratio"] / row["goal"]
        axes.barh(place, share, color=REACHED if row["reached"] else BELOW, height=0.7)
        low, high = (value / row["goal"] for value in row["spread"])
        if high > 0:
            axes.plot([low, min(high, 2.4)], [place, place], color=GOAL, linewidth=0.8)
        axes.text(0.02, place, f"{row['ratio']:.2f} of {row['base']}, goal {row['goal']:.2f}", va="center",
                  color="white", fontsize=6.5)  # fmt: skip
    axes.axvline(1, color=GOAL, linewidth=1)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, 2.4)
    axes.set_xlabel("ratio to the base, as a share of the goal (1 = goal reached); line: lowest to highest round")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _save(figure, path)


def _latency(extra: dict[str, float], path: Path) -> None:
    """Percentiles of the time from send() to the record in another process, beside those of a loopback round trip."""
    figure, axes = pyplot.subplots(figsize=(6.4, 2.8))
    for side, label, colour in (("base", "loopback round trip of 100 B", GOAL), ("ours", "send() to record", REACHED)):
        points = [(name, value) for name, value in extra.items() if name.startswith(side)]
        shares = [name.removeprefix(f"{side}_p").removesuffix("_us") for name, _ in points]
        values = [value for _, value in points]
        axes.plot(range(len(points)), values, "o-", color=colour, label=label)
        for at, value in enumerate(values):
            axes.annotate(f"{value:.0f}", (at, value), textcoords="offset points", xytext=(0, 6), ha="center",
                          fontsize=7, color=colour)  # fmt: skip
    axes.set_xticks(range(len(shares)), [f"p{share}" for share in shares])
    axes.set_yscale("log")
    axes.margins(y=0.25)
    axes.set_ylabel("µs")
    axes.legend(frameon=False, loc="upper left")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _save(figure, path)
