"""The torch runners: cached steps against one uncached pass."""

from __future__ import annotations

import numpy as np
import torch

from edge_mm.model.edge_mm import EdgeMM
from edge_mm.model.runners import TorchDecoder, TorchVision

PREFIX = [1, 1280, 1281, 1282, 1283, 5]


@torch.no_grad()
def test_appending_and_going_back_equal_a_fresh_pass(tiny_model: EdgeMM) -> None:
    pixel_values = np.random.default_rng(0).normal(size=(1, 3, 240, 240)).astype(np.float32)
    embeds = TorchVision(tiny_model).run({"pixel_values": pixel_values})["image_embeds"]
    decoder = TorchDecoder(tiny_model)

    def feed(ids: list[int], total: int) -> tuple[np.ndarray, np.ndarray]:
        outputs = decoder.run(
            {
                "input_ids": np.array([ids], np.int64),
                "image_embeds": embeds[0],
                "seqlens_k": np.array([total - 1], np.int32),
                "total_sequence_length": np.array([total], np.int32),
            }
        )
        return outputs["logits"], outputs["region_query"]

    feed(PREFIX, 6)
    feed([7, 8, 9], 9)
    logits, query = feed([10, 11], 8)  # forgets 7 8 9
    inputs = tiny_model.embed(torch.tensor([[*PREFIX, 10, 11]]), torch.from_numpy(embeds))
    hidden = tiny_model.hidden_states(inputs)[-1][:, -1]
    np.testing.assert_allclose(logits, tiny_model.lm.lm_head(hidden).numpy(), atol=1e-4)
    np.testing.assert_allclose(query, tiny_model.region_query(hidden).numpy(), atol=1e-4)
