"""Upload a replay buffer to the Hugging Face Hub as a data set, and download it.

The data set has a Parquet file and a data card, and is private by default. Only `ReplayBuffer.push_to_hub` uploads
anything. The tests of tasks are not uploaded, since a buffer does not contain them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trl_pper import __version__
from trl_pper.replay.columns import Columns, written_programs
from trl_pper.replay.experience import COLUMNS

#: The path in a data set at which `datasets.load_dataset` finds its rows.
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
    """Upload a buffer file and its card in a single commit.

    Args:
        file: A file that `ReplayBuffer.save` wrote.
        card: The text of the README.
        repo_id: "owner/name"; created if it does not exist.
        private: Whether only the owners see the data set.
        token: Token with the right to write; None for the token of `hf auth login`.
        revision: Branch to commit to; None for the main branch.
        message: The commit's message.

    Returns:
        The address of the commit.

    Raises:
        ValueError: `private` is no bool, or it is True and the data set exists and is public.
        PermissionError: The token is missing or invalid, or lacks the right to write.
        FileNotFoundError: There is no such branch.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    if not isinstance(private, bool):
        # The Hub reads None as the default of the account, which may be public.
        raise ValueError(f"private: must be True, or False to publish prompts and programs; got {private!r}")
    api = HfApi(token=token)
    with _clear_errors(repo_id, right="write to"):
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        # `create_repo` leaves the visibility of an existing data set as it is.
        if private and not api.repo_info(repo_id, repo_type="dataset").private:
            raise ValueError(
                f"private: {repo_id} exists and is public, so everybody would see the upload. Make it private in its "
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
    """Download the buffer file of a data set, and return its path in the cache.

    Args:
        repo_id: "owner/name".
        revision: Branch, tag or commit; None for the main branch.
        token: Token with the right to read; None for the token of `hf auth login`.

    Raises:
        FileNotFoundError: There is no such data set, it contains no buffer, or the token has no access to it.
        PermissionError: The token is invalid or lacks the right to read.
    """
    from huggingface_hub import hf_hub_download

    with _clear_errors(repo_id, right="read"):
        return Path(hf_hub_download(repo_id, DATA_FILE, repo_type="dataset", revision=revision, token=token))


@dataclass(frozen=True, kw_only=True)
class BufferContents:
    """A summary of a buffer that contains no tasks and no programs.

    Args:
        programs: Number of programs, without repair experiences.
        tasks: Number of tasks with programs.
        solved: Number of tasks with a program that passes every test.
        pass_rate: Mean pass rate of the programs; None without programs.
        sources: Names of the writers, escaped for inline code in a Markdown table.
        repairs: Number of repair experiences.
    """

    programs: int
    tasks: int
    solved: int
    pass_rate: float | None
    sources: list[str]
    repairs: int = 0


def count_contents(blocks: Iterable[Columns]) -> BufferContents:
    """Summarise experiences for a card."""
    tasks: set[str] = set()
    solved: set[str] = set()
    sources: set[str] = set()
    rates = []
    repairs = 0
    for whole in blocks:
        # Repairs answer with programs that are counted where they were written.
        block = whole.where(written_programs(whole.text.column("task_id")))
        repairs += len(whole) - len(block)
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
        repairs=repairs,
    )


def as_code(text: str) -> str:
    """Escape untrusted text for inline code in a Markdown table."""
    return " ".join(text.replace("`", "'").replace("|", "/").split())


def _public_name(source: str) -> str:
    """Return the name of a source for a card; for a folder, the last part of its path."""
    path = Path(source)
    # A whole path would publish names of users and machines.
    return as_code(path.name if path.is_absolute() else source)


def card(blocks: Iterable[Columns], *, metadata: Mapping[str, Any]) -> str:
    """Return the data card of a buffer as Markdown, without any task or program.

    Args:
        blocks: The experiences.
        metadata: The buffer's settings and tokenizer.
    """
    from jinja2 import Environment, PackageLoader

    # Autoescaping is for HTML. The names of sources are the only untrusted text in the card, and are escaped already.
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
    """Replace errors of the Hub by errors with a remedy."""
    from huggingface_hub import errors

    try:
        yield
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError) as error:
        raise FileNotFoundError(
            f"{repo_id}: no such data set, revision or buffer file on the Hub, or the token may not see it. Check the "
            f"name, and log in with `hf auth login` or pass token; the Hub said: {error}"
        ) from error
    except errors.HfHubHTTPError as error:
        # 401: no valid token. 403: no such right. Other errors of the Hub speak for themselves.
        if error.response.status_code not in (401, 403):
            raise
        raise PermissionError(
            f"{repo_id}: the Hub refuses the token. Log in with `hf auth login`, or pass a token with the right to "
            f"{right} this data set; the Hub said: {error}"
        ) from error
