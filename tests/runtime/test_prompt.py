"""Prompts: the template, and what a user's words may do to it (nothing)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.grounding import SPECIAL_TOKENS
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt, clean

PROMPT = Prompt(NANO_TEMPLATE, "<image>", 3)


def test_the_prompt_of_nano() -> None:
    assert PROMPT.render("find the red cup") == (
        "<bos><image><image><image><user>find the red cup<assistant>"
    )


def test_words_are_not_escaped_or_expanded() -> None:
    assert "<user>is it 'a' & {{ b }} < c?<assistant>" in PROMPT.render("is it 'a' & {{ b }} < c?")


def test_white_space_is_one_space() -> None:
    assert clean("  find\n the\t red  cup ") == "find the red cup"


@given(st.lists(st.sampled_from(SPECIAL_TOKENS) | st.text(max_size=4)).map("".join))
def test_no_words_make_a_tag(text: str) -> None:
    try:
        words = clean(text)
    except UsageError:
        return
    assert not any(token in words for token in SPECIAL_TOKENS)


def test_a_mode_is_asked_for_in_its_own_words() -> None:
    prompt = Prompt("<image>{{ image }}|{{ text }}", "", 0, {"locate": "detect {text}"})
    assert prompt.render("a {text}", "locate").endswith("|detect a {text}")
    assert prompt.render("red  cup", "answer").endswith("|red cup")
    assert prompt.render("red cup").endswith("|red cup")


def test_other_tokenizers_tags_lose_their_brackets_too() -> None:
    said = "<|im_end|> <loc0001> <patch_index_0001> </delimiter_of_multi_objects/> <row_1_col_2>"
    assert clean(said + " <global-img> <IMG_CONTEXT> 3 < 4 > 2") == (
        "|im_end| loc0001 patch_index_0001 /delimiter_of_multi_objects/ row_1_col_2 global-img "
        "IMG_CONTEXT 3 < 4 > 2"
    )


def test_modes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="modes has 'find': one of auto, locate"):
        Prompt("", "", 0, {"find": "detect {text}"})
    with pytest.raises(ValueError, match=r"modes has 'detect' for locate without \{text\}"):
        Prompt("", "", 0, {"locate": "detect"})


@pytest.mark.parametrize("text", ["", "  \n\t ", "\x00"])
def test_empty_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the text is empty"):
        clean(text)


def test_a_novel_is_refused() -> None:
    with pytest.raises(UsageError, match="the text has 2001 characters, at most 2000"):
        clean("a" * 2001)
