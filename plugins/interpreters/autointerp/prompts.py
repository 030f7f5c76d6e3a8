"""The prompts: the paper's appendix B, word for word, and ours. Their texts are files; `fill` puts values in.

Typesetting is undone: curly quotes and the fence are plain characters. `{{` and `}}` stand for single braces. What is
filled in is data: it is put in place in one pass and is never itself read as a template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.resources import files

_TEXTS = files(__package__) / "prompt_texts"


def _read(name: str) -> str:
    return (_TEXTS / f"{name}.txt").read_text(encoding="utf-8").removesuffix("\n")


def _marked(prompt: str) -> str:
    return prompt.replace(
        "For example:\ncat and mouse ran around the tree.",
        "The strongest token of each text is marked <<like this>> in it.\n"
        "For example:\ncat and mouse ran around the <<tree>>.",
    )


def _both(prompt: str) -> str:
    return prompt.replace(
        "For example:\ncat and mouse ran around the tree.",
        "The first examples are where this neuron activates most. The others are drawn evenly from all the tokens on "
        "which it activates at all, weak ones too. The token that each example was chosen for is marked <<like this>>; "
        "ask of it whether it adheres to the explanation.\nFor example:\ncat and mouse ran around the <<tree>>.",
    )


EXPLAIN = _read("explain")
"""Appendix B.1: explains and grades one feature."""
EXPLAIN_MARKED = _marked(EXPLAIN)
"""The same with one sentence more, for evidence whose strongest tokens are marked."""
JUDGE = _read("judge")
"""Not in the paper, whose explainer grades itself: grades an explanation by B.1's evidence and classes."""
JUDGE_MARKED = _marked(JUDGE)
"""The same for evidence whose strongest tokens are marked."""
JUDGE_BOTH = _both(JUDGE)
"""The same for the highest contexts and those of all strengths together, their own tokens marked."""
CATEGORIES = _read("categories")
"""Appendix B.2, step 1: makes categories from explanations."""
CATEGORISE = _read("categorise")
"""Appendix B.2, step 2: puts one feature into a category."""
SUBCATEGORIES = _read("subcategories")
"""The paper has subcategories of its dictionary's latents and does not print their prompt; this one is ours."""
DETECTION = _read("detection")
"""Which contexts activate."""
FUZZING = _read("fuzzing")
"""Which contexts have the right tokens marked."""
INTRUDER = _read("intruder")
"""Which context does not belong. The explanation is not shown."""
SIMULATION = _read("simulation")
"""How strongly each token of a context activates."""
OUTPUT = _read("output")
"""Which tokens the feature raises."""
REPAIR = _read("repair")
"""Not in the paper: the one repair turn after a reply that could not be read."""

_PLACE = re.compile(r"\{\{|\}\}|\{([a-z_.]+)\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each `{name}` replaced by its value, in one pass.

    Raises:
        KeyError: the template has a name that `values` lacks.
    """
    return _PLACE.sub(lambda m: values[m.group(1)] if m.group(1) else m.group()[0], template)
