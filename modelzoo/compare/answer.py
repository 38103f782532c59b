"""A study's outcome in words, from its intervals alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelzoo.compare.effects import NO_DIFFERENCE
from modelzoo.report.numbers import count, duration, percent

TINY = 50_000_000
"""Parameters below which a model is called tiny."""
MOST_NAMED = 3


def answer(report: Mapping[str, Any]) -> dict[str, Any]:
    """`headline`, and three `sentences`: the effects; the budget and what was held equal; the limits."""
    effects = [effect for effect in report["effects"] if effect["domain"] == report["primary"]]
    return {"headline": _headline(effects), "sentences": [_outcome(report, effects), _held(report), _limits(report)]}


def _headline(effects: Sequence[Mapping[str, Any]]) -> str:
    if not effects:
        return "Nothing can be said yet: no two arms have a finished run of the same seed."
    if len(effects) == 1:
        (only,) = effects
        arm, other = only["arm"], only["against"]
        return {
            "better": f"{arm} is better than {other}: {_amount(only)}.",
            "worse": f"{arm} is worse than {other}: {_amount(only)}.",
            "equal": f"{arm} and {other} are equal, bit by bit.",
            "one seed": f"It cannot be said: one seed does not tell {arm} from {other}.",
            NO_DIFFERENCE: f"No difference shown between {arm} and {other}.",
        }[only["verdict"]]
    if all(effect["verdict"] == "equal" for effect in effects):
        return f"All {len(effects)} comparisons are equal, bit by bit."
    if all(effect["verdict"] in ("one seed", "equal") for effect in effects):
        return "It cannot be said: one seed does not tell one arm from another."
    shown = {verdict: [e for e in effects if e["verdict"] == verdict] for verdict in ("better", "worse")}
    number = sum(map(len, shown.values()))
    if not number:
        return f"No difference shown in any of {len(effects)} comparisons."
    named = "; ".join(f"{verdict}: {_names(found)}" for verdict, found in shown.items() if found)
    return (
        f"{number} of {len(effects)} comparisons show{'s' * (number == 1)} a difference. {named[0].upper()}{named[1:]}."
    )


def _outcome(report: Mapping[str, Any], effects: Sequence[Mapping[str, Any]]) -> str:
    measured = sorted(
        effects, key=lambda effect: (effect["verdict"] not in ("better", "worse"), -abs(effect["relative"]))
    )
    if not measured:
        return "No comparison has been measured."
    level = f"{100 * report['confidence']:g} %"
    if len(effects) == 1:
        return _in_words(measured[0], report, f"{level} interval ")
    number = max(1, sum(effect["verdict"] in ("better", "worse") for effect in effects))
    named = [_in_words(effect, report, "") for effect in measured[: min(number, MOST_NAMED)]]
    more = f" The table has {number - MOST_NAMED} more." if number > MOST_NAMED else ""
    together = f" The intervals hold with {level} for all {report['comparisons']} comparisons together."
    return " ".join(named) + more + (together if any(e["interval"] for e in effects) else "")


def _in_words(effect: Mapping[str, Any], report: Mapping[str, Any], label: str) -> str:
    arm, other, seeds = effect["arm"], effect["against"], _seeds(effect)
    text = "text" if len(report["domains"]) == 1 else f"text, mean of {len(report['domains'])} domains"
    if effect["verdict"] == "equal":
        return f"{arm} and {other} lose the same on every held-out document, to the last digit ({seeds})."
    interval = "no interval"
    if effect["interval"] is not None:
        low, high = (percent(end) for end in effect["interval"])
        interval = f"{label}{low} to {high}"
    chance = ", which may be chance" if effect["verdict"] == NO_DIFFERENCE else ""
    return f"{arm} needs {_amount(effect)} than {other} on the same {text} ({interval}, {seeds}){chance}."


def _amount(effect: Mapping[str, Any]) -> str:
    size = percent(abs(effect["relative"])).lstrip("+")
    return f"{size} {'fewer' if effect['relative'] < 0 else 'more'} bits per byte"


def _names(effects: Sequence[Mapping[str, Any]]) -> str:
    names = [effect["arm"] for effect in sorted(effects, key=lambda effect: -abs(effect["relative"]))]
    if len(names) > MOST_NAMED:
        names = [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _held(report: Mapping[str, Any]) -> str:
    checks = report["fairness"]
    wanted = tuple(f"same {what}" for what in ("documents", "held-out", "budget", "global batch", "schedule"))
    broken = [check["check"] for check in checks if check["held"] is False]
    unknown = sum(check["held"] is None for check in checks)
    outcome = f"all {len(checks) - unknown} checks of fairness hold"
    if broken:
        outcome = f"{len(broken)} of {len(checks) - unknown} checks of fairness do not hold ({'; '.join(broken)})"
        outcome = outcome.replace(" do not", " does not") if len(broken) == 1 else outcome
    rest = f", and {unknown} could not be made" if unknown else ""
    equal = [
        check["check"].removeprefix("same ") for check in checks if check["held"] and check["check"].startswith(wanted)
    ]
    held = f" Equal for all: {', '.join(equal)}." if equal else ""
    return f"Each arm was trained on {_budget(report)}, once from each of {_seeds(report)}; {outcome}{rest}.{held}"


def _budget(report: Mapping[str, Any]) -> str:
    arms, unit = report["arms"], report["budget"]["unit"]
    amount = report["budget"].get("amount") or (arms[0][unit] if unit != "seconds" else None)
    if unit == "seconds":
        return f"what it can read in {duration(amount)}"
    shown = {"tokens": "tokens", "bytes": "bytes of text", "flops": "FLOPs' worth of text"}[unit]
    return f"{count(amount)} {shown}" if unit != "flops" else f"{amount:.3g} {shown}"


def _limits(report: Mapping[str, Any]) -> str:
    sizes = [arm["parameters"] for arm in report["arms"]]
    models = f"{'tiny ' if max(sizes) < TINY else ''}models of {count(max(sizes))} parameters"
    return (
        f"This is known of {models} and this much text, from {_seeds(report)}; larger models, longer "
        "training or other text may come out otherwise."
    )


def _seeds(found: Mapping[str, Any]) -> str:
    number = len(found["seeds"])
    return f"{number} seed{'s' * (number != 1)}"
