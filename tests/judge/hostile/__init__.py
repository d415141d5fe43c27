"""Programs that attack the judge, as data: one property each. `tests/judge/test_attacks_*.py` runs them."""
