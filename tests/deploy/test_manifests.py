"""What is shipped beside the package is right: Kubernetes, systemd, Prometheus, the image."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from proxy.settings import load

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = [path for path in (DEPLOY / "kubernetes").glob("*.yaml") if "kind: Deployment" in path.read_text()]
# The first release in which a native sidecar needs no feature gate, and the newest whose schemas are at hand.
KUBERNETES = ["1.29", "1.37"]


def pod() -> dict:
    return yaml.safe_load((DEPLOY / "kubernetes" / "deployment.yaml").read_text())["spec"]["template"]["spec"]


def sidecar() -> dict:
    return next(container for container in pod()["initContainers"] if container["name"] == "sidehop")


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("manifest", MANIFESTS, ids=lambda path: path.name)
def test_kubernetes_would_take_it(manifest: Path, version: str) -> None:
    for document in yaml.safe_load_all(manifest.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_kustomization_names_files_that_are_there() -> None:
    folder = DEPLOY / "kubernetes"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    generated = [name for generator in kustomization["configMapGenerator"] for name in generator["files"]]
    for name in kustomization["resources"] + generated:
        assert (folder / name).is_file(), name


def test_the_sidecar_is_a_native_one() -> None:
    assert sidecar()["restartPolicy"] == "Always"


def test_nothing_drains_the_sidecar_while_the_application_still_works() -> None:
    """preStop of a native sidecar runs when the pod's termination begins, before the application has ended."""
    assert "lifecycle" not in sidecar()


def test_only_readiness_depends_on_the_brokers() -> None:
    probes = {name: sidecar()[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/livez",
        "readiness": "/readyz",
        "liveness": "/livez",
    }
    assert {probe["port"] for probe in probes.values()} == {"admin"}
    assert {port["name"]: port["containerPort"] for port in sidecar()["ports"]}["admin"] == 15680


@pytest.mark.parametrize("container", [*pod()["initContainers"], *pod()["containers"]], ids=lambda c: c["name"])
def test_every_container_has_limits_and_few_rights(container: dict) -> None:
    assert set(container["resources"]["limits"]) == {"cpu", "memory"}
    rights = container["securityContext"]
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"]["drop"] == ["ALL"]
    assert rights["runAsUser"] > 0
    assert pod()["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}


def test_every_mount_has_its_volume() -> None:
    volumes = {volume["name"] for volume in pod()["volumes"]}
    assert {mount["name"] for mount in sidecar()["volumeMounts"]} == volumes


def test_sidehop_accepts_the_configuration_and_the_environment_of_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in sidecar()["env"]:
        monkeypatch.setenv(variable["name"], "10.0.0.7")
    config = DEPLOY / "kubernetes" / "sidehop.yaml"
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", "--config", config],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    effective = yaml.safe_load(done.stdout)
    assert effective["admin"] == {"host": "10.0.0.7", "port": 15680}
    assert effective["listen"]["host"] == "127.0.0.1"
    folder = Path(effective["discovery"]["snapshot_path"]).parent
    assert str(folder) in [mount["mountPath"] for mount in sidecar()["volumeMounts"]]


def test_the_image_runs_as_the_user_the_pod_asks_for() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    user = re.findall(r"^USER (\d+):(\d+)$", dockerfile, re.MULTILINE)
    rights = sidecar()["securityContext"]
    assert user == [(str(rights["runAsUser"]), str(rights["runAsGroup"]))]
    # Exec form: without a shell in between, SIGTERM reaches Sidehop itself.
    assert 'ENTRYPOINT ["/opt/sidehop/bin/sidehop"]' in dockerfile


def test_the_image_gets_everything_its_build_copies() -> None:
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    wanted = {name for line in copied for name in line.split()}
    assert wanted == let_in
    assert all((ROOT / name).exists() for name in wanted)


def test_the_unit_keeps_the_endpoints_where_it_may_write() -> None:
    text = (DEPLOY / "systemd" / "sidehop.service").read_text()
    (folder,) = re.findall(r"^StateDirectory=(\S+)$", text, re.MULTILINE)
    (given,) = re.findall(r"^Environment=(SIDEHOP_\S+)$", text, re.MULTILINE)
    name, _, value = given.partition("=")
    settings = load(None, {name: value.replace("%S", "/var/lib")})
    assert settings.discovery.snapshot_path == f"/var/lib/{folder}/endpoints.json"


def test_systemd_would_take_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "sidehop.service").read_text()
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    service = unit["Service"]
    assert service["DynamicUser"] == "yes"
    assert service["ProtectSystem"] == "strict"
    assert service["CapabilityBoundingSet"] == ""
    assert service["RestartPreventExitStatus"] == "2"
    # It must be able to let clients leave before systemd loses its patience.
    assert int(service["TimeoutStopSec"]) > 30
    analyze = shutil.which("systemd-analyze")
    if analyze:
        copy = tmp_path / "sidehop.service"
        copy.write_text(text.replace("/opt/sidehop/bin/sidehop", sys.executable))
        verified = subprocess.run([analyze, "verify", copy], capture_output=True, text=True, check=False)
        assert "sidehop.service" not in verified.stdout + verified.stderr
        assert verified.returncode == 0


def alerts() -> list[dict]:
    groups = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict) -> None:
    assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description"}
    assert rule["expr"].count("(") == rule["expr"].count(")")


def test_alert_names_are_different() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
