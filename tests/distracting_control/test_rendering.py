"""The choice of OpenGL, with machines of all kinds imitated, and the real one asked once."""

import os
import subprocess
import sys

import pytest

from distracting_control import rendering
from distracting_control.rendering import RenderingError, choose_backend, settle_backend


@pytest.fixture
def machine(monkeypatch):
    """A function that sets up a machine: its GPU, its libraries, MUJOCO_GL, what is imported."""

    def set_up(nvidia=False, libraries=(), mujoco_gl=None, imported=None):
        for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM"):
            monkeypatch.setenv(name, "")  # so that it is put back afterwards
            monkeypatch.delenv(name)
        monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)
        if mujoco_gl is not None:
            monkeypatch.setenv("MUJOCO_GL", mujoco_gl)
        monkeypatch.setattr(rendering, "_has_nvidia", lambda: nvidia)
        monkeypatch.setattr(rendering, "_loads", lambda name: name in libraries)
        monkeypatch.setattr(rendering, "_imported_backends", lambda: imported or {})

    return set_up


@pytest.mark.parametrize(
    ("nvidia", "libraries", "name", "software"),
    [
        (True, ("egl", "osmesa"), "egl", False),
        (True, ("osmesa",), "osmesa", True),
        (False, ("egl", "osmesa"), "osmesa", True),
        (False, ("egl",), "egl", True),
    ],
)
def test_automatic_choice(machine, nvidia, libraries, name, software):
    machine(nvidia, libraries)
    backend = choose_backend()
    assert (backend.name, backend.software) == (name, software)
    assert backend.why
    assert os.environ["MUJOCO_GL"] == name
    assert os.environ["PYOPENGL_PLATFORM"] == name
    assert choose_backend().name == name


@pytest.mark.parametrize("library", ["osmesa", "egl"])
def test_triton_is_loaded_before_osmesa(machine, monkeypatch, tmp_path, library):
    machine(libraries=(library,))
    (tmp_path / "triton.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "triton", None)  # so that what is there is put back afterwards
    del sys.modules["triton"]
    choose_backend()
    assert ("triton" in sys.modules) == (library == "osmesa")


def test_no_library_names_the_packages_in_one_line(machine):
    machine(nvidia=True)
    with pytest.raises(RenderingError, match=r"libosmesa6.*libegl1 and libgl1-mesa-dri") as caught:
        choose_backend()
    assert "\n" not in str(caught.value)
    assert "MUJOCO_GL" not in os.environ


def test_mujoco_gl_is_respected(machine):
    machine(nvidia=True, libraries=("egl", "osmesa"), mujoco_gl="osmesa")
    backend = choose_backend()
    assert (backend.name, backend.software) == ("osmesa", True)
    assert "MUJOCO_GL" in backend.why


def test_glfw_of_a_desktop_is_left_alone(machine, monkeypatch):
    machine(mujoco_gl="glfw")
    monkeypatch.setenv("DISPLAY", ":0")
    assert choose_backend().name == "glfw"
    assert "PYOPENGL_PLATFORM" not in os.environ


def test_glfw_without_a_display_is_refused(machine, monkeypatch):
    machine(mujoco_gl="glfw", libraries=("egl",))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for choose in (choose_backend, settle_backend):
        with pytest.raises(RenderingError, match=r"^MUJOCO_GL=glfw .* unset MUJOCO_GL, or set it"):
            choose()


@pytest.mark.parametrize(
    ("device", "visible", "given", "expected"),
    [
        ("cuda:1", None, None, "1"),
        ("cuda:1", "0, 3", None, "3"),  # CUDA's second one is the machine's fourth
        ("cuda:0", "GPU-8f2a", None, None),  # EGL does not know it by that name
        ("cuda:7", None, None, None),  # of four
        ("cuda:1", None, "2", "2"),
        ("auto", None, None, None),
        ("cpu", None, None, None),
    ],
)
def test_egl_draws_on_the_gpu_of_the_networks(
    machine, monkeypatch, device, visible, given, expected
):
    for name, value in (("MUJOCO_EGL_DEVICE_ID", given), ("CUDA_VISIBLE_DEVICES", visible)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    monkeypatch.setattr(rendering, "_count_egl_devices", lambda: 4)
    for nvidia, libraries in ((False, ("osmesa", "egl")), (False, ("egl",)), (True, ("egl",))):
        machine(nvidia, libraries)
        choose_backend(device=device)
        found = os.environ.get("MUJOCO_EGL_DEVICE_ID")
        assert found == (expected if nvidia else given)


def test_what_may_never_draw_needs_no_opengl(machine):
    machine()
    settle_backend()
    assert "MUJOCO_GL" not in os.environ
    machine(libraries=("osmesa",), mujoco_gl="off")
    settle_backend()
    assert os.environ["MUJOCO_GL"] == "off"


def test_settling_leaves_dm_controls_choice_and_does_not_mind_mujocos(machine, monkeypatch):
    machine(libraries=("egl",), imported={"mujoco": "glfw"})
    monkeypatch.setitem(sys.modules, "dm_control._render", object())
    settle_backend()
    assert "MUJOCO_GL" not in os.environ
    monkeypatch.delitem(sys.modules, "dm_control._render")
    settle_backend()
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "egl"


def test_request_beats_mujoco_gl(machine):
    machine(libraries=("egl", "osmesa"), mujoco_gl="osmesa")
    assert choose_backend("egl").name == "egl"
    assert os.environ["MUJOCO_GL"] == "egl"


@pytest.mark.parametrize(
    ("mujoco_gl", "message"),
    [
        ("egl", "libegl1 libgl1-mesa-dri"),
        ("osmesa", "libosmesa6"),
        ("vulkan", "no backend"),
        ("off", "turns rendering off"),
    ],
)
def test_unusable_mujoco_gl_is_refused(machine, mujoco_gl, message):
    machine(mujoco_gl=mujoco_gl)
    with pytest.raises(RenderingError, match=message):
        choose_backend()


def test_too_late_a_choice_is_an_error(machine):
    machine(libraries=("osmesa",), imported={"mujoco": "glfw"})
    with pytest.raises(RenderingError, match="mujoco was imported with the OpenGL backend glfw"):
        choose_backend()


def test_what_mujoco_and_dm_control_are_bound_to_is_chosen_before_the_first_environment():
    code = (
        "import distracting_control\n"
        "from distracting_control import rendering\n"
        "print(rendering._imported_backends())\n"
        "distracting_control.load('cartpole', 'balance')\n"
        "print(rendering._imported_backends())\n"
    )
    chosen = ("MUJOCO_GL", "PYOPENGL_PLATFORM")
    unset = {name: value for name, value in os.environ.items() if name not in chosen}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=unset,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    before, after = done.stdout.splitlines()
    own = rendering._find(rendering._has_nvidia()).name
    assert before == "{}"
    assert after == str({"mujoco": own, "dm_control": own})


@pytest.mark.parametrize(
    ("library", "loads"),
    [(("c", "libc.so.6"), True), (("NoSuchMesa", "libNoSuchMesa.so.8"), False)],
)
def test_a_library_is_there_if_the_linker_loads_it(monkeypatch, library, loads):
    monkeypatch.setitem(rendering._LIBRARIES, "osmesa", library)
    assert rendering._loads("osmesa") is loads


@pytest.mark.parametrize("number", ["4", "-1", "cuda:0", ""])
def test_a_device_that_egl_does_not_have_is_refused(monkeypatch, number):
    monkeypatch.setattr(rendering, "_count_egl_devices", lambda: 4)
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", number)
    with pytest.raises(RenderingError, match=f"MUJOCO_EGL_DEVICE_ID={number}, .* 0 to 3: "):
        rendering._check_egl_device()
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "3")
    rendering._check_egl_device()
