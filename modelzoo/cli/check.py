"""`modelzoo check`: every error of the named configs at once, without torch."""

from typing import TYPE_CHECKING

import typer

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import split_overrides

if TYPE_CHECKING:
    from pathlib import Path

    from modelzoo.compare.config import CompareConfig
    from modelzoo.data.config import SourceConfig
    from modelzoo.run_config import RunConfig


def command(
    configs: list[str] = typer.Argument(..., help="Shipped names or YAML paths, then key=value overrides."),
) -> None:
    """Validate configs: every error at once, with file and line."""
    from modelzoo.cli.any_config import load_any
    from modelzoo.compare.config import CompareConfig
    from modelzoo.run_config import RunConfig

    names, overrides = split_overrides(configs)
    failures = []
    for name in names:
        notes: list[str] = []
        try:
            config = load_any(name, overrides)[0]
            if isinstance(config, CompareConfig):
                notes = study_notes(config)
            if isinstance(config, RunConfig):
                notes = [*config.notes(), *data_notes(config)]
        except UserError as error:
            failures.append(str(error))
            continue
        print(f"{name}: ok")
        for note in notes:
            print(f"  {note}")
    if failures:
        raise UserError("\n".join(failures))


def study_notes(study: "CompareConfig") -> list[str]:
    """That the arms of a study compose and compare, and what it still needs from the disk."""
    from pathlib import Path

    from modelzoo.compare.arms import compose_arms, fit_size
    from modelzoo.compare.fairness import check_configs
    from modelzoo.compare.plan import make_plan

    arms = fit_size(study, compose_arms(study))
    paths = dict.fromkeys(source.path for arm in arms for source in arm.config.data.used_sources())
    absent = [path for path in paths if not Path(path).is_dir()]
    if absent:
        check_configs(study, arms)
        return [f"not there yet: {path}" + (" (see prepare)" if study.prepare else "") for path in absent]
    return [f"{check.check}: {check.detail}" for check in make_plan(study, []).checks]


def data_notes(config: "RunConfig") -> list[str]:
    """What the run still needs from the disk; what is there already is checked against the config.

    Raises:
        UserError: it does not fit, with every reason that was found, a line each.
    """
    from pathlib import Path

    from modelzoo.base_fit import notes_of_base
    from modelzoo.data.accounting import describe_all
    from modelzoo.data.sources import check_tokenizer_is_known, find_accounts, require_one_tokenizer
    from modelzoo.run_length import if_known

    check_tokenizer_is_known(config.data)
    notes: list[str] = []
    failures: list[str] = []
    tokenizers: dict[Path, str | None] = {}
    there = dict.fromkeys(path for source in config.data.used_sources() if (path := Path(source.path)).is_dir())
    for source in config.data.used_sources():
        path = Path(source.path)
        if path not in there:
            note = f"not there yet: {path} (written by: modelzoo preprocess)"
            notes += [] if note in notes else [note]
            continue
        try:
            notes += source_notes(config, source, tokenizers)
        except UserError as error:
            failures.append(str(error))
    try:
        require_one_tokenizer(tokenizers)
    except UserError as error:
        failures.append(str(error))
    try:
        notes += notes_of_base(config, list(there))
    except UserError as error:
        failures.append(str(error))
    if failures:
        raise UserError("\n".join(dict.fromkeys(failures)))
    if (resolved := if_known(config)) is None:
        return notes
    if config.trainer.max_epochs is not None:
        notes.append(f"{config.trainer.max_epochs:g} epochs are {resolved.total_steps:,} steps")
    batch_size = config.trainer.global_batch_size
    accounts = find_accounts(config.data, batch_size, resolved.total_steps, config.model.vocab_size)
    return notes + [f"data: {line}" for line in describe_all(accounts)]


def source_notes(config: "RunConfig", source: "SourceConfig", tokenizers: "dict[Path, str | None]") -> list[str]:
    """What is to be said of a dataset that is there; the sha256 of its tokenizer comes into `tokenizers`.

    Raises:
        UserError: the run cannot read it.
    """
    from pathlib import Path

    from modelzoo.data.schema import find_split, read_manifest
    from modelzoo.data.sources import is_modelzoos, open_dataset, split_of
    from modelzoo.tokenizer import Tokenizer

    path, data, vocab_size = Path(source.path), config.data, config.model.vocab_size
    tokenizer = Tokenizer.load(data.tokenizer) if data.tokenizer else None
    if is_modelzoos(path):
        dataset = open_dataset(source, data.seq_len, data.isolate_documents, vocab_size)
        dataset.check_against(tokenizer, vocab_size)
        return list(dataset.notes)
    manifest = read_manifest(path)
    tokenizers[path] = manifest.tokenizer.sha256
    find_split(path, manifest, split_of(source))
    if manifest.tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"model.vocab_size={vocab_size} is less than the {manifest.tokenizer.vocab_size} ids in "
            f"{path}; use model.vocab_size={manifest.tokenizer.vocab_size}"
        )
    if tokenizer is not None and tokenizer.sha256 != manifest.tokenizer.sha256:
        raise UserError(f"{path} was not written with data.tokenizer={data.tokenizer}; preprocess it again")
    return []
