"""Evidence as the paper's prompt shows it (A2, A3, A5), and prompts that keep data as data."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import Exemplar
from harness_plugins.interpreters.autointerp.evidence_presets import PRESETS, EvidenceFormat
from harness_plugins.interpreters.autointerp.evidence_text import activations_text, marked_text, token_text
from harness_plugins.interpreters.autointerp.prompts import CATEGORISE, EXPLAIN, EXPLAIN_MARKED, JUDGE, fill


def exemplar(rank, tokens, activations, target):
    return Exemplar(rank=rank, document="d", position=target, start=0, tokens=tuple(tokens),
                    activations=tuple(activations), target=target)  # fmt: skip


def test_text_first_then_tokens_with_strengths():
    first = exemplar(
        0, ["cat", " and", " mouse", " ran", " around", " the", " tree", ".\n"], [0, 0, 0, 2.3, 1, 0, 8, 0], 6
    )
    second = exemplar(1, ["a", " =", "\n"], [0, -9.0, 4], 2)
    assert activations_text([second, first], EvidenceFormat()) == (
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
    blocks = re.split(r"^Example \d+:$", activations_text(shown, EvidenceFormat()), flags=re.MULTILINE)[1:]
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


def many(n=80, length=41):
    tokens = [f" t{i}" for i in range(length)]
    return [
        exemplar(r, tokens, [(100.0 - r) * (i == 20) + 2.0 * (i % 7 == 0) for i in range(length)], 20) for r in range(n)
    ]


def blocks_of(text):
    return [b.strip().split("\n") for b in re.split(r"^Example \d+:$", text, flags=re.MULTILINE)[1:]]


def test_the_papers_text_shows_64_contexts_with_every_token_that_fires():
    blocks = blocks_of(activations_text(many(), PRESETS["paper-text"]))
    assert len(blocks) == 64
    assert [b[1] for b in blocks[:2]] == ["t20 10.00", "t20 9.90"]
    assert len(blocks[0]) == 1 + 7
    assert "<<" not in blocks[0][0]


def test_the_papers_code_shows_ten_short_contexts_in_a_seeded_order():
    form = PRESETS["paper-code"]
    shown = activations_text(many(), form, seed="1")
    assert shown == activations_text(many()[::-1], form, seed="1") != activations_text(many(), form, seed="2")
    blocks = blocks_of(shown)
    assert len(blocks) == 10
    assert {b[0].split()[0] for b in blocks} == {"t12"}
    assert {b[0].split()[-1] for b in blocks} == {"t28"}
    strongest = sorted(float(b[1].split()[-1]) for b in blocks)
    assert strongest[-1] == 10.0
    assert strongest != [float(b[1].split()[-1]) for b in blocks]
    assert form.system is not None


def test_the_corrected_form_marks_the_strongest_token_of_each_context():
    blocks = blocks_of(activations_text(many(), PRESETS["corrected"]))
    assert len(blocks) == 64
    assert all(b[0].count("<<") == 1 and " <<t20>> " in b[0] for b in blocks)
    stronger = exemplar(0, [" a", " b", "c"], [1.0, 0.0, 3.0], 0)
    assert "a b<<c>>" in activations_text([stronger], PRESETS["corrected"])


def test_marks_leave_spaces_outside_and_characters_whole():
    assert marked_text([" x", " ", "→", "", "y"], [3]) == " x <<→>>y"
    assert marked_text([" a", " b", "c"], [1, 2]) == " a <<bc>>"
    assert marked_text([" a", " "], [1]) == " a<< >>"
    assert marked_text(["a", "b"], []) == "ab"


def test_only_the_corrected_prompt_speaks_of_marks():
    assert "<<" not in EXPLAIN
    assert EXPLAIN_MARKED.count("<<") == 2
    assert (
        EXPLAIN_MARKED.replace("<<tree>>", "tree").replace(
            "The strongest token of each text is marked <<like this>> in it.\n", ""
        )
        == EXPLAIN
    )


def test_the_judge_is_told_of_evidence_and_classes_in_the_explainers_own_words():
    for start, end in (("The activation format", "Look at every example"), ("<neuron_activations>", "Respond with")):
        part = EXPLAIN[EXPLAIN.index(start) : EXPLAIN.index(end)]
        assert len(part) > 200
        assert part in JUDGE
