"""`EdgeMM`: vision tower, projector, region head and language model, put together.

The model knows tensors only: no tokenizer, no images on disk, no training. Ids at and above the
vocabulary size are rows of the image embeddings, in the trainer as in the exported graphs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import Cache, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from edge_mm.model.config import LanguageConfig, ModelConfig
from edge_mm.model.fusion import Fusion
from edge_mm.model.languages import decoder, logits, random_language_model
from edge_mm.model.projectors import build_projector
from edge_mm.model.regions import RegionHead
from edge_mm.model.towers import TransformersTower
from edge_mm.model.vision import VisionTower
from edge_mm.words import COLORS, KINDS

LOOKS = 1 + len(KINDS) + 1 + len(COLORS)  # background + kinds, background + colours
CONTRASTIVE_SIZE = 128
PLACE = 7  # box, foot and size of an object, see edge_mm.data.samples.place
VISION_OUTPUTS = ("image_embeds", "region_keys", "region_boxes")


def llama_config(config: LanguageConfig) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        head_dim=config.head_dim,
        num_key_value_heads=config.num_key_value_heads,
        max_position_embeddings=config.max_position_embeddings,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        rms_norm_eps=config.rms_norm_eps,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )


class Frames(nn.Module):
    """pixel_values [B,3,S,S] -> image_embeds, region_keys [B,P,K], region_boxes [B,P,6].

    What is called image_embeds in a bundle is the model's `image_memory`, [B,T,D] or [B,T,W].
    """

    def __init__(self, model: EdgeMM):
        super().__init__()
        self.vision, self.projector, self.regions = model.vision, model.projector, model.regions
        self.memory = nn.Identity() if model.fusion is None else model.fusion.memory

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens, fine, features = self.vision(pixel_values)
        keys, boxes = self.regions.regions(self.regions.mixed(tokens, fine))
        return self.memory(self.projector(features)), keys, boxes


class MentionQuery(nn.Module):
    """Hidden states inside the decoder [M,D] -> what they know of the objects that they speak of.

    Queries [M,K] and biases [M] for the cells, and a place [M,PLACE]; training only.
    """

    def __init__(self, hidden_size: int, key_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.query = nn.Linear(hidden_size, key_size + 1)
        nn.init.zeros_(self.query.weight)  # undecided at first
        self.place = nn.Linear(hidden_size, PLACE)

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.norm(hidden)
        query = self.query(hidden)
        return query[:, :-1], query[:, -1], self.place(hidden)


class EdgeMM(nn.Module):
    """A grounded vision-language model."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        layers = config.projector.feature_layers
        self.vision: VisionTower | TransformersTower
        if config.tower is None:
            self.vision = VisionTower(config.vision, layers)
        else:
            self.vision = TransformersTower(config.tower, config.vision, layers)
        self.projector = build_projector(config)
        self.regions = RegionHead(config.vision, config.regions.key_size, LOOKS)
        self.lm: PreTrainedModel
        if config.language_model is None:
            self.lm = LlamaForCausalLM(llama_config(config.language))
        else:
            self.lm = random_language_model(config.language_model)
        self.fusion: Fusion | None = None
        if config.fusion.kind != "early":
            self.fusion = Fusion(config.fusion, self.lm.config)
            self.fusion.insert(self.decoder)
        self.region_query = nn.Linear(config.language.hidden_size, config.regions.key_size)
        self.mention_query = MentionQuery(config.language.hidden_size, config.regions.key_size)
        self.subject_query = MentionQuery(config.language.hidden_size, config.regions.key_size)
        self.image_projection = nn.Linear(config.vision.hidden_size, CONTRASTIVE_SIZE, bias=False)
        self.text_projection = nn.Linear(config.language.hidden_size, CONTRASTIVE_SIZE, bias=False)
        self.log_temperature = nn.Parameter(torch.tensor(2.66))  # 1 / 0.07, as CLIP starts

    @property
    def decoder(self) -> nn.Module:
        """The language model without its head."""
        return decoder(self.lm)

    def logits(self, hidden: Tensor) -> Tensor:
        """Last hidden states [..,D] -> logits [..,V]."""
        return logits(self.lm, hidden)

    def vision_graph(self) -> Frames:
        """What is computed once for a frame, as the exporter wants it."""
        return Frames(self)

    def image_memory(self, image_embeds: Tensor) -> Tensor:
        """Image tokens [B,T,D] as the decoder takes them: just so, or keys and values [B,T,W]."""
        return image_embeds if self.fusion is None else self.fusion.memory(image_embeds)

    def embed(self, input_ids: Tensor, image_embeds: Tensor) -> Tensor:
        """input_ids [B,S], image_embeds [B,T,D] -> [B,S,D]; ids >= vocab_size are image rows.

        Row t of image i of several is id vocab_size + i*T + t, with image_embeds [B,I*T,D]. Only
        early fusion has such ids; otherwise image_embeds are not looked at.
        """
        if self.fusion is not None:
            return self.lm.get_input_embeddings()(input_ids)
        vocabulary = self.config.language.vocab_size
        is_image = input_ids >= vocabulary
        text = self.lm.get_input_embeddings()(input_ids.where(~is_image, 0))
        rows = (input_ids - vocabulary).clamp(min=0)
        picked = image_embeds.gather(1, rows[..., None].expand(-1, -1, image_embeds.shape[-1]))
        return torch.where(is_image[..., None], picked.to(text.dtype), text)

    def image_features(self, tokens: Tensor) -> Tensor:
        """Vision tokens [B,T,D] -> [B,F], to be compared with `caption_features` by cosine."""
        return self.image_projection(tokens.mean(1))

    def caption_features(self, caption_ids: Tensor) -> Tensor:
        """Captions [B,C], padded with 0, read by the language model alone -> [B,F]."""
        hidden = self.hidden_states(self.lm.get_input_embeddings()(caption_ids))[-1]
        padding = (caption_ids.flip(1) != 0).int().argmax(1)  # at the end: 0 may be a word too
        last = caption_ids.shape[1] - 1 - padding
        return self.text_projection(hidden[torch.arange(len(last), device=last.device), last])

    def hidden_states(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        image_memory: Tensor | None = None,
        past_key_values: Cache | None = None,
    ) -> tuple[Tensor, ...]:
        """[B,S,D] before every layer, and at the end, normed; a 4-D mask is additive, [B,1,S,S].

        Without `image_memory` a model with gated blocks reads the text by its language model alone.
        """
        # transformers hands what it does not know to the layers.
        looking = {} if self.fusion is None else {"image_memory": image_memory}
        states = self.decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
            output_hidden_states=True,
            **looking,
        ).hidden_states
        if self.fusion is None:
            return states
        return (*states[:-1], self.fusion(states[-1], image_memory, len(states) - 1))
