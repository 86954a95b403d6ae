"""Which Vulkan driver draws ManiSkill's pictures: an NVIDIA GPU's, or SwiftShader on the CPU.

Vulkan reads ``VK_ICD_FILENAMES`` when the renderer first looks for devices, so `settle_driver`
comes before the first environment. Nothing here imports the renderer.
"""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from distracting_control.rendering import RenderingError

VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")  # of Vulkan's loader, the first one first
# Where Debian's chromium-common and Google's Chrome keep SwiftShader's manifest.
SWIFTSHADER = (
    Path("/usr/lib/chromium/vk_swiftshader_icd.json"),
    Path("/opt/google/chrome/vk_swiftshader_icd.json"),
)
GPU, FIRST = "gpu", "pci:0"
_NVIDIA, _NVIDIA_DEVICE = "libGLX_nvidia.so.0", Path("/dev/nvidiactl")


@dataclass(frozen=True)
class Driver:
    """A driver of Vulkan's.

    Attributes:
        device: What ManiSkill calls the device: 'gpu', or 'pci:0' for one that is no NVIDIA's.
        manifest: The file that has to be named to Vulkan; None where it is found without.
    """

    device: str
    manifest: Path | None = None


def find_driver() -> Driver:
    """The driver that Vulkan is told to take, an NVIDIA GPU's, or SwiftShader.

    Raises:
        RenderingError: If there is none; one line says the mend.
    """
    for variable in VARIABLES:
        if named := os.environ.get(variable):
            missing = [path for path in named.split(os.pathsep) if not Path(path).is_file()]
            if missing:
                raise RenderingError(
                    f"{variable} names {missing[0]}, which is not there: unset it, or name the "
                    "manifest of a Vulkan driver"
                )
            return Driver(GPU if "nvidia" in named else FIRST)
    if _NVIDIA_DEVICE.exists() and _loads(_NVIDIA):
        return Driver(GPU)
    for path in SWIFTSHADER:
        if path.is_file():
            return Driver(FIRST, path)
    raise RenderingError(
        "ManiSkill draws by Vulkan, and there is neither an NVIDIA GPU's driver with graphics nor "
        f"SwiftShader ({SWIFTSHADER[0]}): apt-get install chromium-common libvulkan1, or set "
        "VK_ICD_FILENAMES to a driver's manifest"
    )


def settle_driver() -> str:
    """Tells Vulkan in this process and its children which driver to take; returns its device.

    Raises:
        RenderingError: If there is none.
    """
    driver = find_driver()
    if driver.manifest is not None:
        os.environ["VK_ICD_FILENAMES"] = str(driver.manifest)
    return driver.device


def _loads(library: str) -> bool:
    """Whether the dynamic linker finds and loads a library."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True
