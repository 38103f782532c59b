"""The trainer's and the accelerator's sections of a run's YAML. No torch."""

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from modelzoo.base_config import Config, FromFloat, FromList, Problem, UserError

Positive = Annotated[int, FromFloat, Field(gt=0, le=10**18)]

Number = Annotated[int, FromFloat, Field(ge=0, le=10**18)]
Range = tuple[int, int]
"""First and last of consecutive numbers, both included."""


class SpikesConfig(Config):
    """When a finite loss or gradient norm is a spike: far above the median of those before. Their spread is the median
    absolute deviation, which the odd outlier does not widen."""

    window_steps: Annotated[int, Field(ge=4, le=1000)] = 128
    """Good updates to compare with; before so many have been made nothing is a spike."""
    deviations: Annotated[float, Field(gt=0)] = 10.0
    """Standard deviations (1.4826 median absolute deviations, or 1 % of the median where that is more) above the median
    from which on a value is a spike."""


class BadUpdatesConfig(Config):
    """What becomes of an update whose loss or gradient norm is not finite, or a spike. None reaches the weights or the
    optimizer's moments. (An overflow under fp16 is none: it lowers the loss scale.)"""

    policy: Literal["stop", "skip", "rollback"] = "stop"
    """stop ends the run with an error. skip makes the update on the next batch instead. rollback goes back to the
    newest good checkpoint, and leaves out the batches that led to the bad one. What is left out is recorded in
    metrics.jsonl and in the checkpoints; `trainer.skip_batches` repeats it."""
    rollback_batches: Positive = 200
    """Batches that a rollback leaves out, the bad one last; never from before the checkpoint. (PaLM left out 200 to
    500, arXiv:2204.02311, 5.1.)"""
    limit: Positive = 10
    """Bad updates within any 1,000 batches that are left out; one more ends the run with an error."""
    spikes: SpikesConfig | None = None
    """null looks for numbers that are not finite alone."""

    def problems(self) -> Iterator[Problem]:
        for name, policies in (("rollback_batches", ("rollback",)), ("limit", ("skip", "rollback"))):
            if self.policy not in policies and getattr(self, name) != type(self).model_fields[name].default:
                yield Problem(
                    (name,), f"means nothing with policy={self.policy}; use policy={policies[-1]}, or drop it"
                )


class TrainerConfig(Config):
    """How long to train, and on how many sequences at a time."""

    global_batch_size: Positive
    """Sequences per optimizer update, over all micro-batches (and ranks)."""
    micro_batch_size: Positive | None = None
    """Sequences per forward pass of a rank; null takes its share of the batch at once. Changes memory and speed, not
    the gradient (but for the masks that dropout draws)."""
    max_steps: Positive | None = None
    """Optimizer updates in the run. Give this, `max_tokens` or `max_epochs`."""
    max_tokens: Positive | None = None
    """Tokens in the run, rounded up to whole updates."""
    max_epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Passes over the training data (one dataset), rounded up to whole updates: so many are known once it is there."""
    gradient_clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest L2 norm of all gradients together; null does not clip."""
    log_every_steps: Positive = 10
    """Updates between two records of the metrics (loss, learning rate, gradient norm, tokens/s)."""
    bad_updates: BadUpdatesConfig = BadUpdatesConfig()
    skip_batches: Annotated[tuple[Annotated[tuple[Number, Number], FromList], ...], FromList] = ()
    """Batches to make no update on: a list of [first, last], counted from 0 as though none were left out. The run is as
    long as without, in updates."""

    def problems(self) -> Iterator[Problem]:
        if [self.max_steps, self.max_tokens, self.max_epochs].count(None) != 2:
            message = "give exactly one of max_steps, max_tokens and max_epochs (max_tokens=null drops that one)"
            yield Problem(("max_steps",), message)
        size, micro = self.global_batch_size, self.micro_batch_size
        if micro is not None and size % micro:
            around = (d for gap in range(min(micro, 10_000)) for d in (micro - gap, micro + gap))
            best = next((d for d in around if 0 < d <= size and size % d == 0), 1)
            yield Problem(("micro_batch_size",), f"must divide global_batch_size={size}; the nearest is {best}")
        for index, (first, last) in enumerate(self.skip_batches):
            if first > last:
                yield Problem(("skip_batches", index), f"is [first, last]; use [{last}, {first}]")

    def total_steps(self, tokens_per_step: int) -> int:
        """The run's length in updates; not of one in epochs, which `run_length` makes one in steps."""
        if self.max_steps is not None:
            return self.max_steps
        assert self.max_tokens is not None, self
        return -(-self.max_tokens // tokens_per_step)


class AcceleratorConfig(Config):
    """Where and at which precision. Nothing here changes what is computed, only how fast and how exactly."""

    device: Literal["auto", "cpu", "cuda", "mps", "xpu"] = "auto"
    """auto takes the accelerator torch finds, else the CPU."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Of the matrix products; weights, optimizer state, softmax and loss stay fp32."""
    compile: bool = False
    """torch.compile for the model's blocks (needs a C++ compiler on the CPU). What was compiled is kept."""
    keep_freed_memory: bool = True
    """On the CPU, under glibc: large blocks that are freed stay with the process, for some more memory, instead of
    being faulted in again at every step. Elsewhere there is nothing to keep."""
    fused_projections: Literal["auto"] | bool = "auto"
    """One product for queries, keys, values and the MLP's input, which share theirs (model.tied_norm=true). auto: where
    it was measured to pay, in bf16 and fp16 on the CPU from a hidden_size of 768 on."""
    strict: bool = False
    """What the device lacks is an error instead of a printed downgrade."""
    replicate: Positive | Literal["auto"] = "auto"
    """Ranks, or groups of ranks, that each hold a whole model and read other rows; auto takes what there is."""
    shard: Positive = 1
    """Ranks that spread parameters, gradients and optimizer state among them, and read other rows (FSDP)."""
    tensor: Positive = 1
    """Ranks that share the heads, the MLP and the vocabulary, and read the same rows."""
    activation_checkpointing: Literal["none", "selective", "full"] = "none"
    """Activations that the backward pass computes again: none, all but the matrix products', or all of a block."""

    cpu_offload: bool = False
    """Parameters, gradients and optimizer state stay in the CPU's memory, and updates are computed there: for models
    that do not fit the device, at the price of copies (FSDP)."""

    def num_ranks(self, num_devices: int) -> int:
        """Processes that the run wants on a machine with so many devices."""
        fixed = self.shard * self.tensor
        return fixed * (max(1, num_devices // fixed) if self.replicate == "auto" else self.replicate)

    def mesh(self, num_ranks: int) -> tuple[int, int, int]:
        """(replicate, shard, tensor) for so many ranks. UserError where their product is another number."""
        replicate = max(1, num_ranks // (self.shard * self.tensor)) if self.replicate == "auto" else self.replicate
        if replicate * self.shard * self.tensor != num_ranks:
            raise UserError(
                f"accelerator: replicate={self.replicate} × shard={self.shard} × tensor={self.tensor} do not make "
                f"{num_ranks} ranks; start {replicate * self.shard * self.tensor}, or choose factors of {num_ranks} "
                "(replicate=auto takes what the others leave)"
            )
        return replicate, self.shard, self.tensor
