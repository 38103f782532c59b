"""The YAML of `modelzoo preprocess` and of `modelzoo tokenizer train`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from data_preprocessing.deduplication import DeduplicationConfig
from data_preprocessing.modes import ModeConfig
from data_preprocessing.modes.lm import LmMode
from data_preprocessing.normalization import Normalization
from data_preprocessing.readers import ReaderConfig
from modelzoo.base_config import Config, FromFloat, FromList, Problem, kind_of, union_of_kinds

if TYPE_CHECKING:
    AnyReader = ReaderConfig
    AnyMode = ModeConfig
    AnyDeduplication = DeduplicationConfig
else:
    AnyReader = union_of_kinds("data_preprocessing.readers", ReaderConfig)
    AnyMode = union_of_kinds("data_preprocessing.modes", ModeConfig)
    AnyDeduplication = union_of_kinds("data_preprocessing.deduplication", DeduplicationConfig)

BYTES = 256
NUM_SPACE_RUNS = 23
"""Runs of 2 to 24 spaces, as in GPT-NeoX-20B's tokenizer."""

PADDING_TOKEN = "<|padding_{}|>"

Positive = Annotated[int, FromFloat, Field(gt=0)]


class Limits(Config):
    """How much is read. What comes later in reading order is left out."""

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the documents that are used, drawn by a hash of their bytes: a growing corpus moves none."""
    max_documents: Positive | None = None
    """Stop reading after so many documents."""
    max_bytes: Positive | None = None
    """Stop reading with the document that reaches so many UTF-8 bytes."""
    max_tokens: Positive | None = None
    """Stop reading with the document that reaches so many tokens, ends of documents included."""


class Source(Limits):
    """One of several sources of text, with limits of its own."""

    reader: AnyReader
    """Where the text is and what a document is."""


class PreprocessConfig(Limits):
    """Text to a dataset directory."""

    name: str
    """What the listings call it."""
    description: str = ""
    """One line for the listings."""
    reader: AnyReader | None = None
    """Where the text is and what a document is; or several of them, as `sources`."""
    sources: dict[str, Source] = Field(default_factory=dict)
    """Readers by name, read one after the other, each with its own limits and its own account."""
    normalization: Normalization | None = None
    """Changes the text before anything else sees it: Unicode's canonical composition, or ftfy's repairs."""
    mode: AnyMode = LmMode()
    """How a document becomes tokens."""
    tokenizer: str
    """tokenizer.json, a directory holding one, or the vocabulary of GPT-2's pair of files."""
    output: str
    """Directory to write. It appears when it is whole; next to it, `<output>.partial` while it is not."""
    deduplication: AnyDeduplication | None = None
    """Which documents count as copies of an earlier one and are left out; null: none."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the documents that go to the split `validation`. Each document is drawn by a hash of its
    bytes: it stays on its side when the corpus grows, and copies of it fall on the same side."""
    shuffle_seed: int | None = None
    """Write the documents of each split in a random order, the same for every run with this seed; null: in
    reading order. Training shuffles its rows in either case, unless data.shuffle=false."""
    on_error: Literal["stop", "reject"] = "stop"
    """A document that cannot be read stops the run, or is left out and listed in rejected.jsonl. Empty
    documents are always left out and listed."""
    shard_tokens: Positive = 100_000_000
    """A shard is closed before it exceeds this; a single longer document gets one of its own."""
    workers: Positive | None = None
    """Processes that encode; null: one for each core. The result does not depend on it. Of less than 2 MiB of input, or
    12 where fastokens encodes, this process takes care alone."""
    executor: Literal["processes", "ray"] = "processes"
    """Where the workers run: on this machine, or on a Ray cluster that shares its disk."""
    tokenizer_backend: Literal["auto", "tokenizers", "fastokens"] = "auto"
    """What encodes. `auto`: fastokens, where it is installed and gives the ids of `tokenizers`."""

    @property
    def named_sources(self) -> Mapping[str, Source]:
        """All sources; a lone reader is one of the name "" without limits of its own."""
        return self.sources or {"": Source.model_construct(reader=self.reader)}  # type: ignore[arg-type]

    def problems(self) -> Iterator[Problem]:
        return self.cross_problems({"reader": self.reader, "sources": self.sources, "mode": self.mode})

    @classmethod
    def cross_problems(cls, sections: dict[str, Any]) -> Iterator[Problem]:
        if "reader" in sections and "sources" in sections and bool(sections["reader"]) == bool(sections["sources"]):
            yield Problem(("reader",), "expected a reader or `sources`, which name several: one of the two")
        mode, readers = sections.get("mode"), {"reader": sections.get("reader")}
        readers |= {f"sources.{name}.reader": source.reader for name, source in (sections.get("sources") or {}).items()}
        for place, reader in readers.items():
            if reader is not None and mode is not None and (wrong := _mismatch(mode, reader, place)):
                yield Problem(("mode", "kind"), wrong)


def _mismatch(mode: ModeConfig, reader: ReaderConfig, place: str) -> str | None:
    """Why these documents are not for this mode."""
    kind, names = kind_of(type(reader)), mode.part_names
    gives = f"those of {place}.kind={kind} have {reader.num_parts or 'the turns of a chat'} here"
    if mode.needs_roles != (reader.num_parts == 0):
        if mode.needs_roles:
            return f"needs chats, and {gives}; use {place}.messages_key, which names the list of messages"
        return f"takes no chats, and {place}.messages_key reads such; use mode.kind=chat"
    if len(names) in (0, reader.num_parts):
        return None
    if len(names) == 1:
        return f"needs documents of one part ({names[0]}), but {gives}; use one key, or a template"
    return (
        f"needs documents of {len(names)} parts ({', '.join(names)}), but {gives}; use {place}.kind=jsonl with a key "
        f"for each part, in this order: {place}.text_key=[{', '.join(names)}]"
    )


class TokenizerTrainConfig(Config):
    """Text to a byte-level BPE tokenizer."""

    name: str
    """What the listings call it."""
    description: str = ""
    """One line for the listings."""
    reader: AnyReader
    """Where the text is."""
    output: str
    """tokenizer.json to write."""
    vocab_size: Positive
    """Ids in all: bytes, merges, special tokens, and with `neox` the 23 runs of spaces. To be a multiple of 64
    or 128, choose such a number: the ids become merges, which serve better than padding."""
    style: Literal["gpt2", "neox"]
    """`neox` adds runs of 2 to 24 spaces as single tokens, for code; else as GPT-2."""
    digits: Literal["merged", "split"] = "merged"
    """`merged`: frequent numbers become tokens, as in GPT-2 and GPT-NeoX. `split`: each digit is a token of its
    own, never with the space before it, so that numbers of equal length have equally many tokens."""
    special_tokens: Annotated[tuple[str, ...], FromList] = ("<|endoftext|>",)
    """Tokens that only the program writes, at the first ids; for instance those of fill-in-the-middle
    (`<|fim_prefix|>`, `<|fim_middle|>`, `<|fim_suffix|>`) or of chat (`<|user|>`, `<|assistant|>`)."""
    pad_vocab_to_multiple_of: Positive | None = None
    """Add the special tokens `<|padding_0|>`, `<|padding_1|>`, … at the last ids until the number of ids is such a
    multiple: then the model's vocab_size is the tokenizer's, and there are names to take for later uses."""
    max_bytes: Positive | None = None
    """Stop reading with the document that reaches so many UTF-8 bytes."""
    on_error: Literal["stop", "reject"] = "stop"
    """A document that cannot be read stops the run, or is left out."""

    @property
    def num_space_runs(self) -> int:
        """Ids taken by runs of spaces."""
        return NUM_SPACE_RUNS if self.style == "neox" else 0

    @property
    def padded_vocab_size(self) -> int:
        """Ids with those of `pad_vocab_to_multiple_of`: the tokenizer's, and the model's."""
        multiple = self.pad_vocab_to_multiple_of or 1
        return -(-self.vocab_size // multiple) * multiple

    def problems(self) -> Iterator[Problem]:
        if "<|endoftext|>" not in self.special_tokens:
            yield Problem(("special_tokens",), "must hold <|endoftext|>, which separates documents")
        if len(set(self.special_tokens)) < len(self.special_tokens):
            yield Problem(("special_tokens",), f"{list(self.special_tokens)} names a token twice")
        for index, token in enumerate(self.special_tokens):
            if problem := _problem_of_special(token, padding=self.pad_vocab_to_multiple_of is not None):
                yield Problem(("special_tokens", index), f"{token!r} {problem}")
        fixed = BYTES + len(self.special_tokens) + self.num_space_runs
        if self.vocab_size <= fixed:
            yield Problem(
                ("vocab_size",),
                f"{self.vocab_size} leaves no merges: bytes, special tokens and runs of spaces take {fixed}",
            )


def _problem_of_special(token: str, padding: bool) -> str | None:
    """What is wrong with a special token: no text may ever be encoded to it, whatever merges are learnt."""
    if any(character.isspace() or not character.isprintable() for character in token):
        return "holds white space or what cannot be printed; use one like <|name|>"
    marks = [character for character in token if not character.isalnum() and character != "'"]
    if not marks or not any(map(str.isalnum, token)):  # a merge joins letters, or marks, and never both
        return "could be learnt from text as an ordinary token; use letters between marks, like <|name|>"
    if padding and token.startswith(PADDING_TOKEN.split("{")[0]):
        return "is kept for pad_vocab_to_multiple_of; use another name"
    return None
