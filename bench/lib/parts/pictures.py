"""What the vision parts look at."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

SIDE = 224  # pixels
SEED = 20261122


def shipped_pictures() -> npt.NDArray[np.uint8]:
    """The pictures of examples/frames [N, 224, 224, 3], RGB, squashed."""
    import cv2

    from edge_mm.demo.questions import shipped_frames
    from edge_mm_runtime.image import read_image

    frames = [read_image(path) for path in sorted(shipped_frames().glob("*.jpg"))]
    squashed = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(squashed)[..., ::-1].copy()
