"""What a cut leaves of the tokens of a reply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper.generation.servers.replies import read_program
from trl_pper.generation.stops import goes_on_with, kept_before, token_ends

PIECES = st.lists(st.text(alphabet="ab\n é😀", min_size=0, max_size=3), min_size=1, max_size=8)


def completion_of(pieces, **changes):
    logprobs = {"tokens": pieces, "token_logprobs": [-float(i + 1) for i in range(len(pieces))], **changes}
    return {"text": "".join(pieces), "logprobs": logprobs}


def chat_of(pieces, *, spelled=False):
    named = [{"token": "?", "bytes": list(each.encode())} if spelled else {"token": each} for each in pieces]
    entries = [{**one, "logprob": -float(i + 1)} for i, one in enumerate(named)]
    return {"message": {"content": "".join(pieces)}, "logprobs": {"content": entries}}


@given(PIECES, st.integers(min_value=0, max_value=24))
def test_what_is_kept_is_whole_tokens_but_for_white_space(pieces, cut):
    text = "".join(pieces)
    cut = min(cut, len(text))
    kept = kept_before(text, cut, token_ends(text, {"tokens": pieces}))
    if kept.num_tokens is None:
        assert kept.text == text[:cut]
        starts = ["".join(pieces[:n]) for n in range(len(pieces) + 1)]
        assert not any(len(start) <= cut and start.rstrip() == text[:cut].rstrip() for start in starts)
    else:
        assert kept.text == "".join(pieces[: kept.num_tokens])
        assert kept.text.rstrip() == text[:cut].rstrip()


@pytest.mark.parametrize(
    "said",
    [
        {"tokens": ["a", "é", "b"]},
        {"tokens": ["a", "é", "b", "</s>"]},
        {"content": [{"token": token} for token in ("a", "é", "b")]},
        {"content": [{"token": "?", "bytes": list(token.encode())} for token in ("a", "é", "b")]},
        {"tokens": ["?", "?", "?"], "text_offset": [0, 1, 2]},
        {"text_offset": [70, 71, 72]},
    ],
)
def test_where_tokens_end_is_told_in_several_ways(said):
    assert token_ends("aéb", said)[:3] == [1, 3, 4]


def test_a_character_may_be_spread_over_tokens():
    said = {"content": [{"token": "�", "bytes": [byte]} for byte in "é".encode()] + [{"token": "b", "bytes": [98]}]}
    ends = token_ends("éb", said)
    assert ends == [1, 2, 3]
    assert kept_before("éb", 1, ends).num_tokens == 2


@pytest.mark.parametrize(
    "said",
    [
        None,
        {},
        [],
        {"tokens": []},
        {"tokens": ["a", "b"]},
        {"tokens": ["a", 3]},
        {"content": [{"token": "x"}, None]},
        {"content": [{"token": "x", "bytes": [300]}]},
        {"content": None},
        {"text_offset": [0, 2, 1]},
        {"text_offset": [0, 9]},
        {"text_offset": [0, "1"]},
    ],
)
def test_where_nothing_says_where_tokens_end_nothing_is_made_up(said):
    assert token_ends("aéb", said) is None
    assert not goes_on_with("aéb", said, ["#"])


@pytest.mark.parametrize("shape", [completion_of, chat_of, lambda pieces: chat_of(pieces, spelled=True)])
def test_a_program_cut_here_has_the_probability_of_what_is_kept(shape):
    one = read_program(shape(["return", " x", "\n", "#", " end"]), source="m", stops=["\n#"])
    assert (one.completion, one.logprob, one.num_tokens) == ("return x", -3.0, 2)
    whole = read_program(shape(["return", " x", "\n", "#", " end"]), source="m", stops=["\nclass "])
    assert (whole.completion, whole.logprob, whole.num_tokens) == ("return x\n# end", -15.0, 5)


def test_a_cut_moves_to_the_end_of_a_token_over_space_alone():
    one = read_program(completion_of(["return x", "\n\n\n", "# end"]), source="m", stops=["\n#"])
    assert (one.completion, one.logprob, one.num_tokens) == ("return x", -1.0, 1)
    one = read_program(completion_of(["return ", "x\n", "# end"]), source="m", stops=["\n#"])
    assert (one.completion, one.logprob, one.num_tokens) == ("return x\n", -3.0, 2)
    for pieces in (["return ", "x\n#", " end"], ["return x\n# end"]):
        one = read_program(completion_of(pieces), source="m", stops=["\n#"])
        assert (one.completion, one.logprob, one.num_tokens) == ("return x", None, None)


def test_a_stop_left_out_of_the_text_is_left_out_of_the_logprob():
    choice = completion_of(["return x", "\n", "# ", "end"])
    cut = read_program({**choice, "text": "return x"}, source="m", stops=["\n# "])
    assert (cut.completion, cut.logprob, cut.num_tokens) == ("return x", -1.0, 1)
    # The end token is: it says that the program is over.
    ended = read_program({**completion_of(["return x", "</s>"]), "text": "return x"}, source="m", stops=["\n# "])
    assert (ended.completion, ended.logprob, ended.num_tokens) == ("return x", -3.0, 2)


@pytest.mark.parametrize("changes", [{"tokens": None}, {"tokens": ["?"] * 3}, {"token_logprobs": [-1.0, None, -1.0]}])
def test_a_cut_inside_an_unknown_token_has_no_probability(changes):
    one = read_program(completion_of(["return x", "\n", "# end"], **changes), source="m", stops=["\n#"])
    assert (one.completion, one.logprob, one.num_tokens) == ("return x", None, None)


def test_offsets_of_another_number_of_tokens_are_not_believed():
    choice = completion_of(["return x", "\n", "# end"], tokens=None, text_offset=[0, 8])
    assert read_program(choice, source="m", stops=["\n#"]).logprob is None
    choice = completion_of(["return x", "\n", "# end"], tokens=None, text_offset=[0, 8, 9])
    assert read_program(choice, source="m", stops=["\n#"]).logprob == -1.0


def test_of_no_token_at_all_there_is_no_probability():
    one = read_program(completion_of(["#", " end"]), source="m", stops=["#"])
    assert (one.completion, one.logprob, one.num_tokens) == ("", None, None)
