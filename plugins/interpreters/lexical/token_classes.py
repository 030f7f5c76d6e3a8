"""Classes of tokens, and the functional role that each stands for.

A class is a row of `CLASSES`: its names, its role, and a predicate of a token with the characters on either side of
it, which tell a whole word from a piece of one and a LaTeX command from a word. The rows go from special to general: a
token belongs to every row that holds, and its own class is the first. Other scripts than Latin are classes by script;
the lists of words are English, short and closed on purpose.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple


class Token(NamedTuple):
    """A token without its leading spaces, and the characters before and after it; empty where they are not known."""

    text: str
    left: str = ""
    right: str = ""


class TokenClass(NamedTuple):
    """A row of the table."""

    name: str
    plural: str
    singular: str
    role: str
    holds: Callable[[Token], bool]

    @property
    def noun(self) -> str:
        """Its singular without the article."""
        return self.singular.removeprefix("a ").removeprefix("an ")


OPERATORS = frozenset("+-−*×·⋅∗/÷^±√%")
RELATIONS = frozenset("=<>≤≥≠≈≡∼→←⇒⇔↦∈")
ANSWER = frozenset("answer answers boxed final".split())
BACKTRACKING = frozenset("wait hmm but however alternatively actually oops instead mistake wrong".split())
VERIFICATION = frozenset(
    "check checking checks verify verifying recheck confirm confirms again correct sure double right".split()
)
DISCOURSE = frozenset(
    "so then therefore thus hence next now first second third finally also because since given let suppose start step "
    "means implies consequently okay ok alright if maybe perhaps similarly note assume".split()
)
FUNCTION = frozenset(
    "a an the we have this that these those there here it its i you he she they them their his her our us me my your "
    "to of in on at by for from with without into over under between through about as than like up out per is are was "
    "were be been being am do does did has had can could will would shall should may might must not no nor or and both "
    "each every all any some such which who whom whose what when where why how while until only just more most other "
    "same very too".split()
)
NUMBERS = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty hundred thousand million half "
    "twice".split()
)
SCRIPTS = {
    "greek": "Greek", "cyrillic": "Cyrillic", "cjk": "Chinese", "hiragana": "Hiragana", "katakana": "Katakana",
    "hangul": "Hangul", "arabic": "Arabic", "hebrew": "Hebrew", "devanagari": "Devanagari", "thai": "Thai",
}  # fmt: skip
"""First word of a letter's Unicode name -> script."""
_CONTROL = re.compile(r"<\|[^|]*\|>|</?[A-Za-z_]+>|\[/?[A-Z_]{3,}\]")
_MARKDOWN = re.compile(r"\*{2,}|#+|`+|~~+|_{2,}|-{3,}")
_LATEX = re.compile(r"[\\$_{}]|\^.")
_SENTENCE_ENDS = ".!?…。！？।"


def _letters(token: Token) -> bool:
    """Letters with their accents, in one piece or more."""
    text = token.text.replace("'", "").replace("’", "")
    return text[:1].isalpha() and all(c.isalpha() or unicodedata.category(c)[0] == "M" for c in text)


def _latin(token: Token) -> bool:
    return _letters(token) and unicodedata.name(token.text[0], "").startswith("LATIN")


def _starts(token: Token) -> bool:
    return not token.left.isalpha()


def _whole(token: Token) -> bool:
    return _starts(token) and not token.right.isalpha()


def _one_of(words: frozenset[str]) -> Callable[[Token], bool]:
    return lambda token: token.text.casefold() in words and _whole(token)


def _word(token: Token) -> bool:
    return len(token.text) > 1 and _letters(token)


def _letter(token: Token) -> bool:
    """One letter that stands alone; `a` and `I` after a space are words."""
    is_word = token.text in ("a", "A", "I") and token.left in (" ", "\n", "")
    mathematical = len(token.text) == 1 and unicodedata.name(token.text, "").startswith("MATHEMATICAL")
    return mathematical or (len(token.text) == 1 and _latin(token) and _whole(token) and not is_word)


def _signs(token: Token) -> bool:
    return bool(token.text.strip()) and all(unicodedata.category(c)[0] in "PS" or c.isspace() for c in token.text)


def _relation(token: Token) -> bool:
    text = token.text.strip()
    arrow = len(text) == 1 and "ARROW" in unicodedata.name(text, "")
    return arrow or (_mathematical(token) and any(c in RELATIONS for c in text))


def _mathematical(token: Token) -> bool:
    text = token.text.strip()
    return bool(text) and all(c in OPERATORS or c in RELATIONS or unicodedata.category(c) == "Sm" for c in text)


def _punctuation(token: Token) -> bool:
    return _signs(token) and not (_mathematical(token) or _LATEX.search(token.text) or _markdown(token))


def _markdown(token: Token) -> bool:
    return _MARKDOWN.fullmatch(token.text.strip()) is not None or _bullet(token)


def _bullet(token: Token) -> bool:
    return token.text in ("-", "*", "•", "+") and token.left == "\n" and token.right == " "


def _of_category(*categories: str) -> Callable[[Token], bool]:
    return lambda token: _signs(token) and unicodedata.category(token.text.strip()[0]) in categories


def _script(prefix: str) -> Callable[[Token], bool]:
    return lambda token: _letters(token) and unicodedata.name(token.text[0], "").lower().startswith(prefix)


CLASSES: tuple[TokenClass, ...] = (
    TokenClass("control", "control tokens", "a control token", "answer_formatting",
               lambda t: _CONTROL.fullmatch(t.text.strip()) is not None),
    TokenClass("newline", "line breaks", "a line break", "syntax_boundaries",
               lambda t: t.text.isspace() and ("\n" in t.text or "\r" in t.text)),
    TokenClass("space", "spaces", "a space", "syntax_boundaries", lambda t: t.text.isspace()),
    TokenClass("answer", "answer words", "an answer word", "answer_formatting", _one_of(ANSWER)),
    TokenClass("command", "LaTeX commands", "a LaTeX command", "notation",
               lambda t: (t.text[:1] == "\\" and t.text[1:].isalpha()) or (t.left == "\\" and _latin(t))),
    TokenClass("markdown", "markdown", "markdown", "syntax_boundaries", _markdown),
    TokenClass("latex", "LaTeX signs", "a LaTeX sign", "notation",
               lambda t: _signs(t) and _LATEX.search(t.text) is not None),
    TokenClass("digit", "digits", "a digit", "value_tracking", lambda t: t.text.strip().isnumeric()),
    TokenClass("number", "number words", "a number word", "value_tracking", _one_of(NUMBERS)),
    TokenClass("relation", "relation signs", "a relation sign", "computation", _relation),
    TokenClass("operator", "operators", "an operator", "computation", _mathematical),
    TokenClass("end", "sentence ends", "a sentence end", "syntax_boundaries",
               lambda t: _signs(t) and any(c in _SENTENCE_ENDS for c in t.text)),
    TokenClass("open", "opening brackets", "an opening bracket", "syntax_boundaries", _of_category("Ps", "Pi")),
    TokenClass("close", "closing brackets", "a closing bracket", "syntax_boundaries", _of_category("Pe", "Pf")),
    TokenClass("punctuation", "punctuation", "punctuation", "syntax_boundaries", _punctuation),
    TokenClass("backtracking", "backtracking words", "a backtracking word", "verification", _one_of(BACKTRACKING)),
    TokenClass("verification", "verification words", "a verification word", "verification", _one_of(VERIFICATION)),
    TokenClass("discourse", "discourse markers", "a discourse marker", "discourse_markers", _one_of(DISCOURSE)),
    TokenClass("letter", "single letters", "a letter", "variable_tracking", _letter),
    TokenClass("function", "function words", "a function word", "function_words", _one_of(FUNCTION)),
    *(
        TokenClass(key, f"{name} letters", f"a {name} letter",
                   "variable_tracking" if key == "greek" else "content_words", _script(key))
        for key, name in SCRIPTS.items()
    ),
    TokenClass("start", "word starts", "a word start", "content_words",
               lambda t: _letters(t) and _starts(t) and not _whole(t)),
    TokenClass("continuation", "word continuations", "a word continuation", "content_words",
               lambda t: _letters(t) and not _starts(t)),
    TokenClass("capital", "capitalised words", "a capitalised word", "content_words",
               lambda t: _word(t) and _starts(t) and t.text[0].isupper()),
    TokenClass("word", "words", "a word", "content_words",
               lambda t: _word(t) and not t.text[0].isupper()),
    TokenClass("mark", "punctuation and LaTeX marks", "a punctuation or LaTeX mark", "syntax_boundaries",
               lambda t: _signs(t) and all(unicodedata.category(c)[0] == "P" for c in t.text.strip())),
    TokenClass("character", "single letters of any kind", "a letter of any kind", "variable_tracking",
               lambda t: len(t.text) == 1 and t.text.isalpha()),
    TokenClass("boundary", "sentence and line ends", "a sentence or line end", "syntax_boundaries",
               lambda t: any(c in _SENTENCE_ENDS or c == "\n" for c in t.text)),
    TokenClass("mixed", "mixed tokens", "a mixed token", "content_words", lambda t: True),
)  # fmt: skip
"""Every class. The last holds on every token, so that each has a class of its own."""
INDEX = {c.name: i for i, c in enumerate(CLASSES)}
"""Name -> row."""


@lru_cache(maxsize=1 << 18)
def classes_of(token: Token) -> tuple[bool, ...]:
    """Per row, whether the token belongs to it."""
    return tuple(c.holds(token) for c in CLASSES)


def classify(token: Token) -> str:
    """The token's own class: the first row that holds."""
    return CLASSES[classes_of(token).index(True)].name


ROLES = {
    "computation": ("Computation", "Operators and relation signs: where a calculation is set up or its result is due."),
    "value_tracking": ("Value tracking", "Digits and numbers: operands and results that are read, copied or produced."),
    "variable_tracking": ("Variable tracking", "Single letters: which variable is being defined or used."),
    "notation": ("Mathematical notation", "LaTeX commands and signs, by which formulas are set."),
    "discourse_markers": ("Discourse and procedural markers", "Words that order the steps of the reasoning."),
    "verification": ("Verification and backtracking", "Words by which the reasoning checks itself or turns back."),
    "answer_formatting": ("Control and answer formatting", "Control tokens and words that open or close the answer."),
    "syntax_boundaries": ("Syntax and boundaries", "Punctuation and white space between the parts of the text."),
    "function_words": ("Function words", "Words of grammar: articles, pronouns, prepositions, auxiliaries."),
    "content_words": ("Content words", "Words of the question and the prose that carry no reasoning role."),
    "mixed": ("Mixed", "Features that fire on unlike tokens, without one consistent reading."),
}
"""string_id -> (name, definition), in the order in which categories are emitted."""
