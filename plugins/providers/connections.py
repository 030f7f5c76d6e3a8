"""The connections under both SDKs: an HTTP client of theirs (`http_client=`) that hands requests straight to aiohttp.

The SDKs build a request, read the response and say what a status means; between the two, the client they bring merges
headers, cookies, queries and URLs that nobody set. With 64 calls in flight that costs as much as the SDK itself.
Redirects, proxies and TLS are aiohttp's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from ssl import SSLContext
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
import httpx2

NO_KEY = "unused"
"""For the SDKs' `idempotency_key`, which goes nowhere; left to them, it is made of random bytes for every request."""
TELEMETRY = (
    "X-Stainless-Lang", "X-Stainless-Package-Version", "X-Stainless-OS", "X-Stainless-Arch", "X-Stainless-Runtime",
    "X-Stainless-Runtime-Version", "X-Stainless-Async", "X-Stainless-Timeout", "x-stainless-retry-count",
    "x-stainless-read-timeout",
)  # fmt: skip
"""What the SDKs' headers tell of this machine. They are left out; each would be copied several times per request."""


class Connections(httpx2.AsyncClient):
    """A pool of connections of one event loop. Bodies are read whole.

    Args:
        timeout_s: longest silence of a server, also while connecting.
    """

    def __init__(self, timeout_s: float) -> None:
        # a transport that is never used: the default one reads the machine's certificates each time
        super().__init__(transport=httpx2.AsyncBaseTransport(), follow_redirects=True)
        self._silence = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    def build_request(self, method: str, url: Any, **parts: Any) -> httpx2.Request:
        """What the SDK asks for. It has merged everything already, unless there is a form or a query."""
        content = parts.get("content")
        if parts.get("files") or parts.get("data") or parts.get("params") or not isinstance(content, bytes):
            return super().build_request(method, url, **parts)
        # given as a stream, the body is not looked at for headers: aiohttp sets its length and the host's name
        return httpx2.Request(method, _url(str(url)), headers=parts.get("headers"), stream=httpx2.ByteStream(content))

    async def send(self, request: httpx2.Request, **_: Any) -> httpx2.Response:
        """The response with its body.

        Raises:
            httpx2.ConnectError: the request was never sent.
            httpx2.TimeoutException: the server was silent too long after it had it.
            httpx2.ReadError: the connection broke then.
        """
        body = await request.aread()
        with _failures(request):
            async with self._connected(request.url).request(
                request.method, str(request.url), headers=request.headers.multi_items(), data=body or None
            ) as response:
                content = await response.read()
        # the body is decoded already
        headers = [(k, v) for k, v in response.raw_headers if k.lower() != b"content-encoding"]
        return httpx2.Response(response.status, headers=headers, content=content, request=request)

    async def aclose(self) -> None:
        """Close them."""
        if self._session is not None:
            await self._session.close()
        await super().aclose()

    def _connected(self, url: httpx2.URL) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, ssl=_certificates()),
                timeout=self._silence,
                cookie_jar=aiohttp.DummyCookieJar(),
                # aiohttp's own `trust_env` asks the environment for every request, in a thread
                proxy=_proxy(url),
            )
        return self._session


@lru_cache
def _url(text: str) -> httpx2.URL:
    """Parsing it costs as much as building the rest of a request, and it is the same for all of them."""
    return httpx2.URL(text)


def _proxy(url: httpx2.URL) -> str | None:
    """The environment's proxy for a server (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY; NO_PROXY)."""
    proxies = getproxies()
    return None if proxy_bypass(url.host) else proxies.get(url.scheme) or proxies.get("all")


@lru_cache
def _certificates() -> SSLContext:
    """As the SDKs trust them; read once, which takes a tenth of a second."""
    return httpx2.create_ssl_context()


@contextmanager
def _failures(request: httpx2.Request) -> Iterator[None]:
    """What aiohttp raises, as what the SDKs know."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise httpx2.ConnectError(str(error), request=request) from error
    except (aiohttp.InvalidURL, aiohttp.TooManyRedirects) as error:
        raise httpx2.UnsupportedProtocol(str(error), request=request) from error
    except TimeoutError as error:
        raise httpx2.ReadTimeout(str(error), request=request) from error
    except aiohttp.ClientError as error:
        raise httpx2.ReadError(str(error), request=request) from error
