"""A study's outcome in a terminal."""

import textwrap
from collections.abc import Mapping
from typing import Any

from modelzoo.report.numbers import percent, percent_interval

WIDTH = 80
LONGEST_NAME = 18
SHORT = {"no difference shown": "none shown"}


def summary(report: Mapping[str, Any]) -> list[str]:
    """The answer, a line a comparison, and what does not hold or is missing, in lines of at most WIDTH characters."""
    answer = report["answer"]
    lines = [*_wrapped(answer["headline"]), ""]
    effects = [effect for effect in report["effects"] if effect["domain"] == report["primary"]]
    if effects:
        size = min(LONGEST_NAME, max(len(effect["arm"]) for effect in effects))
        level = f"{100 * report['confidence']:g} % interval"
        head = f"{'arm':<{size}}  before   after   change  {level:<18}  difference"
        lines += [head, *(_line(effect, size) for effect in effects), ""]
    for sentence in answer["sentences"][0 if len(effects) == 1 else 1 :]:
        lines += _wrapped(sentence)
    for check in report["fairness"]:
        if check["held"] is False:
            lines += _wrapped(f"Does not hold: {check['check']}: {check['detail']}")
    for sentence in report["missing"]:
        lines += _wrapped(sentence)
    return lines


def _line(effect: Mapping[str, Any], size: int) -> str:
    name = effect["arm"] if len(effect["arm"]) <= size else effect["arm"][: size - 1] + "…"
    if effect["relative"] is None:
        levels = f"{'–':>6}  {'–':>6}  {'–':>7}"
    else:
        levels = f"{effect['before']:>6.4f}  {effect['after']:>6.4f}  {percent(effect['relative']):>7}"
    verdict = SHORT.get(effect["verdict"], effect["verdict"])
    return f"{name:<{size}}  {levels}  {percent_interval(effect['interval']):<18}  {verdict}"


def _wrapped(sentence: str) -> list[str]:
    return textwrap.wrap(sentence, WIDTH)
