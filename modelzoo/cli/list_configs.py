"""`modelzoo list`: every shipped config. The table is kept in the user's cache, so that it appears at once."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import typer

from modelzoo import __version__

COLUMNS = ("config", "family", "parameters", "tokens", "description")


def command(as_json: bool = typer.Option(False, "--json", help="For programs.")) -> None:
    """Every shipped config: family, parameters, tokens, what it is for."""
    rows = cached_rows()
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from modelzoo.cli.table import print_table

    print_table(
        COLUMNS,
        [(r["config"], r["family"], count(r["parameters"]), count(r["tokens"]), r["description"]) for r in rows],
        right=("parameters", "tokens"),
    )


def cached_rows() -> list[dict[str, Any]]:
    """The table's rows: composing every config takes a second, so they are kept until a file changes."""
    # as config_files.configs_dir(), whose module brings pydantic along
    package = Path(__file__).resolve().parents[1]
    configs = package / "configs" if (package / "configs").is_dir() else package.parent / "configs"
    digest = hashlib.sha256(__version__.encode())
    for path in sorted([*configs.rglob("*.yaml"), *package.glob("*.py"), *package.glob("model/**/*.py")]):
        stat = path.stat()
        digest.update(f"{path}:{stat.st_size}:{stat.st_mtime_ns};".encode())
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelzoo"
    cache = folder / f"list-{digest.hexdigest()[:16]}.json"
    try:
        return list(json.loads(cache.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        rows = compose_rows()
    try:  # a home that cannot be written only costs the second
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("list-*.json"):
            old.unlink()
        partial = cache.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(rows), encoding="utf-8")
        partial.replace(cache)
    except OSError:
        pass
    return rows


def compose_rows() -> list[dict[str, Any]]:
    """Compose and validate every shipped run config; the others are listed without numbers."""
    from modelzoo.cli.any_config import load_any
    from modelzoo.config_files import NOT_RUNS, shipped_names
    from modelzoo.run_config import load_composed_run

    rows: list[dict[str, Any]] = []
    for name in shipped_names():
        config, composed = load_composed_run(name)
        rows.append(
            {
                "config": name,
                "family": composed.choices.get("model") or "",
                "parameters": config.model.num_parameters(),
                "tokens": None if config.trainer.max_epochs else config.total_steps * config.tokens_per_step,
                "description": config.description,
            }
        )
    for group in NOT_RUNS:
        for name in shipped_names(group):
            description = getattr(load_any(name)[0], "description", "")
            rows.append(
                {"config": name, "family": group, "parameters": None, "tokens": None, "description": description}
            )
    return rows


def count(number: int | None) -> str:
    """6.05 B, 124 M: three digits and a unit."""
    if number is None:
        return ""
    for size, unit in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return str(number)
