"""Text to a dataset directory: read, draw the split, encode in batches, write, account, rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from data_preprocessing.config import PreprocessConfig
from data_preprocessing.inputs import Progress, Text, find_inputs, read_inputs
from data_preprocessing.ledger import Ledger
from data_preprocessing.modes import Encoded
from data_preprocessing.readers import Rejected
from data_preprocessing.writer import ShardWriter
from modelzoo.base_config import UserError
from modelzoo.data.schema import (
    MANIFEST,
    SCHEMA_VERSION,
    TOKENIZER,
    InputFile,
    Manifest,
    ShardHeader,
    TokenizerInfo,
    read_manifest,
    token_dtype,
    write_manifest,
)
from modelzoo.files import OUT_OF_SPACE, exclusive
from modelzoo.tokenizer import Tokenizer

BATCH_BYTES = 2**20
BATCH_DOCUMENTS = 8192


class Summary(NamedTuple):
    """What a run left behind."""

    output: Path
    manifest: Manifest
    already_done: bool
    """The same dataset was there before; nothing was written."""


def run(
    config: PreprocessConfig,
    base_dir: Path = Path(),
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Write the dataset that `config` describes. Relative paths start at `base_dir`.

    Nothing appears at `output` before it is whole, and a failure leaves nothing. Equal inputs, settings and
    tokenizer give equal bytes; where they are there already, nothing is done.

    Raises:
        UserError: input, tokenizer or output is not as it should be; or the disk is full.
    """
    tokenizer = Tokenizer.load(base_dir / config.tokenizer)
    output = base_dir / config.output
    job = _Job(config, base_dir, tokenizer, find_inputs(config.reader, base_dir), on_progress)
    with exclusive(output.with_name(f".{output.name}.lock"), f"writing {output}"):
        if finished := _finished(output, job):
            return Summary(output, finished, already_done=True)
        staging = output.with_name(output.name + ".partial")
        if staging.exists():
            shutil.rmtree(staging)
        try:
            staging.mkdir(parents=True)
            manifest = job.write(staging)
            write_manifest(staging, manifest)
            os.rename(staging, output)
        except BaseException as error:
            message = job.out_of_space(error, staging)
            shutil.rmtree(staging, ignore_errors=True)
            if message:
                raise UserError(message) from error
            raise
    return Summary(output, manifest, already_done=False)


class _Job:
    """The parts of one run."""

    def __init__(
        self,
        config: PreprocessConfig,
        base_dir: Path,
        tokenizer: Tokenizer,
        inputs: Sequence[InputFile],
        on_progress: Callable[[Progress], None] | None,
    ) -> None:
        self.config = config
        self.base_dir = base_dir
        self.tokenizer = tokenizer
        self.inputs = inputs
        self.on_progress = on_progress
        self.ledger = Ledger()
        self.progress = Progress(0, sum(file.size for file in inputs), 0, 0)
        # names and places decide nothing about the content; the tokenizer stands beside them by its hash
        outside = {"name", "description", "tokenizer", "output"}
        self.settings: dict[str, Any] = config.model_dump(mode="json", exclude=outside)
        self.tokenizer_info = TokenizerInfo(
            sha256=tokenizer.sha256,
            vocab_size=tokenizer.vocab_size,
            end_of_document_id=tokenizer.end_of_document_id,
        )

    def write(self, root: Path) -> Manifest:
        """Write all but the manifest below `root`, and return the manifest."""
        self.tokenizer.save(root / TOKENIZER)
        header = ShardHeader(
            schema_version=SCHEMA_VERSION,
            tokenizer_sha256=self.tokenizer_info.sha256,
            vocab_size=self.tokenizer_info.vocab_size,
            end_of_document_id=self.tokenizer_info.end_of_document_id,
            mode=self.settings["mode"]["kind"],
            num_documents=0,
            num_tokens=0,
            num_bytes=0,
            source_config=json.dumps(self.settings, sort_keys=True),
        )
        names = ["train", "validation"] if self.config.validation_fraction else ["train"]
        shard_tokens, has_loss_mask = self.config.shard_tokens, self.config.mode.has_loss_mask
        writers = {name: ShardWriter(root, name, header, shard_tokens, has_loss_mask) for name in names}
        for texts, encoded in self._encoded():
            for text, document in zip(texts, encoded, strict=True):
                split = split_of(text.raw, self.config.validation_fraction)
                writers[split].add(document, len(text.raw))
        splits = {name: writer.close() for name, writer in writers.items()}
        ledger = self.ledger.close(splits.values())
        for name, split_info in splits.items():
            if not split_info.num_documents:
                raise UserError(self._nothing_for(name))
        return Manifest(
            schema_version=SCHEMA_VERSION,
            settings=self.settings,
            inputs=tuple(self.inputs),
            tokenizer=self.tokenizer_info,
            splits=splits,
            ledger=ledger,
        )

    def _encoded(self) -> Iterator[tuple[list[Text], list[Encoded]]]:
        """Batches of documents with their ids. The next one is encoded while this one is written."""

        def finish(texts: list[Text], future: Future[list[Encoded]], bytes_done: int) -> list[Encoded]:
            encoded = future.result()
            self.ledger.tokens += sum(len(document.ids) for document in encoded)
            documents = self.progress.documents + len(texts)
            self.progress = Progress(bytes_done, self.progress.bytes_total, documents, self.ledger.tokens)
            if self.on_progress:
                self.on_progress(self.progress)
            return encoded

        with ThreadPoolExecutor(1) as pool:
            pending: tuple[list[Text], Future[list[Encoded]], int] | None = None
            for texts, bytes_done in self._batches():
                documents = [text.document for text in texts]
                started = (texts, pool.submit(self.config.mode.encode, self.tokenizer, documents), bytes_done)
                if pending:
                    yield pending[0], finish(*pending)
                pending = started
            if pending:
                yield pending[0], finish(*pending)

    def _batches(self) -> Iterator[tuple[list[Text], int]]:
        """About BATCH_BYTES of documents at a time, with the input bytes read so far. Keeps the ledger."""
        batch: list[Text] = []
        size = documents = num_bytes = bytes_done = 0
        max_documents, max_bytes = self.config.max_documents, self.config.max_bytes
        for item, bytes_done in read_inputs(self.config.reader, self.inputs, self.base_dir, self.config.on_error):
            if isinstance(item, Rejected):
                self.ledger.reject(item)
                continue
            self.ledger.read(len(item.raw))
            batch.append(item)
            size += len(item.raw)
            documents += 1
            num_bytes += len(item.raw)
            if size >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
                yield batch, bytes_done
                batch, size = [], 0
            if documents == max_documents or (max_bytes and num_bytes >= max_bytes):
                break
        if batch:
            yield batch, bytes_done

    def _nothing_for(self, split: str) -> str:
        written = self.ledger.documents_in - self.ledger.rejected_by_reason.total()
        if written:
            fraction = self.config.validation_fraction
            return (
                f"validation_fraction={fraction}: of {written} documents none fell into {split}; "
                f"about {fraction * written:.1f} were to be in validation: read more text, choose a fraction "
                "nearer to one half, or 0 for no validation"
            )
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.ledger.rejected_by_reason.items())
        files = ", ".join(file.path for file in self.inputs[:3]) + (", …" if len(self.inputs) > 3 else "")
        return f"reader.paths: no document in {files} ({reasons or 'no bytes'}); expected text to read there"

    def out_of_space(self, error: BaseException, staging: Path) -> str | None:
        """The message for a full disk, None for any other error. To be asked before staging is removed."""
        # h5py puts errno into the text only, in some of its errors
        if not isinstance(error, OSError) or not (
            error.errno in OUT_OF_SPACE or "No space left" in str(error) or "quota exceeded" in str(error)
        ):
            return None
        item = token_dtype(self.tokenizer_info.vocab_size).itemsize + self.config.mode.has_loss_mask
        done = self.progress.bytes_done or 1
        tokens = self.progress.tokens * self.progress.bytes_total / done or self.progress.bytes_total / 4
        shard = min(tokens, self.config.shard_tokens)
        free = shutil.disk_usage(staging.parent).free
        return (
            f"{staging}: no space left on the device ({free / 1e6:,.0f} MB free); the dataset needs about "
            f"{(tokens + shard) * item / 1e6:,.0f} MB, a shard of it twice while it is written; free some, "
            "or choose an `output` elsewhere. What was written has been removed"
        )


def split_of(raw: bytes, validation_fraction: float) -> str:
    """The split that a document with these bytes belongs to."""
    draw = int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "little")
    return "validation" if draw < validation_fraction * 2**64 else "train"


def _finished(output: Path, job: _Job) -> Manifest | None:
    """The manifest at `output` where it is what this run would write, None where there is nothing."""
    if not output.exists():
        return None
    if not (output / MANIFEST).exists():
        if output.is_dir() and not any(output.iterdir()):
            return None
        raise UserError(f"{output}: exists and is not a dataset; choose another `output`, or delete it")
    manifest = read_manifest(output)
    there = _flat({"settings": manifest.settings, **_identity(manifest.tokenizer, manifest.inputs)})
    here = _flat({"settings": job.settings, **_identity(job.tokenizer_info, job.inputs)})
    different = [key for key in dict.fromkeys((*there, *here)) if there.get(key) != here.get(key)]
    if different:
        lines = [f"  {key}: {there.get(key)!r} there, {here.get(key)!r} here" for key in different]
        raise UserError(
            f"{output}: holds a dataset of other settings, inputs or tokenizer:\n"
            + "\n".join(lines)
            + "\nchoose another `output`, or delete it"
        )
    return manifest


def _identity(tokenizer: TokenizerInfo, inputs: Sequence[InputFile]) -> dict[str, Any]:
    return {"tokenizer": tokenizer.sha256, "inputs": {file.path: file.sha256 for file in inputs}}


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix}{key}"
        out |= _flat(item, name + ".") if isinstance(item, dict) else {name: item}
    return out
