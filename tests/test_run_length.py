"""Runs that are given in epochs: so many steps as the data makes of them, and a schedule that fits them."""

import math

import pytest

from modelzoo.base_config import UserError
from modelzoo.cli.check import data_notes
from modelzoo.cli.show import describe, run_facts
from modelzoo.config_errors import ConfigError
from modelzoo.data.dataset import TokenDataset
from modelzoo.launch import build_run, resume
from modelzoo.run_length import if_known, with_total_steps
from modelzoo.saved_models import load_saved_config
from modelzoo.trainer.checkpoint import latest_checkpoint
from tests.runs import small_config

EPOCHS = ["trainer.max_steps=null", "~callbacks.evaluate"]


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
@pytest.mark.parametrize("epochs", [1, 0.5, 3])
def test_epochs_become_steps(dataset, tmp_path, packing, epochs):
    config = small_config(dataset, tmp_path, *EPOCHS, f"trainer.max_epochs={epochs}", f"data.train.packing={packing}")
    rows = len(TokenDataset(dataset, "train", 24, packing))
    assert with_total_steps(config).total_steps == math.ceil(epochs * rows / 8)
    assert f"{epochs:g} epochs are {math.ceil(epochs * rows / 8)} steps" in data_notes(config)


def test_a_run_of_an_epoch_reads_every_row_once_and_is_resumed_by_its_own_config(dataset, tmp_path):
    config = small_config(dataset, tmp_path, *EPOCHS, "trainer.max_epochs=1", "trainer.global_batch_size=1")
    trainer = build_run(config)
    rows = len(trainer.data.datasets[0])
    assert trainer.total_steps == rows
    assert trainer.data.state(trainer.total_steps - 1)["epoch"] == 0
    assert trainer.data.state(trainer.total_steps)["epoch"] == 1
    assert trainer.lr_factor(rows - 1) < 0.11  # the schedule ends where the run does
    short = small_config(dataset, tmp_path, *EPOCHS, "trainer.max_epochs=0.2")
    first = build_run(short)
    first.run_dir.mkdir(parents=True)
    first.train()
    saved = load_saved_config(latest_checkpoint(first.run_dir)[0])
    assert (saved.trainer.max_epochs, saved.trainer.max_steps) == (0.2, None)
    again = build_run(short)
    assert resume(again, short)[1] == []
    assert again.step == again.total_steps == first.total_steps


def test_what_the_data_is_needed_for_waits_for_it(tmp_path):
    config = small_config(tmp_path / "not there yet", tmp_path, *EPOCHS, "trainer.max_epochs=2")
    assert if_known(config) is None
    facts = run_facts(config)
    assert facts["steps"] is facts["tokens"] is None
    assert "the data will tell that is not there yet" in describe(facts)


def test_a_schedule_that_does_not_fit_is_refused_when_the_length_is_known(dataset, tmp_path):
    config = small_config(dataset, tmp_path, *EPOCHS, "trainer.max_epochs=1", "schedule.warmup_steps=500")
    with pytest.raises(UserError, match=r"schedule\.warmup_steps: the warm-up takes 500 of \d+ .* \(1 epochs of the"):
        build_run(config)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.max_epochs=1"], "exactly one of max_steps, max_tokens and max_epochs"),
        (["trainer.max_steps=null", "trainer.max_epochs=-1"], "greater than 0"),
        (
            [
                *("trainer.max_steps=null", "trainer.max_epochs=1", "~data.train.path", "~data.train.split"),
                "+data.train.sources={a: {path: a, split: train, weight: 1}}",
            ],
            "no meaning for a mixture",
        ),
    ],
)
def test_epochs_that_make_no_sense_are_refused_at_check_time(dataset, tmp_path, overrides, message):
    with pytest.raises(ConfigError, match=message):
        small_config(dataset, tmp_path, *overrides)


def test_what_a_lora_run_needs_is_counted(dataset, tmp_path):
    base = run_facts(small_config(dataset, tmp_path))
    config = small_config(
        dataset, tmp_path, "continue_from=base", "+lora.rank=2", "lora.base_dtype=bf16", "accelerator.precision=bf16"
    )
    facts = run_facts(config)
    trained = 2 * 2 * ((96 + 32) + (32 + 32) + 2 * (32 + 128))  # rank × layers × (O + I)
    assert facts["parameters_trained"] == trained
    assert facts["bytes"]["optimizer"] == 8 * trained
    matrices = 2 * 12 * 32 * 32 + 275 * 32
    assert facts["bytes"]["weights"] == base["bytes"]["weights"] - 2 * matrices + 4 * trained
