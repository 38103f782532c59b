"""Conversations: every turn in the template of its role, the loss on what the learnt roles say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from data_preprocessing.limits import ConversationLimit
from data_preprocessing.modes import Encoded, EncodedBatch, ModeConfig, Refused
from data_preprocessing.readers import TOO_LONG, Document
from data_preprocessing.special_tokens import encode_template, remedy, unknown_tokens
from modelzoo.base_config import Config, Problem, UserError

if TYPE_CHECKING:
    from modelzoo.tokenizer import Tokenizer


class RoleTemplate(Config):
    """What stands around each turn of one role. A special token of the tokenizer that is spelled in `prefix` or
    `suffix` is written as its id; spelled in a conversation it stays text, so that no turn can be forged."""

    prefix: str = ""
    """Before the turn; never learnt, for generation starts after it."""
    suffix: str = ""
    """After the turn; learnt with it, for it says that the turn is over."""
    learn: bool = False
    """The turns of this role are learnt."""


class _Plan(NamedTuple):
    """What is written of a conversation."""

    kept: int
    """So many turns, from the first."""
    learnt: list[int]
    """Which of them are learnt."""


class ChatMode(ModeConfig):
    """The turns of a conversation, each between prefix and suffix of its role, then the end-of-document id.

    Learnt are the turns of the roles with `learn: true`, each with its suffix, and the end-of-document id where it
    follows such a turn. Prefix, turn and suffix are tokenized apart, so that the mask is exact. Roles that `roles`
    does not have, and conversations with nothing to learn, are refused.
    """

    kind: Literal["chat"] = "chat"
    roles: Annotated[dict[str, RoleTemplate], Field(min_length=1)]
    """The template of each role, by the name that the conversations give it."""
    learn_turns: Literal["all", "last"] = "all"
    """All turns of the learnt roles, or only the last of them in each conversation."""
    limit: ConversationLimit | None = None
    """What becomes of conversations that are too long; null: any length is written whole."""

    has_loss_mask: ClassVar[bool] = True
    needs_roles: ClassVar[bool] = True

    def problems(self) -> Iterator[Problem]:
        if not any(role.learn for role in self.roles.values()):
            yield Problem(("roles",), "no role has learn: true, so there is nothing to learn; set it for one of them")

    def prepare(self, tokenizer: Tokenizer) -> None:
        end = tokenizer.end_of_document_token
        for name, role in self.roles.items():
            for key, template in (("prefix", role.prefix), ("suffix", role.suffix)):
                where = f"mode.roles.{name}.{key}={template!r}"
                if end in template:
                    raise UserError(
                        f"{where}: {end} ends a document, and is written after each by itself; leave it out"
                    )
                if unknown := unknown_tokens(tokenizer, template):
                    raise UserError(f"{where}: {unknown[0]} is no special token; {remedy(tokenizer, unknown)}")

    def encode(self, tokenizer: Tokenizer, documents: Sequence[Document]) -> EncodedBatch:
        end = np.array([tokenizer.end_of_document_id], dtype=np.uint32)
        around = {
            name: (encode_template(tokenizer, role.prefix), encode_template(tokenizer, role.suffix))
            for name, role in self.roles.items()
        }
        contents = iter(tokenizer.encode_batch([part for document in documents for part in document.parts]))
        encoded: list[list[Encoded] | Refused] = []
        for document in documents:
            said = [next(contents) for _ in document.parts]
            if unknown := [role for role in document.roles if role not in self.roles]:
                known = ", ".join(map(repr, self.roles))
                encoded.append(Refused("unknown role", f"{unknown[0]!r}; mode.roles has {known}"))
                continue
            turns = [
                np.concatenate((around[role][0], ids, around[role][1]))
                for role, ids in zip(document.roles, said, strict=True)
            ]
            plan = self._plan(document.roles, [len(turn) for turn in turns])
            if isinstance(plan, Refused):
                encoded.append(plan)
                continue
            ends_there = plan.kept == len(turns)
            masks = [
                (np.arange(len(turn)) >= len(around[role][0])) & (index in plan.learnt)
                for index, (role, turn) in enumerate(zip(document.roles, turns, strict=True))
            ]
            loss_mask = np.concatenate([*masks[: plan.kept], [ends_there and plan.kept - 1 in plan.learnt]])
            num_bytes = None if ends_there else sum(len(part.encode()) for part in document.parts[: plan.kept])
            encoded.append([Encoded(np.concatenate([*turns[: plan.kept], end]), loss_mask, num_bytes)])
        return EncodedBatch.of(encoded)

    def _plan(self, roles: Sequence[str], lengths: Sequence[int]) -> _Plan | Refused:
        """What becomes of a conversation whose turns have so many tokens."""
        learnt = [index for index, role in enumerate(roles) if self.roles[role].learn]
        if not learnt:
            wanted = ", ".join(repr(name) for name, role in self.roles.items() if role.learn)
            return Refused("nothing to learn", f"no turn of {wanted} among its {len(roles)}")
        kept, reached = len(roles), [1 + length for length in accumulate(lengths)]  # 1: the end of document
        if self.limit and reached[-1] > self.limit.max_tokens:
            admits = f"mode.limit admits {self.limit.max_tokens}"
            if self.limit.policy == "reject":
                return Refused(TOO_LONG, f"{reached[-1]} tokens; {admits}")
            first = reached[learnt[0]]
            learnt = [index for index in learnt if reached[index] <= self.limit.max_tokens]
            if not learnt:
                return Refused(TOO_LONG, f"{first} tokens up to the first learnt turn; {admits}")
            kept = learnt[-1] + 1
        return _Plan(kept, learnt[-1:] if self.learn_turns == "last" else learnt)
