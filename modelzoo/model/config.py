"""Options of the model, their checks, and what follows from them: sizes, parameters, FLOPs. No torch here."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from modelzoo.base_config import Config, Problem, union_of_kinds
from modelzoo.model.position.base import PositionConfig
from modelzoo.model.position.learned import LearnedPosition

if TYPE_CHECKING:
    Position = PositionConfig
else:
    Position = union_of_kinds("modelzoo.model.position", PositionConfig)


class InitConfig(Config):
    """How the weights are drawn before training. `modelzoo/model/init.py` has the table."""

    scheme: Literal["gpt2", "mesh_jax", "small_wang"] = "gpt2"
    """gpt2: normal 0.02. mesh_jax: truncated normals by fan-in. small_wang: normals sqrt(2 / (5 D))."""


class MuPConfig(Config):
    """Maximal-update parametrisation (arXiv:2203.03466): what was tuned at the base width holds here."""

    base_hidden_size: int = Field(ge=1, le=1_000_000)
    """Hidden size at which the hyper-parameters were tuned."""

    base_ffn_size: int = Field(ge=1, le=4_000_000)
    """Width of the MLP at which the hyper-parameters were tuned."""

    embeddings_scale: float = Field(default=1.0, gt=0, le=10_000)
    """Multiplies the embeddings."""

    output_logits_alpha: float = Field(default=1.0, gt=0, le=10_000)
    """Multiplies the output logits (not their bias), which are also divided by hidden_size / base_hidden_size."""

    attention_logits_alpha: float = Field(default=1.0, gt=0, le=10_000)
    """Multiplies the attention logits, which are q·k / head_dim instead of q·k / sqrt(head_dim)."""


class ModelConfig(Config):
    """A decoder-only transformer. The defaults are GPT-2's structure."""

    num_layers: int = Field(ge=1, le=10_000)
    """Number of blocks."""

    num_heads: int = Field(ge=1, le=10_000)
    """Attention heads in each block; must divide hidden_size."""

    hidden_size: int = Field(ge=1, le=1_000_000)
    """Width of the residual stream."""

    ffn_size: int | None = Field(default=None, ge=1, le=4_000_000)
    """Width of the MLP; null for 4 * hidden_size."""

    vocab_size: int = Field(ge=1, le=10_000_000)
    """Number of token ids, as the tokenizer counts them."""

    padded_vocab_size: int | None = Field(default=None, ge=1, le=10_000_000)
    """Rows of the embedding and of the head, where released weights have more than vocab_size; else null."""

    max_seq_len: int = Field(ge=1, le=10_000_000)
    """Longest input in tokens."""

    parallel_residual: bool = False
    """x + attention(norm_1(x)) + mlp(norm_2(x)), instead of one branch after the other."""

    tied_norm: bool = False
    """One LayerNorm feeds both branches of a parallel residual."""

    position: Position = LearnedPosition()
    """How the model knows the order of tokens."""

    activation: Literal["gelu", "gelu_tanh"] = "gelu_tanh"
    """Non-linearity of the MLP: the exact GELU, or its tanh approximation."""

    attention_bias: bool = True
    """Biases on the query, key, value and output projections."""

    lm_head_bias: bool = False
    """A bias on the output logits; needs untied embeddings."""

    tie_embeddings: bool = True
    """The head's weight is the token embedding."""

    norm_eps: float = Field(default=1e-5, gt=0, le=1e-2)
    """Added to the variance in each LayerNorm."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping embeddings, attention probabilities and outputs of both residual branches."""

    init: InitConfig = InitConfig()
    """How the weights are drawn."""

    mup: MuPConfig | None = None
    """Maximal-update parametrisation; null for the standard one."""

    @property
    def ffn_width(self) -> int:
        return 4 * self.hidden_size if self.ffn_size is None else self.ffn_size

    @property
    def num_embeddings(self) -> int:
        return self.vocab_size if self.padded_vocab_size is None else self.padded_vocab_size

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def problems(self) -> Iterator[Problem]:
        if self.hidden_size % self.num_heads:
            yield Problem(
                ("num_heads",),
                f"num_heads={self.num_heads} does not divide hidden_size={self.hidden_size}; "
                f"use {' or '.join(map(str, _nearest_divisors(self.hidden_size, self.num_heads)))}",
            )
        else:
            for problem in self.position.problems_with(self.head_dim):
                yield Problem(("position", *problem.path), problem.message)
        if self.tied_norm and not self.parallel_residual:
            yield Problem(
                ("tied_norm",),
                "tied_norm=true needs parallel_residual=true: branches in sequence have no input in common; "
                "set parallel_residual=true or tied_norm=false",
            )
        if self.lm_head_bias and self.tie_embeddings:
            yield Problem(
                ("lm_head_bias",),
                "lm_head_bias=true needs tie_embeddings=false: a tied head is the embedding, without a bias; "
                "set tie_embeddings=false or lm_head_bias=false",
            )
        if self.num_embeddings < self.vocab_size:
            yield Problem(
                ("padded_vocab_size",),
                f"padded_vocab_size={self.padded_vocab_size} is below vocab_size={self.vocab_size}; "
                f"use {self.vocab_size} or more, or null",
            )

    def parameter_counts(self) -> dict[str, int]:
        """Trained values by part: embedding (tokens and positions), blocks, head (last LayerNorm and
        lm_head)."""
        width, ffn = self.hidden_size, self.ffn_width
        norms = (1 if self.tied_norm else 2) * 2 * width
        attention = 4 * width * width + (4 * width if self.attention_bias else 0)
        mlp = 2 * width * ffn + ffn + width
        lm_head = 0 if self.tie_embeddings else self.num_embeddings * (width + int(self.lm_head_bias))
        return {
            "embedding": self.num_embeddings * width + self.position.num_parameters(self.max_seq_len, width),
            "blocks": self.num_layers * (norms + attention + mlp),
            "head": 2 * width + lm_head,
        }

    def num_parameters(self) -> int:
        """Trained values in all; a tied weight counts once."""
        return sum(self.parameter_counts().values())

    def num_non_embedding(self) -> int:
        """Trained values of the blocks and the last LayerNorm: no token or position embedding, no lm_head."""
        return self.parameter_counts()["blocks"] + 2 * self.hidden_size

    def flops_per_token(self, seq_len: int) -> int:
        """FLOPs of one token's forward and backward pass in a sequence of seq_len tokens.

        Counts the matrix products (2 per multiply-add; the backward pass is two forwards), as
        torch.utils.flop_counter does: the lm_head is included with its padding, embedding look-ups are not, and
        attention counts in full although a causal kernel may skip half of it.
        """
        return 3 * (self._block_flops(seq_len) + 2 * self.hidden_size * self.num_embeddings)

    def recomputed_flops_per_token(
        self, seq_len: int, activation_checkpointing: Literal["none", "selective", "full"]
    ) -> int:
        """FLOPs that come on top where the backward pass computes a block's activations again.

        None where the results of the products are kept (selective). All of a block's (full), but for the last
        product: nothing needs its result, unless dropout follows.
        """
        if activation_checkpointing != "full":
            return 0
        unneeded = 0 if self.dropout else self.num_layers * 2 * self.hidden_size * self.ffn_width
        return self._block_flops(seq_len) - unneeded

    def _block_flops(self, seq_len: int) -> int:
        """Of one token's forward pass through all blocks."""
        width = self.hidden_size
        products = 2 * (4 * width * width + 2 * width * self.ffn_width)
        attention = 2 * 2 * seq_len * width
        return self.num_layers * (products + attention)


def _nearest_divisors(number: int, wanted: int) -> list[int]:
    """The divisors of `number` on either side of `wanted`."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d < wanted][-1:]
    return below + [d for d in divisors if d > wanted][:1]
