"""A byte-level BPE tokenizer from raw text. Equal text and settings give an equal tokenizer."""

from collections.abc import Callable, Iterator
from pathlib import Path

from tokenizers import AddedToken, Regex, models, pre_tokenizers, trainers

from data_preprocessing.config import PADDING_TOKEN, TokenizerTrainConfig
from data_preprocessing.inputs import InputReader, Progress
from data_preprocessing.readers import Rejected
from modelzoo.base_config import UserError
from modelzoo.tokenizer import Tokenizer, byte_level, special_token

MIN_FREQUENCY = 2
"""A pair seen once is no evidence for a merge."""


def train(
    config: TokenizerTrainConfig,
    base_dir: Path = Path(),
    on_progress: Callable[[Progress], None] | None = None,
) -> Tokenizer:
    """Train and write the tokenizer that `config` describes. Relative paths start at `base_dir`.

    Raises:
        UserError: the text cannot be read, is too little for `vocab_size`, or `output` holds another
            tokenizer.
    """
    output = base_dir / config.output
    texts = _Texts(config, base_dir, on_progress)
    backend = byte_level(models.BPE())
    splitters = [backend.pre_tokenizer]
    if config.digits == "split":
        splitters.insert(0, pre_tokenizers.Digits(individual_digits=True))
    splitter = splitters[0] if len(splitters) == 1 else pre_tokenizers.Sequence(splitters)
    runs = [" " * length for length in range(config.num_space_runs + 1, 1, -1)]  # longest first, as in 20B
    if runs:
        # such runs never reach the merges when a text is encoded, so none are learnt from them
        pattern = Regex(f" {{2,{len(runs[0])}}}")
        splitters.insert(0, pre_tokenizers.Split(pattern, "removed"))
    backend.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    backend.train_from_iterator(
        texts.batches(),
        trainers.BpeTrainer(
            vocab_size=config.vocab_size - len(runs),
            min_frequency=MIN_FREQUENCY,
            special_tokens=[special_token(token) for token in config.special_tokens],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    if texts.error:
        raise texts.error
    backend.pre_tokenizer = splitter
    backend.add_tokens([AddedToken(run, normalized=False, special=False) for run in runs])
    if (vocab_size := backend.get_vocab_size()) != config.vocab_size:
        raise UserError(
            f"vocab_size={config.vocab_size}: {texts.num_bytes:,} bytes of text give only "
            f"{vocab_size} tokens; read more text, or use vocab_size={vocab_size}"
        )
    padding = range(config.padded_vocab_size - config.vocab_size)
    backend.add_special_tokens([special_token(PADDING_TOKEN.format(number)) for number in padding])
    tokenizer = Tokenizer(backend, output)
    assert tokenizer.vocab_size == config.padded_vocab_size, (tokenizer.vocab_size, config.padded_vocab_size)
    _save(tokenizer, output)
    return tokenizer


def _save(tokenizer: Tokenizer, output: Path) -> None:
    if output.exists() and Tokenizer.load(output).sha256 != tokenizer.sha256:
        raise UserError(f"{output}: holds another tokenizer; choose another `output`, or delete it")
    tokenizer.save(output)


class _Texts:
    """Batches of text for the trainer, which swallows exceptions: they are kept here instead."""

    def __init__(
        self, config: TokenizerTrainConfig, base_dir: Path, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self.config = config
        self.on_progress = on_progress
        self.inputs = InputReader(config.reader, base_dir)
        self.num_bytes = 0
        self.error: Exception | None = None

    def batches(self) -> Iterator[list[str]]:
        """One text at a time as a list, until `max_bytes`."""
        try:
            yield from self._read()
        except Exception as error:
            self.error = error

    def _read(self) -> Iterator[list[str]]:
        total = sum(self.inputs.sizes.values())
        documents = 0
        for item in self.inputs.documents(self.config.on_error):
            if isinstance(item, Rejected):
                continue
            yield [item.text]
            documents += 1
            self.num_bytes += len(item.text.encode())
            if self.on_progress:
                self.on_progress(Progress(self.inputs.bytes_done, total, documents, 0))
            if self.config.max_bytes and self.num_bytes >= self.config.max_bytes:
                return
