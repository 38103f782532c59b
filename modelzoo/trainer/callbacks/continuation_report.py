"""Writes `report.html` and `report.json` at the end of a run: may the new model replace the old?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from modelzoo.base_config import FromList, Problem
from modelzoo.files import write_text
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig
from modelzoo.trainer.machine import MACHINE, machine

if TYPE_CHECKING:
    from modelzoo.trainer.trainer import Trainer


class ReportConfig(CallbackConfig):
    """Reads what the run wrote (metrics, evaluations, samples), so name it after the callbacks that write them.
    `modelzoo report` writes the same again at any time."""

    kind: Literal["report"] = "report"
    new: Annotated[tuple[str, ...], FromList, Field(min_length=1)] | None = None
    """The evaluation sets that the run is to learn; all others are to be kept. null takes those whose sources give
    the most training tokens, or at least half as many."""

    def problems_in_run(
        self, name: str, callbacks: Mapping[str, CallbackConfig], sets: Sequence[str]
    ) -> Iterator[Problem]:
        kinds = {getattr(callback, "kind", None) for callback in callbacks.values()}
        for kind in ("metrics", "evaluate"):
            if kind not in kinds:
                yield Problem((), f"needs a callback of the kind {kind}, and there is none; add it, or drop this one")
        named = [of_set or "validation" for of_set in sets]
        for missing in [of_set for of_set in self.new or () if of_set not in named]:
            yield Problem(("new",), f"there is no validation set {missing}; there are: {', '.join(named) or 'none'}")

    def build(self) -> Callback:
        return ContinuationReport(self)


class ContinuationReport(Callback):
    turn = 4  # when all others have written what it reads

    def __init__(self, config: ReportConfig):
        self.config = config

    def on_train_end(self, trainer: "Trainer") -> None:
        from modelzoo.report.continuation import write_report

        if trainer.ended_early is not None:  # which no other file says
            ended = machine(trainer) | {"ended_early": trainer.ended_early}
            write_text(trainer.run_dir / MACHINE, json.dumps(ended) + "\n")
        if trainer.is_complete and not trainer.evaluation_due:
            write_report(trainer.run_dir, self.config.new or ())
