"""The statistics of gradients, updates and activations, against the model itself."""

import math

import pytest
import torch

from modelzoo.launch import build_run
from tests.runs import small_config
from tests.trainer.observing import Look, recorded

STATISTICS = "+callbacks.statistics={kind: statistics, every_steps: 4}"


@pytest.mark.parametrize("compiled", [False, True])
def test_statistics_are_those_of_the_model(dataset, tmp_path, compiled):
    trainer = recorded(small_config(dataset, tmp_path, STATISTICS, "trainer.micro_batch_size=2"))
    if compiled:
        for block in trainer.model.blocks:
            block.compile(backend="eager")
    seen = Look()
    trainer.callbacks = {"look": seen, **trainer.callbacks}
    assert trainer.train()
    records = {r["step"]: r for r in trainer.callbacks["recorder"].records if "weight_norm/blocks.0" in r}
    assert sorted(records) == [4, 8, 12]
    total = dict(trainer.callbacks["recorder"].series("gradient_norm"))
    for step, record in records.items():
        groups = [key.partition("/")[2] for key in record if key.startswith("gradient_norm/")]
        assert groups == ["embedding", "blocks.0", "blocks.1", "final_norm", "lm_head"]
        norms = [record[f"gradient_norm/{group}"] for group in groups]
        assert math.hypot(*norms) == pytest.approx(total[step], rel=1e-5)  # before clipping
        before, after = seen.weights[step - 1], seen.weights[step]
        for group in groups:
            old, new = flat(before, group), flat(after, group)
            assert record[f"weight_norm/{group}"] == pytest.approx(old.norm().item(), rel=1e-5)
            ratio = ((new - old).norm() / old.norm()).item()
            assert record[f"update_ratio/{group}"] == pytest.approx(ratio, rel=1e-3)
            assert record[f"non_finite_gradients/{group}"] == 0
        model = build_run(small_config(dataset, tmp_path)).model
        model.load_state_dict(before)
        outputs: list[torch.Tensor] = []
        keep = outputs.append
        for block in model.blocks:
            block.register_forward_hook(lambda _module, _inputs, output, keep=keep: keep(output.detach().double()))
        model.hidden(torch.from_numpy(trainer.data.batch(step - 1)["input_ids"]))
        for index, output in enumerate(outputs):
            assert record[f"activation_rms/blocks.{index}"] == pytest.approx(
                rms := output.square().mean().sqrt().item(), rel=1e-5
            )
            assert record[f"activation_max/blocks.{index}"] == pytest.approx(output.abs().max().item(), rel=1e-5)
            assert rms > 0
            assert record[f"non_finite_activations/blocks.{index}"] == 0
    assert seen.hooked == {3, 7, 11}


def flat(weights, group):
    return torch.cat([w.flatten() for name, w in weights.items() if f"{name}.".startswith(f"{group}.")])


def test_what_is_not_finite_is_counted_and_the_update_refused(dataset, tmp_path):
    from modelzoo.trainer.bad_updates import BadUpdateError

    trainer = recorded(small_config(dataset, tmp_path, "+callbacks.statistics={kind: statistics, every_steps: 1}"))
    statistics, loss, seen = trainer.callbacks["statistics"], trainer.model.loss, {}

    def poisoned(**part):
        trainer.model.blocks[1].mlp.fc_out.weight.register_hook(lambda gradient: gradient.clone().fill_(math.inf))
        return loss(**part)

    trainer.model.loss = poisoned
    close = statistics.close

    def look_and_close():
        seen.update(statistics.observed.numbers if statistics.observed else {})
        close()

    statistics.close = look_and_close
    with pytest.raises(BadUpdateError):
        trainer.train()
    assert not statistics.observed
    assert seen["non_finite_gradients/blocks.1"] == trainer.model.blocks[1].mlp.fc_out.weight.numel()
    assert seen["non_finite_gradients/blocks.0"] == 0
    assert 0 < seen["gradient_norm/blocks.1"] < math.inf
