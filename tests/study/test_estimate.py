"""What a plan will cost: the paper's run against its hand-made budget, and the organism's against what is there."""

from __future__ import annotations

import re

import pytest

from harness.contract.settings import EvaluateConfig
from harness.errors import DataError, UsageError
from harness.study.check import check_memory
from harness.study.costs import Cost, total
from harness.study.machine import Machine
from harness.study.manager import Manager
from harness.study.plan import make_plan, parse_settings
from harness.study.registry import read_registry
from harness.study.registry_file import find_registry
from harness.study.step import Plan
from harness.study.steps import estimate
from harness.study.steps.evaluate import check_context
from harness.study.steps.learn import check_dictionaries

PAPER = (
    "model.path=Qwen/Qwen2.5-32B-Instruct", "model.dtype=bfloat16", "data.path=simplescaling/s1K-1.1",
    "evaluate.benchmarks=[aime24_nofigures,math500,gpqa_diamond]", "batch-topk.k=16",
    "rank1-lora.gradient_checkpointing=true", "leave-one-out.n_documents=16", "leave-one-out.method=exact",
)  # fmt: skip


def plan(*pairs: str, provider: str | None = None) -> Plan:
    registry = read_registry(find_registry(None))
    providers = [provider] if provider else []
    return make_plan(registry, Manager(registry), "rank1-lora", settings=parse_settings(pairs), provider=providers)


def test_the_papers_run_costs_what_was_worked_out_by_hand() -> None:
    """Paper-spec 1.20, with nothing on this machine but the registry."""
    costs = estimate(plan(*PAPER))
    assert costs["train/rank1-lora"].flops == pytest.approx(1e19, rel=0.03)
    assert costs["train/rank1-lora"].disk_bytes == 4 * 8_388_608
    assert costs["probe/adapter-activations"].flops == pytest.approx(6.5e17, rel=0.02)
    assert costs["probe/adapter-activations"].gpu_h == pytest.approx(27 / 60, rel=0.02)
    assert costs["probe/adapter-activations"].disk_bytes == pytest.approx(9e9, rel=0.01)
    # 448 + 64 + 8 cells of 16 documents of 2,048 tokens are 1.1e18; running only the layers above halves it.
    assert costs["ablate/leave-one-out"].flops == pytest.approx(1.1e18 / 2, rel=0.05)
    assert costs["evaluate/base"].tokens == (30 + 500 + 198) * (200 + 30000)


def test_what_judging_and_learning_cost_depends_on_what_is_explained() -> None:
    """64 of 100 held-out documents of 10,000 tokens: splice and 16 latents; adapter and base for the first judge."""
    costs = estimate(plan(*PAPER, "judging.splice_documents=64"))
    assert costs["judge/pca"].tokens == 64 * 10_000
    assert costs["judge/batch-topk"].tokens == 64 * 10_000 * (2 + 1 + 16)
    assert costs["learn/pca"].disk_bytes == 0
    assert costs["learn/batch-topk"].disk_bytes == 6 * 16 * 10_000_000 + 3584 * (64 + 20) * 25 * 20  # codes, contexts
    few = estimate(plan(*PAPER, "judging.splice_documents=1000"))
    assert few["judge/pca"].tokens == 100 * 10_000, "there are no more held-out documents"
    all_explained = estimate(plan(*PAPER, "judging.explain_baselines=true"))
    assert all_explained["learn/pca"].disk_bytes > 0


def test_training_needs_room_for_its_checkpoints() -> None:
    costs = estimate(plan(*PAPER))
    assert costs["train/full-finetune"].scratch_bytes == pytest.approx(2 * 12 * 32.76e9, rel=0.01)
    assert costs["train/rank1-lora"].scratch_bytes == 2 * 12 * 8_388_608
    assert total(costs.values()).scratch_bytes == costs["train/full-finetune"].scratch_bytes


def test_the_grader_is_priced_at_most() -> None:
    pairs = [*PAPER, "evaluate.repeats=4", "evaluate.temperature=0.6"]
    graded = estimate(plan(*pairs, provider="grader=openai:gpt-5-mini"))
    assert graded["verify/base"].llm_calls == 4 * (30 + 500 + 198)
    assert 0 < (graded["verify/base"].usd or 0) < 20
    twice = estimate(plan(*pairs, "answers.both_orders=true", provider="grader=openai:gpt-5-mini"))
    assert twice["verify/base"].llm_calls == 2 * graded["verify/base"].llm_calls
    assert graded["evaluate/base"].disk_bytes == 3 * graded["evaluate/base"].tokens


def test_answers_as_long_as_the_context_are_refused_before_training() -> None:
    check_context(plan(*PAPER))
    check_context(plan())
    with pytest.raises(UsageError, match=r"answers of 32768 tokens leave no room .* 32768 tokens of Qwen/Qwen2.5-32B"):
        check_context(plan(*PAPER, "evaluate.max_gen_toks=32768"))


def test_llm_calls_are_counted_and_priced_where_a_price_is_known() -> None:
    costs = estimate(plan(*PAPER, provider="openai:gpt-5-mini"))
    assert costs["interpret/autointerp/adapter-activations"].llm_calls == 2 * 2 * 448  # two questions each
    assert costs["interpret/autointerp/batch-topk"].llm_calls == 2 * 3584
    assert (
        costs["cover/autointerp"].llm_calls
        == sum(c.llm_calls for name, c in costs.items() if name.startswith("interpret/")) / 2
    )
    papers = estimate(plan(*PAPER, "autointerp.evidence=paper-text", provider="openai:gpt-5-mini"))
    assert papers["interpret/autointerp/batch-topk"].llm_calls == 3584
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
    assert two["probe/mlp-neurons"].tokens == pytest.approx(one["probe/mlp-neurons"].tokens / 10, rel=0.05)
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
    check_memory(paper, [paper.step("probe/mlp-neurons")], 140e9, "cuda:0")
    with pytest.raises(UsageError, match=r"train/full-finetune needs about 524 GB .*140 GB free.*fsdp=true"):
        check_memory(paper, paper.steps, 140e9, "cuda:0")
    with pytest.raises(UsageError, match=r"evaluate/base needs about 66 GB .* 24 GB free"):
        check_memory(paper, [paper.step("evaluate/base")], 24e9, "cuda:0")
    tp = ("evaluate.backend=vllm", "evaluate.tensor_parallel_size=4")
    split = plan(*PAPER, *tp)
    check_memory(split, [split.step("evaluate/base")], 24e9, "cuda:0")
    with pytest.raises(UsageError, match=r"ablate/groups needs about 66 GB"):
        check_memory(split, [split.step("ablate/groups")], 24e9, "cuda:0")
    spread = plan(*PAPER, "full-finetune.processes=8", "full-finetune.fsdp=true")
    check_memory(spread, spread.steps, 140e9, "cuda:0")
    check_memory(plan(), plan().steps, 1e9, "cuda:0")


@pytest.mark.parametrize("preset", ["demo", "tiny", "laptop", "small", "paper-text", "paper-code", "corrected"])
def test_every_preset_is_planned_and_priced_offline(preset: str) -> None:
    registry = read_registry(find_registry(None))
    made = make_plan(registry, Manager(registry), "rank1-lora", preset=preset, provider=["openai:gpt-5-mini"])
    costs = estimate(made)
    check_context(made)
    whole = total(costs.values())
    assert whole.unknown is None
    assert whole.flops > 0
    assert whole.usd is not None
    if preset.startswith("paper"):
        assert made.study.model.path == "Qwen/Qwen2.5-32B-Instruct"
        assert 40 < whole.gpu_h < 100
        assert (made.step("train/rank1-lora").config.model_dump()["lr"]) == 1e-3
        assert (made.study.read_chat is not None) == (preset == "paper-code")
        evaluate = made.study.settings(EvaluateConfig)
        assert (evaluate.backend, evaluate.tensor_parallel_size) == ("vllm", 2 if preset == "paper-code" else 8)


@pytest.mark.parametrize("preset", ["small", "paper-text", "paper-code"])
def test_every_field_of_the_papers_presets_says_where_it_comes_from(preset: str) -> None:
    """A section of the specification behind each field; a preset for one GPU may give a reason instead."""
    lines = find_registry(None).read_text(encoding="utf-8").splitlines()
    (start,) = [i for i, line in enumerate(lines) if line.startswith(f"      {preset}:")]
    fields = []
    for line in lines[start + 1 :]:
        if line.strip() and not line.startswith(" " * 8) and not line.lstrip().startswith("#"):
            break
        fields += [line] if line.startswith(" " * 8) and "<<" not in line else []
    assert len(fields) > 10
    assert not [line for line in fields if not re.search(r" # (?:\d\.\d+\b|\w)", line)]
    if preset != "small":
        assert not [line for line in fields if not re.search(r" # \d\.\d+", line)]


def test_what_is_held_out_for_benchmarks_is_not_trained_on() -> None:
    whole, less = (
        estimate(plan("data.held_out=0.25", f"evaluate.benchmarks=[{benchmark}]"))["train/rank1-lora"].tokens
        for benchmark in ("organism_chain", "trace_loss")
    )
    assert less == pytest.approx(0.75 * whole)


def test_the_total_of_nothing_is_nothing() -> None:
    assert total([]) == Cost()


def test_tokens_are_those_that_training_and_probes_see() -> None:
    """Counted by the subject itself, chat included; traces beyond max_length are left out."""
    from harness.model.subject import load_tokenizer
    from harness.model.traces import load_traces

    made = plan("data.limit=50", "rank1-lora.max_length=130", "rank1-lora.epochs=3", "features.documents=20")
    tokenizer = load_tokenizer(made.study.model)
    lengths = [len(made.study.chat.document(tokenizer, t).ids) for t in load_traces(made.study.data)]
    costs = estimate(made)
    assert costs["train/rank1-lora"].tokens == 3 * sum(n for n in lengths if n <= 130)
    assert costs["train/full-finetune"].tokens == 5 * sum(lengths)
    assert costs["probe/adapter-activations"].tokens == sum(lengths[:20])


def test_a_second_fit_and_more_exemplars_take_time_and_room() -> None:
    base, single = estimate(plan()), estimate(plan("judging.second_fit=false"))
    assert base["judge/batch-topk"].cpu_flops > single["judge/batch-topk"].cpu_flops + 1e11
    assert base["judge/ica"].cpu_flops > single["judge/ica"].cpu_flops + 1e11
    fewer = estimate(plan("features.exemplars=8", "features.sampled=0"))
    saved = base["probe/mlp-neurons"].disk_bytes - fewer["probe/mlp-neurons"].disk_bytes
    assert saved == 480 * (64 + 20 - 8) * 25 * 20, "features, contexts, tokens in each, bytes of a token"


@pytest.mark.parametrize(
    ("step", "wall_s"),
    [("train/rank1-lora", 34.9), ("train/full-finetune", 33.0), ("ablate/groups", 35.0), (None, 186.3)],
)
def test_times_are_within_a_factor_of_two_of_a_measured_run(step: str | None, wall_s: float) -> None:
    """The default study as LOG.md has it: one thread of 105 GFLOP/s for each of two processes."""
    costs, machine = estimate(plan()), Machine(105e9, jobs=2)
    chosen = total(costs.values()) if step is None else costs[step]
    said = machine.seconds(chosen.cpu_flops, chosen.other_s, chosen.gpu_h)
    assert wall_s / 2 < said < wall_s * 2


def test_a_gpu_is_measured_against_the_assumed_one() -> None:
    assert Machine(400e12, gpu=True).seconds(1e30, 0.0, gpu_h=2.0) == pytest.approx(7200)
    assert Machine(200e12, gpu=True).seconds(1e30, 1.0, gpu_h=2.0) == pytest.approx(14401)


def test_this_machine_is_measured_in_less_than_a_second() -> None:
    machine = Machine.measured("cpu", "float32", jobs=1)
    assert 1e8 < machine.flops_per_s < 1e14


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("batch-topk.k=300", r"batch-topk.k=300: there are 224 latents; --set batch-topk.k=224"),
        ("pca.k=29", r"pca.k=29: there are 28 latents; --set pca.k=28"),
        ("k-means.expansion=9000", r"252000 latents, and probes read 139,161 tokens: --set k-means.expansion=4473"),
        ("batch-topk.k=[2,300]", r"batch-topk.k=300"),
    ],
)
def test_a_dictionary_that_cannot_be_fitted_is_refused_with_the_cure(pair: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_dictionaries(plan(pair), dry_run=True)


def test_fewer_documents_are_too_few_for_a_dictionary() -> None:
    with pytest.raises(UsageError, match=r"data\.limit, features\.documents"):
        check_dictionaries(plan("features.documents=1"), dry_run=True)
    check_dictionaries(plan(), dry_run=True)
    check_dictionaries(plan(*PAPER), dry_run=True)
