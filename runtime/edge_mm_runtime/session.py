"""Session: a bundle ready to answer questions about frames."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_mm_runtime.answer import Answer, GroundedObject, Mode, Step
from edge_mm_runtime.bundle import DEFAULT, Bundle, load_bundle
from edge_mm_runtime.decoder import Decoder, open_decoder
from edge_mm_runtime.errors import BundleError, UsageError
from edge_mm_runtime.extras import require
from edge_mm_runtime.generate import Generation, generate
from edge_mm_runtime.grammar import Grammars
from edge_mm_runtime.grounding import Parsed, Region, parse
from edge_mm_runtime.guide import Evidence, GroundingGuide, Regions
from edge_mm_runtime.image import Frame, Placement, check_frame
from edge_mm_runtime.runner import OnnxRunner, Runner
from edge_mm_runtime.vocabulary import open_tokenizer

CPU = "cpu"


class Session:
    """Answers about frames; a context manager, to be used from one thread at a time.

    with Session() as session:
        answer = session.ask(frame, "find the red cup")

    bundle           "default" (the shipped one), a folder, or an opened Bundle
    threads          for each graph; None: all cores that the process may use
    target           which of the bundle's graphs answer; None: see `default_target`. Those for a
                     GPU are run on the CPU as well, slowly: a check of their numbers
    vision, decoder  other engines with the contract of the target's graphs; None: the graphs
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = DEFAULT,
        threads: int | None = None,
        *,
        target: str | None = None,
        vision: Runner | None = None,
        decoder: Runner | None = None,
    ) -> None:
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}: give at least 1")
        require("cv2", "cpu")  # tells now what the first frame would need
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        manifest = self.bundle.manifest
        self._tokenizer, self._vocabulary = open_tokenizer(self.bundle)
        self._grammars = Grammars(self._tokenizer, self._vocabulary)
        target = target or default_target(self.bundle)
        self._vision = vision or open_graph(self.bundle, "vision", target, threads)
        self._decoder_runner = decoder or open_graph(self.bundle, "decoder", target, threads)
        self._decoder = Decoder(self._decoder_runner, manifest.decoder, target)
        self._pixel_values: npt.NDArray[np.float32] | None = None
        self._regions: Regions | None = None
        self._points = manifest.grounding.box_source == "head"
        self._check_graphs()

    def ask(
        self,
        frame: Frame,
        text: str,
        *,
        mode: Mode = "auto",
        max_new_tokens: int = 128,
        timeout_s: float | None = None,
        frame_id: int | str | None = None,
        timestamp_s: float | None = None,
    ) -> Answer:
        """Ask about a frame: uint8, H x W, H x W x 3 BGR or H x W x 4 BGRA.

        mode         selects the grammar: auto | locate | point | answer | caption | steps
        timeout_s    the answer comes within it (to one decoder pass), finish_reason "timeout"
        timestamp_s  when the frame was taken, on time.monotonic's clock (default: now)
        Raises UsageError for a text or option that cannot be answered, ImageError for a bad frame.
        A second question about the same pixels skips the vision graph and the picture's prefill.
        """
        asked = time.monotonic()
        started = time.perf_counter()
        deadline = None if timeout_s is None else started + timeout_s
        if max_new_tokens < 1:
            raise UsageError(f"max_new_tokens is {max_new_tokens}: give at least 1")
        check_frame(frame)
        transform = self.bundle.manifest.image
        placement = transform.placement(frame.shape[1], frame.shape[0])
        prompt = self._prompt_ids(text)
        constraint = self._grammars.start(mode, self.bundle.manifest.decoder.vocab_size)
        pixel_values = transform.apply(frame)
        seen = time.perf_counter()
        if deadline is None or seen < deadline:
            self._look(pixel_values)
        looked = time.perf_counter()
        guide = GroundingGuide(self._vocabulary, self.bundle.manifest.grounding, self._regions)
        made = generate(
            self._decoder,
            prompt,
            constraint=constraint,
            guide=guide,
            stop_ids=self._vocabulary.stop,
            max_new_tokens=max_new_tokens,
            deadline_s=deadline,
        )
        spoken = self._tokenizer.decode(made.ids, skip_special_tokens=False)
        parsed = parse(spoken, self.bundle.manifest.grounding.bins)
        taken = asked if timestamp_s is None else timestamp_s
        return _answer(
            parsed,
            guide,
            placement,
            made,
            timings_ms={
                "image": (seen - started) * 1e3,
                "vision": (looked - seen) * 1e3,
                "prefill": made.prefill_ms,
                "decode": made.decode_ms,
                "total": (time.perf_counter() - started) * 1e3,
            },
            frame_id=frame_id,
            timestamp_s=taken,
        )

    def close(self) -> None:
        """Give the engines' memory back."""
        self._vision.close()
        self._decoder_runner.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_graphs(self) -> None:
        """Raise BundleError where a graph does not do what bundle.json says."""
        vision, manifest = self._vision.outputs, self.bundle.manifest
        wanted = {"image_embeds"} | ({"region_keys", "region_boxes"} if self._points else set())
        missing = wanted - vision.keys()
        if self._points:
            missing |= {"region_query"} - self._decoder_runner.outputs.keys()
        if missing:
            raise BundleError(
                f"{self.bundle.folder}: its graphs do not give {', '.join(sorted(missing))}: "
                "export the checkpoint again"
            )
        rows, said = vision["image_embeds"].shape[1], manifest.prompt.image_token_count
        if said and rows not in (None, said):  # 0: it is no part of the prompt
            raise BundleError(
                f"{self.bundle.folder}: its vision graph gives {rows} image tokens, the prompt "
                f"has {said}: export the checkpoint again"
            )

    def _prompt_ids(self, text: str) -> list[int]:
        """The prompt's ids; the n-th image token becomes row n of image_embeds."""
        manifest = self.bundle.manifest
        rendered = manifest.prompt.render(text)
        ids: list[int] = self._tokenizer.encode(rendered, add_special_tokens=False).ids
        row = manifest.decoder.vocab_size
        for index, token in enumerate(ids):
            if token == self._vocabulary.image:
                ids[index] = row
                row += 1
        if len(ids) >= manifest.decoder.context:
            raise UsageError(
                f"the text is too long: with the picture it makes {len(ids)} tokens, "
                f"{self.bundle.folder.name} takes {manifest.decoder.context - 1}"
            )
        return ids

    def _look(self, pixel_values: npt.NDArray[np.float32]) -> None:
        """Run the vision graph, unless these are the pixels that it saw last."""
        if self._pixel_values is not None and np.array_equal(self._pixel_values, pixel_values):
            return
        self._pixel_values = None  # stays so if the graph fails
        outputs = self._vision.run({"pixel_values": pixel_values})
        self._decoder.set_image(outputs["image_embeds"][0])
        if self._points:
            self._regions = Regions(outputs["region_keys"][0], outputs["region_boxes"][0])
        self._pixel_values = pixel_values


def default_target(bundle: Bundle) -> str:
    """cpu, or the first target of a bundle that has graphs for others only."""
    targets = bundle.manifest.graphs
    return CPU if CPU in targets else next(iter(targets), CPU)


def open_graph(
    bundle: Bundle,
    part: Literal["vision", "decoder"],
    target: str,
    threads: int | None = None,
) -> OnnxRunner:
    """A graph of a target on ONNX Runtime's CPU provider; BundleError where it cannot be run."""
    graphs = bundle.graphs(target)
    try:
        if part == "vision":
            return OnnxRunner(bundle.path(graphs.vision), threads)
        return open_decoder(bundle.path(graphs.decoder), bundle.manifest.decoder, threads, target)
    except BundleError as error:
        if graphs.precision != "bf16":
            raise
        raise BundleError(
            f"{error}: bf16 graphs are for a GPU, ONNX Runtime computes no bf16 on a CPU: to "
            "check their numbers on one, export with --precision fp16"
        ) from None


def _answer(
    parsed: Parsed,
    guide: GroundingGuide,
    placement: Placement,
    made: Generation,
    *,
    timings_ms: dict[str, float],
    frame_id: int | str | None,
    timestamp_s: float,
) -> Answer:
    # The grammar keeps both lists equal: each place that was completed is one region of the text.
    objects = tuple(
        _grounded(region, known, placement)
        for region, known in zip(parsed.objects, guide.evidence(made.ids), strict=True)
    )
    whole = made.finish_reason == "stop"
    return Answer(
        text=parsed.text,
        objects=objects,
        found=parsed.found,
        steps=tuple(
            Step(step.action, step.relation, item)
            for step, item in zip(parsed.steps, objects, strict=False)
        ),
        finish_reason=made.finish_reason,
        timings_ms=timings_ms,
        frame_id=frame_id,
        timestamp_s=timestamp_s,
        age_s=time.monotonic() - timestamp_s,
        confidence=guide.answer_confidence() if whole and not parsed.found else None,
    )


def _grounded(region: Region, known: Evidence, placement: Placement) -> GroundedObject:
    """A region in frame pixels: the head's float place, or the one that the model spoke."""
    box = region.box if known.place is None else known.place[:4]
    point = region.point if known.place is None else known.place[4:]
    frame_box = None if box is None else placement.from_unit(box).tolist()
    frame_point = None if point is None else placement.from_unit(point).tolist()
    return GroundedObject(
        label=region.label,
        box_xyxy=frame_box and tuple(frame_box),
        point_xy=frame_point and tuple(frame_point),
        confidence=known.confidence,
    )
