"""Draws `loss.png` at the end of a run: training and validation loss over the tokens seen."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modelzoo.trainer.callbacks.base import Callback, CallbackConfig
from modelzoo.trainer.callbacks.metrics import FILE_NAME, read_metrics
from modelzoo.trainer.metric_names import VALIDATION_LOSS

if TYPE_CHECKING:
    from modelzoo.trainer.trainer import Trainer

VALIDATION_COLORS = ("#b3432b", "#3b7a57", "#7b4f9d", "#c28f2c", "#2f6f9f", "#8c564b")


class LossPlotConfig(CallbackConfig):
    """Reads what the `metrics` callback wrote, so a resumed run has one unbroken curve."""

    kind: Literal["loss_plot"] = "loss_plot"

    def build(self) -> Callback:
        return LossPlot()


class LossPlot(Callback):
    def on_train_end(self, trainer: "Trainer") -> None:
        records = read_metrics(trainer.run_dir / FILE_NAME)
        if records:
            draw_loss(records, trainer.run_dir / "loss.png", title=trainer.run_dir.name)


def draw_loss(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """One figure: loss in nats a token against millions of tokens, validation as points on a line."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    styles: dict[str, tuple[str, dict[str, Any]]] = {"loss": ("training", {"color": "#9bb8d3", "linewidth": 1})}
    for key in dict.fromkeys(key for record in records for key in record):
        if found := VALIDATION_LOSS.fullmatch(key):
            what = " ".join(filter(None, ("validation", found["set"], found["weights"] and f"({found['weights']})")))
            color = VALIDATION_COLORS[(len(styles) - 1) % len(VALIDATION_COLORS)]
            styles[key] = what, {"color": color, "marker": "o", "markersize": 4}
    for key, (label, style) in styles.items():
        points = [(r["tokens"] / 1e6, r[key]) for r in records if r.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
    axes.set(title=title, xlabel="tokens seen (millions)", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    partial = path.with_name(f".{path.name}.partial.png")
    figure.savefig(partial)
    partial.replace(path)
