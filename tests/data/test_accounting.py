"""What a run says it takes of each source is what its batches hold; what cannot work is refused before it."""

import json

import pytest
from typer.testing import CliRunner

from modelzoo.base_config import UserError
from modelzoo.cli.main import app
from modelzoo.config_errors import ConfigError
from modelzoo.data.schema import read_manifest
from modelzoo.launch import build_run
from modelzoo.run_config import RunConfig, dump_yaml, load_run_config
from modelzoo.trainer.callbacks.metrics import read_metrics
from tests.runs import launch, small_config, small_overrides, write_dataset
from tests.trainer.observing import records

ROW = 24  # tokens


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("old"), num_documents=40, seed=1)


def mixture(new, old, new_keys="weight: 1", old_keys="share: 0.25", rest=""):
    return (
        "~data.train",
        f"+data.train={{sources: {{new: {{path: '{new}', split: train, {new_keys}}}, "
        f"old: {{path: '{old}', split: train, {old_keys}}}}}{rest}}}",
        "schedule=constant",
        "~callbacks.evaluate",
        "callbacks.checkpoint.every_steps=null",
    )


FALLING = {"old_keys": "share: {values: [0.75, 0.125], steps: [0, 10]}"}
ENDING = {"old_keys": "weight: 1, max_epochs: 2, max_tokens: 240, after_max_epochs: drop"}
PACKED = {"new_keys": "weight: 1, packing: best_fit", "old_keys": "share: 0.3, packing: best_fit"}


@pytest.mark.parametrize(
    ("keys", "extra"),
    [(FALLING, []), (ENDING, []), (PACKED, ["+data.isolate_documents=true"])],
    ids=["falling", "ending", "packed"],
)
def test_the_numbers_in_the_metrics_are_those_of_the_batches(dataset, old, tmp_path, keys, extra):
    def config(*overrides):
        return small_config(dataset, tmp_path, *mixture(dataset, old, **keys), *extra, *overrides)

    first = launch(config("trainer.max_steps=5", "trainer.micro_batch_size=2"))
    first.train()
    trainer = launch(config())
    assert trainer.step == 5
    trainer.train()
    sources = trainer.data.sources
    rows_of = {
        name: {row.tobytes() for row in source.dataset.rows(range(len(source.dataset)))["labels"]}
        for name, source in sources.items()
    }
    assert not rows_of["new"] & rows_of["old"]
    seen = dict.fromkeys(rows_of, 0)
    done = records(trainer, "loss")
    assert [record["step"] for record in done] == list(range(1, 13))
    for record in done:
        for row in trainer.data.batch(record["step"] - 1)["labels"]:
            (name,) = [name for name, rows in rows_of.items() if row.tobytes() in rows]
            seen[name] += 1
        for name, count in seen.items():
            assert record[f"tokens_seen/{name}"] == count * ROW
            used = 10 if name == "old" and keys is ENDING else len(sources[name].dataset)
            assert record[f"epochs/{name}"] == pytest.approx(count / used)
        assert sum(seen.values()) * ROW == record["tokens"]
    taken = {account.name: account.tokens for account in trainer.data.accounts(12)}
    assert taken == {name: count * ROW for name, count in seen.items()}
    if keys is ENDING:
        assert seen["old"] == 20
    if keys is FALLING:
        assert seen["old"] == round(8 * (10 * (0.75 + 0.125) / 2 + 2 * 0.125))


@pytest.mark.long
def test_two_ranks_publish_the_same_numbers(dataset, old, tmp_path):
    from tests.trainer.test_parallel import split, train

    for folder, ranks in (("one", []), ("two", split(2, 1, 1))):
        train(dataset, tmp_path / folder, *mixture(dataset, old, **FALLING), *ranks)
    one, two = (read_metrics(tmp_path / name / "gptj_tiny" / "metrics.jsonl") for name in ("one", "two"))
    assert len(one) > 5
    for ours, theirs in zip(one, two, strict=True):
        keys = [key for key in ours if key.startswith(("tokens_seen/", "epochs/"))]
        assert [ours[key] for key in keys] == [theirs[key] for key in keys]
        assert len(keys) == (4 if "loss" in ours else 0)


def test_a_single_dataset_publishes_its_epochs(dataset, tmp_path):
    trainer = launch(
        small_config(dataset, tmp_path, "trainer.max_steps=2", "schedule=constant", "schedule.warmup_steps=0")
    )
    trainer.train()
    rows = len(trainer.data.dataset)
    assert [record["epochs"] for record in records(trainer, "loss")] == [8 / rows, 16 / rows]


def test_a_run_goes_on_with_the_same_course_only(dataset, old, tmp_path):
    def config(old_keys, steps):
        keys = mixture(dataset, old, old_keys=old_keys)
        return small_config(dataset, tmp_path, *keys, f"trainer.max_steps={steps}")

    spread = "share: {values: [0.75, 0.25]}"
    launch(config(spread, 4)).train()
    with pytest.raises(UserError, match=r"the training data or its order has changed since .*shares: .* → "):
        launch(config(spread, 8))
    with pytest.raises(UserError, match=r"data\.train\.sources\.old\.share"):
        launch(config("share: 0.25", 4))


def test_a_mixture_whose_weights_are_others_has_another_state(dataset, old, tmp_path):
    """Also where the counts so far agree, and where no config is compared."""
    states = [
        build_run(small_config(dataset, tmp_path, *mixture(dataset, old, old_keys=keys))).data.state(0)
        for keys in ("share: 0.25", "share: {values: [0.25, 0.3]}", "share: 0.25, max_tokens: 480",
                     "share: 0.25, max_tokens: 480, max_epochs: 9, after_max_epochs: drop")
    ]  # fmt: skip
    assert len({json.dumps(state) for state in states}) == 4


def test_proportional_weights_and_their_temperature(dataset, old, tmp_path):
    by_size = {"new_keys": "weight: proportional", "old_keys": "weight: proportional, max_tokens: 480"}
    for rest, power in (("", 1), (", temperature: 2", 0.5)):
        config = small_config(dataset, tmp_path, *mixture(dataset, old, **by_size, rest=rest))
        assert RunConfig.model_validate(config.model_dump()) == config
        new, rare = build_run(config).data.accounts(12)
        assert rare.num_tokens == 480
        assert rare.shares == pytest.approx([20**power / (20**power + new.num_rows**power)])
        assert "proportional" in dump_yaml(config)


REFUSED = [
    ("share: 0.25, weight: 1", "", "data.train.sources.old.share", "give weight or share, not both"),
    ("packing: stream", "", "data.train.sources.old.weight", "give a weight (a number, or proportional), or a share"),
    ("share: 1.5", "", "data.train.sources.old.share = 1.5", "less than or equal to 1"),
    ("share: 0", "", "data.train.sources.old.share = 0", "greater than 0"),
    ("share: 1", "", "data.train.sources.new", "gets no tokens at all"),
    ("share: propotional", "", "data.train.sources.old.share = 'propotional'", "written as text"),
    ("weight: propotional", "", "data.train.sources.old.weight = 'propotional'", "did you mean proportional?"),
    ("weight: proportional", "", "data.train.sources.new.weight = 1", "sizes and numbers do not compare"),
    ("weight: {valeus: [1, 2]}", "", "data.train.sources.old.weight.valeus", "did you mean values?"),
    ("weight: {values: [1]}", "", "data.train.sources.old.weight.values", "at least 2 items"),
    ("weight: {values: [1, -1]}", "", "data.train.sources.old.weight.values.1 = -1", "greater than or equal to 0"),
    ("weight: {values: [0, 0]}", "", "data.train.sources.old.weight.values", "are all 0"),
    ("weight: {values: [1, 2], steps: [3]}", "", "data.train.sources.old.weight.steps", "1 points for 2 values"),
    ("weight: {values: [1, 2], steps: [3, 2]}", "", "data.train.sources.old.weight.steps", "must not go back"),
    (
        "weight: {values: [1, 2], steps: [3, 4], tokens: [1, 2]}", "", "data.train.sources.old.weight.tokens",
        "steps or tokens, not both",
    ),
    ("share: {values: [0.5, 1.5]}", "", "data.train.sources.old.share.values", "must not exceed 1"),
    ("share: 0.5, after_max_epochs: drop", "", "data.train.sources.old.after_max_epochs", "needs max_epochs"),
    ("share: 0.5, after_max_epochs: stop", "", "after_max_epochs = 'stop'", "must be one of refuse, drop"),
    ("share: 0.5", ", temperature: 3", "data.train.temperature = 3", "no source has one; set it to 1"),
    (
        "share: {values: [0, 0.5], steps: [12, 12]}", "", "data.train.sources.old",
        "gets no tokens at all in this run",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("old_keys", "rest", "place", "message"), REFUSED)
def test_mistakes_are_explained_before_any_data_is_there(tmp_path, old_keys, rest, place, message):
    with pytest.raises(ConfigError) as error:
        small_config("nowhere", tmp_path, *mixture("nowhere", "no", old_keys=old_keys, rest=rest))
    assert place in str(error.value)
    assert message in str(error.value)
    assert "1 problem;" in str(error.value) or "valeus" in old_keys  # and there values is missing


def test_points_beyond_the_run_are_told(tmp_path):
    for keys, note in (
        ("share: {values: [0.5, 0], steps: [0, 20]}", "old.share: the last point is at step 20, beyond the run's 12: "),
        ("weight: {values: [1, 0], tokens: [0, 2500]}", "old.weight: the last point is at step 14, beyond the run's"),
    ):
        (found,) = small_config("no", tmp_path, *mixture("no", "no", old_keys=keys)).notes()
        assert note in found
    assert "it ends at 0.142857 instead of 0" in found
    for keys in ("share: {values: [0.5, 0], steps: [0, 12]}", "share: {values: [0.5, 0]}", "weight: 1"):
        assert not small_config("no", tmp_path, *mixture("no", "no", old_keys=keys)).notes()


def test_weights_that_sum_to_zero_on_the_way_are_refused(tmp_path):
    keys = {"new_keys": "weight: {values: [1, 0], tokens: [0, 1e3]}", "old_keys": "weight: {values: [1, 0, 1]}"}
    with pytest.raises(ConfigError, match=r"at step 6 the weights sum to 0: there is nothing to read"):
        small_config("nowhere", tmp_path, *mixture("nowhere", "no", **keys))


def test_names_of_sources_can_be_names_of_numbers(tmp_path):
    with pytest.raises(ConfigError, match="its name must be of letters"):
        small_config("new", tmp_path, *mixture("new", "old"), "+data.train.sources._a={path: x, weight: 1}")


def test_weights_are_overridden_from_the_command_line(tmp_path):
    def shares(*overrides):
        config = small_config("new", tmp_path, *mixture("new", "old"), *overrides)
        return config.data.train.sources["old"]

    changing = "data.train.sources.old.share={values: [0.5, 0.1], tokens: [0, 1e9]}"
    assert shares(changing).share.tokens == (0, 10**9)
    assert shares(changing, "data.train.sources.old.share=0.5").share == 0.5
    other = shares(
        "data.train.sources.old.share=null", "+data.train.sources.old.weight={values: [1, 2], steps: [0, 5]}"
    )
    assert other.weight.points(100, 10) == ((0, 1.0), (5, 2.0))
    assert shares(changing).share.points(100, 10**8) == ((0, 0.5), (10, 0.1))


def test_a_run_that_outlasts_its_data_is_refused(dataset, old, tmp_path):
    ends = "weight: 1, max_tokens: 240, max_epochs: 2"
    for keys, message in [
        ({"old_keys": ends}, r"old: 50\.00% of the run: 1,152 tokens, 4\.80 epochs \(at most 2\) of the 240 in "),
        ({"old_keys": ends}, r"after_max_epochs=drop\), or end the run after 5 steps \(trainer.max_steps=5\)"),
        (
            dict.fromkeys(("old_keys", "new_keys"), f"{ends}, after_max_epochs: drop"),
            r"every source has ended after 5 of 12 steps",
        ),
        ({"old_keys": "weight: 1, max_tokens: 60"}, r"sources\.old: .* holds 3 rows .* takes of it: 4 of its 8"),
    ]:
        with pytest.raises(UserError, match=message):
            build_run(small_config(dataset, tmp_path, *mixture(dataset, old, **keys)))


def test_check_show_and_train_say_what_each_source_will_give(dataset, old, tmp_path):
    def invoke(verb, *more, **keys):
        overrides = [*small_overrides(dataset, tmp_path), *mixture(dataset, old, **keys), *more]
        return CliRunner().invoke(app, [verb, "gptj_tiny", *overrides])

    tokens = read_manifest(old).splits["train"].num_tokens
    line = f"old: 25.00% of the run (40.00% → 10.00%): 576 tokens, {576 / tokens:.2f} epochs of the {tokens:,} in {old}"
    for verb in ("check", "show"):
        done = invoke(verb, old_keys="share: {values: [0.4, 0.1]}")
        assert done.exit_code == 0, done.output
        assert line in done.output, done.output
    refused = invoke("check", old_keys="weight: 1, max_epochs: 1, max_tokens: 240")
    assert refused.exit_code != 0
    assert "more often than max_epochs allows" in str(refused.exception)
    shown = invoke("show", old_keys="weight: 1, max_epochs: 1, max_tokens: 240")
    assert shown.exit_code == 0
    assert "# data              data.train: a run of 12 steps reads old more often" in shown.output
    trained = invoke("train", "trainer.max_steps=4", old_keys="share: 0.25")
    assert "data: old: 25.00% of the run: 192 tokens" in trained.output + trained.stderr


def test_shipped_replay():
    config = load_run_config("gptj_tiny", ["data=trc2_with_replay_gpt2", "data.seq_len=256"])
    sources = config.data.train.used_sources()
    assert sources["pile"].share == 0.05
    assert (sources["trc2"].weight, sources["trc2"].max_epochs) == (1.0, 4)
