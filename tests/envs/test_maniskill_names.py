"""ManiSkill without its simulator: names, notes, and what is refused before it is imported."""

import importlib.util

import pytest

import config
import envs
from distracting_control.rendering import RenderingError
from envs import SUITES, EnvSettings, UnknownTask, maniskill, vulkan
from tests.envs.test_checks import Given
from tools import UserError

HRSSM = ("push_cube", "turn_faucet", "assembling_kits", "peg_insertion_side", "plug_charger")


@pytest.fixture
def there(monkeypatch, tmp_path):
    """The package as if it were installed, with a driver; without the assets of any task."""
    spec = importlib.util.find_spec

    def found(name, *rest):
        return None if name == maniskill.PACKAGE else spec(name, *rest)

    for suite, names in (("maniskill", maniskill.TASKS), ("rms", maniskill.REALISTIC)):
        plain = {name.replace("_", "").replace("-", "").lower(): name for name in names}
        monkeypatch.setattr(SUITES[suite].tasks, "_found", plain)
    monkeypatch.setattr(importlib.util, "find_spec", found)
    monkeypatch.setenv("MS_ASSET_DIR", str(tmp_path))
    driver(monkeypatch, tmp_path)


def driver(monkeypatch, folder, *, there=True):
    """A machine whose only driver is SwiftShader, or that has none; returns the manifest."""
    manifest = folder / "vk_swiftshader_icd.json"
    if there:
        manifest.touch()
    for variable in vulkan.VARIABLES:
        monkeypatch.setenv(variable, "")  # so that it is put back, even where it was not set
        monkeypatch.delenv(variable)
    monkeypatch.setattr(vulkan, "SWIFTSHADER", (manifest,))
    monkeypatch.setattr(vulkan, "_NVIDIA_DEVICE", folder / "nvidiactl")
    return manifest


@pytest.mark.parametrize("task", ["maniskill_PickCube-v1", "rms_push_cube"])
def test_a_missing_package_is_refused_with_its_extra(monkeypatch, task):
    monkeypatch.setattr(SUITES[task.partition("_")[0]].tasks, "_found", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = r"tasks need the package mani_skill: pip install -e '\.\[maniskill\]' -c constraints"
    with pytest.raises(UserError, match=said) as caught:
        envs.parse_task(task)
    assert "\n" not in str(caught.value)


def test_published_names_mean_tasks_of_the_package(there):
    for name in HRSSM:
        assert envs.parse_task(f"rms_{name}").identity == (name,)
        assert maniskill.REALISTIC[name] in maniskill.TASKS
    assert envs.parse_task("maniskill_pick_cube_v1").identity == ("PickCube-v1",)
    assert set(maniskill.REALISTIC.values()) == set(maniskill.TASKS)
    with pytest.raises(
        UnknownTask, match=r"did you mean 'rms_push_cube'\? Realistic ManiSkill has"
    ):
        envs.parse_task("rms_push_cubes")
    assert not envs.ends_early("rms_push_cube")


@pytest.mark.parametrize("name", maniskill.ABSENT)
def test_tasks_that_are_gone_are_refused_by_name_whatever_is_installed(name):
    with pytest.raises(UserError, match=f"^rms_{name}: ManiSkill 3 has no ") as caught:
        envs.parse_task(f"rms_{name}")
    assert caught.value.args[0].partition("; ")[2].split()[0] in {
        f"rms_{name}" for name in maniskill.REALISTIC
    }


@pytest.mark.parametrize(
    ("task", "folder", "download"),
    [
        ("rms_turn_faucet", "partnet_mobility/dataset", "partnet_mobility_faucet"),
        ("maniskill_AssemblingKits-v1", "tasks/assembling_kits", "assembling_kits"),
    ],
)
def test_missing_assets_are_refused_with_where_to_put_them(there, tmp_path, task, folder, download):
    where = tmp_path / "data" / folder
    with pytest.raises(UserError, match=f"download_asset {download};") as caught:
        envs.check(Given(task))
    assert f"put them into {where} (MS_ASSET_DIR moves it)" in str(caught.value)
    assert "\n" not in str(caught.value)
    where.mkdir(parents=True)
    assert envs.factories_of(task, EnvSettings())


def test_each_faucet_of_the_packages_list_is_looked_for(there, monkeypatch, tmp_path):
    package = tmp_path / "mani_skill"
    listing = package / maniskill.TASKS["TurnFaucet-v1"].listing
    listing.parent.mkdir(parents=True)
    listing.write_text('{"5001": {}, "5002": {}}')
    (tmp_path / "data" / "partnet_mobility" / "dataset" / "5001").mkdir(parents=True)
    origin = str(package / "__init__.py")
    spec = importlib.util.spec_from_file_location("mani_skill", origin)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(UserError, match=r"dataset/5002 is not there$"):
        envs.factories_of("rms_turn_faucet", EnvSettings())


def test_realistic_tasks_look_different_and_plain_ones_do_not(there):
    plain = envs.factories_of("maniskill_PickCube-v1", EnvSettings())
    assert plain["train"] is plain["test"] is plain["original"]
    looks = envs.factories_of("rms_pick_cube", EnvSettings())
    assert len({id(looks[name]) for name in ("train", "test", "original")}) == 3
    with pytest.raises(UserError, match="has no distractors"):
        envs.check(Given("maniskill_PickCube-v1", color_distractor=True))


def test_what_is_behind_the_robot_is_said_or_refused_in_a_line(there, tmp_path, capsys):
    task, names = "rms_push_cube", ["train", "test"]
    envs.check_backgrounds(task, names, EnvSettings())
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("note: rms_push_cube: computed pictures are behind the robot, as no")
    envs.check_backgrounds(task, names, EnvSettings(background_dataset_path="procedural:life"))
    assert capsys.readouterr().err == ""
    (tmp_path / "empty").mkdir()
    settings = EnvSettings(background_dataset_path=str(tmp_path / "empty"))
    with pytest.raises(UserError, match="neither image sequences nor movie") as caught:
        envs.check_backgrounds(task, names, settings)
    assert "\n" not in str(caught.value)


def test_hrssms_block_is_the_one_of_its_tasks(there, capsys):
    block = config.parse(["--configs", "realistic_maniskill", "--task", "rms_plug_charger"])
    world = {"action_repeat": 1, "time_limit": 100, "size": (64, 64), "envs": 4, "steps": 500_000}
    assert {name: block[name] for name in world} == world
    assert block.method_name == "hrssm"
    cpu = config.parse(["--configs", "realistic_maniskill", "cpu"])
    assert {name: cpu[name] for name in world} == world | {"steps": 60_000}  # as elsewhere
    envs.check(block)
    said = capsys.readouterr().err
    assert "the agent in HRSSM's world" not in said
    assert "not stacked" not in said
    envs.check(block.replace(method_name="dreamerv2"))
    assert "note: the agent in HRSSM's world is dreamerv2" in capsys.readouterr().err
    envs.check(Given("rms_push_cube", blocks=("cpu",)))
    assert (
        "rms_… tasks are in the block realistic_maniskill, which is not" in capsys.readouterr().err
    )


def test_vulkan_is_a_gpus_or_swiftshaders_or_refused(monkeypatch, tmp_path):
    manifest = driver(monkeypatch, tmp_path)
    assert vulkan.settle_driver() == "pci:0"
    assert vulkan.os.environ["VK_ICD_FILENAMES"] == str(manifest)
    assert vulkan.find_driver() == vulkan.Driver("pci:0")  # which is named now
    named = tmp_path / "nvidia_icd.json"
    named.touch()
    monkeypatch.setenv("VK_ICD_FILENAMES", str(named))
    assert vulkan.find_driver() == vulkan.Driver("gpu")
    named.unlink()
    with pytest.raises(RenderingError, match=r"VK_ICD_FILENAMES names .*, which is not there"):
        vulkan.find_driver()
    driver(monkeypatch, tmp_path)
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(vulkan, "_NVIDIA", "libc.so.6")
    assert vulkan.find_driver() == vulkan.Driver("gpu")
    monkeypatch.setattr(vulkan, "_NVIDIA", "libnowhere.so.6")
    assert vulkan.find_driver().manifest == manifest
    manifest.unlink()
    driver(monkeypatch, tmp_path, there=False)
    with pytest.raises(RenderingError, match="apt-get install chromium-common lib") as caught:
        vulkan.find_driver()
    assert "\n" not in str(caught.value)


def test_a_device_is_not_taken_apart_at_its_colon():
    device = maniskill._Unsplit("pci:0")
    assert device == "pci:0"
    assert ":" not in device
    assert "pci" in device
