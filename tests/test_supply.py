"""What a release is made of: pinned requirements, licences, the list of what is compiled in, the version."""

import importlib.metadata
import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import samestep as ss

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PINS = sorted((ROOT / "tools").glob("*-requirements.txt"))


def pins(file: Path) -> dict[str, tuple[str, list[str]]]:
    """The version and the hashes of each package."""
    entries = re.split(
        r"\n(?=\w)", re.sub(r"^#.*\n", "", file.read_text(encoding="utf-8"), flags=re.M).strip()
    )
    found = {}
    for entry in entries:
        name, version = re.match(r"([\w.-]+)==(\S+)", entry).groups()
        found[name] = version, re.findall(r"--hash=sha256:([0-9a-f]{64})\b", entry)
    return found


@pytest.mark.parametrize("file", PINS, ids=lambda file: file.name)
def test_every_requirement_is_pinned_by_hash(file):
    pinned = pins(file)
    wanted = file.with_suffix(".in").read_text(encoding="utf-8").splitlines()
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(pinned[requirement.name][0]), requirement
    for name, (_, hashes) in pinned.items():
        assert hashes, name


def test_the_pins_build_what_pyproject_asks_for():
    pinned = pins(ROOT / "tools" / "build-requirements.txt")
    required = re.findall(r'"([^"]+)"', re.search(r"^requires = \[(.*)\]$", PROJECT, re.M)[1])
    assert len(required) == 2
    for requirement in map(Requirement, required):
        assert requirement.specifier.contains(pinned[requirement.name][0]), requirement


def test_both_files_pin_one_version():
    first, second = map(pins, PINS)
    assert {name: first[name] for name in first.keys() & second} == {
        name: second[name] for name in first.keys() & second
    }
    assert "cmake" in first.keys() & second


def test_the_list_of_what_is_compiled_in():
    """Without what CMake fills in; what not every build has, LLVM's runtime and XLA's headers, is a text of
    CMakeLists.txt.
    """
    template = (ROOT / "licenses" / "sbom.cdx.json.in").read_text(encoding="utf-8")
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    filled = template
    for name in ("SBOM_RUNTIME", "SBOM_RUNTIME_REF", "SBOM_XLA", "SBOM_XLA_REF"):
        text = re.search(rf'set\({name} "(.*?[^\\])"\)', cmake, re.S)[1].replace('\\"', '"')
        filled = filled.replace(f"@{name}@", text)
    shown = json.loads(re.sub(r"@\w+@", "1.0", filled))
    assert shown["bomFormat"] == "CycloneDX"
    names = [component["bom-ref"] for component in shown["components"]]
    assert names == shown["dependencies"][0]["dependsOn"] == ["pybind11", "libc++", "xla-ffi"]
    json.loads(re.sub(r"@\w+@", "", template))


def test_what_is_installed_has_licences_and_the_list():
    try:
        distribution = importlib.metadata.distribution("samestep")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("samestep runs from its sources here")
    if Path(distribution.locate_file("samestep")) != Path(ss.__file__).parent:
        pytest.skip("samestep runs from its sources here")
    files = [str(file) for file in distribution.files]
    [listed] = [file for file in distribution.files if str(file).endswith(".dist-info/sboms/sbom.cdx.json")]
    component = json.loads(listed.read_text(encoding="utf-8"))["metadata"]["component"]
    assert (component["name"], component["version"]) == ("samestep", distribution.version)
    for licence in ("LICENSE", *(f"licenses/{file.name}" for file in (ROOT / "licenses").glob("*.txt"))):
        assert any(file.endswith(f".dist-info/licenses/{licence}") for file in files), licence


def test_the_citation_names_this_version():
    version = re.search(r'^version = "(.+)"$', PROJECT, re.M)[1]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
