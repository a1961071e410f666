"""Questions have one right answer, and it is the one that is given."""

from __future__ import annotations

import random

from edge_mm.data import refer
from edge_mm.data.questions import MAKERS, ask
from edge_mm.data.questions.words import described
from edge_mm.data.refer import Noun, expression, holds, relation
from edge_mm.data.scenes import Seen
from edge_mm.words import COLORS, plural
from edge_mm_runtime.grounding import parse
from tests.edge_mm.conftest import imagined_view


def item(number: int, kind: str, color: str, x: float, y: float = 0.5, size: float = 0.1) -> Seen:
    return Seen(
        number,
        kind,
        color,
        (x, y, x + 0.1, y + 0.1),
        (x + 0.05, y + 0.05),
        (x + 0.05, y + 0.1),
        1.0,
        size,
        None,
    )


def test_answers_can_be_read_and_show_what_they_say(view_rng: random.Random) -> None:
    seen_types = set()
    for _ in range(300):
        view = imagined_view(view_rng)
        question = ask(view, view_rng)
        if question is None:
            continue
        seen_types.add(question.type)
        answer = parse(question.answer)
        assert not answer.malformed
        assert len(answer.objects) == len(question.objects)
        by_id = {seen.id: seen for seen in view}
        for region, number in zip(answer.objects, question.objects, strict=True):
            assert region.label == by_id[number].label
            if region.box:
                error = max(abs(a - b) for a, b in zip(region.box, by_id[number].box, strict=True))
                assert error <= 0.5 / 128 + 1e-9 or max(by_id[number].box) > 1
        assert (question.type == "absent") == (answer.found is False)
    assert len(seen_types) >= 10


def test_absent_things_are_absent(view_rng: random.Random) -> None:
    for _ in range(200):
        view = imagined_view(view_rng)
        question = ask(view, view_rng, kinds=["exist"])
        words = question.text.lower() if question else ""
        for color in COLORS:
            for seen in view:
                if question and question.answer == "no":
                    assert f"{color} {seen.kind}" not in words or seen.color != color


def test_expressions_by_hand() -> None:
    view = [item(1, "cup", "red", 0.1), item(2, "cup", "blue", 0.4), item(3, "cup", "red", 0.8)]
    said = {expression(view[0], view, random.Random(seed)) for seed in range(200)}
    plain = {words for words in said if words}
    assert any("leftmost" in words for words in plain)
    assert "red cup" not in plain and "cup" not in plain  # two red cups
    assert "blue cup" in {expression(view[1], view, random.Random(s)) for s in range(200)}
    middle = {expression(view[1], view, random.Random(s)) for s in range(400)}
    assert any(words and ("second" in words or "middle" in words) for words in middle)


def test_relations_by_hand() -> None:
    left, right, near = (
        item(1, "cup", "red", 0.1),
        item(2, "bowl", "red", 0.7),
        item(3, "box", "red", 0.12, 0.85),
    )
    assert relation(left, right) == "left of" and relation(right, left) == "right of"
    assert relation(near, left) == "in front of" and relation(left, near) == "behind"
    assert holds(left, "left of", right) is True and holds(left, "right of", right) is False
    assert holds(near, "left of", left) is None  # too close to call


def test_a_cup_may_be_a_mug_but_a_mug_no_cup() -> None:
    assert Noun("cup").matches(item(1, "mug", "red", 0.1))
    assert not Noun("mug").matches(item(1, "cup", "red", 0.1))


def test_nothing_is_asked_about_what_is_hardly_visible() -> None:
    hidden = Seen(1, "cup", "red", (0, 0, 0.1, 0.1), (0, 0), (0, 0), 0.2, 0.1, None)
    assert refer.unclear(Noun("cup"), [hidden])
    for seed in range(50):
        question = ask([hidden], random.Random(seed), kinds=["locate", "color", "point"])
        assert question is None or "cup" not in question.text


def test_every_type_can_be_asked() -> None:
    rng = random.Random(0)
    for name in MAKERS:
        assert any(ask(imagined_view(rng), rng, kinds=[name]) for _ in range(200)), name


def test_plurals() -> None:
    assert [plural(word) for word in ("cup", "black box", "cardboard box", "piece of fruit")] == [
        "cups",
        "black boxes",
        "cardboard boxes",
        "pieces of fruit",
    ]


def test_a_question_about_a_relation_does_not_tell_it() -> None:
    left, right = item(1, "cup", "red", 0.1), item(2, "bowl", "red", 0.7)
    for seed in range(100):
        words = expression(left, [left, right], random.Random(seed), plain=True)
        assert words and "bowl" not in words


def test_own_kinds_are_things_too() -> None:
    """Also kinds with a name that means several: all that it means is meant."""
    view = [item(1, "hammer", "red", 0.1), item(2, "stapler", "red", 0.4)]
    view += [item(3, "tool", None, 0.7), item(4, "object", None, 0.9)]
    meant = {word: [one.id for one in refer.find(Noun(word), view)] for word in ("object", "tool")}
    assert meant == {"object": [1, 2, 3, 4], "tool": [1, 3]}
    assert [one.id for one in refer.find(Noun("object", "red"), view)] == [1, 2]
    rng = random.Random(0)
    for target in view:
        nouns = refer.nouns_for(target)
        assert nouns and all(noun.matches(target) for noun in nouns)
    for _ in range(300):
        question = ask(view, rng, kinds=["locate", "locate_all", "point", "order", "identify"])
        if question is not None and question.type == "order" and "tool" not in question.text:
            assert len(question.about) in (2, 4)  # what is red, or everything


def test_many_things_are_all_described() -> None:
    assert described([item(n, "mug", "red", 0.1 * n) for n in range(9)]) == "9 red mugs"
    assert described([]) == "nothing"
