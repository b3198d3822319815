"""What the benchmarks share: a clock, and the page that says what was measured, on which machine, with which result."""
import datetime
import os
import platform
import time
from importlib.metadata import version
from typing import Any, Callable, Sequence

import pandas as pd


def timed(work: Callable) -> tuple[Any, float]:  # what it gives, seconds
    "Run something once."
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def seconds(values: Sequence[float]) -> str:
    "The sum of some turns, with the shortest and the longest."
    return f"{sum(values):.3g}" + (f" ({min(values):.3g}–{max(values):.3g})" if len(values) > 1 else "")


def markdown_table(
    lines: pd.DataFrame | list[dict],  # a row a measurement
) -> str:
    "A table as markdown."
    frame = pd.DataFrame(lines)
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def machine(
    device: str,  # threads, and what else computes
    *packages: str,  # whose versions matter
) -> str:
    "Date, cores, versions."
    versions = "".join(f", {name} {version(name)}" for name in packages)
    return f"{datetime.date.today()}, {os.cpu_count()} cores ({platform.machine()}), {device}; Python {platform.python_version()}{versions}."


def page(
    title: str,
    facts: str,  # of machine and data
    ways: str,  # docstring of the benchmark; what stands behind "What is measured:" is kept
    lines: pd.DataFrame | list[dict],
) -> str:
    "A page of results."
    return f"# {title}\n\n{facts}\n\n```\n{ways[ways.index('What is measured:') :].strip()}\n```\n\n{markdown_table(lines)}"
