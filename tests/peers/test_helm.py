"""The charts, in Helm's own engine: what they refuse, what they render, and that it is what Kubernetes takes."""

import contextlib
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import helm_python as helm
import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from skillmeter._version import __version__
from skillmeterd import shipped
from skillmeterd.config import DaemonSettings

from .charts import AGENT, CHART, ROOT, Values, env_of, generate, pod_of, render, sidecar_of, values, values_of

LIBRARY: Final = ROOT / "helm" / "skillmeter-lib"
EXAMPLES: Final = sorted(path.name for path in (ROOT / "helm" / "examples").iterdir())
NEWEST: Final = int(kubernetes_validate.latest_version().split(".")[1])
KINDS_OF_OTHERS: Final = ("PodMonitor", "PrometheusRule")  # Kubernetes itself has no schema of these


# Generated files, lint, schemas.


def test_readme_and_manifests_are_current() -> None:
    """The table of values and the examples' manifests are what the charts say today."""
    stale = [str(path) for path, text in generate.generated().items() if not path.exists() or path.read_text() != text]
    assert not stale, "run python helm/generate.py"


def test_every_value_is_described() -> None:
    """The table has every value that the schema of the daemon knows."""
    described = {key for key, _, _ in generate.described(LIBRARY / "values.yaml", "")}
    known = set()
    for name, schema in json.loads((LIBRARY / "values.schema.json").read_text())["properties"].items():
        nested = schema.get("properties") if name not in ("resources",) else None
        known |= {f"{name}.{key}" for key in nested} if nested else {name}
    assert described == known - {"global"}


def test_versions_are_the_packages() -> None:
    """Both charts, and the image that they name, are of this version."""
    for chart in (CHART, LIBRARY):
        meta = helm.values_from_yaml((chart / "Chart.yaml").read_text())
        assert (meta["version"], meta["appVersion"]) == (__version__, __version__)
    assert sidecar_of(pod_of(render(values())))["image"] == f"skillmeter:{__version__}"


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("version", ["v1.29.0", f"v1.{NEWEST}.0"])
def test_lint_finds_nothing(example: str, version: str) -> None:
    """Strict lint has no warning and no error over an example; that it recommends an icon is only information."""
    report = helm.lint(str(CHART), values_of(example), strict=True, kube_version=version)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


def test_lint_finds_nothing_in_the_library() -> None:
    """The library chart passes strict lint by itself."""
    report = helm.lint(str(LIBRARY), strict=True)
    assert report["errors"] == []
    assert [message for message in report["messages"] if message["severity"] > 1] == []


@pytest.mark.parametrize("minor", range(29, NEWEST + 1))
def test_manifests_are_valid(minor: int) -> None:
    """Every document of every example is valid by the strict schemas of each Kubernetes from 1.29 on."""
    for example in EXAMPLES:
        for document in render(values_of(example)):
            if document["kind"] not in KINDS_OF_OTHERS:
                kubernetes_validate.validate(document, f"1.{minor}", strict=True)


WRONG: Final[list[tuple[str, Values]]] = [
    ("/http/port", {"daemon": {"http": {"port": 80}}}),
    ("/http/port", {"daemon": {"http": {"port": "9464"}}}),
    ("/http/host", {"daemon": {"http": {"host": "127.0.0.1"}}}),
    ("'logLvl'", {"daemon": {"logLvl": "debug"}}),
    ("/logLevel", {"daemon": {"logLevel": "verbose"}}),
    ("/backend", {"daemon": {"backend": "postgres"}}),
    ("/backend", {"daemon": {"backend": "prometheus,"}}),
    ("/otlp/endpoint", {"daemon": {"backend": "otlp"}}),
    ("/otlp/endpoint", {"daemon": {"otlp": {"endpoint": "collector:4318"}}}),
    ("/otlp/endpoint", {"daemon": {"otlp": {"endpoint": "https://otlp.example.org/v1/metrics"}}}),
    ("/otlp/pushInterval", {"daemon": {"otlp": {"pushInterval": 0}}}),
    ("/tokens/otlpToken", {"daemon": {"otlp": {"endpoint": "https://o.example.org", "instanceId": "1"}}}),
    ("/tokens/httpToken", {"daemon": {"tokens": {"httpToken": "http-token"}}}),
    ("'token'", {"daemon": {"tokens": {"token": "s3cret"}}}),
    ("/storage/kind", {"daemon": {"storage": {"kind": "hostPath"}}}),
    ("/storage/size", {"daemon": {"storage": {"size": "10 GB"}}}),
    ("/storage/accessMode", {"daemon": {"storage": {"accessMode": "ReadWriteMany"}}}),
    ("/spool/sizeLimit", {"daemon": {"spool": {"sizeLimit": "lots"}}}),
    ("/spoolMaxBytes", {"daemon": {"spoolMaxBytes": "64 bananas"}}),
    ("/retentionDays", {"daemon": {"retentionDays": -1}}),
    ("/metricLabels", {"daemon": {"metricLabels": "org_id"}}),
    ("/maxSeries", {"daemon": {"maxSeries": 0}}),
    ("/durability", {"daemon": {"durability": "full"}}),
    ("/image/digest", {"daemon": {"image": {"digest": "latest"}}}),
    ("/image/repository", {"daemon": {"image": {"repository": ""}}}),
    ("/image/pullPolicy", {"daemon": {"image": {"pullPolicy": "Sometimes"}}}),
    ("/user/id", {"daemon": {"user": {"id": 0}}}),
    ("/user/group", {"daemon": {"user": {"group": 0}}}),
    ("/probes/startup", {"daemon": {"probes": {"startup": "yes"}}}),
    ("/probes/startupSeconds", {"daemon": {"probes": {"startupSeconds": 0}}}),
    ("/drainSeconds", {"daemon": {"drainSeconds": 1}}),
    ("/extraEnv/0/name", {"daemon": {"extraEnv": [{"name": "OTLP_TOKEN", "value": "s3cret"}]}}),
    ("/workload/kind", {"workload": {"kind": "Pod"}}),
    ("/workload/replicas", {"workload": {"replicas": -1}}),
    ("/workload/pod/containers", {"workload": {"pod": {"containers": []}}}),
    ("/workload/pod/containers/0/name", {"workload": {"pod": {"containers": [{"name": "skillmeter", "image": "x"}]}}}),
    ("/workload/spec", {"workload": {"spec": {"template": {}}}}),
    ("'schedule'", {"workload": {"kind": "CronJob"}}),
    ("'restartPolicy'", {"workload": {"kind": "Job"}}),
    ("/podMonitor/interval", {"podMonitor": {"interval": "often"}}),
    ("/networkPolicy/scrapeFrom/0", {"networkPolicy": {"scrapeFrom": [{}]}}),
    ("'prometheusRules'", {"prometheusRules": {"enabled": True}}),
    ("workload.replicas", {"workload": {"replicas": 2}, "daemon": {"storage": {"kind": "persistentVolumeClaim"}}}),
    (
        "daemon.storage.kind",
        {"workload": {"kind": "DaemonSet"}, "daemon": {"storage": {"kind": "persistentVolumeClaim"}}},
    ),
    ('no container named "agnet"', {"daemon": {"containers": ["agnet"]}}),
]


@pytest.mark.parametrize(
    ("named", "wrong"), WRONG, ids=[f"{number}-{named}" for number, (named, _) in enumerate(WRONG)]
)
def test_a_wrong_value_is_refused_by_name(named: str, wrong: Values) -> None:
    """A mistake is refused before anything reaches the cluster, with a message that names the value."""
    render(values())
    with pytest.raises(helm.HelmError) as refused:
        render(values(**wrong))
    assert named in str(refused.value)
    assert "s3cret" not in str(refused.value)


def test_a_name_of_a_container_is_found_among_init_containers() -> None:
    """`containers` may name an init container; those that it leaves out are left as they are."""
    migrate = {"name": "migrate", "image": "agent:1"}
    given = values(
        workload={"pod": {"containers": [AGENT], "initContainers": [migrate]}}, daemon={"containers": ["migrate"]}
    )
    pod = pod_of(render(given))
    assert [container["name"] for container in pod["initContainers"]] == ["skillmeter", "migrate"]
    assert "ANALYTICS_SPOOL_DIR" in env_of(pod["initContainers"][1])
    assert "env" not in pod["containers"][0]


# Installing.


class _Cluster(http.server.BaseHTTPRequestHandler):
    """As much of an API server as Helm asks before it decides whether a chart fits."""

    minor = 0

    def do_GET(self) -> None:
        answers = {
            "/version": {"major": "1", "minor": str(self.minor), "gitVersion": f"v1.{self.minor}.0"},
            "/api": {"kind": "APIVersions", "versions": ["v1"]},
            "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
            "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
        }
        answer = answers.get(self.path.partition("?")[0])
        body = json.dumps(answer or {}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def cluster(minor: int) -> Iterator[str]:
    """The address of something that says it is Kubernetes 1.`minor`."""
    handler = type("Cluster", (_Cluster,), {"minor": minor})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def install(given: Values, address: str, dry_run: str) -> dict[str, Any]:
    """What Helm says of an installation that it does not carry out."""
    config = helm.Config(kube_apiserver=address, namespace="agents", storage_driver="memory")
    try:
        with helm.Chart.load(str(CHART)) as chart:
            return dict(config.install(chart, "agent", given, dry_run=dry_run))
    finally:
        config.close()


def test_kubernetes_before_native_sidecars_is_refused() -> None:
    """1.28 is refused for its version; 1.29 gets as far as its API, which is none here."""
    with cluster(28) as address, pytest.raises(helm.HelmError, match=r"requires kubeVersion: >=1\.29"):
        install(values(), address, "server")
    with cluster(29) as address, pytest.raises(helm.HelmError) as refused:
        install(values(), address, "server")
    assert "kubeVersion" not in str(refused.value)


@pytest.mark.parametrize("example", EXAMPLES)
def test_install_renders_the_manifest_and_the_notes(example: str) -> None:
    """A client-side install makes what render makes, and its notes say what becomes of the database."""
    given = values_of(example)
    release = install(given, "http://127.0.0.1:1", "client")
    storage = given.get("daemon", {}).get("storage", {}).get("kind", "emptyDir")
    assert ("THE DATABASE ENDS WITH THE POD" in release["notes"]) is (storage == "emptyDir")
    for text in generate.render(given).values():
        assert text.strip() in release["manifest"]


def test_the_chart_has_the_shipped_dashboard_rules_and_alerts() -> None:
    """Not copies of its own: the files of the daemon's package, whole."""
    documents = render(values(dashboard={"enabled": True}, prometheusRule={"enabled": True}))
    (board,) = [text for one in documents if one["kind"] == "ConfigMap" for text in one["data"].values()]
    assert json.loads(board) == shipped.dashboard("prometheus")
    (rules,) = [one["spec"]["groups"] for one in documents if one["kind"] == "PrometheusRule"]
    files = [dict(helm.values_from_yaml(shipped.text(name))) for name in ("rules.yml", "alerts.yml")]
    assert rules == [group for file in files for group in file["groups"]]


def test_the_package_renders_the_same(tmp_path: Path) -> None:
    """The .tgz holds the library, rules and dashboard too, and is worth as much as the folder."""
    package = Path(helm.package(str(CHART), destination=str(tmp_path)))
    for example in EXAMPLES:
        assert generate.render(values_of(example), package) == generate.render(values_of(example))


# What is rendered.

ALLOWED_VOLUMES: Final = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}


def violations(pod: dict[str, Any]) -> Iterator[str]:
    """What the restricted Pod Security Standard has against a pod."""
    yield from (key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key))
    for volume in pod.get("volumes", []):
        yield from (f"volume {key}" for key in volume.keys() - {"name"} - ALLOWED_VOLUMES)
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        context = container.get("securityContext", {})
        both = {**pod.get("securityContext", {}), **context}
        name = container["name"]
        checks = {
            "privileged": not context.get("privileged"),
            "allowPrivilegeEscalation": context.get("allowPrivilegeEscalation") is False,
            "capabilities": context.get("capabilities") == {"drop": ["ALL"]},
            "runAsNonRoot": both.get("runAsNonRoot") is True and both.get("runAsUser") != 0,
            "seccompProfile": both.get("seccompProfile", {}).get("type") == "RuntimeDefault",
            "hostPort": not any("hostPort" in port for port in container.get("ports", [])),
        }
        yield from (f"{name}: {check}" for check, is_kept in checks.items() if not is_kept)


@pytest.mark.parametrize("example", EXAMPLES)
def test_pods_are_restricted(example: str) -> None:
    """Every example meets the restricted Pod Security Standard; the daemon's root file system is read-only as well."""
    pod = pod_of(render(values_of(example)))
    assert list(violations(pod)) == []
    assert sidecar_of(pod)["securityContext"]["readOnlyRootFilesystem"] is True


def test_a_loose_pod_would_be_noticed() -> None:
    """Without `restricted` and the pod's own context, the check above has something to say."""
    pod = pod_of(render(values(workload={"restricted": False, "pod": {"containers": [AGENT], "hostNetwork": True}})))
    assert {"hostNetwork", "agent: capabilities"} <= set(violations(pod))


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_daemon_comes_first_and_ends_last(example: str) -> None:
    """It is the first init container, kept running, and has time after the application's grace period."""
    given = values_of(example)
    pod = pod_of(render(given))
    assert (pod["initContainers"][0]["name"], pod["initContainers"][0]["restartPolicy"]) == ("skillmeter", "Always")
    own = given["workload"]["pod"].get("terminationGracePeriodSeconds", 30)
    assert pod["terminationGracePeriodSeconds"] == own + 15


def test_probes_ask_the_port_that_is_served() -> None:
    """Startup and liveness by default, readiness on request; over HTTP, as the image need not have a shell."""
    sidecar = sidecar_of(pod_of(render(values(daemon={"probes": {"readiness": True}}))))
    asked = {name: sidecar[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {get["port"] for get in asked.values()} == {sidecar["ports"][0]["name"]} == {"skillmeter"}
    assert str(sidecar["ports"][0]["containerPort"]) == env_of(sidecar)["PROMETHEUS_PORT"]
    assert [get["path"] for get in asked.values()] == ["/healthz", "/healthz", "/readyz"]
    assert "readinessProbe" not in sidecar_of(pod_of(render(values())))


def test_no_probe_ends_a_long_start() -> None:
    """To bring a large database up to date may take an hour, or as long as is said, with a startup probe or without."""
    sidecar = sidecar_of(pod_of(render(values())))
    startup = sidecar["startupProbe"]  # while it has not succeeded, the kubelet does not ask whether the daemon lives
    assert startup["periodSeconds"] * startup["failureThreshold"] == 3600
    assert "initialDelaySeconds" not in sidecar["livenessProbe"]
    longer = {"startupSeconds": 86400}
    startup = sidecar_of(pod_of(render(values(daemon={"probes": longer}))))["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 86400
    sidecar = sidecar_of(pod_of(render(values(daemon={"probes": {**longer, "startup": False}}))))
    assert "startupProbe" not in sidecar
    assert sidecar["livenessProbe"]["initialDelaySeconds"] == 86400


def test_the_pods_own_word_stands() -> None:
    """An fsGroup, a variable and a grace period that the application has are kept."""
    own = {**AGENT, "env": [{"name": "ANALYTICS_BACKEND", "value": "sqlite"}]}
    given = {"containers": [own], "securityContext": {"fsGroup": 4000}, "terminationGracePeriodSeconds": 0}
    pod = pod_of(render(values(workload={"pod": given})))
    assert pod["securityContext"]["fsGroup"] == 4000
    assert pod["terminationGracePeriodSeconds"] == 15
    assert [
        variable["value"] for variable in pod["containers"][0]["env"] if variable["name"] == "ANALYTICS_BACKEND"
    ] == ["sqlite"]


def test_tokens_are_files_of_the_secret() -> None:
    """No token is in the manifest: each variable names a file, and each file is a key of the Secret."""
    pod = pod_of(render(values_of("guarded")))
    (volume,) = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    files = {f"/etc/skillmeter/tokens/{item['path']}": item["key"] for item in volume["items"]}
    env = env_of(sidecar_of(pod))
    assert files == {env["ANALYTICS_HTTP_TOKEN_FILE"]: "http-token", env["OTLP_TOKEN_FILE"]: "otlp-token"}
    assert volume["defaultMode"] == 0o440
    assert not {"ANALYTICS_HTTP_TOKEN", "OTLP_TOKEN"} & set(env)


def test_extras_are_off_until_asked_for() -> None:
    """By default there is the workload alone; the guarded example has the rest, and the package's rules."""
    assert [document["kind"] for document in render(values())] == ["Deployment"]
    documents = {document["kind"]: document for document in render(values_of("guarded"))}
    assert set(documents) == {"ConfigMap", "Deployment", "NetworkPolicy", "PodMonitor", "PrometheusRule"}
    assert json.loads(documents["ConfigMap"]["data"]["skillmeter.json"])["uid"]
    rules = [rule for group in documents["PrometheusRule"]["spec"]["groups"] for rule in group["rules"]]
    assert {"toolweaver_skill_latency_milliseconds"} <= {rule.get("record") for rule in rules}
    assert any("alert" in rule for rule in rules)
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, key in (("NetworkPolicy", "podSelector"), ("PodMonitor", "selector")):
        assert documents[kind]["spec"][key]["matchLabels"].items() <= labels.items()


def test_a_claim_has_one_pod() -> None:
    """A Deployment ends a pod before the next starts, a StatefulSet has one for each, CronJobs do not overlap."""
    claim, deployment = render(values_of("persistent"))
    assert deployment["spec"]["strategy"] == {"type": "Recreate"}
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    names = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod_of([deployment])["volumes"]]
    assert claim["metadata"]["name"] in names
    (stateful,) = render(values_of("statefulset"))
    assert stateful["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "skillmeter-data"
    assert "skillmeter-data" not in [volume["name"] for volume in pod_of([stateful])["volumes"]]
    (cron,) = render(values_of("cronjob"))
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"


LIBRARY_USER: Final = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .Release.Name }}
spec:
  selector:
    matchLabels: {app: mine}
  template:
    metadata:
      labels: {app: mine}
    spec:
      {{- $pod := dict "containers" (list (dict "name" "agent" "image" "agent:1")) }}
      {{- include "skillmeter-lib.pod" (dict "pod" $pod "values" .Values.skillmeter "claim" "") | nindent 6 }}
"""


def test_a_chart_of_ones_own_can_use_the_library(tmp_path: Path) -> None:
    """A chart that depends on the library under an alias gets its defaults, its schema and the same pod."""
    chart = tmp_path / "mine"
    (chart / "templates").mkdir(parents=True)
    (chart / "templates" / "deployment.yaml").write_text(LIBRARY_USER)
    dependency = f"{{name: skillmeter-lib, alias: skillmeter, version: {__version__}, repository: 'file://lib'}}"
    (chart / "Chart.yaml").write_text(f"apiVersion: v2\nname: mine\nversion: 9.9.9\ndependencies: [{dependency}]\n")
    shutil.copytree(LIBRARY, chart / "charts" / "skillmeter-lib")
    (document,) = render({"skillmeter": {"logLevel": "debug"}}, chart)
    kubernetes_validate.validate(document, "1.29", strict=True)
    theirs, ours = sidecar_of(pod_of([document])), sidecar_of(pod_of(render(values(daemon={"logLevel": "debug"}))))
    assert theirs == ours
    with pytest.raises(helm.HelmError, match="/logLevel"):
        render({"skillmeter": {"logLevel": "loud"}}, chart)


def test_every_path_of_the_daemon_is_on_a_mount() -> None:
    """With a read-only root file system nothing may be outside of the volumes; settings and folders agree."""
    pod = pod_of(render(values_of("guarded")))
    sidecar = sidecar_of(pod)
    mounts = {mount["mountPath"]: mount["name"] for mount in sidecar["volumeMounts"]}
    settings = DaemonSettings.from_environment(
        {name: value for name, value in env_of(sidecar).items() if not name.endswith("_FILE")} | {"OTLP_TOKEN": "t"}
    )
    assert {str(settings.runtime_dir), str(settings.spool_dir), str(settings.db_path.parent)} <= set(mounts)
    assert set(mounts.values()) <= {volume["name"] for volume in pod["volumes"]}
    app = pod["containers"][0]
    for name in ("ANALYTICS_RUNTIME_DIR", "ANALYTICS_SPOOL_DIR"):
        assert env_of(app)[name] == env_of(sidecar)[name]
