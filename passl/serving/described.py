"""What OpenAPI says of requests and failures, which the signatures of the routes do not show."""

from __future__ import annotations

from typing import Any

from passl.serving.answers import Failure


def failures(*statuses: int) -> dict[int | str, Any]:
    """The answers of these statuses."""
    return {each: {"model": Failure, "description": _FAILURES[each]} for each in statuses}


_FAILURES = {
    400: "The body is not of its form",
    401: "The token is missing or wrong",
    404: "There is no such model, or it does not have what is asked for",
    413: "The body, an image or the number of images is above the limit",
    415: "The body or an image has another format",
    422: "An image is damaged, or a value in the address is wrong",
    500: "The computation failed; the log of the server has the rest",
    503: "Too many images wait; try again after the seconds in `Retry-After`",
    504: "The request took too long",
}


def _several(items: dict[str, str], name: str) -> dict[str, Any]:
    """The schema of an object whose only property is a list of images."""
    images = {"type": "array", "minItems": 1, "items": items}
    return {"schema": {"type": "object", "required": [name], "properties": {name: images}}}


IMAGES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "Images as files `image`, as base64 in JSON, or one image as it is.",
        "content": {
            "multipart/form-data": _several({"type": "string", "format": "binary"}, "image"),
            "application/json": _several({"type": "string", "format": "byte"}, "images"),
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
"""The body of a request, in any of its three forms."""
