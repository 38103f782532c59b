"""May the new model replace the old? The answer by rule, in words, from the intervals alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modelzoo.report.domains import TOLERANCE, Domain
from modelzoo.report.numbers import percent, percent_interval

QUESTION = "May the new model replace the old?"


@dataclass(frozen=True)
class Answer:
    """`open`: the measurements do not tell."""

    verdict: Literal["yes", "no", "open"]
    headline: str
    sentences: tuple[str, ...]


def answer(
    domains: Sequence[Domain], continued: bool, complete: bool = True, before_vocab: str | None = None
) -> Answer:
    """The first rule that applies. `continued`: the run began with another model's weights; `before_vocab`: which had
    been given another tokenizer, and were this checkpoint before."""
    new, old = ([d for d in domains if d.role == role] for role in ("new", "old"))
    verdict, headline = _rule(new, old, continued)
    sentences = [*_gains("new", new), *_gains("old", old)]
    if before_vocab is not None:
        sentences.append(
            "Step 0 is the base after it was given another tokenizer, which has a cost of its own. The model before is "
            f"{before_vocab}: modelzoo evaluate gives its bits per byte on the same text."
        )
        if verdict == "yes":
            verdict, headline = (
                "open",
                "Not yet known: it is better than its base, but that had lost its tokenizer first.",
            )
    if continued and not old:
        sentences.append("No old domain was evaluated, so what was forgotten is not known.")
    if not complete:
        sentences.append("The run is not at its end: these are the newest numbers.")
    sentences.append(
        f"A loss that rises by up to {percent(TOLERANCE, 0).lstrip('+')} counts as kept. The intervals are of 95 % and "
        "speak of other text of the same kind, not of other seeds of the run, and not of anything but the loss."
    )
    return Answer(verdict, headline, tuple(sentences))


def _rule(new: Sequence[Domain], old: Sequence[Domain], continued: bool) -> tuple[Literal["yes", "no", "open"], str]:
    if not continued:
        return "open", "There is no old model: this run began with weights drawn at random."
    if not any(domain.change is not None for domain in [*new, *old]):
        if any(domain.unpaired for domain in [*new, *old]):
            return "open", "It cannot be said: the newest evaluation is not of the text that the first was of."
        return "open", "It cannot be said: nothing was measured before the first update."
    if lost := [domain for domain in old if domain.lost]:
        return "no", f"No: it has forgotten. {_changes(lost)}."
    if worse := [domain for domain in new if domain.verdict == "worse"]:
        return "no", f"No: it became worse even where it was to learn. {_changes(worse)}."
    if not new:
        return "open", "It cannot be said: no new domain was evaluated, so no gain is known."
    unsure = [domain for domain in [*new, *old] if domain.interval is None]
    if unsure:
        return "open", f"It cannot be said: there is no interval for {_names(unsure)}."
    if not any(domain.verdict == "better" for domain in new):
        return "no", f"No: no gain is shown on {_names(new)}."
    if not old:
        return "open", f"Not yet known: it is better on {_names(new)}, but what it forgot was not measured."
    if unkept := [domain for domain in old if not domain.kept]:
        return "open", f"Not shown: {_names(unkept)} may have lost more than {percent(TOLERANCE, 0).lstrip('+')}."
    return "yes", f"Yes: better on {_names([d for d in new if d.verdict == 'better'])}, with {_names(old)} kept."


def _gains(role: str, domains: Sequence[Domain]) -> list[str]:
    """A sentence about up to three domains; of more, about the best and the worst."""
    measured = sorted((d for d in domains if d.change is not None), key=lambda d: d.change or 0.0)
    if not measured:
        return []
    chosen = measured if len(measured) <= 3 else [measured[0], measured[-1]]
    subject = f"{role.capitalize()} domain{'s' if len(measured) > 1 else ''}"
    if len(measured) > 3:
        subject += f", the best and the worst of {len(measured)}"
    return [f"{subject}: " + "; ".join(map(_in_words, chosen)) + "."]


def _in_words(domain: Domain) -> str:
    assert domain.change is not None
    amount = percent(abs(domain.change)).lstrip("+")
    became = f"gained {amount}" if domain.change < 0 else f"lost {amount}" if domain.change > 0 else "did not move"
    if domain.interval is None:
        return f"{domain.name} {became} (no interval)"
    shown = "" if domain.verdict != "no change shown" else ", which may be chance"
    return f"{domain.name} {became} in {domain.unit} ({percent_interval(domain.interval)}{shown})"


def _changes(domains: Sequence[Domain]) -> str:
    worst = sorted(domains, key=lambda domain: -(domain.change or 0.0))
    more = [f"{len(worst) - 2} more"] if len(worst) > 3 else []
    return _listed([f"{d.name} {percent(d.change or 0.0)}" for d in (worst[:2] if more else worst)] + more)


def _names(domains: Sequence[Domain]) -> str:
    names = [domain.name for domain in domains]
    shown = names if len(names) <= 3 else [*names[:2], f"{len(names) - 2} more"]
    return _listed(shown)


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
