"""Every manifest of deploy/, and what helm makes of the chart, against the schemas of Kubernetes.

`make charts` brings the schemas, of several versions, each strict: an unknown field is refused.
"""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from tests.kit.manifests import OLDEST_KUBERNETES, documents_of, helm_rendered
from tests.kit.tools import SCHEMAS

NEWEST_KUBERNETES = "1.37.0"  # of tests/kit/kubernetes-requirements.txt

CHART = pytest.param("chart", marks=pytest.mark.helm)


def check(document: dict[str, Any], version: str) -> None:
    directory = SCHEMAS / f"v{version}-local-strict"
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", document["apiVersion"])
    schema = read(directory / f"{document['kind'].lower()}-{group}.json")
    definitions = DRAFT202012.create_resource(read(directory / "_definitions.json"))
    registry: Registry[Any] = Registry().with_resource("_definitions.json", definitions)
    jsonschema.Draft202012Validator(schema, registry=registry).validate(document)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.kubernetes
@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, NEWEST_KUBERNETES])
@pytest.mark.parametrize("name", ["daemonset", "sidecar", CHART])
def test_kubernetes_takes_the_manifests(name: str, version: str) -> None:
    documents = helm_rendered() if name == "chart" else documents_of(name)
    assert len(documents) >= 4
    for document in documents:
        check(document, version)


@pytest.mark.kubernetes
def test_a_misspelt_field_does_not_pass() -> None:
    (workload,) = (each for each in documents_of("sidecar") if each["kind"] == "Deployment")
    (daemon,) = workload["spec"]["template"]["spec"]["initContainers"]
    daemon["restartPolicies"] = daemon.pop("restartPolicy")
    with pytest.raises(jsonschema.ValidationError, match="restartPolicies"):
        check(workload, OLDEST_KUBERNETES)
