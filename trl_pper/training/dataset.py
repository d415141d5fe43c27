"""Convert and check the data sets that users pass to the trainer, and present a buffer as the Trainer's data set.

Users pass tasks or judged programs: lists, data sets, or a source of tasks by its name. The Trainer reads the drawn
experiences of the buffer as rows of tokens, by their position in the buffer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from accelerate import PartialState
from numpy.typing import NDArray
from torch.utils.data import Dataset

from trl_pper.generation.encoding import Encoder
from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.replay.priority import FloatArray
from trl_pper.rounds.display import say
from trl_pper.tasks.loading import FORMATS, load_tasks, placed_rows, recognise
from trl_pper.tasks.task import CodingTask, task_rows
from trl_pper.training.collator import OBJECTIVE_ROW_KEYS

logger = logging.getLogger(__name__)

Row = dict[str, Any]
Key = tuple[str, str]

LOGPROB, NUM_TOKENS = (OBJECTIVE_ROW_KEYS[name] for name in ("logprob", "num_tokens"))
#: The label of a token that is not learned.
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class _Tokenized:
    """A row of tokens of an experience, with the experience that was tokenised."""

    experience: Experience
    tokens: Row

    def is_of(self, experience: Experience) -> bool:
        # A later round may replace the completion of the same program: by another explanation, or by the same text in
        # other tokens.
        return all(getattr(self.experience, name) == getattr(experience, name) for name in _TOKENIZED_OF)


#: All that the tokens of an experience depend on.
_TOKENIZED_OF = ("prompt", "completion", "truncated", "token_ids")


class ReplayDataset(Dataset[Row]):
    """A data set of the experiences of a buffer as rows of tokens; rows have to be prepared before they are read.

    A row is `{"input_ids", "labels"}`, with further numbers if there are columns.

    Args:
        buffer: The buffer.
        encode: Function from experiences to rows with the columns input_ids, completion_mask and perhaps
            assistant_masks.
        label: Function from a data set with these columns and position to a data set with input_ids, labels and
            position. It may drop rows without a token to learn after they are cut to `max_length`.
        columns: Function from a buffer to further numbers of each experience by their names, shape [len(buffer)] each;
            None for no numbers.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        *,
        encode: Callable[[Sequence[Experience]], list[Row]],
        label: Callable[[datasets.Dataset], datasets.Dataset],
        columns: Callable[[ReplayBuffer], Mapping[str, FloatArray]] | None = None,
    ) -> None:
        self.buffer = buffer
        self._encode = encode
        # TRL's own function, so that labels and the cut to `max_length` are the same as in SFTTrainer.
        self._label = label
        self._columns = columns
        self._tokenized: dict[Key, _Tokenized] = {}
        self._rows: dict[int, Row] = {}

    def __len__(self) -> int:
        return len(self.buffer)

    def __getitem__(self, position: int) -> Row:
        if position not in self._rows:
            return self._row_to_look_at(position)
        return self._rows[position]

    def _row_to_look_at(self, position: int) -> Row:
        """Return a row that no minibatch holds, for somebody who looks at the data set."""
        if not len(self.buffer):
            raise LookupError(
                f"position: must be that of an experience; got {position}, and the buffer is empty. "
                "trainer.collector.collect() fills it, as train() does at the beginning of each round"
            )
        if PartialState().num_processes > 1:
            # While rows are labelled the processes wait for each other, and the others would not come.
            raise LookupError(f"position: {position} was not prepared; call prepare([{position}]) on every process")
        prepared = self._rows
        # Bounds and negative positions as of a list.
        position = range(len(self))[position]
        self.prepare([position])
        row, self._rows = self._rows[position], prepared
        return row

    def prepare(self, positions: Iterable[int]) -> NDArray[np.int64]:
        """Prepare the rows of positions, with tokens and columns of the buffer's present content, and drop other rows.

        Args:
            positions: Positions in the buffer, in any order; they may repeat.

        Returns:
            Number of tokens at each position, int64, in the order of `positions`.

        Raises:
            ValueError: An experience has no token to learn after it is cut to `max_length`, or its log-probability,
                which a column has, is of another number of tokens.
        """
        asked = [int(position) for position in positions]
        # A program may be drawn many times in a round.
        once = list(dict.fromkeys(asked))
        held = dict(zip(once, self.buffer.take(once), strict=True))
        # Tokens are made when an experience is first drawn, and dropped when the buffer evicts it.
        self._tokenized = {key: made for key, made in self._tokenized.items() if key in self.buffer}
        self._tokenize_missing({one.key: one for one in held.values()})
        rows = {position: self._tokenized[one.key].tokens for position, one in held.items()}
        if self._columns is not None:
            columns = self._columns(self.buffer)
            rows = {
                position: {**tokens, **{name: float(values[position]) for name, values in columns.items()}}
                for position, tokens in rows.items()
            }
            if LOGPROB in columns:
                _check_ratios(rows, held)
        self._rows = rows
        return np.array([len(rows[position]["input_ids"]) for position in asked], dtype=np.int64)

    def _tokenize_missing(self, drawn: dict[Key, Experience]) -> None:
        missing = [
            one for key, one in drawn.items() if key not in self._tokenized or not self._tokenized[key].is_of(one)
        ]
        if not missing:
            return
        rows = [{**row, "position": position} for position, row in enumerate(self._encode(missing))]
        with _quiet_datasets():
            tokenized = self._label(datasets.Dataset.from_list(rows))
        lost, cut = dict(enumerate(missing)), []
        for row in tokenized:
            one = lost.pop(row["position"])
            if len(row["input_ids"]) < len(rows[row["position"]]["input_ids"]):
                cut.append(one.task_id)
            tokens = {"input_ids": row["input_ids"], "labels": row["labels"]}
            self._tokenized[one.key] = _Tokenized(experience=one, tokens=tokens)
        if lost:
            first = next(iter(lost.values())).task_id
            raise ValueError(
                f"max_length: cuts off the whole completion of {len(lost)} experiences, the first of task {first!r}; "
                "raise max_length or drop tasks with long prompts"
            )
        if cut and PartialState().is_main_process:
            # As in SFTTrainer. A program of the model in training always fits; a teacher's may be of any length.
            logger.warning(
                "max_length: cuts off a part of %d programs, the first of task %r; their log-probabilities are of "
                "the whole programs. Raise max_length, or leave these programs out",
                len(cut),
                cut[0],
            )


def _check_ratios(rows: Mapping[int, Row], held: Mapping[int, Experience]) -> None:
    """Raise ValueError unless log-probabilities are of the tokens to learn, and warn of those that are unknown."""
    unknown = 0
    for position, row in rows.items():
        if np.isnan(row[LOGPROB]):
            unknown += 1
            continue
        # The first token of a row is never learned.
        learned = np.count_nonzero(np.array(row["labels"][1:]) != IGNORED)
        if learned != row[NUM_TOKENS]:
            raise ValueError(
                f"num_tokens: must be the {learned} tokens to learn, since objective compares their probability with "
                f"logprob; got {row[NUM_TOKENS]:.0f} for a program of task {held[position].task_id!r}. Raise "
                "max_length if it cuts programs off, or leave these programs out"
            )
    if unknown and PartialState().is_main_process:
        logger.warning(
            "objective: %d of %d drawn programs have no log-probability of the model that wrote them, and their "
            "coefficient is 0 where it needs one",
            unknown,
            len(rows),
        )


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[None]:
    # Each `map` shows a progress bar of its own, and a round calls it four times.
    were_on = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if were_on:
            datasets.enable_progress_bars()


TASK_COLUMNS = {"task_id", "prompt", "tests"}
JUDGED_COLUMNS = {"prompt", "completion", "pass_rate"}
#: Columns that `SFTTrainer` learns from. A row with `text` may still be a task: MBPP's problems are in that column.
_ANSWERED = ({"messages"}, {"prompt", "completion"})
_TEXTS = (*_ANSWERED, {"text"}, {"prompt", "chosen"}, {"instruction", "output"}, {"conversations"})


def as_dataset(name: str, data: Any) -> datasets.Dataset:
    """Convert tasks to a data set of native rows; a data set of native rows or judged programs is returned unchanged.

    Rows of another format that `load_tasks` recognises are read as tasks, and a line says so.

    Args:
        name: The argument's name, for errors.
        data: A list of `CodingTask`, a data set or a list of rows, or a source of `load_tasks`: a path or a Hub id.

    Raises:
        TypeError: `data` has another type.
        ValueError: There is no row, a row is malformed, the rows are no tasks, a data set has its splits still, or
            text prompts and chat prompts are mixed.
        OSError: There is no such file or data set.
    """
    if isinstance(data, str | Path):
        return _read_source(name, data)
    if isinstance(data, Mapping) and hasattr(data, "column_names"):
        splits = ", ".join(map(str, data))
        raise ValueError(f"{name}: must be one split of the data set; got {splits}. {_chosen_split(name, data)}")
    if isinstance(data, datasets.Dataset):
        if _is_native(data.column_names) or not len(data) or (format := _format_of_row(data[0])) is None:
            return data
        return _read_rows(name, data, format)
    tasks = isinstance(data, Sequence) and all(isinstance(row, CodingTask | Mapping) for row in data)
    if not tasks:
        raise TypeError(
            f"{name}: must be a list of CodingTask or a datasets.Dataset, since every round reads all tasks; "
            f"got {type(data).__name__}. Load a streamed data set without streaming=True"
        )
    if not data:
        raise ValueError(f"{name}: must hold at least one task; got none")
    if all(isinstance(row, CodingTask) for row in data):
        return _native(name, data)
    first = next(row for row in data if isinstance(row, Mapping))
    if first.keys() >= JUDGED_COLUMNS and len(first.keys() & TASK_COLUMNS) < len(TASK_COLUMNS):
        return datasets.Dataset.from_list([dict(row) for row in data])
    if (format := _format_of_row(first)) is None:
        raise _unfit(name, first)
    return _read_rows(name, data, format)


def _native(name: str, tasks: Sequence[CodingTask]) -> datasets.Dataset:
    if len({isinstance(task.prompt, str) for task in tasks}) > 1:
        raise ValueError(
            f"{name}: prompts must be all text or all chat messages, as in any TRL data set; got both. Write text as "
            '[{"role": "user", "content": text}]'
        )
    return datasets.Dataset.from_list(task_rows(tasks))


def _read_source(name: str, source: str | Path) -> datasets.Dataset:
    try:
        # Only the first row: a file of answers is no file of malformed tasks, and its error has to name its columns.
        _, first = next(placed_rows(source, subset=None, split=None, bad_row=None))
    except StopIteration:
        raise ValueError(f"{name}: {source}: must hold at least one task; got none") from None
    except ValueError as error:
        # A data set on the Hub may have several splits or subsets.
        raise ValueError(f"{name}: {error}. Choose with load_tasks({str(source)!r}, subset=..., split=...)") from error
    row = first if isinstance(first, Mapping) else first.to_row()
    if (format := _format_of_row(row)) is None:
        raise _unfit(f"{name}: {source}", row)
    return _read_rows(name, source, format)


def _read_rows(name: str, source: Any, format: str) -> datasets.Dataset:
    try:
        tasks = load_tasks(source, format=format)
    except ValueError as error:
        raise ValueError(
            f"{name}: {error}. The rows were read as {format}; load_tasks(..., format=..., on_error='skip') reads "
            "them in another format, or without the malformed ones"
        ) from error
    if PartialState().is_main_process:
        where = f" from {source}" if isinstance(source, str | Path) else ""
        say(f"{name}: {len(tasks)} tasks{where}, read in the format {format}")
    return _native(name, tasks)


def _format_of_row(row: Mapping[str, Any]) -> str | None:
    """Return the format of `load_tasks` that a row has; None if none fits, or several do."""
    try:
        return recognise(dict(row))
    except ValueError:
        return None


def _is_native(columns: Iterable[str]) -> bool:
    return set(columns) >= TASK_COLUMNS or set(columns) >= JUDGED_COLUMNS


def _chosen_split(name: str, splits: Mapping[Any, Any]) -> str:
    split = "train" if "train" in splits else next(iter(splits), "train")
    return f"Pass {name}=dataset[{split!r}]"


def _unfit(name: str, columns: Iterable[str]) -> ValueError:
    """Return the error of rows that are neither tasks nor judged programs."""
    got = sorted(map(str, columns))
    if any(set(got) >= texts for texts in _TEXTS):
        return ValueError(
            f"{name}: needs the columns of tasks with tests, which decide what is learned, or a pass_rate; got {got}. "
            "Answers without tests are data for SFTTrainer; tasks are loaded by load_tasks('tasks.jsonl')"
        )
    return ValueError(
        f"{name}: needs the columns {sorted(TASK_COLUMNS)} (tasks), {sorted(JUDGED_COLUMNS)} and logprob (judged "
        f"programs), or those of a format that load_tasks reads ({', '.join(FORMATS)}); got {got}. Rename the "
        "columns, or pass load_tasks(rows, format=...), which says what is missing"
    )


def as_eval_dataset(data: Any) -> Any:
    """Convert the tasks in an evaluation set to data sets of native rows; other evaluation sets stay unchanged.

    Args:
        data: An evaluation set, a source of tasks for `load_tasks` (a path or a Hub id), or a mapping from names to
            evaluation sets, such as a `DatasetDict`.

    Raises:
        TypeError: An element of a list is no task, or tasks are streamed.
        ValueError: Rows have a task id but no tests, or are malformed.
        OSError: There is no such file or data set.
    """
    if isinstance(data, dict):
        return {name: as_eval_dataset(part) for name, part in data.items()}
    if isinstance(data, list) and data and all(isinstance(row, Mapping) for row in data):
        if _format_of_row(data[0]) is None and any(data[0].keys() >= texts for texts in _TEXTS):
            return datasets.Dataset.from_list([dict(row) for row in data])
    if isinstance(data, list | tuple | str | Path):
        return as_dataset("eval_dataset", data)
    columns = set(getattr(data, "column_names", None) or [])
    if columns >= TASK_COLUMNS:
        return as_dataset("eval_dataset", data)
    # The loss of these rows can be computed, so that they stay an evaluation set of SFTTrainer.
    if any(columns >= answered for answered in _ANSWERED):
        return data
    if _format_of_row(dict.fromkeys(columns, True)) is not None:
        return as_dataset("eval_dataset", data)
    if columns >= TASK_COLUMNS - {"tests"}:
        raise ValueError(
            f"eval_dataset: tasks need the columns {sorted(TASK_COLUMNS)} to be judged; got {sorted(columns)}. Add "
            "the tests (see load_tasks), or a completion to compute a loss on"
        )
    return data


def holds_tasks(data: Any) -> bool:
    """Return whether `data` is a data set of tasks."""
    return isinstance(data, datasets.Dataset) and set(data.column_names) >= TASK_COLUMNS


#: Columns that `SFTTrainer` passes to the chat template, row by row, and the remedies.
_OF_TEMPLATES = {
    "chat_template_kwargs": "Set PPERConfig(chat_template_kwargs=...), which every prompt gets, and remove the column",
    "tools": "Write the tools into the prompts, and remove the column",
}


def check_train_columns(train: datasets.Dataset) -> None:
    """Raise ValueError unless a data set holds tasks or judged programs, without columns that would be ignored."""
    seen = sorted({"image", "images"} & set(train.column_names))
    if seen:
        raise ValueError(
            f"train_dataset: must be text, from which programs are written; got a column {seen[0]!r}. Leave out tasks "
            f"that need images, and the column with dataset.remove_columns({seen[0]!r})"
        )
    if not _is_native(train.column_names):
        raise _unfit("train_dataset", train.column_names)
    for name, remedy in _OF_TEMPLATES.items():
        if name in train.column_names and any(train[name]):
            raise ValueError(
                f"train_dataset: must have no column {name!r}, since the chat template would not see its values; got "
                f"some. {remedy}"
            )


def _text_of(completion: Any) -> Any:
    """Return the text of a completion that is a single message of the assistant, as `SFTTrainer` has it."""
    if not isinstance(completion, list):
        return completion
    match completion:
        case [{"role": "assistant", "content": str(text)}]:
            return text
    raise ValueError(
        f"completion: must be text, or a single message of the assistant; got {str(completion)[:200]}. Put earlier "
        "turns into the prompt"
    )


def judged_experiences(rows: datasets.Dataset, encoder: Encoder) -> Iterator[Experience]:
    """Convert rows of judged programs to experiences; missing numbers of tokens are counted with the tokenizer."""
    for row in rows:
        row = {**row, "completion": _text_of(row["completion"])}
        # An experience needs the number with a log-probability: "mean" divides by it.
        if row.get("logprob") is not None and row.get("num_tokens") is None:
            written = encoder.pair(row["prompt"], row["completion"], ended=not row.get("truncated"))[1]
            row = {**row, "num_tokens": len(written)}
        yield Experience.from_row(row)
