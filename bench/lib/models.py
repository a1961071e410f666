"""Models as the roofline sees them: ours from its own config, others from their public ones."""

from __future__ import annotations

from bench.lib.limits import Conv, Decoder, Encoder, Linear, Model, Precision, Vision
from edge_mm.model.config import ModelConfig
from edge_mm.model.efficientnet_lite import FEATURE_CHANNELS, STAGES

# Ours: blocks of 32 weights with an fp16 scale, the head as the layers. In fp16 a tied head is the
# embedding. TensorRT Edge-LLM's AWQ: groups of 128, the head in fp16.
FP16 = Precision(name="fp16", linear=2, head=2, table=0)
INT8 = Precision(name="int8 weights", linear=1 + 2 / 32, head=1 + 2 / 32)
INT4 = Precision(name="int4 weights", linear=0.5 + 2 / 32, head=0.5 + 2 / 32)
AWQ = Precision(name="int4 AWQ", linear=0.5 + 2 / 128, head=2)
# On the target cpu scales and cache are fp32, blocks of 128 and 64, the products of int8.
FP32 = Precision(name="fp32", linear=4, head=4, table=0, cache=4, math="fp32")
CPU_INT8 = Precision(name="int8", linear=1 + 4 / 128, head=1 + 4 / 64, cache=4, math="int8")
CPU_INT4 = Precision(name="int4", linear=0.5 + 4 / 64, head=0.5 + 4 / 64, cache=4, math="int8")

SMOLVLM = Model(
    name="SmolVLM-500M",
    vision=Vision(
        Encoder(12, 768, 3072, 1024), (Conv(32, 3, 768, 16),), (Linear(64, 16 * 768, 960),)
    ),
    decoder=Decoder(32, 960, 15, 5, 64, 2560, 49280, tied=False),
    precision=INT8,
    picture="512 x 512, one tile",
    image_tokens=64,
    text=40,
    question=20,
    context=2048,
)
QWEN = Model(
    name="Qwen2.5-VL-3B",
    vision=Vision(
        Encoder(32, 1280, 3420, 1024, matrices=3),
        (Conv(32, 2 * 3, 1280, 14),),
        (Linear(256, 4 * 1280, 4 * 1280), Linear(256, 4 * 1280, 2048)),
    ),
    decoder=Decoder(36, 2048, 16, 2, 128, 11008, 151936),
    precision=INT4,
    picture="448 x 448",
    image_tokens=256,
    text=40,
    question=20,
    context=4096,
)
SMOLLM2 = Decoder(30, 576, 9, 3, 64, 1536, 49152)
VIT_B_16 = Vision(Encoder(12, 768, 3072, 196), (Conv(14, 3, 768, 16),))  # at 224 x 224

QWEN3_06B = Decoder(28, 1024, 16, 8, 128, 3072, 151936)
QWEN3_17B = Decoder(28, 2048, 16, 8, 128, 6144, 151936)
QWEN3_4B = Decoder(36, 2560, 32, 8, 128, 9728, 151936)
QWEN3_8B = Decoder(36, 4096, 32, 8, 128, 12288, 151936, tied=False)
LLAMA_3B = Decoder(28, 3072, 24, 8, 128, 8192, 128256)
LLAMA_8B = Decoder(32, 4096, 32, 8, 128, 14336, 128256, tied=False)


def qwen3_vision(tokens: int, hidden: int) -> Vision:
    """The tower of Qwen3-VL-2B and -4B for a picture of so many tokens, with its four mergers."""
    merger = (Linear(tokens, 4096, 4096), Linear(tokens, 4096, hidden))
    return Vision(Encoder(24, 1024, 4096, 4 * tokens), linears=4 * merger)


def nano(config: ModelConfig, precision: Precision = FP16) -> Model:
    """A model of ours: EfficientNet-Lite0, neck, encoder, MLP projector, region head, Llama.

    Early fusion and our own tower only.
    """
    vision, language = config.vision, config.language
    return Model(
        name=config.name,
        vision=_tower(config),
        decoder=Decoder(
            language.num_hidden_layers,
            language.hidden_size,
            language.num_attention_heads,
            language.num_key_value_heads,
            language.head_dim,
            language.intermediate_size,
            language.vocab_size,
        ),
        precision=precision,
        picture=f"{vision.image_size} x {vision.image_size}",
        image_tokens=vision.tokens,
        text=7,  # of "find the red cup" in its template
        question=6,  # of "is there a cup?", without what it shares with the first
        context=language.max_position_embeddings,
    )


def _tower(config: ModelConfig) -> Vision:
    vision, hidden = config.vision, config.language.hidden_size
    wide, cells, tokens = vision.neck_channels, vision.cells, vision.tokens
    convs, sides = _efficientnet(vision.image_size)
    (fine, _), *coarser = sides.items()
    convs.append(Conv(cells, 4 * fine, wide))  # 2 x 2 cells of the fine map side by side
    convs += [Conv(side, channels, wide) for channels, side in coarser]
    convs += [Conv(cells, wide, wide, 3)] * 6  # four of the neck, two of the region head
    convs.append(Conv(vision.token_grid, wide, vision.hidden_size, cells // vision.token_grid))
    convs += [Conv(cells, wide, config.regions.key_size), Conv(cells, wide, 6)]
    projector = Linear(tokens, vision.hidden_size, hidden)
    deeper = [Linear(tokens, hidden, hidden)] * (config.projector.layers - 1)
    context = Linear(tokens, vision.hidden_size, wide)  # what the region head knows of the tokens
    return Vision(
        Encoder(vision.layers, vision.hidden_size, vision.intermediate_size, tokens),
        tuple(convs),
        (projector, *deeper, context),
        kind="convolutions",
    )


def _efficientnet(size: int) -> tuple[list[Conv], dict[int, int]]:
    """Its convolutions for a square picture; {channels: side} of the maps that the neck reads."""
    side, channels = -(-size // 2), 32
    convs, sides = [Conv(side, 3, channels, 3)], dict[int, int]()
    for kernel, stride, expansion, outputs, repeats in STAGES:
        for repeat in range(repeats):
            hidden = channels * expansion
            if expansion > 1:
                convs.append(Conv(side, channels, hidden))
            side = -(-side // stride) if repeat == 0 else side
            convs.append(Conv(side, hidden, hidden, kernel, groups=hidden))
            convs.append(Conv(side, hidden, outputs))
            channels = outputs
        if outputs in FEATURE_CHANNELS:
            sides[outputs] = side
    return convs, sides
