"""What a plan will cost, before it runs."""

from __future__ import annotations

from harness.study.costs import Cost, CostModel
from harness.study.step import Plan
from harness.study.steps import kind_of


def estimate(plan: Plan) -> dict[str, Cost]:
    """Step name -> cost, without loading a model.

    Raises:
        DataError: the traces cannot be read, and nobody wrote down how many there are.
    """
    model = CostModel.of(plan)
    return {step.name: kind_of(step).cost(step, model) for step in plan.steps}
