"""What the model is told: the prompt template, and the user's words made safe for it.

The template is Jinja text with two variables: `image`, the image token repeated once for each row
of `image_embeds` (never, where the decoder looks at them by cross-attention), and `text`, the
user's words. The trainer renders its samples with the same `Prompt.render`, so a template is stored
with the checkpoint and never written twice.
"""

from __future__ import annotations

import re
from functools import lru_cache

import minijinja
import msgspec

from edge_mm_runtime.answer import MODES, Mode
from edge_mm_runtime.errors import UsageError

NANO_TEMPLATE = "<bos>{{ image }}<user>{{ text }}<assistant>"
MAX_TEXT_CHARACTERS = 2000

_TAG = re.compile(r"<(/?[A-Za-z_|][\w|-]*/?)>")
_WORDS = "{text}"


class Prompt(msgspec.Struct, frozen=True):
    """The prompt of a model: one picture, one user turn.

    modes  how a mode is asked for, "{text}" being the user's words, e.g. {"locate": "detect
           {text}"}; a mode that is not there takes the words as they are
    """

    template: str
    image_token: str
    image_token_count: int
    modes: dict[str, str] = {}

    def __post_init__(self) -> None:
        for mode, phrase in self.modes.items():
            if mode not in MODES:
                raise ValueError(f"modes has {mode!r}: one of {', '.join(MODES)}")
            if _WORDS not in phrase:
                raise ValueError(f"modes has {phrase!r} for {mode} without {_WORDS} in it")

    def render(self, text: str, mode: Mode = "auto") -> str:
        """The user's words, put for the mode -> the whole prompt, up to where the answer starts."""
        image = self.image_token * self.image_token_count
        said = self.modes.get(mode, _WORDS).replace(_WORDS, clean(text))
        return _environment(self.template).render_template("prompt", image=image, text=said)


def clean(text: str) -> str:
    """One line, single spaces; a tag such as `<none>` loses its brackets, so it stays a word.

    Raises UsageError for empty text and for text of more than 2000 characters.
    """
    line = _TAG.sub(r" \1 ", text)
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    if not line:
        raise UsageError("the text is empty: say what to look for, e.g. 'find the red cup'")
    if len(line) > MAX_TEXT_CHARACTERS:
        raise UsageError(
            f"the text has {len(line)} characters, at most {MAX_TEXT_CHARACTERS} are taken"
        )
    return line


@lru_cache(maxsize=8)
def _environment(template: str) -> minijinja.Environment:
    return minijinja.Environment(templates={"prompt": template})
