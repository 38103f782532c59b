"""A checkpoint for a retrained tokenizer."""

import json
import random

import pytest
import torch
from tokenizers import AddedToken, models, pre_tokenizers, trainers

from modelzoo import tokenizer_files
from modelzoo.base_config import UserError
from modelzoo.cli import export_hf, vocab
from modelzoo.convert.vocab import remap_rows, remapping
from modelzoo.model.config import ModelConfig
from modelzoo.model.gpt import GPT
from modelzoo.run_config import dump_yaml
from modelzoo.saved_models import load_model, load_model_config, load_tokenizer
from modelzoo.tokenizer import Tokenizer, byte_level, byte_symbols, special_token
from modelzoo.trainer.checkpoint import all_damage, read_tensors, write_checkpoint
from tests.samples import shared_data, small_tokenizer

WORDS = ["the", "cat", "and", "dog", "saw", "a", "bird", "on", "mat", "while", "it", "sang", "naïve", "日本"]


def sentences(count: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(12)) for _ in range(count)]


def retrained(vocab_size: int = 330, end: str = "<|end|>") -> Tokenizer:
    """A tokenizer of other merges, other ids, another end, a special token and a run of spaces of its own."""
    backend = byte_level(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[special_token("<|extra|>"), special_token(end)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(sentences(50, seed=1), trainer)
    backend.add_tokens([AddedToken("    ", normalized=False)])
    if end != "<|endoftext|>":
        return Tokenizer(type(backend).from_str(tokenizer_files.with_end(backend.to_str(), end)), "new")
    return Tokenizer(backend, "new")


def write(folder, old: Tokenizer, dtype=torch.float32, model: GPT | None = None, **options):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_size": 32, "max_seq_len": 64, "padded_vocab_size": 288}
    config = model.config if model else ModelConfig.model_validate({**sizes, "vocab_size": old.vocab_size, **options})
    model = model or GPT(config, seed=4)
    old.save(folder.parent / "old.json")
    lines = "\n".join("  " + line for line in dump_yaml(config).splitlines())
    texts = {
        "state.json": "{}\n",
        "config.yaml": f"model:\n{lines}\n",
        "tokenizer.json": (folder.parent / "old.json").read_text(),
    }
    write_checkpoint(folder, {"model": model.to(dtype).state_dict()}, texts)
    return model


def pieces_of(tokenizer: Tokenizer, content: bytes) -> list[int]:
    """Which ids a token is cut into; part of a character into bytes, of which `small_tokenizer` joins none."""
    try:
        return tokenizer.encode(content.decode())
    except UnicodeDecodeError:
        symbols = {byte: symbol for symbol, byte in byte_symbols().items()}
        ids = [tokenizer.backend.token_to_id(symbols[byte]) for byte in content]
        return [id_ for id_ in ids if id_ is not None]


UNTIED = {
    "tie_embeddings": False,
    "lm_head_bias": True,
    "parallel_residual": True,
    "tied_norm": True,
    "attention_bias": False,
    "position": {"kind": "rotary", "fraction": 0.5},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, UNTIED], ids=["tied", "untied"])
def test_shared_rows_are_equal_bit_by_bit_and_new_ones_the_mean_of_their_pieces(options, dtype, tmp_path):
    old, new = small_tokenizer(), retrained()
    new.save(tmp_path / "new.json")
    write(tmp_path / "ours", old, dtype, **options)
    report = vocab.run(tmp_path / "ours", str(tmp_path / "new.json"), tmp_path / "out", max_shard_size="30KB")
    assert list(all_damage(tmp_path / "out")) == []
    before, after = read_tensors(tmp_path / "ours", "model"), read_tensors(tmp_path / "out", "model")
    config = load_model_config(tmp_path / "out")
    assert (config.vocab_size, config.num_embeddings, report["rows"]) == (new.vocab_size, 384, 384)
    assert load_tokenizer(tmp_path / "out").sha256 == new.sha256
    old_ids = {old.decode_bytes([id_]): id_ for id_ in range(1, old.vocab_size)}
    by_token = [name for name in before if name.split(".")[0] in ("embedding", "lm_head")]
    assert len(by_token) == (3 if options else 1)
    counts = {"shared": 0, "means": 0, "pieces": 0}
    for id_ in range(2, new.vocab_size):
        content = new.decode_bytes([id_])
        for name in by_token:
            row = after[name][id_]
            if content in old_ids:
                assert torch.equal(row, before[name][old_ids[content]])
            else:
                mean = before[name][pieces_of(old, content)].float().mean(0).to(dtype)
                torch.testing.assert_close(row, mean, rtol=1e-6 if dtype == torch.float32 else 8e-3, atol=1e-8)
        if content in old_ids:
            counts["shared"] += 1
        else:
            counts["means"] += 1
            counts["pieces"] += len(pieces_of(old, content))
    assert report["shared"] == counts["shared"] + 1  # the end of a document
    assert report["from_means"] == counts["means"] > 20
    assert report["mean_pieces"] == pytest.approx(counts["pieces"] / counts["means"], abs=1e-3)
    for name in by_token:
        assert torch.equal(after[name][new.end_of_document_id], before[name][old.end_of_document_id])
        everything = before[name][: old.vocab_size].float().mean(0).to(dtype)
        assert torch.equal(after[name][0], everything)  # <|extra|>
        assert torch.equal(after[name][-1], everything)  # padding
    assert report["from_mean_of_all"] == 1
    others = before.keys() - by_token
    assert all(torch.equal(before[name], after[name]) for name in others)
    assert json.loads((tmp_path / "out" / "state.json").read_text())["vocabulary_changed"]["shared"] == report["shared"]
    assert "the mean of" in vocab.describe(report)


def test_the_same_tokenizer_changes_nothing(tmp_path):
    old = small_tokenizer()
    write(tmp_path / "ours", old, padded_vocab_size=None)
    report = vocab.run(tmp_path / "ours", str(tmp_path / "old.json"), tmp_path / "out", multiple_of=1)
    assert (report["shared"], report["from_means"], report["dropped"]) == (old.vocab_size, 0, 0)
    before, after = read_tensors(tmp_path / "ours", "model"), read_tensors(tmp_path / "out", "model")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_model_config(tmp_path / "out") == load_model_config(tmp_path / "ours")
    with pytest.raises(UserError, match="out: exists already"):
        vocab.run(tmp_path / "ours", str(tmp_path / "old.json"), tmp_path / "out")


def test_special_tokens_are_never_text_and_text_is_never_special():
    old = small_tokenizer()
    old.backend.add_special_tokens([special_token("<|sep|>"), special_token("the")])
    old = Tokenizer(old.backend, "old")
    new = Tokenizer(small_tokenizer().backend, "new")
    new.backend.add_special_tokens([special_token("<|sep|>"), special_token("cat")])
    new = Tokenizer(new.backend, "new")
    sources = remapping(old, new).sources
    assert sources[new.backend.token_to_id("<|sep|>")] == (old.backend.token_to_id("<|sep|>"),)
    assert sources[new.backend.token_to_id("cat")] == ()  # special here, text there
    text = new.backend.token_to_id("Ġthe")
    assert sources[text] == (old.backend.token_to_id("Ġthe"),)


def test_of_two_ids_for_the_same_text_the_one_that_text_gets_is_taken():
    old, new = small_tokenizer(), small_tokenizer()
    old.backend.add_tokens([AddedToken(" the", normalized=False)])  # which the merges make, too
    old = Tokenizer(old.backend, "old")
    added = old.encode("cat the")[-1]
    assert added != old.backend.token_to_id("Ġthe")
    assert remapping(old, new).sources[new.backend.token_to_id("Ġthe")] == (added,)


def test_parts_of_characters_and_runs_of_spaces_are_cut_into_bytes():
    old, new = small_tokenizer(), retrained(400)
    mapping = remapping(old, new)
    parts = [id_ for id_ in range(2, new.vocab_size) if b"\xe6" in new.decode_bytes([id_])]
    assert any(len(mapping.sources[id_]) == 2 for id_ in parts)  # two bytes of 日
    for id_ in range(2, new.vocab_size):
        assert old.decode_bytes(mapping.sources[id_]) == new.decode_bytes([id_])


def train(model: GPT, rows: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(steps):
        batch = rows[torch.randint(0, len(rows), (16,), generator=torch.Generator().manual_seed(step))]
        loss, count = model.loss(batch[:, :-1], batch[:, 1:])
        optimizer.zero_grad()
        (loss / count).backward()
        optimizer.step()


def rows_of(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    ids = [id_ for text in texts for id_ in [*tokenizer.encode(text), tokenizer.end_of_document_id]]
    return torch.tensor(ids[: len(ids) // 33 * 33]).view(-1, 33)


@torch.no_grad()
def loss_of(model: GPT, rows: torch.Tensor) -> float:
    loss, count = model.loss(rows[:, :-1], rows[:, 1:])
    return loss.item() / count


@pytest.mark.parametrize("options", [{}, UNTIED], ids=["tied", "untied"])
def test_the_loss_on_text_is_below_that_of_random_new_rows(options, tmp_path):
    old, new = small_tokenizer(), retrained()
    new.save(tmp_path / "new.json")
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_size": 32, "max_seq_len": 64, "vocab_size": old.vocab_size}
    model = GPT(ModelConfig.model_validate({**sizes, **options}), seed=4)
    train(model, rows_of(old, sentences(200, seed=2)), steps=150)
    write(tmp_path / "ours", old, model=model)
    vocab.run(tmp_path / "ours", str(tmp_path / "new.json"), tmp_path / "out")
    remapped, random_rows = load_model(tmp_path / "out"), load_model(tmp_path / "out")
    mapping = remapping(old, new)
    fresh = GPT(remapped.config, seed=9)
    means = [id_ for id_, source in enumerate(mapping.sources) if len(source) > 1]
    with torch.no_grad():
        for name, value in random_rows.named_parameters():
            if name.split(".")[0] in ("embedding", "lm_head"):
                value[means] = dict(fresh.named_parameters())[name][means]
    text = rows_of(new, sentences(40, seed=3))
    losses = {"remapped": loss_of(remapped, text), "random": loss_of(random_rows, text)}
    losses["scrambled"] = loss_of(fresh, text)
    print(losses)
    assert losses["remapped"] < losses["random"] - 0.1
    assert losses["remapped"] < losses["scrambled"]


def test_a_changed_checkpoint_exports(tmp_path):
    write(tmp_path / "ours", small_tokenizer(), **UNTIED)
    retrained().save(tmp_path / "new.json")
    vocab.run(tmp_path / "ours", str(tmp_path / "new.json"), tmp_path / "out")
    report = export_hf.run(tmp_path / "out", tmp_path / "hf")
    assert (report["logit_check"]["result"], report["tokenizer_check"]) == ("equal", {"result": "equal"})


def test_gpt2_to_gpt_neox():
    """The two published tokenizers: most text is shared, every token is accounted for."""
    old = Tokenizer.load(shared_data("tokenizers/gpt2-encoder.json"))
    new = Tokenizer.load(shared_data("tokenizers/20B_tokenizer.json"))
    mapping = remapping(old, new)
    report = mapping.report()
    assert report["tokens"] == 50277
    assert report["shared"] > 30_000
    assert report["from_mean_of_all"] <= 2
    assert 2 <= report["mean_pieces"] < 4
    assert mapping.sources[0] == (50256,)
    rows = remap_rows(torch.arange(50257.0).unsqueeze(1), mapping, 50432)
    assert rows.shape == (50432, 1)
    assert rows[new.backend.token_to_id("Ġthe")] == old.backend.token_to_id("Ġthe")
    assert rows[0] == 50256
