"""`modelzoo evaluate --data`: a dataset in rows or document by document, or raw text."""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import h5py

from modelzoo.base_config import UserError
from modelzoo.cli.arguments import say
from modelzoo.cli.progress import counting
from modelzoo.cli.text_data import TextData
from modelzoo.data.config import SourceConfig
from modelzoo.data.dataset import TokenDataset
from modelzoo.data.modelzoo_files import h5_files
from modelzoo.data.rows import RowDataset
from modelzoo.data.schema import MANIFEST, TOKENIZER
from modelzoo.data.sources import is_modelzoos, open_dataset
from modelzoo.evaluate.documents import Tokens, documents_of, score_documents, tokenize
from modelzoo.evaluate.rows import score_rows
from modelzoo.evaluate.scoring import Scorer
from modelzoo.evaluate.totals import TextSizes, Totals
from modelzoo.files import writing
from modelzoo.run_config import RunConfig
from modelzoo.saved_models import find_saved_config
from modelzoo.tokenizer import Tokenizer


def is_dataset(path: Path) -> bool:
    """Whether tokens lie there, ours or ModelZoo's, and not text."""
    if path.suffix in (".h5", ".hdf5"):
        raise UserError(f"--data {path}: one file of a dataset; name its directory, {path.parent}")
    return path.is_dir() and ((path / MANIFEST).is_file() or is_modelzoos(path))


@dataclass
class Evaluation:
    """A model with its tokenizer, and how to look at data."""

    scorer: Scorer
    tokenizer: Tokenizer
    folder: Path
    """Of the checkpoint."""
    seq_len: int | None
    stride: int | None
    per_document: Path | None
    limit: int | None

    def of_dataset(
        self,
        path: Path | None,
        split: str | None,
        max_batches: int | None,
        compressors: bool,
        of_set: str | None = None,
    ) -> dict[str, Any]:
        """In the rows that training reads; with a stride, or where sums of documents are wanted, by document."""
        run = find_saved_config(self.folder)
        if path is None:
            source = _source_of(run, of_set, self.folder)
            source = source if split is None else source.model_copy(update={"split": split})
        else:
            source = SourceConfig(path=str(path), split=split or (None if is_modelzoos(path) else "validation"))
        seq_len = self._checked_seq_len(run, _length_of_examples(Path(source.path)), str(source.path))
        vocab_size = self.scorer.model.config.vocab_size
        isolated = run is not None and run.data.isolate_documents
        dataset = open_dataset(source, seq_len, isolated, vocab_size)
        dataset.check_against(None if self._covers(dataset) else self.tokenizer, vocab_size)
        if dataset.num_tokens == 0:
            raise UserError(f"{source.path}: the split {source.split} holds no tokens; name another with --split")
        for note in dataset.notes:
            say(f"note: {note}")
        compressed = compressed_bits_per_byte(dataset, self.tokenizer) if compressors else {}
        sizes = TextSizes.of(self.tokenizer)
        by_document = any(option is not None for option in (self.stride, self.per_document, self.limit))
        if by_document:
            documents = islice(_documents(dataset, sizes, max_batches), self.limit)
            totals = self._of_documents(documents, seq_len, dataset.num_tokens if self.limit is None else None)
        else:
            with counting("evaluating", dataset.num_tokens, "tokens") as advance:
                end = self.tokenizer.end_of_document_id
                totals = score_rows(self.scorer, dataset, sizes, end, max_batches, advance)
        if dataset.bytes_per_token is not None and totals.num_tokens == dataset.num_tokens:
            num_bytes = round(dataset.bytes_per_token * dataset.num_tokens)
            if num_bytes != totals.num_bytes:
                changed = f"{num_bytes:,} bytes, then {totals.num_bytes:,}"
                say(f"note: the tokenizer changes the text ({changed}): characters are those of the changed text")
            totals.num_bytes = num_bytes
        numbers = self._numbers(totals, str(source.path), seq_len, self._stride(seq_len) if by_document else None)
        numbers |= compressed
        return {"split": source.split, **numbers}

    def _covers(self, dataset: RowDataset) -> bool:
        """Whether the dataset's tokenizer is another than the model's, but gives text the ids that this would: a run
        keeps the larger one of its base."""
        file = dataset.path / TOKENIZER
        return file.is_file() and self.tokenizer.covers(Tokenizer.load(file, backend="tokenizers"))

    def of_text(self, path: str, text_key: str | None, on_error: str) -> dict[str, Any]:
        """Document by document."""
        text = TextData(path, text_key, on_error)
        for note in text.notes:
            say(f"note: {note}")
        seq_len = self._checked_seq_len(find_saved_config(self.folder), None, path)
        totals = self._of_documents(tokenize(text.texts(self.limit), self.tokenizer), seq_len, None)
        left_out = dict(text.left_out)
        if not totals.num_tokens:
            raise UserError(f"--data {path}: holds no documents{f', left out: {left_out}' if left_out else ''}")
        for note in self.tokenizer.notes:
            say(f"note: {note}")
        return {**self._numbers(totals, path, seq_len, self._stride(seq_len)), "left_out": left_out}

    def _of_documents(self, documents: Iterable[Tokens], seq_len: int, num_tokens: int | None) -> Totals:
        totals = Totals()
        with ExitStack() as stack:
            advance = stack.enter_context(counting("evaluating", num_tokens, "tokens"))
            lines = stack.enter_context(writing(self.per_document)) if self.per_document else None
            for document in score_documents(
                self.scorer,
                documents,
                self.tokenizer.end_of_document_id,
                seq_len,
                self._stride(seq_len),
                lambda rows: advance(sum(len(row.targets) for row in rows)),
            ):
                totals.add(document)
                if lines is not None:
                    lines.write(json.dumps(document.to_json()) + "\n")
        return totals

    def _checked_seq_len(self, run: RunConfig | None, row: int | None, path: str) -> int:
        """What was asked for, else the run's, else the model's. Where the data stands in rows of `row` tokens, a
        length that divides them: without a run the longest one that the model reads."""
        longest = self.scorer.model.config.max_seq_len
        if self.seq_len is not None and self.seq_len > longest:
            raise UserError(f"--seq-len {self.seq_len}: the model's max_seq_len is {longest}; use that or less")
        chosen = self.seq_len or (run.data.seq_len if run else None)
        if row is None:
            return chosen or longest
        fitting = next(length for length in range(min(row, longest), 0, -1) if row % length == 0)
        if chosen is None and fitting < row:
            say(f"note: {path}: rows of {row} tokens, and the model reads {longest}: --seq-len {fitting} divides them")
        if chosen is not None and row % chosen:
            asked = f"--seq-len {chosen}" if self.seq_len else f"the run's length of {chosen}"
            raise UserError(
                f"{path}: its rows were cut to {row} tokens when they were written, and {asked} does not divide "
                f"them; use --seq-len {fitting}, or another length that does"
            )
        return chosen or fitting

    def _stride(self, seq_len: int) -> int:
        if self.stride is not None and self.stride > seq_len:
            raise UserError(
                f"--stride {self.stride}: windows of {seq_len} tokens would leave some out; use at most {seq_len}"
            )
        return self.stride or max(1, seq_len // 2)

    def _numbers(self, totals: Totals, path: str, seq_len: int, stride: int | None) -> dict[str, Any]:
        return {"data": path, "seq_len": seq_len, "stride": stride, **totals.metrics()}


def _source_of(run: RunConfig | None, of_set: str | None, folder: Path) -> SourceConfig:
    """The run's validation data, or the named set of it."""
    sources = run.data.validation_sources() if run is not None else {}
    if not sources:
        raise UserError(f"{folder}: no run with validation data; name data with --data PATH")
    if of_set is None and len(sources) == 1:
        return next(iter(sources.values()))
    if of_set in sources and of_set:
        return sources[of_set]
    names = ", ".join(name for name in sources if name)
    if not names:
        raise UserError(f"--set {of_set}: the run in {folder} has one validation set, without a name; leave it out")
    raise UserError(
        f"{folder}: its run has the validation sets {names}; name one of them: --set NAME"
        if of_set is None
        else f"--set {of_set}: the run in {folder} has the validation sets {names}"
    )


def _length_of_examples(path: Path) -> int | None:
    """Tokens in each example of ModelZoo's sample files, which rows have to divide."""
    for file in h5_files(path)[:1] if is_modelzoos(path) else []:
        try:
            with h5py.File(file, "r") as opened:
                shape = opened["data"].shape
                return int(shape[2]) if len(shape) == 3 else None
        except (OSError, KeyError):
            return None  # `open_dataset` says what is wrong with it
    return None


def _documents(dataset: RowDataset, sizes: TextSizes, max_batches: int | None) -> Iterator[Tokens]:
    if not isinstance(dataset, TokenDataset):
        raise UserError(
            f"{dataset.path}: ModelZoo's files do not say where documents start; leave --stride, --per-document and "
            "--limit out"
        )
    if max_batches is not None:
        raise UserError("--max-batches: counts rows, and documents are looked at here; use --limit")
    if dataset.bytes_per_token is None:
        raise UserError(
            f"{dataset.path}: has a loss mask, by which only its rows can be read; leave --stride, --per-document "
            "and --limit out"
        )
    return documents_of(dataset, sizes)


def compressed_bits_per_byte(dataset: RowDataset, tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte of `gzip -9` and `xz -9` over the same documents, each compressed alone."""
    import gzip
    import lzma

    if not isinstance(dataset, TokenDataset) or dataset.bytes_per_token is None:
        raise UserError(
            f"{dataset.path}: not all of its text is predicted (a loss mask), or its documents are not known; leave "
            "--compressors out"
        )
    sizes = {"gzip": 0, "xz": 0, "text": 0}
    with counting("compressing", dataset.num_documents, "documents") as advance:
        for index in range(dataset.num_documents):
            text = tokenizer.decode_bytes(dataset.document(index))
            sizes["text"] += len(text)
            sizes["gzip"] += len(gzip.compress(text, 9, mtime=0))
            sizes["xz"] += len(lzma.compress(text, preset=9))
            advance(1)
    return {f"{name}_bits_per_byte": 8 * sizes[name] / sizes["text"] for name in ("gzip", "xz")}
