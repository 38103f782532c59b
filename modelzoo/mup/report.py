"""How activations grow with the width, and whether that is what muP promises."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modelzoo.model.config import ModelConfig
from modelzoo.mup.coordinates import ATTENTION_LOGITS, HEAD, LOGITS, Size, measure
from modelzoo.mup.widths import Settings, with_base
from modelzoo.optimizer.base import OptimizerConfig

TOLERANCE = 0.1
"""The largest slope, up or down, that passes: from 128 to 1024 a factor of 1.23."""


Judged = Literal["level", "change", "growth"]
"""level: size and change. change: the change alone. growth: both, and only that they do not grow."""


@dataclass(frozen=True)
class Part:
    """One part of the model at every width: means over seeds."""

    name: str
    sizes: Mapping[int, Size]
    """By width."""
    judged: Judged

    @property
    def size_slope(self) -> float:
        """d log(trained) / d log(width)."""
        return slope({width: size.trained for width, size in self.sizes.items()})

    @property
    def change_slope(self) -> float:
        """d log(change) / d log(width)."""
        return slope({width: size.change for width, size in self.sizes.items()})

    @property
    def worst(self) -> float:
        """What is judged: the slope furthest from 0, or the steepest growth; NaN where something overflowed."""
        slopes = [self.change_slope] if self.judged == "change" else [self.change_slope, self.size_slope]
        if any(map(math.isnan, slopes)):
            return math.nan
        return max(0.0, *slopes) if self.judged == "growth" else max(slopes, key=abs)

    def verdict(self, tolerance: float = TOLERANCE) -> str:
        """ok, grows, shrinks, or overflows."""
        if math.isnan(self.worst):
            return "overflows"
        if abs(self.worst) <= tolerance:
            return "ok"
        return "grows" if self.worst > 0 else "shrinks"


@dataclass(frozen=True)
class CoordinateReport:
    """A check of one parametrisation."""

    parametrisation: str
    settings: Settings
    tolerance: float
    parts: Sequence[Part]

    @property
    def failing(self) -> list[Part]:
        """The parts that are not level, in the order of the forward pass."""
        return [part for part in self.parts if part.verdict(self.tolerance) != "ok"]

    def to_json(self) -> dict[str, Any]:
        """For programs. What is no finite number is null."""
        return {
            "parametrisation": self.parametrisation,
            "ok": not self.failing,
            "tolerance": self.tolerance,
            "settings": vars(self.settings),
            "parts": [
                {
                    "name": part.name,
                    "verdict": part.verdict(self.tolerance),
                    "size_slope": _finite(part.size_slope),
                    "judged": part.judged,
                    "change_slope": _finite(part.change_slope),
                    "widths": {w: {k: _finite(v) for k, v in vars(s).items()} for w, s in part.sizes.items()},
                }
                for part in self.parts
            ],
        }


def check(
    config: ModelConfig,
    optimizer: OptimizerConfig,
    widths: Sequence[int],
    seeds: Sequence[int],
    settings: Settings,
    tolerance: float = TOLERANCE,
    on_model: Callable[[int], None] = lambda width: None,
) -> CoordinateReport:
    """Train `config` at each width from each seed, with its muP base at the narrowest, and compare.

    `on_model` hears of each model that is done.

    Raises:
        UserError: a width does not fit the config.
    """
    config = with_base(config, min(widths))
    for width in widths:  # before anything is trained
        settings.model(config, width)
    measured: dict[int, list[dict[str, Size]]] = {}
    for width in widths:
        for seed in seeds:
            measured.setdefault(width, []).append(measure(config, optimizer, width, seed, settings))
            on_model(width)
    parts = [
        Part(name, {w: _mean([run[name] for run in runs]) for w, runs in measured.items()}, _judged(name, settings))
        for name in measured[widths[0]][0]
    ]
    return CoordinateReport("muP" if config.mup else "standard", settings, tolerance, parts)


def _judged(part: str, settings: Settings) -> Judged:
    """Logits start random, not correlated with what they multiply, and muP means that start to fall as width^-½.

    The output logits always do, and only what training adds to them is level. Those of attention do where
    head_dim grows, and what training adds there mixes with that start.
    """
    if part in (HEAD, LOGITS):
        return "change"
    return "growth" if ATTENTION_LOGITS in part and settings.growth == "head_dim" else "level"


def slope(values: Mapping[int, float]) -> float:
    """Least squares through log(value) against log(width); NaN unless all values are finite and positive."""
    if not all(0 < value < math.inf for value in values.values()):
        return math.nan
    x, y = np.log(list(values.keys())), np.log(list(values.values()))
    return float(((x - x.mean()) * y).sum() / ((x - x.mean()) ** 2).sum())


def _mean(sizes: Sequence[Size]) -> Size:
    """The geometric mean: a seed that is twice as large weighs as much as one that is half."""
    return Size(*(_geometric([getattr(size, name) for size in sizes]) for name in ("initial", "trained", "change")))


def _geometric(values: Sequence[float]) -> float:
    if not all(0 < value < math.inf for value in values):
        return math.nan
    return math.exp(sum(map(math.log, values)) / len(values))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
