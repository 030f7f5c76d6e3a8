"""The prompts of the paper's appendix B, word for word, and how they are filled in.

Typesetting is undone: curly quotes and the fence are plain characters. `{{` and `}}` stand for single braces. What is
filled in is data: it is put in place in one pass and is never itself read as a template.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

EXPLAIN = """\
We're studying neurons in a neural network. Each neuron looks for some particular \
thing in a short document. Look at the parts of the document where the neuron \
activates and describe what it's firing for.
Some activations will be noisy, in these cases you'll have to look for common \
phrases or concepts in the examples.
If a feature always activates for the same token, you should note this in your \
explanation, and also state whether that feature represents that token in some \
specific context. You may need to look at words surrounding activating tokens \
in order to understand why a feature is firing.
Features should have a clear, singular explanation and should be monosemantic. \
If there isn't a clear monosemantic explanation, note this.
Your explanation should not exceed ten words. Don't write complete sentences. \
The neuron might be responding to:
- Individual tokens or specific words
- Phrases or expressions
- Abstract concepts or behaviors
- Broader context or topics
The activation format shows the full text first, then lists tokens where the neuron \
fired along with their activation strengths (0-10 scale). Higher values mean \
stronger activation.
For example:
cat and mouse ran around the tree. They quickly
tree 7.81
ran 2.30
around 1.01
Look at every example, and then generate an explanation. After generating an \
explanation, assess how monosemantic the feature is.
<neuron_activations>
{activations_str}
</neuron_activations>
Classify the feature's interpretability:
0: The feature is specific, clear, and monosemantic. All given examples clearly \
adhere to the explanation. The explanation is not broad, and the examples are not \
noisy. This feature has a clear and obvious interpretation.
1: The feature may be broad or noisy, but ALL given examples still adhere to the \
generated explanation. The explanation may not be obvious.
2: The feature appears polysemantic. Some examples do not clearly adhere to the \
generated explanation. The explanation does not cleanly explain the given examples.
Respond with JSON in exactly this format:
{{
"explanation": "your concise explanation in just a few words",
"classification": <0, 1, or 2>,
"classification_reasoning": "brief justification for your classification"
}}"""
"""Appendix B.1: explains and grades one feature."""


def _marked(prompt: str) -> str:
    return prompt.replace(
        "For example:\ncat and mouse ran around the tree.",
        "The strongest token of each text is marked <<like this>> in it.\n"
        "For example:\ncat and mouse ran around the <<tree>>.",
    )


EXPLAIN_MARKED = _marked(EXPLAIN)
"""The same with one sentence more, for evidence whose strongest tokens are marked."""

_FORMAT = EXPLAIN[EXPLAIN.index("The activation format") : EXPLAIN.index("Look at every example")]
_GRADES = EXPLAIN[EXPLAIN.index("<neuron_activations>") : EXPLAIN.index("Respond with JSON")]

JUDGE = (
    """\
We're studying neurons in a neural network. Each neuron looks for some particular \
thing in a short document. Another reader has looked at the parts of the document \
where one neuron activates, and this is what it is said to fire for:
"{explanation}"
"""
    + _FORMAT
    + """\
Look at every example, and then assess how well the examples adhere to this \
explanation, and how monosemantic the feature is.
"""
    + _GRADES
    + """\
Respond with JSON in exactly this format:
{{
"classification": <0, 1, or 2>,
"classification_reasoning": "brief justification for your classification"
}}"""
)
"""Not in the paper, whose explainer grades itself: grades an explanation by B.1's evidence and classes."""

JUDGE_MARKED = _marked(JUDGE)
"""The same for evidence whose strongest tokens are marked."""

CATEGORIES = """\
You will be provided with a list of interpretations of MLP neurons from a \
large language model. Each interpretation describes what a particular learned \
feature detects or responds to during tasks.
Your task is to identify high-level functional role categories that capture what \
these features are doing computationally.
Read through all feature interpretations carefully
Identify natural groupings based on the computational or functional role each \
feature plays
Generate 5-8 high-level categories that capture the major functional roles
Important considerations:
- Focus on computational function (what role the feature plays) rather than \
surface-level similarity
- Categories should be mutually exclusive when possible, though some features \
may have dual roles
- Aim for categories that would generalize across different types of tasks
- Include 3-5 example feature interpretations for each category (copied exactly \
from the list provided)
Output your response as a JSON object with the following structure:
```json
{{
"categories": [
{{
"string_id": "category_identifier_in_snake_case",
"name": "Human Readable Category Name",
"definition": "A 1-2 sentence description of what functional role these features serve.",
"examples": [
"exact feature interpretation from the list",
"another feature interpretation from the list",
"additional examples as needed"
]
}}
],
"summary": "Your overall categorization logic and any notable patterns you observed"
}}
```
Ensure your response contains ONLY the JSON object, with no additional text before or after.
Here are the feature interpretations to categorize:
{feature_list}"""
"""Appendix B.2, step 1: makes categories from explanations."""

CATEGORISE = """\
Categorize this neural network feature into ONE of the given categories.
Feature explanation: "{feature.explanation}"
Activation examples (showing what tokens/contexts activate this feature):
{examples_str}
Available categories:
{categories_str}
Based on the feature explanation and activation examples, which category best fits this feature?
Reply with ONLY the category string_id, nothing else.
Your response:"""
"""Appendix B.2, step 2: puts one feature into a category."""

SUBCATEGORIES = """\
You will be provided with a list of interpretations of features of a large language model. All of them belong to one \
functional category:
{name}: {definition}
Divide the category into 2-6 subcategories by what the features do more specifically. Subcategories should be mutually \
exclusive when possible.
Output your response as a JSON object with the following structure:
{{
"categories": [
{{
"string_id": "subcategory_identifier_in_snake_case",
"name": "Human Readable Subcategory Name",
"definition": "A 1-2 sentence description of what these features do.",
"examples": ["exact feature interpretation from the list"]
}}
],
"summary": "Your overall logic"
}}
Ensure your response contains ONLY the JSON object, with no additional text before or after.
Here are the feature interpretations to divide:
{feature_list}"""
"""The paper has subcategories of its dictionary's latents and does not print their prompt; this one is ours."""

_RATE = """\
Reply with ONLY a JSON object {{"ratings": [...]}} that holds one whole number from 0 (certainly not) to 10 \
(certainly) for each of the {n} examples, in order."""

DETECTION = (
    """\
A feature of a neural network activates on some texts. This is what it is said to respond to:
"{explanation}"
For each of the {n} examples below, judge whether the feature activates somewhere in the text.
{examples_str}

"""
    + _RATE
)
"""Detection: which contexts activate."""

FUZZING = (
    """\
A feature of a neural network activates on some tokens. This is what it is said to respond to:
"{explanation}"
In each of the {n} examples below, some tokens are marked <<like this>>. Judge whether they are the tokens on which \
the feature activates.
{examples_str}

"""
    + _RATE
)
"""Fuzzing: which contexts have the right tokens marked."""

INTRUDER = (
    """\
A feature of a neural network activates on the tokens marked <<like this>> in all but one of the {n} examples below. \
The other one is an intruder, in which the marks have nothing to do with the feature. Find the intruder: rate how \
likely each example is to be it.
{examples_str}

"""
    + _RATE
)
"""Intruder: which context does not belong. The explanation is not shown."""

REPAIR = """\
{prompt}

Your previous reply could not be used: {reason}. It was:
<previous_reply>
{reply}
</previous_reply>
Reply again, with nothing but what was asked for."""
"""Not in the paper: the one repair turn after a reply that could not be read."""

_PLACE = re.compile(r"\{\{|\}\}|\{([a-z_.]+)\}")


def fill(template: str, values: Mapping[str, str]) -> str:
    """The template with each `{name}` replaced by its value, in one pass.

    Raises:
        KeyError: the template has a name that `values` lacks.
    """
    return _PLACE.sub(lambda m: values[m.group(1)] if m.group(1) else m.group()[0], template)
