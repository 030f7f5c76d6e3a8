"""Classes of tokens, and the functional role that each class stands for.

The lists are short and closed on purpose: they are the lexical interpreter's whole knowledge of language.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

OPERATORS = frozenset("+-−*×·⋅∗/÷^±√%")
RELATIONS = frozenset("=<>≤≥≠≈≡∼→←⇒⇔↦∈")
ANSWER = frozenset({"answer", "answers", "think", "boxed", "final"})
VERIFICATION = frozenset(
    "wait check checking verify verifying recheck confirm actually hmm again mistake wrong correct sure double".split()
)
DISCOURSE = frozenset(
    "so then therefore thus hence next now first second third finally also but because since given let suppose start "
    "step we have means implies consequently however alternatively okay ok if".split()
)
PLURAL = {
    "control": "control and answer tokens",
    "newline": "line breaks",
    "space": "spaces",
    "digit": "digits",
    "letter": "single letters",
    "operator": "operators",
    "relation": "relation signs",
    "punctuation": "punctuation",
    "verification": "verification words",
    "discourse": "discourse markers",
    "word": "words",
    "multibyte": "non-ASCII text",
}
"""Every class, and what it is called."""
SINGULAR = {
    **{name: f"a {name}" for name in PLURAL},
    "control": "a control token",
    "newline": "a line break",
    "letter": "a letter",
    "operator": "an operator",
    "relation": "a relation sign",
    "punctuation": "punctuation",
    "verification": "a verification word",
    "discourse": "a discourse marker",
    "multibyte": "non-ASCII text",
}
_CONTROL = re.compile(r"<\|[^|]*\|>|</?[A-Za-z_]+>|\[/?[A-Z_]{3,}\]")


@lru_cache(maxsize=65536)
def classify(token: str) -> str:
    """The class of a token, its leading space aside."""
    text = token.strip(" ")
    if not text:
        return "space" if token else "multibyte"
    if text.isspace():
        return "newline" if "\n" in text or "\r" in text else "space"
    text = text.strip()
    if _CONTROL.fullmatch(text) or text.casefold() in ANSWER:
        return "control"
    if text.isascii() and text.isdigit():
        return "digit"
    if text.isascii() and text.isalpha():
        return _word(text)
    if all(c in OPERATORS or c in RELATIONS for c in text):
        return "relation" if any(c in RELATIONS for c in text) else "operator"
    if all(unicodedata.category(c)[0] in "PS" or c.isspace() for c in text):
        return "punctuation"
    return "word" if text.isascii() else "multibyte"


def _word(text: str) -> str:
    if len(text) == 1:
        return "letter"
    lowered = text.casefold()
    return "verification" if lowered in VERIFICATION else "discourse" if lowered in DISCOURSE else "word"


ROLE_OF = {
    "operator": "computation",
    "relation": "computation",
    "digit": "value_tracking",
    "letter": "variable_tracking",
    "discourse": "discourse_markers",
    "verification": "verification",
    "control": "answer_formatting",
    "newline": "syntax_boundaries",
    "space": "syntax_boundaries",
    "punctuation": "syntax_boundaries",
    "word": "content_words",
    "multibyte": "content_words",
}
"""Class -> string_id of the functional role. A feature whose `grade_top` is 2 has the role `mixed`."""
ROLES = {
    "computation": ("Computation", "Operators and relation signs: where a calculation is set up or its result is due."),
    "value_tracking": ("Value tracking", "Digits and numbers: operands and results that are read, copied or produced."),
    "variable_tracking": ("Variable tracking", "Single letters: which variable is being defined or used."),
    "discourse_markers": ("Discourse and procedural markers", "Words that order the steps of the reasoning."),
    "verification": ("Verification", "Words with which the reasoning stops to check itself."),
    "answer_formatting": ("Control and answer formatting", "Control tokens and words that open or close the answer."),
    "syntax_boundaries": ("Syntax and boundaries", "Punctuation and white space between the parts of the text."),
    "content_words": ("Content words", "Words of the question and the prose that carry no reasoning role."),
    "mixed": ("Mixed", "Features that fire on unlike tokens, without one consistent reading."),
}
"""string_id -> (name, definition), in the order in which categories are emitted."""
