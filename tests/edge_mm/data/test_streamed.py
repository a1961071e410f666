"""Samples from shards: those of the folder, in the stream's order, from where a run stands."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

from edge_mm.data.command import main
from edge_mm.data.samples import SampleMaker, SceneSamples
from edge_mm.data.scenes import read_scenes
from edge_mm.data.streamed import StreamedSamples, are_shards, collate_placed
from edge_mm.model.config import ModelConfig
from edge_mm_runtime.errors import UsageError
from tests.edge_mm.data.test_shards import rewrite


@pytest.fixture()
def shards(scene_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Six shards of a sample each."""
    out = tmp_path / "shards"
    assert main(["shard", str(scene_folder), "--out", str(out), "--per-shard", "1"]) == 0
    assert "6 shards" in capsys.readouterr().out
    return out


@pytest.fixture()
def maker(tokenizer, tiny_config: ModelConfig) -> SampleMaker:
    return SampleMaker(tiny_config, tokenizer, 4, 300)


def streamed(shards: Path, maker: SampleMaker, streams: int = 1, **of: int) -> StreamedSamples:
    return StreamedSamples([f"{shards}/*.tar"], maker, 1, 4, streams=streams, **of)


def test_samples_are_those_of_the_folder(
    shards: Path, scene_folder: Path, maker: SampleMaker, tokenizer, tiny_config: ModelConfig
) -> None:
    folder = SceneSamples([scene_folder], tiny_config, tokenizer, 4, 300, seed=1)
    expected = {}
    for pass_number, scene in itertools.product(range(2), read_scenes(scene_folder)):
        rng = random.Random(f"1/{pass_number}/{scene.id}")
        sample = folder.sample(scene_folder, scene, rng)
        if sample is not None:
            expected[(pass_number, tuple(sample["row"].ids))] = sample
    found = dict(enumerate(itertools.islice(streamed(shards, maker), len(expected))))
    assert len(expected) > 6
    for sample, (_, pass_number, _, _) in found.values():
        original = expected.pop((pass_number, tuple(sample["row"].ids)))
        for name in ("pixels", "ids", "boxes", "kinds", "colors"):
            np.testing.assert_array_equal(sample[name], original[name])
    assert not expected


def rows(loader: DataLoader, samples: StreamedSamples, number: int) -> list[list[list[int]]]:
    """The ids of so many batches, noted as trained on."""
    found = []
    for batch, place in itertools.islice(loader, number):
        samples.consumed(place)
        found.append(batch.input_ids.tolist())
    return found


@pytest.mark.parametrize(("workers", "before"), [(0, 3), (2, 1), (2, 4)])
def test_a_resumed_stream_goes_on_behind_the_last_consumed_batch(
    shards: Path, maker: SampleMaker, workers: int, before: int
) -> None:
    """Whatever the workers have read ahead."""

    def loader(samples: StreamedSamples) -> DataLoader:
        return DataLoader(samples, 2, collate_fn=collate_placed, num_workers=workers)

    whole = streamed(shards, maker, max(1, workers))
    expected = rows(loader(whole), whole, 9)
    begun = streamed(shards, maker, max(1, workers))
    first = rows(loader(begun), begun, before)
    resumed = streamed(shards, maker, max(1, workers))
    resumed.load_state([begun.state()], begun.setting)
    assert first + rows(loader(resumed), resumed, 9 - before) == expected
    assert resumed.state() == whole.state()


def test_a_bad_sample_is_skipped_and_counted_on_every_pass(
    shards: Path, maker: SampleMaker, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(shards / "000003.tar", {"000003.png": b"no picture"})
    samples = streamed(shards, maker)
    places = [place for _, place in itertools.islice(samples, 11)]
    assert places[-1][1] == 2 and places[-1][3] == 2  # in the third pass, after two skips
    assert capsys.readouterr().err.count("000003.tar") == 2


def test_processes_and_workers_share_the_shards(shards: Path, maker: SampleMaker) -> None:
    seen = []
    for rank, stream in itertools.product(range(2), range(3)):
        samples = streamed(shards, maker, 3, rank=rank, world=2)
        samples.next = stream
        sample, place = next(iter(samples))
        assert place[:2] == (stream, 0)
        seen.append(tuple(sample["row"].ids))
    assert len(set(seen)) == 6


def test_mistakes_are_named(shards: Path, maker: SampleMaker) -> None:
    assert are_shards(["a/*.tar", "b/000.tar"]) and not are_shards(["a", "b"])
    with pytest.raises(UsageError, match="edge-mm data shard"):
        are_shards(["a/*.tar", "b"])
    with pytest.raises(UsageError, match="6 shards cannot feed 8"):
        streamed(shards, maker, 4, world=2)
    begun = streamed(shards, maker, 2)
    with pytest.raises(UsageError, match="world 2, this one has 3"):
        streamed(shards, maker, 3).load_state([begun.state()], begun.setting)
    maker.max_tokens = 1
    with pytest.raises(UsageError, match="can be asked about"):
        next(iter(streamed(shards, maker)))
