"""Metrics of embeddings: CLIP, DINO and the distance of structure.

See `comparisons` for the parts of a name; a crop other than the encoder's own stands after it
("-squash"). Cosines are raw: papers also print them times 100 or 2.5.
"""

import numpy as np

from .base import Metric, Networks, NotApplicable, register
from .comparisons import FIT, WORDS
from .encoders import cosine, self_similarity_distance
from .samples import Feature, Sample

_CLIPS = {"vit-b-32": "clip-vit-b-32", "vit-l-14": "clip-vit-l-14"}
_DINOS = {"v1-s-16": "dino-s-16", "v2-b-14": "dinov2-b-14"}
_CROPS = {"": ("crop", "centre crop"), "-squash": ("squash", "whole picture squashed to a square")}


def _similarity(
    name: str, meaning: str, first: Feature, second: Feature, needs: tuple[str, ...]
) -> None:
    def measure(sample: Sample, networks: Networks) -> float:
        return cosine(sample.features[first], sample.features[second])

    features = (first, second)
    register(Metric(name, meaning, measure, "higher", 0.0, needs, features))


def _register_similarities() -> None:
    families = (("clip-i", "CLIP", _CLIPS), ("dino", "DINO", _DINOS))
    for head, title, networks in families:
        for short, network in networks.items():
            for suffix, (how, words) in _CROPS.items():
                for role in ("source", "target", "emu-output"):
                    _similarity(
                        f"{head}/{short}{suffix}/{role}",
                        f"cosine of {title} {short} embeddings, {words}; against {WORDS[role]}",
                        Feature(network, how, "result"),
                        Feature(network, how, role),
                        (role,),
                    )


def _register_captions() -> None:
    for short, network in _CLIPS.items():
        for kind in ("output", "local", "global"):
            _similarity(
                f"clip-t/{short}/{kind}",
                f"cosine of CLIP {short} embeddings of the result and of {WORDS[kind]}",
                Feature(network, "crop", "result"),
                Feature(network, "text", f"caption:{kind}"),
                (f"caption:{kind}",),
            )
        register(_direction(f"clip-dir/{short}/input-output", short, network))
    _similarity(
        "clip-t-edited/vit-l-14/output",
        "as clip-t/vit-l-14/output, of the result black outside the mask (PIE-Bench)",
        Feature("clip-vit-l-14", "crop", "result-edited"),
        Feature("clip-vit-l-14", "text", "caption:output"),
        ("source", "mask", "inside", "caption:output"),
    )


def _direction(name: str, short: str, network: str) -> Metric:
    views = [("crop", "source"), ("crop", "result")]
    views += [("text", "caption:input"), ("text", "caption:output")]
    features = tuple(Feature(network, how, view) for how, view in views)

    def measure(sample: Sample, networks: Networks) -> float:
        return direction(*(sample.features[feature] for feature in features))

    return Metric(
        name=name,
        meaning=f"cosine of the change of CLIP {short} embeddings from source to result and from "
        "input to output caption, -1..1; 0 for a result that does not move",
        measure=measure,
        better="higher",
        worst=-1.0,
        needs=("source", "caption:input", "caption:output", "caption-change"),
        features=features,
    )


def direction(
    source: np.ndarray, result: np.ndarray, before: np.ndarray, after: np.ndarray
) -> float:
    """Cosine of the changes of unit-length embeddings of pictures and of captions.

    Raises NotApplicable if the captions have one embedding.
    """
    source, result, before, after = (
        v.astype(np.float64) / max(np.linalg.norm(v.astype(np.float64)), 1e-12)
        for v in (source, result, before, after)
    )
    if not (after - before).any():
        raise NotApplicable("the captions mean the same to CLIP")
    return cosine(result - source, after - before)


def _register_structure() -> None:
    for suffix, how, words in (
        ("", "keys", "0..1 into DINO, antialiased to 224"),
        ("-pie", "keys-pie", "as PIE-Bench's scorer: 0..255 into DINO, not antialiased"),
    ):
        views = [Feature("dino-b-8", how, view) for view in ("result-fitted", "source")]
        register(
            Metric(
                name=f"structure/dino-b-8{suffix}/source/{FIT}",
                meaning=f"structure distance: keys of DINO v1 ViT-B/8's last layer; {words}",
                measure=lambda sample, networks, views=views: self_similarity_distance(
                    *(sample.features[view] for view in views)
                ),
                better="lower",
                worst=1.0,
                needs=("source",),
                features=tuple(views),
            )
        )


_register_similarities()
_register_captions()
_register_structure()
