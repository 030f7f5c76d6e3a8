"""Which steps interpret the features: every interpreter over every source, and what its judgements are held against."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.records import GRADER, JUDGE, ROLES, SECOND_JUDGE

if TYPE_CHECKING:
    from harness.study.plan import Builder


def add_interpretation(builder: Builder, sources: Sequence[str]) -> None:
    """Add what is made of every source's features; planted ones are interpreted with them.

    Args:
        builder: takes the steps.
        sources: names of the steps that have features.

    Raises:
        UsageError: some roles have an LLM, and others that are asked have none.
    """
    row = builder.row
    planted: list[str] = []
    if row.interpreters and row.probes and row.grading.planted:
        settings = [row.features.model_dump(), "1"]
        planted = [builder.add("plant/planted", "plant", None, row.grading, tuple(sources[:1]), settings)]
    for name in row.interpreters:
        registration = builder.manager.offer(name).registration
        if registration.asks_llm:
            _check_roles(name, builder.llms)
        asked = {role: llm.identity() for role, llm in builder.llms.items() if role != GRADER}
        llms = asked if registration.asks_llm else {}
        explained: dict[str, str] = {}
        for source in (*sources, *planted):
            suffix = source.partition("/")[2]
            step = builder.plugin("interpret", name, (source,), llms, suffix=suffix)
            explained[source] = step
            if source in sources and registration.scores and row.scoring.features:
                scored = [llms, row.scoring.model_dump(mode="json")]
                builder.plugin("score", name, (step, source), scored, suffix=suffix)
        judged = [llms, row.grading.model_dump(mode="json")]
        if row.grading.repeats or row.grading.shuffles or {JUDGE, SECOND_JUDGE} & set(row.providers):
            builder.plugin("regrade", name, tuple(explained.values()), judged)
        own = tuple(explained[source] for source in sources)
        builder.plugin("categorise", name, own, llms)
        if row.grading.recategorised:
            builder.plugin("recategorise", name, own, judged)
    if row.interpreters and sources:
        read = row.read_chat or row.chat
        corpus = [builder.data, read.model_dump()]
        builder.add("enrich/features", "enrich", None, row.enrichment, tuple(sources), corpus)


def _check_roles(name: str, llms: Collection[str]) -> None:
    """Before hours of training rather than after them."""
    missing = [role for role in ROLES if role not in llms and role not in (JUDGE, SECOND_JUDGE, GRADER)]
    if llms and missing and "default" not in llms:
        raise UsageError(
            f"{name}: no LLM is named for {', '.join(missing)}: name one for all roles that have none of their own, "
            "--provider NAME:MODEL"
        )
