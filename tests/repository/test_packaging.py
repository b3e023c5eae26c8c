"""The wheel works without the checkout, and the source distribution holds everything."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SQL_FILES = [
    str(path.relative_to(ROOT))
    for folder in ("schema", "migrations")
    for path in sorted((ROOT / folder).glob("*.sql"))
]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside the checkout and return its output."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        command, check=False, cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a wheel and a source distribution, built without network."""
    directory = tmp_path_factory.mktemp("distributions")
    command = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel"]
    run(*command, "--outdir", directory, ROOT, cwd=directory)
    return directory


@pytest.fixture
def installed(distributions: Path, tmp_path: Path) -> Path:
    """Return the `bin` of a fresh environment with the wheel, beside our dependencies."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    wheel = next(distributions.glob("*.whl"))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    run(*pip, wheel, cwd=tmp_path)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    # Comes after the environment's own packages, and its .pth files (one of which may lead to the
    # checkout) are not followed.
    (Path(site.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python.parent


def test_wheel_holds_the_package_and_its_sql_only(distributions: Path) -> None:
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as wheel:
        names = wheel.namelist()
    assert [name for name in SQL_FILES if f"thincow/_sql/{name}" not in names] == []
    assert {name.split("/")[0].split("-")[0] for name in names} == {"thincow"}
    assert [name for name in names if name.startswith("tests/")] == []


def test_source_distribution_holds_everything(distributions: Path) -> None:
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [*SQL_FILES, "README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE"]
    wanted += ["pyproject.toml", "docs/thincow.1", "tools/test", "tools/demo", ".ci/run"]
    wanted += ["thincow/cli/main.py", "tests/repository/test_packaging.py"]
    assert [name for name in wanted if name not in names] == []


def test_wheel_creates_and_mounts_a_store(installed: Path, tmp_path: Path) -> None:
    origin = run(
        installed / "python", "-c", "import thincow; print(thincow.__file__)", cwd=tmp_path
    )
    assert Path(origin.strip()).is_relative_to(installed.parent)
    thincow = installed / "thincow"
    upstream, store, mount_point = (tmp_path / name for name in ("upstream", "store", "mnt"))
    for directory in (upstream, store, mount_point):
        directory.mkdir()
    contents = os.urandom(3 * 4096 + 100)
    (upstream / "disk").write_bytes(contents)
    run(thincow, "mount", "--upstream", upstream, "--data-dir", store, mount_point, cwd=tmp_path)
    try:
        device = mount_point / "devs" / "disk"
        assert device.read_bytes() == contents
        with device.open("r+b") as file:
            file.write(b"new")
        assert device.read_bytes() == b"new" + contents[3:]
    finally:
        run(thincow, "umount", mount_point, cwd=tmp_path)
    assert (upstream / "disk").read_bytes() == contents
    run(thincow, "fsck", "--data-dir", store, cwd=tmp_path)
