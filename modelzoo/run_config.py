"""A run's YAML as one validated object, the checks that reach across its sections, and its dump and diff."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import yaml
from pydantic import Field

from modelzoo.base_config import Config, Problem, UserError
from modelzoo.config_files import NOT_RUNS, Composed, load_with_provenance, shipped_names
from modelzoo.data.config import DataConfig, MixtureConfig
from modelzoo.model.config import ModelConfig
from modelzoo.model.lora_config import LoraConfig
from modelzoo.model.parameters import parameter_shapes, parameter_sizes
from modelzoo.optimizer import AnyOptimizer
from modelzoo.schedule import AnySchedule
from modelzoo.schedule.base import in_steps
from modelzoo.trainer.callbacks import AnyCallback
from modelzoo.trainer.config import AcceleratorConfig, TrainerConfig


class RunConfig(Config):
    """Everything that defines a training run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run's folder; a run of the same name is resumed."""
    description: str = ""
    """What this config is for, in a line."""
    output_dir: str = "runs"
    """The run's folder is `<output_dir>/<name>`."""
    continue_from: str | None = None
    """A checkpoint whose weights alone start this run (its step, optimizer and data order do not)."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Of the initial weights, the order of the data and dropout."""
    model: ModelConfig
    lora: LoraConfig | None = None
    """Train low-rank adapters beside the frozen weights of `continue_from`; null trains all weights."""
    data: DataConfig
    optimizer: AnyOptimizer
    schedule: AnySchedule
    trainer: TrainerConfig
    accelerator: AcceleratorConfig = AcceleratorConfig()
    callbacks: dict[str, AnyCallback | None] = {}  # noqa: RUF012 (pydantic copies defaults)
    """By a name of your choice; null drops one that an included file brings."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens in a global batch."""
        return self.trainer.global_batch_size * self.data.seq_len

    @property
    def total_steps(self) -> int:
        """Optimizer updates in the run; not of one in epochs, which `run_length` makes one in steps."""
        return self.trainer.total_steps(self.tokens_per_step)

    @property
    def warmup_steps(self) -> int:
        """Updates of the schedule's warm-up."""
        schedule = self.schedule
        return in_steps(schedule.warmup_steps, schedule.warmup_tokens, self.tokens_per_step) or 0

    def lr_factor(self, step: int) -> float:
        """The schedule at an update, as a fraction of `optimizer.lr`."""
        return self.schedule.factor(step, self.total_steps, self.tokens_per_step)

    @property
    def num_trained(self) -> int:
        """Parameters that `lora` or `optimizer.frozen` leave to be trained."""
        if self.lora is not None:
            return self.lora.num_parameters(self.model)
        if not self.optimizer.frozen:
            return self.model.num_parameters()
        return sum(size for name, size in parameter_sizes(self.model).items() if not self.optimizer.is_frozen(name))

    def notes(self) -> list[str]:
        """What the user should know of a config that is not wrong."""
        train, notes = self.data.train, list[str]()
        if isinstance(train, MixtureConfig):
            notes += train.notes_in_run(self.total_steps, self.tokens_per_step)
        if self.lora is not None:
            return [*notes, f"trained: the {self.num_trained:,} parameters of adapters; all others are frozen"]
        if not self.optimizer.frozen:
            return notes
        tied = self.model.tie_embeddings and self.optimizer.is_frozen("embedding.weight")
        return [
            *notes,
            f"frozen: {', '.join(self.optimizer.frozen)}; {self.num_trained:,} of {self.model.num_parameters():,} "
            "parameters are trained" + (" (embedding.weight is the head too, and both are frozen)" if tied else ""),
        ]

    def problems(self) -> Iterator[Problem]:
        return self.cross_problems({name: getattr(self, name) for name in type(self).model_fields})

    @classmethod
    def cross_problems(cls, sections: dict[str, Any]) -> Iterator[Problem]:
        for names, check in CROSS_CHECKS:
            if all(name in sections for name in names):
                yield from check(*(sections[name] for name in names))


def _sequence_fits_model(model: ModelConfig, data: DataConfig) -> Iterator[Problem]:
    if data.seq_len > model.max_seq_len:
        yield Problem(
            ("data", "seq_len"),
            f"is longer than the model's max_seq_len={model.max_seq_len}; use data.seq_len={model.max_seq_len} "
            "or less, or a larger model.max_seq_len",
        )


def length_problems(schedule: AnySchedule, trainer: TrainerConfig, data: DataConfig) -> Iterator[Problem]:
    """Where the schedule does not fit the run's length; nothing as long as that is not known."""
    if trainer.max_steps is None and trainer.max_tokens is None:
        return
    tokens_per_step = trainer.global_batch_size * data.seq_len
    for problem in schedule.problems_in_run(trainer.total_steps(tokens_per_step), tokens_per_step):
        yield Problem(("schedule", *problem.path), problem.message)


def _epochs_are_of_one_dataset(trainer: TrainerConfig, data: DataConfig) -> Iterator[Problem]:
    if trainer.max_epochs is not None and isinstance(data.train, MixtureConfig):
        yield Problem(
            ("trainer", "max_epochs"),
            "has no meaning for a mixture, whose sources end at different times; use max_tokens (max_epochs=null)",
        )


def _mixture_fits_run(data: DataConfig, trainer: TrainerConfig) -> Iterator[Problem]:
    if not isinstance(data.train, MixtureConfig) or (trainer.max_steps is None and trainer.max_tokens is None):
        return
    tokens_per_step = trainer.global_batch_size * data.seq_len
    for problem in data.train.problems_in_run(trainer.total_steps(tokens_per_step), tokens_per_step):
        yield Problem(("data", "train", *problem.path), problem.message)


def _patterns_fit_model(optimizer: AnyOptimizer, model: ModelConfig) -> Iterator[Problem]:
    if not optimizer.patterns:
        return
    for problem in optimizer.problems_in_model(list(parameter_shapes(model)), model.tie_embeddings):
        yield Problem(("optimizer", *problem.path), problem.message)


def _split_differs(data: DataConfig) -> Iterator[Problem]:
    train = [(source.path, source.split) for source in data.training_sources()]
    for name, source in data.validation_sources().items():
        if (source.path, source.split) in train:
            yield Problem(
                ("data", "validation", *(("sources", name) if name else ())),
                "is the training data itself, so it would measure memory, not learning; name another split, or null",
            )


def _ranks_divide_model(model: ModelConfig, accelerator: AcceleratorConfig) -> Iterator[Problem]:
    ranks = accelerator.tensor
    if ranks == 1:
        return
    for size, name in (
        (model.num_heads, f"model.num_heads={model.num_heads}"),
        (model.ffn_width, f"the MLP's width of {model.ffn_width}"),
        (model.num_embeddings, f"the {model.num_embeddings} rows of the embedding (see model.padded_vocab_size)"),
    ):
        if size % ranks:
            yield Problem(("accelerator", "tensor"), f"does not divide {name}; use a number that does")
    if model.dropout:
        yield Problem(
            ("accelerator", "tensor"),
            f"cannot go with model.dropout={model.dropout}: ranks that share a layer would draw masks that belong "
            "together apart; use model.dropout=0, or accelerator.shard instead",
        )


def _ranks_divide_batch(accelerator: AcceleratorConfig, trainer: TrainerConfig) -> Iterator[Problem]:
    replicate = 1 if accelerator.replicate == "auto" else accelerator.replicate
    if trainer.global_batch_size % (replicate * accelerator.shard):
        yield Problem(
            ("trainer", "global_batch_size"),
            f"does not divide among the {replicate * accelerator.shard} ranks of accelerator.replicate × shard; "
            "use a multiple of that",
        )


def _callbacks_fit(callbacks: dict[str, AnyCallback | None], data: DataConfig) -> Iterator[Problem]:
    used = {name: callback for name, callback in callbacks.items() if callback is not None}
    sets = list(data.validation_sources())
    for name, callback in used.items():
        for problem in callback.problems_in_run(name, used, sets):
            yield Problem(("callbacks", name, *problem.path), problem.message)


def _one_checkpoint_callback(callbacks: dict[str, AnyCallback | None]) -> Iterator[Problem]:
    names = [name for name, callback in callbacks.items() if getattr(callback, "kind", None) == "checkpoint"]
    for name in names[1:]:
        yield Problem(
            ("callbacks", name),
            f"is of kind checkpoint, as {names[0]} is, and each would delete what the other keeps; use one, and its "
            "keep_every_steps",
        )


def _output_is_local(output_dir: str) -> Iterator[Problem]:
    if "://" in output_dir:
        yield Problem(
            ("output_dir",), "is a folder of this machine; checkpoints go elsewhere too by callbacks.checkpoint.copy_to"
        )


def _callbacks_fit_run(
    callbacks: dict[str, AnyCallback | None], trainer: TrainerConfig, data: DataConfig
) -> Iterator[Problem]:
    if trainer.max_steps is None and trainer.max_tokens is None:  # which the section itself reports
        return
    total_steps = trainer.total_steps(trainer.global_batch_size * data.seq_len)
    for name, callback in callbacks.items():
        for problem in callback.problems_in_length(total_steps) if callback is not None else ():
            yield Problem(("callbacks", name, *problem.path), problem.message)


def _lora_fits_run(
    lora: LoraConfig | None, model: ModelConfig, accelerator: AcceleratorConfig, continue_from: str | None
) -> Iterator[Problem]:
    if lora is None:
        return
    for problem in lora.problems_with(model):
        yield Problem(("lora", *problem.path), problem.message)
    if continue_from is None:
        yield Problem(
            ("continue_from",), "is null, and lora needs a base to adapt; name a checkpoint, or set lora to null"
        )
    if accelerator.tensor > 1:
        yield Problem(
            ("accelerator", "tensor"), "cannot go with lora; use accelerator.shard, which spreads the frozen base too"
        )
    if lora.base_dtype == "bf16" and accelerator.precision != "bf16":
        yield Problem(
            ("lora", "base_dtype"),
            f"is bf16, and the products are in {accelerator.precision}; use accelerator.precision=bf16, or "
            "base_dtype=fp32",
        )


def obstacles_to_fusing(
    model: ModelConfig, accelerator: AcceleratorConfig, lora: LoraConfig | None
) -> Iterator[tuple[str, str]]:
    """What keeps a block from one product for attention and MLP: the option, and the value that it would need."""
    if not model.tied_norm:
        yield "model.tied_norm=false", "attention and MLP have one input only with true, as in GPT-J"
    if accelerator.tensor > 1:
        yield f"accelerator.tensor={accelerator.tensor}", "ranks that share layers divide them one by one; use 1"
    if lora is not None:
        yield "lora", "adapters stand beside each of the products; use null"


def _projections_can_be_fused(
    model: ModelConfig, accelerator: AcceleratorConfig, lora: LoraConfig | None
) -> Iterator[Problem]:
    if accelerator.fused_projections is True:
        for option, why in obstacles_to_fusing(model, accelerator, lora):
            message = f"true does not go with {option}: {why}; or use auto"
            yield Problem(("accelerator", "fused_projections"), message)


CROSS_CHECKS: list[tuple[tuple[str, ...], Callable[..., Iterator[Problem]]]] = [
    (("model", "data"), _sequence_fits_model),
    (("schedule", "trainer", "data"), length_problems),
    (("trainer", "data"), _epochs_are_of_one_dataset),
    (("optimizer", "model"), _patterns_fit_model),
    (("data", "trainer"), _mixture_fits_run),
    (("data",), _split_differs),
    (("callbacks", "data"), _callbacks_fit),
    (("callbacks",), _one_checkpoint_callback),
    (("output_dir",), _output_is_local),
    (("callbacks", "trainer", "data"), _callbacks_fit_run),
    (("model", "accelerator"), _ranks_divide_model),
    (("accelerator", "trainer"), _ranks_divide_batch),
    (("lora", "model", "accelerator", "continue_from"), _lora_fits_run),
    (("model", "accelerator", "lora"), _projections_can_be_fused),
]
"""Checks over several sections, each run as soon as the sections it names are valid."""


def load_run_config(name_or_path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """A shipped config by name, or a user's YAML by path, with hydra overrides.

    Raises ConfigError with every problem at once: file, line, value, what is allowed, nearest name.
    """
    return load_composed_run(name_or_path, overrides)[0]


def load_composed_run(name_or_path: str, overrides: Sequence[str] = ()) -> tuple[RunConfig, Composed]:
    """`load_run_config`, with the composition it came from."""
    group = name_or_path.partition("/")[0]
    if group in NOT_RUNS and name_or_path in shipped_names(group):
        raise UserError(
            f"{name_or_path}: is no run, but a config of another command: modelzoo {NOT_RUNS[group]} {name_or_path}"
        )
    return load_with_provenance(RunConfig, name_or_path, overrides)


def dump_yaml(config: Config) -> str:
    """The resolved config as YAML: every key, defaults included; loading it gives an equal config."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> leaf of a dumped config."""
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in flatten(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}


def diff(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """Exactly the keys in which two configs differ: (dotted key, value in a, value in b); ABSENT where none."""
    left, right = flatten(a.model_dump(mode="json")), flatten(b.model_dump(mode="json"))
    keys = list(dict.fromkeys([*left, *right]))
    return [(k, left.get(k, ABSENT), right.get(k, ABSENT)) for k in keys if left.get(k, ABSENT) != right.get(k, ABSENT)]


ABSENT = "—"
"""Stands in a diff for a key that one of the two configs does not have."""
