"""What to try next, by rules: each looks at the numbers, and says what it saw and who found that the remedy works."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from modelzoo.report.domains import TOLERANCE, Domain
from modelzoo.report.numbers import count, general, percent, share

IBRAHIM = "Ibrahim et al. 2024, arXiv:2403.08763"
GUPTA = "Gupta et al. 2023, arXiv:2308.04014"
HAGELE = "Hägele et al. 2024, arXiv:2405.18392"
MUENNIGHOFF = "Muennighoff et al. 2023, arXiv:2305.16264"
STEADY = 0.005
"""A change of less than this part is none worth acting on."""
EPOCHS = 4
"""Repetitions up to which repeated text is worth nearly as much as new text."""
REPLAY = (0.01, 0.05, 0.25, 0.5)
"""Shares of the old distribution, from what suffices for a weak shift to a strong one."""


@dataclass(frozen=True)
class Step:
    """One thing to try."""

    do: str
    why: str
    source: str
    """Empty where the reason is in the numbers themselves."""


@dataclass(frozen=True)
class Seen:
    """What the rules look at."""

    domains: Sequence[Domain]
    epochs: dict[str, float]
    """By training source."""
    lr: Sequence[tuple[int, float]]
    """(tokens, learning rate)."""
    continued: bool
    complete: bool = True

    @property
    def new(self) -> list[Domain]:
        """Those the run was to learn."""
        return [domain for domain in self.domains if domain.role == "new"]

    @property
    def old(self) -> list[Domain]:
        """Those it was to keep."""
        return [domain for domain in self.domains if domain.role == "old"]

    @property
    def peak_lr(self) -> float:
        """The highest learning rate; 0 where none is recorded."""
        return max((rate for _, rate in self.lr), default=0.0)


def advice(seen: Seen) -> list[Step]:
    """The steps that apply, the most pressing first."""
    rules = (_measure, _learned_nothing, _forgetting, _rise_at_the_start, _passed_its_best, _still_falling, _repeated)
    return [step for rule in (*rules, _wide_intervals) for step in rule(seen)]


def _measure(seen: Seen) -> Iterator[Step]:
    if not seen.continued:
        return
    if not any(domain.before is not None for domain in seen.domains):
        yield Step(
            "Evaluate every domain at step 0 as well.",
            "Without the old model's own numbers on the same text, neither gain nor loss is known.",
            "",
        )
    if not seen.old:
        yield Step(
            "Name a held-out set of what the old model was trained on in data.validation.sources.",
            "Only what is measured can be seen to be forgotten.",
            IBRAHIM,
        )
    if not seen.new:
        yield Step(
            "Name a held-out split of the new corpus in data.validation.sources.",
            "Its gain is the reason for the run, and was not measured.",
            "",
        )


def _learned_nothing(seen: Seen) -> Iterator[Step]:
    for domain in seen.new:
        if domain.verdict == "worse":
            yield Step(
                f"Lower the peak learning rate, from {general(seen.peak_lr)} to a third of it, or train for longer.",
                f"{domain.name} is {percent(domain.change or 0).lstrip('+')} worse than before: warming the rate up "
                "again raises the loss first, and the run ended before that was made good.",
                GUPTA,
            )
        elif domain.verdict == "no change shown" and domain.interval is not None:
            yield Step(
                f"Train on more tokens, or raise the peak learning rate from {general(seen.peak_lr)}.",
                f"No gain is shown on {domain.name}; a rate that is warmed up again adapts faster.",
                GUPTA,
            )


def _forgetting(seen: Seen) -> Iterator[Step]:
    worse = [d for d in seen.old if d.verdict == "worse" and (d.change or 0) > TOLERANCE]
    if not worse:
        return
    replayed = min(1.0, sum(domain.share for domain in seen.old))
    next_share = next((s for s in REPLAY if s > replayed * 1.2 + 0.005), None)
    what = ", ".join(f"{domain.name} {percent(domain.change or 0)}" for domain in worse)
    if next_share is not None:
        do = f"Raise the replayed share of the old distribution from {share(replayed)} to {share(next_share)}."
        if replayed == 0:
            do = "Replay some of the old distribution: 5 % of the tokens, 25 % where the new text is very different."
        yield Step(do, f"The old domains got worse ({what}); replay costs the new domain little.", IBRAHIM)
    if seen.peak_lr:
        yield Step(
            f"Lower the peak learning rate, from {general(seen.peak_lr)} to {general(seen.peak_lr / 2)}.",
            "The higher the rate is warmed up again, the more is learned and the more is forgotten.",
            f"{GUPTA}; {IBRAHIM}",
        )


def _rise_at_the_start(seen: Seen) -> Iterator[Step]:
    for domain in seen.old:
        changes = [(point.tokens, point.change) for point in domain.points if point.change is not None]
        if len(changes) < 5:
            continue
        end, last = changes[-1]
        tokens, top = max(changes, key=lambda entry: entry[1])
        if 0 < tokens <= 0.4 * end and top > last + STEADY and top > STEADY:
            yield Step(
                "Spread the re-warming over more tokens, or do without it: a constant rate with a cooldown.",
                f"{domain.name} was {percent(top).lstrip('+')} worse after {count(tokens)} tokens and recovered to "
                f"{percent(last)}: that rise comes of the re-warming (whose length mattered little in these studies).",
                f"{GUPTA}; {IBRAHIM}",
            )
            return


def _passed_its_best(seen: Seen) -> Iterator[Step]:
    for domain in seen.new:
        best = min(domain.points, key=lambda point: point.value)
        if best.step > 0 and domain.after > best.value * (1 + STEADY):
            yield Step(
                f"Stop after {count(best.tokens)} tokens, or add new text.",
                f"{domain.name} was at its best there ({best.value:.4f}), and is at {domain.after:.4f} now.",
                "",
            )


def _still_falling(seen: Seen) -> Iterator[Step]:
    for domain in seen.new if seen.complete else ():
        end = domain.points[-1].tokens
        late = [point for point in domain.points if 0.75 * end <= point.tokens < end and point.step > 0]
        if not late or domain.verdict == "worse":
            continue
        gain = 1 - domain.after / late[0].value
        if gain > STEADY:
            cooled = bool(seen.lr) and seen.lr[-1][1] < 0.2 * seen.peak_lr
            do = "Train on more tokens."
            if cooled:
                do += " Plan a longer run, rather than adding to this one: its learning rate has come down already."
            yield Step(
                do,
                f"{domain.name} still fell by {percent(gain).lstrip('+')} over the last "
                f"{share(1 - late[0].tokens / end)} of the tokens.",
                HAGELE if cooled else "",
            )


def _repeated(seen: Seen) -> Iterator[Step]:
    for name, epochs in seen.epochs.items():
        if epochs > EPOCHS:
            yield Step(
                f"Get more text for {name or 'the training data'}, or end sooner.",
                f"It was read {epochs:.1f} times; beyond {EPOCHS} each further time teaches less.",
                MUENNIGHOFF,
            )


def _wide_intervals(seen: Seen) -> Iterator[Step]:
    """Intervals shrink with the root of the amount of text."""
    for domain in seen.domains:
        if domain.change is not None and domain.interval is None:
            yield Step(
                f"Evaluate {domain.name} on more text, in at least ten blocks.",
                "There is no interval for it, so its change may be chance.",
                "",
            )
            continue
        if domain.interval is None or domain.role == "new" or domain.kept or domain.lost:
            continue
        half, room = (domain.interval[1] - domain.interval[0]) / 2, TOLERANCE - (domain.change or 0)
        if 0 < room < half:
            yield Step(
                f"Evaluate {domain.name} on about {(half / room) ** 2:.2g} times as much text.",
                f"Its interval ({percent(domain.interval[0])} … {percent(domain.interval[1])}) does not tell whether "
                f"it lost more than {percent(TOLERANCE, 0).lstrip('+')}.",
                "",
            )
