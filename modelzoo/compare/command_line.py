"""A study from what is typed: its YAML; or runs by name, and hydra's sweeps (`optimizer.lr=1e-4,3e-4`). No torch."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from modelzoo.base_config import UserError
from modelzoo.compare.arms import BY_THE_STUDY
from modelzoo.compare.config import LONGEST_NAME, CompareConfig
from modelzoo.config_errors import Provenance
from modelzoo.config_files import Composed, compose, configs_dir, validate
from modelzoo.run_config import RunConfig

MOST_ARMS = 64
"""Of a sweep; more is a mistake in most cases, and a day's work in the others."""


def is_study(name: str) -> bool:
    """Whether a config is a study's, and not a run's: which of the two knows more of its keys."""
    keys = compose(name).data.keys()
    return len(keys & CompareConfig.model_fields.keys()) > len(keys & RunConfig.model_fields.keys())


def load_study(name: str, overrides: Sequence[str]) -> CompareConfig:
    """The study of a YAML."""
    return validate(CompareConfig, compose(name, overrides))


def study_of_runs(names: Sequence[str], overrides: Sequence[str], **settings: Any) -> CompareConfig:
    """Each named run an arm, the first one the baseline; each point of a sweep an arm too.

    `settings` are keys of the study. UserError where that leaves fewer than two arms, or a sweep is malformed.
    """
    common, swept = split_sweeps(overrides)
    if decided := [key for key, _ in swept if key in BY_THE_STUDY]:
        raise UserError(
            f"command line: {decided[0]}: cannot be swept, for the study decides it: --seeds gives the seeds of every "
            "arm, --budget the length of its runs, --name and --output-dir where they go"
        )
    points = [list(point) for point in itertools.product(*(values for _, values in swept))]
    if len(names) * len(points) > MOST_ARMS:
        raise UserError(f"command line: the sweep has {len(names) * len(points)} arms; use at most {MOST_ARMS}")
    if len(names) * len(points) < 2:
        raise UserError(
            f"command line: {names[0]} alone is nothing to compare; name another run, several values of a key "
            "(optimizer.lr=1e-4,3e-4), or a study (modelzoo list shows compare/…)"
        )
    arms: dict[str, Any] = {}
    for name, point in itertools.product(names, points):
        parts = [*([Path(name).stem] if len(names) > 1 or not point else []), *map(_short, point)]
        arms[_free("-".join(parts), arms)] = {"config": name, "overrides": point}
    keys = [_pattern(key) for key, _ in swept]
    settings["may_differ"] = [*settings.get("may_differ", ()), *(["model.*"] if len(names) > 1 else []), *keys]
    stems = "_vs_".join(dict.fromkeys(Path(name).stem for name in names))
    over = "_".join(key.rsplit(".", 1)[-1] for key, _ in swept)
    data = {
        "name": "_over_".join(filter(None, (stems, over)))[:LONGEST_NAME],
        "description": f"{' against '.join(names)}" + (f", over {', '.join(key for key, _ in swept)}" if swept else ""),
        "arms": arms,
        "overrides": common,
        **settings,
    }
    return validate(CompareConfig, Composed(data, Provenance("command line"), {}))


def split_sweeps(overrides: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Overrides with one value, and (key, its overrides) of those with several, in hydra's grammar."""
    plain: list[str] = []
    swept: list[tuple[str, list[str]]] = []
    parser = OverridesParser.create()
    for text in overrides:
        try:
            parsed = parser.parse_override(text)
            if not parsed.is_sweep_override():
                plain.append(text)
                continue
            values = list(itertools.islice(parsed.sweep_string_iterator(), MOST_ARMS + 1))
        except HydraException as error:
            raise UserError(
                f"command line: {text!r} is not an override ({str(error).splitlines()[0]}); write key=value, or "
                "key=value,value for a sweep (choice(…) and range(…) serve too)"
            ) from None
        if len(values) > MOST_ARMS:
            raise UserError(f"command line: {text!r} has more than {MOST_ARMS} values; use at most so many")
        swept.append((parsed.key_or_group, [f"{text.partition('=')[0]}={value}" for value in values]))
    return plain, swept


def _pattern(key: str) -> str:
    """A swept key as a pattern: all of a section, where it is a group of files or a section."""
    return f"{key}.*" if (configs_dir() / key).is_dir() else f"{key}*"


def _short(override: str) -> str:
    """`optimizer.lr=1e-4` as a part of an arm's name: lr_1e-4."""
    key, _, value = override.partition("=")
    return re.sub(r"[^A-Za-z0-9.-]+", "_", f"{key.rsplit('.', 1)[-1]}_{value}").strip("_.-")


def _free(name: str, taken: dict[str, Any]) -> str:
    """The name, or with a number where an arm has it already: a config against itself."""
    name = name[: LONGEST_NAME - 3]
    return next(each for n in itertools.count(1) if (each := name if n == 1 else f"{name}_{n}") not in taken)
