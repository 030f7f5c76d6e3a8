"""What can be changed in a file, one operator at a time. The operators are those of cosmic-ray."""

from __future__ import annotations

import ast
import random
from dataclasses import dataclass
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names


@dataclass(frozen=True)
class Mutant:
    """One changed file.

    Attributes:
        file: path in the repository.
        line: where, counted from 1.
        before: the line as it is.
        after: the line as it was changed; empty where it was removed.
        source: the whole changed text.
    """

    file: str
    line: int
    before: str
    after: str
    source: str


def sample(file: str, n: int, rng: random.Random) -> list[Mutant]:
    """At most `n` mutants of a file at places drawn without replacement, with one operator each.

    Changes that `_meaning` does not see are no mutants.
    """
    text = Path(file).read_text(encoding="utf-8")
    places: dict[tuple[int, int], list[tuple[str, int]]] = {}
    tree = get_ast(text)
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments() or name.endswith("/NoOp"):
            continue
        positions = [at for node in ast_nodes(tree) for at in operator().mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            places.setdefault(start, []).append((name, occurrence))
    same, found = _meaning(text), []
    for place in rng.sample(sorted(places), len(places)):
        name, occurrence = rng.choice(places[place])
        changed = mutate_code(text, get_operator(name)(), occurrence)
        if changed is not None and (meaning := _meaning(changed)) is not None and meaning != same:
            found.append(_mutant(file, text, changed))
        if len(found) == n:
            break
    return found


def _meaning(text: str) -> str | None:
    """The syntax tree without what computes nothing; None where the text is no Python.

    Left out: annotations; decorators' arguments (`frozen=True`) and zip's `strict=True`, which only refuse a
    programmer's mistake; defaults of parameters, which are settings; `is` against a text, which is `==` for the
    constants of a module.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.arguments):
            node.defaults, node.kw_defaults = [], []
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            node.decorator_list = [_bare(d) for d in node.decorator_list]
        elif isinstance(node, ast.ClassDef):
            node.decorator_list = [_bare(d) for d in node.decorator_list]
        elif isinstance(node, ast.Call):
            node.keywords = [k for k in node.keywords if k.arg != "strict"]
        elif isinstance(node, ast.Compare) and any(
            isinstance(c, ast.Constant) and isinstance(c.value, str) for c in node.comparators
        ):
            same: dict[type[ast.cmpop], ast.cmpop] = {ast.Is: ast.Eq(), ast.IsNot: ast.NotEq()}
            node.ops = [same.get(type(op), op) for op in node.ops]
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def _bare(decorator: ast.expr) -> ast.expr:
    return decorator.func if isinstance(decorator, ast.Call) else decorator


def _mutant(file: str, text: str, changed: str) -> Mutant:
    old, new = text.splitlines(), changed.splitlines()
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)) - 1)
    after = new[at].strip() if len(new) == len(old) else ""
    return Mutant(file, at + 1, old[at].strip(), after, changed)
