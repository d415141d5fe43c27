"""Where rows of tasks come from: a file, a folder, a data set of the Hub or in memory, or a list.

Enters: what the user names. Leaves: rows, each with its place for errors. What the fields mean is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trl_pper.formats.apps import apps_rows
from trl_pper.formats.fields import Row
from trl_pper.row_file import SUFFIXES, read_rows
from trl_pper.task import CodingTask

#: Where the Hub puts Parquet files of data sets that have none of their own.
_PARQUET_BRANCH = "refs/convert/parquet"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def name_of(source: object) -> str:
    """Return how a source is called in errors."""
    return str(source) if isinstance(source, str | Path) else "source"


def placed_rows(
    source: Any, *, subset: str | None, split: str | None, bad_row: Callable[[ValueError], None] | None
) -> Iterator[tuple[str, Row | CodingTask]]:
    """Yield every row of a source with its place.

    Args:
        source: See `load_tasks`.
        subset: Configuration of a data set of the Hub.
        split: Split of a data set.
        bad_row: Called for a line that is not JSON, which is then passed over; None raises instead.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file cannot be read, or a split is missing or out of place.
        TypeError: The source is nothing that holds rows.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            yield from _folder_rows(path, subset=subset, split=split)
            return
        if not path.exists() and _HUB_ID.fullmatch(str(source)) and not str(source).endswith(SUFFIXES):
            yield from _numbered(str(source), _hub_data_set(str(source), subset=subset, split=split))
            return
        _refuse(source, subset=subset, split=split)
        for number, row in read_rows(path, bad_row):
            yield f"{source}:{number}", row
        return
    if isinstance(source, Mapping) and hasattr(source, "column_names"):
        source = _one_split("source", source, split)
    else:
        _refuse("source", subset=subset, split=split)
    if isinstance(source, Mapping) or not isinstance(source, Iterable):
        raise TypeError(
            f"source: must be a path, a datasets.Dataset or a list of rows; got {type(source).__name__}. "
            "Of a data set with several splits, pass one"
        )
    yield from _numbered("", source)


def _folder_rows(folder: Path, *, subset: str | None, split: str | None) -> Iterator[tuple[str, Row | CodingTask]]:
    inside = folder / split if split is not None else folder
    if next(inside.glob("**/question.txt"), None) is not None:
        for place, row in apps_rows(inside):
            yield str(place), row
        return
    import datasets

    loaded = datasets.load_dataset(str(folder), subset, split=split)
    yield from _numbered(str(folder), _one_split(str(folder), loaded, split))


def _hub_data_set(name: str, *, subset: str | None, split: str | None) -> Any:
    import datasets

    if not _is_script(name):
        return _one_split(name, datasets.load_dataset(name, subset, split=split), split)
    if subset is None:
        raise ValueError(
            f"{name}: subset: required, as the data set is a script, whose rows the Hub keeps as Parquet files by "
            "subset, for instance 'all' of codeparrot/apps; or download its files and pass their path"
        )
    loaded = datasets.load_dataset(name, data_dir=subset, split=split, revision=_PARQUET_BRANCH)
    return _one_split(name, loaded, split)


def _is_script(name: str) -> bool:
    """Return whether a data set of the Hub is a script, as codeparrot/apps is, which `datasets` no longer runs.

    Asked beforehand, because `datasets` then answers with whatever subset it has in its cache.
    """
    import httpx2
    import huggingface_hub

    try:
        return huggingface_hub.file_exists(name, f"{name.rpartition('/')[2]}.py", repo_type="dataset")
    except (OSError, httpx2.HTTPError):
        # Without a connection a copy in the cache may do; if not, `datasets` says what is wrong.
        return False


def _one_split(name: str, splits: Any, split: str | None) -> Any:
    if not isinstance(splits, Mapping):
        return splits
    if split is None and len(splits) == 1:
        return next(iter(splits.values()))
    if split is None or split not in splits:
        raise ValueError(f"{name}: split: must be one of {', '.join(splits)}; got {split!r}")
    return splits[split]


def _refuse(source: object, *, subset: str | None, split: str | None) -> None:
    for option, value in (("subset", subset), ("split", split)):
        if value is not None:
            raise ValueError(f"{source}: {option}: only a data set with splits has one; got {value!r}. Leave it out")


def _numbered(name: str, rows: Iterable[Any]) -> Iterator[tuple[str, Row | CodingTask]]:
    for number, row in enumerate(rows, start=1):
        place = f"{name}, row {number}" if name else f"row {number}"
        if not isinstance(row, Mapping | CodingTask):
            raise TypeError(f"{place}: must be a mapping or a CodingTask; got {type(row).__name__}")
        yield place, row
