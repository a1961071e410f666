"""The CSI camera of a Jetson, as a GStreamer pipeline for OpenCV.

Element names and properties: NVIDIA Jetson Linux Developer Guide, "Accelerated GStreamer".
"""

from __future__ import annotations

from edge_mm_runtime.errors import UsageError

FLIPS = range(8)  # nvvidconv flip-method: 0 none, 2 by 180 degrees, 1 and 3 by 90, 4 and 6 mirrored


def jetson_csi(
    sensor_id: int = 0, width: int = 1280, height: int = 720, fps: int = 30, flip: int = 0
) -> str:
    """Pipeline string for `open_source`: BGR frames of a CSI camera through nvarguscamerasrc.

    width, height, fps  a mode of the sensor (`v4l2-ctl --list-formats-ext`)
    flip                nvvidconv's flip-method, 0..7; 1 and 3 turn the frame, so that it is
                        height wide
    The appsink keeps the newest frame only. Raises UsageError for numbers that cannot be.
    """
    if sensor_id < 0 or min(width, height, fps) < 1 or flip not in FLIPS:
        raise UsageError(
            f"no such CSI camera: sensor {sensor_id}, {width} x {height} at {fps} fps, flip "
            f"{flip}: sizes and fps are positive, flip is 0..7"
        )
    return (
        f"nvarguscamerasrc sensor-id={sensor_id} ! "
        f"video/x-raw(memory:NVMM), width={width}, height={height}, format=NV12, "
        f"framerate={fps}/1 ! "
        f"nvvidconv flip-method={flip} ! video/x-raw, format=BGRx ! "
        "videoconvert ! video/x-raw, format=BGR ! "
        "appsink drop=true max-buffers=1 sync=false"
    )
