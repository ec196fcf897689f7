"""The words of ``--input`` and ``--picture``, read and written."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from trt_facefusion.errors import BadInputError
from trt_facefusion.model.presets.inputs import (
    SIDES,
    SOURCE,
    TARGET,
    EmbeddingInput,
    FileInput,
    ImageInput,
    InputSpec,
    Part,
    ValueInput,
    compute_mean_std,
    is_range,
)
from trt_facefusion.model.presets.output import ImageOutput

Triple: TypeAlias = tuple[float, float, float]

INPUT_SYNTAX = (
    "NAME=image:SIZE:MIN:MAX[:bgr|gray][:nhwc][:source] and more (`trt-ff presets --syntax`), NAME=embedding, "
    "NAME=file:VALUES.npy or NAME=value:NUMBER"
)

INPUT_HELP = """\
--input describes one input of the model. Give it once for each input.

NAME=image:SIZE:MIN:MAX[:OPTION...]   an aligned crop whose pixels 0..255 become MIN..MAX
    SIZE             side in pixels, or HEIGHTxWIDTH (cut from the middle of the square)
    mean=R,G,B       with std=R,G,B in place of MIN:MAX: (pixel / 255 - mean) / std
    bgr, gray        the order of the channels; else RGB. gray is one channel
    nhwc             channels last; else NCHW
    target, source   whose face: the one that is changed, or the one who lends the identity. Unsaid, the target is
                     the input called target, else the first; further images show the source
    template=NAME    how the crop is aligned: TEMPLATES; else arcface_128
    stack=A+B        pictures stacked along the channels, each target or source, where /lower, /upper, /left or
                     /right paints that half black (/lower0.4: that share), for example stack=target/lower+target
NAME=embedding[:raw][:projection=INITIALIZER][:converter=CALLED]   the source's identity; raw: not normalised;
                     projection: multiplied with that matrix of the file, then normalised; converter: put through
                     the network named with --converter first (CALLED is what messages call it)
NAME=file:VALUES.npy   fixed values of any type and rank, with or without a batch axis
NAME=value:NUMBER[:MIN:MAX]   one fixed number, with which the input is filled; what it may be

--picture NAME[:MIN:MAX][:bgr|rgb][:masks=A+B]   the output that is the picture, where there are several; its range
                     where it is not that of the target (integers: 0..255; or mean=R,G,B:std=R,G,B); outputs that say
                     where it replaces the target's

Inputs keep the types of the file: values are converted where they fit.

Examples
    --input in_face=image:224:0:1:bgr:nhwc
    --input target=image:256:-1:1 --input source=image:112:0:1:source:template=arcface_112_v2
    --input x=image:512:-1:1:template=ffhq_512 --input w=value:0.7
    --input mel=file:mel.npy --input face=image:96:0:1:bgr:stack=target/lower+target
"""


def parse_input(text: str) -> InputSpec:
    """One ``--input`` value.

    Raises:
        BadInputError: the text does not follow ``INPUT_SYNTAX``.
    """
    # Both names and paths may hold "=" and ":": the kind between them decides where the name ends.
    match = re.fullmatch(r"(?P<name>.+?)=(?P<kind>image|embedding|file|value)(:(?P<rest>.*))?", text)
    try:
        if match is None:
            raise ValueError("no kind of input is named")
        name, kind, rest = match["name"], match["kind"], match["rest"]
        if kind == "image":
            return _parse_image(name, (rest or "").split(":"))
        if kind == "embedding":
            return _parse_embedding(name, rest)
        if kind == "value":
            return _parse_value(name, rest or "")
        if not rest:
            raise ValueError("no file is named")
        return FileInput(name, Path(rest))
    except ValueError as error:
        raise BadInputError(
            f"--input {text!r} is not understood: {error}", f"write {INPUT_SYNTAX}; for example input=image:256:-1:1"
        ) from error


def _parse_value(name: str, text: str) -> ValueInput:
    number, *limits = text.split(":")
    if len(limits) not in {0, 2}:
        raise ValueError("a value is NUMBER or NUMBER:MIN:MAX")
    spec = ValueInput(name, _parse_number(number))
    if limits:
        low, high = (float(_parse_number(limit)) for limit in limits)
        spec = replace(spec, range=(low, high))
        if not low <= spec.value <= high:
            raise ValueError(f"{spec.value} is not from {low:g} to {high:g}")
    return spec


def _parse_number(text: str) -> float | int:
    if text.lower() in {"true", "false"}:
        return int(text.lower() == "true")
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number")
    return number


def _parse_embedding(name: str, rest: str | None) -> EmbeddingInput:
    spec = EmbeddingInput(name)
    for word in [] if rest is None else rest.split(":"):
        if word == "raw":
            spec = replace(spec, normalise=False)
        elif word.startswith("projection=") and word != "projection=":
            spec = replace(spec, projection=word.removeprefix("projection="))
        elif word.startswith("converter=") and word != "converter=":
            spec = replace(spec, converter=word.removeprefix("converter="))
        else:
            raise ValueError(f"an embedding has no option {word!r}")
    return spec


def _parse_image(name: str, words: Sequence[str]) -> ImageInput:
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", words[0])
    if match is None:
        raise ValueError(f"{words[0]!r} is no SIZE")
    height, width = int(match[1]), int(match[2] or match[1])
    if not all(16 <= side <= 4096 for side in (height, width)):
        raise ValueError("SIZE must be 16 to 4096 px")
    image = ImageInput(name, height, width=None if width == height else width, person="")
    options = list(words[1:])
    ranged = len(options) >= 2 and _is_float(options[0])
    if ranged:
        mean, std = _parse_range(options[0], options[1])
        image = replace(image, mean=mean, std=std)
        del options[:2]
    fields: dict[str, object] = {}
    for word in options:
        read = _parse_image_option(word)
        if fields.keys() & read.keys():
            raise ValueError(f"{word!r} contradicts what stands before it")
        fields |= read
    order = fields.pop("order", "rgb")
    if len(fields.keys() & {"mean", "std"}) != (0 if ranged else 2):
        raise ValueError("say the range of the values once: MIN:MAX, or mean=R,G,B:std=R,G,B")
    if "parts" in fields and "person" in fields:
        raise ValueError("stack= says itself whose faces it holds")
    if "parts" in fields:
        fields["person"] = TARGET
    return replace(image, bgr=order == "bgr", gray=order == "gray", **fields)  # type: ignore[arg-type]


def _parse_image_option(word: str) -> dict[str, object]:
    """One option of an image, as fields."""
    if word.lower() in {"rgb", "bgr", "gray"}:
        return {"order": word.lower()}
    if word.lower() in {"nhwc", "nchw"}:
        return {"nhwc": word.lower() == "nhwc"}
    if word.lower() in {TARGET, SOURCE}:
        return {"person": word.lower()}
    key, _, argument = word.partition("=")
    if key in {"mean", "std"}:
        return {key: _parse_triple(key, argument)}
    if key == "template" and argument:
        return {"template": argument}
    if key == "stack" and argument:
        return {"parts": tuple(_parse_part(part) for part in argument.split("+"))}
    raise ValueError(f"an image has no option {word!r}")


def _parse_triple(key: str, text: str) -> Triple:
    values = [float(part) for part in text.split(",")]
    values = values * 3 if len(values) == 1 else values
    if len(values) != 3 or not all(abs(v) <= 1e4 for v in values) or (key == "std" and min(values) < 1e-4):
        raise ValueError(f"{key} wants one number or three, and std wants them positive")
    return values[0], values[1], values[2]


def _parse_part(text: str) -> Part:
    match = re.fullmatch(rf"(target|source)(?:/({'|'.join(SIDES)})(\d*\.?\d+)?)?", text)
    if match is None:
        raise ValueError(f"{text!r} is no picture of a stack: target or source, with /lower and the like behind it")
    share = float(match[3]) if match[3] else 0.5
    if not 0 < share <= 1:
        raise ValueError("the black share of a picture is more than 0 and at most 1")
    return Part(match[1], match[2] or "", share)


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse_range(low: str, high: str) -> tuple[Triple, Triple]:
    """Mean and deviation."""
    first, last = float(low), float(high)
    if not is_range(first, last):
        raise ValueError(f"{low}:{high} is no range of pixel values")
    mean, std = compute_mean_std(first, last)
    return (mean, mean, mean), (std, std, std)


def parse_picture(text: str, like: ImageOutput) -> ImageOutput:
    """One ``--picture`` value; what it does not say is as in ``like``.

    Raises:
        BadInputError: the text is not understood.
    """
    match = re.fullmatch(
        r"(?P<name>.+?)(:(?P<low>[-+.\de]+):(?P<high>[-+.\de]+))?(:mean=(?P<mean>[^:]+):std=(?P<std>[^:]+))?"
        r"(:(?P<order>rgb|bgr))?(:n(hwc|chw))?(:masks=(?P<masks>.+))?",
        text,
    )
    try:
        if match is None:
            raise ValueError("no output is named")
        described = replace(like, name=match["name"])
        if match["low"] is not None:
            mean, std = _parse_range(match["low"], match["high"])
            described = replace(described, ranged=True, mean=mean, std=std)
        if match["mean"] is not None:
            mean, std = _parse_triple("mean", match["mean"]), _parse_triple("std", match["std"])
            described = replace(described, ranged=True, mean=mean, std=std)
        if match["masks"] is not None:
            described = replace(described, masks=tuple(match["masks"].split("+")))
        return described if match["order"] is None else replace(described, bgr=match["order"] == "bgr")
    except ValueError as error:
        raise BadInputError(
            f"--picture {text!r} is not understood: {error}", "write NAME[:MIN:MAX][:bgr|rgb], for example output:-1:1"
        ) from error


def write_input(spec: InputSpec, *, among_images: bool = False) -> str:
    """The ``--input`` that `parse_input` reads as ``spec``; ``among_images``: there are others, so say whose it is."""
    if isinstance(spec, ImageInput):
        person = [TARGET] if among_images and not spec.parts and spec.person == TARGET else []
        return f"{spec.name}=image:{':'.join([*_format_image(spec), *person])}"
    if isinstance(spec, FileInput):
        return f"{spec.name}=file:{spec.path}"
    if isinstance(spec, ValueInput):
        limits = "" if spec.range is None else f":{spec.range[0]!r}:{spec.range[1]!r}"
        return f"{spec.name}=value:{spec.value!r}{limits}"
    projection = f":projection={spec.projection}" if spec.projection else ""
    converter = f":converter={spec.converter}" if spec.converter else ""
    return f"{spec.name}=embedding{'' if spec.normalise else ':raw'}{projection}{converter}"


def _format_image(spec: ImageInput) -> Iterator[str]:
    yield str(spec.size) if spec.width is None else f"{spec.size}x{spec.width}"
    if len(set(spec.mean)) == len(set(spec.std)) == 1:
        yield from (f"{limit:.9g}" for limit in spec.limits)
    else:
        yield f"mean={','.join(map(repr, spec.mean))}"
        yield f"std={','.join(map(repr, spec.std))}"
    yield from (word for word in ("bgr", "gray", "nhwc") if getattr(spec, word))
    if spec.template is not None:
        yield f"template={spec.template}"
    if spec.parts:
        yield "stack=" + "+".join(_format_part(part) for part in spec.parts)
    elif spec.person == SOURCE:
        yield SOURCE


def _format_part(part: Part) -> str:
    share = "" if part.share == 0.5 else repr(part.share)
    return part.person + (f"/{part.masked}{share}" if part.masked else "")


def write_picture(output: ImageOutput) -> str:
    """The ``--picture`` that says all of ``output``."""
    end = ("bgr" if output.bgr else "rgb") + (f":masks={'+'.join(output.masks)}" if output.masks else "")
    if len(set(output.mean)) > 1 or len(set(output.std)) > 1:
        mean, std = (",".join(map(repr, numbers)) for numbers in (output.mean, output.std))
        return f"{output.name}:mean={mean}:std={std}:{end}"
    low, high = -output.mean[0] / output.std[0], (1 - output.mean[0]) / output.std[0]
    return f"{output.name}:{low:.9g}:{high:.9g}:{end}"
