"""Generate: the table of values in README.md and the manifests of the examples, from the charts. Run it after a change:

python helm/generate.py
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import helm_python as helm

HERE: Final = Path(__file__).parent
CHART: Final = HERE / "skillmeter"
LIBRARY: Final = HERE / "skillmeter-lib"
EXAMPLES: Final = HERE / "examples"
README: Final = HERE / "README.md"
BEGIN: Final = "<!-- values: made by generate.py -->"
END: Final = "<!-- end of values -->"

_KEY: Final = re.compile(r"^(?P<indent> *)(?P<key>[A-Za-z]\w*):(?: (?P<value>.*))?$")


def main() -> None:
    """Write what `generated` says."""
    for path, text in generated().items():
        path.write_text(text)


def generated() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    manifests = {folder / "manifest.yaml": manifest(folder / "values.yaml") for folder in examples()}
    before, _, rest = README.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    return {**manifests, README: f"{before}{BEGIN}\n{table()}{END}{after}"}


def examples() -> list[Path]:
    """The folders of the examples."""
    return sorted(path for path in EXAMPLES.iterdir() if path.is_dir())


def load_values(path: Path) -> dict[str, Any]:
    """A file of values, as Helm reads it."""
    return dict(helm.values_from_yaml(path.read_text()))


def render(values: Mapping[str, Any], chart: Path = CHART, name: str = "agent") -> dict[str, str]:
    """The rendered templates that are not empty, notes left out."""
    with helm.Chart.load(str(chart)) as loaded:
        files = loaded.render(dict(values), name=name, namespace="agents")
    return {path: text for path, text in sorted(files.items()) if text.strip() and path.endswith(".yaml")}


def manifest(values: Path) -> str:
    """What Helm would apply for an example."""
    return "".join(f"---\n# {path}\n{text.strip()}\n" for path, text in render(load_values(values)).items())


def table() -> str:
    """All values as a Markdown table."""
    rows = [*described(CHART / "values.yaml", ""), *described(LIBRARY / "values.yaml", "daemon.")]
    lines = [f"| `{key}` | `{value}` | {text.replace('|', chr(92) + '|')} |\n" for key, value, text in rows]
    return "".join(["| value | default | meaning |\n|---|---|---|\n", *lines])


def described(path: Path, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Key, default and meaning of each value that has a `# --` comment above it."""
    above: list[tuple[int, str]] = []
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        found = _KEY.match(line)
        if not found:
            continue
        indent = len(found["indent"])
        above = [*(pair for pair in above if pair[0] < indent), (indent, found["key"])]
        comment = lines[number - 1].strip() if number else ""
        if comment.startswith("# -- "):
            nested = _inline(lines[number + 1 :], indent) if found["value"] is None else found["value"]
            yield prefix + ".".join(key for _, key in above), nested, comment.removeprefix("# -- ")


def _inline(lines: list[str], indent: int) -> str:
    """A nested mapping in one line."""
    parts: list[str] = []
    depth = [indent]
    for line in lines:
        found = _KEY.match(line)
        if not found or len(found["indent"]) <= indent:
            break
        while len(found["indent"]) <= depth[-1]:
            depth.pop()
            parts.append("}")
        depth.append(len(found["indent"]))
        parts.append(f"{found['key']}: {found['value'] or '{'}")
        if found["value"]:
            depth.pop()
    parts += ["}"] * (len(depth) - 1)
    return "{" + ", ".join(parts).replace("{, ", "{").replace(", }", "}") + "}"


if __name__ == "__main__":
    main()
