"""The pages for people: models tried in a browser, and the description of the API. Their files are
part of installed packages, and load nothing from elsewhere.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asks whether it has changed, for the server may be upgraded
}


class _Files(StaticFiles):
    def file_response(self, *args: Any, **options: Any) -> Response:
        response = super().file_response(*args, **options)
        response.headers.update(_HEADERS)
        return response


def add_pages(app: FastAPI) -> None:
    """Add the pages `/` and `/docs`. They need no token: what they ask of the server does."""
    files = _Files(packages=[("passl.serving", "page")])

    async def page(request: Request) -> Response:
        name = "docs.html" if request.url.path.endswith("/docs") else "index.html"
        return await files.get_response(name, request.scope)

    for path in ("/", "/docs"):
        app.add_api_route(path, page, methods=["GET", "HEAD"], include_in_schema=False)
    app.mount("/page", files)
    # Swagger UI; the package `fastapi-offline` is its files.
    app.mount("/swagger", _Files(packages=[("fastapi_offline", "static")]))
