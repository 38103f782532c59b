"""The same model at other widths."""

import pytest

from modelzoo.base_config import UserError
from modelzoo.model.config import ModelConfig
from modelzoo.mup.widths import Settings, at_width, with_base

MODEL = ModelConfig(
    num_layers=6, num_heads=4, hidden_size=96, ffn_size=256, vocab_size=300, padded_vocab_size=320, max_seq_len=64,
    dropout=0.1,
)  # fmt: skip


def test_heads_keep_their_size_and_the_mlp_its_proportion() -> None:
    wide = at_width(MODEL, 192)
    assert (wide.hidden_size, wide.num_heads, wide.head_dim, wide.ffn_width) == (192, 8, 24, 512)
    assert wide.model_dump(exclude={"hidden_size", "num_heads", "ffn_size"}) == MODEL.model_dump(
        exclude={"hidden_size", "num_heads", "ffn_size"}
    )


def test_or_their_number() -> None:
    wide = at_width(MODEL.model_copy(update={"num_heads": 8}), 192, growth="head_dim")
    assert (wide.num_heads, wide.head_dim, wide.ffn_width) == (4, 48, 512)


def test_a_width_that_does_not_fit_is_refused_with_one_that_does() -> None:
    with pytest.raises(UserError, match=r"width 100: no multiple of 24.*use 96"):
        at_width(MODEL, 100)
    rotary = MODEL.model_dump() | {"position": {"kind": "rotary", "fraction": 0.25}}
    with pytest.raises(UserError, match=r"width 12: .*rotary_dim=0"):
        at_width(ModelConfig.model_validate(rotary), 12, growth="head_dim")


def test_default_widths_double_from_the_first_that_fits() -> None:
    assert Settings().widths(MODEL) == [144, 288, 576, 1152]
    assert Settings(growth="head_dim").widths(MODEL) == [132, 264, 528, 1056]
    assert all(at_width(MODEL, width) for width in Settings().widths(MODEL))
    wide_heads = ModelConfig(num_layers=1, num_heads=16, hidden_size=4096, vocab_size=9, max_seq_len=9)
    assert Settings().widths(wide_heads) == [256, 512, 1024, 2048]


def test_models_of_a_check_are_small_and_without_dropout() -> None:
    model = Settings(num_layers=3, vocab_size=20, seq_len=8).model(MODEL, 192)
    assert (model.num_layers, model.num_embeddings, model.max_seq_len, model.dropout) == (3, 20, 8, 0.0)
    assert model.hidden_size == 192


def test_moving_the_base_keeps_the_proportion_and_the_scalars() -> None:
    mup = {"base_hidden_size": 2048, "base_ffn_size": 4096, "embeddings_scale": 14.6}
    model = ModelConfig.model_validate(MODEL.model_dump() | {"mup": mup})
    moved = with_base(model, 128).mup
    assert moved is not None
    assert (moved.base_hidden_size, moved.base_ffn_size, moved.embeddings_scale) == (128, 256, 14.6)
    assert with_base(MODEL, 128) is MODEL
