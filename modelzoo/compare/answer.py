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
    """The one effect, or those that are shown, or the largest of those that are not."""
    measured = sorted(effects, key=lambda e: (e["verdict"] not in ("better", "worse"), -abs(e["relative"])))
    if not measured:
        return "No comparison has been measured."
    level = f"{100 * report['confidence']:g} %"
    first, seeds = measured[0], max((effect["seeds"] for effect in effects), key=len)
    of_text = "text" if len(report["domains"]) == 1 else f"text, mean of {len(report['domains'])} domains"
    if first["verdict"] == "equal" and len(effects) == 1:
        return f"They lose the same on every held-out document, to the last digit ({_seeds(seeds)})."
    if len(effects) == 1:
        interval = "no interval" if first["interval"] is None else f"{level} interval {_interval(first)}"
        chance = ", which may be chance" if first["verdict"] == NO_DIFFERENCE else ""
        return f"{_needs(first)} on the same {of_text} ({interval}, {_seeds(seeds)}){chance}."
    shown = [effect for effect in measured if effect["verdict"] in ("better", "worse")]
    named = shown[:MOST_NAMED] or measured[:1]
    words = "; ".join(f"{_needs(e)} ({_interval(e) if e['interval'] else 'no interval'})" for e in named)
    more = f"; {len(shown) - MOST_NAMED} more are below" if len(shown) > MOST_NAMED else ""
    largest = "The largest change may be chance: " if not shown else ""
    together = f"; the intervals hold with {level} for all {report['comparisons']} comparisons together"
    return f"{largest}{words}{more}. On the same {of_text}, {_seeds(seeds)}{together if first['interval'] else ''}."


def _needs(effect: Mapping[str, Any]) -> str:
    return f"{effect['arm']} needs {_amount(effect)} than {effect['against']}"


def _interval(effect: Mapping[str, Any]) -> str:
    low, high = (percent(end) for end in effect["interval"])
    return f"{low} to {high}"


def _amount(effect: Mapping[str, Any]) -> str:
    size = percent(abs(effect["relative"])).lstrip("+")
    return f"{size} {'fewer' if effect['relative'] < 0 else 'more'} bits per byte"


def _names(effects: Sequence[Mapping[str, Any]]) -> str:
    names = [effect["arm"] for effect in sorted(effects, key=lambda effect: -abs(effect["relative"]))]
    if len(names) > MOST_NAMED:
        names = [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"]
    return _listed(names)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


def _held(report: Mapping[str, Any]) -> str:
    checks = report["fairness"]
    broken = [check["check"] for check in checks if check["held"] is False]
    unknown = sum(check["held"] is None for check in checks)
    outcome = f"all {len(checks) - unknown} checks of fairness hold"
    if broken:
        outcome = f"{len(broken)} of {len(checks) - unknown} checks of fairness do not hold ({'; '.join(broken)})"
        outcome = outcome.replace(" do not", " does not") if len(broken) == 1 else outcome
    rest = f", and {unknown} could not be made" if unknown else ""
    equal = [check["check"].removeprefix("same ") for check in checks if check["held"] and _is_of_training(check)]
    held = f", with the same {_listed(equal)};" if equal else ";"
    return f"Each arm was trained on {_budget(report)} from each of {_seeds(report['seeds'])}{held} {outcome}{rest}."


def _is_of_training(check: Mapping[str, Any]) -> bool:
    return check["check"].startswith(tuple(f"same {what}" for what in ("documents", "global batch", "schedule")))


def _budget(report: Mapping[str, Any]) -> str:
    unit, given = report["budget"]["unit"], report["budget"].get("amount")
    if unit == "seconds":
        return f"what it can read in {duration(given)}"
    amount: float = given or report["arms"][0][unit]
    shown = {"tokens": "tokens", "bytes": "bytes of text", "flops": "FLOPs' worth of text"}[unit]
    return f"{amount:.3g} {shown}" if unit == "flops" else f"{count(amount)} {shown}"


def _limits(report: Mapping[str, Any]) -> str:
    sizes = [arm["parameters"] for arm in report["arms"]]
    models = f"{'tiny ' if max(sizes) < TINY else ''}models of {count(max(sizes))} parameters"
    return (
        f"This is known of {models} and this much text, from {_seeds(report['seeds'])}; larger models, longer "
        "training or other text may come out otherwise."
    )


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)}"
