"""`modelzoo diff`: exactly the keys in which two configs differ."""

import json

import typer


def command(
    a: str = typer.Argument(..., help="A shipped name, or the path of a YAML."),
    b: str = typer.Argument(..., help="The other one."),
    overrides: list[str] = typer.Argument(None, help="key=value, applied to both."),
    as_json: bool = typer.Option(False, "--json", help="For programs."),
) -> None:
    """Exactly the keys in which two configs differ, defaults included."""
    from modelzoo.cli.any_config import load_any
    from modelzoo.cli.table import print_table
    from modelzoo.run_config import diff

    differences = diff(load_any(a, overrides or [])[0], load_any(b, overrides or [])[0])
    if as_json:
        print(json.dumps([{"key": key, "a": left, "b": right} for key, left, right in differences], indent=1))
    elif not differences:
        print("no difference")
    else:
        print_table(("key", a, b), [(key, text(left), text(right)) for key, left, right in differences])


def text(value: object) -> str:
    """A value as YAML would show it in a line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
