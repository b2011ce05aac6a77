"""Reads the test files of `promtool test rules`, so that the console's evaluation runs on the same files."""

import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from console.metering import language
from console.metering.series import Series

PATH = shutil.which("promtool", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path.home() / "go" / "bin")]))
MISSING = "promtool is not on PATH: go install github.com/prometheus/prometheus/cmd/promtool@latest"
STEP_SECONDS = 5.0


def failures(file: Path) -> str:
    """What promtool reports about a test file, or an empty text if all its tests pass."""
    done = subprocess.run([str(PATH), "test", "rules", str(file)], check=False, capture_output=True, text=True)  # noqa: S603
    return "" if done.returncode == 0 else done.stdout + done.stderr


def values(notation: str) -> list[float | None]:
    """The values of the short notation: `0+5x3` is 0, 5, 10, 15, `1x2` is 1 three times, `_x2` is no sample twice."""
    found: list[float | None] = []
    for part in notation.split():
        if blanks := re.fullmatch(r"_(?:x(\d+))?", part):
            found += [None] * int(blanks[1] or 1)
        elif expanded := re.fullmatch(r"(-?[\d.]+)(?:([+-][\d.]+))?x(\d+)", part):
            first, step, times = float(expanded[1]), float(expanded[2] or 0), int(expanded[3])
            found += [first + step * n for n in range(times + 1)]
        else:
            found.append(float(part))
    return found


class Replay:
    """The input series of one test, added to `series` as time goes on."""

    def __init__(self, test: Mapping[str, Any]) -> None:
        self.series = Series()
        self._due: dict[float, list[tuple[str, float]]] = defaultdict(list)
        every = language.seconds(test["interval"])
        for one in test["input_series"]:
            for n, value in enumerate(values(one["values"])):
                if value is not None:
                    self._due[n * every].append((one["series"], value))

    def until(self, at: float) -> None:
        """Add the samples up to this time. Each series is a target of its own, so that none ends before the others."""
        for due in sorted(time for time in self._due if time <= at):
            for text, value in self._due.pop(due):
                self.series.add(text, due, [(text, repr(value))])
