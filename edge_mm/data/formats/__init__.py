"""Readers of other data: each yields a record a picture, for `convert` to write a data folder.

`read_coco`, `read_refcoco`, `read_llava` and `read_captions` take a path and a count of what they
skip; a data folder of ours is read with `edge_mm.data.scenes.read_scenes` and its own questions
with `given.given_questions`.
"""
