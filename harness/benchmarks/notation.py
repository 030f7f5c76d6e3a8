r"""How an answer is written: what stands round it, and notations of the same thing.

`unwrap` is the one step that comes before every comparison, for the gold answer as well: it removes dollars, brackets,
fences, bold type, `\text{...}` and phrases such as "The answer is" or "Option". `plain_math` then rewrites what is left
in one notation, and `option_letter` reads the option that it names.
"""

from __future__ import annotations

import re
import unicodedata

_MACROS = (
    r"text|textbf|textit|textrm|textsf|texttt|textup|textnormal|textcircled|circled|emph|mathrm|mathbf|mathit|mathsf|mathtt|"
    r"mathbb|mbox|hbox|fbox|boxed|framebox|boldsymbol|bm|bf|rm|underline|ensuremath|operatorname\*?"
)
_ENVIRONMENTS = r"equation|align|aligned|displaymath|math|gather|gathered|center|split|multline"
_DELIMITERS = (
    r"\$\$(?P<x>.+)\$\$", r"\$(?P<x>[^$]+)\$", r"\\\((?P<x>(?:(?!\\\)).)+)\\\)", r"\\\[(?P<x>(?:(?!\\\]).)+)\\\]",
    r"```(?:[a-zA-Z]+\n)?(?P<x>(?:(?!```).)+)```", r"`(?P<x>[^`]+)`",
    r"\*\*\*(?P<x>[^*]+)\*\*\*", r"\*\*(?P<x>(?:(?!\*\*).)+)\*\*", r"\*(?P<x>(?:[^*]|\*(?=\}))+)\*",
    r"__(?P<x>[^_]+)__", r"_(?P<x>[^_]+)_", r"[\"“”](?P<x>[^\"“”]+)[\"“”]", r"['‘’](?P<x>[^'‘’]+)['‘’]",
    rf"\\begin\{{(?P<env>(?:{_ENVIRONMENTS})\*?)\}}(?P<x>.+)\\end\{{(?P=env)\}}",
    r"<(?P<tag>[a-z]+)>(?P<x>.+)</(?P=tag)>", r"\\left\.(?P<x>.+)\\right\.?",
)  # fmt: skip
_AROUND = [re.compile(pattern, re.DOTALL) for pattern in _DELIMITERS]
_SPACE = r"(?:\s|\\[,;:! ]|\\q?quad(?![a-zA-Z])|~)"
_EDGES = re.compile(rf"^(?:{_SPACE}|[=:])+|(?:{_SPACE}|(?<!\\)[.,;])+$")
_PHRASE = re.compile(
    r"(?:(?:so|thus|hence|therefore|then|finally)\b,?\s*)?"
    r"(?:(?:(?:the|my|our|its)\s+)?(?:(?:final|correct|right|best)\s+)*"
    r"(?:answer|result|solution|option|choice)s?\s*(?:(?:is|are|must be|would be|should be)\b|:|=)"
    r"|(?:(?:the|my|our|its)\s+)?(?:(?:final|correct|right|best)\s+)*(?:options?|choices?|letter)\b"
    r"|(?:i|we)\s+(?:choose|pick|select)\b|it\s+is\b|(?:so|thus|hence|therefore)\b,?)\s*:?\s*",
    re.IGNORECASE,
)
_OPENERS = re.compile(r"^(?:\\displaystyle(?![a-zA-Z])|\\(?:bf|rm|large|Large|huge)(?![a-zA-Z])|#+\s)\s*")

_CHARACTERS = {
    "−": "-", "–": "-", "π": r"\pi ", "°": r"^\circ ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∞": r"\infty ", "≈": r"\approx ", "≡": r"\equiv ",
    "∪": r"\cup ", "∩": r"\cap ", "²": "^2", "³": "^3", "\u200b": "", "\ufeff": "", "\u2060": "",
}  # fmt: skip
_FRACTIONS = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅛": "1/8", "⅙": "1/6"}
_LAYOUT = (
    (re.compile(r"\\!"), ""), (re.compile(r"\\(?:left|right)(?![a-zA-Z])"), ""), 
    (re.compile(r"\\[dtc]frac"), r"\\frac"),
    (re.compile(r"\\displaystyle(?![a-zA-Z])"), ""), (re.compile(r"\\?[$£€]"), ""),
    (re.compile(r"\\degree(?![a-zA-Z])"), r"^\\circ "), (re.compile(r"\{,\}"), ","),
)  # fmt: skip
_BETWEEN = re.compile(r"\s*(?:\\q?quad(?![a-zA-Z])|\\\\|(?<=[0-9a-zA-Z})\]])\s*\n\s*(?=[0-9a-zA-Z\\(\[]))[\s,]*")
_THOUSANDS = re.compile(r"(?<![0-9.,])(?<![0-9] )[0-9]{1,3}(?: [0-9]{3})+(?! ?[0-9])")
_MIXED = re.compile(r"(?<![0-9./^_}])(?<![0-9] )([0-9]+)(?: and | )([0-9]+) ?/ ?([0-9]+)(?! ?[0-9/])")
_SCIENTIFIC = re.compile(r"(?<=[0-9])[eE]([+-]?[0-9]+)(?![0-9a-zA-Z.])")
_ORDINAL = re.compile(
    r"\^\s*\{?\s*(?:\\(?:text|mathrm|textrm)\s*\{\s*)?(?:st|nd|rd|th)(?![a-zA-Z])\s*\}?\s*\}?"
    r"|(?<=[0-9])(?:st|nd|rd|th)(?![a-zA-Z])"
)
_DEGREE = re.compile(r"\s*\^\s*\{?\s*\\circ(?![a-z])\s*\}?(?:\s*[CF](?![a-zA-Z]))?")
_FUNCTION = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_POWER = r"(?:\^\s*\{?\s*-?[0-9]\s*\}?)?"
_UNIT = rf"\\(?:text|mathrm|textrm|mbox|mathit|operatorname)\s*\{{\s*[a-zA-Z(][^{{}}]*\}}\s*{_POWER}"
_UNITS = re.compile(rf"(?:\s*(?:[/·]|\\cdot)?\s*(?:{_UNIT}|\\frac\s*\{{\s*{_UNIT}\s*\}}\s*\{{\s*{_UNIT}\s*\}}))+\s*$")
_WORD = (
    r"(?:(?:square|sq\.?|cubic)\s+)?(?:[cmk]m|[mk]g|m[lL]|ft|in|yd|mi|oz|lbs?|hrs?|min|Hz|mph|km/?h|units?|percent|"
    r"(?:milli|centi|kilo)?(?:met(?:er|re)|gram|lit(?:er|re))s?|inch(?:es)?|feet|foot|yards?|miles?|pounds?|ounces?|"
    r"gallons?|hours?|minutes?|seconds?|days?|weeks?|months?|years?|degrees?|dollars?|cents?|euros?)"
)
_PLAIN_UNITS = re.compile(
    rf"(?<=[0-9}})])\s+(?:[a-zA-Z]{{1,4}}{_POWER}/[a-zA-Z]{{1,4}}{_POWER}|{_WORD}(?:\s+(?:per|an?)\s+{_WORD})?\s*{_POWER})\.?$"
)
_NO_UNIT = re.compile(
    r"\b(?:or|and|not|to|mod|base|if|when|for|hundreds?|thousands?|millions?|billions?|trillions?|dozens?|plus|minus|"
    r"times|over|by|is|more|less)\b",
    re.IGNORECASE,
)
_TEXT_OF_VALUES = re.compile(r"\\(?:text|mathrm|textrm|mbox)\s*\{((?:[^{}]*\b(?:or|and)\b|[^a-zA-Z{}]*[0-9])[^{}]*)\}")


def unwrap(answer: str) -> str:
    """An answer without what stands round it: delimiters, type faces, fences, phrases, blanks and a full stop."""
    text, before = re.sub(r"[ \t]+", " ", answer), None
    while text != before:
        before = text
        text = _EDGES.sub("", text.translate({0x200B: None, 0xFEFF: None, 0x2060: None}))
        text = _OPENERS.sub("", text)
        if (phrase := _PHRASE.match(text)) and phrase.end() < len(text):
            text = text[phrase.end() :]
        for pattern in _AROUND:
            if match := pattern.fullmatch(text):
                text = match["x"]
        text = _inside_macro(text)
    return text


def _inside_macro(text: str) -> str:
    r"""What `\text{...}`, `\boxed{...}` or `{...}` holds, where it is the whole text."""
    match = re.match(rf"(?:\\(?:{_MACROS})\s*)?\{{", text)
    if match and brace_pairs(text).get(match.end() - 1) == len(text) - 1:
        return text[match.end() : -1]
    return text


def brace_pairs(text: str) -> dict[int, int]:
    """Where each brace that is closed opens and closes: index -> index. Escaped braces open and close nothing."""
    pairs: dict[int, int] = {}
    opened: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        if match[0] == "{":
            opened.append(match.start())
        elif match[0] == "}" and opened:
            pairs[opened.pop()] = match.start()
    return pairs


def plain_math(answer: str) -> str:
    """A mathematical answer in one notation, unwrapped: its units, degrees and layout gone, its lists with commas.

    Blanks separate the groups of a thousand (1 000), the parts of a mixed number (1 1/4) and else the values of a list.
    """
    text = unwrap(answer)
    for character, replacement in _CHARACTERS.items():
        text = text.replace(character, replacement)
    for character, fraction in _FRACTIONS.items():
        text = text.replace(character, f" {fraction}")
    text = "".join(chr(ord(c) - 0xFEE0) if "\uff01" <= c <= "\uff5e" else c for c in text)
    for pattern, replacement in _LAYOUT:
        text = pattern.sub(replacement, text)
    if r"\begin" not in text:
        text = _BETWEEN.sub(", ", text)
    text = re.sub(r"(?:\s|(?<!\\)\\[,;: ]|~)+", " ", text).strip(" ,")
    text = _TEXT_OF_VALUES.sub(r" \1 ", text)
    text = _THOUSANDS.sub(lambda m: m[0].replace(" ", ""), text)
    text = _MIXED.sub(r"(\1+\\frac{\2}{\3})", text)
    text = _SCIENTIFIC.sub(r" \\cdot 10^{\1}", text)
    text = re.sub(r"(?<=[0-9]) (?=[0-9])", ", ", text)
    return unwrap(_without_units(text))


def _without_units(text: str) -> str:
    text = _ORDINAL.sub("", text)
    if not _FUNCTION.search(text):
        text = _DEGREE.sub("", text)
    for pattern in (_UNITS, _PLAIN_UNITS):
        match = pattern.search(text)
        number = text[: match.start()].rstrip() if match else ""
        if match and number and number[-1] not in "=+-*/,(<>:&|" and not _NO_UNIT.search(match[0]):
            text = number
    return text


_LETTER = re.compile(r"[(\[]?\s*(?P<letter>[A-Za-z])(?![A-Za-z])\s*(?P<close>[)\].:]?)\s*(?P<rest>.*)", re.DOTALL)
_JOINED = re.compile(
    r"(?:[,;/&+|]|->|(?:and|or|und|oder|then|versus|vs)\b[.]?|and/or\b)+\s*(?:(?:also|perhaps|maybe|option)\s+)*"
    r"[(\[]?(?P<letter>[A-J])(?![A-Za-z'])(?!\s+[a-z])",
    re.IGNORECASE,
)
_UNDECIDED = re.compile(r"(?:and|or)\s+(?:both|neither|none|all)\b")
_ALONE = re.compile(r"[(\[]?\s*(?P<letter>[A-J])\s*[)\].:]?$")
_MARKED = re.compile(r"(?<![A-Za-z0-9])(?:[(\[](?P<inner>[A-J])[)\]]|(?P<outer>[A-J])\))")
_NAMED = re.compile(r"(?<![A-Za-z0-9])(?P<letter>[B-HJ]|[AI](?!\s+[a-z]))(?![A-Za-z0-9'])")
_REASON = re.compile(r"\b(?:because|since|as|not|rather|instead|for|which|whereas|while|unlike)\b|[.]\s", re.IGNORECASE)
_ARTICLE = re.compile(r"(?!(?:is|was|because|since|as|or|and|not|would|must|with|due)\b)[a-z]")


def option_letter(answer: str) -> str | None:
    """The option that an answer names, as a capital: `C`, `(c)`, `$C$`, `Option C`, `C) 4 m/s`, `C because ...`.

    None where it names none, or two (`A or C`). A letter in the text of the option that is named is not a second one:
    `D) both A and B` is D.
    """
    text = re.sub(rf"\\(?:{_MACROS}|left|right|displaystyle)(?![a-zA-Z])", "", unwrap(answer))
    text = re.sub(rf"{_SPACE}+|[{{}}$*`]|\\[()\[\]]", " ", unicodedata.normalize("NFKC", text))
    match = _LETTER.fullmatch(re.sub(r"^[-•*]\s+", "", unwrap(re.sub(r"\s+", " ", text))))
    if match is None:
        return None
    letter, close, rest = match["letter"], match["close"], match["rest"].strip()
    if letter.islower() and rest and not close:
        return None  # `a gas`, `x or y`
    if not close and letter in "AI" and _ARTICLE.match(rest):
        return None  # `A gas`
    if _UNDECIDED.match(rest) or (not close and re.match(r"(?:and|or)\b", rest)):
        return None  # `C or both`
    if letter.islower():
        rest = rest.upper()
    others = [joined["letter"]] if (joined := _JOINED.match(rest)) else []
    if alone := _ALONE.fullmatch(rest):
        others.append(alone["letter"])
    if not re.match(r"(?:both|all|neither|none|either)\b", rest, re.IGNORECASE):
        others += [marked["inner"] or marked["outer"] for marked in _MARKED.finditer(rest)]
    if not close:
        stated = rest[: reason.start()] if (reason := _REASON.search(rest)) else rest
        others += [named["letter"] for named in _NAMED.finditer(stated)]
    return letter.upper() if all(other.upper() == letter.upper() for other in others) else None
