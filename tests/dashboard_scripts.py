"""Reads the dashboard's data scripts, as the page's own loader does."""

from __future__ import annotations

import base64
import json
import zlib
from typing import Any


def unpack(script: bytes) -> Any:
    """The value in a script, deflated or in the open."""
    inside = script.decode("ascii").removeprefix("dashboard.provide(").removesuffix(");\n")
    _, value = json.loads(f"[{inside}]")
    return json.loads(zlib.decompress(base64.b64decode(value), -zlib.MAX_WBITS)) if isinstance(value, str) else value
