"""The journal of LLM calls: an answer that was paid for is stored before anything is made of it, and replayed."""

from __future__ import annotations

from sqlalchemy import Engine, delete, insert, select

from harness import calls
from harness.results import tables
from harness.results.database import now, sentences, transaction


class Journal:
    """A step's view of the journal of LLM calls (`harness.stages.CallStore`)."""

    def __init__(self, engine: Engine, name: str, step_id: int) -> None:
        """Calls are shared by all steps; new ones are marked with this step. `name` is the database's, for errors."""
        self._engine, self._name, self._step_id = engine, name, step_id

    def lookup(self, key: str) -> calls.LLMCall | None:
        """The answered call with this hash, whichever step made it; None for one that failed."""
        table = tables.LLMCall
        found = select(table).where(table.key == key, table.status == "ok")
        with sentences(self._name), self._engine.connect() as connection:
            row = connection.execute(found).first()
        if row is None:
            return None
        return calls.LLMCall(
            key=row.key,
            provider=row.provider,
            role=row.role,
            request=calls.LLMRequest.model_validate(row.request_json),
            status=row.status,
            reply=row.response_json and calls.LLMReply.model_validate(row.response_json),
            error=row.error,
            n_attempts=row.n_attempts,
            latency_s=row.latency_s,
        )

    def store(self, call: calls.LLMCall) -> None:
        """Keep a call. An answer replaces a failure, never the other way round."""
        reply = call.reply
        values = {
            "key": call.key, "step_id": self._step_id, "provider": call.provider, "model": call.request.model,
            "role": call.role, "request_json": call.request.model_dump(mode="json"),
            "response_json": reply.model_dump(mode="json") if reply else None,
            "status": call.status, "error": call.error,
            "input_tokens": reply.input_tokens if reply else None,
            "cached_tokens": reply.cached_tokens if reply else None,
            "output_tokens": reply.output_tokens if reply else None,
            "latency_s": call.latency_s, "n_attempts": call.n_attempts, "stored_at": now(),
        }  # fmt: skip
        table = tables.LLMCall
        with transaction(self._engine, self._name) as connection:
            old = connection.execute(select(table.status).where(table.key == call.key)).scalar()
            if old == "ok" and call.status != "ok":
                return
            connection.execute(delete(table).where(table.key == call.key))
            connection.execute(insert(table).values(**values))
