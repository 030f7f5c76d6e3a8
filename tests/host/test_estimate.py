"""What a plan will cost: the paper's run against its hand-made budget, and the organism's against what is there."""

from __future__ import annotations

import pytest

from harness.errors import DataError, UsageError
from harness.host.estimate import Estimate, check_memory, estimate, total
from harness.host.manager import Manager
from harness.host.plan import Plan, make_plan, parse_settings
from harness.host.registry import find_roster, read_roster

PAPER = (
    "model.path=Qwen/Qwen2.5-32B-Instruct", "model.dtype=bfloat16", "data.path=simplescaling/s1K-1.1",
    "evaluate.benchmarks=[aime24_nofigures,math500,gpqa_diamond]", "batch-topk.k=16",
    "rank1-lora.gradient_checkpointing=true", "leave-one-out.n_documents=16", "leave-one-out.method=exact",
)  # fmt: skip


def plan(*pairs: str, provider: str | None = None) -> Plan:
    roster = read_roster(find_roster(None))
    providers = [provider] if provider else []
    return make_plan(roster, Manager(roster), "rank1-lora", settings=parse_settings(pairs), provider=providers)


def test_the_papers_run_costs_what_was_worked_out_by_hand() -> None:
    """Paper-spec 1.20, with nothing on this machine but the roster."""
    costs = estimate(plan(*PAPER))
    assert costs["train/rank1-lora"].flops == pytest.approx(1e19, rel=0.03)
    assert costs["train/rank1-lora"].disk_bytes == 4 * 8_388_608
    assert costs["probe/adapter-activations"].flops == pytest.approx(6.5e17, rel=0.02)
    assert costs["probe/adapter-activations"].gpu_h == pytest.approx(27 / 60, rel=0.02)
    assert costs["probe/adapter-activations"].disk_bytes == pytest.approx(9e9, rel=0.01)
    # 448 + 64 + 8 cells of 16 documents of 2,048 tokens are 1.1e18; running only the layers above halves it.
    assert costs["ablate/leave-one-out"].flops == pytest.approx(1.1e18 / 2, rel=0.05)
    assert costs["evaluate/base"].tokens == (30 + 500 + 198) * (200 + 32768)


def test_llm_calls_are_counted_and_priced_where_a_price_is_known() -> None:
    costs = estimate(plan(*PAPER, provider="openai:gpt-5-mini"))
    assert costs["interpret/autointerp/adapter-activations"].llm_calls == 2 * 448
    assert costs["interpret/autointerp/batch-topk"].llm_calls == 3584
    assert 0 < (costs["interpret/autointerp/batch-topk"].usd or 0) < 100
    whole = total(costs.values())
    assert whole.usd == pytest.approx(sum(c.usd or 0 for c in costs.values()))
    nobody = estimate(plan(*PAPER, provider="openai:some-future-model"))
    assert nobody["categorise/autointerp"].usd is None
    assert total(nobody.values()).usd is None
    assert total(estimate(plan()).values()).llm_calls == 0


def test_settings_change_the_estimate() -> None:
    one, two = estimate(plan()), estimate(plan("rank1-lora.epochs=10", "features.documents=100"))
    assert two["train/rank1-lora"].tokens == 2 * one["train/rank1-lora"].tokens
    assert two["probe/mlp-neurons"].tokens == pytest.approx(one["probe/mlp-neurons"].tokens / 10)
    four = estimate(plan("rank1-lora.rank=4", "rank1-lora.layer_stride=2"))
    assert four["probe/adapter-activations"].disk_bytes == 2 * one["probe/adapter-activations"].disk_bytes


def test_a_model_that_nobody_wrote_down_is_said_to_be_unknown() -> None:
    costs = estimate(plan("model.path=someone/unheard-of"))
    assert costs["train/rank1-lora"].unknown == "model size known after download"
    assert total(costs.values()).unknown


def test_data_that_nobody_wrote_down_must_be_readable() -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        estimate(plan("data.path=gone.jsonl"))


def test_a_model_that_does_not_fit_is_refused_before_loading() -> None:
    paper = plan(*PAPER)
    names = [s.name for s in paper.steps]
    check_memory(paper, ["probe/mlp-neurons"], 140e9, "cuda:0")
    with pytest.raises(UsageError, match=r"train/full-finetune needs about 524 GB .*140 GB free.*fsdp=true"):
        check_memory(paper, names, 140e9, "cuda:0")
    with pytest.raises(UsageError, match=r"evaluate/base needs about 66 GB .* 24 GB free"):
        check_memory(paper, ["evaluate/base"], 24e9, "cuda:0")
    spread = plan(*PAPER, "full-finetune.processes=8", "full-finetune.fsdp=true")
    check_memory(spread, names, 140e9, "cuda:0")
    check_memory(plan(), names, 1e9, "cuda:0")


@pytest.mark.parametrize("preset", ["demo", "tiny", "small", "paper-text", "paper-code", "corrected"])
def test_every_preset_is_planned_and_priced_offline(preset: str) -> None:
    roster = read_roster(find_roster(None))
    made = make_plan(roster, Manager(roster), "rank1-lora", preset=preset, provider=["openai:gpt-5-mini"])
    costs = estimate(made)
    whole = total(costs.values())
    assert whole.unknown is None
    assert whole.flops > 0
    assert whole.usd is not None
    if preset.startswith("paper"):
        assert made.row.model.path == "Qwen/Qwen2.5-32B-Instruct"
        assert whole.gpu_h > 20
        assert (made.step("train/rank1-lora").config.model_dump()["lr"]) == 1e-3
        assert (made.row.read_chat is not None) == (preset == "paper-code")


def test_the_total_of_nothing_is_nothing() -> None:
    assert total([]) == Estimate()
