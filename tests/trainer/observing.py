"""Runs that a test looks into: what they were at each step, and a stop where the test wants one."""

import signal

from modelzoo.trainer.callbacks.base import Callback
from modelzoo.trainer.callbacks.metrics import read_metrics
from tests.runs import launch


class Recorder(Callback):
    """The records, in memory."""

    def __init__(self):
        self.records = []

    def on_record(self, trainer, record):
        self.records.append(record)

    def series(self, key):
        return [(record["step"], record[key]) for record in self.records if key in record]


class Look(Callback):
    """The weights after each step, and the steps whose forward pass is looked at."""

    turn = 9

    def __init__(self):
        self.weights, self.hooked = {}, set()

    def on_train_start(self, trainer):
        self.weights[0] = {name: value.clone() for name, value in trainer.model.state_dict().items()}
        loss = trainer.model.loss

        def watched(*arguments, **keywords):
            block = trainer.model.blocks[0]
            wrapped = getattr(block._compiled_call_impl, "__qualname__", "").startswith("_watched")
            if block._forward_hooks or wrapped:
                self.hooked.add(trainer.step)
            return loss(*arguments, **keywords)

        trainer.model.loss = watched

    def on_step_end(self, trainer):
        self.weights[trainer.step] = {name: value.clone() for name, value in trainer.model.state_dict().items()}


class StopAt(Callback):
    """Sends this process a signal after a step, as Ctrl-C would."""

    def __init__(self, step, number=signal.SIGINT):
        self.step, self.number = step, number

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            signal.raise_signal(self.number)


def add_first(trainer, callback):
    """So that what it does comes before the other callbacks of that step."""
    trainer.callbacks = {"first": callback, **trainer.callbacks}


def recorded(config):
    """The trainer of a run, with a recorder."""
    trainer = launch(config)
    trainer.callbacks["recorder"] = Recorder()
    return trainer


def finished(config):
    trainer = recorded(config)
    assert trainer.train()
    return trainer


def records(trainer, key):
    """Those lines of metrics.jsonl that have the key."""
    return [record for record in read_metrics(trainer.run_dir / "metrics.jsonl") if key in record]


def losses(trainer):
    return [record["loss"] for record in records(trainer, "loss")]


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}
