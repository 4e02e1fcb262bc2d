"""Charts: rendered by Helm's own engine, and looked into."""

import importlib.util
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import helm_python as helm

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "helm" / "skillmeter"
AGENT: Final = {"name": "agent", "image": "agent:1"}

Values = dict[str, Any]

_spec = importlib.util.spec_from_file_location("generate", ROOT / "helm" / "generate.py")
assert _spec is not None
assert _spec.loader is not None
generate = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate)


def values_of(example: str) -> Values:
    """An example's values."""
    return generate.load_values(ROOT / "helm" / "examples" / example / "values.yaml")


def values(**parts: Any) -> Values:
    """The least that the chart takes, with `daemon`, `workload` and so on as given."""
    whole: Values = {"workload": {"pod": {"containers": [deepcopy(AGENT)]}}}
    for part, given in parts.items():
        whole[part] = {**whole.get(part, {}), **given}
    return whole


def render(given: Values, chart: Path = CHART) -> list[dict[str, Any]]:
    """The rendered documents."""
    return [dict(helm.values_from_yaml(text)) for text in generate.render(given, chart).values()]


def pod_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """The pod's specification in what was rendered."""
    for document in documents:
        spec = document.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            return dict(spec["template"]["spec"])
    raise AssertionError("no workload was rendered")


def sidecar_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The daemon's container."""
    return next(container for container in pod["initContainers"] if container["name"] == "skillmeter")


def env_of(container: dict[str, Any]) -> dict[str, str]:
    """A container's environment."""
    return {variable["name"]: variable["value"] for variable in container["env"]}
