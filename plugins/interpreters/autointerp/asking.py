"""Asking an LLM in a role, and reading its replies with at most one repair turn each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel

from harness.contract.context import RunContext
from harness.llm.client import Client
from harness.llm.parsing import Parsed, Unparsed, parse_call
from harness.records import LLMCall, LLMRequest

from . import AutointerpConfig
from .prompts import REPAIR, fill

M = TypeVar("M", bound=BaseModel)
_LONGEST_ECHO = 4000


class Reply(NamedTuple):
    """The outcome of one prompt: its place among the prompts, the last call, and the answer read from it."""

    place: int
    call: LLMCall
    answer: Any


class Role:
    """Asks the study's LLM for one role; progress advances with every request that is answered."""

    def __init__(self, name: str, config: AutointerpConfig, run: RunContext) -> None:
        self._config, self._run = config, run
        self._client = Client.of(run, name)

    def ask(self, prompts: Sequence[str], schema: dict[str, Any] | None = None) -> Iterator[LLMCall]:
        """One call per prompt, in order."""
        requests = [
            LLMRequest(
                model=self._client.model,
                system=self._config.form().system,
                user=prompt,
                max_tokens=self._config.max_tokens,
                temperature=self._config.temperature,
                json_schema=schema if self._config.structured else None,
                repeat=self._run.repeat,
            )
            for prompt in prompts
        ]
        return self._client.run(requests, on_call=lambda call: self._run.progress.advance())

    def again(self, failed: Sequence[tuple[LLMCall, str]]) -> Iterator[LLMCall]:
        """The one repair turn: each request again, with its reply and what was wrong with the reply."""
        requests = []
        for call, reason in failed:
            reply = call.reply.text[:_LONGEST_ECHO] if call.reply else ""
            prompt = fill(REPAIR, {"prompt": call.request.user, "reason": reason, "reply": reply})
            requests.append(call.request.model_copy(update={"user": prompt}))
        return self._client.run(requests)

    def read(
        self,
        prompts: Sequence[str],
        read: Callable[[int, LLMCall], Any],
        schema: dict[str, Any] | None = None,
    ) -> Iterator[Reply]:
        """A Reply per prompt, in order; those that had to be asked again come last.

        Args:
            prompts: what to ask.
            read: place of the prompt and its call -> the answer, or Unparsed with a reason.
            schema: of the replies.
        """
        broken: list[tuple[int, LLMCall, str]] = []
        for index, call in enumerate(self.ask(prompts, schema)):
            answer = read(index, call)
            if isinstance(answer, Unparsed) and self._config.repair_turns and call.status == "ok":
                broken.append((index, call, answer.reason))
            else:
                yield Reply(index, call, answer)
        repaired = self.again([(call, reason) for _, call, reason in broken])
        for (index, _, _), call in zip(broken, repaired, strict=True):
            yield Reply(index, call, read(index, call))


def reads(model: type[M]) -> Callable[[int, LLMCall], Parsed[M] | Unparsed]:
    """What `Role.read` takes, for replies that hold one JSON object."""
    return lambda index, call: parse_call(call, model)
