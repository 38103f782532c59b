"""Signals: whatever moment they come at, a step is finished and a save is whole."""

import signal

import pytest

from modelzoo.trainer import checkpoint_writer, stop_signals
from modelzoo.trainer.checkpoint import checkpoints_of, damage
from modelzoo.trainer.stop_signals import stop_on_signals
from tests.runs import launch, small_config


def test_a_signal_that_comes_while_ranks_agree_is_not_lost(dataset, tmp_path, monkeypatch):
    trainer = launch(small_config(dataset, tmp_path))
    agree = trainer.parallel.any

    def late(flag):
        agreed = agree(flag)
        if trainer.step == 3:
            trainer.stop_signal = signal.SIGTERM  # as the handler does, while this rank waits for the others
        return agreed

    monkeypatch.setattr(trainer.parallel, "any", late)
    assert not trainer.train()
    assert trainer.step in (3, 4)


def test_a_signal_during_a_save_waits_for_it(dataset, tmp_path, monkeypatch):
    trainer = launch(small_config(dataset, tmp_path))
    write_manifest = checkpoint_writer.write_manifest

    def signalled(*arguments):
        signal.raise_signal(signal.SIGTERM)
        write_manifest(*arguments)

    monkeypatch.setattr(checkpoint_writer, "write_manifest", signalled)
    assert not trainer.train()
    saved = checkpoints_of(trainer.run_dir)  # the second is of the step that ran beside the first
    assert saved[0].name == "step_00000004"
    assert [damage(folder) for folder in saved] == [None] * len(saved)


def test_the_first_signal_asks_and_a_later_interrupt_insists(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(stop_signals.time, "monotonic", lambda: now[0])
    asked = []
    with stop_on_signals(asked.append):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the same, which a launcher has passed on
        now[0] += 2
        signal.raise_signal(signal.SIGTERM)
        assert asked == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_closed_terminal_does_not_stop_what_nohup_started():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        asked = []
        with stop_on_signals(asked.append):
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGUSR1)
        assert asked == [signal.SIGUSR1]
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
