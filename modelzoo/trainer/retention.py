"""Which checkpoints of a run may be deleted."""

from collections.abc import Callable, Iterable


def superfluous(
    steps: Iterable[int], newest: int, keep_last: int | None, keep_every: int | None, is_whole: Callable[[int], bool]
) -> list[int]:
    """Of the checkpoints of these steps, those that may go, once the one of `newest` is whole.

    `keep_last` whole ones up to `newest` stay, and what lies between them; those of every `keep_every` steps; and
    later ones, which were passed over when the run went back to before them. None keeps all.
    """
    if keep_last is None:
        return []
    may_go, num_kept = [], 1
    for step in sorted((step for step in steps if step < newest), reverse=True):
        if num_kept < keep_last:
            num_kept += is_whole(step)  # one that is damaged takes no other's place
        elif keep_every is None or step % keep_every:
            may_go.append(step)
    return may_go
