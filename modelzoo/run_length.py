"""The length of a run that is given in epochs, which its data decides. No torch."""

import math
from pathlib import Path

from modelzoo.base_config import UserError
from modelzoo.data.config import MixtureConfig
from modelzoo.data.sources import open_dataset
from modelzoo.run_config import RunConfig, length_problems


def with_total_steps(config: RunConfig) -> RunConfig:
    """The run with `trainer.max_steps` in the place of `max_epochs`, rounded up to whole updates; as it is without.

    Raises UserError: the data is not there or damaged, or the schedule does not fit what comes out.
    """
    epochs = config.trainer.max_epochs
    if epochs is None:
        return config
    data, train = config.data, config.data.train
    assert not isinstance(train, MixtureConfig)  # RunConfig refuses it
    rows = len(open_dataset(train, data.seq_len, data.isolate_documents, config.model.vocab_size))
    steps = math.ceil(epochs * rows / config.trainer.global_batch_size)
    trainer = config.trainer.model_copy(update={"max_epochs": None, "max_steps": steps})
    for path, message in length_problems(config.schedule, trainer, config.data):
        raise UserError(
            f"{'.'.join(map(str, path))}: {message} ({epochs:g} epochs of the {rows:,} rows in "
            f"{train.path} are {steps:,} steps)"
        )
    return config.model_copy(update={"trainer": trainer})


def if_known(config: RunConfig) -> RunConfig | None:
    """`with_total_steps`; None where the length waits for data that is not there yet."""
    waits = config.trainer.max_epochs is not None and not Path(config.data.training_sources()[0].path).is_dir()
    return None if waits else with_total_steps(config)
