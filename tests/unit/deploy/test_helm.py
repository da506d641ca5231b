"""The chart in deploy/helm: values, schema, templates and page agree; what helm makes of it holds.

What is rendered by default goes through the tests of test_deploy_kubernetes.py, too.
"""

import json
import re
from operator import attrgetter
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from kdaemon import __version__
from kdaemon.base.limits import MIB
from kdaemon.config.load import load_config
from kdaemon.config.schema import config_schema
from kdaemon.config.settings import Config
from tests.kit.manifests import (
    CHART,
    OLDEST_KUBERNETES,
    ROOT,
    Manifest,
    PodMonitor,
    documents_of,
    drain_s,
    helm_rendered,
    run_helm,
)
from tests.kit.tools import find_helm

# Values that are maps of the user's own: what is in them is not the chart's.
OPEN: tuple[str, ...] = (
    "env",
    "serviceAccount.annotations",
    "podMonitor.labels",
    "networkPolicy.podLabels",
)
OPEN += ("resources", "nodeSelector", "affinity", "podAnnotations", "podLabels")


def leaves(values: dict[str, Any], above: str = "") -> set[str]:
    found: set[str] = set()
    for key, value in values.items():
        path = f"{above}{key}"
        is_table = isinstance(value, dict) and path not in OPEN
        found |= leaves(value, f"{path}.") if is_table else {path}
    return found


@pytest.fixture
def values() -> dict[str, Any]:
    return dict(yaml.safe_load((CHART / "values.yaml").read_text()))


@pytest.fixture
def schema() -> dict[str, Any]:
    return dict(json.loads((CHART / "values.schema.json").read_text()))


def templates() -> str:
    return "".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))


def test_the_chart_is_of_this_version_and_of_the_kubernetes_that_the_page_names() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    assert chart["kubeVersion"] == f">={OLDEST_KUBERNETES}-0"
    oldest = OLDEST_KUBERNETES.removesuffix(".0")
    assert (
        f"Kubernetes ({oldest} or newer)"
        in (ROOT / "deploy" / "kubernetes" / "README.md").read_text()
    )


def test_each_value_is_used_and_each_that_is_used_is_there(values: dict[str, Any]) -> None:
    text = templates()
    used = set(re.findall(r"\.Values\.([\w.]+)", text))
    image = set(re.findall(r"\.(repository|tag|digest)\b", text))
    used = (used - {"image"}) | {f"image.{name}" for name in image}
    assert used == leaves(values)


def test_each_value_is_in_the_schema_and_on_the_page(
    values: dict[str, Any], schema: dict[str, Any]
) -> None:
    page = (CHART / "README.md").read_text().partition("| --- |")[2]
    assert leaves(values) <= set(re.findall(r"`([\w.]+)`", page))
    for path in leaves(values):
        within = schema
        for key in path.split("."):
            assert within.get("additionalProperties") is False, path
            within = within["properties"][key]


def test_the_schema_takes_the_defaults_and_the_page_s_example(
    values: dict[str, Any], schema: dict[str, Any]
) -> None:
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(values, schema)
    (text,) = re.findall(r"```yaml\n(.*?)```", (CHART / "README.md").read_text(), re.DOTALL)
    example = yaml.safe_load(text)
    jsonschema.validate(values | example, schema)
    assert list(load_config(text=example["config"]).streams) == ["orders"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"imgae": {}},
        {"image": {"repository": ""}},
        {"image": {"repository": "kdaemon", "digest": "sha256:abc"}},
        {"config": {"service": "aws"}},  # numbers of a map would reach TOML as 2.68e+08
        {"memoryBytesMax": "256Mi"},
        {"admin": {"port": 8991, "host": "127.0.0.1"}},  # the probes would not get there
        {"env": {"KDAEMON_LISTEN_HTTP": "0.0.0.0:8990"}},  # records would enter without a check
        {"env": {"KDAEMON_DRAIN_DEADLINE_MS": "60000"}},  # the grace period would not follow
        {"spool": {"hostPath": "spool", "bytesMax": 1 << 30}},
        {"resources": {"limits": {"memory": None}}},  # helm takes the key out
    ],
    ids=str,
)
def test_the_schema_refuses_values_that_would_deploy_something_else(
    wrong: dict[str, Any], values: dict[str, Any], schema: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values | wrong, schema)
    if find_helm() is not None:  # whose validator is another
        (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
        path = str(tmp_path / "wrong.yaml")
        done = run_helm("template", "kdaemon", str(CHART), "--values", path)
        assert done.returncode != 0
        assert "values don't meet the specifications" in done.stderr


def test_what_the_environment_sets_cannot_be_set_twice(schema: dict[str, Any]) -> None:
    forbidden = schema["properties"]["env"]["propertyNames"]["not"]["pattern"]
    daemonset = (CHART / "templates" / "daemonset.yaml").read_text()
    names = re.findall(r"name: (KDAEMON_\w+)", daemonset)
    assert len(names) > 8
    for name in names:
        assert re.search(forbidden, name), name
    assert not re.search(forbidden, "KDAEMON_METRICS_EMF_NAMESPACE")


@pytest.mark.parametrize(
    ("value", "setting"),
    [
        ("memoryBytesMax", "memory_bytes_max"),
        ("spool.bytesMax", "spool.bytes_max"),
        ("drain.lameDuckMs", "drain.lame_duck_ms"),
        ("drain.deadlineMs", "drain.deadline_ms"),
    ],
)
def test_a_number_of_the_chart_has_the_bounds_and_the_default_of_its_setting(
    value: str, setting: str, values: dict[str, Any], schema: dict[str, Any]
) -> None:
    ours, theirs, default = schema, config_schema(), values
    for key in value.split("."):
        ours, default = ours["properties"][key], default[key]
    for key in setting.split("."):
        theirs = theirs["properties"][key]
    assert (ours["minimum"], ours["maximum"]) == (theirs["minimum"], theirs["maximum"])
    assert default == attrgetter(setting)(Config())


@pytest.mark.helm
def test_helm_finds_no_fault_in_the_chart() -> None:
    done = run_helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.helm
def test_the_chart_s_pod_is_the_overlay_s() -> None:
    """But for the configuration, which the chart has in the environment."""
    chart, overlay = Manifest(helm_rendered()), Manifest(documents_of("daemonset"))
    assert chart.config == overlay.config
    for container in chart.containers:
        container.env = []
        container.image_pull_policy = ""
    assert msgspec.to_builtins(chart.pod) == msgspec.to_builtins(overlay.pod)


@pytest.mark.helm
def test_the_grace_period_follows_the_drain_and_numbers_stay_whole() -> None:
    flags = ["--set", "drain.deadlineMs=3599500", "--set", "spool.bytesMax=1099511627776"]
    manifest = Manifest(helm_rendered(*flags, "--set", "admin.port=9100"))
    assert manifest.config.spool.bytes_max == 1 << 40
    assert drain_s(manifest.config) == 3600.5
    assert manifest.pod.termination_grace_period_seconds == 3601 + 14
    assert manifest.config.listen.admin_address is not None
    assert manifest.config.listen.admin_address.port == manifest.daemon.ports[0].container_port
    (rule,) = manifest.policies[0].spec.ingress
    assert rule.ports[0].port == 9100
    annotations = manifest.workload.spec.template.metadata.annotations
    assert annotations["prometheus.io/port"] == "9100"


@pytest.mark.helm
def test_memory_follows_the_container_s_limit_where_it_is_not_set() -> None:
    manifest = Manifest(helm_rendered("--set", "memoryBytesMax=null"))
    environ = {variable.name: variable.value for variable in manifest.daemon.env}
    assert "KDAEMON_MEMORY_BYTES_MAX" not in environ
    config = load_config(text=manifest.text, environ=environ, memory_limit_bytes=300 * MIB)
    assert config.memory_bytes_max == (300 - 96) * MIB


@pytest.mark.helm
def test_another_configuration_replaces_the_pods() -> None:
    def checksum(*flags: str) -> str:
        manifest = Manifest(helm_rendered(*flags))
        return manifest.workload.spec.template.metadata.annotations["checksum/config"]

    assert checksum() == checksum("--set", "drain.deadlineMs=30000")
    assert checksum() != checksum("--set", 'config=region = "eu-west-1"')


@pytest.mark.helm
def test_every_value_has_its_effect(tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    (tmp_path / "values.yaml").write_text(
        yaml.safe_dump(
            {
                "image": {"repository": "registry.example/k", "digest": digest},
                "imagePullSecrets": [{"name": "registry"}],
                "env": {"KDAEMON_METRICS_EMF_NAMESPACE": "kdaemon"},
                "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:x"}},
                "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                "networkPolicy": {"enabled": False},
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "affinity": {"nodeAffinity": {}},
                "priorityClassName": "system-node-critical",
                "podLabels": {"team": "data"},
                "podAnnotations": {"note": "here"},
                "tolerations": [],
            }
        )
    )
    flags = ["--values", str(tmp_path / "values.yaml")]
    documents = helm_rendered(*flags)
    assert not any(each["kind"] == "NetworkPolicy" for each in documents)
    manifest = Manifest(documents)
    pod, template = manifest.pod, manifest.workload.spec.template.metadata
    assert {c.image for c in manifest.containers} == {f"registry.example/k@{digest}"}
    assert pod.image_pull_secrets == [{"name": "registry"}]
    assert pod.node_selector == {"kubernetes.io/os": "linux"}
    assert pod.affinity == {"nodeAffinity": {}}
    assert pod.priority_class_name == "system-node-critical"
    assert pod.tolerations == []
    assert manifest.config.metrics.emf_namespace == "kdaemon"
    assert template.labels["team"] == "data"
    assert template.annotations["note"] == "here"
    assert "prometheus.io/scrape" not in template.annotations
    (monitor,) = (thing for thing in manifest.things if isinstance(thing, PodMonitor))
    assert monitor.metadata.labels["release"] == "prometheus"
    assert monitor.spec.selector.match_labels.items() <= template.labels.items()
    other = helm_rendered("--set", "serviceAccount.create=false", "--set", "serviceAccount.name=x")
    assert not any(each["kind"] == "ServiceAccount" for each in other)
    assert Manifest(other).pod.service_account_name == "x"
