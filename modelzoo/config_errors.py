"""Turns what pydantic found wrong into lines a user can act on: where, which value, what is allowed.

my.yaml:7: model.hiden_size = 512
    unknown key; did you mean hidden_size?
"""

import difflib
import re
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import Tag, TypeAdapter, ValidationError

from modelzoo.base_config import Config, Problem, UserError

Path = tuple[str | int, ...]
OTHER_NAMES = {
    "learning_rate": "lr",
    "batch_size": "global_batch_size",
    "train_batch_size": "global_batch_size",
    "n_layer": "num_layers",
    "num_hidden_layers": "num_layers",
    "n_head": "num_heads",
    "num_attention_heads": "num_heads",
    "n_embd": "hidden_size",
    "d_model": "hidden_size",
    "n_inner": "ffn_size",
    "intermediate_size": "ffn_size",
    "filter_size": "ffn_size",
    "n_positions": "max_seq_len",
    "max_position_embeddings": "max_seq_len",
    "max_position": "max_seq_len",
    "max_sequence_length": "seq_len",
    "layer_norm_epsilon": "norm_eps",
    "layer_norm_eps": "norm_eps",
    "nonlinearity": "activation",
    "activation_function": "activation",
    "hidden_act": "activation",
    "rotary_pct": "fraction",
    "tie_word_embeddings": "tie_embeddings",
    "share_embedding_weights": "tie_embeddings",
    "gradient_clipping": "gradient_clip_norm",
    "max_gradient_norm": "gradient_clip_norm",
}
"""Keys of Hugging Face, ModelZoo and gpt-neox files -> what they are called here, for the error messages."""
MISSING = object()


@dataclass
class Provenance:
    """Where each key of a composed config was written: YAML path -> `file:line`, or the override."""

    origin: str
    """The file the user named; used where a key stands nowhere."""
    places: dict[Path, str] = field(default_factory=dict)

    def locate(self, path: Path) -> str:
        """The place of `path`, or of the nearest section around it that was written anywhere."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return self.origin


class ConfigError(UserError):
    """Every problem of one config, each with its place. `str()` is the whole message."""

    def __init__(self, problems: Sequence[str]):
        self.problems = list(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n".join([*self.problems, f"{count}; nothing was started"]))


def describe(path: Path, message: str, value: Any, provenance: Provenance) -> str:
    """One problem as two lines: `place: path = value`, then what is expected and the remedy."""
    shown = dotted(path)
    if value is not MISSING and not isinstance(value, dict | list | Config):
        shown += f" = {value!r}"
    indented = message.replace("\n", "\n    ")
    return f"{provenance.locate(path)}: {shown}\n    {indented}"


def describe_all(error: ValidationError, schema: type[Config], data: Any, provenance: Provenance) -> list[str]:
    """Everything wrong with `data`, of which `error` is the first finding, as `describe`d problems.

    pydantic does not ask a section for its own `problems()` while one of its keys is invalid. So the
    invalid keys are taken out and the rest is looked at again; what then hinges on a key that was taken
    out, by its name or by the name it was mistyped from, is not reported.
    """
    problems: list[Problem] = []
    for entry in error.errors(include_url=False):
        path, owner = resolve(schema, entry["loc"])
        if entry["type"] != "problems":
            path = (*path, "kind") if entry["type"].startswith("union_tag") else path
            problems.append(Problem(path, _message(dict(entry), path, owner, schema)))
    problems = _joined(problems)
    names = {str(path[-1]) for path, _ in problems}
    names |= {close for name in names if (close := nearest(name, _leaf_names(schema)))}
    hinges = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b") if names else None
    rest = without(data, [path for path, _ in problems])
    relations = [*_problems_within(schema, rest), *schema.cross_problems(_valid_sections(schema, rest))]
    for problem in relations:
        if not (hinges and hinges.search(problem.message)):
            others = _places_of_others(problem, provenance)
            problems.append(problem._replace(message=problem.message + others))
    lines = [describe(path, message, value_at(data, path), provenance) for path, message in problems]
    return list(dict.fromkeys(lines))


def _joined(problems: Iterable[Problem]) -> list[Problem]:
    """One problem a key: a value may be wrong for each of the types that are allowed."""
    messages: dict[Path, list[str]] = {}
    for path, message in problems:
        messages.setdefault(path, []).append(message)
    return [
        Problem(path, found[0] if len(found) == 1 else "; or ".join(sorted(m.split(";")[0] for m in found)))
        for path, found in messages.items()
    ]


def _places_of_others(problem: Problem, provenance: Provenance) -> str:
    """Where the other keys stand that a problem names as `key=value`: the mistake may be theirs."""
    here = provenance.locate(problem.path)
    lines = []
    for name in dict.fromkeys(re.findall(r"\b(\w+)=", problem.message)):
        place = provenance.places.get((*problem.path[:-1], name))
        if place is not None and place != here:
            lines.append(f"\n({name}: {place})")
    return "".join(lines)


def _problems_within(schema: type[Config], data: Any) -> Iterable[Problem]:
    """What the sections of `data` say of themselves in `problems()`."""
    try:
        schema.model_validate(data)
    except ValidationError as error:
        for entry in error.errors(include_url=False):
            if entry["type"] == "problems":
                path, _ = resolve(schema, entry["loc"])
                yield from (Problem((*path, *p.path), p.message) for p in entry["ctx"]["problems"])


def without(data: Any, paths: Iterable[Path]) -> Any:
    """A copy of nested mappings without the keys at these paths; a wrong `kind` takes its section along."""
    gone = {path[:-1] if path[-1] == "kind" else path for path in paths}

    def copy(value: Any, here: Path) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: copy(inner, (*here, key)) for key, inner in value.items() if (*here, key) not in gone}

    return copy(data, ())


def _valid_sections(schema: type[Config], data: Any) -> dict[str, Any]:
    """The top-level fields of `data` whose keys are each valid, whatever the section says of itself."""
    valid: dict[str, Any] = {}
    for name, info in schema.model_fields.items():
        if isinstance(data, dict) and name in data:
            try:
                valid[name] = TypeAdapter[Any](info.annotation or Any).validate_python(
                    data[name], strict=True, context={"without_problems": True}
                )
            except ValidationError:
                continue
    return valid


def _leaf_names(schema: type[Config]) -> list[str]:
    return list(dict.fromkeys(str(path[-1]) for path in all_paths(schema)))


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """The allowed name closest to a mistyped one, or None where nothing is close."""
    by_lower = {candidate.lower(): candidate for candidate in allowed}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def dotted(path: Path) -> str:
    """`model.position.fraction`, as an override is written."""
    return ".".join(map(str, path))


def value_at(data: Any, path: Path) -> Any:
    """The value at a path of nested mappings and lists, or MISSING."""
    for key in path:
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            return MISSING
    return data


def resolve(schema: type[Config], loc: Sequence[str | int]) -> tuple[Path, type[Config] | None]:
    """pydantic's location without the union tags in it, and the class that owns its last key."""
    path: list[str | int] = []
    owner: type[Config] | None = schema
    annotation: Any = schema
    for part in loc:
        classes = list(_config_classes(annotation))
        tagged = dict(_tagged(annotation))
        is_field = len(classes) == 1 and part in classes[0].model_fields
        if part in tagged and not is_field:  # a union's tag stands in the location, not in the YAML
            annotation = tagged[part]
            continue
        if _is_choice_of_values(annotation):  # nor does the name of the type that this is about
            annotation = None
            continue
        path.append(part)
        owner = classes[0] if len(classes) == 1 else None
        if owner is not None:
            known = owner.model_fields.get(str(part))
            annotation = known.annotation if known else None
        else:
            annotation = _item_type(annotation)
    return tuple(path), owner


def all_paths(schema: type[Config], prefix: Path = ()) -> Iterable[Path]:
    """Every path of keys a schema knows, over all kinds."""
    for name, info in schema.model_fields.items():
        yield (*prefix, name)
        for cls in _config_classes(info.annotation):
            yield from all_paths(cls, (*prefix, name))


def _message(entry: dict[str, Any], path: Path, owner: type[Config] | None, schema: type[Config]) -> str:
    kind, context = entry["type"], entry.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown_key(path, owner, schema)
    if kind == "missing":
        start = "; start from a shipped config with `defaults: [gptj_tiny, _self_]`" if len(path) == 1 else ""
        return f"this key is required and was not given{start}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return "must be a section: keys and values, indented below it"
    if kind == "union_tag_not_found":
        return "`kind` is required here: it says which of several this section is"
    if kind == "string_pattern_mismatch" and path == ("name",):
        return "must start with a letter or a digit and go on with letters, digits, dots, dashes, underscores"
    if kind == "union_tag_invalid":
        tags = [tag.strip(" '") for tag in context["expected_tags"].split(",")]
        return f"must be one of {', '.join(tags)}" + _closest(context["tag"], tags)
    if kind == "literal_error":
        allowed = [choice.strip(" '") for choice in context["expected"].replace(" or ", ", ").split(",")]
        one_of = "one of " if len(allowed) > 1 else ""
        return f"must be {one_of}{', '.join(filter(None, allowed))}" + _closest(entry["input"], allowed)
    if kind == "tuple_type":
        return "must be a list: [a, b]"
    message = re.sub(r"^(Input|String|Tuple|List|Dictionary) should ", "must ", str(entry["msg"]))
    if isinstance(entry["input"], str) and kind in ("int_type", "float_type", "bool_type"):
        message += "; it was written as text (remove the quotes, or check the spelling of the number)"
    return message


def _closest(given: Any, allowed: list[str]) -> str:
    close = nearest(str(given), allowed)
    return f"; did you mean {close}?" if close else ""


def _unknown_key(path: Path, owner: type[Config] | None, schema: type[Config]) -> str:
    name = OTHER_NAMES.get(str(path[-1]), str(path[-1]))
    siblings = list(owner.model_fields) if owner is not None else []
    if name == "default":
        return "unknown key; did you mean defaults?"
    if "." in name:
        return "unknown key; in a YAML each section stands on a line of its own, with its keys indented below"
    known = list(all_paths(schema))
    if path in known:
        return f"unknown key for this kind; allowed here: {', '.join(siblings)}"
    elsewhere = [p for p in known if p[-1] == name]
    if name in siblings:  # the name another system gives it
        return f"unknown key; here it is called {name}"
    if elsewhere:
        return f"unknown key; did you mean {dotted(elsewhere[0])}?"
    if close := nearest(name, siblings):
        return f"unknown key; did you mean {close}?"
    by_leaf = {str(p[-1]): p for p in reversed(known)}
    if close := nearest(name, by_leaf):
        return f"unknown key; did you mean {dotted(by_leaf[close])}?"
    return f"unknown key; allowed here: {', '.join(siblings)}"


def _config_classes(annotation: Any) -> Iterable[type[Config]]:
    """The config classes that a field's annotation admits, through Optional, Annotated and unions."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    elif get_origin(annotation) is Annotated:
        yield from _config_classes(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _config_classes(option)


def _is_choice_of_values(annotation: Any) -> bool:
    """Whether a field takes values of several types, none of them a section."""
    if get_origin(annotation) not in (Union, types.UnionType) or any(_config_classes(annotation)):
        return False
    return len([option for option in get_args(annotation) if option is not type(None)]) > 1


def _tagged(annotation: Any) -> Iterable[tuple[Any, Any]]:
    """The options of a union that are told apart by a tag, with it."""
    if get_origin(annotation) is Annotated:
        inner, *others = get_args(annotation)
        tags = [other.tag for other in others if isinstance(other, Tag)]
        yield from ((tag, inner) for tag in tags) if tags else _tagged(inner)
    elif get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _tagged(option)


def _item_type(annotation: Any) -> Any:
    """The type of the values of a dict, list or tuple annotation; None for anything else."""
    if get_origin(annotation) in (Union, types.UnionType):
        options = [a for a in get_args(annotation) if a is not type(None)]
        return _item_type(options[0]) if len(options) == 1 else None
    if get_origin(annotation) in (dict, list, tuple):
        return get_args(annotation)[1 if get_origin(annotation) is dict else 0]
    return None
