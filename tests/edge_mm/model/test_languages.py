"""Language models of transformers: in two parts, with our tokens, and packed as ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from edge_mm.data.samples import SceneSamples, attention_mask, collate
from edge_mm.model.assemble import open_language_model
from edge_mm.model.checkpoint import load_model, save_checkpoint
from edge_mm.model.components import LanguageModelConfig
from edge_mm.model.config import FusionConfig, ModelConfig
from edge_mm.model.languages import check_parts
from edge_mm.model.runners import TorchDecoder
from edge_mm.model.vocabulary import extend_tokenizer
from edge_mm.train.losses import Losses, Words
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.grounding import SPECIAL_TOKENS, location_tokens, parse
from edge_mm_runtime.prompt import NANO_TEMPLATE, Prompt
from tests.edge_mm.model.components import LANGUAGES, SIZES, TEXT, TOWERS, WORDS, small
from tests.edge_mm.model.components import language_model as of_family
from tests.edge_mm.model.components import tower as tower_of

SENTENCES = ["find the red cup", "where is the blue bowl", "pick 12 mugs", "the cup is not there"]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("name", LANGUAGES)
def test_two_packed_questions_are_read_as_each_alone(name: str) -> None:
    model = small(language_model=of_family(name))
    prefix, questions = [1, *range(WORDS, WORDS + 100)], [[5, 6, 7, 8], [9, 10, 11]]
    segments = torch.tensor([[0] * 101 + [1] * 4 + [2] * 3])
    positions = torch.tensor([[*range(101), *range(101, 105), *range(101, 104)]])
    images = torch.randn(1, 100, 32)
    ids = torch.tensor([prefix + questions[0] + questions[1]])
    mask = attention_mask(segments, torch.float32)
    with torch.no_grad():
        packed = model.logits(model.hidden_states(model.embed(ids, images), mask, positions)[-1])
        for question, rows in zip(questions, (slice(101, 105), slice(105, 108)), strict=True):
            embeds = model.embed(torch.tensor([prefix + question]), images)
            alone = model.lm(inputs_embeds=embeds).logits  # transformers, whole
            torch.testing.assert_close(packed[:, rows], alone[:, 101:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["Qwen3", "Gemma 2", "Gemma 3"])
def test_decoding_with_a_cache(name: str) -> None:
    model = small(language_model=of_family(name))
    ids = torch.tensor([[1, 5, 6, 7, 8, 9]])
    decoder, said = TorchDecoder(model), []
    for start, end in ((0, 3), (3, 4), (4, 6)):
        said = decoder.run(
            {
                "input_ids": ids[:, start:end].numpy(),
                "image_embeds": torch.zeros(100, 32).numpy(),
                "seqlens_k": torch.tensor([end - 1], dtype=torch.int32).numpy(),
                "total_sequence_length": torch.tensor([end], dtype=torch.int32).numpy(),
            }
        )["logits"]
    with torch.no_grad():
        whole = model.lm(ids).logits[:, -1]
    torch.testing.assert_close(torch.from_numpy(said), whole, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("tower", "language"),
    [(name, "Llama, SmolLM 1 and 2") for name in TOWERS] + [("SigLIP", n) for n in LANGUAGES],
)
def test_every_combination_learns(tower: str, language: str, scene_folder: Path) -> None:
    """All losses go through it, and each part gets a gradient."""
    model = small(tower_of(tower), of_family(language))
    words = trained(byte_level())
    extended = extend_tokenizer(words, model.config.grounding.bins)
    samples = SceneSamples([scene_folder], model.config, extended, 2, 120, 0)
    names = ("language", "pointing", "mentions", "boxes", "looks", "sea", "contrastive")
    losses = Losses(model, dict.fromkeys(names, 1.0), Words(extended))
    found = losses(collate([samples[0], samples[1]]))
    assert set(found) == set(names)
    sum(found.values()).backward()
    for part in (model.vision, model.vision.encoder, model.projector, model.regions, model.lm):
        moved = sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)
        assert 0 < moved < float("inf")


def byte_level() -> Tokenizer:
    """As of GPT-2, Qwen, SmolLM."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def sentence_piece() -> Tokenizer:
    """As of Llama 2 in its newer form: a space before the first section only, and a <s>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer


def gemma() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return tokenizer


def trained(tokenizer: Tokenizer) -> Tokenizer:
    specials = ["<unk>", "<pad>", "<eos>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


@pytest.mark.parametrize("kind", [byte_level, sentence_piece, gemma])
def test_a_prompt_is_its_parts_in_every_tokenizer(kind) -> None:
    own = trained(kind())
    found = extend_tokenizer(own, 128)
    assert "<s>" in own.encode("cup").tokens and "<s>" not in found.encode("cup").tokens
    for token in ("<pad>", "<eos>"):  # those that it has stay
        assert found.token_to_id(token) == own.token_to_id(token)
    text = Prompt(NANO_TEMPLATE, "<image>", 2).render("where is the blue bowl")
    said = "<ref>blue bowl</ref><box><loc000><loc127><loc003><loc064></box>"
    ids = found.encode(text + said).ids
    parts = [found.token_to_id(t) for t in ("<bos>", "<image>", "<image>", "<user>")]
    parts += found.encode("where is the blue bowl").ids
    parts += [found.token_to_id("<assistant>"), *found.encode(said).ids]
    assert ids == parts
    heard = found.decode(found.encode(said).ids, skip_special_tokens=False)
    assert parse(heard).objects == parse(said).objects


def test_a_tokenizer_that_cannot_spell_boxes_is_refused() -> None:
    spelling = trained(byte_level())
    spelling.decoder = decoders.WordPiece()  # puts spaces between tags
    with pytest.raises(UsageError, match="spells"):
        extend_tokenizer(spelling, 128)
    ordered = trained(byte_level())
    ordered.add_special_tokens(["<loc005>"])
    with pytest.raises(UsageError, match="another order"):
        extend_tokenizer(ordered, 128)


@pytest.fixture(params=[(False, 450), (True, 700)], ids=["untied", "tied-with-reserve"])
def folder(request, tmp_path: Path) -> Path:
    """A small Qwen2 on disk; the second has rows in reserve, as the real ones."""
    tied, rows = request.param
    config = AutoConfig.for_model(
        "qwen2", **(SIZES | TEXT | {"vocab_size": rows, "tie_word_embeddings": tied})
    )
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / "lm")
    trained(byte_level()).save(str(tmp_path / "lm" / "tokenizer.json"))
    return tmp_path / "lm"


def test_a_language_model_from_a_folder(folder: Path, tmp_path: Path) -> None:
    asked = LanguageModelConfig(name=str(folder))
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    old = before.get_input_embeddings().weight
    lm, known, sizes, tokenizer = open_language_model(asked, 128)
    new = lm.get_input_embeddings().weight
    ours = [tokenizer.token_to_id(token) for token in (*SPECIAL_TOKENS, *location_tokens(128))]
    words = Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    assert sizes.vocab_size == known.config["vocab_size"] == len(new)
    assert len(new) == max(len(old), tokenizer.get_vocab_size())
    torch.testing.assert_close(new[:words], old[:words])
    added = new[[i for i in ours if i >= words]]
    spread = (added - old[:words].mean(0)).std() / old[:words].std()
    assert 0.05 < spread < 0.2 and len(added.unique(dim=0)) == len(added)
    assert lm.dtype == torch.float32

    model = small(language_model=asked)
    torch.testing.assert_close(model.lm.get_input_embeddings().weight[:words], old[:words])
    save_checkpoint(tmp_path / "a", model, model.state_dict(), tokenizer, {}, torch.float32)
    for path in sorted(folder.iterdir()):
        path.unlink()
    loaded = load_model(tmp_path / "a")
    ids = torch.tensor([ours[:6]])
    with torch.no_grad():
        torch.testing.assert_close(loaded.lm(ids).logits, model.lm(ids).logits)


def test_what_cannot_be_used_is_said(folder: Path) -> None:
    for asked, message in (
        (LanguageModelConfig(name="nobody/nothing"), r"language_model\.download: true"),
        (LanguageModelConfig(config={"model_type": "lama"}), "lama"),
    ):
        with pytest.raises(UsageError, match=message):
            open_language_model(asked, 128)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match=r"no tokenizer\.json"):
        open_language_model(LanguageModelConfig(name=str(folder)), 128)
    with pytest.raises(ValueError, match="model_type"):
        LanguageModelConfig()
    with pytest.raises(ValueError, match="needs a Llama"):
        ModelConfig(language_model=of_family("Qwen2"), fusion=FusionConfig("late"))


def test_a_head_that_is_not_all_is_refused() -> None:
    granite = SIZES | TEXT | {"logits_scaling": 3.0}
    lm = AutoModelForCausalLM.from_config(AutoConfig.for_model("granite", **granite))
    with pytest.raises(UsageError, match="more to its logits"):
        check_parts(lm)


def test_captions_may_hold_the_word_zero() -> None:
    model = small(language_model=of_family("Qwen2"))
    with torch.no_grad():
        alone = model.caption_features(torch.tensor([[1, 0, 5, 2]]))
        padded = model.caption_features(torch.tensor([[1, 0, 5, 2, 0, 0]]))
    torch.testing.assert_close(padded, alone)


def test_transformers_reads_the_tokenizer_that_we_write(folder: Path, tmp_path: Path) -> None:
    *_, tokenizer = open_language_model(LanguageModelConfig(name=str(folder)), 128)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    text = "find the red cup<none>"
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text).ids
