"""The data set of a buffer: tokens are made for what is drawn, once, and dropped with the experience."""

from types import SimpleNamespace

import numpy as np
import pytest

from trl_pper.replay.buffer import ReplayBuffer
from trl_pper.replay.experience import Experience
from trl_pper.training.dataset import ReplayDataset


def experience(number: int, **overrides) -> Experience:
    fields = dict(
        task_id=f"t{number}", prompt="ab", completion="c" * number, program=str(number), pass_rate=number / 10
    )
    return Experience(**{**fields, **overrides})


@pytest.fixture
def buffer() -> ReplayBuffer:
    buffer = ReplayBuffer(possibility_weight=0.0)
    buffer.add(experience(number) for number in range(1, 6))
    return buffer


class Tokenizing:
    """One token per character; remembers what it was asked for; drops completions that say so."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []
        self._encoded: list[str] = []

    def encode(self, experiences):
        return [self._encode(one) for one in experiences]

    def _encode(self, one):
        self._encoded.append(one.completion)
        written = [*(one.token_ids or map(ord, one.completion))]
        mask = [0] * len(one.prompt) + [1] * len(written)
        return {"input_ids": [*map(ord, one.prompt), *written], "completion_mask": mask}

    def label(self, rows):
        self.asked.append(self._encoded)
        self._encoded = []
        labelled = rows.map(
            lambda row: {
                "labels": [
                    token if mask else -100
                    for token, mask in zip(row["input_ids"], row["completion_mask"], strict=True)
                ]
            }
        )
        return labelled.filter(lambda row: b"too long" not in bytes(row["input_ids"]))


def replayed(buffer, tokenize, **options) -> ReplayDataset:
    return ReplayDataset(buffer, encode=tokenize.encode, label=tokenize.label, **options)


def test_only_what_is_drawn_is_tokenized_and_only_once(buffer):
    tokenize = Tokenizing()
    dataset = replayed(buffer, tokenize)
    assert dataset.prepare([3, 1, 3]).tolist() == [6, 4, 6]
    assert dataset.prepare(np.array([3, 0])).tolist() == [6, 3]
    assert tokenize.asked == [["cccc", "cc"], ["c"]]
    assert dataset[3] == {"input_ids": [*b"abcccc"], "labels": [-100, -100, *b"cccc"]}
    assert len(dataset) == len(buffer) == 5


def test_nothing_drawn_is_nothing_made(buffer):
    tokenize = Tokenizing()
    assert replayed(buffer, tokenize).prepare([]).tolist() == []
    assert tokenize.asked == []


def test_a_row_that_was_not_prepared_can_be_looked_at(buffer):
    dataset = replayed(buffer, Tokenizing())
    dataset.prepare([1])
    dataset.prepare([2])
    # Somebody looks: the rows of the minibatch stay.
    assert dataset[1]["input_ids"] == [*b"abcc"]
    assert dataset[-1] == dataset[4] == {"input_ids": [*b"abccccc"], "labels": [-100, -100, *b"ccccc"]}
    assert dataset._rows.keys() == {2}
    with pytest.raises(IndexError):
        dataset[5]
    with pytest.raises(LookupError, match=r"got 0, and the buffer is empty. trainer.collector.collect\(\) fills it"):
        replayed(ReplayBuffer(), Tokenizing())[0]


def test_processes_do_not_label_a_row_alone(buffer, monkeypatch):
    monkeypatch.setattr("trl_pper.training.dataset.PartialState", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(LookupError, match=r"position: 1 was not prepared; call prepare\(\[1\]\)"):
        replayed(buffer, Tokenizing())[1]


def test_tokens_leave_with_their_experience(buffer):
    tokenize = Tokenizing()
    dataset = replayed(buffer, tokenize)
    dataset.prepare(range(5))
    buffer.capacity = 2
    buffer.add([])
    assert [one.program for one in buffer] == ["4", "5"]
    assert dataset.prepare([0]).tolist() == [6]
    buffer.capacity = None
    buffer.add([experience(1)])
    dataset.prepare([2])
    assert tokenize.asked[1:] == [["c"]]


@pytest.mark.parametrize("change", [{"completion": "other"}, {"prompt": "xyz"}, {"token_ids": (7, 8)}])
def test_the_same_program_in_other_words_is_tokenized_anew(buffer, change):
    dataset = replayed(buffer, Tokenizing())
    dataset.prepare([1])
    buffer.add([experience(2, **change)])
    dataset.prepare([1])
    one = buffer[1]
    assert dataset[1]["input_ids"] == [*one.prompt.encode(), *(one.token_ids or one.completion.encode())]


def test_what_max_length_leaves_nothing_of_is_refused_when_drawn(buffer):
    buffer.add([experience(6, completion="too long"), experience(7, completion="too long, too")])
    dataset = replayed(buffer, Tokenizing())
    dataset.prepare([0, 4])
    with pytest.raises(ValueError, match=r"max_length: cuts off the whole completion of 2 experiences, .*'t6'"):
        dataset.prepare([5, 0, 6])


def test_loss_weights_are_those_of_the_buffer_when_prepared(buffer):
    dataset = replayed(buffer, Tokenizing(), columns=lambda buffer: {"loss_weight": buffer.pass_rates()})
    dataset.prepare([0, 4])
    assert (dataset[0]["loss_weight"], dataset[4]["loss_weight"]) == (0.1, 0.5)
    buffer.add([experience(5, pass_rate=1.0)])
    assert dataset[4]["loss_weight"] == 0.5
    dataset.prepare([4])
    assert dataset[4]["loss_weight"] == 1.0
