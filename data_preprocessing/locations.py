"""Where text lies: listing, sizing and opening the files that `reader.paths` names, local or by URL."""

import errno
import glob
import os
import posixpath
import re
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import parse_qsl, urlsplit

from modelzoo.base_config import UserError

SECRETS = ("token", "sig", "key", "secret", "password", "credential", "auth")
"""What a parameter of a URL is called that nobody else should see."""


def is_url(path: str) -> bool:
    """Whether fsspec is to open it."""
    return "://" in path


def normal(name: str) -> str:
    """The same name, however it was written: ./a and b/../a are a."""
    return name if is_url(name) else posixpath.normpath(name)


def identity(base_dir: Path, name: str) -> str:
    """The same for all names of one file, also by links."""
    return name if is_url(name) else os.path.realpath(base_dir / name)


def expand(base_dir: Path, path: str) -> list[str]:
    """The files that a path or pattern stands for, sorted.

    Raises:
        UserError: there are none, or it is a directory, or its file system cannot be reached.
    """
    if is_url(path):
        return _expand_url(path)
    if (base_dir / path).is_file():
        return [path]
    if (base_dir / path).is_dir():
        raise _is_directory(str(base_dir / path), path)
    _refuse_closed_folders(base_dir, path)
    found = sorted(glob.glob(path, root_dir=base_dir, recursive=True))
    names = [name for name in found if is_file(base_dir / name, "name the others alone")]
    if not names:
        raise _nothing_at(base_dir / path)
    return names


def is_file(path: Path, remedy: str) -> bool:
    """Whether what a pattern found is a file; False for a directory. UserError for what is neither: whoever wrote the
    pattern takes it for text."""
    if path.is_file():
        return True
    if path.is_dir():
        return False
    what = "is not a regular file" if path.exists() else "a link to nothing"
    raise UserError(f"reader.paths: {path}: {what}; mend it, remove it, or {remedy}")


def _refuse_closed_folders(base_dir: Path, pattern: str) -> None:
    """Raise PermissionError for a folder that may hold matches, but may not be listed: `glob` passes over it. One whose
    entry the pattern names need not be listed."""
    outer, last = os.path.split(pattern)
    mode = os.R_OK | os.X_OK if glob.has_magic(last) else os.X_OK
    if outer not in ("", pattern):
        _refuse_closed_folders(base_dir, outer)
    for name in glob.glob(os.path.join(outer, ""), root_dir=base_dir, recursive=True) if outer else [""]:
        if not os.access(base_dir / name, mode):
            raise PermissionError(errno.EACCES, "may not be listed", str(base_dir / name))


def size_of(base_dir: Path, name: str) -> int:
    """Bytes of the file as it lies there; 0 where a server does not tell."""
    if not is_url(name):
        return (base_dir / name).stat().st_size
    system, path = _file_system(name)
    return int(system.size(path) or 0)


def open_file(base_dir: Path, name: str) -> BinaryIO:
    """The file, for reading from its start."""
    if not is_url(name):
        return (base_dir / name).open("rb")
    system, path = _file_system(name)
    return cast(BinaryIO, system.open(path, "rb"))


def _expand_url(url: str) -> list[str]:
    _refuse_secrets(url)
    system, path = _file_system(url)
    try:  # each file system has errors of its own
        if not system.exists(path):
            if not glob.has_magic(path):
                raise _nothing_at(url)
            if "::" in url:
                raise UserError(f"reader.paths: {url}: a chain of file systems takes no pattern; name each file")
            found = sorted(name for name, info in system.glob(path, detail=True).items() if info["type"] == "file")
            if not found:
                raise _nothing_at(url)
            return [_in_form_of(url, system, path, name) for name in found]
        if system.isdir(path) and not system.isfile(path):
            raise _is_directory(url, url.rstrip("/"))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"reader.paths: {url}: cannot be listed: {type(error).__name__}: {error}") from error
    return [url]


def _in_form_of(url: str, system: Any, pattern: str, path: str) -> str:
    """The URL of a path that the file system listed, beginning as the URL of the pattern does."""
    tail = pattern.lstrip("/")
    return url.removesuffix(tail) + path.lstrip("/") if url.endswith(tail) else str(system.unstrip_protocol(path))


def _file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, and what it calls the file."""
    from fsspec.core import url_to_fs

    try:
        system, path = url_to_fs(url)
    except ImportError as error:
        package = re.search(r"[Ii]nstall (\S+)", f"{error}")
        remedy = f"pip install {package[1].strip('`,.')}" if package else f"{error}"
        scheme = url.partition("://")[0]
        raise UserError(f"reader.paths: {url}: {scheme}:// needs a package that is missing; {remedy}") from error
    except ValueError as error:
        raise UserError(f"reader.paths: {url}: {error}; expected a path, or a URL that fsspec knows") from error
    return system, str(path)


def _refuse_secrets(url: str) -> None:
    """The manifest keeps every name, and whoever has the data reads it."""
    parts = urlsplit(url)
    named = [key for key, _ in parse_qsl(parts.query) if any(secret in key.lower() for secret in SECRETS)]
    if parts.password or named:
        what = f"{named[0]}=…" if named else "a password"
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        raise UserError(
            f"reader.paths: {shown}: the URL holds {what}, which would stand in the manifest; give it in the "
            "environment or in fsspec's configuration file, or download the file first"
        )


def _is_directory(shown: str, path: str) -> UserError:
    return UserError(
        f"reader.paths: {shown} is a directory; expected files: name them ({path}/*), or use reader.kind=directory"
    )


def _nothing_at(path: Path | str) -> UserError:
    what = "matches no file" if glob.has_magic(str(path)) else "no such file"
    what = "is not a regular file" if Path(path).exists() else what
    return UserError(f"reader.paths: {path}: {what}; expected text to read there")
