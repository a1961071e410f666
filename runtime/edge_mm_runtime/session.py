"""Session: a bundle ready to answer questions about frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec

from edge_mm_runtime.answer import Answer, Mode
from edge_mm_runtime.bundle import DEFAULT, Bundle, load_bundle
from edge_mm_runtime.codecs import open_codec
from edge_mm_runtime.decoder import Decoder
from edge_mm_runtime.devices import DEVICES, Device
from edge_mm_runtime.errors import UsageError
from edge_mm_runtime.evidence import Replay, Witness, visual_evidence
from edge_mm_runtime.extras import require
from edge_mm_runtime.generate import Constraint, Generation, Guide, generate_partly
from edge_mm_runtime.grammar import Grammars
from edge_mm_runtime.graphs import check_graphs
from edge_mm_runtime.graphs import default_target as default_target
from edge_mm_runtime.graphs import open_graph as open_graph
from edge_mm_runtime.guide import GroundingGuide, Regions
from edge_mm_runtime.image import Frame, check_frame
from edge_mm_runtime.question import Question
from edge_mm_runtime.reading import Asked, read_answer
from edge_mm_runtime.runner import CountedRunner, Runner
from edge_mm_runtime.turn import Interrupt, Turns
from edge_mm_runtime.view import NOT_LOOKED, View, Viewer
from edge_mm_runtime.vocabulary import open_tokenizer

MOST_THREADS = 256  # of a graph; with a million ONNX Runtime hangs, or ends the process


class Session:
    """Answers about frames; a context manager.

    with Session() as session:
        answer = session.ask(frame, "find the red cup")

    bundle           "default" (the shipped one), a folder, or an opened Bundle
    threads          for each graph; None: all cores that the process may use
    device           cpu, cuda: ONNX Runtime there, or BundleError; tensorrt: the engines that
                     `edge-mm build` made of the bundle; openvino: the picture on OpenVINO
    target           which of the bundle's graphs answer; None: see `default_target`. Those for a
                     GPU are run on the CPU as well, slowly: a check of their numbers
    vision, decoder  other engines with the contract of the target's graphs; None: the graphs
    similar          frames in which no part differs by more than so many grey levels (0..255, see
                     similar.py) from the frame that was last looked at are not looked at again:
                     they are answered by what was seen then. None: every new frame is looked at

    A session answers one question at a time: while it does, one of another thread is refused with
    UsageError. It keeps the last frame's part of the prompt in the decoder's cache: a second
    question about the same pixels costs its own words only (see Answer.work).
    """

    def __init__(
        self,
        bundle: str | Path | Bundle = DEFAULT,
        threads: int | None = None,
        *,
        device: Device = "cpu",
        target: str | None = None,
        vision: Runner | None = None,
        decoder: Runner | None = None,
        similar: float | None = None,
    ) -> None:
        if threads is not None and not 1 <= threads <= MOST_THREADS:
            raise UsageError(f"threads is {threads}: give 1 to {MOST_THREADS}")
        if device not in DEVICES:
            raise UsageError(f"unknown device {device!r}: one of {', '.join(DEVICES)}")
        require("cv2", "cpu")  # tells now what the first frame would need
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        manifest = self.bundle.manifest
        self._tokenizer, self._vocabulary = open_tokenizer(self.bundle)
        self._grammars = Grammars(self._tokenizer, self._vocabulary)
        self._codec = open_codec(manifest.grounding)
        target = target or default_target(self.bundle, device)
        vision = vision or open_graph(self.bundle, "vision", target, threads, device)
        decoder = decoder or open_graph(self.bundle, "decoder", target, threads, device)
        check_graphs(self.bundle, vision, decoder)
        points = manifest.grounding.box_source == "head"
        self._viewer = Viewer(vision, manifest.image, points, similar)
        self._decoder_runner = CountedRunner(decoder)
        self._decoder = Decoder(self._decoder_runner, manifest.decoder, target)
        graphs = manifest.graphs.get(target)
        self._first_alone = graphs is not None and graphs.first_alone
        self._shown: View | None = None  # the picture that the decoder has
        self._turns = Turns()

    def ask(
        self,
        frame: Frame,
        text: str,
        *,
        mode: Mode = "auto",
        max_new_tokens: int = 128,
        timeout_s: float | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        evidence: bool = False,
        frame_id: int | str | None = None,
        timestamp_s: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Answer:
        """Ask about a frame: uint8, H x W, H x W x 3 BGR or H x W x 4 BGRA.

        mode         selects the grammar: auto | locate | point | answer | caption | steps
        timeout_s    no pass of a graph is begun after it; the answer has what was complete by then,
                     finish_reason "timeout". 0: nothing is run
        temperature  0: the likeliest answer; above: one drawn from what the grammar allows. Its
                     confidence is that of the model's own distribution (temperature 1) either way
        seed         of the drawing: the same one draws the same answer; None: another each time
        evidence     also tell how much the answer depends on the picture (Answer.visual_evidence).
                     Costs about one further question, and the next question about this frame has
                     to read the picture's part of the prompt again
        timestamp_s  when the frame was taken, on time.monotonic's clock (default: now)
        cancel       set from another thread, it ends the answer at its next pass, as `cancel()`
        Raises UsageError for a text or option that cannot be answered, ImageError for a bad frame.
        """
        *_, answer = self._answers(
            frame,
            Question(
                text=text,
                mode=mode,
                max_new_tokens=max_new_tokens,
                timeout_s=timeout_s,
                temperature=temperature,
                seed=seed,
                evidence=evidence,
                frame_id=frame_id,
                timestamp_s=timestamp_s,
                cancel=cancel,
            ),
        )
        return answer

    def stream(
        self,
        frame: Frame,
        text: str,
        *,
        mode: Mode = "auto",
        max_new_tokens: int = 128,
        timeout_s: float | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
        evidence: bool = False,
        frame_id: int | str | None = None,
        timestamp_s: float | None = None,
        cancel: threading.Event | None = None,
    ) -> Generator[Answer, None, None]:
        """The answer as it grows, finish_reason "partial": each time words or an object came to it.

        The last one is what `ask`, which explains the keywords, gives. The question begins with the
        first answer that is asked for, and is open until the last one, or until the stream is
        closed or dropped.
        """
        question = Question(
            text=text,
            mode=mode,
            max_new_tokens=max_new_tokens,
            timeout_s=timeout_s,
            temperature=temperature,
            seed=seed,
            evidence=evidence,
            frame_id=frame_id,
            timestamp_s=timestamp_s,
            cancel=cancel,
        )
        return self._answers(frame, question, partly=True)

    def cancel(self) -> None:
        """End the question that is being answered, if any; from any thread, or a signal handler.

        It ends before its next pass, with what was complete by then, finish_reason "cancelled".
        """
        self._turns.cancel()

    def close(self) -> None:
        """Give the engines' memory back; a question of another thread is cancelled first."""
        with self._turns.close():
            self._viewer.close()
            self._decoder_runner.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answers(
        self, frame: Frame, question: Question, partly: bool = False
    ) -> Generator[Answer, None, None]:
        """What `stream` gives; without `partly` the last one only."""
        with self._turns.take(question.timeout_s, question.cancel) as interrupted:
            asked = self._prepare(frame, question, interrupted)
            guide = self._guide(question, asked.look.regions)
            witness = Witness(guide, asked.look.regions, self._vocabulary.stop)
            told: object = ("", ())
            for made in self._generate(
                asked, asked.constraint, witness if question.evidence else guide, interrupted
            ):
                if made.finish_reason == "partial" and not partly:
                    continue
                answer = self._read(asked, made, guide)
                if made.finish_reason == "partial" and told != (answer.text, answer.objects):
                    told = (answer.text, answer.objects)
                    with self._turns.pause():
                        yield answer
            if question.evidence and answer.finish_reason == "stop":
                answer = self._add_evidence(asked, answer, witness, interrupted)
        yield answer  # after the turn: who has the last answer may ask again

    def _prepare(self, frame: Frame, question: Question, interrupted: Interrupt) -> Asked:
        """Check what is asked, make the prompt of it, and show the frame to the decoder."""
        asked_s, started_s = time.monotonic(), time.perf_counter()
        manifest = self.bundle.manifest
        check_frame(frame)
        placement = manifest.image.placement(frame.shape[1], frame.shape[0])
        prompt = self._prompt_ids(question.text, question.mode)
        constraint = self._grammars.start(question.mode, manifest.decoder.vocab_size)
        pixel_values = manifest.image.apply(frame)
        seen_s = time.perf_counter()
        look = NOT_LOOKED if interrupted() else self._viewer.look(pixel_values)
        # Where no id stands for the picture, the first one looks at it as well: it cannot stay.
        by_rows = prompt[0] < manifest.decoder.vocab_size <= max(prompt)
        if self._first_alone and by_rows and look.view is not None and self._shown is None:
            self._decoder.begin(prompt[:1])
        self._show(look.view)
        looked_s = time.perf_counter()
        self._decoder_runner.passes = 0
        return Asked(
            question, placement, prompt, constraint, look, asked_s, started_s, seen_s, looked_s
        )

    def _show(self, view: View | None) -> None:
        """Give the decoder a picture, unless it is the one that it has."""
        if view is not None and view is not self._shown:
            self._decoder.set_image(view.image_embeds)
            self._shown = view

    def _guide(self, question: Question, regions: Regions | None) -> GroundingGuide:
        grounding = self.bundle.manifest.grounding
        return GroundingGuide(self._vocabulary, grounding, regions, question.pick())

    def _generate(
        self, asked: Asked, constraint: Constraint, guide: Guide, interrupted: Interrupt
    ) -> Iterator[Generation]:
        """The decoder's answer as it grows."""
        return generate_partly(
            self._decoder,
            asked.prompt,
            constraint=constraint,
            guide=guide,
            stop_ids=self._vocabulary.stop,
            max_new_tokens=asked.question.max_new_tokens,
            interrupted=interrupted,
        )

    def _read(self, asked: Asked, made: Generation, guide: GroundingGuide) -> Answer:
        passes = self._decoder_runner.passes
        prefilled = self._decoder.prefilled if passes else 0
        return read_answer(asked, made, guide, prefilled, passes, self._tokenizer, self._codec)

    def _add_evidence(
        self, asked: Asked, answer: Answer, witness: Witness, interrupted: Interrupt
    ) -> Answer:
        """Say the answer again without the picture, see evidence.py."""
        if asked.look.view is None or interrupted():
            return answer
        started = time.perf_counter()
        blank = self._viewer.blank(asked.look.view.pixel_values)
        self._show(blank)
        replay = Replay(witness, blank.regions)
        constraint = self._grammars.start(
            asked.question.mode, self.bundle.manifest.decoder.vocab_size
        )
        *_, made = self._generate(asked, constraint, replay, interrupted)
        ended = time.perf_counter()
        timings_ms = answer.timings_ms | {
            "evidence": (ended - started) * 1e3,
            "total": (ended - asked.started_s) * 1e3,
        }
        whole = made.finish_reason == "stop"
        share = visual_evidence(witness, replay) if whole else None
        return msgspec.structs.replace(answer, visual_evidence=share, timings_ms=timings_ms)

    def _prompt_ids(self, text: str, mode: Mode) -> list[int]:
        """The prompt's ids; the n-th image token becomes row n of image_embeds."""
        manifest = self.bundle.manifest
        rendered = manifest.prompt.render(text, mode)
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
