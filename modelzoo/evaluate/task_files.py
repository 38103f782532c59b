"""Task files of lm-evaluation-harness in a directory of the user's, read as data. Neither torch nor the harness.

The harness itself reads such a file with a loader that imports Python: `!function module.name` runs the file
module.py beside it, or anything that can be imported. Here it is read without, and refused where a task that is asked
for would need it. So is every other key by which the harness would run code that a file names: see CODE_KEYS.
"""

import difflib
import glob
import os
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from modelzoo.base_config import UserError
from modelzoo.evaluate.task_keys import check_keys

Config = dict[str, Any]


class TaskConfig(Config):
    """The keys of a task, ready for the harness, and where they stand."""

    def __init__(self, config: Config, file: Path) -> None:
        super().__init__(config)
        self.file = file

    @property
    def where(self) -> str:
        """How messages begin."""
        return f"{self.file}: task {self.get('task')}"


CODE_KEYS = {
    "class": "names a Python class",
    "custom_dataset": "names a Python function",
    "use_prompt": "imports promptsource, or reads another file with a loader that can run code",
    "unsafe_code": "runs what the model writes",
    "hf_evaluate": "downloads a metric and runs it",
    "trust_remote_code": "runs the code of a dataset",
}
"""Keys that lead to code, wherever they stand in a task, unless they are false or null."""

FORMATS = ("json", "csv", "parquet", "text", "arrow")
"""Values of dataset_path that read files: those of `datasets` that can hold data only."""
REFUSED_FORMATS = {"pandas": "reads pickles, which run code"}

ELSEWHERE = "run such a task with lm_eval itself, on exported weights"


QUIET = {"TQDM_DISABLE": "1", "DISABLE_MULTIPROC": "1"}
"""Read by the harness and what it imports: no bars of theirs, no processes for the standard error."""
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


class Code(NamedTuple):
    """What a tag in a file asks for: `!function utils.process`."""

    tag: str
    value: str
    line: int


class _Loader(yaml.SafeLoader):
    """Plain values; a tag of an application's becomes a `Code`."""


def _code(loader: yaml.Loader, suffix: str, node: yaml.Node) -> Code:
    return Code(f"!{suffix}", str(node.value), node.start_mark.line + 1)


_Loader.add_multi_constructor("!", _code)


def check_installed() -> None:
    """UserError where the harness is missing."""
    if find_spec("lm_eval") is None:
        raise UserError("--tasks: needs lm-evaluation-harness: pip install 'modelzoo[lm_eval]'")


def select(names: Sequence[str], folder: Path | None) -> tuple[list[TaskConfig | str], list[str]]:
    """The tasks of these names, from the files of `folder`, or the harness's own, by name; and notes for the user.

    Nothing is fetched from a network unless a task's data lies there: a note says so.

    Raises:
        UserError: see `TaskFiles`.
    """
    notes = []
    if folder is None:
        specs: list[TaskConfig | str] = [*names]
        notes.append("these are the harness's own tasks: their data comes from the Hugging Face hub, or its cache here")
        is_online = True
    else:
        files = TaskFiles(folder)
        configs = [config for name in names for config in files.find(name)]
        unique = {config["task"]: config for config in configs}
        remote = [f"{name} ({config['dataset_path']})" for name, config in unique.items() if needs_network(config)]
        if remote:
            notes.append(f"data from the network, or its cache here: {', '.join(remote)}")
        specs, is_online = [*unique.values()], bool(remote)
    for variable, value in (QUIET if is_online else QUIET | OFFLINE).items():
        os.environ.setdefault(variable, value)  # they are read when the packages are imported
    return specs, notes


class TaskFiles:
    """The tasks, groups and tags of a directory, by name."""

    def __init__(self, folder: Path) -> None:
        """Read every .yaml below `folder`.

        Raises:
            UserError: there is none, or one is not YAML.
        """
        self.folder = folder
        if not folder.is_dir():
            raise UserError(f"--tasks-dir {folder}: no such directory; name one that holds task files (.yaml)")
        files = sorted(file for file in folder.rglob("*.y*ml") if file.suffix in (".yaml", ".yml"))
        self._files: dict[str, list[Path]] = {}
        self._stems: dict[str, list[Path]] = {}
        self._tagged: dict[str, list[Path]] = {}
        for file in files:
            config = read(file)
            if not isinstance(config, dict):
                continue  # another YAML file that lies there
            name = config.get("group", config.get("task"))
            if isinstance(name, str):
                self._files.setdefault(name, []).append(file)
                self._stems.setdefault(file.stem, []).append(file)
                for tag in _listed(config.get("tag")):
                    self._tagged.setdefault(str(tag), []).append(file)
        if not self._files:
            raise UserError(f"--tasks-dir {folder}: no task file in it (.yaml with the key task); name another")

    @property
    def names(self) -> list[str]:
        """All that `find` takes, but for patterns."""
        return sorted({*self._files, *self._stems, *self._tagged})

    def find(self, wanted: str) -> list[TaskConfig]:
        """The tasks of a name (of a task, a group, a tag, or a file without its end), or of a pattern, each with what
        it includes, its data files as absolute paths.

        Raises:
            UserError: there is none of this name, or it cannot be run without running code from a file.
        """
        names = [wanted] if wanted in self.names else [name for name in self._files if fnmatchcase(name, wanted)]
        if not names:
            near = difflib.get_close_matches(wanted, self.names, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]}?" if near else f"there is: {', '.join(self.names[:20])}"
            raise UserError(f"--tasks {wanted}: no such task in {self.folder}; {remedy}")
        return [config for name in names for config in self._named(name, ())]

    def _named(self, name: str, within: tuple[str, ...]) -> Iterator[TaskConfig]:
        if name in within:
            raise UserError(f"{self.folder}: the group {name} holds itself: {' → '.join((*within, name))}")
        files = self._files.get(name) or self._tagged.get(name)
        if files is None:
            files = self._stems.get(name, [])
        elif name in self._files and len(files) > 1:
            raise UserError(f"{files[0]} and {files[1]}: both name the task {name}; rename one")
        if not files:
            group = f"the group {within[-1]} asks for {name}, and " if within else ""
            raise UserError(f"{self.folder}: {group}there is no such task in it; add its file")
        for file in files:
            config = included(file, ())
            if "group" not in config:
                yield checked(config, file)
                continue
            refuse_code(config, file)
            members = _listed(config.get("task"))
            if not members:
                raise UserError(f"{file}: the group {name}: task: names none; list its tasks there")
            for member in members:
                changes = member if isinstance(member, dict) else {"task": member}
                for task in self._named(str(changes.get("task", changes.get("group"))), (*within, name)):
                    own = file if len(changes) > 1 else task.file
                    yield checked(task | changes | {"task": task["task"]}, own)


def read(file: Path) -> Any:
    """What a file holds, a mapping for a task. Raises UserError where it is not YAML."""
    loader = None
    try:
        loader = _Loader(file.read_text(encoding="utf-8"))
        return loader.get_single_data()
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{file}{line}: not a YAML file: {getattr(error, 'problem', None) or error}; mend it") from None
    except RecursionError:
        raise UserError(f"{file}: nested too deeply to be read; mend it") from None
    finally:
        if loader is not None:
            loader.dispose()


def included(file: Path, within: tuple[Path, ...]) -> Config:
    """A file's keys, over those of the files that it includes."""
    if file in within:
        raise UserError(f"{file}: includes itself, by way of {within[-1]}")
    config: Config = {}
    own = read(file)
    if not isinstance(own, dict):
        by = f"{within[-1]}: include: " if within else ""
        raise UserError(f"{by}{file}: holds no keys of a task; expected a YAML mapping")
    for name in _listed(own.pop("include", None)):
        other = file.parent / str(name)
        if not other.is_file():
            raise UserError(f"{file}: include: {other}: no such file; name it relative to {file.name}")
        config |= included(other, (*within, file))
    return config | own


def checked(config: Config, file: Path) -> TaskConfig:
    """A task as the harness may have it: no code, and its data files found."""
    refuse_code(config, file)
    config = TaskConfig({key: config[key] for key in config if key not in ("tag", "group", "task_list")}, file)
    where = config.where
    check_keys(config, where)
    path, options = config.get("dataset_path"), dict(config.get("dataset_kwargs") or {})
    if not isinstance(path, str):
        raise UserError(f"{where}: dataset_path={path!r}; expected one of {', '.join(FORMATS)}, or a dataset's name")
    if path in REFUSED_FORMATS:
        raise UserError(f"{where}: dataset_path={path} {REFUSED_FORMATS[path]}; expected one of {', '.join(FORMATS)}")
    if path in FORMATS:
        if "data_files" not in options:
            raise UserError(f"{where}: dataset_path={path} without dataset_kwargs.data_files; name the files there")
        options["data_files"] = _located(options["data_files"], file)
        config["dataset_kwargs"] = options
    elif (local := _beside(path, file)) is not None:
        config["dataset_path"] = local
    return config


def needs_network(config: Config) -> bool:
    """Whether the data of a checked task is on the Hugging Face hub, or behind another URL."""
    path = str(config["dataset_path"])
    if path in FORMATS:
        return any("://" in name for name in _strings(config["dataset_kwargs"]["data_files"]))
    return not Path(path).exists()


def refuse_code(value: Any, file: Path, key: str = "", within: tuple[int, ...] = ()) -> None:
    """UserError for the first thing in a file by which the harness would run code, or that holds itself."""
    if isinstance(value, Code):
        raise UserError(
            f"{file}:{value.line}: {key}: {value.tag} {value.value} is Python code, and no file of --tasks-dir "
            f"may run any; write a template in its place, or {ELSEWHERE}"
        )
    if id(value) in within:
        raise UserError(f"{file}: {key}: an alias (*) within what it stands for; write the value out")
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in CODE_KEYS and inner not in (None, False):
                raise UserError(f"{file}: {name}: {CODE_KEYS[name]}; leave it out, or {ELSEWHERE}")
            refuse_code(inner, file, f"{key}.{name}" if key else str(name), (*within, id(value)))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            refuse_code(inner, file, f"{key}.{number}", (*within, id(value)))


def _located(files: Any, file: Path) -> Any:
    """data_files with absolute paths: relative ones are sought where the command runs, then beside the task file."""
    if isinstance(files, dict):
        return {split: _located(names, file) for split, names in files.items()}
    if isinstance(files, list):
        return [_located(name, file) for name in files]
    if "://" in str(files):
        return files
    found = _beside(str(files), file)
    if found is None:
        raise UserError(
            f"{file}: dataset_kwargs.data_files: {files}: no such file; name it absolute, or relative to this "
            f"directory or to {file.parent}"
        )
    return found


def _beside(name: str, file: Path) -> str | None:
    for base in (Path(), file.parent):
        if glob.glob(str(base / name), recursive=True):
            return str((base / name).absolute())
    return None


def _strings(value: Any) -> Iterator[str]:
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)
    if isinstance(value, str):
        yield value


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
