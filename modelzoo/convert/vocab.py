"""Another vocabulary for a checkpoint: rows of tokens that both have are copied, new ones start from their pieces.

Shapes: V rows of the old vocabulary, W of the new one, D hidden_size.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from modelzoo.convert.family import our_shapes
from modelzoo.convert.importing import Progress, model_yaml, no_progress
from modelzoo.convert.output import new_folder, require_new
from modelzoo.convert.tensor_files import TensorFiles, check_stored, write_tensors
from modelzoo.model.config import ModelConfig
from modelzoo.tokenizer import Tokenizer, byte_symbols
from modelzoo.trainer.checkpoint import tensor_files, write_manifest

BY_TOKEN = ("embedding.weight", "lm_head.weight", "lm_head.bias")
"""Weights with a row for each token."""

ROWS_AT_ONCE = 4096
"""Means computed together: what they are made of is held in fp32 meanwhile."""


class Remapping(NamedTuple):
    """For each new id the old ids whose rows it is the mean of: one where it is copied, none where nothing is known
    (a special token that the old vocabulary lacks, a byte it has no token for), which is the mean of all."""

    sources: list[tuple[int, ...]]
    num_old: int
    """Ids of the old vocabulary, without padding."""

    def report(self) -> dict[str, Any]:
        """How many ids got their rows how."""
        lengths = [len(source) for source in self.sources]
        means = [length for length in lengths if length > 1]
        kept = {source[0] for source in self.sources if len(source) == 1}
        return {
            "tokens": len(lengths),
            "shared": lengths.count(1),
            "from_means": len(means),
            "mean_pieces": round(sum(means) / len(means), 3) if means else None,
            "from_mean_of_all": lengths.count(0),
            "dropped": self.num_old - len(kept),
        }


def remapping(old: Tokenizer, new: Tokenizer) -> Remapping:
    """Where each row of the new vocabulary comes from.

    The end of a document becomes the end of a document whatever it is called. Other special tokens are known by
    their content, and are never taken for text that reads alike. Every other token is known by its bytes; one that
    the old vocabulary lacks is cut by the old tokenizer.
    """
    added = new.backend.get_added_tokens_decoder()
    text_ids, special_ids = _ids_by_content(old)
    sources: list[tuple[int, ...]] = []
    for id_ in range(new.vocab_size):
        content = new.decode_bytes([id_])
        if id_ == new.end_of_document_id:
            sources.append((old.end_of_document_id,))
        elif new.byte_lengths[id_] == 0:  # an id without a token
            sources.append(())
        elif id_ in added and added[id_].special:
            sources.append((special_ids[content],) if content in special_ids else ())
        elif content in text_ids:
            sources.append((text_ids[content],))
        else:
            sources.append(_cut(old, content))
    return Remapping(sources, old.vocab_size)


def remap_rows(weight: Tensor, mapping: Remapping, num_rows: int) -> Tensor:
    """(V, D) or (V,) to (W, D) or (W,), W = num_rows, in the same type.

    Rows beyond the tokens are padding: they too get the mean of all, since a row of zeros would be a likely token
    where the logits of all others are far below 0.
    """
    everything = weight[: mapping.num_old].float().mean(dim=0)
    rows = everything.to(weight.dtype).expand(num_rows, *weight.shape[1:]).clone()
    copied = [(new, source[0]) for new, source in enumerate(mapping.sources) if len(source) == 1]
    rows[[new for new, _ in copied]] = weight[[old for _, old in copied]]
    means = [(new, source) for new, source in enumerate(mapping.sources) if len(source) > 1]
    for begin in range(0, len(means), ROWS_AT_ONCE):
        some = means[begin : begin + ROWS_AT_ONCE]
        pieces = weight[[piece for _, source in some for piece in source]].float()
        owners = torch.tensor([number for number, (_, source) in enumerate(some) for _ in source])
        sums = torch.zeros(len(some), *weight.shape[1:]).index_add_(0, owners, pieces)
        counts = torch.tensor([len(source) for _, source in some]).view(-1, *[1] * (weight.dim() - 1))
        rows[[new for new, _ in some]] = (sums / counts).to(weight.dtype)
    return rows


def change_vocabulary(
    folder: Path,
    config: ModelConfig,
    old: Tokenizer,
    new: Tokenizer,
    out: Path,
    *,
    multiple_of: int = 128,
    max_file_bytes: int,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write the checkpoint `out`: the model of `folder` (of `config`, with tokenizer `old`) for the tokenizer `new`.

    Args:
        multiple_of: the rows are padded to a multiple of this.

    Returns:
        `Remapping.report`, with `checkpoint`, `from` and `rows`; `state.json` says it too.

    Raises:
        UserError: `out` exists, or the weights are not those of `config`. Nothing is then left under `out`.
    """
    require_new(out)
    mapping = remapping(old, new)
    num_rows = -(-new.vocab_size // multiple_of) * multiple_of
    padded = None if num_rows == new.vocab_size else num_rows
    changed = config.model_copy(update={"vocab_size": new.vocab_size, "padded_vocab_size": padded})
    tensors = TensorFiles(tensor_files(folder, "model"))
    check_stored(tensors, our_shapes(config), folder)
    planned = {
        name: tensors.planned[name]._replace(shape=tuple(tensor.shape)) for name, tensor in our_shapes(changed).items()
    }

    def produce(name: str) -> Tensor:
        tensor = tensors.read(name)
        return remap_rows(tensor, mapping, num_rows) if name in BY_TOKEN else tensor

    report = {"from": str(folder), **mapping.report(), "rows": num_rows}
    total = sum(plan.num_bytes for plan in planned.values())
    with new_folder(out, total) as partial:
        with progress("writing", total, "bytes") as advance:
            written = write_tensors(partial, planned, produce, max_file_bytes, advance)
        (partial / "config.yaml").write_text(model_yaml(changed), encoding="utf-8")
        (partial / "tokenizer.json").write_text(new.backend.to_str(), encoding="utf-8")
        state = json.dumps({"vocabulary_changed": report}, indent=1)
        (partial / "state.json").write_text(state + "\n", encoding="utf-8")
        write_manifest(partial, written.files)
    return {"checkpoint": str(out), **report}


def _ids_by_content(tokenizer: Tokenizer) -> tuple[dict[bytes, int], dict[bytes, int]]:
    """Ids of text, and of special tokens, by their bytes. Of two ids for the same text the one that text gets: an
    added token is found before the vocabulary is."""
    added = tokenizer.backend.get_added_tokens_decoder()
    text: dict[bytes, int] = {}
    special: dict[bytes, int] = {}
    ids = [id_ for id_ in range(tokenizer.vocab_size) if tokenizer.byte_lengths[id_]]
    for id_ in sorted(ids, key=lambda id_: (id_ not in added, id_)):
        is_special = id_ in added and added[id_].special
        (special if is_special else text).setdefault(tokenizer.decode_bytes([id_]), id_)
    return text, special


def _cut(tokenizer: Tokenizer, content: bytes) -> tuple[int, ...]:
    """The ids of these bytes; of bytes that are no text (part of a character), by the merges alone. () where the
    vocabulary lacks a byte."""
    try:
        ids: Sequence[int] = tokenizer.encode(content.decode("utf-8"))
    except UnicodeDecodeError:
        ids = []
    if not ids or tokenizer.decode_bytes(ids) != content:  # a normalizer changes text, too
        symbols = {byte: symbol for symbol, byte in byte_symbols().items()}
        try:
            ids = [token.id for token in tokenizer.backend.model.tokenize("".join(symbols[byte] for byte in content))]
        except Exception:  # tokenizers raises bare Exception, for a symbol that it does not know
            return ()
    return tuple(ids) if tokenizer.decode_bytes(ids) == content else ()
