"""Request programs from OpenAI-compatible servers.

- `server_source`: the source that asks servers, for several tasks at once
- `pool`: spread requests over servers of the same model, and leave out servers that fail
- `endpoint`: send a request to a server until it is answered, limit the rate, and drop fields that it refuses
- `replies`: read programs, log-probabilities and token counts from replies
"""
