"""What deploy/ promises, held to the files, the daemon's own configuration and the tools here.

Not tried here: a start under a real systemd, cluster or Docker engine.
"""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

import botocore.session
import botocore.validate
import msgspec
import pytest
import yaml

from kdaemon.base.limits import MIB
from kdaemon.cli.common import SYSTEM_SOCKET
from kdaemon.config import Config
from kdaemon.config.load import load_config
from kdaemon.http.server import LISTEN_BACKLOG

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd" / "kdaemon.service"
SOCKET_UNIT = DEPLOY / "systemd" / "kdaemon.socket"
DOCKERFILE = DEPLOY / "docker" / "Dockerfile"
KUSTOMIZE = DEPLOY / "kubernetes"
MANIFESTS = ("daemonset", "sidecar")  # the overlays

UID = 10001  # of the image; the manifests and the socket's group follow it
EXPOSURE_TENTHS_MAX = 12  # `systemd-analyze security`, 0 (best) to 100; reached 2026-11-21
BESIDE_BYTES = 90 * MIB  # tests/crash/test_outage.py holds the process to it

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine"
)


def drain_s(config: Config) -> float:
    return (config.drain.lame_duck_ms + config.drain.deadline_ms) / 1000


def memory_needed_bytes(config: Config) -> float:
    """Buffers, the process beside them, and the aggregates of one busy stream's calls in flight,
    which nothing else counts.
    """
    aggregates = config.default.in_flight_max * config.default.batch_bytes_max
    return config.memory_bytes_max + BESIDE_BYTES + aggregates


# --- systemd


def read_unit(path: Path) -> dict[str, list[str]]:
    """Every value of every key, in order; an empty list for `Key=`."""
    values: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text().splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            values[key] += [value] if value else []
    return dict(values)


@pytest.fixture
def unit() -> dict[str, list[str]]:
    return read_unit(UNIT)


@needs_systemd
def test_systemd_finds_no_fault_in_the_unit(tmp_path: Path) -> None:
    program = tmp_path / "kdaemon"
    program.symlink_to(sys.executable)  # verify wants the program to exist; it does not start it
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/kdaemon", str(program)))
    socket_unit = shutil.copy(SOCKET_UNIT, tmp_path)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy), str(socket_unit)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_the_unit_s_exposure_does_not_grow() -> None:
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--no-pager",
            f"--threshold={EXPOSURE_TENTHS_MAX}",
            str(UNIT),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_waits_longer_than_the_drain(unit: dict[str, list[str]]) -> None:
    assert float(unit["TimeoutStopSec"][0]) >= drain_s(Config()) + 5


def test_a_bad_configuration_is_not_restarted(unit: dict[str, list[str]]) -> None:
    assert unit["RestartPreventExitStatus"] == ["78"]
    # systemd does not look at the exit status of ExecStartPre: if it counted, it would loop
    (check,) = unit["ExecStartPre"]
    (run,) = unit["ExecStart"]
    assert check == "-/usr/local/bin/kdaemon check --config /etc/kdaemon/config.toml"
    assert run == "/usr/local/bin/kdaemon run --config /etc/kdaemon/config.toml"


def test_a_reload_reads_the_file_that_the_daemon_was_started_with(
    unit: dict[str, list[str]],
) -> None:
    """And its exit code is the service manager's answer: `kdaemon reload` waits for the outcome."""
    [start], [reload] = unit["ExecStart"], unit["ExecReload"]
    assert reload == start.replace(" run ", " reload ")


def test_clients_can_reach_the_socket_and_keep_it_through_a_restart(
    unit: dict[str, list[str]],
) -> None:
    sockets = read_unit(SOCKET_UNIT)
    assert unit["Sockets"] == unit["Requires"] == unit["Also"] == [SOCKET_UNIT.name]
    assert "RuntimeDirectory" not in unit, "it is removed at each stop, with what is in it"
    assert sockets["ListenStream"] == [SYSTEM_SOCKET]
    assert sockets["Accept"] == ["no"]
    assert sockets["SocketMode"] == [Config().listen.unix_mode]
    assert int(sockets["Backlog"][0]) == LISTEN_BACKLOG
    assert sockets["TriggerLimitIntervalSec"] == ["0"]
    (group,) = sockets["SocketGroup"]
    assert f"\ng {group} -\n" in (DEPLOY / "systemd" / "kdaemon.sysusers.conf").read_text()
    assert group != UNIT.stem  # the dynamic user has the unit's name; a static group may not
    assert Config().listen.unix == "auto"


def test_only_the_socket_takes_records_unless_the_host_says_otherwise(
    unit: dict[str, list[str]],
) -> None:
    """Whatever the file says: it may be the example, or of another machine."""
    pairs = [each.partition("=") for each in unit["Environment"]]
    environ = {name: value for name, _, value in pairs if name != "KDAEMON_SPOOL_DIRECTORY"}
    config = load_config(text='[listen]\nhttp = "127.0.0.1:8990"', environ=environ)
    assert config.listen.http_address is None
    assert config.listen.unix == "auto"
    page = (DEPLOY / "README.md").read_text()
    assert "\n  Environment=KDAEMON_LISTEN_HTTP=127.0.0.1:8990\n" in page
    assert "\n  ListenStream=127.0.0.1:8990\n" in page


def test_notifications_and_the_socket_are_allowed_their_address_family(
    unit: dict[str, list[str]],
) -> None:
    assert unit["Type"] == ["notify"]
    assert float(unit["WatchdogSec"][0]) > 0
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]


def test_a_forbidden_system_call_is_refused_not_deadly(unit: dict[str, list[str]]) -> None:
    assert unit["SystemCallFilter"] == ["@system-service", "~@privileged @resources"]
    assert unit["SystemCallErrorNumber"] == ["EPERM"]  # uvloop tries io_uring, and does without


def test_the_walls_stand_without_what_dynamicuser_implies(unit: dict[str, list[str]]) -> None:
    # systemd-analyze cannot tell these from DynamicUser=yes, which a host may turn off
    strict = {
        "NoNewPrivileges": "yes",
        "PrivateTmp": "yes",
        "ProtectHome": "yes",
        "ProtectSystem": "strict",
        "RemoveIPC": "yes",
        "RestrictSUIDSGID": "yes",
    }
    assert {key: unit[key] for key in strict} == {key: [value] for key, value in strict.items()}
    assert unit["CapabilityBoundingSet"] == []
    assert unit["AmbientCapabilities"] == []
    assert unit["LimitCORE"] == ["0"]  # a core holds records and credentials


def test_systemd_s_memory_limit_leaves_room_for_the_buffers(unit: dict[str, list[str]]) -> None:
    (limit,) = unit["MemoryMax"]
    assert limit.endswith("M")
    assert int(limit[:-1]) * MIB >= memory_needed_bytes(Config())


def test_the_open_file_limit_is_above_the_connections(unit: dict[str, list[str]]) -> None:
    assert int(unit["LimitNOFILE"][0]) > 2 * Config().listen.connections_max


# --- Kubernetes: the fields we use, strictly; a field that is not here or misspelt is refused


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


needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not on this machine"
)


def without_hashes(documents: list[Any]) -> list[str]:
    """As sorted lines of JSON, and the hash taken out of the ConfigMap's name."""
    texts = [json.dumps(document, sort_keys=True) for document in documents]
    return sorted(re.sub(r'("name": "kdaemon)-[0-9a-z]{10}"', r'\1"', text) for text in texts)


@needs_kubectl
@pytest.mark.parametrize("name", MANIFESTS)
def test_kustomize_makes_of_an_overlay_what_is_looked_at_here(name: str) -> None:
    assert without_hashes(kustomized(KUSTOMIZE / "overlays" / name)) == without_hashes(
        documents_of(name)
    )


@needs_kubectl
def test_another_configuration_is_another_config_map_so_that_pods_are_replaced(
    tmp_path: Path,
) -> None:
    shutil.copytree(KUSTOMIZE, tmp_path / "kubernetes")
    overlay = tmp_path / "kubernetes" / "overlays" / "daemonset"
    before = Manifest(kustomized(overlay)).config_map.metadata.name
    with (tmp_path / "kubernetes" / "base" / "config.toml").open("a") as file:
        file.write('level = "debug"\n')
    after = Manifest(kustomized(overlay))
    assert after.config_map.metadata.name != before
    mounted = after.volume("config").config_map
    assert mounted is not None
    assert mounted.name == after.config_map.metadata.name


@needs_kubectl
def test_the_overlay_that_the_page_shows_is_one(tmp_path: Path) -> None:
    """Image, role and PodMonitor, over the files as they are."""
    page = (DEPLOY / "README.md").read_text()
    (block,) = re.findall(r"```yaml\n(# kustomization.yaml\n.*?)```", page, re.DOTALL)
    shutil.copytree(DEPLOY, tmp_path / "kdaemon" / "deploy")
    (tmp_path / "kustomization.yaml").write_text(block)
    manifest = Manifest(kustomized(tmp_path))
    assert {c.image for c in manifest.containers} == {"registry.example/kdaemon:0.1.0"}
    (account,) = (t for t in manifest.things if isinstance(t, ServiceAccount))
    assert list(account.metadata.annotations) == ["eks.amazonaws.com/role-arn"]
    assert any(isinstance(thing, PodMonitor) for thing in manifest.things)


def test_the_pod_monitor_finds_the_admin_listener_of_every_overlay(manifest: Manifest) -> None:
    (monitor,) = (
        msgspec.convert(document, PodMonitor)
        for document in documents_of("podmonitor", "components")
    )
    assert monitor.api_version == API_VERSIONS[PodMonitor]
    labels = manifest.workload.spec.template.metadata.labels
    assert monitor.spec.selector.match_labels.items() <= labels.items()
    (endpoint,) = monitor.spec.pod_metrics_endpoints
    assert (endpoint.port, endpoint.path) == (manifest.daemon.ports[0].name, "/metrics")


def test_a_drained_node_takes_one_application_at_a_time(sidecar: Manifest) -> None:
    (budget,) = (t for t in sidecar.things if isinstance(t, PodDisruptionBudget))
    labels = sidecar.workload.spec.template.metadata.labels
    assert budget.spec.max_unavailable == 1
    assert budget.spec.selector.match_labels.items() <= labels.items()
    assert (sidecar.workload.spec.replicas or 0) > 1


def quantity_bytes(text: str) -> int:
    assert text.endswith("Mi")
    return int(text[:-2]) * MIB


@pytest.fixture(params=MANIFESTS)
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return Manifest(documents_of(request.param))


@pytest.fixture
def daemonset() -> Manifest:
    return Manifest(documents_of("daemonset"))


@pytest.fixture
def sidecar() -> Manifest:
    return Manifest(documents_of("sidecar"))


def test_a_misspelt_field_does_not_pass_the_schema() -> None:
    documents = documents_of("sidecar")
    (deployment,) = (each for each in documents if each["kind"] == "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    pod["terminationGracePeriodSecond"] = pod.pop("terminationGracePeriodSeconds")
    with pytest.raises(msgspec.ValidationError, match="terminationGracePeriodSecond"):
        Manifest(documents)


def test_names_labels_and_versions_agree_within_a_manifest(manifest: Manifest) -> None:
    assert all(thing.api_version == API_VERSIONS[type(thing)] for thing in manifest.things)
    labels = manifest.workload.spec.template.metadata.labels
    assert manifest.workload.spec.selector.match_labels.items() <= labels.items()
    (account,) = (t for t in manifest.things if isinstance(t, ServiceAccount))
    assert manifest.pod.service_account_name == account.metadata.name
    config = manifest.volume("config").config_map
    assert config is not None
    assert config.name == manifest.config_map.metadata.name
    volumes = {volume.name for volume in manifest.pod.volumes}
    for container in manifest.containers:
        assert {mount.name for mount in container.volume_mounts} <= volumes
    namespaces = {t.metadata.namespace for t in manifest.things if not isinstance(t, Namespace)}
    assert len(namespaces) == 1


def test_the_image_is_of_this_version(manifest: Manifest) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert manifest.daemon.image == f"kdaemon:{version}"


def test_the_daemon_reads_the_mounted_configuration(manifest: Manifest) -> None:
    directory = manifest.mount(manifest.daemon, "config").mount_path
    assert manifest.daemon.args == ["run", "--config", f"{directory}/config.toml"]
    assert manifest.mount(manifest.daemon, "config").read_only


def test_the_kubelet_outlasts_the_drain(daemonset: Manifest, sidecar: Manifest) -> None:
    assert daemonset.pod.termination_grace_period_seconds >= drain_s(daemonset.config) + 5
    application_s = 30  # Kubernetes' default grace; a sidecar's drain begins after it
    grace_s = sidecar.pod.termination_grace_period_seconds
    assert grace_s >= application_s + drain_s(sidecar.config) + 5


def test_every_probe_asks_the_admin_listener(manifest: Manifest) -> None:
    daemon, address = manifest.daemon, manifest.config.listen.admin_address
    (port,) = daemon.ports
    assert address is not None
    assert port.container_port == address.port
    assert daemon.startup_probe is not None
    assert daemon.readiness_probe is not None
    assert daemon.liveness_probe is not None
    assert daemon.startup_probe.http_get.path == "/readyz"
    assert daemon.readiness_probe.http_get.path == "/readyz"
    assert daemon.liveness_probe.http_get.path == "/livez"
    for probe in (daemon.startup_probe, daemon.readiness_probe, daemon.liveness_probe):
        assert probe.http_get.port == port.name
    annotations = manifest.workload.spec.template.metadata.annotations
    assert annotations["prometheus.io/port"] == str(address.port)


def test_only_the_admin_listener_is_open_to_the_cluster(manifest: Manifest) -> None:
    listen = manifest.config.listen
    assert listen.admin_address is not None
    assert listen.admin_address.host == "0.0.0.0"
    assert listen.insecure
    assert listen.http_address is None, "only the socket takes records, unless told otherwise"
    assert listen.unix


def test_the_sidecar_says_how_an_aws_sdk_reaches_it(sidecar: Manifest) -> None:
    text = (KUSTOMIZE / "overlays" / "sidecar" / "deployment.yaml").read_text()
    (address,) = re.findall(r'#   - { name: KDAEMON_LISTEN_HTTP, value: "(.*)" }', text)
    assert f'AWS_ENDPOINT_URL_KINESIS, value: "http://{address}"' in text
    told = load_config(text=sidecar.text, environ={"KDAEMON_LISTEN_HTTP": address})
    assert told.listen.http_address is not None
    assert told.listen.http_address.is_loopback


def test_nobody_but_the_scrape_reaches_the_admin_listener(manifest: Manifest) -> None:
    """By a policy that selects these pods, and lets one kind of pod in, to that port alone."""
    admin = manifest.config.listen.admin_address
    assert admin is not None
    labels = manifest.workload.spec.template.metadata.labels
    for policy in manifest.policies:
        assert policy.metadata.namespace == manifest.workload.metadata.namespace
        assert policy.spec.pod_selector.match_labels.items() <= labels.items()
        assert policy.spec.policy_types == ["Ingress"]
    scrape, *others = [rule for policy in manifest.policies for rule in policy.spec.ingress]
    (peer,) = scrape.from_
    assert peer.namespace_selector.match_labels == {"kubernetes.io/metadata.name": "monitoring"}
    assert peer.pod_selector.match_labels == {"app.kubernetes.io/name": "prometheus"}
    assert scrape.ports == [PolicyPort(protocol="TCP", port=admin.port)]
    opened = {
        port
        for rule in others
        for each in rule.ports
        for port in range(each.port, (each.end_port or each.port) + 1)
        if each.protocol == "TCP"
    }
    assert admin.port not in opened
    page = (DEPLOY / "README.md").read_text()
    assert "NetworkPolicy" in page
    assert "`monitoring`" in page


def test_the_policies_leave_the_rest_of_a_pod_as_it_was_where_there_is_a_rest(
    daemonset: Manifest, sidecar: Manifest
) -> None:
    (policy,) = daemonset.policies
    assert len(policy.spec.ingress) == 1, "the daemon is alone in its pod"
    _, other = sidecar.policies
    (rest,) = other.spec.ingress
    assert rest.from_ == [], "from anywhere"
    opened = [
        {*range(each.port, (each.end_port or each.port) + 1)}
        for protocol in ("TCP", "UDP")
        for each in rest.ports
        if each.protocol == protocol
    ]
    admin = sidecar.config.listen.admin_address
    assert admin is not None
    assert opened[0] | opened[1] == {*range(1, 65_536)} - {admin.port}
    assert opened[2] == {*range(1, 65_536)}


def test_the_socket_s_directory_is_shared_never_the_file(manifest: Manifest) -> None:
    directory = manifest.mount(manifest.daemon, "socket").mount_path
    assert Path(manifest.config.listen.unix).parent == Path(directory)
    for container in manifest.containers:
        assert manifest.mount(container, "socket").mount_path == directory


def test_the_spool_is_on_a_volume_that_is_larger_than_it(manifest: Manifest) -> None:
    mount = manifest.mount(manifest.daemon, "spool").mount_path
    assert Path(manifest.config.spool.directory).parent == Path(mount)
    empty_dir = manifest.volume("spool").empty_dir
    if empty_dir is not None:  # a node's own directory has no limit to compare
        assert quantity_bytes(empty_dir.size_limit) > manifest.config.spool.bytes_max * 1.5


def test_the_memory_limit_is_above_what_the_daemon_may_hold(manifest: Manifest) -> None:
    limit_bytes = quantity_bytes(manifest.daemon.resources.limits.memory)
    assert limit_bytes >= memory_needed_bytes(manifest.config)
    assert not manifest.daemon.resources.limits.cpu  # a throttled loop misses its own heartbeat


def test_every_container_but_the_one_that_must_be_root_is_restricted(manifest: Manifest) -> None:
    pod = manifest.pod.security_context
    assert pod.run_as_non_root is True
    assert pod.seccomp_profile == Seccomp(type="RuntimeDefault")
    for container in manifest.containers:
        security = container.security_context
        assert security.allow_privilege_escalation is False
        assert security.read_only_root_filesystem is True
        assert security.capabilities is not None
        assert security.capabilities.drop == ["ALL"]
        if container.name == "directories":
            continue
        assert security.capabilities.add == []
        assert security.run_as_non_root is not False
        assert (security.run_as_user or pod.run_as_user or 0) > 0
    daemon = manifest.daemon.security_context
    assert (daemon.run_as_user or pod.run_as_user) == UID
    assert (daemon.run_as_group or pod.run_as_group) == UID


def test_services_do_not_reach_into_the_daemon_s_environment(manifest: Manifest) -> None:
    assert manifest.pod.enable_service_links is False
    assert manifest.pod.automount_service_account_token is False


def test_the_sidecar_starts_before_the_application_and_shares_its_directory(
    sidecar: Manifest,
) -> None:
    assert sidecar.daemon in sidecar.pod.init_containers
    assert sidecar.daemon.restart_policy == "Always"
    assert sidecar.volume("socket").empty_dir is not None
    assert sidecar.pod.security_context.fs_group == UID  # the application is in the socket's group
    (application,) = sidecar.pod.containers
    socket = {v.name: v.value for v in application.env}["KDAEMON_SOCKET"]
    assert socket == sidecar.config.listen.unix


def test_the_daemonset_hands_the_node_s_directory_to_the_daemon(daemonset: Manifest) -> None:
    host_path = daemonset.volume("socket").host_path
    assert host_path == HostPath(path="/run/kdaemon", type="DirectoryOrCreate")
    (first,) = daemonset.pod.init_containers
    directories = [daemonset.mount(first, volume).mount_path for volume in ("socket", "spool")]
    owner = ["-o", str(UID), "-g", str(UID)]
    assert first.command == ["install", "-d", *owner, "-m", "0755", *directories]
    assert first.security_context.run_as_user == 0
    assert first.security_context.capabilities == Capabilities(
        drop=["ALL"], add=["CHOWN", "FOWNER"]
    )
    assert daemonset.daemon in daemonset.pod.containers
    strategy = daemonset.workload.spec.update_strategy
    assert strategy is not None
    assert strategy.rolling_update.max_surge == 0  # two would want the same socket
    assert daemonset.pod.tolerations == [{"operator": "Exists"}]


# --- Docker


def read_dockerfile() -> list[list[tuple[str, str]]]:
    """Instructions by stage; comments gone, continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE.read_text()).replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip()]
    stages: list[list[tuple[str, str]]] = []
    for instruction, arguments in lines:
        if instruction == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((instruction, arguments))
    return stages


def copied_from_the_project() -> list[str]:
    """Sources of every COPY that is not from another stage."""
    return [
        source
        for stage in read_dockerfile()
        for instruction, arguments in stage
        if instruction == "COPY" and "--from=" not in arguments
        for source in arguments.split()[:-1]
    ]


def test_what_the_image_copies_exists_and_nothing_else_is_sent() -> None:
    rules = (DEPLOY / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    assert sorted(let_through) == sorted(copied_from_the_project())
    assert all((ROOT / source).exists() for source in let_through)
    assert "*" in rules
    assert rules.index("*") < min(rules.index("!" + source) for source in let_through)
    for cache in ("**/__pycache__", "**/*.pyc"):
        assert rules.index(cache) > max(rules.index("!" + source) for source in let_through)


def test_everything_installed_in_the_image_is_checked_by_hash() -> None:
    commands = [a for stage in read_dockerfile() for i, a in stage if i == "RUN"]
    installs = [part for command in commands for part in command.split("&&") if " install " in part]
    installs = [part for part in installs if " pip " in part and "uninstall" not in part]
    assert len(installs) == 3
    hashed = [part for part in installs if "--require-hashes" in part]
    assert [part.split("-r ")[1].strip() for part in hashed] == [
        "requirements.lock",
        "build-requirements.lock",
    ]
    (project,) = (part for part in installs if part not in hashed)
    assert "--no-index" in project
    assert "--no-deps" in project
    assert any("pip wheel --no-deps --no-build-isolation" in command for command in commands)


def test_the_image_s_build_backend_is_the_project_s() -> None:
    (backend,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    lock = (DEPLOY / "docker" / "build-requirements.lock").read_text()
    assert re.findall(r"(?m)^[a-z].*?(?= \\$)", lock) == [backend]
    assert "--hash=sha256:" in lock


def test_the_final_image_cannot_build_and_does_not_run_as_root() -> None:
    final = read_dockerfile()[-1]
    values = dict(final)
    assert values["USER"] == f"{UID}:{UID}"
    assert values["STOPSIGNAL"] == "SIGTERM"
    assert values["ENTRYPOINT"] == '["kdaemon"]'
    assert "HEALTHCHECK" not in values
    assert "EXPOSE" not in values
    assert [a for i, a in final if i == "COPY"] == ["--from=build /opt/kdaemon /opt/kdaemon"]
    (run,) = (a for i, a in final if i == "RUN")
    assert "pip uninstall" in run
    assert "apt" not in run
    assert ("RUN", "python -m venv --without-pip /opt/kdaemon") in read_dockerfile()[0]


def test_the_container_s_socket_is_where_the_image_made_its_directory() -> None:
    (variables,) = (a for i, a in read_dockerfile()[-1] if i == "ENV")
    assert "RUNTIME_DIRECTORY=/run/kdaemon" in variables.split()
    (run,) = (a for i, a in read_dockerfile()[-1] if i == "RUN")
    assert f"install -d -o {UID} -g {UID} -m 0755 /run/kdaemon /var/lib/kdaemon" in run
    (volumes,) = (a for i, a in read_dockerfile()[-1] if i == "VOLUME")
    assert json.loads(volumes) == ["/run/kdaemon", "/var/lib/kdaemon"]


# --- ECS


@pytest.fixture
def task() -> dict[str, Any]:
    text = (DEPLOY / "ecs" / "task-definition.json").read_text()
    return dict(json.loads(text))


@pytest.fixture
def task_config(task: dict[str, Any]) -> Config:
    daemon, _ = task["containerDefinitions"]
    return load_config(environ={each["name"]: each["value"] for each in daemon["environment"]})


def test_the_task_definition_is_what_ecs_takes(task: dict[str, Any]) -> None:
    """By the model of the API that botocore has; it does not know Fargate's own rules."""
    model = botocore.session.get_session().get_service_model("ecs")
    shape = model.operation_model("RegisterTaskDefinition").input_shape
    known = botocore.validate.ParamValidator().validate(task, shape)
    assert not known.has_errors(), known.generate_report()
    assert set(task) <= set(shape.members)
    members = model.shape_for("ContainerDefinition").members
    for container in task["containerDefinitions"]:
        assert set(container) <= set(members)


def test_a_task_s_application_waits_for_the_daemon_and_stops_before_it(
    task: dict[str, Any], task_config: Config
) -> None:
    daemon, application = task["containerDefinitions"]
    assert application["dependsOn"] == [{"containerName": "kdaemon", "condition": "HEALTHY"}]
    assert daemon["stopTimeout"] >= drain_s(task_config) + 5
    assert max(daemon["stopTimeout"], application["stopTimeout"]) <= 120  # Fargate takes no more
    policy = daemon["restartPolicy"]
    assert policy["enabled"]
    assert 78 in policy["ignoredExitCodes"], "a bad configuration is not restarted"


def test_a_task_s_probe_does_not_replace_what_is_full(
    task: dict[str, Any], task_config: Config
) -> None:
    """ECS replaces a task that is unhealthy, and its spool goes with it: not /readyz."""
    daemon, _ = task["containerDefinitions"]
    check = daemon["healthCheck"]
    probe = check["command"][-1]
    assert check["command"][0] == "CMD"
    assert "GET /livez " in probe
    http, admin = task_config.listen.http_address, task_config.listen.admin_address
    assert http is not None
    assert admin is not None
    for address in (http, admin):
        assert address.is_loopback
        assert f"/dev/tcp/{address.host}/{address.port}" in probe
    assert check["timeout"] > int(check["command"][2]), "bash is ended before Docker gives up"


def test_a_task_s_daemon_is_confined_and_has_room(
    task: dict[str, Any], task_config: Config
) -> None:
    daemon, application = task["containerDefinitions"]
    assert daemon["user"] == f"{UID}:{UID}"
    assert daemon["readonlyRootFilesystem"] is True
    assert daemon["linuxParameters"]["capabilities"] == {"drop": ["ALL"]}
    assert daemon["memory"] * MIB >= memory_needed_bytes(task_config)
    assert daemon["memory"] + application["memory"] <= int(task["memory"])
    assert daemon["cpu"] + application["cpu"] <= int(task["cpu"])
    (files,) = daemon["ulimits"]
    assert files["softLimit"] > 2 * task_config.listen.connections_max
    mounts = {mount["containerPath"] for mount in daemon["mountPoints"]}
    assert Path(task_config.listen.unix).parent in map(Path, mounts)
    assert Path(task_config.spool.directory).parent in map(Path, mounts)
    assert mounts == {"/run/kdaemon", "/var/lib/kdaemon"}, "the image's volumes: uid 10001's"
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert daemon["image"] == f"kdaemon:{version}"


def test_a_task_s_application_is_told_where_the_daemon_listens(
    task: dict[str, Any], task_config: Config
) -> None:
    _, application = task["containerDefinitions"]
    told = {each["name"]: each["value"] for each in application["environment"]}
    http = task_config.listen.http_address
    assert http is not None
    assert told == {
        "AWS_ENDPOINT_URL_KINESIS": f"http://{http.host}:{http.port}",
        "KDAEMON_SOCKET": task_config.listen.unix,
    }


# --- the page


def test_every_file_the_page_names_is_there() -> None:
    text = (DEPLOY / "README.md").read_text()
    named = set(
        re.findall(r"(?:deploy|systemd|kubernetes|docker|ecs|helm|tests)/[\w./-]+\.\w+", text)
    )
    assert "systemd/kdaemon.service" in named
    for name in named:
        assert (ROOT / name).exists() or (DEPLOY / name).exists(), name
