"""A replay buffer as a data set of the Hugging Face Hub: one Parquet file and a data card, private unless asked.

Enters: a file that `ReplayBuffer.save` wrote, or the name of a data set. Leaves: the other. Nothing here is called but
by `ReplayBuffer.push_to_hub` and `load_from_hub`. No tests of tasks are uploaded, since no buffer holds them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trl_pper import __version__
from trl_pper.replay.columns import Columns
from trl_pper.replay.experience import COLUMNS

#: Where `datasets.load_dataset` looks for the rows of a data set.
DATA_FILE = "data/train-00000-of-00001.parquet"


def upload(
    file: Path,
    card: str,
    repo_id: str,
    *,
    private: bool,
    token: str | None = None,
    revision: str | None = None,
    message: str = "Upload a replay buffer",
) -> str:
    """Upload a buffer file and its card in one commit.

    Args:
        file: What `ReplayBuffer.save` wrote.
        card: The README.
        repo_id: "name/of-the-data-set"; made if there is none.
        private: Whether only its owners may see it.
        token: Token with the right to write; the one of `hf auth login` if None.
        revision: Branch to commit to; the main branch if None.
        message: The commit's message.

    Returns:
        The address of the commit.

    Raises:
        ValueError: `private` is no bool, or it is True and the data set exists and is public.
        PermissionError: The token is missing, wrong or without the right to write.
        FileNotFoundError: There is no such branch.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not isinstance(private, bool):
        # The Hub reads None as the default of the account, which may be public.
        raise ValueError(f"private: must be True, or False to publish prompts and programs; got {private!r}")
    api = HfApi(token=token)
    with _clear_errors(repo_id, right="write to"):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        if private and not api.repo_info(repo_id, repo_type="dataset").private:
            raise ValueError(
                f"private: {repo_id} exists and is public, so its files are seen by all. Make it private in its "
                "settings, choose another repo_id, or pass private=False to publish prompts and programs"
            )
        commit = api.create_commit(
            repo_id,
            [
                CommitOperationAdd(path_in_repo=DATA_FILE, path_or_fileobj=str(file)),
                CommitOperationAdd(path_in_repo="README.md", path_or_fileobj=card.encode()),
            ],
            commit_message=message,
            repo_type="dataset",
            revision=revision,
        )
    return str(commit.commit_url)


def download(repo_id: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """Download the buffer file of a data set and return where it lies in the cache.

    Raises:
        FileNotFoundError: There is no such data set, or no buffer in it, or the token may not see it.
        PermissionError: The token is wrong or without the right to read.
    """
    from huggingface_hub import hf_hub_download

    with _clear_errors(repo_id, right="read"):
        return Path(hf_hub_download(repo_id, DATA_FILE, repo_type="dataset", revision=revision, token=token))


@dataclass(frozen=True, kw_only=True)
class BufferContents:
    """What a buffer holds, in numbers and names: nothing of its tasks and programs.

    Args:
        programs: Number of programs.
        tasks: Number of tasks they are for.
        solved: Number of tasks with a program that passes every test.
        pass_rate: Mean pass rate of the programs; None where there is none.
        sources: Who wrote them, each fit to stand between backticks in a table.
    """

    programs: int
    tasks: int
    solved: int
    pass_rate: float | None
    sources: list[str]


def count_contents(blocks: Iterable[Columns]) -> BufferContents:
    """Sum up experiences for a card."""
    tasks: set[str] = set()
    solved: set[str] = set()
    sources: set[str] = set()
    rates = []
    for block in blocks:
        names = block.text.column("task_id")
        tasks.update(names.to_pylist())
        solved.update(names.filter(block.numbers["pass_rate"] >= 1.0).to_pylist())
        sources.update(block.text.column("source").unique().to_pylist())
        rates.append(block.numbers["pass_rate"])
    rate = np.concatenate(rates) if rates else np.empty(0)
    return BufferContents(
        programs=rate.size,
        tasks=len(tasks),
        solved=len(solved),
        pass_rate=float(rate.mean()) if rate.size else None,
        sources=sorted({_public_name(source) for source in sources if source}),
    )


def as_code(text: str) -> str:
    """Return text that others wrote fit to stand between backticks in a table."""
    return " ".join(text.replace("`", "'").replace("|", "/").split())


def _public_name(source: str) -> str:
    """Return the name of a source; of a folder its last part, since where it lies is nobody's business."""
    path = Path(source)
    return as_code(path.name if path.is_absolute() else source)


def card(blocks: Iterable[Columns], *, metadata: Mapping[str, Any]) -> str:
    """Return the data card of a buffer, as Markdown. It quotes no task and no program.

    Args:
        blocks: The experiences.
        metadata: The buffer's settings and tokenizer.
    """
    from jinja2 import Environment, PackageLoader

    # Markdown, and of what others wrote only the names of the sources goes in, as code on one line.
    environment = Environment(loader=PackageLoader("trl_pper.replay"), trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("buffer_card.md.j2").render(
        version=__version__,
        contents=count_contents(blocks),
        columns={**COLUMNS, "chat_prompt": "string"},
        settings=metadata["settings"],
        tokenizer=metadata["tokenizer"],
    )


@contextlib.contextmanager
def _clear_errors(repo_id: str, *, right: str) -> Iterator[None]:
    """Turn what the Hub refuses into errors that say what to do."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{repo_id}: no such data set, revision or buffer file on the Hub, or the token may not see it. Check the "
            f"name, and log in with `hf auth login` or pass token; the Hub said: {error}"
        ) from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (401, 403):
            raise
        raise PermissionError(
            f"{repo_id}: the Hub refuses the token. Log in with `hf auth login`, or pass a token with the right to "
            f"{right} this data set; the Hub said: {error}"
        ) from error
