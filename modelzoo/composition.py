"""From a config's name or path, and overrides, to one mapping: what hydra does.

hydra composes (its defaults lists, its groups, its override grammar). hydra's own `compose()` assembles its runtime
config too on every call; the same steps of its loader without that one are several times faster, and leave the
defaults list, from which each key's file and line is read.
"""

import re
import sysconfig
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository, ConfigRepository
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource
from hydra._internal.defaults_list import DefaultsList, create_defaults_list
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from modelzoo.base_config import UserError
from modelzoo.config_errors import Path as KeyPath
from modelzoo.config_errors import Provenance, nearest
from modelzoo.config_files import Composed, configs_dir, find, shipped_names
from modelzoo.yaml_source import check_sources, display, key_lines, yaml_message

OmegaConf.register_new_resolver("stdlib", lambda: sysconfig.get_paths()["stdlib"], replace=True)
OmegaConf.register_new_resolver("package", lambda name: _folder_of_package(name), replace=True)


def compose(name_or_path: str, overrides: Sequence[str] = ()) -> Composed:
    """Compose a shipped config, or a user's YAML that may build on shipped ones, with hydra overrides."""
    folder, name = find(name_or_path)
    repository = CachingConfigRepository(ConfigRepository(_search_path(folder)))
    origin = display(Path(folder, f"{name}.yaml"))
    places: dict[KeyPath, str] = {}
    try:
        parsed = [_or_add(o, repository) for o in _parse_overrides(overrides)]
        with warnings.catch_warnings(action="ignore"):  # of a missing `_self_`, which is an error below
            of_groups = [o for o in parsed if not _is_value_named_like_a_group(o, repository)]
            defaults = create_defaults_list(
                repo=repository, config_name=name, overrides_list=of_groups, prepend_hydra=False, skip_missing=False
            )
        sources = _sources(defaults, repository)
        check_sources(sources)
        loader = ConfigLoaderImpl(_search_path(folder))
        merged = loader._compose_config_from_defaults_list(defaults=defaults.defaults, repo=repository)
        for override in parsed:
            if override not in of_groups:  # `tokenizer=PATH`, beside the group tokenizer/; else a choice mistyped
                if isinstance(merged.get(override.key_or_group), DictConfig):
                    group = override.key_or_group
                    raise MissingConfigException("", f"{group}/{override.value()}", repository.get_group_options(group))
                override.type = OverrideType.FORCE_ADD
                defaults.config_overrides.append(override)
        ConfigLoaderImpl._apply_overrides_to_config(defaults.config_overrides, merged)
        places = _places(sources, repository, parsed)
        if missing := sorted(OmegaConf.missing_keys(merged)):
            lines = [f"{places.get(tuple(k.split('.')), origin)}: {k} = ???\n    needs a value" for k in missing]
            raise UserError("\n".join(lines))
        data = OmegaConf.to_container(merged, resolve=True)
    except RecursionError:
        raise UserError(f"{origin}: includes itself through its defaults; rename it, or drop that entry") from None
    except yaml.YAMLError as error:
        raise UserError(yaml_message(error, origin)) from None
    except MissingConfigException as error:
        raise UserError(_missing_message(error, overrides, origin)) from None
    except UnicodeDecodeError as error:
        raise UserError(f"{origin}: not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    except (HydraException, ConfigLoadError, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(_hydra_message(error, origin, places)) from None
    assert isinstance(data, dict)
    provenance = Provenance(origin, places)
    choices = {str(k): v for k, v in defaults.overrides.known_choices.items()}
    return Composed({str(k): v for k, v in data.items()}, provenance, choices)


def _folder_of_package(name: str) -> str:
    """Where an installed package lies, which is not imported for it. ValueError: it is not installed."""
    found = find_spec(name) if name.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        raise ValueError(f"no package {name} is installed")
    return str(next(iter(found.submodule_search_locations)))


def _search_path(folder: str) -> ConfigSearchPathImpl:
    registry = SourcesRegistry.instance()
    registry.register(FileConfigSource)
    registry.register(StructuredConfigSource)
    search_path = ConfigSearchPathImpl()
    for provider, path in {"user": folder, "shipped": str(configs_dir())}.items():
        search_path.append(provider, f"file://{path}")
    search_path.append("schema", "structured://")
    return search_path


def _parse_overrides(overrides: Sequence[str]) -> list[Override]:
    parser = OverridesParser.create()
    parsed = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
            if not override.key_or_group:
                raise HydraException("no key")
            if not override.is_delete() and override.value() == {}:
                raise HydraException("an empty section is merged and changes nothing; ~key drops one")
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"command line: {text!r} is not an override ({reason}); write key=value, e.g. "
                "optimizer.lr=1e-4; a value with commas, spaces or brackets needs quotes"
            ) from None
        if override.is_sweep_override():
            raise UserError(
                f"command line: {text!r} names several values; this command runs one config (a list is written "
                "'key=[1,2]')"
            )
        parsed.append(override)
    return parsed


def _or_add(override: Override, repository: CachingConfigRepository) -> Override:
    """`key=value` sets the key whether a YAML holds it or not: defaults live in the schema, not in the YAMLs.

    The schema refuses a mistyped key afterwards, with the nearest name.
    """
    if override.type == OverrideType.CHANGE and not repository.group_exists(override.key_or_group):
        override.type = OverrideType.FORCE_ADD
    return override


def _is_value_named_like_a_group(override: Override, repository: CachingConfigRepository) -> bool:
    group, value = override.key_or_group, override.value()
    return (
        override.type == OverrideType.CHANGE
        and repository.group_exists(group)
        and isinstance(value, str)
        and not repository.config_exists(f"{group}/{value}")
    )


def _sources(defaults: DefaultsList, repository: CachingConfigRepository) -> list[tuple[Path, KeyPath]]:
    """The files that are merged, in order, each with the section that its keys belong to."""
    found: list[tuple[Path, KeyPath]] = []
    for default in defaults.defaults:
        if default.config_path is not None and (result := repository.load_config(default.config_path)) is not None:
            file = Path(result.path.removeprefix("file://"), f"{default.config_path.removesuffix('.yaml')}.yaml")
            found.append((file, tuple(default.package.split(".")) if default.package else ()))
    return found


def _places(
    sources: Sequence[tuple[Path, KeyPath]], repository: CachingConfigRepository, overrides: list[Override]
) -> dict[KeyPath, str]:
    """The place of every key, later files over earlier ones, as they were merged."""
    places: dict[KeyPath, str] = {}
    for file, section in sources:
        if section:
            places[section] = f"{display(file)}:1"
        for path, line in key_lines(file):
            if path[0] != "defaults":
                places[section + path] = f"{display(file)}:{line}"
    for override in overrides:
        if override.type == OverrideType.FORCE_ADD:
            keys = tuple(override.key_or_group.split("."))
            places = {path: place for path, place in places.items() if path[: len(keys)] != keys}
            places[keys] = f"command line, {override.input_line}"
    return places


def _missing_message(error: MissingConfigException, overrides: Sequence[str], origin: str) -> str:
    """A defaults list, or an override, that names a file which is not there."""
    missing = error.missing_cfg_file or ""
    group, _, name = missing.rpartition("/")
    options = sorted(error.options) if error.options else shipped_names()
    place = next((f"command line, {o}" for o in overrides if o.endswith(f"={name}")), origin)
    if place == origin and Path(origin).is_file():
        lines = Path(origin).read_text(encoding="utf-8").splitlines()
        place = next((f"{origin}:{number}" for number, line in enumerate(lines, 1) if name in line), origin)
    what = f"there is no {name} in the group {group}" if error.options else f"there is no config {missing}"
    close = nearest(name, options)
    return f"{place}: {what}{f'; did you mean {close}?' if close else ''} There is: {', '.join(options)}"


GROUP_NOT_LISTED = re.compile(r"Could not override '([^']+)'")


def _hydra_message(error: Exception, origin: str, places: Mapping[KeyPath, str]) -> str:
    """hydra's or OmegaConf's explanation at its place, without the search path and the internals."""
    key = getattr(error, "full_key", None)
    if isinstance(key, str) and tuple(key.split(".")) in places:
        origin = f"{places[tuple(key.split('.'))]}: {key}"
    text = str(error).split("\nSearch path")[0].split("\nConfig search path")[0]
    if unlisted := GROUP_NOT_LISTED.search(text):
        groups = sorted(path.name for path in configs_dir().iterdir() if path.is_dir())
        close = nearest(unlisted[1], groups)
        return (
            f"{origin}: no file of the group {unlisted[1]} is chosen in the defaults, so there is nothing to override"
            + (f"; did you mean {close}?" if close and close != unlisted[1] else f"; groups: {', '.join(groups)}")
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return f"{origin}: " + "\n    ".join(kept)
