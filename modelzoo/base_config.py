"""What every configuration class is made of: strictness, cross-field checks, and parts chosen by `kind`.

Nothing here imports torch: a config is read, checked and explained before torch is loaded.
"""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Tag, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from modelzoo.user_error import UserError as UserError


class Problem(NamedTuple):
    """One thing wrong with a config: where (a path of YAML keys) and what, with the remedy."""

    path: tuple[str | int, ...]
    message: str


class Config(BaseModel):
    """A frozen section of a YAML file. Unknown keys are errors, numbers are not guessed from strings."""

    # built when first used: a command reads one kind of many
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong between fields that are each valid on their own. Paths are relative."""
        return iter(())

    @classmethod
    def cross_problems(cls, sections: dict[str, Any]) -> Iterator[Problem]:
        """`problems` for a config some of whose fields are invalid: of those between the given valid ones."""
        return iter(())

    @model_validator(mode="after")
    def _raise_problems(self, info: ValidationInfo) -> "Config":
        if info.context and info.context.get("without_problems"):
            return self
        problems = list(self.problems())
        if problems:  # config_errors unpacks the context, so that each problem gets its own line
            summary = "; ".join(f"{'.'.join(map(str, p.path))}: {p.message}" for p in problems)
            raise PydanticCustomError("problems", "{summary}", {"summary": summary, "problems": problems})
        return self


def _list_to_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _whole_float_to_int(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


FromFloat = BeforeValidator(_whole_float_to_int)
"""Annotates a count of tokens or bytes, which people write as 2.5e9; any other float is refused."""

FromList = BeforeValidator(_list_to_tuple)
"""Annotates a tuple field: YAML only has lists, and a strict tuple field would refuse them."""


def union_of_kinds(package: str, base: type[Config]) -> Any:
    """The type of a section chosen by its `kind`: any class below `base` found in a module of `package`.

    Adding a file to the package adds a kind; nothing else is edited. Each class declares
    `kind: Literal["its_name"] = "its_name"`. What several kinds share may stand in a class between them and
    `base`, outside the package.
    """
    folder = importlib.import_module(package)
    for info in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{package}.{info.name}")
    found = [cls for cls in _below(base) if cls.__module__.startswith(package + ".")]
    by_kind = {kind_of(cls): cls for cls in found}
    assert by_kind, f"no kinds in {package}"
    assert len(by_kind) == len(found), f"two classes of one kind: {found}"
    if len(by_kind) == 1:
        return next(iter(by_kind.values()))
    tagged = tuple(Annotated[cls, Tag(kind)] for kind, cls in sorted(by_kind.items()))
    return Annotated[Union[tagged], Discriminator(_read_kind)]  # noqa: UP007 (built at run time)


def _below(cls: type[Config]) -> Iterator[type[Config]]:
    for below in cls.__subclasses__():
        yield below
        yield from _below(below)


def kind_of(cls: type[Config]) -> str:
    """The value of `kind` that selects this class."""
    return str(cls.model_fields["kind"].default)


def _read_kind(value: Any) -> Any:
    return value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
