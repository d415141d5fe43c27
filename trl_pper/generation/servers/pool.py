"""Spread requests over servers of the same model, and leave out servers that fail.

Requests of a pool belong to a single event loop. Servers are left out for the life of the pool, which is a generation:
the next one tries them again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from trl_pper.generation.servers.endpoint import Endpoint, RequestFailed

logger = logging.getLogger(__name__)


class EndpointPool:
    """Servers that share the requests: each goes to the server with the fewest in flight.

    Args:
        endpoints: A client of each server; of servers with equally many requests the first is asked.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = tuple(endpoints)

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.gather(*(endpoint.close() for endpoint in self.endpoints))

    async def post(self, path: str, body: Mapping[str, Any], *, task_id: str) -> tuple[Endpoint, dict[str, Any]]:
        """Send a request until a server answers it.

        A server that fails after all retries is left out from then on, unless it is the last one.

        Args:
            path: Path below the base addresses.
            body: The request, sent as JSON.
            task_id: The task, named in errors.

        Returns:
            The client of the server that answered, and the JSON object of its reply.

        Raises:
            RequestFailed: A server answered with a permanent error, or the last one failed after all retries.
            ValueError: The reply is no JSON object.
        """
        resent = False
        while True:
            endpoint = min(self._left(), key=lambda one: one.in_flight)
            try:
                return endpoint, await endpoint.post(path, body, task_id=task_id, resent=resent)
            except RequestFailed as error:
                if not error.may_pass:
                    raise
                self._leave_out(endpoint, error)
                resent = True

    def _left(self) -> list[Endpoint]:
        return [endpoint for endpoint in self.endpoints if endpoint.failure is None]

    def _leave_out(self, endpoint: Endpoint, error: RequestFailed) -> None:
        if endpoint.failure is not None:
            # Several requests meet the same failure.
            return
        others = [one.base_url for one in self._left() if one is not endpoint]
        if others:
            endpoint.failure = error
            logger.warning(
                "%s: is left out from now on; requests go to %s: %s",
                endpoint.base_url, ", ".join(others), error.problem,
            )  # fmt: skip
            return
        # The last server stays, so that its other requests may still be answered while this one ends the generation.
        if len(self.endpoints) == 1:
            raise error
        before = ", ".join(one.base_url for one in self.endpoints if one is not endpoint)
        raise RequestFailed(
            f"{error.problem}; no other server is left: {before} failed before",
            error.remedy,
            status=error.status,
            detail=error.detail,
            may_pass=True,
        ) from error
