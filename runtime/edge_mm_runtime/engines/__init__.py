"""TensorRT engines of a bundle: built on the device, described by engine.json, checked before load.

`build.build_engines` makes them, `manifest.check_engine` says whether they fit this machine.
"""
