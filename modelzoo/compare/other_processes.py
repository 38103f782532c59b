"""How busy other processes keep the machine while something is timed, as far as the system tells."""

import os
import time
from pathlib import Path

BUSY = 0.06
"""Part of the CPU that other processes may use in a round that counts."""
MOST_ROUNDS = 2
"""Times the rounds that are wanted: how many are taken at the most, to replace those that others disturbed."""
CPU_TIMES = Path("/proc/stat")
FIELDS = (0, 1, 2, 5, 6, 7)
"""Of the fields of its first line: user, nice, system, irq, softirq, steal; but not 3 and 4, idle and iowait."""
RESOLUTION_SECONDS = 0.02
"""The system counts in ticks of a hundredth; two of them may be this process's own."""


class OtherProcesses:
    """The part of all CPUs' time that other processes took since `start`; of virtual machines, other machines too."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin to count."""
        self._before = _cpu_seconds()
        self._own_before = time.process_time()

    @property
    def known(self) -> bool:
        """Whether this system tells: Linux does."""
        return self._before is not None

    def share(self) -> float | None:
        """Since `start`, between 0 and 1; None where the system does not tell."""
        after = _cpu_seconds()
        if self._before is None or after is None or after[1] <= self._before[1]:
            return None
        busy, total = (now - before for now, before in zip(after, self._before, strict=True))
        others = busy - (time.process_time() - self._own_before) - RESOLUTION_SECONDS
        return min(1.0, max(0.0, others / total))


def _cpu_seconds() -> tuple[float, float] | None:
    """Seconds that all CPUs together were busy, and all seconds, since the system came up."""
    try:
        fields = [int(field) for field in CPU_TIMES.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
        tick = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
    if len(fields) < 8 or not any(fields):
        return None
    return sum(fields[index] for index in FIELDS) / tick, sum(fields) / tick
