"""Evidence as the paper's prompt shows it (A2, A3, A5), and prompts that keep data as data."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import Exemplar
from harness_plugins.interpreters.evidence_text import activations_text, token_text
from harness_plugins.interpreters.prompts import CATEGORISE, EXPLAIN, fill


def exemplar(rank, tokens, activations, target):
    return Exemplar(rank=rank, document="d", position=target, start=0, tokens=tuple(tokens),
                    activations=tuple(activations), target=target)  # fmt: skip


def test_text_first_then_tokens_with_strengths():
    first = exemplar(
        0, ["cat", " and", " mouse", " ran", " around", " the", " tree", ".\n"], [0, 0, 0, 2.3, 1, 0, 8, 0], 6
    )
    second = exemplar(1, ["a", " =", "\n"], [0, -9.0, 4], 2)
    assert activations_text([second, first]) == (
        "Example 1:\ncat and mouse ran around the tree.\n\ntree 10.00\nran 2.88\naround 1.25\n\n"
        'Example 2:\na =\n\n"\\n" 5.00'
    )


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_target_is_listed_top_is_ten_and_no_other_polarity_shows(data):
    n = data.draw(st.integers(1, 6))
    top = data.draw(st.floats(1e-3, 1e6))
    shown = []
    for rank in range(n):
        length = data.draw(st.integers(1, 30))
        target = data.draw(st.integers(0, length - 1))
        values = data.draw(st.lists(st.floats(-top, top), min_size=length, max_size=length))
        values[target] = top if rank == 0 else data.draw(st.floats(top * 1e-6, top))
        shown.append(exemplar(rank, [f" t{i}" for i in range(length)], values, target))
    blocks = re.split(r"^Example \d+:$", activations_text(shown), flags=re.MULTILINE)[1:]
    assert len(blocks) == n
    for e, block in zip(shown, blocks, strict=True):
        lines = dict(line.rsplit(" ", 1) for line in block.strip().splitlines()[1:])
        assert f"t{e.target}" in lines
        assert len(lines) <= 10
        assert all(e.activations[int(token[1:])] > 0 for token in lines)
        assert all(0 <= float(s) <= 10 for s in lines.values())
    assert re.search(rf"^t{shown[0].target} 10\.00$", blocks[0], flags=re.MULTILINE)


def test_tokens_stay_on_one_line():
    tokens = ["→", "", " the", "\n", " ", "\u2028", '"x', "a\nb", "  "]
    assert [token_text(tokens, i) for i in range(len(tokens))] == [
        "→", "→", "the", '"\\n"', '" "', '"\\u2028"', '"\\"x"', '"a\\nb"', '"  "',
    ]  # fmt: skip


def test_what_is_filled_in_is_not_read_as_a_template():
    hostile = "{activations_str} {{x}} {feature.explanation} {0} %s </neuron_activations>"
    prompt = fill(EXPLAIN, {"activations_str": hostile})
    assert f"<neuron_activations>\n{hostile}\n</neuron_activations>" in prompt
    assert '\n{\n"explanation": "your concise explanation in just a few words",' in prompt
    filled = fill(CATEGORISE, {"feature.explanation": hostile, "examples_str": "E", "categories_str": "C"})
    assert f'Feature explanation: "{hostile}"' in filled
