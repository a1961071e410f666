"""TensorRT engines of a bundle: built on the device, described by engine.json, checked before load.

`build.build_engines` makes them, `locate.find_engines` says whether there are any for this machine,
`runner.open_engine` runs one, `compare.compare_device` holds them against ONNX Runtime.
"""
