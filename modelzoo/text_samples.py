"""What a model in training makes of prompts, for the trainer, which knows neither model nor tokenizer."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import torch
from tokenizers import Tokenizer as Backend
from torch import Tensor

from modelzoo.base_config import UserError
from modelzoo.model.generate import generate
from modelzoo.model.gpt import GPT
from modelzoo.model.sampling import Sampling
from modelzoo.tokenizer import Tokenizer
from modelzoo.trainer.accelerator import Accelerator


class TextSampler:
    """Reads the model's weights where they are, and takes all random numbers from generators of its own: neither the
    model nor any random state shows that it was here."""

    def __init__(self, model: GPT, tokenizer: str, accelerator: Accelerator) -> None:
        """`tokenizer` is the text of a tokenizer.json."""
        self.model = model
        self.accelerator = accelerator
        self._tokenizer_json = tokenizer

    def check(self, prompts: Sequence[str], max_new_tokens: int) -> None:
        """Raise UserError for a prompt that the context does not hold together with its continuation."""
        context = self.model.config.max_seq_len
        for prompt, ids in zip(prompts, self._encode(prompts), strict=True):
            if len(ids) + max_new_tokens > context:
                raise UserError(
                    f"the prompt {prompt[:40]!r} has {len(ids)} tokens, and with max_new_tokens={max_new_tokens} more "
                    f"it exceeds the model's context of {context}; shorten it, or use fewer"
                )

    def __call__(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        top_p: float | None,
        seed: int,
        weights: Mapping[str, Tensor] | None = None,
    ) -> list[str]:
        """A continuation of each prompt, which a document's end ends; an empty prompt begins a document. Prompt i is
        drawn with seed + i.

        `weights` are whole and by name, for a model of which this process has a part only; they are held on the
        run's device meanwhile, in bf16 where the run computes in it, else in fp32.

        Raises ValueError where the model's logits are not finite.
        """
        completions = generate(
            self.model if weights is None else self._with(weights),
            self._encode(prompts),
            max_new_tokens,
            Sampling(temperature=temperature, top_p=top_p, seed=seed),
            stop_ids=[self._tokenizer.end_of_document_id],
        )
        ids = [one.token_ids[:-1] if one.finished == "stop" else one.token_ids for one in completions]
        return [self._tokenizer.decode(tokens) for tokens in ids]

    def _with(self, weights: Mapping[str, Tensor]) -> GPT:
        device = self.accelerator.device
        dtype = torch.bfloat16 if self.accelerator.precision == "bf16" else torch.float32  # fp16 may be too narrow
        with torch.device("meta"):
            model = GPT(self.model.config)
        model.load_state_dict({name: tensor.to(device, dtype) for name, tensor in weights.items()}, assign=True)
        return model

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        return [self._tokenizer.encode(prompt) or [self._tokenizer.end_of_document_id] for prompt in prompts]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(Backend.from_str(self._tokenizer_json), "tokenizer.json", "tokenizers")
