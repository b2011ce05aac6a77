"""How long processes waited for a core: so that a verdict about time does not fail because the machine is busy.

Linux counts, for every thread, how long it was ready to run and did not run (the second number of `schedstat`). A test
subtracts this from the time that it measured. On a quiet machine nothing is subtracted.
"""

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sampling import sampled

_EVERY_SECONDS = 0.05

Pids = Callable[[], Iterable[int]]


class Lag:
    """The time that some threads spent waiting for a core, sampled all the time."""

    def __init__(self, pids: Pids = tuple) -> None:
        self._pids = pids
        self._own = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
        self._last: dict[Path, float] = {}
        self._times, self._totals = [time.monotonic()], [0.0]
        self._lock = threading.Lock()

    def sample(self) -> None:
        """Add what the threads have waited since the last sample."""
        with self._lock:
            waited = 0.0
            for source in [self._own, *(Path(f"/proc/{pid}/schedstat") for pid in self._pids())]:
                now = _waited(source)
                waited += max(0.0, now - self._last.get(source, now))
                self._last[source] = now
            self._times.append(time.monotonic())
            self._totals.append(self._totals[-1] + waited)

    def seconds(self, started: float, ended: float) -> float:
        """How long the threads waited between two times of `time.monotonic`, all together."""
        return self._total(ended) - self._total(started)

    def elapsed(self, started: float) -> float:
        """The time since `started`, without the waiting for a core."""
        self.sample()
        ended = time.monotonic()
        return ended - started - self.seconds(started, ended)

    def _total(self, at: float) -> float:
        """Interpolated between the samples around this time."""
        after = bisect_left(self._times, at)
        if after == 0:
            return self._totals[0]
        if after == len(self._times):
            return self._totals[-1]
        before = after - 1
        share = (at - self._times[before]) / (self._times[after] - self._times[before] or 1)
        return self._totals[before] + share * (self._totals[after] - self._totals[before])


def _waited(source: Path) -> float:
    try:
        return int(source.read_text().split()[1]) / 1e9
    except (OSError, IndexError):  # the process is gone, or this is not Linux
        return 0.0


@contextmanager
def measured(pids: Pids = tuple) -> Iterator[Lag]:
    """Measure the lag of this thread, and of the main threads of other processes."""
    lag = Lag(pids)
    with sampled(lag.sample, _EVERY_SECONDS, "lag"):
        yield lag
