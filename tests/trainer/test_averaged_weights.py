"""Averaged weights: what their formula says, measured, saved and loaded beside the model's own."""

import pytest
import torch

from modelzoo.base_config import UserError
from modelzoo.cli.evaluate import run as evaluate
from modelzoo.launch import build_run
from modelzoo.saved_models import load_model
from modelzoo.trainer.checkpoint import checkpoints_of, read_tensors
from modelzoo.trainer.run_state import restore
from tests.runs import small_config
from tests.trainer.observing import Look, finished, recorded


@pytest.mark.parametrize(
    ("base", "extra"),
    [
        ("gptj_tiny", []),
        ("gpt2_tiny", ["~model.position.fraction", "model.mup={base_hidden_size: 16, base_ffn_size: 64}"]),
    ],
    ids=["gptj", "tied head, muP"],
)  # fmt: skip
def test_the_average_is_what_its_formula_says_and_is_measured_and_loaded(dataset, tmp_path, base, extra):
    ema = "+callbacks.ema={kind: ema, decay: 0.75, every_steps: 2, start_step: 3}"
    measured = "+callbacks.evaluate_ema={kind: evaluate, weights: ema, every_steps: 6}"
    trainer = recorded(small_config(dataset, tmp_path, *extra, ema, measured, base=base))
    seen = Look()
    trainer.callbacks = {"look": seen, **trainer.callbacks}
    assert trainer.train()
    expected = {name: value.double() for name, value in seen.weights[3].items()}
    for step in range(4, 13, 2):
        expected = {name: 0.75 * value + 0.25 * seen.weights[step][name] for name, value in expected.items()}
    average = load_model(trainer.run_dir, weights="ema")
    for name, value in expected.items():
        torch.testing.assert_close(average.state_dict()[name].double(), value, rtol=1e-6, atol=1e-7)
    last = checkpoints_of(trainer.run_dir)[-1]
    assert {tensor.dtype for tensor in read_tensors(last, "callback_ema").values()} == {torch.float32}
    series = dict(trainer.callbacks["recorder"].series("validation_ema_loss"))
    assert sorted(series) == [6, 12]
    own = evaluate(trainer.run_dir, device="cpu", weights="ema")["loss"]
    assert own == pytest.approx(series[12], rel=1e-6)
    plain = evaluate(trainer.run_dir, device="cpu")["loss"]
    assert plain == pytest.approx(dict(trainer.callbacks["recorder"].series("validation_loss"))[12], rel=1e-6)
    assert abs(own - plain) > 0.01
    with pytest.raises(UserError, match="no averaged weights of the name other; there are: model, ema"):
        load_model(trainer.run_dir, weights="other")


def test_an_average_begins_with_the_weights_where_the_checkpoint_has_none(dataset, tmp_path):
    finished(small_config(dataset, tmp_path, "trainer.max_steps=12"))
    config = small_config(dataset, tmp_path, "+callbacks.ema={kind: ema}")
    trainer = build_run(config)
    restore(trainer, tmp_path / "gptj_tiny" / "checkpoints" / "step_00000008")
    trainer.callbacks["ema"].on_train_start(trainer)
    for name, value in trainer.callbacks["ema"].tensors().items():
        assert torch.equal(value, trainer.model.state_dict()[name])
