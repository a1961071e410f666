"""Part `llava`: SigLIP-B/16, a two-layer MLP and SmolLM2-135M in transformers' LLaVA format.

The language model is the real one, tower and projector are random: what it says means nothing, but
it is the same for every engine that computes the same, and it takes the same time.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from bench.lib.limits import Linear, Precision, pass_bytes, pass_operations
from bench.lib.making import command, made, made_bundle, on, run
from bench.lib.models import SMOLLM2, VIT_B_16
from bench.lib.parts.pictures import SEED, SIDE, shipped_pictures
from bench.lib.parts.text import leading
from bench.lib.parts.tower import siglip_config
from bench.lib.results import Load, Work
from bench.lib.run import OURS, Engine, Part
from bench.lib.smollm2 import fetch_model
from bench.lib.workers import Worker

FOLDER = Path("data/bench/llava")
MODEL, PICTURES = FOLDER / "smollm2-siglip", FOLDER / "pictures.npy"
TIMED = ("int8", "w8a8", "w8a8-tensor", "fp32")
IMAGE_TOKENS, TEXT, DECODED, CONTEXT = 196, 40, 64, 1024
SAID, JUDGED = 16, 4  # tokens about each of so many pictures
IMAGE, SPARE = "<image>", "<gh_stars>"  # the id of a word that nobody uses stands for the picture
PROJECTOR = (Linear(IMAGE_TOKENS, 768, 576), Linear(IMAGE_TOKENS, 576, 576))
# One turn as Words of the exporter and OpenVINO's pipeline put it: the picture, a line, the words.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QUESTION = (
    "Which of the things on the table is nearest to the robot, and is there a red cup beside the "
    "bottle that stands at the left edge of it? Say yes or no."
)


def part(threads: int) -> Part:
    """Makes the model on the first run, and exports it in each precision."""
    made(MODEL, _write_model)
    made(PICTURES, _write_pictures)
    name = f"decode {DECODED} after it"
    return Part(
        name="llava",
        engines=[*_ours(threads), *_peers(threads)],
        works=[
            Work("to first token", {"first_token": TEXT}, load=_first_token),
            Work(name, {"decode": DECODED}, tokens=DECODED, load=_decode),
        ],
        rounds=7,
        first={"first_token": TEXT},
        judge=judge,
    )


def judge(workers: Mapping[str, Worker]) -> dict[str, tuple[str, float]]:
    """Words about some pictures as transformers fp32 says them, in tokens to the first other."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    said = {
        name: [
            tokenizer.encode(worker.ask({"say": SAID, "picture": number})).ids
            for number in range(JUDGED)
        ]
        for name, worker in workers.items()
    }
    exact = said.get("transformers fp32")
    if exact is None:
        return {}
    most = sum(map(len, exact))
    if not most:
        return dict.fromkeys(said, ("no words to compare", 0.0))
    return {
        name: (f"{(same := sum(map(leading, found, exact)))}/{most} greedy tokens", float(same))
        for name, found in said.items()
    }


def prompt_words() -> str:
    """The question, cut so that all but the picture's rows are `TEXT` tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    around = f"<|im_start|>user\n{IMAGE}\n<|im_end|>\n<|im_start|>assistant\n"
    room = TEXT - (len(tokenizer.encode(around).ids) - 1)
    ids = tokenizer.encode(QUESTION).ids
    if len(ids) < room:
        raise ValueError(f"the question has {len(ids)} tokens, {room} are needed")
    words: str = tokenizer.decode(ids[:room])
    return words.strip()


def _ours(threads: int) -> list[Engine]:
    from edge_mm_export.precision import PRECISIONS

    def prepare(precision: str) -> Callable[[], list[str]]:
        def export() -> list[str]:
            bundle = made_bundle(FOLDER / f"bundle-{precision}", partial(_export, precision))
            words = prompt_words()
            return command(sys.executable, "edge_mm_llava.py", bundle, PICTURES, words, threads)

        return export

    return [
        Engine(f"{OURS} {precision}", OURS, precision, prepare(precision))
        for precision in TIMED
        if precision in PRECISIONS["cpu"]
    ]


def _peers(threads: int) -> list[Engine]:
    from bench.lib.environments import environment

    def transformers(dtype: str) -> list[str]:
        python, script = environment("transformers"), "transformers_llava.py"
        return command(python, script, MODEL, PICTURES, prompt_words(), threads, dtype)

    def openvino() -> list[str]:
        model = made(FOLDER / "openvino-int8", _export_by_optimum)
        python, script = environment("openvino"), "openvino_llava.py"
        return command(python, script, model, PICTURES, prompt_words(), threads)

    return [
        Engine("transformers fp32", "transformers", "fp32", lambda: transformers("float32")),
        Engine("transformers bf16", "transformers", "bf16", lambda: transformers("bfloat16")),
        Engine("OpenVINO VLMPipeline int8", "OpenVINO GenAI", "int8", openvino),
    ]


def _first_token(stored: Precision) -> Load:
    vision = VIT_B_16.weights + sum(layer.weights for layer in PROJECTOR)
    operations = VIT_B_16.operations + sum(layer.operations for layer in PROJECTOR)
    return Load(
        vision * stored.linear + pass_bytes(SMOLLM2, stored, 0),
        operations + pass_operations(SMOLLM2, IMAGE_TOKENS + TEXT),
    )


def _decode(stored: Precision) -> Load:
    past = IMAGE_TOKENS + TEXT + DECODED // 2
    return Load(
        DECODED * pass_bytes(SMOLLM2, stored, past), DECODED * pass_operations(SMOLLM2, 1, past)
    )


def _write_model(out: Path) -> None:
    """Weights in bf16, as SmolLM2's are; a tokenizer with a picture; how pictures are read."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        LlavaConfig,
        LlavaForConditionalGeneration,
        PreTrainedTokenizerFast,
    )

    source = fetch_model()
    lm = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    tokenizer = _with_picture(json.loads((source / "tokenizer.json").read_text()))
    index = next(one["id"] for one in tokenizer["added_tokens"] if one["content"] == IMAGE)
    config = LlavaConfig(
        vision_config=siglip_config(),
        text_config=lm.config,
        image_token_index=index,
        image_seq_length=IMAGE_TOKENS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=True,
        eos_token_id=lm.config.eos_token_id,
    )
    torch.manual_seed(SEED)
    model = LlavaForConditionalGeneration(config).to(torch.bfloat16)
    model.model.language_model.load_state_dict(lm.model.state_dict())
    model.tie_weights()
    model.save_pretrained(out)
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))
    PreTrainedTokenizerFast(
        tokenizer_file=str(out / "tokenizer.json"),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        extra_special_tokens={"image_token": IMAGE},
        chat_template=TEMPLATE,
    ).save_pretrained(out)
    for name, settings in PROCESSORS.items():
        (out / name).write_text(json.dumps(settings, indent=1) + "\n")


def _with_picture(tokenizer: dict) -> dict:
    """The tokenizer's JSON with the picture in the place of the spare word."""
    for one in tokenizer["added_tokens"]:
        if one["content"] == SPARE:
            one["content"] = IMAGE
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[IMAGE] = vocabulary.pop(SPARE)
    return tokenizer


_HALF = [0.5, 0.5, 0.5]
# As OpenVINO's pipeline reads it: CLIP's names, a shortest edge and a crop.
PROCESSORS = {
    "preprocessor_config.json": {
        "image_processor_type": "CLIPImageProcessor",
        "processor_class": "LlavaProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "do_center_crop": True,
        "do_rescale": True,
        "do_normalize": True,
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "image_mean": _HALF,
        "image_std": _HALF,
    },
    "processor_config.json": {
        "processor_class": "LlavaProcessor",
        "image_token": IMAGE,
        "num_additional_image_tokens": 0,
        "patch_size": 16,
        "vision_feature_select_strategy": "full",
    },
}


def _write_pictures(out: Path) -> None:
    with out.open("wb") as file:
        np.save(file, shipped_pictures())


def _export(precision: str, out: Path) -> None:
    """As `edge-mm export` does it, verified on two of the shipped pictures.

    Not by their words: of a random tower one near-tie makes others of them, and `judge` counts.
    """
    from edge_mm_export.export import export_checkpoint
    from edge_mm_export.verify import Gate

    with tempfile.TemporaryDirectory() as scratch:
        frames = _few_frames(Path(scratch))
        gate = Gate(same_answers=0.0)
        export_checkpoint(
            MODEL, out, frames=frames, precision=precision, context=CONTEXT, gate=gate
        )


def _few_frames(folder: Path) -> Path:
    from edge_mm.demo.questions import shipped_frames

    asked = json.loads((shipped_frames() / "questions.json").read_text())
    pictures = [one for one in asked["pictures"] if not one.get("rendered")][:2]
    for one in pictures:
        one["questions"] = [{"text": "What is on the table?", "mode": "auto"}]
        shutil.copy(shipped_frames() / one["file"], folder)
    (folder / "questions.json").write_text(json.dumps({"pictures": pictures}))
    return folder


def _export_by_optimum(out: Path) -> None:
    from bench.lib.environments import environment

    options = ["--task", "image-text-to-text", "--weight-format", "int8"]
    python = environment("openvino-exporter")
    words = [*on(python), "-m", "optimum.commands.optimum_cli", "export", "openvino"]
    run([*words, "--model", str(MODEL), *options, str(out)])
    # The pipeline reads this file; the exporter writes all of it into processor_config.json.
    shutil.copy(MODEL / "preprocessor_config.json", out)
