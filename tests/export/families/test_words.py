"""Prompts of transformers folders against transformers' own processors, picture and question."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoConfig,
    AutoTokenizer,
    Gemma3Processor,
    Idefics3Processor,
    LlavaProcessor,
    PaliGemmaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.families.words import Words

from .folders import SIDE, SPECIAL, VOCABULARY, write_words
from .test_vlm import CONFIGS

TEXT = "find the red cup"
ROWS = 4


def config_of(name: str) -> Any:
    """A family's config whose image token is that of `folders.words`."""
    from .folders import IMAGE_TOKEN

    family, changes = CONFIGS[name]
    index = SPECIAL.index(IMAGE_TOKEN.get(family, "<image>"))
    token = {key: index for key in ("image_token_id", "image_token_index") if key in changes}
    text = {**changes["text_config"], "vocab_size": VOCABULARY}
    return AutoConfig.for_model(family, **{**changes, **token, "text_config": text})


def words_of(name: str, folder: Path) -> Words:
    write_words(folder, CONFIGS[name][0])
    return Words(folder, config_of(name))


def ids_of(words: Words, text: str = TEXT, mode: Any = "auto") -> list[int]:
    """What the runtime makes of a question."""
    rendered = words.prompt(ROWS).render(text, mode)
    ids: list[int] = words.tokenizer.encode(rendered, add_special_tokens=False).ids
    return ids


def llava(tokenizer: Any) -> Any:
    images = CLIPImageProcessorPil(size=SIDE, crop_size=SIDE)
    return LlavaProcessor(
        images,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def idefics3(tokenizer: Any) -> Any:
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    return Idefics3Processor(images, tokenizer, image_seq_len=ROWS)


def paligemma(tokenizer: Any) -> Any:
    images = SiglipImageProcessorPil(size=SIDE)
    images.image_seq_length = ROWS
    return PaliGemmaProcessor(images, tokenizer)


def gemma3(tokenizer: Any) -> Any:
    return Gemma3Processor(Gemma3ImageProcessorPil(size=SIDE), tokenizer, image_seq_length=ROWS)


@pytest.mark.parametrize(
    ("name", "build", "text"),
    [
        ("llava-1.5", llava, f"USER: <image>\n{TEXT} ASSISTANT:"),
        ("paligemma", paligemma, f"<image>{TEXT}"),
        ("idefics3", idefics3, None),
        ("gemma3", gemma3, None),
    ],
)
def test_ids_are_those_of_the_familys_processor(
    name: str, build: Any, text: str | None, tmp_path: Path
) -> None:
    words = words_of(name, tmp_path)
    processor = build(AutoTokenizer.from_pretrained(tmp_path))
    picture = Image.new("RGB", (80, 60))
    if text is not None:
        made = processor(images=picture, text=text)["input_ids"][0]
    else:
        turn = [{"type": "image", "image": picture}, {"type": "text", "text": TEXT}]
        processor.chat_template = (tmp_path / "chat_template.jinja").read_text()
        made = processor.apply_chat_template(
            [{"role": "user", "content": turn}], add_generation_prompt=True, tokenize=True
        )[0]
    expected = made.tolist() if hasattr(made, "tolist") else list(made)
    assert ids_of(words) == expected
    image = words.tokenizer.token_to_id(words.image_token)
    assert expected.count(image) == ROWS


QWEN = (
    "<s><|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|>" + ROWS * "<|image_pad|>" + "<|vision_end|>"
    "{}<|im_end|>\n<|im_start|>assistant\n"
)
DOCUMENTED = {
    "smolvlm": "<s><|im_start|>User:<fake_token_around_image><global-img>"
    + ROWS * "<image>"
    + "<fake_token_around_image>{}<end_of_utterance>\nAssistant:",
    "internvl": "<s><|im_start|>user\n<img>"
    + ROWS * "<IMG_CONTEXT>"
    + "</img>\n{}<|im_end|>\n<|im_start|>assistant\n",
    "qwen2-vl": QWEN,
    "qwen2.5-vl": QWEN,
    "qwen3-vl": QWEN,
}
"""What their processors write (`processing_*.py`); none of these can be built without torchvision
or num2words."""


@pytest.mark.parametrize("name", DOCUMENTED)
def test_ids_are_those_of_the_documented_prompt(name: str, tmp_path: Path) -> None:
    words = words_of(name, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = DOCUMENTED[name].format(TEXT)
    assert ids_of(words) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_places_are_asked_for_in_the_familys_words(tmp_path: Path) -> None:
    write_words(tmp_path, "paligemma")
    words = Words(tmp_path, config_of("paligemma"))
    assert words.prompt(1).render("red cup", "locate") == "<image><s>detect red cup\n"
    assert words.prompt(1).render("red cup") == "<image><s>red cup\n"


def test_a_template_that_takes_plain_words(tmp_path: Path) -> None:
    write_words(tmp_path, "llava")
    template = "{% for m in messages %}[{{ m.content + '' }}]{% endfor %}"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert Words(tmp_path, config_of("llava-1.5")).prompt(2).render("cup") == (
        "<s>[<image><image>\ncup]"
    )


def test_ids_that_end_an_answer(tmp_path: Path) -> None:
    words = words_of("llava-1.5", tmp_path)
    assert words.stop_ids() == (2,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [7, 2, 999]}')
    assert words.stop_ids() == (7, 2)


def damaged(name: str, folder: Path) -> str:
    """Damage a LLaVA folder; gives what the message must say."""
    tokenizer = folder / "tokenizer.json"
    match name:
        case "no tokenizer":
            tokenizer.unlink()
            return r"no tokenizer\.json: write it with python -c"
        case "no JSON":
            tokenizer.write_text("{}")
            return r"tokenizer\.json is not a tokenizer"
        case "another vocabulary":
            larger = Tokenizer.from_file(str(tokenizer))
            larger.add_tokens([f"word{number}" for number in range(100)])
            larger.save(str(tokenizer))
            largest = larger.get_vocab_size() - 1
            return rf"ids up to {largest}, the model's vocabulary only {VOCABULARY}"
        case "no image token":
            text = tokenizer.read_text().replace('"<image>"', '"<picture>"')
            read = json.loads(text)
            read["added_tokens"] = [
                token for token in read["added_tokens"] if token["content"] != "<picture>"
            ]
            tokenizer.write_text(json.dumps(read))
            return r"no added token of id 3, which config\.json calls the image token"
        case "no picture in the template":
            (folder / "chat_template.jinja").write_text("{{ messages[0].content[1].text }}")
            return "leaves the picture or the question out"
        case _:
            (folder / "chat_template.jinja").write_text("{{ raise_exception('no users here') }}")
            return "its chat template cannot be used: no users here"


@pytest.mark.parametrize(
    "name",
    [
        "no tokenizer",
        "no JSON",
        "another vocabulary",
        "no image token",
        "no picture in the template",
        "a template that raises",
    ],
)
def test_what_is_wrong_is_one_line(name: str, tmp_path: Path) -> None:
    write_words(tmp_path, "llava")
    message = damaged(name, tmp_path)
    with pytest.raises((ExportError, UnsupportedError), match=message) as caught:
        Words(tmp_path, config_of("llava-1.5")).prompt(ROWS)
    assert "\n" not in str(caught.value)


def test_a_family_without_a_template_says_so(tmp_path: Path) -> None:
    write_words(tmp_path, "smolvlm")
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ExportError, match="no chat template"):
        Words(tmp_path, config_of("smolvlm")).prompt(ROWS)


def test_added_tokens_stay_whole(tmp_path: Path) -> None:
    """A token that is added but not special is one id in a prompt, as transformers has it."""
    write_words(tmp_path, "llava")
    path = tmp_path / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_tokens([AddedToken("mug tree")])
    tokenizer.save(str(path))
    words = Words(tmp_path, config_of("llava-1.5"))
    assert tokenizer.token_to_id("mug tree") in ids_of(words, "find the mug tree")


def test_a_space_that_is_put_before_a_text_that_nothing_precedes(tmp_path: Path) -> None:
    """What transformers 5 writes of a Llama tokenizer: `<s>` in the text would take its place."""
    write_words(tmp_path, "llava")
    path = tmp_path / "tokenizer.json"
    data = json.loads(path.read_text())
    vocabulary = data["model"]["vocab"]
    vocabulary["▁"] = vocabulary.pop("ÿ")
    spaces = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    data["pre_tokenizer"] = data["decoder"] = spaces
    path.write_text(json.dumps(data))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = f"USER: {'<image>' * ROWS}\n{TEXT} ASSISTANT:"
    expected = tokenizer(text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(expected[:3]) == ["<s>", "▁", "U"]
    assert ids_of(Words(tmp_path, config_of("llava-1.5"))) == expected
