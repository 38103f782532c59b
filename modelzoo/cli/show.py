"""`modelzoo show`: the resolved YAML of a config, and what it will cost."""

import json
import re
import sys
from typing import Any

import typer

from modelzoo.base_config import UserError


def command(
    config: str = typer.Argument(..., help="A shipped name, or the path of a YAML."),
    overrides: list[str] = typer.Argument(None, help="key=value, in hydra's grammar."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """The resolved YAML, with parameters, FLOPs per token and memory."""
    from modelzoo.cli.any_config import load_any
    from modelzoo.run_config import RunConfig, dump_yaml

    loaded, _ = load_any(config, overrides or [])
    facts = run_facts(loaded) if isinstance(loaded, RunConfig) else {}
    if as_json:
        print(json.dumps({"config": loaded.model_dump(mode="json"), **facts}, indent=1))
        return
    text = dump_yaml(loaded)
    if sys.stdout.isatty():  # keys in bold; pipes get plain YAML
        text = re.sub(r"^(\s*(?:- )?)([^\s:#]+):", "\\1\033[1m\\2\033[0m:", text, flags=re.MULTILINE)
    print(text, end="")
    if isinstance(loaded, RunConfig):
        print(describe(facts))


def run_facts(config: Any) -> dict[str, Any]:
    """Exact counts of a run, computed from the config alone (no torch)."""
    from modelzoo.cli.lr_curve import curve
    from modelzoo.run_length import if_known

    model, tokens_per_step, resolved = config.model, config.tokens_per_step, if_known(config)
    steps = None if resolved is None else resolved.total_steps
    parameters, flops = model.num_parameters(), model.flops_per_token(config.data.seq_len)
    trained, state = config.num_trained, config.optimizer.state_bytes_per_parameter
    weights = 4 * parameters if config.lora is None else config.lora.weight_bytes(model)
    return {
        "data": data_facts(config),
        "parameters": parameters,
        "parameters_trained": trained,
        "parameters_by_part": model.parameter_counts(),
        "parameters_without_embeddings": model.num_non_embedding(),
        "flops_per_token": flops,
        "flops": steps and flops * steps * tokens_per_step,
        "bytes": {"weights": weights, "gradients": 4 * trained, "optimizer": state * trained},
        "steps": steps,
        "tokens": steps and steps * tokens_per_step,
        "tokens_per_step": tokens_per_step,
        "warmup_steps": config.warmup_steps,
        "peak_lr": config.optimizer.lr,
        "final_lr": resolved and resolved.optimizer.lr * resolved.lr_factor(resolved.total_steps - 1),
        "lr_curve": resolved and curve(resolved),
        "notes": config.notes(),
    }


def data_facts(config: Any) -> list[str]:
    """What the run takes of each source, where all of them are there; what is wrong with them, where something is."""
    from modelzoo.data.accounting import describe_all
    from modelzoo.data.sources import find_accounts
    from modelzoo.run_length import if_known

    batch_size = config.trainer.global_batch_size
    try:
        if (resolved := if_known(config)) is None:
            return []
        return describe_all(find_accounts(config.data, batch_size, resolved.total_steps, config.model.vocab_size))
    except UserError as error:
        return str(error).splitlines()


def describe(facts: dict[str, Any]) -> str:
    """The facts as lines of YAML comment, so that the whole output stays a YAML file."""
    from modelzoo.cli.lr_curve import drawn

    parts = ", ".join(f"{name} {number:,}" for name, number in facts["parameters_by_part"].items())
    memory, per_step, known = facts["bytes"], facts["tokens_per_step"], facts["steps"] is not None
    lines = [
        f"parameters        {facts['parameters']:,} ({parts})",
        f"FLOPs per token   {facts['flops_per_token']:.4g} forward and backward"
        + (f"; {facts['flops']:.3g} in the run" if known else ""),
        "memory            "
        + ", ".join(f"{name} {size / 2**30:,.2f} GiB" for name, size in memory.items())
        + f"; {sum(memory.values()) / 2**30:,.2f} GiB before activations",
        f"run               {facts['steps']:,} steps of {per_step:,} tokens: {facts['tokens']:,} tokens"
        if known
        else f"run               steps of {per_step:,} tokens; how many, the data will tell that is not there yet",
        f"warm-up           {facts['warmup_steps']:,} steps, {facts['warmup_steps'] * per_step:,} tokens",
        f"learning rate     peak {facts['peak_lr']:.4g}"
        + (f", at the last step {facts['final_lr']:.4g}" if known else ""),
        *(f"                  {line}" for line in (drawn(facts["lr_curve"]) if known else ())),
        *(f"{'data' if number == 0 else '':18}{line}" for number, line in enumerate(facts["data"])),
        *facts["notes"],
    ]
    return "\n".join(["", *(f"# {line}" for line in lines)])
