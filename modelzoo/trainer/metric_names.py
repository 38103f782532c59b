"""What the numbers of evaluations are called, from the evaluation to every reader of a record. No torch."""

import re

VALIDATION_LOSS = re.compile(r"validation_(?:(?P<weights>.+)_)?loss(?:/(?P<set>.+))?")
"""The names that `metric_name` gives a loss."""


def metric_name(metric: str, of_set: str = "", weights: str | None = None) -> str:
    """`validation_loss`; of a named set `validation_loss/<set>`; of averaged weights `validation_<weights>_loss`."""
    return f"validation_{weights + '_' if weights else ''}{metric}{'/' + of_set if of_set else ''}"


def described_losses(numbers: dict[str, float]) -> list[str]:
    """Each validation loss of a record, for a reader: `validation loss of code 2.1234, 0.9876 bits per byte`."""
    lines = []
    for key, value in numbers.items():
        if found := VALIDATION_LOSS.fullmatch(key):
            weights, of_set = found["weights"], found["set"]
            line = f"validation loss{f' of {of_set}' if of_set else ''}{f' ({weights})' if weights else ''} {value:.4f}"
            bits = numbers.get(metric_name("bits_per_byte", of_set or "", weights))
            lines.append(line if bits is None else f"{line}, {bits:.4f} bits per byte")
    return lines
