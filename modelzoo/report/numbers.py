"""Numbers as people read them. A minus is a minus sign, so that it is as wide as a plus."""

import math
from collections.abc import Sequence
from itertools import pairwise

THIN = "\u202f"


def signed(value: float, digits: int) -> str:
    """`+1.20`, `−0.35`; what rounds to zero has no sign."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def percent(fraction: float, digits: int = 2) -> str:
    """A change: 0.0123 is `+1.23 %`. Large ones have fewer decimals."""
    value = 100 * fraction
    return signed(value, max(0, digits - (abs(value) >= 10) - (abs(value) >= 100))) + THIN + "%"


def percent_interval(interval: Sequence[float] | None, digits: int = 2) -> str:
    """`−1.30 … −0.90 %`, or a dash where there is none."""
    if interval is None:
        return "–"
    low, high = (percent(end, digits) for end in interval)
    return f"{low.removesuffix(THIN + '%')} … {high}"


def share(fraction: float) -> str:
    """A part of a whole: `5.0 %`."""
    return f"{100 * fraction:.1f}{THIN}%"


def count(value: float) -> str:
    """`1,234`, `2.5 M`: three digits or so."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(value) >= 0.9995 * size:
            return (
                f"{value / size:.3g}{THIN}{unit}" if abs(value) < 999.5 * size else f"{value / size:,.0f}{THIN}{unit}"
            )
    return f"{value:,.0f}" if abs(value) < 100_000 else f"{value / 1e3:.0f}{THIN}k"


def duration(seconds: float) -> str:
    """`3 h 05 min`, `4 min 10 s`, `12 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600:,} h {whole // 60 % 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def probability(value: float | None) -> str:
    """Of a test: `0.013`, `< 0.001`."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def general(value: float) -> str:
    """Four significant digits: of losses, learning rates."""
    return f"{value:.4g}".replace("-", "−")


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, both inside, at most `most` + 1."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between two positive numbers; where there are fewer than three, 2 and 5 times them as well."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    tens = [10.0**p for p in powers if low <= 10.0**p <= high]
    return tens if len(tens) >= 3 else [f * 10.0**p for p in powers for f in (1, 2, 5) if low <= f * 10.0**p <= high]


def decimals(values: Sequence[float]) -> int:
    """Decimals that tell neighbouring ticks apart."""
    step = min((b - a for a, b in pairwise(values) if b > a), default=1.0)
    return max(0, min(8, next(d for d in range(12) if abs(round(step, d) - step) <= 1e-6 * step)))
