"""References: questions that torch answered at the export, kept in the bundle to be asked again.

`references/` of a bundle has a few of the frames that the export was verified on, as PNG, and
references.json with what torch said about them. `repeat` asks the bundle's graphs the same, so a
robot can tell whether they answer there as they did where they were made; torch is not needed.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import numpy.typing as npt

from edge_mm_runtime.agreement import Gate, Pair, compare_logits, same_tokens
from edge_mm_runtime.answer import Answer, GroundedObject, Mode
from edge_mm_runtime.bundle import MANIFEST, Bundle
from edge_mm_runtime.devices import Device
from edge_mm_runtime.errors import BundleError, EdgeMMError
from edge_mm_runtime.image import Placement, read_image
from edge_mm_runtime.runner import Array, Arrays, Runner, WrappedRunner
from edge_mm_runtime.session import Session, open_graph

FOLDER = "references"
FILE = f"{FOLDER}/references.json"


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """One question and torch's answer to it.

    picture     a file beside references.json; boxes and points are in its pixels
    type        groups figures, e.g. locate or count
    top_ids     the likeliest ids at the end of the prompt, and top_logits their logits
    ids         what torch generated, without a last id that it had no need to read
    """

    picture: str
    question: str
    type: str
    mode: Mode
    text: str
    found: bool | None
    objects: tuple[GroundedObject, ...]
    top_ids: tuple[int, ...]
    top_logits: tuple[float, ...]
    ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.top_ids or len(self.top_ids) != len(self.top_logits):
            raise ValueError(
                f"{len(self.top_ids)} top_ids and {len(self.top_logits)} top_logits: "
                "one of each belong together"
            )


class References(msgspec.Struct, frozen=True, kw_only=True):
    """references.json; answers are of at most `max_new_tokens` ids."""

    max_new_tokens: int
    questions: tuple[Reference, ...]


def read_references(bundle: Bundle) -> References | None:
    """The references of a bundle; None where it has none (exporters of old wrote none)."""
    manifest = bundle.manifest
    if all(entry.path != FILE for entry in manifest.files):
        return None
    path = bundle.path(FILE)
    again = "export the bundle again"
    try:
        references = msgspec.json.decode(path.read_bytes(), type=References)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{path} is damaged: {error}: {again}") from None
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror}") from None
    if not references.questions:
        raise BundleError(f"{path} has no question: {again}")
    most = max(max(reference.top_ids) for reference in references.questions)
    if most >= manifest.decoder.vocab_size:
        raise BundleError(
            f"{path} names id {most}, the decoder of {bundle.folder / MANIFEST} knows "
            f"{manifest.decoder.vocab_size}: {again}"
        )
    return references


def read_gate(bundle: Bundle) -> Gate:
    """What the export held itself to; BundleError where the bundle does not say."""
    try:
        return msgspec.convert(bundle.manifest.verification["gate"], Gate)
    except (KeyError, msgspec.ValidationError):
        raise BundleError(
            f"{bundle.folder / MANIFEST} has no gate to hold its references to: export the bundle "
            "again"
        ) from None


class Recorder(WrappedRunner):
    """A decoder's runner that remembers what it read and said since `passes` was last cleared."""

    def __init__(self, runner: Runner) -> None:
        super().__init__(runner)
        self.passes: list[tuple[list[int], npt.NDArray[np.float32]]] = []  # ids read, logits [V]

    def run(self, inputs: Mapping[str, Array]) -> Arrays:
        """Run the graph once."""
        outputs = super().run(inputs)
        self.passes.append((inputs["input_ids"][0].tolist(), outputs["logits"][0]))
        return outputs


def repeat(
    references: References, bundle: Bundle, target: str, device: Device = "cpu"
) -> tuple[list[Pair], list[str]]:
    """Ask the bundle's graphs of a target every question, on a device.

    Returns what can be compared with torch, and in words the questions that could not be answered.
    """
    pairs: list[Pair] = []
    errors: list[str] = []
    decoder = Recorder(open_graph(bundle, "decoder", target, device=device))
    with Session(bundle, target=target, device=device, decoder=decoder) as session:
        for reference in references.questions:
            frame = read_image(bundle.path(f"{FOLDER}/{reference.picture}"))
            decoder.passes.clear()
            try:
                answer = session.ask(
                    frame,
                    reference.question,
                    mode=reference.mode,
                    max_new_tokens=references.max_new_tokens,
                )
            except EdgeMMError:
                raise
            except Exception as error:  # e.g. NaN; onnxruntime's own classes share no base
                errors.append(f"{error} ({reference.picture}, {reference.question!r})")
                continue
            placement = bundle.manifest.image.placement(frame.shape[1], frame.shape[0])
            pairs.append(_pair(reference, answer, placement, decoder.passes))
    return pairs, errors


def _pair(
    reference: Reference,
    answer: Answer,
    placement: Placement,
    passes: list[tuple[list[int], npt.NDArray[np.float32]]],
) -> Pair:
    """A reference and the answer that took the last of these passes; the first read its prompt."""
    (_, logits), *later = passes[-answer.work.decoder_passes :] if answer.work else passes
    expected = np.array(reference.top_logits, np.float32)
    return Pair(
        picture=reference.picture,
        question=reference.question,
        type=reference.type,
        placement=placement,
        torch=Answer(reference.text, reference.objects, reference.found, (), "stop", {}),
        exported=answer,
        logits=[compare_logits(expected, logits[list(reference.top_ids)])],
        same_tokens=same_tokens(reference.ids, [token for ids, _ in later for token in ids]),
    )
