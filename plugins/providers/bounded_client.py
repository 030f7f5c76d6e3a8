"""The HTTP client under both SDKs: httpx's own, which reads no more than a limit and asks no other server."""

from __future__ import annotations

import asyncio
import logging
from functools import lru_cache
from ssl import SSLContext
from typing import Any

import httpx2

from harness.errors import ProviderError, masked_url
from harness.llm.errors import Retryable

_TALKATIVE = ("httpx2", "httpcore2", "openai", "anthropic")
"""Loggers that below WARNING write whole addresses, user info and query included, and headers that a server echoes."""


class BoundedClient(httpx2.AsyncClient):
    """Connections of one event loop. Set `base_url` to the server that is asked.

    Args:
        provider: its name, for errors.
        timeout_s: longest silence of a server, also while connecting.
        most_bytes: most bytes of a response, decompressed.
    """

    def __init__(self, provider: str, timeout_s: float, most_bytes: int) -> None:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)  # `concurrency` is the limit
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        super().__init__(timeout=timeout_s, limits=limits, verify=_certificates())
        self._provider, self._most_bytes = provider, most_bytes

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """The response; its body is read unless it is a stream, and then whoever reads it minds the limit.

        Redirects are followed to the same server only: neither the key nor the prompt goes to another one.

        Raises:
            ProviderError: the request goes to another server.
            Retryable: the response is too large.
            httpx2.RequestError: no connection, one that broke, or a body that cannot be decompressed.
        """
        for _ in range(self.max_redirects):
            self._refuse_other_servers(request)
            response = await super().send(request, **{**options, "stream": True, "follow_redirects": False})
            if response.next_request is None:
                return response if stream and response.is_success else await self._read(response)
            await response.aclose()
            request = response.next_request
        raise httpx2.TooManyRedirects("too many redirects", request=request)

    async def _read(self, response: httpx2.Response) -> httpx2.Response:
        pieces, n_bytes = [], 0
        try:
            async for piece in response.aiter_bytes():
                pieces.append(piece)
                n_bytes += len(piece)
                if n_bytes > self._most_bytes:
                    limit = f"{self._most_bytes:,} bytes (max_response_bytes)"
                    raise Retryable(f"the response has more than {limit}", charged=True)
                # httpx decompresses at most 1 MiB at a time; between two of them, time-outs and other calls get a turn
                await asyncio.sleep(0)
        finally:
            await response.aclose()
        headers = [(name, value) for name, value in response.headers.raw if name.lower() != b"content-encoding"]
        return httpx2.Response(
            response.status_code, headers=headers, content=b"".join(pieces), request=response.request
        )

    def _refuse_other_servers(self, request: httpx2.Request) -> None:
        asked, other = self.base_url, request.url
        if (other.scheme, other.host, other.port) != (asked.scheme, asked.host, asked.port):
            raise ProviderError(
                f"{self._provider}: {masked_url(str(asked))} refers its caller to another server, "
                f"{masked_url(str(other))}: nothing was sent there; set base_url to it if you trust it"
            )


@lru_cache
def _certificates() -> SSLContext:
    """As the SDKs trust them; reading them takes a tenth of a second."""
    return httpx2.create_ssl_context()
