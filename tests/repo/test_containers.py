"""The files that run a server in containers, by linters and schemas; and what they say of passl."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from passl.cli.serve import add_options
from passl.serving.observe import Metrics
from passl.serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
MANIFESTS = list(yaml.safe_load_all((ROOT / "docs" / "examples" / "serve.yaml").read_text()))
KINDS = {manifest["kind"]: manifest for manifest in MANIFESTS}
OPEN = ("/healthz", "/readyz")  # without a token


def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile and its arguments."""
    lines = [line for line in DOCKERFILE.splitlines() if line and not line.startswith("#")]
    whole = "\n".join(lines).replace("\\\n", " ").splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in whole)]


def last(name: str) -> str:
    """The arguments of an instruction of the final image."""
    return [rest for each, rest in instructions() if each == name][-1]


def serve_options(arguments: list[Any]) -> argparse.Namespace:
    """What `passl serve` understands of a container's arguments."""
    passl, serve, *first = json.loads(last("ENTRYPOINT"))
    assert (passl, serve) == ("passl", "serve")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_options(parser)
    return parser.parse_args([*first, *arguments])


def test_hadolint():
    """The linter of Dockerfiles, which also checks the shell commands in it."""
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, "docker/Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_without_root_and_is_watched():
    names = [name for name, _ in instructions()]
    final = names[len(names) - names[::-1].index("FROM") :]
    assert {"USER", "HEALTHCHECK", "ENTRYPOINT"} <= set(final)
    assert "RUN" not in final  # its files belong to root, and no compiler or cache is left
    assert int(last("USER")) >= 10000
    assert f"useradd --uid {last('USER')} " in DOCKERFILE
    port = serve_options(["x"]).port
    assert last("EXPOSE") == str(port)
    (address,) = re.findall(r"http://127\.0\.0\.1:(\d+)(/\w+)", DOCKERFILE)
    assert address == (str(port), "/healthz")


def test_the_ignored_files_are_those_that_are_not_copied():
    ignore = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignore if line.startswith("!")}
    copied = set()
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from"):
            copied |= set(rest.split()[:-1])
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


@pytest.mark.parametrize("name", ["passl", "passl-gpu"])
def test_compose(name):
    schemas = files("check_jsonschema.builtin_schemas") / "vendor"
    jsonschema.validate(COMPOSE, json.loads((schemas / "compose-spec.json").read_text()))
    service = COMPOSE["services"][name]
    args = serve_options(service["command"])
    (volume,) = service["volumes"]
    folder = Path(volume.split(":")[-2])
    (model,) = args.models
    assert folder in Path(model.partition("=")[2] or model).parents
    assert args.host == "0.0.0.0"
    assert "PASSL_SERVE_TOKEN" in service["environment"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert volume.endswith(":ro")
    assert service["tmpfs"] == ["/tmp"]  # HOME of the image
    grace = int(service["stop_grace_period"].removesuffix("s"))
    assert grace > Settings().timeout + 1  # the server waits so long for what has begun
    (port,) = service["ports"]
    assert port.startswith("127.0.0.1:")
    assert port.endswith(f":{args.port}")
    build = service["build"]
    assert (ROOT / "docker" / build["context"] / build["dockerfile"]).is_file()
    assert set(build.get("args", {})) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))


def test_manifests_have_the_schema_of_kubernetes():
    native = [each for each in MANIFESTS if each["kind"] != "PodMonitor"]
    assert len(native) == 4
    for manifest in native:
        kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_the_deployment_runs_the_server():
    pod = KINDS["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    args = serve_options(container["args"])
    (port,) = container["ports"]
    assert port["containerPort"] == args.port
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        get = container[probe]["httpGet"]
        assert get["port"] == port["name"]
        assert get["path"] in OPEN
    stop = container["lifecycle"]["preStop"]["sleep"]["seconds"] + args.timeout + 1
    assert pod["terminationGracePeriodSeconds"] > stop
    assert pod["securityContext"]["runAsUser"] == int(last("USER"))
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    assert set(mounts) == {"/models", "/tmp"}
    (model,) = args.models
    assert model.startswith("/models/")
    assert args.threads == int(container["resources"]["requests"]["cpu"])
    (token,) = container["env"]
    assert token["name"] == "PASSL_SERVE_TOKEN"


def test_the_other_manifests_belong_to_the_deployment():
    deployment = KINDS["Deployment"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    (port,) = deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
    service, monitor = KINDS["Service"]["spec"], KINDS["PodMonitor"]["spec"]
    assert service["selector"] == labels
    assert [each["targetPort"] for each in service["ports"]] == [port["name"]]
    for kind in (deployment["spec"], KINDS["PodDisruptionBudget"]["spec"], monitor):
        assert kind["selector"] == {"matchLabels": labels}
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")
    secret = deployment["spec"]["template"]["spec"]["containers"][0]["env"][0]["valueFrom"]
    assert endpoint["authorization"]["credentials"] == secret["secretKeyRef"]
    scaler = KINDS["HorizontalPodAutoscaler"]["spec"]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"]  # each apply would undo the scaler's
    (metric,) = scaler["metrics"]
    sample = Metrics().registry.get_sample_value(metric["pods"]["metric"]["name"])
    assert sample == 0  # a server has it before its first request
