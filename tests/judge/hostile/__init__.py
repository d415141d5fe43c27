"""Programs that attack the judge, as data: one property each. `tests/test_judge_attacks_*.py` runs them."""
