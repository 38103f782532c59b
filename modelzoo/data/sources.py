"""From the `data` section of a run to opened datasets and the loader of its training batches. No torch."""

from pathlib import Path

from modelzoo.base_config import UserError
from modelzoo.data.config import DataConfig, MixtureConfig, SourceConfig
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.loader import BatchLoader
from modelzoo.data.mixture import MixtureLoader, Source
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


def open_training(
    data: DataConfig, batch_size: int, seed: int, num_steps: int, vocab_size: int
) -> BatchLoader | MixtureLoader:
    """The loader of a run of `num_steps` updates.

    Raises:
        UserError: as `open_dataset`; sources of several tokenizers; more repetition than max_epochs allows.
    """
    if not isinstance(data.train, MixtureConfig):
        return BatchLoader(open_dataset(data.train, data.seq_len, data.isolate_documents, vocab_size), batch_size, seed)
    sources = {}
    for name, source in data.train.used_sources().items():
        dataset = open_dataset(source, data.seq_len, data.isolate_documents, vocab_size)
        sources[name] = Source(dataset, source.weight, source.max_tokens, source.max_epochs)
    loader = MixtureLoader(sources, batch_size, seed)
    loader.check_budget(num_steps)
    return loader
