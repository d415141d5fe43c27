"""Stop sequences as pure functions of text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trl_pper.generation.stops import cut_at_stop, first_stop

TEXTS = st.text(alphabet="ab\n", max_size=12)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=3), max_size=4)


@pytest.mark.parametrize(
    ("text", "stops", "place"),
    [
        ("abc", [], None),
        ("", ["a"], None),
        ("abc", ["x"], None),
        ("abc", ["abc"], 0),
        ("abcb", ["b"], 1),
        ("abc", ["c", "b"], 1),
        ("abc", ["bc", "b"], 1),
        ("ab", ["abc"], None),
    ],
)
def test_the_earliest_stop_counts_whatever_their_order(text, stops, place):
    assert first_stop(text, stops) == place
    assert cut_at_stop(text, stops) == (text if place is None else text[:place])


@given(TEXTS, STOPS)
def test_what_is_kept_is_the_longest_beginning_before_any_stop(text, stops):
    places = [i for i in range(len(text)) if any(text.startswith(stop, i) for stop in stops)]
    assert first_stop(text, stops) == (places[0] if places else None)
    kept = cut_at_stop(text, stops)
    assert text.startswith(kept)
    assert not any(stop in kept for stop in stops)
    assert cut_at_stop(kept, stops) == kept
