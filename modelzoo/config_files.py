"""From a config's name or path, and overrides, to a validated object that knows where each key was written.

`composition` composes with hydra, pydantic validates. Nothing here imports hydra at once: it takes a fifth of a second.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import ValidationError

from modelzoo import standalone_yaml
from modelzoo.base_config import Config, UserError
from modelzoo.config_errors import ConfigError, Provenance, describe_all, nearest
from modelzoo.forking import release, signals_held
from modelzoo.yaml_source import display, key_lines

C = TypeVar("C", bound=Config)

NOT_RUNS = {"preprocess": "preprocess", "tokenizer": "tokenizer train", "compare": "compare"}
"""Groups whose files are whole configs too, and the verb that takes them."""
RUNS = ("continuous_pretraining", "finetune")
"""Groups whose files are runs."""


class Composed(NamedTuple):
    """A composed config before validation."""

    data: dict[str, Any]
    provenance: Provenance
    choices: dict[str, str | None]
    """Group -> the file chosen from it, e.g. {"model": "gptj"}."""


def configs_dir() -> Path:
    """The shipped configs: inside the package where it is installed, at the repository's top in a checkout."""
    package = Path(__file__).resolve().parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def shipped_names(group: str | None = None) -> list[str]:
    """Names of the runnable configs, or of the whole configs of another verb's group (`preprocess`)."""
    root = configs_dir()
    if group is not None:
        return sorted(f"{group}/{path.stem}" for path in (root / group).glob("*.yaml"))
    at_top = [path.stem for path in root.glob("*.yaml")]
    nested = [f"{of_runs}/{path.stem}" for of_runs in RUNS for path in (root / of_runs).glob("*.yaml")]
    return sorted(at_top) + sorted(nested)


def load_config(schema: type[C], name_or_path: str, overrides: Sequence[str] = ()) -> C:
    """Compose and validate. Raises ConfigError (all problems at once) or UserError (not composable)."""
    config, _ = load_with_provenance(schema, name_or_path, overrides)
    return config


def load_with_provenance(schema: type[C], name_or_path: str, overrides: Sequence[str] = ()) -> tuple[C, Composed]:
    """`load_config`, with the composed mapping and the place of each of its keys."""
    composed = compose(name_or_path, overrides)
    return validate(schema, composed), composed


def validate(schema: type[C], composed: Composed) -> C:
    """The config object of a composed mapping. Raises ConfigError with every problem of it."""
    try:
        return schema.model_validate(composed.data)
    except ValidationError as error:
        raise ConfigError(describe_all(error, schema, composed.data, composed.provenance)) from None


def compose(name_or_path: str, overrides: Sequence[str] = ()) -> Composed:
    """Compose a shipped config, or a user's YAML that may build on shipped ones, with hydra overrides.

    Raises:
        UserError: it cannot be composed; says why, and where.
    """
    if (composed := _standalone(name_or_path, overrides)) is not None:
        return composed
    from modelzoo import composition

    return composition.compose(name_or_path, overrides)


def _standalone(name_or_path: str, overrides: Sequence[str]) -> Composed | None:
    """What `compose` gives for one YAML alone, where there is nothing to compose."""
    if overrides:
        return None
    folder, name = find(name_or_path)
    file = Path(folder, f"{name}.yaml")
    if "/" in name or (data := standalone_yaml.read(file)) is None:  # hydra puts a group's file below its group
        return None
    places = {path: f"{display(file)}:{line}" for path, line in key_lines(file)}
    return Composed(data, Provenance(display(file), places), {})


def compose_beside(name_or_path: str, overrides: Sequence[str] = ()) -> Callable[[], Composed]:
    """`compose` begun in a process beside, while this one imports what it needs next; a call gives the result.

    What fails there is done again here, so that its errors are those of `compose`.
    """
    if (composed := _standalone(name_or_path, overrides)) is not None:
        return lambda: composed
    if sys.platform != "linux" or threading.active_count() > 1 or "hydra" in sys.modules:  # unsafe, or not worth it
        return lambda: compose(name_or_path, overrides)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with signals_held():
        child = os.fork()
        if child == 0:
            try:
                receiver.close()
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                release()
                sender.send(compose(name_or_path, overrides))
            finally:
                os._exit(0)
    sender.close()

    def result() -> Composed:
        try:
            received: Composed = receiver.recv()
        except (EOFError, OSError):  # nothing came, or half of it
            return compose(name_or_path, overrides)
        finally:
            receiver.close()
            os.waitpid(child, 0)
        return received

    return result


def find(name_or_path: str) -> tuple[str, str]:
    """The folder and the name in it (without .yaml) of a shipped config or a user's file."""
    root = configs_dir()
    if (root / f"{name_or_path}.yaml").is_file():
        return str(root), name_or_path
    path = Path(name_or_path)
    if path.is_file():
        if path.suffix != ".yaml":
            raise UserError(f"{path}: a config's file name must end in .yaml; rename it to {path.stem}.yaml")
        path = path.resolve()
        if path.is_relative_to(root):
            return str(root), str(path.relative_to(root).with_suffix("")).replace(os.sep, "/")
        return str(path.parent), path.stem
    if path.suffix in (".yaml", ".yml") or (path.parent.is_dir() and len(path.parts) > 1 and path.is_absolute()):
        raise UserError(f"{path}: there is no such file; `modelzoo list` shows the shipped configs")
    names = [*shipped_names(), *(n for group in NOT_RUNS for n in shipped_names(group))]
    by_stem = {n.rsplit("/", 1)[-1]: n for n in names}
    close = by_stem.get(name_or_path) or nearest(name_or_path, names)
    if close is None and (stem := nearest(name_or_path, by_stem)):
        close = by_stem[stem]
    hint = f"; did you mean {close}?" if close else ""
    raise UserError(
        f"{name_or_path}: neither a shipped config nor a YAML file{hint} (`modelzoo list` shows what is shipped)"
    )
