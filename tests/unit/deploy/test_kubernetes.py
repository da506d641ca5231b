"""deploy/kubernetes and deploy/helm, held to the daemon's own configuration and to what it needs.

Not tried here: a cluster.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kdaemon import __version__
from kdaemon.config.load import load_config
from tests.kit.manifests import (
    API_VERSIONS,
    DEPLOY,
    KUSTOMIZE,
    UID,
    Capabilities,
    HostPath,
    Manifest,
    Namespace,
    PodDisruptionBudget,
    PodMonitor,
    PolicyPort,
    Seccomp,
    ServiceAccount,
    documents_of,
    drain_s,
    helm_rendered,
    kustomized,
    memory_needed_bytes,
    quantity_bytes,
)

MANIFESTS = ("daemonset", "sidecar")  # the overlays


CHART = pytest.param("chart", marks=pytest.mark.helm)


def without_hashes(documents: list[Any]) -> list[str]:
    """As sorted lines of JSON, and the hash taken out of the ConfigMap's name."""
    texts = [json.dumps(document, sort_keys=True) for document in documents]
    return sorted(re.sub(r'("name": "kdaemon)-[0-9a-z]{10}"', r'\1"', text) for text in texts)


@pytest.mark.kubectl
@pytest.mark.parametrize("name", MANIFESTS)
def test_kustomize_makes_of_an_overlay_what_is_looked_at_here(name: str) -> None:
    assert without_hashes(kustomized(KUSTOMIZE / "overlays" / name)) == without_hashes(
        documents_of(name)
    )


@pytest.mark.kubectl
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


@pytest.mark.kubectl
def test_the_overlay_that_the_page_shows_is_one(tmp_path: Path) -> None:
    """Image, role and PodMonitor, over the files as they are."""
    page = (DEPLOY / "kubernetes" / "README.md").read_text()
    (block,) = re.findall(r"```yaml\n(# kustomization.yaml\n.*?)```", page, re.DOTALL)
    shutil.copytree(DEPLOY, tmp_path / "kdaemon" / "deploy")
    (tmp_path / "kustomization.yaml").write_text(block)
    config = (KUSTOMIZE / "base" / "config.toml").read_text()
    (tmp_path / "config.toml").write_text(config.replace("eu-central-1", "eu-west-1"))
    manifest = Manifest(kustomized(tmp_path))
    assert {c.image for c in manifest.containers} == {f"registry.example/kdaemon:{__version__}"}
    (account,) = (t for t in manifest.things if isinstance(t, ServiceAccount))
    assert list(account.metadata.annotations) == ["eks.amazonaws.com/role-arn"]
    assert any(isinstance(thing, PodMonitor) for thing in manifest.things)
    assert manifest.config.region == "eu-west-1"
    assert re.fullmatch("kdaemon-[0-9a-z]{10}", manifest.config_map.metadata.name)
    (option,) = re.findall(r"`(options: { disable.*?)`", page)
    one, other = block.split("    files: [config.toml]")
    kept = f"{one}    {option}\n    files: [config.toml]{other}"
    (tmp_path / "kustomization.yaml").write_text(kept)
    assert Manifest(kustomized(tmp_path)).config_map.metadata.name == "kdaemon"


@pytest.mark.parametrize("name", MANIFESTS)
def test_the_pod_monitor_finds_the_admin_listener_of_every_overlay(name: str) -> None:
    manifest = read_manifest(name)
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


def read_manifest(name: str) -> Manifest:
    if name == "chart":
        return Manifest(helm_rendered())
    return Manifest(documents_of(name))


@pytest.fixture(params=[*MANIFESTS, CHART])
def manifest(request: pytest.FixtureRequest) -> Manifest:
    return read_manifest(request.param)


@pytest.fixture(params=["daemonset", CHART])
def daemonset(request: pytest.FixtureRequest) -> Manifest:
    return read_manifest(request.param)


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
    assert manifest.daemon.image == f"kdaemon:{__version__}"


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
    page = (DEPLOY / "kubernetes" / "README.md").read_text()
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
