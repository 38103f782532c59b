"""`modelzoo mup check`: whether a config's activations keep their scale as it grows wider."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from modelzoo.cli.arguments import say

if TYPE_CHECKING:
    from modelzoo.mup.report import CoordinateReport

app = typer.Typer(no_args_is_help=True, help="The maximal-update parametrisation: check it on your own model.")

HINTS = {
    "embedding": "muP trains embeddings at the full rate and multiplies them by embeddings_scale, at any width",
    "attention logits": "q·k is multiplied by attention_logits_alpha / head_dim; qkv: init std × m^-½, rate / m",
    "attention": "qkv and out: init std × m^-½, rate / m, where m = hidden_size / base_hidden_size",
    "MLP": "fc_in: init std × m^-½, rate / m; fc_out: the same with ffn_size / base_ffn_size",
    "output": "the sum of the branches: see the first part above that is not ok",
    "head": "the head trains at the full rate, and its product is multiplied by output_logits_alpha / m",
    "logits": "output_logits_alpha / m multiplies them; also see the first part above that is not ok",
}
"""What to look at, by kind of part."""


@app.callback()
def group() -> None:
    """Keeps `check` a verb of its own while it is the only one."""


@app.command("check")
def check_command(
    config: str = typer.Argument(..., help="A shipped name, or the path of a YAML."),
    overrides: list[str] = typer.Argument(None, help="key=value, in hydra's grammar."),
    widths: str = typer.Option(None, help="Hidden sizes, like 128,256,512,1024; four from 128 on otherwise."),
    steps: int = typer.Option(4, min=1, max=10_000, help="Optimizer steps."),
    seeds: int = typer.Option(4, min=1, max=1000, help="Models of each width, whose mean counts."),
    lr: float = typer.Option(2.0**-9, min=1e-9, max=0.1, help="Learning rate at the narrowest width."),
    layers: int = typer.Option(2, min=1, max=1000, help="Blocks."),
    growth: str = typer.Option("heads", help="What grows with the width: heads (their number), or head_dim."),
    tolerance: float = typer.Option(0.1, min=0.0, max=2.0, help="Largest slope that is ok."),
    standard: bool = typer.Option(False, "--standard", help="Also under the standard parametrisation, to compare."),
    plot: Path = typer.Option(Path("mup_check.png"), help="Draw it into this .png, .svg or .pdf."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Train a config for a few steps at several widths: do its activations keep their scale? Exit 1 if not."""
    reports = run(
        config,
        overrides or [],
        widths=widths,
        plot=plot,
        standard=standard,
        num_seeds=seeds,
        tolerance=tolerance,
        growth=growth,
        steps=steps,
        lr=lr,
        num_layers=layers,
    )
    if as_json:
        print(json.dumps({"config": config, "checks": [report.to_json() for report in reports]}, indent=1))
    else:
        for report in reports:
            describe(report)
    say(f"wrote {plot}")
    if reports[0].failing:
        raise typer.Exit(1)


def run(
    name: str,
    overrides: list[str],
    *,
    widths: str | None = None,
    plot: Path | None = None,
    standard: bool = False,
    num_seeds: int = 4,
    tolerance: float = 0.1,
    growth: str = "heads",
    **settings: Any,
) -> list["CoordinateReport"]:
    """The checks that `check` prints: the config's own, which decides, and with `standard` the other's."""
    from modelzoo.base_config import UserError
    from modelzoo.cli.progress import counting
    from modelzoo.run_config import load_run_config

    if plot and plot.suffix not in (".png", ".svg", ".pdf"):
        raise UserError(f"--plot {plot}: expected a file that ends in .png, .svg or .pdf")
    if plot and not plot.absolute().parent.is_dir():
        raise UserError(f"--plot {plot}: there is no directory {plot.absolute().parent}; make it, or choose another")
    config = load_run_config(name, overrides)
    model = config.model
    if model.mup is None and not standard:
        sizes = f"base_hidden_size: {model.hidden_size}, base_ffn_size: {model.ffn_width}"
        raise UserError(
            f"{name} has no section model.mup, so it has the standard parametrisation, whose activations grow with "
            f"the width; add `mup: {{{sizes}}}` below `model:`, with the sizes it was tuned at, or measure it as it "
            "is: --standard"
        )

    from modelzoo.allocator import keep_freed_memory
    from modelzoo.mup.report import check
    from modelzoo.mup.widths import Settings

    keep_freed_memory()
    chosen = Settings(growth=_growth(growth), **settings)
    sizes_of_check = _widths(widths) if widths else chosen.widths(model)
    models = [model] if model.mup is None or not standard else [model, model.model_copy(update={"mup": None})]
    num_models = len(models) * len(sizes_of_check) * num_seeds
    with counting(
        f"{num_models} models of widths {', '.join(map(str, sizes_of_check))}", num_models, "models"
    ) as advance:
        reports = [
            check(m, config.optimizer, sizes_of_check, range(num_seeds), chosen, tolerance, lambda _width: advance(1))
            for m in models
        ]
    if plot:
        from modelzoo.mup.plot import plot as draw

        draw(reports, plot, title=name)
    return reports


def describe(report: "CoordinateReport") -> None:
    """The table of one parametrisation, and what to look at."""
    from modelzoo.cli.table import print_table

    widths = list(report.parts[0].sizes)
    rows = []
    for part in report.parts:
        changes = [f"{size.change:.3g}" for size in part.sizes.values()]
        slope = "–" if part.judged == "change" else f"{part.size_slope:+.2f}"
        rows.append([part.name, *changes, f"{part.change_slope:+.2f}", slope, part.verdict(report.tolerance)])
    header = ["part", *map(str, widths), "slope", "of size", "verdict"]
    steps = report.settings.steps
    print(f"{report.parametrisation} parametrisation: change of activations over {steps} steps (rms), by hidden_size")
    print_table(header, rows, right=header[1:-1])
    if not report.failing:
        print(f"ok: every slope is within ±{report.tolerance:g}\n")
        return
    first = report.failing[0]
    kind = first.name.split(" ", 2)[-1] if first.name.startswith("block ") else first.name
    print(f"not ok: {first.name} {first.verdict(report.tolerance)} with the width, and is the first to")
    if first.verdict(report.tolerance) == "overflows":
        print("  look at: the learning rate; try a smaller --lr")
    elif report.parametrisation == "standard":
        print("  look at: nothing; the standard parametrisation does that, and a section model.mup is the remedy")
    else:
        print(f"  look at: {HINTS[kind]}")
        print("  also: optimizer.eps, which counts for more as gradients shrink with the width; more --seeds")
    print()


def _growth(value: str) -> Literal["heads", "head_dim"]:
    from modelzoo.base_config import UserError

    match value:
        case "heads" | "head_dim":
            return value
    raise UserError(f"--growth {value}: expected heads or head_dim")


def _widths(text: str) -> list[int]:
    from modelzoo.base_config import UserError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 0 < int(part) <= 1_000_000 for part in parts):
        raise UserError(f"--widths {text}: expected hidden sizes with commas between them, like 128,256,512")
    widths = sorted({int(part) for part in parts})
    if len(widths) < 2:
        raise UserError(f"--widths {text}: a slope needs two widths or more, like {widths[0]},{2 * widths[0]}")
    return widths
