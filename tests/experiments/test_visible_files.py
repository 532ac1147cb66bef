"""Files that a program in the sandbox sees, and files that are hidden from it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from maskdiff.errors import ConfigError
from maskdiff.experiments.distillation.sandbox import program_setup
from maskdiff.experiments.distillation.sandbox import run as sandbox
from maskdiff.experiments.distillation.sandbox.run import (
    ProgramSetup,
    ResourceLimits,
    RunStatus,
    run_program,
)
from tests.helpers.paths import REPOSITORY
from tests.helpers.sandbox import QUICK, REASON, attack, isolated

# Files of ours.


@pytest.mark.slow
@isolated
def test_installed_packages_are_unreadable_unless_asked_for() -> None:
    folders = program_setup.covered_paths()
    library = os.path.dirname(os.path.realpath(os.__file__))
    assert (
        any(os.path.dirname(folder) == library for folder in folders)
        or not Path(library, "site-packages").exists()
    )
    for folder in folders:
        assert attack(f"print(os.listdir({folder!r}))").status is RunStatus.FILE_DENIED
    search = """
found = []
for folder, folders, names in (step for top in ("/", *sys.path[1:]) for step in os.walk(top)):
    if "/proc" not in folder and ("-packages/" in folder + "/" or "maskdiff" in folder):
        found += [os.path.join(folder, name) for name in names]
print(found[:3], len(os.listdir(os.path.dirname(os.__file__))) > 100)
"""
    assert attack(search).stdout == "[] True\n"
    names = ("pytest", "numpy", "maskdiff", "pip", "setuptools")
    imports = "".join(
        f"try:\n    import {name}\nexcept ModuleNotFoundError:\n    missing += 1\n"
        for name in names
    )
    assert attack(f"missing = 0\n{imports}print(missing)").stdout == f"{len(names)}\n"


@pytest.mark.slow
@isolated
def test_a_package_asked_for_is_shown_alone() -> None:
    pytest.importorskip("iniconfig")
    setup = ProgramSetup(packages=("iniconfig",))
    names = "[name for name in os.listdir('/packages') if '-' not in name]"
    program = f"import iniconfig\nprint(iniconfig.__file__, {names})"
    result = attack(program, setup=setup)
    assert result.stdout == "/packages/iniconfig/__init__.py ['iniconfig']\n", result.stderr
    assert "ModuleNotFoundError" in attack("import pytest", setup=setup).stderr
    assert (
        attack("open('/packages/iniconfig/new', 'w')", setup=setup).status is RunStatus.FILE_DENIED
    )
    here = run_program("import iniconfig\nprint(iniconfig.__name__)", "", QUICK, "none", setup)
    assert here.stdout == "iniconfig\n", here.stderr


def test_the_files_of_a_package_are_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two share a folder; one has a single file, one compiled parts apart, one is a link."""

    def install(name: str, *files: str) -> None:
        record = tmp_path / f"{name}-1.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Name: {name}\nVersion: 1\n")
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
        listed = [*files, f"{record.name}/METADATA", f"{record.name}/RECORD", "../../bin/tool"]
        (record / "RECORD").write_text("".join(f"{file},,\n" for file in listed))

    install("one", "shared/one/__init__.py", "shared/one/more/x.py", "shared/one.py")
    install("two", "shared/two/__init__.py", "two.libs/a.so", "two.libs/b.so")
    install("three", "three.py", "__pycache__/three.cpython-311.pyc")
    install("four", "__editable___four.pth", "__editable___four_finder.py")
    monkeypatch.syspath_prepend(str(tmp_path))

    def names(package: str) -> list[str]:
        paths = program_setup.package_paths.__wrapped__(package)
        assert all(str(tmp_path / name) == path for path, name in paths)
        return [name for _, name in paths]

    assert names("one") == ["one-1.dist-info", "shared/one", "shared/one.py"]
    assert names("two") == ["shared/two", "two-1.dist-info", "two.libs/a.so", "two.libs/b.so"]
    assert names("three") == ["three-1.dist-info", "three.py"]
    with pytest.raises(ConfigError, match="package 'four' has no files of its own"):
        names("four")
    monkeypatch.setattr(program_setup, "OURS", tmp_path / "shared" / "one" / "more")
    with pytest.raises(
        ConfigError, match="package 'one' holds the tests of the problems; leave it out"
    ):
        names("one")
    if REASON is None:
        monkeypatch.setattr(program_setup, "OURS", REPOSITORY / "maskdiff")
        tmp_path.chmod(0o755)
        setup = ProgramSetup(packages=("one", "three"))
        names = "sorted(os.listdir('/packages/shared'))"
        program = f"import shared.one, three\nprint({names}, shared.one.__file__)"
        result = attack(program, setup=setup)
        assert result.stdout == "['one', 'one.py'] /packages/shared/one/__init__.py\n", (
            result.stderr
        )


@isolated
def test_numpy_works_where_it_is_asked_for() -> None:
    program = "import numpy\nprint(int(numpy.linalg.det(numpy.eye(50)) + numpy.arange(9).sum()))"
    result = run_program(
        program,
        "",
        ResourceLimits(wall_seconds=20.0),
        "required",
        ProgramSetup(packages=("numpy",)),
    )
    assert (result.status, result.stdout) == (RunStatus.OK, "37\n"), result.stderr


@pytest.mark.parametrize("name", ["no-such-package", "", "../numpy", "a b", "numpy\n", "."])
def test_unknown_packages_are_named(name: str) -> None:
    with pytest.raises(
        ConfigError, match=r"package .* is not installed; give names that `pip list` shows"
    ) as caught:
        ProgramSetup(packages=(name,))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@isolated
def test_hidden_files_are_covered_in_folders_that_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As if the records and a checkout lay in a folder of the system."""
    tmp_path.chmod(0o755)
    for name in (
        "shown.txt",
        "records.jsonl",
        "folder/secret.txt",
        "lib/python3.9/site-packages/x.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("the secret")
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "records.jsonl")
    shown = [*program_setup.visible_paths(), str(tmp_path)]
    monkeypatch.setattr(program_setup, "visible_paths", lambda: shown)
    monkeypatch.setattr(sandbox, "visible_paths", lambda: shown)
    monkeypatch.setattr(program_setup, "covered_paths", program_setup.covered_paths.__wrapped__)
    setup = ProgramSetup(hidden=(str(link), str(tmp_path / "folder"), str(tmp_path / "missing")))
    for name in (
        "records.jsonl",
        "link.jsonl",
        "folder/secret.txt",
        "lib/python3.9/site-packages/x.py",
    ):
        assert (
            attack(f"print(open({str(tmp_path / name)!r}).read())", setup=setup).status
            is RunStatus.FILE_DENIED
        )
    assert (
        attack(f"os.chmod({str(tmp_path / 'folder')!r}, 0o755)", setup=setup).status
        is RunStatus.FILE_DENIED
    )
    assert (
        attack(f"print(open({str(tmp_path / 'shown.txt')!r}).read())", setup=setup).stdout
        == "the secret\n"
    )
    monkeypatch.setattr(program_setup, "OURS", tmp_path / "folder" / "maskdiff")
    assert str(tmp_path / "folder") in program_setup.covered_paths()
