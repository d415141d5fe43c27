"""A replay buffer outside of memory: a state, a data set, a file, a data set of the Hub.

Enters: a buffer, or what another one left. Leaves: the other. What a buffer does with experiences while it lives is
in `trl_pper.replay`.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from trl_pper import replay_hub
from trl_pper.experience import Experience
from trl_pper.experience_columns import CHUNK, Columns, columns_in_blocks, experiences_of
from trl_pper.experience_dataset import from_dataset, to_dataset
from trl_pper.experience_table import ExperienceTable
from trl_pper.priority import PriorityFunction
from trl_pper.replay_file import read_columns, write_columns
from trl_pper.replay_settings import restored_settings

if TYPE_CHECKING:
    import datasets

STATE_VERSION = 4
#: Version 2 lacks the columns `scorer` and `settings`, version 3 `cpu_seconds`.
_READABLE_VERSIONS = (2, 3, STATE_VERSION)


@dataclass(frozen=True, kw_only=True)
class AddReport:
    """What adding experiences did: how many were new, how many refreshed a stored one, how many had to leave."""

    added: int
    refreshed: int
    evicted: int


class DurableBuffer(ABC):
    """The part of `ReplayBuffer` that writes it down and reads it again."""

    priority: str | PriorityFunction
    tokenizer: str | None
    _table: ExperienceTable

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Return the settings as plain values."""

    @abstractmethod
    def _put(self, parts: Sequence[Columns]) -> AddReport: ...

    def state_dict(self) -> dict[str, Any]:
        """Return settings, tokenizer and content as plain values that JSON can hold."""
        rows = [one.to_row() for block in self._table.blocks(CHUNK) for one in experiences_of(block)]
        return self._metadata() | {"experiences": rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace settings and content by those of a `state_dict`; on an error the buffer stays as it was.

        Raises:
            ValueError: The state is of another version, is malformed, holds duplicates or more than its capacity, or
                was written with a priority function other than this buffer's.
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"state: must be a mapping made by state_dict; got {type(state).__name__}")
        rows = state.get("experiences")
        if not isinstance(rows, list):
            raise ValueError(f"state.experiences: missing or malformed; got {type(rows).__name__}")
        experiences = columns_in_blocks(map(Experience.from_row, rows))
        self.__dict__.update(self._restored("state", state, experiences, self.priority).__dict__)

    def to_dataset(self) -> datasets.Dataset:
        """Return the experiences as a `datasets.Dataset` with the columns of `trl_pper.experience.COLUMNS`.

        Raises:
            ValueError: Some prompts are text and some chat messages; no column type holds both. `save` does.
        """
        return to_dataset(self._table.blocks(CHUNK))

    @classmethod
    def from_dataset(cls, dataset: datasets.Dataset, **settings: Any) -> Self:
        """Build a buffer from the rows of a data set (see `Experience.from_row`); settings are the constructor's."""
        buffer = cls(**settings)
        buffer._put(list(from_dataset(dataset)))
        return buffer

    def save(self, path: str | Path) -> None:
        """Write experiences, settings and tokenizer to one Parquet file, which appears complete or not at all."""
        write_columns(path, self._table.blocks(), metadata=self._metadata())

    @classmethod
    def load(cls, path: str | Path, *, priority: PriorityFunction | None = None) -> Self:
        """Read a buffer written by `save`.

        Args:
            path: The file.
            priority: The priority function the buffer was saved with, if it had one: files hold no code.

        Raises:
            ValueError: The file is not a saved buffer, or needs the priority function.
        """
        metadata, blocks = read_columns(path)
        return cls._restored(str(path), metadata, blocks, priority)

    def contents(self) -> replay_hub.BufferContents:
        """Return what is inside in numbers and names, for cards: nothing of tasks and programs."""
        return replay_hub.contents_of(self._table.blocks())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool = True,
        token: str | None = None,
        revision: str | None = None,
        message: str = "Upload a replay buffer",
    ) -> str:
        """Upload the buffer as a data set of the Hub, which `datasets.load_dataset` reads; never done by itself.

        Args:
            repo_id: "name/of-the-data-set"; made if there is none. Buffer and card of an earlier push are replaced.
            private: Whether only its owners see it. With False prompts and the programs of a model are published.
            token: Token with the right to write; the one of `hf auth login` if None.
            revision: Branch to commit to; the main branch if None.
            message: The commit's message.

        Returns:
            The address of the commit.

        Raises:
            ValueError: The data set is to be private and exists as a public one.
            PermissionError: The token is missing, wrong or without the right to write.
            FileNotFoundError: There is no such branch.
        """
        card = replay_hub.card(self._table.blocks(), metadata=self._metadata())
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "buffer.parquet"
            self.save(file)
            return replay_hub.upload(
                file, card, repo_id, private=private, token=token, revision=revision, message=message
            )

    @classmethod
    def load_from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        token: str | None = None,
        priority: PriorityFunction | None = None,
    ) -> Self:
        """Download a buffer that `push_to_hub` uploaded.

        Args:
            repo_id: "name/of-the-data-set".
            revision: Branch, tag or commit; the main branch if None.
            token: Token with the right to read; the one of `hf auth login` if None.
            priority: As in `load`.

        Raises:
            FileNotFoundError: There is no such data set, or no buffer in it, or the token may not see it.
            PermissionError: The token is wrong or without the right to read.
        """
        return cls.load(replay_hub.download(repo_id, revision=revision, token=token), priority=priority)

    def _metadata(self) -> dict[str, Any]:
        return {"version": STATE_VERSION, "settings": self.settings(), "tokenizer": self.tokenizer}

    @classmethod
    def _restored(
        cls,
        name: str,
        metadata: Mapping[str, Any],
        blocks: Iterable[Columns],
        priority: str | PriorityFunction | None,
    ) -> Self:
        """Return a buffer of what was saved; `name` is what it is called in errors."""
        if metadata.get("version") not in _READABLE_VERSIONS:
            raise ValueError(
                f"{name}: must be a buffer of version {STATE_VERSION}; got version {metadata.get('version')!r}"
            )
        settings = metadata.get("settings")
        if not isinstance(settings, Mapping):
            raise ValueError(f"{name}.settings: missing or malformed; got {type(settings).__name__}")
        buffer = cls(**restored_settings(settings, priority=priority, tokenizer=metadata.get("tokenizer")))
        report = buffer._put(list(blocks))
        if report.refreshed or report.evicted:
            raise ValueError(
                f"{name}.experiences: must hold every program once and no more than the capacity; "
                f"got {report.refreshed} repeated and {report.evicted} too many"
            )
        return buffer
