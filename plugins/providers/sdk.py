"""What the providers of both official SDKs share. One generator makes both, so their clients and errors are alike.

Requests go through `client.post`. `create` also checks the types of parameters and response, which takes as much time
as sending them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, Generic, TypeVar
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from httpx2 import HTTPError, Response

from harness.errors import HarnessError, ProviderError
from harness.llm.batch import Outcome
from harness.llm.errors import CallFailed, Retryable
from harness.records import LLMReply, LLMRequest, call_hash

from .bounded_client import BoundedClient
from .failures import ReportedError, failure, reported_error, status_error
from .server import ServerConfig
from .wire import clean, decoded, lost_connection

C = TypeVar("C", bound=ServerConfig)
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
_MAX_ID = 200
_TELEMETRY = (
    "X-Stainless-Lang", "X-Stainless-Package-Version", "X-Stainless-OS", "X-Stainless-Arch", "X-Stainless-Runtime",
    "X-Stainless-Runtime-Version", "X-Stainless-Async", "X-Stainless-Timeout", "x-stainless-retry-count",
    "x-stainless-read-timeout",
)  # fmt: skip
"""Headers in which the SDKs describe this machine. They are not sent."""


class SdkProvider(ABC, Generic[C]):
    """A vendor's API: one request, one attempt. The SDK's client is made inside the running loop and closed with it."""

    name: str
    SDK: ClassVar[ModuleType]
    """The SDK's module, for its errors and `Omit`."""
    CLIENT: ClassVar[str]
    """Name of its asynchronous client."""
    PATH: ClassVar[str]
    """Where requests go, below the server's address."""
    REQUEST_ID: ClassVar[str]
    """Header that names the request."""

    def __init__(self, config: C) -> None:
        self.config = config
        self._clients: dict[asyncio.AbstractEventLoop, Any] = {}
        self._headers = dict.fromkeys(_TELEMETRY, self.SDK.Omit())

    @abstractmethod
    def parameters(self, request: LLMRequest) -> dict[str, Any]:
        """The body of a request."""

    @abstractmethod
    def read(self, body: Any, request: LLMRequest) -> LLMReply:
        """A decoded body that reports no error as a reply.

        Raises:
            Retryable: it is not what the API promises.
        """

    async def complete(self, request: LLMRequest) -> LLMReply:
        """One attempt.

        Raises:
            CallFailed: this call failed; Retryable or Refused.
            ProviderError: no call can succeed: no key, wrong key, unknown model, no credit, or a setting that the API
                does not have.
        """
        if not request.model:
            raise ProviderError(f"{self.name}: no model is named; use --provider {self.name}:MODEL")
        body = self.parameters(request)
        hash_ = call_hash(self.name, self.config.identity(), request)
        options = {"headers": {**self._headers, "Idempotency-Key": hash_}, "max_retries": 0}
        with self.failures(request.model):
            raw = await self.client().post(self.PATH, body=body, cast_to=Response, options=options)
        return self.reply(decoded(raw.content), request, raw.headers)

    def reply(self, body: Any, request: LLMRequest, headers: Mapping[str, str]) -> LLMReply:
        """The decoded body of a 200 as a reply, without the key.

        Raises:
            CallFailed, ProviderError: it reports an error: as for the HTTP status of the error's code.
        """
        error = reported_error(body)
        if error is not None:
            raise self.failure(error, headers, request.model)
        reply, key = self.read(body, request), self.key()
        request_id = clean(headers.get(self.REQUEST_ID, ""), key)[:_MAX_ID]
        return reply.model_copy(
            update={
                "text": clean(reply.text, key), "model": clean(reply.model, key)[:_MAX_ID],
                "finish_reason": reply.finish_reason and clean(reply.finish_reason, key)[:_MAX_ID],
                "request_id": request_id or None,
            }
        )  # fmt: skip

    def failure(
        self, error: ReportedError, headers: Mapping[str, str] = NO_HEADERS, model: str = ""
    ) -> CallFailed | ProviderError:
        """What an error means for the call."""
        variable = self.config.key_variable
        return failure(self.name, error, headers, key=self.key(), variable=variable, model=model)

    def outcome(self, body: Any, request_id: str = "") -> Outcome:
        """What became of a call in a batch, from the body of a 200."""
        try:
            return self.reply(body, LLMRequest(model="", user=""), {self.REQUEST_ID: request_id})
        except (CallFailed, ProviderError) as failed:
            return failed

    def key(self) -> str:
        """The API key.

        Raises:
            MissingKey: there is none and one is required.
        """
        return self.config.api_key(self.name)

    @contextmanager
    def failures(self, model: str) -> Iterator[None]:
        """Raise the SDK's exceptions as ours, without their request, which has the Authorization header."""
        try:
            yield
        except self.SDK.APIStatusError as error:
            reported = status_error(error.status_code, error.body)
            raise self.failure(reported, error.response.headers, model) from None
        except (self.SDK.APIConnectionError, HTTPError) as error:
            if isinstance(error.__cause__, HarnessError):  # one SDK wraps what its HTTP client raises
                raise error.__cause__ from None
            raise lost_connection(error) from None
        except (self.SDK.APIError, AttributeError, TypeError, ValueError) as error:
            # the SDKs build their objects without checking them
            raise Retryable(f"the response is not what the API promises ({type(error).__name__})") from None

    def client(self) -> Any:
        """The SDK's client of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            config, address, query = self.config, self.config.address(), ""
            if address is not None:
                scheme, host, path, query, _ = urlsplit(address)
                address = urlunsplit((scheme, host, path, "", ""))
            http_client = BoundedClient(self.name, config.timeout_s, config.max_response_bytes)
            client = getattr(self.SDK, self.CLIENT)(
                api_key=self.key(), base_url=address, default_query=dict(parse_qsl(query)), max_retries=0,
                timeout=config.timeout_s, http_client=http_client,
            )  # fmt: skip
            http_client.base_url = client.base_url
            self._clients[loop] = client
        return self._clients[loop]

    async def aclose(self) -> None:
        """Close the connections of the running loop."""
        client = self._clients.pop(asyncio.get_running_loop(), None)
        if client is not None:
            await client.close()
