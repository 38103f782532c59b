"""Callbacks of every kind: none changes what is computed, what they keep survives a kill, on any split of the ranks."""

import pytest
import torch

from modelzoo.base_config import kind_of
from modelzoo.config_errors import ConfigError
from modelzoo.config_files import configs_dir
from modelzoo.run_config import load_run_config
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import latest_checkpoint, read_tensors
from tests.runs import comparable, small_config
from tests.trainer.observing import finished, recorded
from tests.trainer.test_parallel import split
from tests.trainer.test_parallel import train as train_ranks

QUICK = {"every_steps": 3, "max_new_tokens": 4, "max_batches": 2, "patience": 50, "min_delta": 100.0}
QUICK |= {"mode": "offline", "start_step": 2, "num_steps": 1}
SHIPPED = {
    config.kind: config.model_copy(
        update={key: value for key, value in QUICK.items() if key in type(config).model_fields}
    )
    for path in sorted((configs_dir() / "callbacks").glob("*.yaml"))
    for config in load_run_config("gptj_tiny", [f"callbacks={path.stem}"]).callbacks.values()
    if config is not None
}
"""Every kind, as some shipped YAML has it, at steps that a small run reaches."""
NEEDS = {"early_stop": ("evaluate",), "report": ("metrics", "evaluate")}
DROPOUT = ["model.dropout=0.2", "trainer.micro_batch_size=4"]


class Killed(Exception):
    pass


class KillAfter(Callback):
    """The process is gone after this step: nothing is saved any more."""

    def __init__(self, step):
        self.step = step

    def on_step_start(self, trainer):
        if trainer.step == self.step:
            trainer.callbacks = {}
            raise Killed


def bare(dataset, folder, *overrides, callbacks=None):
    """A small run with these callbacks alone."""
    config = small_config(dataset, folder, "trainer.max_steps=7", *DROPOUT, *overrides)
    return config.model_copy(update={"callbacks": callbacks or {}})


@pytest.fixture(scope="module")
def unobserved(dataset, tmp_path_factory):
    trainer = finished(bare(dataset, tmp_path_factory.mktemp("unobserved")))
    return trainer.callbacks["recorder"].series("loss"), trainer.model.state_dict()


def test_every_kind_is_looked_at():
    assert set(SHIPPED) == {kind_of(cls) for cls in CallbackConfig.__subclasses__()}


@pytest.mark.parametrize("kind", sorted(SHIPPED))
def test_no_callback_changes_what_is_computed(dataset, tmp_path, unobserved, kind):
    if kind == "wandb":
        pytest.importorskip("wandb", reason="wandb is not installed: the extra wandb")
    with_it = {kind: SHIPPED[kind], **{other: SHIPPED[other] for other in NEEDS.get(kind, ())}}
    trainer = finished(bare(dataset, tmp_path, callbacks=with_it))
    losses, weights = unobserved
    assert trainer.callbacks["recorder"].series("loss") == losses
    assert all(torch.equal(value, weights[name]) for name, value in trainer.model.state_dict().items())
    assert trainer.model.training


def test_what_callbacks_keep_survives_a_kill(dataset, tmp_path, unobserved):
    """As though the process had never died: states, averages, and every line that was written. All together they
    change nothing either."""
    often = {"every_steps": 2}  # also between a checkpoint and the kill
    kept = {kind: callback for kind, callback in SHIPPED.items() if kind != "wandb"}  # each run has an id of its own
    every = {**kept, "samples": SHIPPED["samples"].model_copy(update=often)}
    every["evaluate_ema"] = SHIPPED["evaluate"].model_copy(update={"weights": "ema", **often})

    def config(folder):
        return bare(dataset, folder, callbacks=every)

    whole = finished(config(tmp_path / "whole"))
    assert whole.callbacks["recorder"].series("loss") == unobserved[0]
    assert whole.callbacks["recorder"].series("validation_ema_loss")
    for kill in (1, 5):
        trainer = recorded(config(tmp_path / "parts"))
        trainer.callbacks = {"kill": KillAfter(kill), **trainer.callbacks}
        callbacks = list(trainer.callbacks.values())
        with pytest.raises(Killed):
            trainer.train()
        for callback in callbacks:
            callback.close()
    again = recorded(config(tmp_path / "parts"))
    assert again.step == 3
    assert again.train()
    for name, callback in whole.callbacks.items():
        if name != "recorder":
            other = again.callbacks[name]
            assert other.state() == callback.state(), name
            assert other.tensors().keys() == callback.tensors().keys()
            for key, tensor in callback.tensors().items():
                assert torch.equal(tensor, other.tensors()[key]), (name, key)
    assert whole.callbacks["ema"].tensors()
    assert whole.callbacks["early_stop"].state()["without_better"] == 2  # since before the kill
    for file in ("metrics.jsonl", "samples.jsonl"):
        one, other = (comparable(read_metrics(trainer.run_dir / file)) for trainer in (whole, again))
        assert one == other, file


@pytest.mark.parametrize(
    ("overrides", "messages"),
    [
        (
            [
                "+callbacks.d={kind: evaluate, sets: [d]}",
                "+callbacks.b={kind: evaluate, sets: [b]}",
                "+callbacks.average={kind: evaluate, weights: ema}",
                "+callbacks.stop={kind: early_stop, patience: 2}",
            ],
            [
                "callbacks.d.sets\n    data.validation.sources has no d: there are a, b",
                "callbacks.b\n    evaluate publishes validation_loss/b too",
                "callbacks.average.weights = 'ema'\n    is not the name of a callback of the kind ema; add one",
                "callbacks.stop.metric\n    no callback publishes it; there are validation_loss/a, validation_p",
            ],
        ),
        (
            ["+data.validation.path=x", "+data.validation.sources.e={path: x, splitt: y}"],
            [
                "data.validation.path = 'x'\n    unknown key",
                "sources.e.splitt = 'y'\n    unknown key; did you mean split",
            ],
        ),
        (["data.validation.sources={a: null, b: null}"], ["is empty; name at least one source"]),
        (
            ["data.validation.sources.a.split=train", "+data.validation.sources={e f: {path: x}}"],
            ["data.validation.sources.a\n    is the training data itself", "its name must be of letters"],
        ),
        (
            ["+callbacks.x={kind: early_stop, patience: 2}", "~callbacks.evaluate", "+callbacks.x-y={kind: ema}"],
            ["needs a callback of the kind evaluate", "must be of letters, digits and underscores"],
        ),
        (
            [
                "+callbacks.x={kind: early_stop, patience: 2, metric: validation_loss/a}",
                "callbacks.evaluate.every_steps=null",
            ],
            ["is measured at the end of the run only"],
        ),
        (
            ["+callbacks.x={kind: samples}", "+callbacks.y={kind: samples, prompts: [a], temperature: 0}"],
            ["is empty, and there is no prompts_file", "has no effect with temperature=0"],
        ),
    ],
)
def test_what_does_not_fit_is_said_at_check_time(dataset, tmp_path, two_sets, overrides, messages):
    with pytest.raises(ConfigError) as error:
        small_config(dataset, tmp_path, *two_sets, *overrides)
    for message in messages:
        assert message in str(error.value)


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 2, 1), (1, 1, 2), (1, 2, 2)], ids=str)
def test_callbacks_say_the_same_on_any_split(dataset, tmp_path, two_sets, sizes):
    more = [
        "callbacks=observed", *two_sets, "callbacks.samples.every_steps=4", "callbacks.samples.max_new_tokens=8",
        "callbacks.statistics.every_steps=4", "callbacks.evaluate_ema.every_steps=3", "callbacks.ema.decay=0.5",
        "callbacks.early_stop.metric=validation_loss/b", "callbacks.early_stop.min_delta=100",
        "callbacks.early_stop.patience=1", "callbacks.evaluate.every_steps=6",
    ]  # fmt: skip
    for folder, split_of in (("one", ()), ("parts", split(*sizes))):
        done = train_ranks(dataset, tmp_path / folder, *more, *split_of)
        assert "ended early, after step 6 of 50" in done.stderr
    one, other = (
        comparable(read_metrics(tmp_path / folder / "gptj_tiny" / "metrics.jsonl")) for folder in ("one", "parts")
    )
    assert [list(record) for record in one] == [list(record) for record in other]
    for ours, theirs in zip(one, other, strict=True):
        for key, own in ours.items():
            near = pytest.approx(own, rel=2e-5, abs=1e-9) if isinstance(own, float) else own
            assert theirs[key] == near, key
    samples = [(tmp_path / folder / "gptj_tiny" / "samples.jsonl").read_text() for folder in ("one", "parts")]
    assert samples[0] == samples[1]
    own, theirs = (
        read_tensors(latest_checkpoint(tmp_path / folder / "gptj_tiny")[0], "callback_ema")
        for folder in ("one", "parts")
    )
    for name, value in own.items():
        torch.testing.assert_close(theirs[name], value, rtol=1e-3, atol=2e-5)
