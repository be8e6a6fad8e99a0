"""The Serve and Kubernetes files that ship: as Serve's own schema wants them, with no setting it would pass over."""

from pathlib import Path

import pytest
import yaml
from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from serve.settings import ServiceSettings

CONFIGS = Path(__file__).parents[2] / "serve" / "config"


def served(name):
    text = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    return yaml.safe_load(text["spec"]["serveConfigV2"]) if text.get("kind") == "RayService" else text


NAMES = sorted(path.name for path in CONFIGS.glob("*.yaml"))


def test_there_is_one_for_each_place():
    assert NAMES == ["cluster.yaml", "machine.yaml", "rayservice.yaml"]


@pytest.mark.parametrize("name", NAMES)
def test_serve_takes_it_and_every_word_of_it_means_something(name):
    config = served(name)
    ServeDeploySchema.model_validate(config)
    known = set(ServeDeploySchema.model_fields)
    assert set(config) <= known, set(config) - known
    for application in config["applications"]:
        assert set(application) <= set(ServeApplicationSchema.model_fields)
        for deployment in application.get("deployments", []):
            assert set(deployment) <= set(DeploymentSchema.model_fields)
        assert application["import_path"] == "serve.app:build"
        ServiceSettings.model_validate(application["args"])  # refuses what it does not know


@pytest.mark.parametrize("name", NAMES)
def test_it_listens_where_it_says(name):
    assert served(name)["http_options"]["host"] == ("127.0.0.1" if name == "machine.yaml" else "0.0.0.0")


def test_who_listens_everywhere_asks_for_tokens():
    for name in ("cluster.yaml", "rayservice.yaml"):
        [application] = served(name)["applications"]
        assert application["args"]["tokens"] and application["args"]["admin_tokens"]


def test_the_rayservice_is_a_rayservice():
    text = yaml.safe_load((CONFIGS / "rayservice.yaml").read_text(encoding="utf-8"))
    assert (text["apiVersion"], text["kind"]) == ("ray.io/v1", "RayService")
    cluster = text["spec"]["rayClusterConfig"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        [container] = group["template"]["spec"]["containers"]
        environment = {entry["name"]: entry["value"] for entry in container["env"]}
        assert (
            environment["RAY_SERVE_ENABLE_HA_PROXY"] == environment["RAY_SERVE_THROUGHPUT_OPTIMIZED"] == "1"
        )
        assert "empty-response" in environment["RAY_SERVE_HAPROXY_RETRY_ON"]
        mounts = {mount["name"] for mount in container["volumeMounts"]}
        assert mounts == {volume["name"] for volume in group["template"]["spec"]["volumes"]}
    for group in groups[1:]:
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        assert group["maxReplicas"] == group["replicas"] or cluster["enableInTreeAutoscaling"] is True
