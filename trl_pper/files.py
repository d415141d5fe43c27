"""Read files of rows, and write files that appear complete or not at all.

Rows come from JSON lines, JSON lists and Parquet files, each with its line number. The meaning of their fields is not
known here. Writing works on POSIX systems only, because other systems cannot sync a folder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import json
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")


def read_rows(
    path: str | Path, bad_row: Callable[[ValueError], None] | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Read the rows of a file, whatever their fields are.

    Args:
        path: A .jsonl, .jsonl.gz, .json (a list of objects) or .parquet file. Empty lines of JSON lines are skipped.
        bad_row: Called with the error of each line that is not a JSON object, which is then skipped. None raises the
            error instead.

    Yields:
        Line number (row number in .json and .parquet), counted from 1, and the row.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The kind of file is unknown, or a row is not a JSON object; the message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. A data set of the Hub is named owner/name, or loaded by datasets.load_dataset"
        )
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        yield from _json_lines(path, bad_row)
    elif path.suffix == ".json":
        yield from _json_list(path, bad_row)
    elif path.suffix == ".parquet":
        yield from _parquet_rows(path)
    else:
        raise ValueError(f"{path}: must end in {', '.join(SUFFIXES)}; got {path.suffix!r}")


def _json_lines(path: Path, bad_row: Callable[[ValueError], None] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            # Read as bytes, lines end at newlines alone. Text would also be split at U+2028, which JSON
            # strings may hold.
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = _json_object(line, f"{path}:{number}")
                except ValueError as error:
                    if bad_row is None:
                        raise
                    bad_row(error)
                else:
                    yield number, row
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not a complete gzip file ({error})") from error


def _json_list(path: Path, bad_row: Callable[[ValueError], None] | None) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        rows = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: malformed JSON ({error.msg})") from error
    # Text that is no UTF-8 and whole numbers of too many digits raise other ValueErrors, brackets nested too deeply
    # RecursionError.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: malformed JSON ({error})") from error
    if not isinstance(rows, list):
        raise ValueError(f"{path}:1: must be a list of objects; got {type(rows).__name__}. Write one object a line")
    for number, row in enumerate(rows, start=1):
        if isinstance(row, dict):
            yield number, row
            continue
        no_object = ValueError(f"{path}:{number}: must be a JSON object; got {type(row).__name__}")
        if bad_row is None:
            raise no_object
        bad_row(no_object)


def _parquet_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Only Parquet files need pyarrow, which takes long to import.
    import pyarrow.parquet as pq

    number = 0
    with parquet_errors(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        # A whole file as Python objects would need many times its size in memory.
        for batch in file.iter_batches(batch_size=1024):
            # Arrow reads damaged lengths without a check, and converts them beyond the end of its memory.
            batch.validate(full=True)
            for row in batch.to_pylist():
                number += 1
                yield number, row


@contextlib.contextmanager
def parquet_errors(path: str | Path, what: str = "must be a whole Parquet file") -> Iterator[None]:
    """Raise ValueError for errors of Arrow on a file that is damaged or of another kind.

    Args:
        path: The file, which Arrow's errors do not name.
        what: The requirement in the message.
    """
    import pyarrow as pa

    try:
        yield
    # Text that is no UTF-8 comes out of damaged pages, too.
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        # An error of the operating system has a number, and says enough.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: {what}; got {reason}. Restore the file from a copy, or write it anew") from error


def _json_object(line: bytes, place: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: malformed JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{place}: must be a JSON object; got {type(row).__name__}")
    return row


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Open a new file for bytes; readers of `path` see the old file or the complete new one.

    A partial file that a killed process left behind is removed by the next process that writes the same file.

    Args:
        path: The file to write. Its folder is created.

    Raises:
        OSError: The file cannot be written; the message names it and the remedy. The old file stays as it was.
        ValueError: The path is a folder or a device.
    """
    target = Path(path)
    check_target(target)
    with writing_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target.parent, prefix=f".{target.name}.")
        partial, file = _open_partial(target)
        try:
            with file:
                yield file
                # The content must be on the disk before the new name is, or a crash could leave the name with
                # an empty file.
                file.flush()
                os.fsync(file.fileno())
                partial.replace(target)
            sync_folder(target.parent)
        # An interrupt must not leave a partial file behind either.
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def check_target(path: Path) -> None:
    """Raise ValueError unless the path is a file or does not exist."""
    # A rename would replace a device such as /dev/null.
    with writing_errors(path):
        other = path.exists() and not path.is_file()
    if other:
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise ValueError(f"{path}: must be a file to write; got {kind}. Choose the path of a file")


def check_outputs(
    outputs: Mapping[str, tuple[str | Path, Sequence[str]]], inputs: Iterable[tuple[str, str | Path]] = ()
) -> None:
    """Refuse outputs that would replace an input or each other, or that cannot be written; nothing is written.

    Args:
        outputs: For each output, by the name of its option, the path and the suffixes that the path of a file may
            have. No suffix stands for a folder.
        inputs: Name and path of everything that is read; paths of which there is no file are left out.

    Raises:
        ValueError: An output is an input, another output or of the wrong kind; the message names the option.
        OSError: An output cannot be written; the message names it and the remedy.
    """
    known = [(name, Path(path)) for name, path in inputs if os.path.exists(path)]
    for name, (given, suffixes) in outputs.items():
        path = Path(given)
        for other, taken in known:
            if _is_same(path, taken):
                raise ValueError(
                    f"{name}: must be a path of its own; got {path}, which is {other} as well, and would be replaced. "
                    "Choose another path"
                )
        if suffixes:
            check_target(path)
            if not path.name.endswith(tuple(suffixes)):
                raise ValueError(
                    f"{name}: must end in {' or '.join(suffixes)}, the kind of file that is written; got {path}"
                )
        elif path.exists() and not path.is_dir():
            raise ValueError(f"{name}: must be a folder to write into; got the file {path}. Choose another path")
        _check_writable(path, is_folder=not suffixes)
        known.append((name, path))


def _is_same(path: Path, other: Path) -> bool:
    """Return whether two paths lead to the same file, through links and folders' other names."""
    if os.path.realpath(path) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _check_writable(path: Path, *, is_folder: bool) -> None:
    """Raise OSError unless a file can be made at, or in, a path whose folders need not exist yet."""
    folder = path if is_folder else path.parent
    # `os.path.lexists`, so that a link to a folder that is gone is not taken for a folder that can be made.
    while not os.path.lexists(folder):
        folder = folder.parent
    # Tried out, as neither the rights of a file system mounted read-only nor those of a server can be asked for. The
    # name is as long as that of a partial file.
    trial = folder / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        trial.open("xb").close()
        trial.unlink()
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another path")
        raise OSError(error.errno, f"{error.strerror}: {remedy}", str(path)) from error


def _open_partial(target: Path) -> tuple[Path, BinaryIO]:
    """Create a partial file beside its target, and lock it for as long as it is open."""
    while True:
        # In the same folder, because a rename is atomic only within one file system.
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
        file = partial.open("xb")
        # Some network file systems have no locks; a partial file is then left to the user.
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Another process may have taken the file for abandoned before it was locked.
        if partial.exists():
            return partial, file
        file.close()


def remove_abandoned(folder: Path, *, prefix: str = ".") -> None:
    """Remove the partial files in a folder whose writers have died.

    Args:
        folder: The folder.
        prefix: Beginning of the names.
    """
    for path in folder.iterdir():
        if path.name.startswith(prefix) and path.name.endswith(".partial"):
            # The lock of a living writer, or a folder or file of someone else, is left alone.
            # Opened for writing, as network file systems require for this lock.
            with contextlib.suppress(OSError), path.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


_MAKE_ROOM = "make room on the disk, and do the same again"
_GO_ELSEWHERE = "choose a folder that can be written to"
_REMEDIES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "raise the limit on the size of files (ulimit -f), and do the same again",
    errno.EROFS: _GO_ELSEWHERE,
    errno.EACCES: _GO_ELSEWHERE,
    errno.EPERM: _GO_ELSEWHERE,
    errno.ENOTDIR: "choose a path whose folders are folders",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EISDIR: "choose the path of a file, not of a folder",
}


@contextlib.contextmanager
def writing_errors(path: str | Path) -> Iterator[None]:
    """Add path and remedy to errors of the operating system, which names no file when a disk is full."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0)
        if remedy is None or not _concerns(error, Path(path)):
            raise
        raise OSError(error.errno, f"{error.strerror}: {remedy}", str(path)) from error


def _concerns(error: OSError, path: Path) -> bool:
    """Return whether an error is about a file, its partial file or a folder on its path; True if it names no file."""
    if error.filename is None:
        return True
    named = Path(os.fsdecode(error.filename))
    # An error about another file, as of a reader inside the block, names it already.
    return named in (path, *path.parents) or (named.parent == path.parent and path.name in named.name)


def sync_folder(folder: Path) -> None:
    """Write a folder's list of names to the disk; without it a crash can lose the name of a file that was synced."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
