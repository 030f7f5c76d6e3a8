"""The journal of LLM calls: an answer that was paid for is stored before it is used, and replayed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Engine, bindparam, delete, func, insert, select, update

from harness.records import LLMCall, LLMReply, LLMRequest, OpenBatch
from harness.store import schema
from harness.store.database import now, transaction, translate_db_errors

_KEYS_PER_QUERY = 500
"""Keys per query: old versions of SQLite allow 999 variables."""


class Journal:
    """A step's view of the journal of LLM calls (`harness.contract.provider.CallStore`).

    Attributes:
        unanswered: hashes of calls that this step gave up and that may succeed in another run.
    """

    def __init__(self, engine: Engine, name: str, step_id: int | None) -> None:
        """Calls are shared by all steps; new ones are marked with this step. `name` is the database's, for errors."""
        self._engine, self._name, self._step_id = engine, name, step_id
        self.unanswered: set[str] = set()

    def find(self, requests: Mapping[str, LLMRequest]) -> dict[str, LLMCall]:
        """The answered calls among these (hash -> request), of all steps."""
        table = schema.LLMCall
        columns = (
            table.key, table.provider, table.settings_json, table.role, table.response_json, table.n_attempts,
            table.latency_s, table.price_usd, table.price_date, table.batch,
        )  # fmt: skip
        answered = select(*columns).where(table.key.in_(bindparam("keys", expanding=True)), table.status == "ok")
        answered_calls = {}
        with translate_db_errors(self._name), self._engine.connect() as connection:
            for keys in _batched(list(requests)):
                for row in connection.execute(answered, {"keys": keys}):
                    answered_calls[row.key] = LLMCall(
                        key=row.key,
                        provider=row.provider,
                        settings=row.settings_json,
                        role=row.role,
                        request=requests[row.key],
                        status="ok",
                        reply=LLMReply.model_validate(row.response_json),
                        n_attempts=row.n_attempts,
                        latency_s=row.latency_s,
                        price_usd=row.price_usd,
                        price_date=row.price_date,
                        batch=row.batch,
                    )
        return answered_calls

    def begin(self, calls: Sequence[LLMCall]) -> None:
        """Store that these calls are about to be sent. A call that failed before keeps its error meanwhile."""
        table = schema.LLMCall
        with transaction(self._engine, self._name, durable=True) as connection:
            statuses: dict[str, str] = {}
            for keys in _batched([call.key for call in calls]):
                stored = select(table.key, table.status).where(table.key.in_(keys))
                statuses |= {key: status for key, status in connection.execute(stored)}
                failed = [key for key in keys if statuses.get(key) == "failed"]
                again = {"status": "begun", "step_id": self._step_id}
                connection.execute(update(table).where(table.key.in_(failed)).values(**again))
            if new := [call for call in calls if call.key not in statuses]:
                connection.execute(insert(table), [self._row(call) for call in new])

    def withdraw(self, keys: Sequence[str]) -> None:
        """Undo `begin` for calls that were not sent or were turned away."""
        table = schema.LLMCall
        with transaction(self._engine, self._name, durable=True) as connection:
            begun = table.key.in_(keys), table.status == "begun"
            connection.execute(update(table).where(*begun, table.error.is_not(None)).values(status="failed"))
            connection.execute(delete(table).where(*begun))

    def in_doubt(self) -> dict[str, int]:
        """`provider:model` -> calls that were begun and have not ended, of all steps.

        While nothing runs, these are the calls that were in flight when a run was killed: the vendor may have charged
        for them. The next run that needs one sends it again, with the same Idempotency-Key.
        """
        table = schema.LLMCall
        counted = select(table.provider, table.model, func.count()).where(table.status == "begun")
        with translate_db_errors(self._name), self._engine.connect() as connection:
            rows = connection.execute(counted.group_by(table.provider, table.model)).all()
        return {f"{provider}:{model}": n for provider, model, n in rows}

    def store(self, calls: Sequence[LLMCall]) -> None:
        """Store calls, all or none. An answer replaces a failure; a failure never replaces an answer."""
        table = schema.LLMCall
        with transaction(self._engine, self._name, durable=True) as connection:
            keys = [call.key for call in calls]
            stored = select(table.key, table.status).where(table.key.in_(keys))
            old = {key: status for key, status in connection.execute(stored)}
            new = [call for call in calls if call.status == "ok" or old.get(call.key) != "ok"]
            if replaced := [call.key for call in new if call.key in old]:
                connection.execute(delete(table).where(table.key.in_(replaced)))
            if new:
                connection.execute(insert(table), [self._row(call) for call in new])
        self._note_unanswered(calls)

    # batches (`harness.llm.batch.BatchStore`)

    def open_batches(self, provider: str, settings: Mapping[str, object]) -> list[OpenBatch]:
        """Batches of the provider that are not collected yet, of all steps."""
        batch, call = schema.LLMBatch, schema.LLMCall
        wanted = select(batch).where(batch.provider == provider, batch.status == "open").order_by(batch.id)
        open_batches = []
        with translate_db_errors(self._name), self._engine.connect() as connection:
            for row in connection.execute(wanted).all():
                if row.settings_json == dict(settings):
                    submitted = select(call.key, call.request_json).where(
                        call.batch == row.label, call.status == "submitted"
                    )
                    requests = {key: LLMRequest.model_validate(asked) for key, asked in connection.execute(submitted)}
                    open_batches.append(
                        OpenBatch(
                            label=row.label, vendor_id=row.vendor_id, role=row.role,
                            submitted_at=row.submitted_at, requests=requests,
                        )
                    )  # fmt: skip
        return open_batches

    def begin_batch(self, label: str, role: str, calls: Sequence[LLMCall]) -> None:
        """Store a batch and its calls before the batch is sent."""
        batch, call = schema.LLMBatch, schema.LLMCall
        values = {
            "label": label, "step_id": self._step_id, "provider": calls[0].provider, "role": role,
            "settings_json": calls[0].settings, "vendor_id": None, "status": "open", "reason": None,
            "n_calls": len(calls), "submitted_at": now(), "collected_at": None,
        }  # fmt: skip
        with transaction(self._engine, self._name, durable=True) as connection:
            connection.execute(delete(batch).where(batch.label == label))
            for keys in _batched([c.key for c in calls]):
                connection.execute(delete(call).where(call.key.in_(keys)))
            connection.execute(insert(batch).values(**values))
            connection.execute(insert(call), [self._row(c) for c in calls])

    def confirm_batch(self, label: str, vendor_id: str) -> None:
        """Store that the vendor has the batch."""
        batch = schema.LLMBatch
        with transaction(self._engine, self._name, durable=True) as connection:
            connection.execute(update(batch).where(batch.label == label).values(vendor_id=vendor_id))

    def end_batch(self, label: str, calls: Sequence[LLMCall], reason: str | None = None) -> None:
        """Store what became of its calls. Without calls it never arrived, and its calls are asked again."""
        batch, call = schema.LLMBatch, schema.LLMCall
        ended = {"status": "collected" if calls else "lost", "reason": reason, "collected_at": now()}
        with transaction(self._engine, self._name, durable=True) as connection:
            connection.execute(delete(call).where(call.batch == label, call.status == "submitted"))
            if calls:
                connection.execute(insert(call), [self._row(c) for c in calls])
            connection.execute(update(batch).where(batch.label == label).values(**ended))
        self._note_unanswered(calls)

    def _note_unanswered(self, calls: Sequence[LLMCall]) -> None:
        for call in calls:
            if call.status == "ok" or call.final:
                self.unanswered.discard(call.key)
            else:
                self.unanswered.add(call.key)

    def _row(self, call: LLMCall) -> dict[str, Any]:
        reply = call.reply
        return {
            "key": call.key, "step_id": self._step_id, "provider": call.provider, "model": call.request.model,
            "settings_json": call.settings, "role": call.role,
            "request_json": call.request.model_dump(mode="json"),
            "response_json": reply.model_dump(mode="json") if reply else None,
            "status": call.status, "error": call.error, "final": call.final,
            "input_tokens": reply.input_tokens if reply else None,
            "cached_tokens": reply.cached_tokens if reply else None,
            "output_tokens": reply.output_tokens if reply else None,
            "price_usd": call.price_usd, "price_date": call.price_date,
            "latency_s": call.latency_s, "n_attempts": call.n_attempts, "batch": call.batch, "stored_at": now(),
        }  # fmt: skip


def _batched(keys: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(keys), _KEYS_PER_QUERY):
        yield keys[start : start + _KEYS_PER_QUERY]
