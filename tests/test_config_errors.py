"""Planted mistakes: each is refused with its file and line, the value, what is allowed, the nearest name."""

import os
import subprocess
import sys

import pytest

from modelzoo.base_config import UserError
from modelzoo.config_errors import nearest
from modelzoo.config_files import configs_dir
from modelzoo.run_config import RunConfig, load_run_config

HEAD = "defaults:\n  - gptj_tiny\n  - _self_\nname: mine\n"  # a mistake below it starts at line 5


@pytest.fixture(autouse=True)
def _in_the_folder_of_the_yaml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # so that messages name mine.yaml, and not the way to it


def message_of(tmp_path, body, overrides=(), head=HEAD):
    path = tmp_path / "mine.yaml"
    path.write_text(head + body)
    with pytest.raises(UserError) as error:
        load_run_config(str(path), overrides)
    return str(error.value)


MISTAKES = [
    ("model:\n  hiden_size: 512\n", "mine.yaml:6: model.hiden_size = 512", "did you mean hidden_size?"),
    ("hidden_size: 512\n", "mine.yaml:5: hidden_size = 512", "did you mean model.hidden_size?"),
    ("modle:\n  hidden_size: 512\n", "mine.yaml:5: modle", "did you mean model?"),
    ("optimizer:\n  learning_rate: 1e-3\n", "mine.yaml:6: optimizer.learning_rate", "here it is called lr"),
    ("model:\n  n_embd: 512\n", "mine.yaml:6: model.n_embd = 512", "here it is called hidden_size"),
    ("model:\n  num_heads: 7\n", "mine.yaml:6: model.num_heads = 7", "does not divide hidden_size=192; use 6 or 8"),
    ("model:\n  norm_eps: -1\n", "mine.yaml:6: model.norm_eps = -1", "greater than 0"),
    ("model:\n  ffn_size: 0\n", "mine.yaml:6: model.ffn_size = 0", "greater than or equal to 1"),
    ("model:\n  dropout: 5.0\n", "mine.yaml:6: model.dropout = 5.0", "less than 1"),
    ("model:\n  num_layers: 2.5\n", "mine.yaml:6: model.num_layers = 2.5", "valid integer"),
    ("model:\n  num_layers: '4'\n", "mine.yaml:6: model.num_layers = '4'", "remove the quotes"),
    ("model:\n  tied_norm: 1\n", "mine.yaml:6: model.tied_norm = 1", "boolean"),
    ("model:\n  activation: gelu_tan\n", "mine.yaml:6: model.activation", "did you mean gelu_tanh?"),
    ("model:\n  parallel_residual: false\n", "model.tied_norm = True", "needs parallel_residual=true"),
    ("model:\n  tie_embeddings: true\n", "model.lm_head_bias = True", "needs tie_embeddings=false"),
    ("model:\n  padded_vocab_size: 4000\n", "mine.yaml:6: model.padded_vocab_size = 4000", "below vocab_size=4096"),
    (
        "model:\n  position:\n    fraction: 0.3\n    style: half\n",
        "mine.yaml:7: model.position.fraction = 0.3",
        "rotary_dim=9, which is odd",
    ),
    ("model:\n  position: {kind: rotry}\n", "mine.yaml:6: model.position.kind = 'rotry'", "did you mean rotary?"),
    ("model:\n  mup: {base_hidden_size: 64}\n", "mine.yaml:6: model.mup.base_ffn_size", "required"),
    ("model: 3\n", "mine.yaml:5: model = '3'", "must be a section"),
    ("data:\n  seq_len: 513\n", "mine.yaml:6: data.seq_len = 513", "max_seq_len=512"),
    ("data:\n  validation: {split: train}\n", "mine.yaml:6: data.validation", "measure memory"),
    ("data:\n  validation: null\n", "callbacks.evaluate", "needs data.validation"),
    ("optimizer:\n  lr: 0\n", "mine.yaml:6: optimizer.lr = 0", "greater than 0"),
    ("optimizer:\n  lr: 0.5\n", "mine.yaml:6: optimizer.lr = 0.5", "too large for AdamW"),
    ("optimizer:\n  betas: [0.9, 0.95, 0.99]\n", "mine.yaml:6: optimizer.betas", "must have at most 2 items"),
    ("trainer:\n  max_tokens: 1000.5\n", "mine.yaml:6: trainer.max_tokens = 1000.5", "valid integer"),
    ("optimizer:\n  lr: 1,5e-4\n", "mine.yaml:6: optimizer.lr = '1,5e-4'", "written as text"),
    ("optimizer:\n  lr: .inf\n", "mine.yaml:6: optimizer.lr = inf", "finite"),
    ("optimizer:\n  lr: .nan\n", "mine.yaml:6: optimizer.lr = nan", "finite"),
    ("optimizer:\n  betas: [0.95, 0.9]\n", "mine.yaml:6: optimizer.betas", "try [0.9, 0.95]"),
    ("optimizer:\n  betas: [0.9, 1.0]\n", "mine.yaml:6: optimizer.betas.1 = 1.0", "less than 1"),
    ("optimizer:\n  weight_decay: -0.1\n", "mine.yaml:6: optimizer.weight_decay = -0.1", "greater than or equal to 0"),
    ("optimizer:\n  kind: adamm\n", "mine.yaml:6: optimizer.kind = 'adamm'", "must be adamw; did you"),
    ("schedule:\n  kind: cosin\n", "mine.yaml:6: schedule.kind = 'cosin'", "did you mean cosine?"),
    ("schedule:\n  warmup_steps: 245\n", "mine.yaml:6: schedule.warmup_steps = 245", "never reaches its peak"),
    ("schedule:\n  warmup_tokens: 9\n", "mine.yaml:6: schedule.warmup_tokens = 9", "not both"),
    ("schedule:\n  final_lr_ratio: 2\n", "mine.yaml:6: schedule.final_lr_ratio = 2", "less than or equal to 1"),
    ("trainer:\n  max_steps: 10\n", "mine.yaml:6: trainer.max_steps = 10",  "max_tokens and max_epochs"),
    ("trainer:\n  micro_batch_size: 5\n", "mine.yaml:6: trainer.micro_batch_size = 5", "the nearest is 4"),
    ("trainer:\n  global_batch_size: -16\n", "mine.yaml:6: trainer.global_batch_size = -16", "greater than 0"),
    ("callbacks:\n  evaluate: {every_step: 5}\n", "mine.yaml:6: callbacks.evaluate.every_step", "mean every_steps?"),
    ("callbacks:\n  mine: {kind: comet}\n", "mine.yaml:6: callbacks.mine.kind = 'comet'", "must be one of checkpoint"),
    ("accelerator:\n  precision: bf61\n", "mine.yaml:6: accelerator.precision = 'bf61'", "did you mean bf16?"),
    ("accelerator:\n  device: gpu\n", "mine.yaml:6: accelerator.device = 'gpu'", "must be one of auto, cpu, cuda"),
    ("accelerator:\n  replicate: all\n", "mine.yaml:6: accelerator.replicate = 'all'", "integer; or must be auto"),
    ("model:\n  _target_: os.system\n", "mine.yaml:6: model._target_ = 'os.system'", "unknown key"),
    ("seed: -1\n", "mine.yaml:5: seed = -1", "greater than or equal to 0"),
    ("model:\n  hidden_size: 385\n", "(hidden_size: mine.yaml:6)", "use 5 or 7"),
    ("model:\n  num_layers: 0100\n", "mine.yaml:6: model.num_layers = 0100", "base 8 or 60"),
    ("schedule: wsd\n", "mine.yaml:5: schedule = 'wsd'", "write `- override schedule: …` in defaults"),
    ("model:\n  position: rotary\n", "mine.yaml:6: model.position = 'rotary'", "must be a section"),
    ("data:\n  train: [a, b]\n", "mine.yaml:6: data.train", "must be a section"),
    ("model:\n  position: {kind: learned}\n", "model.position.style", "unknown key for this kind"),
    ("schedule: {kind: constant, decay_steps: 3}\n", "mine.yaml:5: schedule.decay_steps", "unknown key for this kind"),
    ("model.num_layers: 3\n", "mine.yaml:5: model.num_layers = 3", "each section stands on a line of its own"),
    ("optimizer:\n  betas: 0.9\n", "mine.yaml:6: optimizer.betas = 0.9", "must be a list"),
    ("model:\n  hidden_size: ${foo.bar}\n", "mine.yaml:6: model.hidden_size", "'foo.bar' not found"),
    ("seed: ???\n", "mine.yaml:5: seed = ???", "needs a value"),
    ("trainer:\n  max_tokens: 1e30\n", "mine.yaml:6: trainer.max_tokens = 1e+30", "less than or equal to"),
    ("seed: 1.5\n", "mine.yaml:5: seed = 1.5", "valid integer"),
    ("name: again\n", "mine.yaml:5", "duplicate key name"),
    ("model:\n  hidden_size: [3\nseed: 1\n", "mine.yaml:7", "not valid YAML"),
    ("\tseed: 1\n", "mine.yaml:5", "not valid YAML"),
    ("name: ../elsewhere\n", "mine.yaml:", "duplicate key"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "place", "remedy"), MISTAKES, ids=[m[0].strip().replace("\n", " ") for m in MISTAKES])
def test_a_planted_mistake_is_refused_with_place_and_remedy(tmp_path, body, place, remedy):
    message = message_of(tmp_path, body)
    assert place in message
    assert remedy in message


def test_all_mistakes_of_a_file_come_at_once(tmp_path):
    message = message_of(
        tmp_path,
        "model:\n  num_heads: 7\n  droput: 0.1\ndata:\n  seq_len: 600\noptimizer:\n  lr: -1\nsede: 3\n",
    )
    for expected in (
        "mine.yaml:6: model.num_heads = 7",
        "mine.yaml:7: model.droput = 0.1",
        "mine.yaml:9: data.seq_len = 600",
        "mine.yaml:11: optimizer.lr = -1",
        "mine.yaml:12: sede = 3",
        "5 problems; nothing was started",
    ):
        assert expected in message


def test_nothing_is_reported_that_hinges_on_a_mistyped_key(tmp_path):
    message = message_of(tmp_path, "model:\n  hiden_size: 224\n  num_heads: 7\n")
    assert "hiden_size" in message
    assert "does not divide" not in message


def test_a_mistake_in_an_override_names_the_override(tmp_path):
    message = message_of(tmp_path, "", ["model.hiden_size=512"])
    assert "command line, model.hiden_size=512: model.hiden_size = 512" in message


def test_a_mistake_in_an_included_file_names_that_file(tmp_path):
    (tmp_path / "base.yaml").write_text("defaults:\n  - gptj_tiny\n  - _self_\noptimizer:\n  lr: 7\n")
    (tmp_path / "mine.yaml").write_text("defaults:\n  - base\n  - _self_\nname: mine\n")
    with pytest.raises(UserError, match=r"base\.yaml:5: optimizer\.lr = 7"):
        load_run_config(str(tmp_path / "mine.yaml"))


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UserError, match="did you mean gptj_tiny"):
        load_run_config("gptj_tinny")
    with pytest.raises(UserError, match="did you mean continuous_pretraining/params_gptj_6B_TRC2"):
        load_run_config("params_gptj_6B_TRC2")
    with pytest.raises(UserError, match="no cosinus in the group schedule; did you mean cosine"):
        load_run_config("gptj_tiny", ["schedule=cosinus"])


def test_a_missing_default_is_answered_with_line_and_nearest(tmp_path):
    message = message_of(tmp_path, "", head="defaults:\n  - gptj_tinny\n  - _self_\n")
    assert "mine.yaml:2" in message
    assert "did you mean gptj_tiny?" in message


@pytest.mark.parametrize("override", ["optimizer.lr", "optimizer.lr=1e-3,2e-3", "=3", "a b=[", "optimizer.lr=[1"])
def test_a_broken_override_is_refused(override):
    with pytest.raises(UserError, match="command line"):
        load_run_config("gptj_tiny", [override])


def test_overrides_set_keys_that_no_yaml_holds():
    config = load_run_config("gptj_tiny", ["trainer.gradient_clip_norm=0.5", "schedule=wsd", "~callbacks.tensorboard"])
    assert config.trainer.gradient_clip_norm == 0.5
    assert config.schedule.kind == "wsd"
    assert "tensorboard" not in config.callbacks


def test_typos_of_every_key_are_answered_with_that_key():
    """Drop, double or swap a letter of each key of the schema: the right name comes back, 90 % at least."""
    asked = right = 0
    for info in RunConfig.model_fields.values():
        for name in getattr(info.annotation, "model_fields", {}):
            siblings = list(info.annotation.model_fields)
            middle = len(name) // 2
            for typo in (
                name[:middle] + name[middle + 1 :],
                name[:middle] + name[middle] + name[middle:],
                name[: middle - 1] + name[middle] + name[middle - 1] + name[middle + 1 :],
            ):
                if typo not in siblings:
                    asked += 1
                    right += nearest(typo, siblings) == name
    assert asked > 80
    assert right / asked >= 0.9


def test_check_takes_less_than_two_seconds_and_no_torch(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "model:\n  hiden_size: 512\n")
    program = (
        "import sys; from modelzoo.cli.main import main\n"
        f"sys.argv = ['modelzoo', 'check', {str(path)!r}]\n"
        "try: main()\nfinally: assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    times = []
    for _ in range(2):
        started = sum(os.times()[2:4])  # of ended children: a busy machine makes waiting longer, not work
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        times.append(sum(os.times()[2:4]) - started)
        assert done.returncode == 2
        assert "mine.yaml:6: model.hiden_size = 512" in done.stderr
        assert "did you mean hidden_size?" in done.stderr
        assert "Traceback" not in done.stderr
    assert min(times) < 2


@pytest.mark.parametrize("entries", ["  - gptj_tiny\n", "  - _self_\n  - gptj_tiny\n"])
def test_a_defaults_list_that_would_override_the_file_itself_is_refused(tmp_path, entries):
    message = message_of(tmp_path, "", head=f"seed: 3\ndefaults:\n{entries}name: mine\n")
    assert "mine.yaml:2: defaults" in message
    assert "must end with `- _self_`" in message


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ("  - mine\n  - _self_\n", "includes itself"),
        ("  - gptj_tiny\n  - override schedul: wsd\n  - _self_\n", "did you mean schedule?"),
        ("  - 3\n  - _self_\n", "Unsupported type in defaults"),
    ],
)
def test_a_broken_defaults_list_is_explained(tmp_path, defaults, message):
    assert message in message_of(tmp_path, "", head=f"defaults:\n{defaults}name: mine\n")


def test_null_drops_a_callback(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD + "callbacks:\n  tensorboard: null\n")
    assert load_run_config(str(path)).callbacks["tensorboard"] is None


def test_counts_of_tokens_may_be_written_as_floats():
    config = load_run_config("gptj_tiny", ["trainer.max_tokens=2.5e9", "schedule.warmup_steps=null"])
    assert config.trainer.max_tokens == 2_500_000_000


def test_shipped_configs_can_be_named_by_path_too():
    assert load_run_config(str(configs_dir() / "gptj_tiny.yaml")) == load_run_config("gptj_tiny")
