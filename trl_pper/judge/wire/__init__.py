"""Carry values between the judge's processes; nothing that crosses is executed.

- `channel`: frames between referee and candidate, packets between host and zygote
- `rules`: tables that both sides agree on: messages, limits, names that may cross, and `CodecError`
- `codec`: `encode` and `decode`, the two functions that turn a value into bytes and back
- `encode`: writes a value, type by type
- `decode`: rebuilds a value from untrusted bytes, tag by tag
- `exceptions`: exceptions as a name and a text, and back
- `allowance`: CPU time and wall time that a running test may still use
"""
