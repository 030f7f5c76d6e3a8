"""Which LLM answers for which role of a study."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import ProviderConfig
from harness.errors import UnknownName, UsageError
from harness.records import GRADER, ROLES
from harness.study.manager import Manager
from harness.study.study_config import StudyConfig

Settings = Mapping[str, Mapping[str, Any]]
"""name -> key -> value, as given by `--set` or a preset."""


@dataclass(frozen=True)
class LLMChoice:
    """Which LLM answers for a role.

    Attributes:
        provider: name of the provider.
        model: as the provider knows it.
        config: the provider's settings.
    """

    provider: str
    model: str
    config: ProviderConfig

    def identity(self) -> list[Any]:
        """What an answer depends on."""
        return [self.provider, self.model, self.config.identity()]


def with_provider(study: StudyConfig, given: Sequence[str], manager: Manager) -> StudyConfig:
    """The study with the LLMs that `--provider` names; interpreters that ask an LLM then replace those that do not.

    Args:
        study: the study.
        given: `name[:model]` for every role, `role=name[:model]` for one.
        manager: knows which interpreters ask.
    """
    roles = {}
    for spec in given:
        role, equals, rest = spec.partition("=")
        # an `=` may also stand in a model's path, after the colon
        role, spec = (role, rest) if equals and re.fullmatch(r"[a-z-]+", role) else ("default", spec)
        roles[role] = spec
    # one for all roles replaces what the registry says; one for a role leaves the others as they are
    providers = roles if "default" in roles else {**study.providers, **roles}
    if set(providers) == {GRADER}:  # asks about benchmarks: who interprets is another question
        return study.model_copy(update={"providers": providers})
    offered = [n for n in manager.names() if manager.stage_of(n) == "interpret"]
    able = [n for n in offered if manager.offer(n).registration.asks_llm]
    asking = tuple(n for n in study.interpreters if n in able) or tuple(able[:1])
    return study.model_copy(update={"providers": providers, "interpreters": asking})


def choose_llms(study: StudyConfig, layers: Sequence[Settings], manager: Manager) -> dict[str, LLMChoice]:
    """Role -> who answers, for the roles that the study names a provider for.

    Raises:
        UnknownName: no such role or provider.
        UsageError: a provider whose config is none.
    """
    chosen = {}
    for role, spec in study.providers.items():
        if role not in ROLES and role != "default":
            raise UnknownName("role of an LLM", role, [*ROLES, "default"], hint="--provider ROLE=NAME:MODEL")
        name, _, model = spec.partition(":")
        if name not in manager.names() or manager.stage_of(name) != "provide":
            providers = [n for n in manager.names() if manager.stage_of(n) == "provide"]
            raise UnknownName("provider", name, providers, hint="list: harness plugins")
        config = manager.config(name, *(layer.get(name, {}) for layer in layers))
        if not isinstance(config, ProviderConfig):
            raise UsageError(f"provider {name!r}: its config must be a harness.ProviderConfig")
        chosen[role] = LLMChoice(name, model or config.model, config)
    return chosen
