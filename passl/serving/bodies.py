"""The images of a request: read within limits, in any of three forms."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncGenerator
from io import BytesIO

from PIL import Image, UnidentifiedImageError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from passl.data.datasets.images import FORMATS
from passl.serving.settings import Settings

_RAW = ("", "application/octet-stream", "application/x-www-form-urlencoded")
"""Content types of an image as it is, beside image/*. The last is what curl says of any data."""


class Refused(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what is wrong, and the rule.
    """

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


async def read_images(request: Request, settings: Settings) -> list[bytes]:
    """Read the content of the image files in a request's body: multipart fields `image`, JSON with
    base64 texts `images`, or one image as it is.

    Raises:
        Refused: 400 for a body that is not of its form, 413 for one above the limits, 415 for
            another form.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_raw = kind in _RAW or kind.startswith("image/")
    if not is_raw and kind not in ("multipart/form-data", "application/json"):
        raise Refused(
            415,
            f"content type {kind} is not multipart/form-data with fields `image`, "
            'application/json with {"images": [base64, ...]}, or an image',
        )
    body = await _body(request, settings.max_bytes)
    if kind == "multipart/form-data":
        images = await _from_multipart(request.headers, body, settings)
    elif kind == "application/json":
        images = _from_json(body)
    else:
        images = [body] if body else []
    if not images:
        raise Refused(400, "the request has no image")
    if len(images) > settings.max_images:
        raise Refused(
            413, f"{len(images)} images; a request has at most {settings.max_images}: send several"
        )
    return images


def check_image(content: bytes, max_pixels: int) -> None:
    """Check format and size of an image by its first bytes, before it is decoded.

    Raises:
        Refused: 413 for too many pixels, 415 for another format, 422 for a damaged file.
    """
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            width, height = image.size
    except UnidentifiedImageError:
        raise Refused(415, f"the file is none of {', '.join(FORMATS)}, or damaged") from None
    except Image.DecompressionBombError:
        raise Refused(413, f"the image has more than {max_pixels} pixels") from None
    except Exception:  # Pillow's decoders raise anything for a damaged file
        raise Refused(422, "the image is damaged") from None
    if width * height > max_pixels:
        raise Refused(
            413, f"{width} x {height} pixels are more than {max_pixels}; shrink the image"
        )


async def _body(request: Request, limit: int) -> bytes:
    """The body, of which no more than the limit is kept."""
    announced = request.headers.get("content-length", "")
    parts, size = [], int(announced) if announced.isdecimal() else 0
    if size <= limit:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > limit:
                break
            parts.append(part)
    if size > limit:
        raise Refused(413, f"the body has more than {limit} bytes; send fewer or smaller images")
    return b"".join(parts)


async def _from_multipart(headers: Headers, body: bytes, settings: Settings) -> list[bytes]:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    # One file more than allowed, so that the number of images is what is reported.
    parser = MultiPartParser(headers, stream(), max_files=settings.max_images + 1, max_fields=8)
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        text = getattr(error, "message", "it cannot be read")
        if "Too many files" in text:
            raise Refused(413, f"a request has at most {settings.max_images} images") from None
        raise Refused(400, f"the multipart body is damaged: {text}") from None
    try:
        fields = form.multi_items()
        wrong = [name for name, value in fields if not isinstance(value, UploadFile)]
        if wrong:
            raise Refused(400, f"field {wrong[0][:50]!r} is no file; send images as files `image`")
        odd = [name for name, _ in fields if name != "image"]
        if odd:
            raise Refused(400, f"field {odd[0][:50]!r} is not `image`")
        return [await value.read() for _, value in fields if isinstance(value, UploadFile)]
    finally:
        await form.close()


def _from_json(body: bytes) -> list[bytes]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is no JSON") from None
    texts = content.get("images") if isinstance(content, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, 'the JSON is not {"images": [base64, ...]}')
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, ValueError):
        raise Refused(400, "an image is not base64") from None
