"""`deploy/`: the image recipe, the manifests for KubeRay, and the file of Ray's cluster launcher.

Kubernetes' own parts (pods, claims, config maps) are checked against its published schemas, which `kubernetes-validate`
ships; the launcher's file against Ray's own schema; the Serve part against Serve's own. KubeRay's schemas are in no
package: `KUBERAY` below is what its API reference (docs of 1.5) says of the fields that we use, and it refuses others.
"""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.autoscaler._private.command_runner import DockerCommandRunner
from ray.autoscaler.sdk import fillout_defaults
from ray.scripts.scripts import drain_node

from l2l_ray.actors.cluster import needs, shortage
from l2l_ray.actors.environment import ENV_DEFAULTS
from l2l_ray.config import RunConfig, load_config

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = "1.31"  # the oldest whose users we expect


def _object(required: str = "", **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


_TEXT, _COUNT, _SWITCH = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_GROUP = {"rayStartParams": _TEXTS, "template": _object("spec", spec={"type": "object"}, metadata={"type": "object"})}
_CLUSTER = _object(
    "headGroupSpec",
    rayVersion=_TEXT,
    authOptions=_object(mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=_SWITCH,
    autoscalerOptions=_object(idleTimeoutSeconds=_COUNT),
    headGroupSpec=_object("template rayStartParams", **_GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": _object(
            "groupName template", groupName=_TEXT, replicas=_COUNT, minReplicas=_COUNT, maxReplicas=_COUNT, **_GROUP
        ),
    },
)
KUBERAY = {
    "RayJob": _object(
        "entrypoint rayClusterSpec",
        entrypoint=_TEXT,
        backoffLimit=_COUNT,
        submitterConfig=_object(backoffLimit=_COUNT),
        shutdownAfterJobFinishes=_SWITCH,
        ttlSecondsAfterFinished=_COUNT,
        rayClusterSpec=_CLUSTER,
    ),
    "RayService": _object("serveConfigV2 rayClusterConfig", serveConfigV2=_TEXT, rayClusterConfig=_CLUSTER),
}


def _manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted((DEPLOY / "kuberay").glob("*.yaml")):
        for content in yaml.safe_load_all(path.read_text()):
            yield path.name, content


def _only(kind: str) -> dict[str, Any]:
    return next(content for _, content in _manifests() if content["kind"] == kind)


def _cluster(kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = _only(kind)["spec"]
    return spec.get("rayClusterSpec") or spec["rayClusterConfig"]


def _groups(kind: str) -> list[dict[str, Any]]:
    cluster = _cluster(kind)
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _pods() -> list[dict[str, Any]]:
    return [group["template"]["spec"] for kind in KUBERAY for group in _groups(kind)]


def test_what_is_kubernetes_own_fits_its_schemas() -> None:
    own = [content for _, content in _manifests() if not content["apiVersion"].startswith("ray.io/")]
    assert {content["kind"] for content in own} == {"ConfigMap", "PersistentVolumeClaim"}
    pods = [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod} for pod in _pods()]
    for content in [*own, *pods]:
        kubernetes_validate.validate(content, KUBERNETES, strict=True)


@pytest.mark.parametrize("kind", KUBERAY)
def test_what_is_kuberays_fits_its_api_reference(kind: str) -> None:
    content = _only(kind)
    assert content["apiVersion"] == "ray.io/v1" and re.fullmatch(r"[a-z0-9-]{1,47}", content["metadata"]["name"])
    jsonschema.validate(content["spec"], KUBERAY[kind])
    misspelt = {**content["spec"], "backofLimit": 0}
    with pytest.raises(jsonschema.ValidationError, match="backofLimit"):
        jsonschema.validate(misspelt, KUBERAY[kind])


def test_a_job_that_is_applied_again_goes_on_and_kuberay_never_repeats_it_by_itself() -> None:
    spec = _only("RayJob")["spec"]
    assert spec["submitterConfig"]["backoffLimit"] == 0 and spec["backoffLimit"] == 0
    program, script, *words = spec["entrypoint"].split()
    assert program == "python" and (ROOT / Path(script).relative_to("/opt/l2l")).exists()
    assert "--resume_if_begun" in words


def test_the_run_of_the_job_fits_the_nodes_that_may_come(tmp_path: Path) -> None:
    config = _job_config(tmp_path)
    assert config.cluster.autoscaled and config.resume_if_begun
    assert shortage(needs(config.cluster), list(_ray_nodes(_cluster("RayJob")))) is None
    launcher = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())["available_node_types"].values()
    nodes = [kind["resources"] for kind in launcher for _ in range(kind.get("max_workers", 1))]
    assert shortage(needs(config.cluster), nodes) is None


def _job_config(tmp_path: Path) -> RunConfig:
    """Return the config that the job's command makes of the manifest's own file."""
    file = tmp_path / "run.yaml"
    file.write_text(_only("ConfigMap")["data"]["run.yaml"])
    words = _only("RayJob")["spec"]["entrypoint"].split()[2:]
    return load_config([str(file) if word == "/etc/l2l/run.yaml" else word for word in words])


def _ray_nodes(cluster: dict[str, Any]) -> Iterator[dict[str, float]]:
    """Give the resources of every node that may come, as Ray will count them."""
    for group in cluster["workerGroupSpecs"]:
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        custom = json.loads(json.loads(group["rayStartParams"]["resources"]))
        for _ in range(group["maxReplicas"]):
            yield {"CPU": float(limits["cpu"]), "GPU": float(limits["nvidia.com/gpu"]), **custom}


def test_groups_start_at_zero_and_only_labelers_are_on_machines_that_may_leave(tmp_path: Path) -> None:
    groups = {group["groupName"]: group for group in _cluster("RayJob")["workerGroupSpecs"]}
    assert all(group["replicas"] == group["minReplicas"] == 0 for group in groups.values())
    spot = {name for name, group in groups.items() if "nodeSelector" in group["template"]["spec"]}
    cluster = _job_config(tmp_path).cluster
    assert spot == {"may-leave"}
    assert "may_leave" in cluster.labeler_resources
    assert "steady" in cluster.prior_resources and "steady" in cluster.worker_resources
    assert not {"may_leave"} & {*cluster.prior_resources, *cluster.worker_resources}


def test_ray_is_told_before_a_trainers_pod_ends() -> None:
    (steady,) = (group for group in _cluster("RayJob")["workerGroupSpecs"] if group["groupName"] == "steady")
    pod = steady["template"]["spec"]
    (command,) = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][2:]
    drain, _, wait = command.partition("; ")
    assert int(wait.removeprefix("sleep ")) < pod["terminationGracePeriodSeconds"]
    program, subcommand, *options = shlex.split(drain)
    parsed = drain_node.make_context(subcommand, options)  # an option that Ray does not know would end here
    assert program == "ray" and parsed.params["reason"] == "DRAIN_NODE_REASON_PREEMPTION"


def test_every_node_has_the_shared_storage_the_token_and_no_rights() -> None:
    claim = _only("PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert all(_cluster(kind)["authOptions"]["mode"] == "token" for kind in KUBERAY)
    for pod in _pods():
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/l2l", "/tmp/ray", "/dev/shm"}
        assert volumes["storage"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert "sizeLimit" in volumes["ray"]["emptyDir"], "Ray's temporary files are bounded"
        assert pod["securityContext"]["runAsNonRoot"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_the_manifests_name_the_ray_that_the_image_holds() -> None:
    assert {f"ray=={_cluster(kind)['rayVersion']}" for kind in KUBERAY} <= set(_lock().splitlines())


def _lock() -> str:
    return (ROOT / "requirements.lock").read_text()


@pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")  # Ray Serve's own, at import
def test_the_service_is_what_ray_serve_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    deploy = ServeDeploySchema.model_validate(yaml.safe_load(_only("RayService")["spec"]["serveConfigV2"]))
    (app,) = deploy.applications
    module, _, name = app.import_path.partition(":")
    ours = importlib.import_module(module)
    assert callable(getattr(ours, name)) and app.name == ours.APP
    assert [deployment.name for deployment in app.deployments] == [ours.PREDICTOR]
    ours.BuildArgs.model_validate(app.args)


def test_the_launchers_file_fits_rays_schema() -> None:
    content = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    jsonschema.validate(content, json.loads((files("ray.autoscaler") / "ray-schema.json").read_text()))
    kinds = content["available_node_types"]
    assert content["head_node_type"] in kinds
    assert all(kind.get("min_workers", 0) == 0 for kind in kinds.values())
    assert [name for name, kind in kinds.items() if "InstanceMarketOptions" in kind["node_config"]] == ["may-leave"]
    assert all("RAY_AUTH_MODE=token" in content[f"{role}_start_ray_commands"][-1] for role in ("head", "worker"))


class _Remembers:
    """Stands for the launcher's subprocesses: notes what would be run; the container is up, with the image it wants."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def check_call(self, command: list[str], **_: Any) -> None:
        self.commands.append(command)

    def check_output(self, command: list[str], **_: Any) -> bytes:
        self.commands.append(command)
        answers = {"command -v docker": b"/usr/bin/docker", "State.Running": b"true", "printenv HOME": b"/home/l2l"}
        return next((answer for words, answer in answers.items() if words in command[-1]), b"[]")

    def external_ip(self, _: str) -> str:  # of the provider
        return "10.0.0.1"


def test_what_rays_launcher_calls_is_in_the_image() -> None:
    content, remembers = yaml.safe_load((DEPLOY / "cluster.yaml").read_text()), _Remembers()
    runner = DockerCommandRunner(
        content["docker"],
        log_prefix="",
        node_id="x",
        provider=remembers,
        auth_config=content["auth"],
        cluster_name="l2l",
        process_runner=remembers,
        use_internal_ip=False,
    )
    mounts = {"~/ray_bootstrap_config.yaml": "/tmp/config.yaml", "~/ray_bootstrap_key.pem": "/tmp/key.pem"}
    runner.run_init(as_head=True, file_mounts=mounts, sync_run_yet=False)
    assert any(re.search("rsync -e .*docker exec -i", command[-1]) for command in remembers.commands), (
        "to the container"
    )
    called = {command[0] for command in remembers.commands}  # for workers by the autoscaler in the head's container
    assert called == {"ssh", "rsync"}
    assert {"openssh-client", "rsync"} <= _debian_packages()


def test_the_launcher_installs_nothing_and_what_it_would_is_in_the_image() -> None:
    content = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    ours = fillout_defaults(content)
    kinds = ("setup_commands", "head_setup_commands", "worker_setup_commands")
    assert not any(ours[kind] for kind in kinds)
    rays = fillout_defaults({name: value for name, value in content.items() if name not in kinds})
    assert any("which ray || pip install" in command for command in rays["setup_commands"]), "a Ray of its own"
    wanted = re.findall(r"pip install '?(\w+)", " ".join(rays["head_setup_commands"]))
    assert wanted == ["boto3"] and " boto3" in _pip_installs()[-1]
    versions = dict(line.split("==") for line in _lock().splitlines())
    assert versions["boto3"] == versions["botocore"], "released together"
    assert "s3transfer" in versions


def test_login_shells_find_ray() -> None:
    _, path, after = _recipe().partition("ENV PATH=/opt/l2l/.venv/bin:$PATH\n")
    assert path and 'RUN echo "PATH=$PATH" > /etc/profile.d/l2l.sh\n' in after


def test_the_images_user_may_write_to_the_launchers_storage() -> None:
    content = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    (user,) = re.findall(r"^USER (\S+)$", _recipe(), re.MULTILINE)
    assert "--volume /l2l:/l2l" in content["docker"]["run_options"]
    assert content["initialization_commands"][-1] == f"sudo chown {user}:{user} /l2l"


def _recipe() -> str:
    return (DEPLOY / "Dockerfile").read_text()


def _debian_packages() -> set[str]:
    (packages,) = re.findall(r"apt-get install -y --no-install-recommends (.+) \\\n", _recipe())
    return set(packages.split())


def _pip_installs() -> list[str]:
    return re.findall(r"RUN \.venv/bin/pip install --no-cache-dir (.+)$", _recipe(), re.MULTILINE)


def test_the_image_recipe_passes_the_linter() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    found = subprocess.run([linter, DEPLOY / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0 and not found.stdout, found.stdout + found.stderr


def test_the_image_holds_only_what_is_there_and_let_through() -> None:
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", _recipe(), re.MULTILINE) for word in line.split()]
    assert copied and all((ROOT / word).exists() for word in copied)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored and sorted(line[1:] for line in ignored if line.startswith("!")) == sorted(copied)


def test_the_image_is_installed_as_the_documents_say() -> None:
    said = re.findall(r"^\.venv/bin/pip install (.+)$", (ROOT / "docs" / "install.md").read_text(), re.MULTILINE)
    plain = [re.sub(r"\$\{TORCH_INDEX:\+[^}]+\} ", "", line) for line in _pip_installs()]
    assert plain == [said[0], said[1].replace("-e ", "").replace(",dev", "") + " boto3"]


def test_a_stopped_job_has_as_long_in_the_image_as_elsewhere() -> None:
    name = "RAY_JOB_STOP_WAIT_TIME_S"
    assert re.findall(rf"\b{name}=(\S+)", _recipe()) == [ENV_DEFAULTS[name]]
    launcher = yaml.safe_load((DEPLOY / "cluster.yaml").read_text())
    images = {container["image"] for pod in _pods() for container in pod["containers"]} | {launcher["docker"]["image"]}
    assert images == {"l2l-ray:gpu"}, "every node is of it"


def test_nobody_in_the_image_is_root_and_nothing_in_it_is_secret() -> None:
    assert re.findall(r"^USER (\S+)$", _recipe(), re.MULTILINE) == ["1000"]
    assert all(pod["securityContext"]["runAsUser"] == 1000 for pod in _pods())
    files = [path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    everything = "\n".join(path.read_text() for path in files)
    assert not re.search(r"(?i)(password|secret_?key|api_?key|auth_token)\s*[:=]\s*[^\s~]", everything)
