"""Text to a dataset directory: read and cut, encode in workers, choose, merge, account, rename.

inputs → lots → chunks → (workers) spill files → selection → shards, manifest
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_preprocessing import ledger
from data_preprocessing.advice import advise
from data_preprocessing.chunks import Chunk, chunk_bytes, chunks, lots
from data_preprocessing.config import PreprocessConfig
from data_preprocessing.encoder import ChunkEncoder, Outcome
from data_preprocessing.inputs import InputReader, Progress, stopping
from data_preprocessing.merge import Merger
from data_preprocessing.ray_workers import encode_in_ray
from data_preprocessing.selection import Limiter, Selection, Taken
from data_preprocessing.spill import Counts, Spill, find_spill
from data_preprocessing.tasks import Task, read_accounts, refuse_differences
from data_preprocessing.workers import available_cpus, encode_here, encode_in_processes
from modelzoo.base_config import UserError
from modelzoo.data.schema import (
    MANIFEST,
    REJECTED,
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
from modelzoo.files import OUT_OF_SPACE, exclusive, write_text
from modelzoo.tokenizer import Tokenizer

SMALL_BYTES = 2 * 2**20
"""Less input than this is not worth a second process, to begin which takes 0.05 s."""
FAST_SMALL = 6
"""Times as much, where `fastokens` encodes."""
NOT_CONTENT = {"name", "description", "tokenizer", "output", "workers", "executor", "tokenizer_backend"}
"""Names, places and means decide nothing about the content; the tokenizer stands beside them by its hash."""


UNREAD = "not read to its end"
"""Stands for the hash of a file beyond a limit, and of any that lies elsewhere where there is a limit."""


class Summary(NamedTuple):
    """What a run left behind."""

    output: Path
    manifest: Manifest | None
    """None after one task of several: there is no dataset yet."""
    tokenizer: Tokenizer
    """What encoded; its notes are for the user."""
    already_done: bool = False
    """The same dataset was there before; nothing was written."""


def run(
    config: PreprocessConfig,
    base_dir: Path = Path(),
    on_progress: Callable[[Progress], None] | None = None,
    task: Task | None = None,
    merge_tasks: bool = False,
) -> Summary:
    """Write the dataset that `config` describes. Relative paths start at `base_dir`.

    Nothing appears at `output` before it is whole. Equal inputs, settings and tokenizer give equal bytes,
    for any number of workers; where they are there already, nothing is done. A run that was stopped, or
    killed, goes on from the chunks that it left in `<output>.partial`.

    With `task`, only that share of the chunks is encoded; when all tasks have run, `merge_tasks` makes the
    dataset of what they left, without reading the input again.

    Raises:
        UserError: input, tokenizer or output is not as it should be; or the disk is full.
    """
    output = _output(config, base_dir)
    job = _Job(config, base_dir, on_progress)
    lock = f".{output.name}.lock" if task is None else f".{output.name}.task-{task}.lock"
    with exclusive(output.with_name(lock), f"writing {output}"):
        if finished := _finished(output, job):
            shutil.rmtree(job.staging, ignore_errors=True)
            return Summary(output, finished, job.tokenizer, already_done=True)
        try:
            if task is not None:
                job.encode_task(task)
                return Summary(output, None, job.tokenizer)
            manifest = job.write(job.encoded_by_tasks() if merge_tasks else job.encode())
        except (OSError, RuntimeError) as error:  # h5py raises either
            if message := job.out_of_space(error):
                raise UserError(message) from error
            raise
        os.rename(job.dataset, output)
        shutil.rmtree(job.staging, ignore_errors=True)
    return Summary(output, manifest, job.tokenizer)


def _output(config: PreprocessConfig, base_dir: Path) -> Path:
    """The directory to write: where a link leads, for no directory can take a link's place. Raises UserError."""
    output = base_dir / config.output
    if output.name in ("", "..") or "\0" in config.output:
        raise UserError(f"output={config.output!r}: expected the path of a directory to write, as in data/news")
    return Path(os.path.realpath(output)) if output.is_symlink() else output


class _Job:
    """The parts of one run."""

    def __init__(
        self, config: PreprocessConfig, base_dir: Path, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.config = config
        self.on_progress = on_progress
        path = config.tokenizer if "://" in config.tokenizer else base_dir / config.tokenizer
        self.tokenizer = Tokenizer.load(path, config.tokenizer_backend, background=True)
        config.mode.prepare(self.tokenizer)
        output = _output(config, base_dir)
        self.staging = output.with_name(output.name + ".partial")
        self.chunks, self.tasks = self.staging / "chunks", self.staging / "tasks"
        self.dataset = self.staging / "dataset"
        self.inputs = {name: InputReader(source.reader, base_dir) for name, source in config.named_sources.items()}
        self.total_bytes = sum(sum(reader.sizes.values()) for reader in self.inputs.values())
        self.chunk_bytes = chunk_bytes(self.total_bytes)
        self.lots = list(lots(self.inputs, self.chunk_bytes))
        self.progress = Progress(0, self.total_bytes, 0, 0, 0)
        self.settings: dict[str, Any] = config.model_dump(mode="json", exclude=NOT_CONTENT)
        self.tokenizer_info = TokenizerInfo(
            sha256=self.tokenizer.sha256,
            vocab_size=self.tokenizer.vocab_size,
            end_of_document_id=self.tokenizer.end_of_document_id,
        )
        self._limiter = Limiter(config)
        self._stop_reading = False

    # encoding

    def encode(self) -> list[Taken]:
        """Encode all chunks up to the limits; what is taken of each, in reading order."""
        taken: list[Taken] = []
        order: list[Chunk] = []  # as they were handed out; their frames are let go
        done: dict[str, Outcome] = {}
        number = 0

        def handed_out() -> Iterator[Chunk]:
            for chunk in self._read():
                order.append(chunk._replace(items=()))
                yield chunk

        for outcome in self._outcomes(handed_out()):
            done[outcome.chunk] = outcome
            while number < len(order) and (ready := done.pop(order[number].name, None)):
                taken += self._take(ready, order[number])
                number += 1
                self._stop_reading = self._limiter.reached
        self._advance(None)
        return taken

    def encode_task(self, task: Task) -> None:
        """Encode the chunks of one task, and leave an account of it for the merge."""
        mine: dict[str, str] = {}
        num_chunks: dict[int, int] = {}

        def handed_out() -> Iterator[Chunk]:
            for chunk in self._read(task, num_chunks):
                mine[chunk.name] = chunk.digest(self._encoder.settings_of(chunk))
                yield chunk

        for outcome in self._outcomes(handed_out()):
            counts = self._counts(outcome)
            if not self._limiter.any_set:  # else only the merge knows what is beyond a limit
                self._stop_at_failure(counts, counts.records)
        account = {
            **self._identity(),
            "chunks": mine,
            "num_chunks": num_chunks,
            "inputs": {source: reader.sha256 for source, reader in self.inputs.items()},
        }
        write_text(self.tasks / f"{task}.json", json.dumps(account, indent=1))

    def encoded_by_tasks(self) -> list[Taken]:
        """What `encode` gives, from the accounts that tasks left."""
        accounts = read_accounts(self.tasks, self._identity())
        digests = {name: digest for account in accounts for name, digest in account["chunks"].items()}
        for source, reader in self.inputs.items():
            for name, sha256 in (item for account in accounts for item in account["inputs"][source].items()):
                if reader.sha256.setdefault(name, sha256) != sha256:
                    raise UserError(f"{name}: changed between one task and the next; run all tasks again")
        taken: list[Taken] = []
        for lot in self.lots:
            lengths = {account["num_chunks"].get(str(lot.number)) for account in accounts} - {None}
            assert len(lengths) == 1, (lot, lengths)
            for number in range(lengths.pop()):
                chunk = Chunk(lot.number, number, lot.source, ())
                counts = find_spill(self._path(chunk.name), digests[chunk.name])
                if counts is None:
                    raise UserError(f"{self._path(chunk.name)}: missing or damaged; run all tasks again")
                taken += self._take(Outcome(chunk.name, counts), chunk)
        return taken

    def _identity(self) -> dict[str, Any]:
        """What all tasks and the merge must have in common."""
        files = {source: reader.sizes for source, reader in self.inputs.items()}
        return {"settings": self.settings, "tokenizer": self.tokenizer_info.sha256, "files": files}

    def _take(self, outcome: Outcome, chunk: Chunk) -> list[Taken]:
        """What is taken of the next chunk in reading order; nothing beyond a limit."""
        if self._limiter.reached_by(chunk.source):  # it was only read ahead, and may be broken
            return []
        counts = self._counts(outcome)
        taken = self._limiter.take(Spill(self._path(chunk.name)), chunk.source)
        self._stop_at_failure(counts, taken.num_records)
        return [taken]

    def _outcomes(self, todo: Iterator[Chunk]) -> Iterator[Outcome]:
        """Encode chunks by what the config asks for, and report progress."""
        self.chunks.mkdir(parents=True, exist_ok=True)
        workers = self.config.workers or available_cpus()
        if self.config.executor == "ray":
            outcomes = encode_in_ray(self._encoder, todo, self.config.workers)
        elif workers == 1 or self._is_small():
            outcomes = encode_here(self._encoder, todo)
        else:
            outcomes = encode_in_processes(self._encoder, todo, workers)
        for outcome in outcomes:
            self._advance(outcome.counts)
            yield outcome

    def _is_small(self) -> bool:
        self.tokenizer.prepare()
        return self.total_bytes < SMALL_BYTES * (FAST_SMALL if self.tokenizer.is_fast else 1)

    @property
    def _encoder(self) -> ChunkEncoder:
        return ChunkEncoder(self.config, self.tokenizer, self.chunks)

    def _read(self, task: Task | None = None, num_chunks: dict[int, int] | None = None) -> Iterator[Chunk]:
        """The chunks of all lots, or of one task's, as long as they are wanted."""
        for lot in self.lots:
            if task and not task.has(lot, len(self.lots)):
                continue
            if task is None and self._limiter.reached_by(lot.source):
                continue
            index = -1
            for index, chunk in enumerate(chunks(lot, self.inputs[lot.source].frames(lot.files), self.chunk_bytes)):
                if self._stop_reading:
                    return
                if task is None or task.has(lot, len(self.lots), index):
                    yield chunk
                if task is None and self._limiter.reached_by(lot.source):
                    break
            if num_chunks is not None:
                num_chunks[lot.number] = index + 1

    def _counts(self, outcome: Outcome) -> Counts:
        """What a chunk holds. Raises what made it fail."""
        if outcome.crashed:
            raise RuntimeError(outcome.error)
        if outcome.counts is None:
            raise UserError(outcome.error)
        return outcome.counts

    def _stop_at_failure(self, counts: Counts, num_records: int) -> None:
        """Raise UserError for the first of so many records that stops the run."""
        if self.config.on_error == "stop" and counts.failure and counts.failure_record < num_records:
            raise UserError(stopping(counts.failure))

    def _advance(self, counts: Counts | None) -> None:
        before = self.progress
        self.progress = Progress(
            bytes_done=sum(reader.bytes_done for reader in self.inputs.values()),
            bytes_total=self.total_bytes,
            documents=before.documents + (counts.documents if counts else 0),
            tokens=before.tokens + (counts.tokens if counts else 0),
            rejected=before.rejected + (counts.rejected if counts else 0),
        )
        if self.on_progress:
            self.on_progress(self.progress)

    def _path(self, chunk: str) -> Path:
        return self.chunks / f"{chunk}.safetensors"

    # the dataset

    def write(self, taken: list[Taken]) -> Manifest:
        """Write the whole dataset below the staging directory."""
        shutil.rmtree(self.dataset, ignore_errors=True)
        self.dataset.mkdir(parents=True)
        scratch = self.staging / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        selection = Selection(taken, self.config, scratch)
        write_text(self.dataset / TOKENIZER, self.tokenizer.json)  # `save` would make it again: 0.05 s
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
        merger = Merger(selection, self.config.shuffle_seed, self.config.mode.has_loss_mask)
        names = ["train", "validation"] if self.config.validation_fraction else ["train"]
        splits = {name: merger.write(self.dataset, name, header, self.config.shard_tokens) for name in names}
        account = ledger.account(selection, splits, self.dataset / REJECTED)
        for name, split in splits.items():
            if not split.num_documents:
                raise UserError(self._nothing_for(name, account.documents_written, account.rejected_by_reason))
        lots_read, readers = self._lots_read(taken), [s.reader for s in self.config.named_sources.values()]
        num_files = sum(len(lot.files) for lot in self.lots if lot.number in lots_read)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            settings=self.settings,
            inputs=tuple(self._inputs_of(lots_read)),
            tokenizer=self.tokenizer_info,
            splits=splits,
            ledger=account,
            advice=tuple(advise(self.dataset, self.config.mode, readers, num_files, account, splits)),
        )
        return write_manifest(self.dataset, manifest)

    def _lots_read(self, taken: list[Taken]) -> set[int]:
        """Those of which something was taken, or where no limit leaves any out, all."""
        if not self._limiter.any_set:
            return {lot.number for lot in self.lots}
        return {int(chunk.spill.path.stem.split("-")[0]) for chunk in taken if chunk.num_records}

    def _inputs_of(self, lots_read: set[int]) -> Iterator[InputFile]:
        """All files, also those beyond a limit: one more might have been read before them."""
        for lot in self.lots:
            reader = self.inputs[lot.source]
            for name in lot.files:
                sha256 = self._hash(reader, name) if lot.number in lots_read else UNREAD
                yield InputFile(path=name, size=reader.sizes[name], sha256=sha256)

    def _hash(self, reader: InputReader, name: str) -> str:
        """The sha256 of an input. A limit is not to fetch all of what lies elsewhere."""
        return UNREAD if self._limiter.any_set and not reader.is_local(name) else reader.hash(name)

    def inputs_now(self, recorded: Mapping[str, str]) -> Iterator[InputFile]:
        """Each input as it is, to be held against those recorded, of which no more is read again than was then."""
        for reader in self.inputs.values():
            for name in reader.names:
                sha256 = UNREAD if recorded.get(name, UNREAD) == UNREAD else self._hash(reader, name)
                yield InputFile(path=name, size=reader.sizes[name], sha256=sha256)

    def _nothing_for(self, split: str, written: int, reasons: dict[str, int]) -> str:
        if written:
            fraction = self.config.validation_fraction
            return (
                f"validation_fraction={fraction}: of {written} documents none fell into {split}; "
                f"about {fraction * written:.1f} were to be in validation: read more text, choose a fraction "
                "nearer to one half, or 0 for no validation"
            )
        names = [name for reader in self.inputs.values() for name in reader.names]
        files = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        none = "none is left by its limits" if self._limiter.any_set else "nothing in them"
        why = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or none
        return f"reader.paths: no document in {files} ({why}); expected text to read there"

    def out_of_space(self, error: OSError | RuntimeError) -> str | None:
        """The message for a full disk, None for any other error."""
        # h5py and safetensors put errno into the text only, in some of their errors
        text = str(error).lower()
        told = re.search(r"errno = (\d+)", text)
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        if number not in OUT_OF_SPACE and "no space left" not in text and "quota exceeded" not in text:
            return None
        item = token_dtype(self.tokenizer_info.vocab_size).itemsize + self.config.mode.has_loss_mask
        done = self.progress.bytes_done or 1
        tokens = self.progress.tokens * self.total_bytes / done or self.total_bytes / 4
        shutil.rmtree(self.dataset, ignore_errors=True)
        free = shutil.disk_usage(self.staging.parent).free
        return (
            f"{self.staging}: no space left on the device ({free / 1e6:,.0f} MB free); a run needs about "
            f"{2 * tokens * item / 1e6:,.0f} MB, half of it only until it ends. Free some, and the same command goes "
            f"on from what is done; or choose an `output` elsewhere, and delete {self.staging}"
        )


def _finished(output: Path, job: _Job) -> Manifest | None:
    """The manifest at `output` where it is what this run would write, None where there is nothing."""
    if not output.exists():
        return None
    if not (output / MANIFEST).exists():
        if output.is_dir() and not any(output.iterdir()):
            return None
        raise UserError(f"{output}: exists and is not a dataset; choose another `output`, or delete it")
    manifest = read_manifest(output)
    there: dict[str, Any] = {"settings": manifest.settings, "tokenizer": manifest.tokenizer.sha256}
    here: dict[str, Any] = {"settings": job.settings, "tokenizer": job.tokenizer_info.sha256}
    if there == here:  # only then are the files worth reading
        there["inputs"] = {file.path: _content(file) for file in manifest.inputs}
        recorded = {file.path: file.sha256 for file in manifest.inputs}
        here["inputs"] = {file.path: _content(file) for file in job.inputs_now(recorded)}
    refuse_differences(
        f"{output}: holds a dataset of other settings, inputs or tokenizer",
        there,
        here,
        "choose another `output`, or delete it",
    )
    return manifest


def _content(file: InputFile) -> str:
    """What a file is known by."""
    return file.sha256 if file.sha256 != UNREAD else f"{file.size:,} bytes, {UNREAD}"
