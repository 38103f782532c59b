"""The model: embeddings, blocks, head.

Shapes: B batch, T positions, D hidden_size, V vocabulary (num_embeddings).
"""

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn import functional as F

from modelzoo.dtensors import is_dtensor
from modelzoo.model.attention import within_segments
from modelzoo.model.block import Block
from modelzoo.model.config import ModelConfig
from modelzoo.model.init import initialize
from modelzoo.model.lora_layer import effective_weight
from modelzoo.model.loss import linear_cross_entropy
from modelzoo.model.scaling import scaling_of


class GPT(nn.Module):
    """A decoder-only transformer: `input_ids` (B, T) to `logits` (B, T, V).

    Its weights are drawn from `seed`. Built under `torch.device("meta")` they are not: after `to_empty`,
    `initialize` draws the same ones.
    """

    def __init__(self, config: ModelConfig, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.scaling = scaling_of(config)
        self.embedding = nn.Embedding(config.num_embeddings, config.hidden_size)
        self.position_embedding = config.position.build_embedding(config.max_seq_len, config.hidden_size)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
        self.lm_head = (  # None: the embedding is the head, and needs no second name that to_empty could part
            None
            if config.tie_embeddings
            else nn.Linear(config.hidden_size, config.num_embeddings, bias=config.lm_head_bias)
        )
        self.vocabulary_group: ProcessGroup | None = None
        """The ranks that share the vocabulary's rows; None where this one has all."""
        initialize(self, config, seed)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        return self.logits(self.hidden(input_ids))

    def hidden(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
    ) -> Tensor:
        """The normalised output of the last block, (B, T, D).

        Where rows hold several documents, `position_ids` (B, T) count within each, and tokens attend only to
        those of the same `segment_ids` (B, T).
        """
        length = input_ids.shape[1]
        if length > self.config.max_seq_len:
            raise ValueError(
                f"input of {length} tokens is longer than max_seq_len={self.config.max_seq_len}; "
                "shorten the input, or use a model with a larger max_seq_len"
            )
        x = self.embedding(input_ids)
        if position_ids is None:
            position_ids = torch.arange(length, device=x.device)
        if self.position_embedding is not None:
            x = x + self.position_embedding(position_ids)
        x = self.dropout(x * self.scaling.embed)
        position = self.config.position.table(position_ids, self.config.head_dim)
        mask = None if segment_ids is None else within_segments(segment_ids)
        for block in self.blocks:
            x = block(x, position, mask)
        return self.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """The head alone: (…, D) to (…, V)."""
        return F.linear(*self._head(hidden))

    def loss(
        self,
        input_ids: Tensor,
        labels: Tensor,
        loss_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        segment_ids: Tensor | None = None,
        row_sums: Tensor | None = None,
    ) -> tuple[Tensor, int]:
        """The sum of the cross-entropies in nats (fp32 scalar), and the number of tokens summed.

        `labels` (B, T) are the next tokens, already shifted. Where `loss_mask` (B, T) is 0 a token does not
        count. `position_ids` and `segment_ids` as for `hidden`. The logits are never held whole: see
        `linear_cross_entropy`. To `row_sums` (B,), where they are given, each row's own sum is added.
        """
        hidden = self.hidden(input_ids, position_ids, segment_ids).flatten(0, 1)  # (B·T, D)
        length = labels.shape[1]
        labels = labels.flatten()  # (B·T,)
        kept = torch.arange(len(labels), device=labels.device)  # (N,)
        if loss_mask is not None:
            kept = loss_mask.flatten().nonzero().squeeze(1)  # a GPU's queue has to run dry for its length
        if len(kept) < len(labels):
            hidden, labels = hidden[kept], labels[kept]
        each = None if row_sums is None else row_sums.new_empty(len(labels))
        loss_sum = linear_cross_entropy(*self._head(hidden), labels, self.vocabulary_group, each)
        if row_sums is not None and each is not None:
            row_sums.index_add_(0, kept // length, each)
        return loss_sum, len(labels)

    def lr_multipliers(self) -> dict[str, float]:
        """What each parameter's learning rate is multiplied by, by its name."""
        # Of an adapter, A reads what the matrix reads; B reads a rank, which does not grow with the model
        by_module = {f"{name}.{kind}": lr for name, lr in self.scaling.lr.items() for kind in ("weight", "lora_a")}
        names = (name for name, _ in self.named_parameters())
        return {name: by_module.get(".".join(name.split(".")[-2:]), 1.0) for name in names}

    def _head(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Input, weight and bias of the head. Scaling the input costs D products a token, the logits V.

        The bias is not scaled: it does not grow with the width, as the sum over D does.
        """
        if self.lm_head is None:
            return hidden * self.scaling.logits, _own_part(self.embedding.weight), None
        bias = None if self.lm_head.bias is None else _own_part(self.lm_head.bias)
        return hidden * self.scaling.logits, _own_part(effective_weight(self.lm_head)), bias


def _own_part(parameter: Tensor) -> Tensor:
    """What this rank has of a parameter that ranks share."""
    return parameter.to_local() if is_dtensor(parameter) else parameter
