"""A server on the loopback that answers every chat completion after a fixed time: `python bench/llm_server.py 0.05`.

Prints its port. As little as can be, so that it is not what a bench measures.
"""

from __future__ import annotations

import asyncio
import json
import sys

ANSWER = {"explanation": "digits", "classification": 0, "classification_reasoning": "all"}
BODY = json.dumps(
    {
        "id": "c",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": json.dumps(ANSWER)}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 1000, "completion_tokens": 40, "total_tokens": 1040},
    }
).encode()
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Answering(asyncio.Protocol):
    """One connection; a request at a time."""

    latency_s = 0.05

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport, self.buffer = transport, b""

    def data_received(self, data: bytes) -> None:
        """Answer when the whole request is there."""
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if end:
            size = next(int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:"))
            if len(body) >= size:
                self.buffer = b""
                asyncio.get_running_loop().call_later(self.latency_s, self.transport.write, RESPONSE)  # type: ignore[attr-defined]


async def serve() -> None:
    """Until killed."""
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    Answering.latency_s = float(sys.argv[1])
    asyncio.run(serve())
