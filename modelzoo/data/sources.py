"""From the `data` section of a run to opened datasets and the loader of its training batches. No torch."""

from collections.abc import Mapping
from pathlib import Path

from modelzoo.base_config import UserError
from modelzoo.data.accounting import Account
from modelzoo.data.config import DataConfig, MixtureConfig, SourceConfig
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.loader import BatchLoader
from modelzoo.data.mixture import MixtureLoader, Source, rows_used
from modelzoo.data.modelzoo_files import h5_files, open_modelzoo_files
from modelzoo.data.rows import RowDataset
from modelzoo.data.schema import MANIFEST


def is_modelzoos(path: Path) -> bool:
    """Whether a directory holds files of Cerebras ModelZoo's, and not a dataset of this program."""
    return not (path / MANIFEST).exists() and bool(h5_files(path))


def split_of(source: SourceConfig) -> str:
    """The split of a dataset of this program, which has to be named."""
    if source.split is None:
        raise UserError(f"{source.path}: split=null, but a dataset of this program has splits; name one (split=train)")
    return source.split


def open_dataset(source: SourceConfig, seq_len: int, isolate_documents: bool, vocab_size: int) -> RowDataset:
    """One source, whichever program wrote it. `vocab_size` is the model's.

    Raises:
        UserError: missing, damaged, or not to be read as the source asks.
    """
    path = Path(source.path)
    if is_modelzoos(path):
        if source.split is not None:
            raise UserError(f"{path}: ModelZoo's files have no splits; use split=null instead of {source.split}")
        if source.packing != "stream":
            raise UserError(
                f"{path}: ModelZoo's files do not say where documents start; use packing=stream instead of "
                f"{source.packing}"
            )
        return open_modelzoo_files(path, seq_len, isolate_documents, vocab_size)
    return TokenDataset(path, split_of(source), seq_len, source.packing, isolate_documents)


def check_tokenizer_is_known(data: DataConfig) -> None:
    """Refuse a run that has no tokenizer for its checkpoints to carry: neither the data's own nor a named one.

    Raises:
        UserError: which data, and the remedy.
    """
    paths = [Path(source.path) for source in data.training_sources()]
    if data.tokenizer is None and all(map(is_modelzoos, paths)):
        raise UserError(
            f"{paths[0]}: holds no tokenizer, and every checkpoint carries one; name the tokenizer that the data "
            "was written with: data.tokenizer=PATH"
        )


def require_one_tokenizer(tokenizers: Mapping[Path, str | None]) -> None:
    """Refuse datasets of one run that were written with different tokenizers: path -> sha256, None where not known.

    Raises:
        UserError: two of them.
    """
    known = {path: sha256 for path, sha256 in tokenizers.items() if sha256 is not None}
    first = next(iter(known), None)
    for path, sha256 in known.items():
        if first is not None and sha256 != known[first]:
            raise UserError(
                f"{path} and {first} were written with different tokenizers, and a model reads one; preprocess one of "
                "them again"
            )


def open_training(
    data: DataConfig, batch_size: int, seed: int, num_steps: int, vocab_size: int
) -> BatchLoader | MixtureLoader:
    """The loader of a run of `num_steps` updates.

    Raises:
        UserError: as `open_dataset`; sources of several tokenizers, or of none; more repetition than max_epochs
            allows; less data than a batch takes.
    """
    check_tokenizer_is_known(data)
    loader = _loader(data, batch_size, seed, num_steps, vocab_size)
    loader.check(num_steps)
    return loader


def _loader(
    data: DataConfig, batch_size: int, seed: int, num_steps: int, vocab_size: int
) -> BatchLoader | MixtureLoader:
    if not isinstance(data.train, MixtureConfig):
        dataset = open_dataset(data.train, data.seq_len, data.isolate_documents, vocab_size)
        return BatchLoader(dataset, batch_size, seed, data.shuffle)
    datasets = {
        name: open_dataset(source, data.seq_len, data.isolate_documents, vocab_size)
        for name, source in data.train.used_sources().items()
    }
    sources = data.train.used_sources()
    sizes = {name: rows_used(name, dataset, sources[name].max_tokens) for name, dataset in datasets.items()}
    rates = data.train.rates(num_steps, batch_size * data.seq_len, sizes)
    return MixtureLoader(
        {
            name: Source(
                datasets[name], rates[name], source.max_tokens, source.max_epochs, source.after_max_epochs == "drop"
            )
            for name, source in sources.items()
        },
        batch_size,
        seed,
        data.shuffle,
    )


def find_accounts(data: DataConfig, batch_size: int, num_steps: int, vocab_size: int) -> list[Account]:
    """What a run will take of each source; nothing where some of them are not there yet.

    Raises:
        UserError: as `open_training`.
    """
    if not all(Path(source.path).is_dir() for source in data.training_sources()):
        return []
    return open_training(data, batch_size, seed=0, num_steps=num_steps, vocab_size=vocab_size).accounts(num_steps)
