from __future__ import annotations

import base64
import json
import struct
import threading
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.numerics import Rounded
from tests.unit.serving.conftest import Slow, color_means, png

PREDICT, FEATURES, ATTENTION = (
    f"/v1/models/colors:{verb}" for verb in ("predict", "features", "attention")
)
RED, GREEN = png(255, 0, 0), png(0, 255, 0)


def noise() -> bytes:
    file = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()


NOISE = noise()


def raw(client, content: bytes = RED, **options):
    return client.post(PREDICT, content=content, headers={"content-type": "image/png"}, **options)


def test_three_forms_of_a_request_have_one_answer(serve):
    client = serve()
    answer = raw(client).json()
    as_files = client.post(PREDICT, files=[("image", ("a.png", RED)), ("image", ("b.png", GREEN))])
    encoded = [base64.b64encode(content).decode() for content in (RED, GREEN)]
    as_json = client.post(PREDICT, json={"images": encoded})
    assert as_files.json() == as_json.json()
    assert as_files.json()["predictions"][0] == answer["predictions"][0]
    # curl's --data-binary says this of any data.
    form = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post(PREDICT, content=RED, headers=form).json() == answer

    (best,) = (prediction["best"] for prediction in answer["predictions"])
    assert [each["name"] for each in best] == ["red", "green", "blue"]
    expected = Rounded(np.array([2.0, -2, -2])).softmax()  # (1 - 0.5) / 0.25, (0 - 0.5) / 0.25
    for each, value in zip(best, expected.value, strict=True):
        assert each["probability"] == pytest.approx(float(value), abs=1e-6)
    second = as_files.json()["predictions"][1]["best"]
    assert second[0] == {"label": 1, "name": "green", "probability": best[0]["probability"]}


def test_number_of_predictions(serve):
    client = serve()
    assert len(raw(client, params={"top_k": 1}).json()["predictions"][0]["best"]) == 1
    for wrong in ("0", "x", "-1"):
        answer = raw(client, params={"top_k": wrong})
        assert answer.status_code == 422
        assert "top_k" in answer.json()["error"]


def test_labels_above_their_thresholds(serve):
    client = serve(task="multilabel")
    two = raw(client, png(255, 255, 0)).json()["predictions"][0]["best"]
    assert [each["name"] for each in two] == ["red", "green"]
    assert raw(client, png(0, 0, 0)).json() == {"predictions": [{"best": []}]}


def test_masks(serve):
    """A network whose logits are the pixels; the mask has the size of the image."""
    client = serve(lambda images: images, task="segmentation")
    (found,) = raw(client, GREEN).json()["predictions"]
    # PASCAL VOC's color of label 1.
    assert found["shares"] == [{"label": 1, "name": "green", "share": 1.0, "color": "#800000"}]
    with Image.open(BytesIO(base64.b64decode(found["mask"]))) as mask:
        assert (mask.mode, mask.size) == ("P", (11, 7))
        assert np.unique(mask).tolist() == [1]


def test_features(serve):
    answer = serve().post(FEATURES, content=RED, headers={"content-type": "image/png"})
    assert answer.json() == {"features": [[4.0, -4.0, -4.0]]}


def test_attention(serve):
    files = [("image", RED), ("image", GREEN)]
    maps = serve().post(ATTENTION, files=files).json()["attention"]
    assert [each["block"] for each in maps] == ["blocks.0", "blocks.0"]


@pytest.mark.parametrize("address", [FEATURES, ATTENTION])
def test_an_exported_network_computes_logits_only(serve, address):
    refused = serve(has_more=False).post(address, content=RED)
    assert (refused.status_code, "exported" in refused.json()["error"]) == (404, True)


def bomb() -> bytes:
    """A PNG that says it has 65,535 x 65,535 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", 65_535, 65_535, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"0" * 99))


@pytest.mark.parametrize(
    ("content", "status", "word"),
    [
        (b"", 400, "no image"),
        (b"no image at all", 415, "PNG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "PNG"),  # Pillow would start Ghostscript
        (NOISE[:2000], 422, "truncated"),
        (NOISE[:20], 422, "damaged"),
        (bomb(), 413, "pixels"),
        (png(0, 0, 0, (400, 300)), 413, "400 x 300"),
        (b"x" * 200_001, 413, "200000"),
    ],
    ids=["empty", "text", "EPS", "cut", "cut head", "bomb", "large", "many bytes"],
)
def test_wrong_images(serve, content, status, word):
    client = serve(max_bytes=200_000, max_pixels=100_000)
    answer = raw(client, content)
    assert answer.status_code == status
    assert word in answer.json()["error"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    # One wrong image of several: the whole request fails.
    several = client.post(PREDICT, files=[("image", RED), ("image", content)])
    assert several.status_code in (status, 415)
    assert raw(client).status_code == 200


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"content": RED, "headers": {"content-type": "text/html"}}, 415),
        ({"data": {"image": "text"}}, 415),  # as a form without a file: no image
        ({"files": {"photo": RED}}, 400),
        ({"files": [("image", RED)] * 4}, 413),
        ({"json": {"images": ["AAAA"] * 4}}, 413),
        ({"json": {"image": "AAAA"}}, 400),
        ({"json": ["AAAA"]}, 400),
        ({"json": {"images": [1]}}, 400),
        ({"json": {"images": ["not base64!"]}}, 400),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 400),
        ({"content": b"\xff{}", "headers": {"content-type": "application/json"}}, 400),
        ({"content": RED, "headers": {"content-type": "multipart/form-data"}}, 400),
        ({"content": RED, "headers": {"content-type": "multipart/form-data; boundary=x"}}, 400),
    ],
)
def test_wrong_bodies(serve, options, status):
    answer = serve(max_images=3).post(PREDICT, **options)
    assert (answer.status_code, bool(answer.json()["error"])) == (status, True)


def test_body_without_a_length_is_limited(serve):
    def endless():
        for _ in range(100):
            yield bytes(10_000)

    answer = serve(max_bytes=50_000).post(PREDICT, content=endless())
    assert answer.status_code == 413


def test_unknown_model_and_route(serve):
    client = serve()
    answer = client.post("/v1/models/colours:predict", content=RED)
    assert (answer.status_code, "colors" in answer.json()["error"]) == (404, True)
    assert client.get("/v1/models/colours").status_code == 404
    assert client.get("/nothing").json()["error"] == "Not Found"
    assert client.get(PREDICT).status_code in (404, 405)


def test_too_many_waiting_images_are_refused(serve):
    engine = Slow()
    client = serve(engine, max_waiting=2, max_batch=1)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(raw(client))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert engine.begun.wait(20)
    while "passl_waiting_images 2.0" not in client.get("/metrics").text:
        pass
    refused = raw(client)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    engine.go.set()
    for thread in threads:
        thread.join(20)
    assert [answer.status_code for answer in answers] == [200, 200]
    assert raw(client).status_code == 200


def test_a_request_takes_no_longer_than_allowed(serve):
    engine = Slow()
    client = serve(engine, timeout=0.3)
    assert raw(client).status_code == 504
    engine.go.set()
    assert raw(client).status_code == 200


def test_an_error_of_the_engine_is_not_of_the_next_request(serve):
    def compute(images: np.ndarray) -> np.ndarray:
        if images[0, 1].max() > 0:
            raise ZeroDivisionError("a secret")
        return color_means(images)

    client = serve(compute)
    answer = raw(client, GREEN)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert raw(client).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_outputs_that_are_not_finite_are_an_error(serve):
    answer = raw(serve(lambda images: np.full((len(images), 3), np.nan, np.float32)))
    assert (answer.status_code, "finite" in answer.json()["error"]) == (500, True)


def test_token(serve):
    client = serve(token="0123456789abcdef")
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "0123456789abcdef"}):
        answer = client.post(PREDICT, content=RED, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        for path in ("/v1/models", "/v1/models/colors", "/metrics"):
            assert client.get(path, headers=headers).status_code == 401
    right = {"authorization": "Bearer 0123456789abcdef"}
    assert client.post(PREDICT, content=RED, headers=right).status_code == 200
    # Probes carry no token, nor does a browser that opens a page.
    for path in ("/healthz", "/readyz", "/", "/docs", "/openapi.json"):
        assert client.get(path).status_code == 200


def test_origins(serve):
    client = serve(origins=["https://a.example"])
    for origin, allowed in (
        ("https://a.example", "https://a.example"),
        ("https://b.example", None),
    ):
        answer = client.get("/v1/models", headers={"origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed
    assert (
        "access-control-allow-origin" not in serve().get("/readyz", headers={"origin": "x"}).headers
    )


def test_log_and_metrics(serve, capsys):
    client = serve()
    client.post(PREDICT, content=RED, headers={"x-request-id": "mine-1"})
    client.post(PREDICT, content=b"", headers={"x-request-id": "bad\u00a0id".encode("latin-1")})
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (
        lines[0].items()
        >= {
            "id": "mine-1",
            "model": "colors",
            "images": 1,
            "method": "POST",
            "path": PREDICT,
            "status": 200,
        }.items()
    )
    assert lines[0]["ms"] > 0
    assert (lines[1]["status"], len(lines[1]["id"])) == (400, 32)
    text = client.get("/metrics").text
    assert 'passl_requests_total{model="colors",status="200"} 1.0' in text
    assert 'passl_requests_total{model="colors",status="400"} 1.0' in text


def test_models_and_limits(serve):
    client = serve(max_bytes=1000, max_images=3)
    answer = client.get("/v1/models").json()
    assert [each["name"] for each in answer["models"]] == ["colors"]
    assert answer["limits"] == {"max_bytes": 1000, "max_pixels": 40_000_000, "max_images": 3}
    assert client.get("/v1/models/colors").json()["class_names"] == ["red", "green", "blue"]


def test_pages_load_nothing_from_elsewhere(serve):
    client = serve()
    for path in ("/", "/docs", "/page/page.js", "/swagger/swagger-ui-bundle.js"):
        answer = client.get(path)
        rules = dict(
            rule.split(maxsplit=1) for rule in answer.headers["content-security-policy"].split("; ")
        )
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
        assert client.head(path).status_code == 200
    assert client.get("/page/../pages.py").status_code == 404
    assert client.get("/page/%2e%2e/pages.py").status_code == 404
    assert client.post("/").status_code == 405


def test_openapi_describes_the_routes(serve):
    described = serve().get("/openapi.json").json()
    assert "HTTPBearer" in described["components"]["securitySchemes"]
    for verb, answer in (
        ("predict", "Predictions"),
        ("features", "Features"),
        ("attention", "Attention"),
    ):
        route = described["paths"][f"/v1/models/{{name}}:{verb}"]["post"]
        body = route["requestBody"]["content"]
        assert set(body) == {"multipart/form-data", "application/json", "image/*"}
        assert body["application/json"]["schema"]["required"] == ["images"]
        answers = route["responses"]
        statuses = ["400", "401", "404", "413", "415", "422", "500", "503", "504"]
        assert sorted(answers) == ["200", *statuses]
        schema = answers["200"]["content"]["application/json"]["schema"]
        assert schema["$ref"].endswith(f"/{answer}")
        for status in statuses:
            schema = answers[status]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith("/Failure")


def test_a_thread_that_has_ended_is_noticed(serve):
    """As by an orchestrator, which then starts another server."""
    client = serve()
    client.app.state.service.models.served["colors"].logits.close()
    assert client.get("/healthz").status_code == 500
