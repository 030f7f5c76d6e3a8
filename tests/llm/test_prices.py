"""Prices are data: what a call costs, what it can cost at most, and what happens where nobody knows."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.llm.prices import bytes_of, find_price, require_price
from harness.records import LLMReply, LLMRequest

TABLE = """
- provider: openai
  source: made up
  as_of: 2026-01-02
  batch: 0.5
  models:
    tiny: {input: 1.0, cached_input: 0.1, output: 10.0}
"""


@pytest.fixture
def table(tmp_path: Path) -> str:
    file = tmp_path / "prices.yaml"
    file.write_text(TABLE)
    return str(file)


def reply(n_input: int | None, n_output: int | None, cached: int | None = None) -> LLMReply:
    return LLMReply(
        text="x", finish_reason="stop", model="tiny", input_tokens=n_input, output_tokens=n_output, cached_tokens=cached
    )


def test_a_call_costs_its_tokens_and_cached_ones_less(table: str) -> None:
    price = require_price("openai", "tiny", table)
    assert price.usd(reply(1_000_000, 100_000)) == pytest.approx(1.0 + 1.0)
    assert price.usd(reply(1_000_000, 0, cached=400_000)) == pytest.approx(0.6 + 0.04)
    assert price.usd(reply(1_000_000, 100_000), batch=True) == pytest.approx(1.0)
    assert price.usd(reply(None, 5)) is None, "what the vendor does not say is not 0"
    assert price.as_of == "2026-01-02"


def test_the_most_a_call_can_cost_is_never_below_what_it_cost(table: str) -> None:
    price = require_price("openai", "tiny", table)
    request = LLMRequest(model="tiny", system="s" * 10, user="\U0001f600" * 50, max_tokens=300)
    assert bytes_of(request) == 10 + 200
    assert price.most_usd(request) >= price.expected_usd(bytes_of(request), 300)


def test_a_snapshot_has_its_models_price_and_another_model_has_none(table: str) -> None:
    assert find_price("openai", "tiny-2026-02-03", table) == find_price("openai", "tiny", table)
    assert find_price("openai", "tiny-pro", table) is None
    assert find_price("anthropic", "tiny", table) is None
    with pytest.raises(UsageError, match="--max-calls"):
        require_price("openai", "some-future-model")


def test_a_table_that_cannot_be_read_names_its_fault(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(TABLE.replace("output: 10.0", "output: -1"))
    with pytest.raises(UsageError, match=r"p\.yaml.*output"):
        find_price("openai", "tiny", str(tmp_path / "p.yaml"))
    with pytest.raises(UsageError, match=r"cannot read .*gone\.yaml"):
        find_price("openai", "tiny", str(tmp_path / "gone.yaml"))


@pytest.mark.parametrize(("provider", "model"), [("openai", "gpt-5-mini"), ("anthropic", "claude-opus-4-1")])
def test_the_packaged_table_has_the_papers_models_with_a_date(provider: str, model: str) -> None:
    price = require_price(provider, model)
    assert 0 < price.input < price.output
    assert date.fromisoformat(price.as_of) <= date.today()
