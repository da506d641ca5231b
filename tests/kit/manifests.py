"""The manifests of deploy/ as values: the fields that they use, strictly; overlays put together.

About: reading them for the tests. A field that is not here, or that is misspelt, is refused.
"""

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import yaml

from kdaemon.base.limits import MIB
from kdaemon.config import Config
from kdaemon.config.load import load_config
from tests.kit.tools import find_helm

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUSTOMIZE = DEPLOY / "kubernetes"
CHART = DEPLOY / "helm" / "kdaemon"

OLDEST_KUBERNETES = "1.29.0"  # native sidecars are on by default
UID = 10001  # of the image; the manifests and the socket's group follow it
BESIDE_BYTES = 90 * MIB  # tests/crash/test_outage.py holds the process to it


def drain_s(config: Config) -> float:
    return (config.drain.lame_duck_ms + config.drain.deadline_ms) / 1000


def memory_needed_bytes(config: Config) -> float:
    """Buffers, the process beside them, and the aggregates of one busy stream's calls in flight,
    which nothing else counts.
    """
    aggregates = config.default.in_flight_max * config.default.batch_bytes_max
    return config.memory_bytes_max + BESIDE_BYTES + aggregates


class Strict(msgspec.Struct, forbid_unknown_fields=True, rename="camel", kw_only=True): ...


class Metadata(Strict):
    name: str = ""
    namespace: str = ""
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Capabilities(Strict):
    drop: list[str] = []
    add: list[str] = []


class Seccomp(Strict):
    type: str


class Security(Strict):
    run_as_non_root: bool | None = None
    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None  # of pods
    seccomp_profile: Seccomp | None = None  # of pods
    allow_privilege_escalation: bool | None = None  # of containers, as what follows
    read_only_root_filesystem: bool | None = None
    capabilities: Capabilities | None = None


class HttpGet(Strict):
    path: str
    port: str


class Probe(Strict):
    http_get: HttpGet
    period_seconds: int
    timeout_seconds: int
    failure_threshold: int


class Port(Strict):
    name: str
    container_port: int
    protocol: str


class Mount(Strict):
    name: str
    mount_path: str
    read_only: bool = False


class Quantities(Strict):
    cpu: str = ""
    memory: str = ""


class Resources(Strict):
    requests: Quantities
    limits: Quantities


class Variable(Strict):
    name: str
    value: str


class Container(Strict):
    name: str
    image: str
    security_context: Security
    resources: Resources
    volume_mounts: list[Mount]
    image_pull_policy: str = ""
    command: list[str] = []
    args: list[str] = []
    env: list[Variable] = []
    ports: list[Port] = []
    restart_policy: str = ""
    startup_probe: Probe | None = None
    readiness_probe: Probe | None = None
    liveness_probe: Probe | None = None


class ConfigMapVolume(Strict):
    name: str


class EmptyDir(Strict):
    size_limit: str
    medium: str = ""


class HostPath(Strict):
    path: str
    type: str


class Volume(Strict):
    name: str
    config_map: ConfigMapVolume | None = None
    empty_dir: EmptyDir | None = None
    host_path: HostPath | None = None


class PodSpec(Strict):
    service_account_name: str
    automount_service_account_token: bool
    enable_service_links: bool
    termination_grace_period_seconds: int
    security_context: Security
    containers: list[Container]
    volumes: list[Volume]
    init_containers: list[Container] = []
    tolerations: list[dict[str, str]] = []
    image_pull_secrets: list[dict[str, str]] = []
    node_selector: dict[str, str] = {}
    affinity: dict[str, Any] = {}
    priority_class_name: str = ""


class Template(Strict):
    metadata: Metadata
    spec: PodSpec


class Selector(Strict):
    match_labels: dict[str, str]


class RollingUpdate(Strict):
    max_unavailable: int
    max_surge: int


class UpdateStrategy(Strict):
    type: str
    rolling_update: RollingUpdate


class WorkloadSpec(Strict):
    selector: Selector
    template: Template
    replicas: int | None = None  # of a Deployment
    update_strategy: UpdateStrategy | None = None  # of a DaemonSet


class Namespace(Strict, tag_field="kind"):
    api_version: str
    metadata: Metadata


class ServiceAccount(Strict, tag_field="kind"):
    api_version: str
    metadata: Metadata
    automount_service_account_token: bool


class ConfigMap(Strict, tag_field="kind"):
    api_version: str
    metadata: Metadata
    data: dict[str, str]


class DaemonSet(Strict, tag_field="kind"):
    api_version: str
    metadata: Metadata
    spec: WorkloadSpec


class Deployment(Strict, tag_field="kind"):
    api_version: str
    metadata: Metadata
    spec: WorkloadSpec


class PolicyPort(Strict):
    protocol: str
    port: int
    end_port: int | None = None


class PolicyPeer(Strict):
    namespace_selector: Selector
    pod_selector: Selector


class PolicyRule(Strict):
    ports: list[PolicyPort]
    from_: list[PolicyPeer] = msgspec.field(name="from", default_factory=list)


class PolicySpec(Strict):
    pod_selector: Selector
    policy_types: list[str]
    ingress: list[PolicyRule]


class NetworkPolicy(Strict, tag_field="kind"):
    api_version: str
    metadata: Metadata
    spec: PolicySpec


class BudgetSpec(Strict):
    max_unavailable: int
    selector: Selector


class PodDisruptionBudget(Strict, tag_field="kind"):
    api_version: str
    metadata: Metadata
    spec: BudgetSpec


class Endpoint(Strict):
    port: str
    path: str
    interval: str


class PodMonitorSpec(Strict):
    selector: Selector
    pod_metrics_endpoints: list[Endpoint]


class PodMonitor(Strict, tag_field="kind"):
    api_version: str
    metadata: Metadata
    spec: PodMonitorSpec


API_VERSIONS: dict[type[object], str] = {
    Namespace: "v1",
    ServiceAccount: "v1",
    ConfigMap: "v1",
    DaemonSet: "apps/v1",
    Deployment: "apps/v1",
    NetworkPolicy: "networking.k8s.io/v1",
    PodDisruptionBudget: "policy/v1",
    PodMonitor: "monitoring.coreos.com/v1",
}
Thing = (
    Namespace
    | ServiceAccount
    | ConfigMap
    | DaemonSet
    | Deployment
    | NetworkPolicy
    | PodDisruptionBudget
    | PodMonitor
)


class Manifest:
    """One file: its objects, and the parts that the tests look at."""

    def __init__(self, documents: list[Any]) -> None:
        self.things = [msgspec.convert(document, Thing) for document in documents]
        (self.workload,) = (t for t in self.things if isinstance(t, DaemonSet | Deployment))
        self.policies = [t for t in self.things if isinstance(t, NetworkPolicy)]
        (self.config_map,) = (t for t in self.things if isinstance(t, ConfigMap))
        self.pod = self.workload.spec.template.spec
        self.containers = self.pod.init_containers + self.pod.containers
        (self.daemon,) = (c for c in self.containers if c.name == "kdaemon")
        self.text = self.config_map.data["config.toml"]
        environ = {variable.name: variable.value for variable in self.daemon.env}
        self.config = load_config(text=self.text, environ=environ, source="the ConfigMap")

    def mount(self, container: Container, volume: str) -> Mount:
        (mount,) = (m for m in container.volume_mounts if m.name == volume)
        return mount

    def volume(self, name: str) -> Volume:
        (volume,) = (v for v in self.pod.volumes if v.name == name)
        return volume


def read_documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def documents_of(name: str, under: str = "overlays") -> list[Any]:
    """What `kubectl kustomize` makes of it, but for the hash in the ConfigMap's name.

    A test holds that where kubectl is. Understands what the files here use, and nothing else.
    """
    return assemble(KUSTOMIZE / under / name)


def assemble(directory: Path) -> list[Any]:
    (kustomization,) = read_documents(directory / "kustomization.yaml")
    understood = {"apiVersion", "kind", "namespace", "resources", "configMapGenerator"}
    assert kustomization.keys() <= understood
    documents: list[Any] = []
    for resource in kustomization.get("resources", []):
        path = (directory / resource).resolve()
        documents += assemble(path) if path.is_dir() else read_documents(path)
    for generated in kustomization.get("configMapGenerator", []):
        assert generated.keys() == {"name", "files"}
        data = {file: (directory / file).read_text() for file in generated["files"]}
        name = {"name": generated["name"]}
        documents.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": name, "data": data})
    for document in documents if "namespace" in kustomization else []:
        if document["kind"] != "Namespace":
            document["metadata"]["namespace"] = kustomization["namespace"]
    return documents


def kustomized(directory: Path) -> list[Any]:
    command = ["kubectl", "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def run_helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Of the oldest Kubernetes that the page names; nothing of the user's own helm is read."""
    helm = find_helm()
    assert helm is not None
    command = [helm, *arguments, "--kube-version", OLDEST_KUBERNETES]
    return subprocess.run(command, capture_output=True, text=True, env={"HOME": "/nonexistent"})


def helm_rendered(*flags: str) -> list[Any]:
    done = run_helm("template", "kdaemon", str(CHART), "--namespace", "kdaemon", *flags)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def quantity_bytes(text: str) -> int:
    assert text.endswith("Mi")
    return int(text[:-2]) * MIB
