"""What both vendors' official SDKs share: they are made by one generator, so clients, doors and errors have one form.

Their door for raw requests (`post`) is used, not `create`, which walks the types of parameters and response: that takes
as much time as sending them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, ClassVar, Generic, TypeVar

from httpx2 import Response

from harness.errors import ProviderError
from harness.llm.errors import Retryable
from harness.records import LLMReply, LLMRequest

from .connections import NO_KEY, TELEMETRY, Connections
from .server import ServerConfig
from .wire import clean, lost_connection, status_failure

C = TypeVar("C", bound=ServerConfig)


class SdkProvider(ABC, Generic[C]):
    """A vendor's API: one request, one attempt. The SDK's client is made inside the running loop and closed with it."""

    name: str
    SDK: ClassVar[ModuleType]
    """The SDK's module: its errors, and what leaves a header out."""
    CLIENT: ClassVar[str]
    """Name of its asynchronous client."""
    PATH: ClassVar[str]
    """Where requests go, below the server's address."""
    REQUEST_ID: ClassVar[str]
    """Header that names the request."""

    def __init__(self, config: C) -> None:
        self.config = config
        self._clients: dict[asyncio.AbstractEventLoop, Any] = {}
        omit = self.SDK.Omit()
        self._options = {"headers": dict.fromkeys(TELEMETRY, omit), "idempotency_key": NO_KEY, "max_retries": 0}

    @abstractmethod
    def parameters(self, request: LLMRequest) -> dict[str, Any]:
        """The body of a request."""

    @abstractmethod
    def read(self, body: bytes, request: LLMRequest, request_id: str, key: str) -> LLMReply:
        """A response's body as a reply, without the key."""

    async def complete(self, request: LLMRequest) -> LLMReply:
        """One attempt.

        Raises:
            CallFailed: this call failed; Retryable or Refused.
            ProviderError: no call can succeed: no key, wrong key, unknown model, no credit, or a setting that the API
                does not have.
        """
        key = self.key()
        if not request.model:
            raise ProviderError(f"{self.name}: no model is named; use --provider {self.name}:MODEL")
        body = self.parameters(request)
        with self.failures(request.model):
            client = self.client()
            # a whole address is parsed once, a path three times
            address = str(client.base_url).rstrip("/") + self.PATH
            raw = await client.post(address, body=body, cast_to=Response, options=self._options)
        return self.reply(raw.content, request, raw.headers.get(self.REQUEST_ID, ""), key)

    def reply(self, body: bytes, request: LLMRequest, request_id: str, key: str) -> LLMReply:
        """A response's body as a reply."""
        return self.read(body, request, clean(request_id, key), key)

    def key(self) -> str:
        """The API key.

        Raises:
            MissingKey: there is none and one is required.
        """
        return self.config.api_key(self.name)

    @contextmanager
    def failures(self, model: str) -> Iterator[None]:
        """The SDK's exceptions as ours, without what they carry: the request with its Authorization header."""
        try:
            yield
        except self.SDK.APIStatusError as error:
            raise status_failure(
                self.name, error.status_code, error.body, error.response.headers,
                key=self.key(), variable=self.config.key_variable, model=model,
            ) from None  # fmt: skip
        except self.SDK.APIConnectionError as error:
            raise lost_connection(error) from None
        except self.SDK.APIError as error:
            raise Retryable(f"the response is not what the API promises ({type(error).__name__})") from None

    def client(self) -> Any:
        """The SDK's client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            self._clients[loop] = getattr(self.SDK, self.CLIENT)(
                api_key=self.key(), base_url=self.config.address(), max_retries=0, timeout=self.config.timeout_s,
                http_client=Connections(self.config.timeout_s),
            )  # fmt: skip
        return self._clients[loop]

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()
