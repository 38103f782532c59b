"""A study's outcome in words, from its intervals alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from modelzoo.compare.effects import NO_DIFFERENCE
from modelzoo.compare.run_results import DIVERGED
from modelzoo.report.numbers import count, duration, percent

TINY = 50_000_000
"""Parameters below which a model is called tiny."""
MOST_NAMED = 3


def answer(report: Mapping[str, Any]) -> dict[str, Any]:
    """`headline`, and three `sentences`: the effects; the budget and what was held equal; the limits."""
    effects = [effect for effect in report["effects"] if effect["domain"] == report["primary"]]
    sentences = [_outcome(report, effects), _held(report, effects), _limits(report, effects)]
    return {"headline": _headline(report, effects), "sentences": sentences}


def _headline(report: Mapping[str, Any], effects: Sequence[Mapping[str, Any]]) -> str:
    """Runs that diverged come first, and what they are compared with is not judged by the seeds that are left."""
    judged = [effect for effect in effects if effect["verdict"] != DIVERGED]
    if len(judged) == len(effects):
        return _verdicts(judged)
    diverged = _diverged(report)
    if judged:
        return f"{diverged}. {_verdicts(judged, 'other comparisons')}"
    rest = (
        f"{effects[0]['arm']} is not judged against {effects[0]['against']}" if len(effects) == 1 else "none is judged"
    )
    return f"{diverged}: {rest}."


def _diverged(report: Mapping[str, Any]) -> str:
    planned = _seeds(len(report["seeds"]))
    lost = [(arm["name"], len(arm["diverged_seeds"])) for arm in report["arms"] if arm["diverged_seeds"]]
    told = [f"{name}{' has diverged' * (not place)} from {n} of {planned}" for place, (name, n) in enumerate(lost)]
    return "; ".join([*told[:MOST_NAMED], *([f"{len(told) - MOST_NAMED} more arms too"] if told[MOST_NAMED:] else [])])


def _verdicts(effects: Sequence[Mapping[str, Any]], comparisons: str = "comparisons") -> str:
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
        return f"All {len(effects)} {comparisons} are equal, bit by bit."
    if all(effect["verdict"] in ("one seed", "equal") for effect in effects):
        return "It cannot be said: one seed does not tell one arm from another."
    shown = {verdict: [e for e in effects if e["verdict"] == verdict] for verdict in ("better", "worse")}
    number = sum(map(len, shown.values()))
    if not number:
        return f"No difference shown in any of {len(effects)} {comparisons}."
    named = "; ".join(f"{verdict}: {_names(found)}" for verdict, found in shown.items() if found)
    return (
        f"{number} of {len(effects)} {comparisons} show{'s' * (number == 1)} a difference. "
        f"{named[0].upper()}{named[1:]}."
    )


def _outcome(report: Mapping[str, Any], effects: Sequence[Mapping[str, Any]]) -> str:
    """What was judged, and what was not."""
    lost = [effect for effect in effects if effect["verdict"] == DIVERGED]
    judged = [effect for effect in effects if effect["verdict"] != DIVERGED]
    told = [_judged(report, judged)] if judged or not lost else []
    return " ".join([*told, *([_survivors(lost)] if lost else [])])


def _survivors(lost: Sequence[Mapping[str, Any]]) -> str:
    """What is left where runs diverged."""
    if len(lost) > 1:
        named = [f"{effect['arm']} against {effect['against']}" for effect in lost]
        named = [*named[:MOST_NAMED], *([f"{len(named) - MOST_NAMED} more"] if named[MOST_NAMED:] else [])]
        return f"Not judged, as runs of either arm have diverged: {'; '.join(named)}."
    (only,) = lost
    if only["relative"] is None:
        return f"{only['arm']} and {only['against']} have no seed from which both ended."
    return (
        f"From the {_seeds(len(only['seeds']))} from which both ended {_needs(only)}; as others have diverged, these "
        "are no sample of the arms, so there is no interval and no verdict."
    )


def _judged(report: Mapping[str, Any], effects: Sequence[Mapping[str, Any]]) -> str:
    """The one effect, or those that are shown, or the largest of those that are not."""
    measured = sorted(effects, key=lambda e: (e["verdict"] not in ("better", "worse"), -abs(e["relative"])))
    if not measured:
        return "No comparison has been measured."
    level = f"{100 * report['confidence']:g} %"
    first, seeds = measured[0], _compared(effects)
    of_text = "text" if len(report["domains"]) == 1 else f"text, mean of {len(report['domains'])} domains"
    if first["verdict"] == "equal" and len(effects) == 1:
        return f"They lose the same on every held-out document, to the last digit ({seeds})."
    if len(effects) == 1:
        interval = "no interval" if first["interval"] is None else f"{level} interval {_interval(first)}"
        chance = ", which may be chance" if first["verdict"] == NO_DIFFERENCE else ""
        return f"{_needs(first)} on the same {of_text} ({interval}, {seeds}){chance}."
    shown = [effect for effect in measured if effect["verdict"] in ("better", "worse")]
    named = shown[:MOST_NAMED] or measured[:1]
    words = "; ".join(f"{_needs(e)} ({_interval(e) if e['interval'] else 'no interval'})" for e in named)
    more = f"; {len(shown) - MOST_NAMED} more are below" if len(shown) > MOST_NAMED else ""
    largest = "The largest change may be chance: " if not shown else ""
    together = f"; the intervals hold with {level} for all {report['comparisons']} comparisons together"
    return f"{largest}{words}{more}. On the same {of_text}, {seeds}{together if first['interval'] else ''}."


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


def _held(report: Mapping[str, Any], effects: Sequence[Mapping[str, Any]]) -> str:
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
    planned, seeds = _seeds(len(report["seeds"])), _compared(effects)
    trained, each = (
        ("was trained", planned) if seeds == planned else ("is to be trained", f"{planned} ({seeds} could be compared)")
    )
    return f"Each arm {trained} on {_budget(report)} from each of {each}{held} {outcome}{rest}."


def _is_of_training(check: Mapping[str, Any]) -> bool:
    return check["check"].startswith(tuple(f"same {what}" for what in ("documents", "global batch", "schedule")))


def _budget(report: Mapping[str, Any]) -> str:
    unit, given = report["budget"]["unit"], report["budget"].get("amount")
    if unit == "seconds":
        return f"what it can read in {duration(given)}"
    amount: float = given or report["arms"][0][unit]
    shown = {"tokens": "tokens", "bytes": "bytes of text", "flops": "FLOPs' worth of text"}[unit]
    return f"{amount:.3g} {shown}" if unit == "flops" else f"{count(amount)} {shown}"


def _limits(report: Mapping[str, Any], effects: Sequence[Mapping[str, Any]]) -> str:
    sizes = [arm["parameters"] for arm in report["arms"]]
    models = f"{'tiny ' if max(sizes) < TINY else ''}models of {count(max(sizes))} parameters"
    return (
        f"This is known of {models} and this much text, from {_compared(effects)}; larger models, longer "
        "training or other text may come out otherwise."
    )


def _compared(effects: Sequence[Mapping[str, Any]]) -> str:
    """From how many seeds the comparisons are, which may be fewer than were planned."""
    numbers = [len(effect["seeds"]) for effect in effects] or [0]
    few, many = min(numbers), max(numbers)
    return _seeds(many) if few == many else f"{few} to {_seeds(many)}"


def _seeds(number: int) -> str:
    return f"{number or 'no'} seed{'s' * (number != 1)}"
