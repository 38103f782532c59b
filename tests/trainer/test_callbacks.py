"""Callbacks: what they publish is right, what they keep survives a kill, and none changes what is computed."""

import json
import math
import signal

import pytest
import torch

from modelzoo.base_config import UserError, kind_of
from modelzoo.cli.evaluate import run as evaluate
from modelzoo.cli.train import run as train
from modelzoo.config_errors import ConfigError
from modelzoo.config_files import configs_dir
from modelzoo.launch import build_run
from modelzoo.model.generate import generate
from modelzoo.model.sampling import Sampling
from modelzoo.run_config import load_run_config
from modelzoo.saved_models import load_model, load_tokenizer
from modelzoo.trainer.callbacks.base import Callback, CallbackConfig
from modelzoo.trainer.callbacks.metrics import read_metrics
from modelzoo.trainer.checkpoint import checkpoints_of, latest_checkpoint, read_tensors
from modelzoo.trainer.run_state import restore
from tests.runs import comparable, small_config, small_overrides
from tests.trainer.observing import Look, StopAt, add_first, finished, recorded
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


# ---------------------------------------------------------------------- evaluate


@pytest.fixture(scope="module")
def two_sets(dataset):
    """Overrides: a's rows are those of the split, b's are packed in another way."""
    source = f"path: {dataset}, split: validation"
    sets = f"{{a: {{{source}}}, b: {{{source}, packing: best_fit}}, c: null}}"
    return ["~data.validation.path", "~data.validation.split", f"+data.validation.sources={sets}"]


def names(*sets, weights=""):
    metrics = ("loss", "perplexity", "bits_per_byte")
    return {f"validation_{weights}{metric}/{of_set}" for of_set in sets for metric in metrics}


def test_each_set_has_numbers_of_its_own(dataset, tmp_path, two_sets):
    config = small_config(dataset, tmp_path, *two_sets, "callbacks.evaluate.at_start=true")
    trainer = recorded(config)
    at_first = {name: trainer.evaluate(name, 16).metrics()["loss"] for name in ("a", "b")}
    assert at_first["a"] != at_first["b"]
    assert trainer.train()
    records = [record for record in trainer.callbacks["recorder"].records if "validation_loss/a" in record]
    assert [record["step"] for record in records] == [0, 5, 10, 12]
    assert {name: records[0][f"validation_loss/{name}"] for name in at_first} == at_first
    for record in records:
        assert set(record) == {"step", "tokens"} | names("a", "b")
    for name in ("a", "b"):
        numbers = evaluate(trainer.run_dir, of_set=name, device="cpu")
        assert numbers["loss"] == pytest.approx(trainer.evaluate(name, 16).metrics()["loss"], rel=1e-6)
        assert numbers["loss"] == pytest.approx(records[-1][f"validation_loss/{name}"], rel=1e-6)
    with pytest.raises(UserError, match=r"has the validation sets a, b; name one of them: --set NAME"):
        evaluate(trainer.run_dir, device="cpu")
    with pytest.raises(UserError, match=r"--set c: the run in .* has the validation sets a, b"):
        evaluate(trainer.run_dir, of_set="c", device="cpu")


def test_two_evaluations_are_each_taken_again_where_a_stop_cut_them_short(dataset, tmp_path, two_sets):
    """At 6 one is due, at 10 the other, at 12 both; and each at its own steps once, as in a run without a stop."""
    other = "+callbacks.other={kind: evaluate, sets: [b], every_steps: 3}"
    samples = '+callbacks.samples={kind: samples, prompts: ["the "], every_steps: 6, max_new_tokens: 4}'
    config = small_config(dataset, tmp_path, *two_sets, "callbacks.evaluate.sets=[a]", other, samples)
    for stop, due in ((6, (False, True)), (10, (True, False)), (12, (True, True))):
        trainer = recorded(config)
        add_first(trainer, StopAt(stop, signal.SIGTERM))
        assert not trainer.train()
        assert (trainer.callbacks["evaluate"].due, trainer.callbacks["other"].due) == due
        assert trainer.evaluation_due
    assert recorded(config).train()
    records = read_metrics(tmp_path / "gptj_tiny" / "metrics.jsonl")
    assert [r["step"] for r in records if "validation_loss/a" in r] == [5, 10, 12]
    assert [r["step"] for r in records if "validation_loss/b" in r] == [3, 6, 9, 12]
    assert [r["step"] for r in records if "loss" in r] == list(range(1, 13))
    lines = (tmp_path / "gptj_tiny" / "samples.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [6, 12]


@pytest.mark.parametrize("at_start", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_stop_in_the_middle_of_a_set_takes_the_whole_evaluation_again(dataset, tmp_path, two_sets, at_start):
    step = 0 if at_start else 5
    config = small_config(dataset, tmp_path, *two_sets, f"callbacks.evaluate.at_start={at_start}".lower())
    trainer = recorded(config)
    batches = trainer.validation["b"].evaluation_batches

    def stopping(*arguments):
        for batch in batches(*arguments):
            if trainer.step == step:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    trainer.validation["b"].evaluation_batches = stopping
    assert not trainer.train()
    assert trainer.step == step
    assert not trainer.callbacks["recorder"].series("validation_loss/a")
    again = recorded(config)
    assert again.step == step
    assert again.train()
    records = read_metrics(again.run_dir / "metrics.jsonl")
    steps = [r["step"] for r in records if "validation_loss/a" in r]
    assert steps == [*([0] if at_start else []), 5, 10, 12]
    whole = finished(small_config(dataset, tmp_path, *two_sets, "name=whole"))
    assert [r["loss"] for r in records if "loss" in r] == [v for _, v in whole.callbacks["recorder"].series("loss")]


def test_loggers_tell_the_sets_apart(dataset, tmp_path, two_sets, capsys):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    more = ["+callbacks.tensorboard={kind: tensorboard}", "+callbacks.loss_plot={kind: loss_plot}"]
    more += ['+callbacks.samples={kind: samples, prompts: ["the "], max_new_tokens: 8}']
    numbers = train("gptj_tiny", [*small_overrides(dataset, tmp_path), *two_sets, *more])
    shown = capsys.readouterr().err
    for name in ("a", "b"):
        loss = numbers[f"validation_loss/{name}"]
        assert f"step 12: validation loss of {name} {loss:.4f}" in shown
        assert f", validation loss of {name} {loss:.4f}" in shown.splitlines()[-2]
    assert "step 12: the ▸" in shown
    run_dir = tmp_path / "gptj_tiny"
    events = EventAccumulator(str(run_dir / "tensorboard")).Reload()
    assert {"validation/loss/a", "validation/bits_per_byte/b", "train/loss"} <= set(events.Tags()["scalars"])
    assert "samples/0/text_summary" in events.Tags()["tensors"]
    assert (run_dir / "loss.png").stat().st_size > 1000


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


def test_sets_of_a_single_one_without_a_name_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match="it is one dataset, without a name; leave sets out"):
        small_config(dataset, tmp_path, "+callbacks.evaluate.sets=[a]")


# ---------------------------------------------------------------------- samples


def test_samples_are_what_the_saved_model_generates(dataset, tmp_path):
    (tmp_path / "prompts.txt").write_text("the cat\n\nthe dog saw\n")
    options = f'prompts: ["", "a"], prompts_file: {tmp_path}/prompts.txt, every_steps: 4, max_new_tokens: 9, seed: 5'
    trainer = finished(small_config(dataset, tmp_path, f"+callbacks.samples={{kind: samples, {options}}}"))
    rows = [json.loads(line) for line in (trainer.run_dir / "samples.jsonl").read_text().splitlines()]
    prompts = ["", "a", "the cat", "the dog saw"]
    assert [(row["step"], row["prompt"], row["seed"]) for row in rows] == [
        (step, prompt, 5 + number) for step in (4, 8, 12) for number, prompt in enumerate(prompts)
    ]
    tokenizer = load_tokenizer(trainer.run_dir)
    ids = [tokenizer.encode(prompt) or [tokenizer.end_of_document_id] for prompt in prompts]
    for folder, own in zip(checkpoints_of(trainer.run_dir), (rows[4:8], rows[8:]), strict=True):
        stop = [tokenizer.end_of_document_id]
        found = generate(load_model(folder), ids, 9, Sampling(temperature=0.8, top_p=0.95, seed=5), stop_ids=stop)
        texts = [tokenizer.decode([i for i in one.token_ids if i not in stop]) for one in found]
        assert [row["text"] for row in own] == texts
    assert any(a["text"] != b["text"] for a, b in zip(rows[4:8], rows[8:], strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ('prompts: ["the cat"], max_new_tokens: 100000', "exceeds the model's context"),
        ("prompts_file: nowhere.txt", "nowhere.txt: cannot be read"),
    ],
)
def test_prompts_that_cannot_be_continued_are_refused_before_training(dataset, tmp_path, options, message):
    trainer = recorded(small_config(dataset, tmp_path, f"+callbacks.samples={{kind: samples, {options}}}"))
    with pytest.raises(UserError, match=message):
        trainer.train()
    assert trainer.step == 0


# ---------------------------------------------------------------------- statistics


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


# ---------------------------------------------------------------------- early stop


STOP = "+callbacks.early_stop={kind: early_stop, patience: 2, min_delta: 100}"


def test_a_run_that_learns_nothing_more_ends_and_says_how_to_go_on(dataset, tmp_path, capsys):
    """The first evaluation, at 2, is the best; those at 4 and 6 are not better by 100."""
    overrides = [*small_overrides(dataset, tmp_path), "callbacks.evaluate.every_steps=2", STOP]
    overrides += ["+callbacks.at_end={kind: evaluate, weights: ema}", "+callbacks.ema={kind: ema}"]
    numbers = train("gptj_tiny", overrides)
    assert numbers["step"] == 6
    said = capsys.readouterr().err
    assert "ended early, after step 6 of 12: validation_loss has not fallen by" in said
    assert "(of step 2) in 2 evaluations; to go on, use callbacks.early_stop.patience=4, or ~callbacks" in said
    run_dir = tmp_path / "gptj_tiny"
    assert latest_checkpoint(run_dir)[0].name == "step_00000006"
    records = read_metrics(run_dir / "metrics.jsonl")
    assert [r["step"] for r in records if "validation_loss" in r] == [2, 4, 6]
    assert [r["step"] for r in records if "validation_ema_loss" in r] == [6]  # the end, which this has become

    assert train("gptj_tiny", overrides)["step"] == 6
    said = capsys.readouterr().err
    assert "already complete" in said
    assert "callbacks.early_stop.patience=4" in said
    assert read_metrics(run_dir / "metrics.jsonl") == records
    assert train("gptj_tiny", [*overrides, "callbacks.early_stop.patience=4"])["step"] == 10
    assert train("gptj_tiny", [*overrides, "~callbacks.early_stop"])["step"] == 12
    assert "ended early" not in capsys.readouterr().err.splitlines()[-2]


def test_a_better_value_starts_the_count_anew_and_one_that_is_no_number_does_not():
    from modelzoo.trainer.callbacks.early_stop import EarlyStopConfig

    class Trainer:
        step, callbacks = 0, {}

    def feed(values, **options):
        callback = EarlyStopConfig(patience=2, **options).build()
        Trainer.callbacks = {"it": callback}
        for step, value in enumerate(values):
            Trainer.step = step
            callback.on_record(Trainer, {"validation_loss": value})
            callback.on_record(Trainer, {"loss": 0.0})
            if callback.ends_run(Trainer):
                return step
        return None

    assert feed([3.0, 2.0, 2.5, 1.9, 2.0, 1.95]) == 5
    assert feed([3.0, 2.0, 2.5, 1.9, 2.0, 1.8]) is None
    assert feed([3.0, 2.95, 2.95], min_delta=0.1) == 2
    assert feed([math.nan, math.nan]) == 1
    assert feed([math.nan, 3.0, 4.0]) is None


# ---------------------------------------------------------------------- averaged weights


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


# ---------------------------------------------------------------------- several ranks


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
