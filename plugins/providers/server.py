"""Settings of providers that ask a server: its address and its API key."""

from __future__ import annotations

import os
from typing import Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import ConfigDict, PositiveInt, field_validator

from harness import ProviderConfig
from harness.errors import masked_url
from harness.llm.errors import MissingKey


class ServerConfig(ProviderConfig):
    """Which server is asked."""

    model_config = ConfigDict(hide_input_in_errors=True)  # an address may hold a password

    OPERATIONAL = ProviderConfig.OPERATIONAL | {"base_url", "key_variable", "key_required", "max_response_bytes"}
    BASE_URL_VARIABLE: ClassVar[str]
    """Environment variable that names the address where the setting does not."""

    base_url: str | None = None
    """Address of the server; None: from the environment, else the vendor's own."""
    key_variable: str
    """Environment variable that holds the API key."""
    key_required: bool = True
    """False for a server that wants no key."""
    max_response_bytes: PositiveInt = 16 * 2**20
    """Most bytes of a response, decompressed; of a batch's results, of each line."""
    structured_output: bool = True
    """Send the request's JSON schema, where it has one, so that the server constrains the reply to it."""

    @field_validator("base_url")
    @classmethod
    def _without_credentials(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith(("http://", "https://")):
            raise ValueError("an address starts with http:// or https://")
        if url is not None and masked_url(url) != url:
            raise ValueError(
                "settings are stored: leave name, password and query out of the address, or give it in "
                f"${cls.BASE_URL_VARIABLE}"
            )
        return url

    def api_key(self, provider: str) -> str:
        """The key in the environment variable; `none` where there is none and none is required.

        Raises:
            MissingKey: there is none and one is required.
        """
        key = os.environ.get(self.key_variable, "").strip()
        if not key and self.key_required:
            raise MissingKey(provider, self.key_variable)
        return key or "none"

    def require(self, provider: str) -> None:
        """Refuse what no call can do without: the key.

        Raises:
            MissingKey: there is none and one is required.
        """
        self.api_key(provider)

    def address(self) -> str | None:
        """The address that is asked; None is the vendor's own."""
        return self.base_url or os.environ.get(self.BASE_URL_VARIABLE, "").strip() or None

    def identity(self) -> dict[str, Any]:
        """Also the address, without name, password and query, which may be secret."""
        address = self.address()
        if address is None:
            return super().identity()
        parts = urlsplit(address)
        bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
        return {**super().identity(), "base_url": bare}
