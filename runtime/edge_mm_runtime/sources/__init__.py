"""Where frames come from: a camera, a video file or stream, pictures, any Python iterable.

with open_source("0") as source:
    for grab in source:
        ...  # grab.frame, grab.timestamp_s, grab.frame_id, grab.depth

A live source gives the newest frame only: what came while the last one was being answered is
dropped, and counted, so an answer is never about a frame older than needed. A file gives every
frame, in order. What happens when something goes wrong (`stats().faults` counts it, the log tells
it once when it begins and once when it is over):

camera stalls or is unplugged   opened again, first after half a second, then ever more slowly;
                                whoever iterates waits and goes on. SourceError after give_up_s
resolution changes              told; the frames are given
frame is black for 2 s          told; the frames are given
frame is corrupt, of a camera   skipped; a camera that sends nothing else has stalled
frame is corrupt, of a file     skipped; SourceError if it was the only one, or the hundredth
                                in a row
"""

from edge_mm_runtime.sources.grab import Grab, Source, SourceStats
from edge_mm_runtime.sources.jetson import jetson_csi
from edge_mm_runtime.sources.open import open_source

__all__ = ["Grab", "Source", "SourceStats", "jetson_csi", "open_source"]
