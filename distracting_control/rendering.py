"""Which OpenGL draws the images: chosen once, before MuJoCo is imported.

MuJoCo, dm_control and PyOpenGL read ``MUJOCO_GL`` and ``PYOPENGL_PLATFORM`` when they are
imported and never again, so the choice has to come first. Nothing here imports them. Whoever makes
an environment with this package or with ``dmc2gym`` alone need not choose: `settle_backend` does.
"""

import ctypes
import ctypes.util
import importlib
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

# Every spelling that MuJoCo and dm_control take for a backend that needs no library from us.
_HARMLESS = frozenset({"glfw", "glx", "on", "enable", "enabled", "true", "1"})
_DISABLED = frozenset({"off", "disable", "disabled", "false", "0"})
_LIBRARIES = {"egl": ("EGL", "libEGL.so.1"), "osmesa": ("OSMesa", "libOSMesa.so.8")}
_PACKAGES = {"egl": "libegl1 libgl1-mesa-dri", "osmesa": "libosmesa6"}
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
SOFTWARE_SHADOW_SIZE = 1024
_NVIDIA = ("/dev/nvidiactl", "/proc/driver/nvidia")


class RenderingError(RuntimeError):
    """No OpenGL can draw here, or another one was loaded already; one line says the mend."""


@dataclass(frozen=True)
class Backend:
    """The OpenGL in use.

    Attributes:
        name: ``'egl'``, ``'osmesa'``, or whatever ``MUJOCO_GL`` already held.
        why: Half a sentence for the log.
        software: Whether the CPU draws. Shadow maps then cost more than everything else, so
            callers pick a smaller one.
    """

    name: str
    why: str
    software: bool


def choose_backend(requested: str | None = None, device: str = "auto") -> Backend:
    """Settles ``MUJOCO_GL`` and ``PYOPENGL_PLATFORM`` for this process and its children.

    In order: what is ``requested``; what ``MUJOCO_GL`` says; EGL on an NVIDIA GPU; OSMesa;
    EGL on Mesa. Calling it again confirms the first choice.

    Args:
        requested: ``'egl'`` or ``'osmesa'`` to insist on one; None to find out.
        device: Where networks live. On ``'cuda:N'`` EGL draws on that GPU, too, unless
            ``MUJOCO_EGL_DEVICE_ID`` names another one.

    Returns:
        The backend; the two variables are set in ``os.environ``.

    Raises:
        RenderingError: If the library is missing, the name is not known, or MuJoCo or
            dm_control was already imported with another backend.
    """
    backend = _resolve(requested)
    _check_imported(backend.name)
    _set(backend.name)
    if backend.name == "egl" and not backend.software:
        _draw_on(device)
    return backend


def settle_backend() -> None:
    """As :func:`choose_backend`, before dm_control is imported for what may never be drawn.

    What is settled stays: dm_control's own choice where it was imported, and rendering that
    ``MUJOCO_GL`` turns off. That there is no library to draw with shows when something is drawn.

    Raises:
        RenderingError: If ``MUJOCO_GL`` names a backend that cannot work here.
    """
    named = _named()
    if "dm_control._render" in sys.modules or named in _DISABLED:
        return
    if named or any(_loads(name) for name in _LIBRARIES):
        _set(_resolve(None).name)


def software_shadow_size(given: int | None) -> int | None:
    """The side of the shadow map in texels: what is given, or 1024 where the CPU draws.

    Simulators ask for 4096, which on a CPU takes more time than the rest of the frame. Settles
    the backend, so it comes before the simulator is imported.

    Args:
        given: What the user asks for; None leaves it to the backend.

    Returns:
        Texels, or None for the model's own.
    """
    backend = choose_backend()
    return SOFTWARE_SHADOW_SIZE if given is None and backend.software else given


def _named() -> str:
    """The backend that ``MUJOCO_GL`` names, or nothing."""
    return os.environ.get("MUJOCO_GL", "").strip().lower()


def _resolve(requested: str | None) -> Backend:
    """The backend to take."""
    nvidia = _has_nvidia()
    if named := requested or _named():
        origin = "was asked for" if requested else "is what MUJOCO_GL says"
        return Backend(_check_named(named), f"{named} {origin}", _is_software(named, nvidia))
    return _find(nvidia)


def _set(name: str) -> None:
    """Tells this process and its children."""
    if name == "egl":
        _check_egl_device()
    os.environ["MUJOCO_GL"] = name
    if name in _LIBRARIES:
        os.environ["PYOPENGL_PLATFORM"] = name
    if name == "osmesa":
        _load_triton()


def _find(nvidia: bool) -> Backend:
    """The best backend whose library loads."""
    if nvidia and _loads("egl"):
        return Backend("egl", "an NVIDIA GPU and libEGL are here", software=False)
    if _loads("osmesa"):
        reason = "libEGL does not load" if nvidia else "there is no NVIDIA GPU"
        return Backend("osmesa", f"{reason}, and libOSMesa loads", software=True)
    if _loads("egl"):
        return Backend("egl", "no NVIDIA GPU, no libOSMesa: EGL on Mesa", software=True)
    raise RenderingError(
        "no OpenGL library loads for headless rendering: install the Debian package libosmesa6, "
        "or libegl1 and libgl1-mesa-dri"
    )


def _check_named(name: str) -> str:
    """``name`` if it is a backend that can work here."""
    if name in _HARMLESS:
        if sys.platform == "linux" and not any(map(os.environ.get, _DISPLAYS)):
            raise RenderingError(
                f"MUJOCO_GL={name} draws on a display, and no {' or '.join(_DISPLAYS)} is set: "
                "unset MUJOCO_GL, or set it to egl or osmesa"
            )
        return name
    if name in _DISABLED:
        raise RenderingError(f"MUJOCO_GL={name} turns rendering off: unset it, images are needed")
    if name not in _LIBRARIES:
        raise RenderingError(f"MUJOCO_GL={name} is no backend: use egl, osmesa or glfw")
    if not _loads(name):
        raise RenderingError(
            f"MUJOCO_GL={name}, but {_LIBRARIES[name][1]} does not load: "
            f"install {_PACKAGES[name]} (Debian), or unset MUJOCO_GL"
        )
    return name


def _is_software(name: str, nvidia: bool) -> bool:
    return name == "osmesa" or (name == "egl" and not nvidia)


def _has_nvidia() -> bool:
    """Whether the NVIDIA driver is here, as seen without CUDA."""
    return any(Path(path).exists() for path in _NVIDIA)


def _draw_on(device: str) -> None:
    """Has EGL draw on the GPU that ``cuda:N`` names, where it sees that one."""
    match = re.fullmatch(r"cuda:(\d+)", device)
    if match is None or "MUJOCO_EGL_DEVICE_ID" in os.environ:
        return
    number = match[1]
    if visible := os.environ.get("CUDA_VISIBLE_DEVICES"):  # by which CUDA numbers them, not EGL
        number = visible.split(",")[int(number)].strip()
    if number.isdecimal() and int(number) < _count_egl_devices():
        os.environ["MUJOCO_EGL_DEVICE_ID"] = number


def _check_egl_device() -> None:
    """Refuses a ``MUJOCO_EGL_DEVICE_ID`` that EGL does not have."""
    number = os.environ.get("MUJOCO_EGL_DEVICE_ID")
    if number is None:
        return
    count = _count_egl_devices()
    if count and not (number.isdecimal() and int(number) < count):
        raise RenderingError(
            f"MUJOCO_EGL_DEVICE_ID={number}, and the devices of EGL here are 0 to {count - 1}: "
            "set it to one of these, or unset it"
        )


def _count_egl_devices() -> int:
    """How many devices EGL could draw on; 0 where it does not say."""
    library = ctypes.CDLL(_LIBRARIES["egl"][1])
    library.eglGetProcAddress.restype = ctypes.c_void_p
    address = library.eglGetProcAddress(b"eglQueryDevicesEXT")
    if not address:
        return 0
    pointers = (ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int))
    query, count = ctypes.CFUNCTYPE(ctypes.c_uint, *pointers)(address), ctypes.c_int(0)
    return count.value if query(0, None, ctypes.byref(count)) else 0


def _loads(name: str) -> bool:
    """Whether the dynamic linker finds and loads the library of backend ``name``."""
    short, exact = _LIBRARIES[name]
    for library in (exact, ctypes.util.find_library(short)):
        if library is not None:
            try:
                ctypes.CDLL(library)
            except OSError:
                continue
            return True
    return False


def _load_triton() -> None:
    """Imports Triton, where PyTorch's CUDA build brought it, while there is no LLVM but its own.

    PyOpenGL offers the symbols of OSMesa's LLVM to whatever is loaded later. PyTorch's optimisers
    import Triton, which then finds those instead of its own, and the process crashes.
    """
    if importlib.util.find_spec("triton") is not None:
        importlib.import_module("triton")


def _check_imported(name: str) -> None:
    """Refuses a choice that comes after MuJoCo or dm_control made another one."""
    for module, active in _imported_backends().items():
        if active != name and name in _LIBRARIES:
            raise RenderingError(
                f"{module} was imported with the OpenGL backend {active}, before {name} was "
                f"chosen: set MUJOCO_GL={name} before the program starts"
            )


def _imported_backends() -> dict[str, str]:
    """The backends that imported modules are bound to: {module: backend}."""
    bound = {}
    mujoco = sys.modules.get("mujoco")
    if mujoco is not None and hasattr(mujoco, "GLContext"):
        # mujoco.GLContext is the class of mujoco.egl, mujoco.osmesa or mujoco.glfw.
        bound["mujoco"] = mujoco.GLContext.__module__.rpartition(".")[2]
    render = sys.modules.get("dm_control._render")
    if render is not None and getattr(render, "BACKEND", None):
        bound["dm_control"] = render.BACKEND
    return bound
