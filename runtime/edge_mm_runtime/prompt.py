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

from edge_mm_runtime.errors import UsageError

NANO_TEMPLATE = "<bos>{{ image }}<user>{{ text }}<assistant>"
MAX_TEXT_CHARACTERS = 2000

_TAG = re.compile(r"<(/?[A-Za-z_|]+\d*)>")


class Prompt(msgspec.Struct, frozen=True):
    """The prompt of a model: one picture, one user turn."""

    template: str
    image_token: str
    image_token_count: int

    def render(self, text: str) -> str:
        """The user's words -> the whole prompt, up to where the answer starts."""
        image = self.image_token * self.image_token_count
        return _environment(self.template).render_template("prompt", image=image, text=clean(text))


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
