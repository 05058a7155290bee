"""What is built and installed: the wheel, the sdist, and to what a generated plugin's requirement resolves."""

from __future__ import annotations

import email
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest
from environments import Environment
from packaging.requirements import Requirement

from harness.plugin import scaffold

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist of the working tree."""
    return build(ROOT, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (file,) = built.glob("*.whl")
    return file


def build(project: Path, folder: Path, *options: str) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder), *options]
    subprocess.run(command, cwd=project, check=True, capture_output=True, text=True)
    return folder


def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_holds_every_module_and_template_and_no_test(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "harness", "plugins"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    expected = {name.removeprefix("plugins/") for name in tracked.stdout.split()}
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names >= expected
    assert {name.split("/")[1] for name in names if name.startswith("harness/")} >= {"build", "data", "py.typed"}
    assert not [name for name in names if name.startswith(("tests/", "results/", "docs/"))]


def test_the_sdist_holds_what_a_packager_needs(built: Path) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True)
    assert names >= set(tracked.stdout.split())


def test_the_metadata_name_licence_author_and_readme(wheel: Path) -> None:
    fields = metadata(wheel)
    assert (fields["Name"], fields["Version"]) == ("compression-harness", version("compression-harness"))
    assert (fields["License-Expression"], fields.get_all("License-File")) == ("Apache-2.0", ["LICENSE"])
    assert fields["Author"]
    assert fields["Description-Content-Type"] == "text/markdown"
    assert "Framework :: Pytest" in fields.get_all("Classifier", [])


def test_every_dependency_has_its_reason() -> None:
    lines = (ROOT / "pyproject.toml").read_text().partition("\ndependencies = [")[2].partition("\n]")[0].splitlines()
    assert len([line for line in lines if line]) == len(PROJECT["dependencies"])
    assert not [line for line in lines if line and not line.partition("# ")[2]]


def test_torch_has_no_upper_bound() -> None:
    (torch,) = [found for found in map(Requirement, PROJECT["dependencies"]) if found.name == "torch"]
    assert [clause.operator for clause in torch.specifier] == [">="]


def test_the_constraints_pin_every_direct_dependency_to_a_version_that_it_allows() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {pin.name.lower(): pin for pin in (Requirement(line) for line in lines if line and line[0] != "#")}
    direct = [
        Requirement(text) for text in [*PROJECT["dependencies"], *EXTRAS["s3"], *EXTRAS["histogram"], *EXTRAS["test"]]
    ]
    for requirement in direct:
        if requirement.name != PROJECT["name"]:
            (clause,) = pins[requirement.name.lower()].specifier
            assert clause.operator == "=="
            assert requirement.specifier.contains(clause.version), requirement


# ------------------------------------------------------------------------------------------- a generated plugin


def empty_wheel(folder: Path, name: str, number: str, module: Mapping[str, str] | None = None) -> None:
    """Write a wheel that holds no more than ``module``, its files by name."""
    stem = f"{name.replace('-', '_')}-{number}"
    files = {
        **(module or {}),
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {number}\n",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{stem}.dist-info/RECORD"])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as archive:
        for file, text in {**files, f"{stem}.dist-info/RECORD": record}.items():
            archive.writestr(file, text)


def test_a_generated_plugin_resolves_to_our_wheel_and_never_to_the_stranger_s(wheel: Path, tmp_path: Path) -> None:
    """pip, in an empty environment, chooses from our wheel, the plugin's, a stranger's ``harness`` 9 and empty ones."""
    index = tmp_path / "index"
    index.mkdir()
    (index / wheel.name).symlink_to(wheel)
    empty_wheel(index, "harness", "9.0", {"stranger.py": ""})
    requirements = map(Requirement, PROJECT["dependencies"])
    for requirement in (entry for entry in requirements if entry.marker is None or entry.marker.evaluate()):
        empty_wheel(index, requirement.name, version(requirement.name).partition("+")[0])
    plugin = scaffold.new("compressor", "low-rank", tmp_path / "plugin").folder
    build(plugin, index, "-t", "wheel")
    (own,) = index.glob("harness_low_rank-*.whl")
    assert metadata(own).get_all("Requires-Dist")[:1] == ["compression-harness>=0.2"]  # type: ignore[index]

    venv.EnvBuilder(symlinks=True, with_pip=False).create(tmp_path / "environment")
    empty = Environment(tmp_path / "environment")
    pip = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--python", str(empty.python)]
    empty.run(*pip, "install", "--quiet", "--no-index", "--find-links", index, "harness-low-rank")
    code = (
        "from importlib.metadata import distributions, distribution as of, entry_points as points\n"
        "names = {found.name for found in distributions()}\n"
        "assert 'compression-harness' in names and 'harness' not in names, names\n"
        f"assert of('compression-harness').version == {version('compression-harness')!r}\n"
        "assert of('compression-harness').locate_file('harness/plugin/manager.py').is_file()\n"
        "assert [point.value for point in points(group='harness', name='low_rank')] == ['harness_low_rank']\n"
    )
    empty.run(empty.python, "-c", code)
