"""The words of a transformers folder: tokenizer, prompt template, ids that end an answer.

The template is what the family's own chat template makes of one picture and one question, rendered
once; the picture is put as the family's processor puts it. Sources: `processing_*.py` of
transformers, and for prompts without a chat template the model cards that are named.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from edge_mm_export.errors import ExportError, UnsupportedError
from edge_mm_export.families.files import TOKENIZER, read_json
from edge_mm_export.families.places import modes_of
from edge_mm_runtime.prompt import Prompt

_TEXT = "what is in the picture"
_AROUND = {
    "idefics3": ("<fake_token_around_image><global-img>", "<fake_token_around_image>"),
    "smolvlm": ("<fake_token_around_image><global-img>", "<fake_token_around_image>"),
    "gemma3": ("\n\n<start_of_image>", "<end_of_image>\n\n"),
    "internvl": ("<img>", "</img>"),
}
"""By family: what its processor writes before and after the image tokens of one picture."""
_STANDS_FOR_PICTURE = {"gemma3": "<start_of_image>"}
"""By family: what its chat template writes for a picture, if not the image token."""
_WITHOUT_TEMPLATE = {
    "llava": "USER: {image}\n{text} ASSISTANT:",  # the card of llava-hf/llava-1.5-7b-hf
    "paligemma": "{image}{bos}{text}\n",  # PaliGemmaProcessor
}
_JINJA = re.compile(r"\{[{%#]")


class Words:
    """The tokenizer of a folder, and what else transformers knows of its words."""

    def __init__(self, folder: Path, config: Any) -> None:
        self.folder = folder
        self.family: str = config.model_type
        path = folder / TOKENIZER
        if not path.is_file():
            raise ExportError(
                f'{folder} has no {TOKENIZER}: write it with python -c "from transformers import '
                f"AutoTokenizer; AutoTokenizer.from_pretrained('{folder}')"
                f".save_pretrained('{folder}')\""
            )
        try:
            self.tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises a bare Exception
            raise ExportError(f"{path} is not a tokenizer: {error}: download it again") from None
        try:
            self._transformers: Any = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # of many kinds, by the tokenizer's class
            reason = str(error).strip().splitlines()[0]
            raise ExportError(
                f"transformers cannot read the tokenizer of {folder}: {reason}"
            ) from None
        self._check_vocabulary(config)
        self.image_token = self._image_token(config)
        self._config = config

    def prompt(self, image_rows: int) -> Prompt:
        """The prompt of one picture of `image_rows` rows and one question."""
        template = self._template()
        made = Prompt(template, self.image_token, image_rows, modes_of(self.family))
        rendered = made.render(_TEXT)
        expected = self._transformers(rendered, add_special_tokens=False)["input_ids"]
        if self.tokenizer.encode(rendered, add_special_tokens=False).ids != expected:
            raise UnsupportedError(
                f"{self.folder / TOKENIZER} cuts a prompt otherwise than transformers' class of it:"
                " save it again with AutoTokenizer.from_pretrained(...).save_pretrained(...)"
            )
        return made

    def stop_ids(self) -> tuple[int, ...]:
        """What ends an answer: of generation_config.json, of the config, of the tokenizer."""
        given = [read_json(self.folder / "generation_config.json").get("eos_token_id")]
        if given == [None]:
            text = self._config.get_text_config()
            given = [getattr(owner, "eos_token_id", None) for owner in (self._config, text)]
        given.append(self._transformers.eos_token_id)
        ids: list[int] = []
        for one in given:
            ids += one if isinstance(one, list) else [] if one is None else [one]
        size = self._config.get_text_config().vocab_size
        found = tuple(dict.fromkeys(token for token in ids if 0 <= token < size))
        if not found:
            raise ExportError(
                f"{self.folder} names no eos_token_id that ends an answer: add it to "
                "generation_config.json"
            )
        return found

    def _check_vocabulary(self, config: Any) -> None:
        size = config.get_text_config().vocab_size
        largest = max(self.tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= size:
            raise ExportError(
                f"{self.folder / TOKENIZER} has ids up to {largest}, the model's vocabulary only "
                f"{size}: they are not of one checkpoint"
            )

    def _image_token(self, config: Any) -> str:
        """The text of the image token, which must be one added token."""
        index = getattr(config, "image_token_id", None)
        if index is None:
            index = getattr(config, "image_token_index", None)
        added = self.tokenizer.get_added_tokens_decoder()
        if index not in added:
            raise ExportError(
                f"{self.folder / TOKENIZER} has no added token of id {index}, which config.json "
                "calls the image token: they are not of one checkpoint"
            )
        return str(added[index].content)

    def _template(self) -> str:
        """The prompt as Jinja text of ours."""
        before, after = _AROUND.get(self.family, ("", ""))
        picture = _STANDS_FOR_PICTURE.get(self.family, self.image_token)
        text = self._rendered(picture)
        places = {picture: f"{before}{{{{ image }}}}{after}", _TEXT: "{{ text }}"}
        if _JINJA.search(text):
            raise UnsupportedError(
                f"{self.folder}: its prompt has signs of Jinja in its words: {text!r}"
            )
        for place, written in places.items():
            text = text.replace(place, written)
        # A template's last line break is dropped.
        return f'{text[:-1]}{{{{ "\\n" }}}}' if text.endswith("\n") else text

    def _rendered(self, picture: str) -> str:
        """One picture and one question as the family puts them, special tokens written out."""
        template = self._chat_template()
        if template is None or self.family == "paligemma":
            known = _WITHOUT_TEMPLATE.get(self.family)
            if known is None:
                raise ExportError(
                    f"{self.folder} has no chat template, which says how a question is put: "
                    "download chat_template.jinja beside the weights"
                )
            bos = self._transformers.bos_token or ""
            text = known.format(image=picture, bos=bos, text=_TEXT)
            return text if self.family == "paligemma" else self._with_added(text)
        parts = [{"type": "image"}, {"type": "text", "text": _TEXT}]
        reason = "it leaves the picture or the question out"
        for content in (parts, f"{picture}\n{_TEXT}"):
            try:
                made: Any = render_jinja_template(
                    [[{"role": "user", "content": content}]],
                    chat_template=template,
                    add_generation_prompt=True,
                    **self._transformers.special_tokens_map,
                )
            except Exception as error:  # Jinja's, and whatever a template raises itself
                reason = str(error).strip().splitlines()[0]
                continue
            text = str(made[0][0])  # the first of the texts, beside where answers begin
            if text.count(picture) == text.count(_TEXT) == 1:
                return self._with_added(text)
        raise UnsupportedError(f"{self.folder}: its chat template cannot be used: {reason}")

    def _chat_template(self) -> str | None:
        """The folder's chat template, in any of the places where one may lie."""
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return path.read_text(encoding="utf-8")
        for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
            found = read_json(self.folder / name).get("chat_template")
            if isinstance(found, list):  # several by name
                found = {one["name"]: one["template"] for one in found}.get("default")
            if found:
                return str(found)
        return None

    def _with_added(self, text: str) -> str:
        """The text with what the tokenizer adds at both ends, unless it begins with it already."""
        bos: str | None = self._transformers.bos_token
        if bos and text.startswith(bos):
            return text
        plain = self._transformers(text, add_special_tokens=False)["input_ids"]
        whole = self._transformers(text)["input_ids"]
        extra = len(whole) - len(plain)
        found = (at for at in range(extra + 1) if whole[at : at + len(plain)] == plain)
        start = next(found, None)
        if start is None:
            raise UnsupportedError(
                f"{self.folder / TOKENIZER} adds more to a prompt than tokens before and after it"
            )
        first, last = whole[:start], whole[start + len(plain) :]
        tokens = [str(self.tokenizer.id_to_token(token)) for token in (*first, *last)]
        before, after = "".join(tokens[: len(first)]), "".join(tokens[len(first) :])
        # Some tokenizers put a space before a text that nothing precedes.
        texts = [f"{before}{space}{text}{after}" for space in ("", " ")]
        return next(
            (t for t in texts if self.tokenizer.encode(t, add_special_tokens=False).ids == whole),
            texts[0],
        )
