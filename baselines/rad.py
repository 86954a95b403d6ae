"""RAD: SAC on random crops (Laskin et al. 2020, arXiv 2004.14990)."""

from __future__ import annotations

import dataclasses

from baselines import sac
from baselines.pixels import CropKeys
from baselines.sac import SAC


@dataclasses.dataclass(frozen=True)
class Keys(sac.Keys, CropKeys):
    """SAC's, and those of crops."""


class RAD(SAC):
    """SAC that sees crops: one place for all frames of an observation, its next one apart.

    It acts on the middle of the image.
    """

    name = "rad"
    Keys = Keys
