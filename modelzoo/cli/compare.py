"""`modelzoo compare`: a fair comparison of variants, from the plan to the report."""

import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import say, split_overrides
from modelzoo.cli.exit_codes import STOPPED

if TYPE_CHECKING:
    from modelzoo.compare.config import CompareConfig
    from modelzoo.compare.plan import Plan

SHARE_OF_PEAK = 0.4
"""Of a device's arithmetic, that an estimate of hours assumes."""
WIDTH = 80
DEVICES = ("NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3")


def command(
    configs: list[str] = typer.Argument(
        ..., help="A study (compare/…, or a YAML's path); or runs to compare, then key=value, key=a,b for a sweep."
    ),
    seeds: str = typer.Option(None, help="Of runs named here: as in 0,1,2."),
    budget: str = typer.Option(None, help="Of runs named here: as in tokens=5e6, bytes=…, flops=…, seconds=…"),
    may_differ: list[str] = typer.Option(None, help="Of runs named here: a pattern of keys; may be repeated."),
    name: str = typer.Option(None, help="Of runs named here: the study's name."),
    output_dir: str = typer.Option(None, help="Of runs named here: where studies and their runs go."),
    plan_only: bool = typer.Option(False, "--plan", help="Say what would be run, and what it costs; run nothing."),
    parallel: int = typer.Option(1, min=1, help="Runs at a time; they share the devices and the cores."),
    launcher: str = typer.Option(None, help="A launcher plugin of hydra's, such as submitit_slurm or joblib."),
    launcher_options: list[str] = typer.Option(None, "--launcher-option", help="As in hydra.launcher.n_jobs=4."),
    as_json: bool = typer.Option(False, "--json", help="Print what report.json holds, or the plan."),
) -> None:
    """Train variants on the same data and budget from the same seeds, and say what the difference is."""
    study = _study(configs, seeds=seeds, budget=budget, may_differ=may_differ, name=name, output_dir=output_dir)
    typed = shlex.join(["modelzoo", *sys.argv[1:]])
    if launcher is None and launcher_options:
        raise UserError("--launcher-option: is for --launcher NAME; leave it out, or name one")
    if launcher is not None and parallel > 1:
        raise UserError(f"--parallel: the launcher {launcher} decides how many run at a time; see --launcher-option")
    if plan_only:
        _show_plan(study, typed, as_json)
        return
    report = run(study, typed, parallel, launcher, launcher_options or ())
    if report is None:
        raise typer.Exit(STOPPED)
    if as_json:
        print(json.dumps(report, indent=1))


def _study(configs: Sequence[str], **options: Any) -> "CompareConfig":
    from modelzoo.compare.command_line import is_study, load_study, study_of_runs

    names, overrides = split_overrides(configs)
    given = {key: value for key, value in options.items() if value is not None and value != []}
    studies = [name for name in names if is_study(name)]
    if not studies:
        return study_of_runs(names, overrides, **_settings(given))
    if len(names) > 1:
        raise UserError(f"{studies[0]}: is a study, which is compared by itself; run one command for each")
    if given:
        raise UserError(
            f"--{next(iter(given)).replace('_', '-')}: is for runs that are named here, and {names[0]} is a study; "
            "override its keys instead, as in 'seeds=[0,1,2]' or budget.amount=1e6"
        )
    return load_study(names[0], overrides)


def _settings(given: dict[str, Any]) -> dict[str, Any]:
    """Keys of a study from the options."""
    settings = {key: value for key, value in given.items() if key in ("may_differ", "name", "output_dir")}
    try:
        if "seeds" in given:
            settings["seeds"] = [int(seed) for seed in given["seeds"].split(",")]
        if "budget" in given:
            unit, amount = given["budget"].split("=")
            settings["budget"] = {"unit": unit, "amount": float(amount)}
    except ValueError:
        raise UserError(
            "--seeds and --budget: expected whole numbers with commas, and unit=amount, as in --seeds 0,1,2 "
            "--budget tokens=5e6"
        ) from None
    return settings


def run(
    study: "CompareConfig", typed: str, parallel: int = 1, launcher: str | None = None, options: Sequence[str] = ()
) -> dict[str, Any] | None:
    """Carry out a study and write its report, which is returned; None where a signal stopped it."""
    from modelzoo.cli.compare_runs import Execution, asked_to_stop
    from modelzoo.compare.plan import make_plan
    from modelzoo.compare.results import PAGE_NAME, write_report
    from modelzoo.compare.summary import summary
    from modelzoo.files import exclusive

    prepare(study)
    folder = Path(study.output_dir, study.name)
    with exclusive(folder / ".lock", f"comparing {folder}"), asked_to_stop() as stop:
        execution = Execution(study, stop, parallel, launcher, options)
        plan = make_plan(study, [typed], execution.seconds_per_step())
        if not execution.carry_out(plan):
            say(f"stopped; the same command goes on: {typed}")
            return None
    report = write_report(folder)
    for line in [*summary(report), "", str(folder / PAGE_NAME)]:
        say(line)
    return report


def prepare(study: "CompareConfig") -> None:
    """Tokenizers and data that the study needs and that are not there."""
    from data_preprocessing.config import PreprocessConfig, TokenizerTrainConfig
    from modelzoo.cli import preprocess, tokenizer
    from modelzoo.cli.any_config import load_any

    for name in study.prepare:
        config = load_any(name)[0]
        if isinstance(config, TokenizerTrainConfig):
            if not Path(config.output).exists():
                say(f"$ modelzoo tokenizer train {name}")
                tokenizer.run(name, [])
        elif isinstance(config, PreprocessConfig):
            say(f"$ modelzoo preprocess {name}")
            preprocess.run(name, [])
        else:
            raise UserError(f"prepare: {name} is a run's config; name configs of tokenizers and preprocessing")


def _show_plan(study: "CompareConfig", typed: str, as_json: bool) -> None:
    from modelzoo.cli.table import print_table
    from modelzoo.compare.execution import is_finished
    from modelzoo.compare.plan import make_plan
    from modelzoo.config_files import NOT_RUNS

    try:
        plan = make_plan(study, [typed])
    except UserError as error:
        if not study.prepare:
            raise
        verbs = [f"modelzoo {NOT_RUNS[name.partition('/')[0]]} {name}" for name in study.prepare if "/" in name]
        raise UserError(
            f"{error}\n(--plan writes nothing; missing data is written by `modelzoo compare` without --plan, or by "
            f"{'; '.join(verbs)})"
        ) from None
    runs = [*plan.lr_runs(), *plan.runs({})]
    done = [is_finished(run, study) for run in runs]
    if as_json:
        print(json.dumps(plan.to_json(runs, done), indent=1))
        return
    print(f"{study.name}: {study.description}".rstrip(": ") + "\n")
    print_table(
        ("arm", "parameters", "steps", "tokens", "FLOPs a run", "compared with"),
        [
            (
                arm.name,
                f"{arm.parameters('all'):,}",
                "measured first" if study.budget.unit == "seconds" else f"{arm.steps:,}",
                "" if study.budget.unit == "seconds" else f"{arm.tokens:,}",
                "" if study.budget.unit == "seconds" else f"{arm.flops:.3g}",
                study.against(arm.name) or "(baseline)",
            )
            for arm in plan.arms
        ],
        right=("parameters", "steps", "tokens", "FLOPs a run"),
    )
    print("\nfair:")
    for check in plan.checks:
        line = f"{check.check}: {check.detail}"
        print(
            *textwrap.wrap(
                line, WIDTH, initial_indent="  yes  " if check.held else "  no   ", subsequent_indent=" " * 7
            ),
            sep="\n",
        )
    print(_cost(plan, len(runs), sum(done)))


def _cost(plan: "Plan", num_runs: int, num_done: int) -> str:
    """How much arithmetic, and how long that takes on devices that people have."""
    from modelzoo.trainer.utilization import peak_flops

    study = plan.study
    number = f"\nruns: {num_runs} ({len(plan.arms)} arms × {len(study.seeds)} seeds"
    number += f" + {len(plan.lr_runs())} for the learning rates)" if study.lr_grid else ")"
    number += f", {num_done} of them done already" if num_done else ""
    if study.budget.unit == "seconds":
        return f"{number}\ncost: {num_runs * (study.budget.amount or 0) / 3600:,.2f} hours of updates"
    flops = sum(arm.flops for arm in plan.arms) * (len(study.seeds) + len(study.lr_grid or ()))
    lines = [f"{number}\ncost: {flops:.3g} FLOPs"]
    for device in DEVICES:
        peak = peak_flops(device, "bf16")
        assert peak is not None
        lines.append(
            f"  {flops / peak / SHARE_OF_PEAK / 3600:,.2f} hours of one {device} at {SHARE_OF_PEAK:.0%} of bf16's peak"
        )
    return "\n".join(lines)
