"""Every way a transformers folder can be refused: one line, exit code 2, nothing left behind."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoConfig

import edge_mm_export.bundle as bundle_module
from edge_mm.cli import main as cli

from .conftest import TINY
from .folders import tiny_model, write_words

SHARDS = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA folder of several shards in which nothing is wrong."""
    folder = tmp_path_factory.mktemp("whole") / "llava"
    tiny_model("llava-1.5").save_pretrained(folder, max_shard_size="200KB")
    write_words(folder, "llava")
    assert (folder / SHARDS).is_file()
    return folder


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "models" / "llava"))


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """`refused(folder, ...)`: what the command says, having checked that it is one line."""

    def export(folder: Path, *options: str, out: Path | None = None) -> str:
        capsys.readouterr()
        left = sorted(tmp_path.iterdir())
        arguments = ["export", str(folder), "-o", str(out or tmp_path / "out"), *options]
        assert cli(arguments) == 2
        *before, last = capsys.readouterr().err.strip().splitlines()
        assert last.startswith("error: ") and not any("rror" in line for line in before)
        assert sorted(tmp_path.iterdir()) == left
        return last

    return export


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_a_missing_shard(model: Path, refused: Refused) -> None:
    lost = shards(model)[1]
    lost.unlink()
    assert f"lacks {lost.name}" in refused(model)


def test_a_truncated_shard(model: Path, refused: Refused) -> None:
    path = shards(model)[1]
    path.write_bytes(path.read_bytes()[:-100])
    message = refused(model)
    assert str(path) in message and "damaged or cut short" in message


def test_a_missing_weight(model: Path, refused: Refused) -> None:
    path = shards(model)[0]
    weights = load_file(path)
    lost = sorted(weights)[0]
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})
    index = json.loads((model / SHARDS).read_text())
    del index["weight_map"][lost]
    (model / SHARDS).write_text(json.dumps(index))
    message = refused(model)
    assert "lack" in message and "one of 1" in message


def test_weights_of_another_shape(model: Path, refused: Refused) -> None:
    config = json.loads((model / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 96
    (model / "config.json").write_text(json.dumps(config))
    assert "transformers cannot read the model in" in refused(model)


def test_weights_that_are_not_finite(model: Path, refused: Refused) -> None:
    index = json.loads((model / SHARDS).read_text())["weight_map"]
    name = next(name for name in index if name.endswith("lm_head.weight"))
    path = model / index[name]
    weights = load_file(path)
    weights[name][:] = torch.nan
    save_file(weights, path, metadata={"format": "pt"})
    assert "not finite" in refused(model, "--precision", "fp32")


def test_pickled_weights_with_the_command_that_converts_them(model: Path, refused: Refused) -> None:
    for path in (*shards(model), model / SHARDS):
        path.unlink()
    (model / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    message = refused(model)
    assert "pytorch_model.bin, a pickle" in message and ".save_pretrained(" in message


def test_another_vocabulary_than_the_tokenizers(model: Path, refused: Refused) -> None:
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.add_tokens([f"word{number}" for number in range(100)])
    tokenizer.save(str(model / "tokenizer.json"))
    assert "the model's vocabulary only 320: they are not of one checkpoint" in refused(model)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "of tomorrow"}, "transformers cannot read"),
        ({"model_type": "llama", **TINY}, "is a llama: a language model alone answers no picture"),
        ({"model_type": "git"}, "family 'git' reads pictures otherwise"),
        ({"model_type": "clip"}, "is a clip, which answers no question about a picture"),
    ],
)
def test_another_kind_of_model(
    config: dict[str, object], message: str, model: Path, refused: Refused
) -> None:
    if config["model_type"] == "of tomorrow":
        (model / "config.json").write_text(json.dumps(config))
    else:
        AutoConfig.for_model(**config).save_pretrained(model)
    assert message in refused(model)


def test_a_family_whose_parts_are_elsewhere(model: Path, refused: Refused) -> None:
    from transformers import AutoModelForImageTextToText

    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = AutoConfig.for_model(
        "instructblip",
        vision_config={**tiny, "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
        qformer_config={**tiny, "num_attention_heads": 2, "vocab_size": 320},
        text_config={"model_type": "llama", **TINY, "vocab_size": 320},
        image_token_index=3,
        num_query_tokens=2,
    )
    for path in (*shards(model), model / SHARDS):
        path.unlink()
    AutoModelForImageTextToText.from_config(config).save_pretrained(model)
    (model / "chat_template.jinja").write_text("<image>{{ messages[0].content[1].text }}")
    assert "family 'instructblip' is not one that the importer knows" in refused(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "fp8"), "target 'cpu' has no precision 'fp8'"),
        (("--target", "npu"), "unknown target 'npu'"),
        (("--target", "tensorrt-10.3", "--precision", "int4"), "has no precision 'int4'"),
        (("--image-size", "64x48"), "made for 32 x 32 pixels, not for 64 x 48"),
        (("--context", "4096"), "context 4096 is beyond the model's 512 positions"),
        (("--context", "20"), "context 20 leaves no room for words beside a picture of 16 tokens"),
    ],
)
def test_what_cannot_be_made(
    options: tuple[str, ...], message: str, model: Path, refused: Refused
) -> None:
    assert message in refused(model, *options)


def test_folders_that_cannot_be_written(model: Path, refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert "not an empty folder" in refused(model, out=tmp_path / "full")
    assert "no folder" in refused(model, out=tmp_path / "no" / "out")
    assert "/proc/out cannot be written" in refused(model, out=Path("/proc/out"))


def test_a_full_disk(model: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_module, "save_graph", full)
    message = refused(model)
    assert "out cannot be written: No space left on device; nothing of it is left" in message


def test_a_disk_that_fills_up(model: Path, refused: Refused, small_files: None) -> None:
    assert "out cannot be written: File too large" in refused(model)
