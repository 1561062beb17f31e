"""Local DP on a client: it clips and noises its own update, and trusts no other party."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fedsim.privacy.arithmetic import Arithmetic, ExactSum
from fedsim.privacy.clipping import Arrays, Clipped, clip_jointly
from fedsim.privacy.events import Law
from fedsim.privacy.halves import ClientDraws, ClientHalf, ClientRound, Protected
from fedsim.privacy.local_dp.event import LocalDpEvent
from fedsim.privacy.local_dp.settings import LocalDpSettings
from fedsim.privacy.randomness import Randomness, laplaces
from fedsim.privacy.ranges import check_positive
from fedsim.privacy.training import Intent

UPDATE = "update"


class NoisingClient(ClientHalf):
    """Clips and noises the update jointly over all arrays. An update with NaN or infinity counts as zero.

    Clip norm and noise come from the experiment. The client calibrates the noise itself, for it does not trust the
    server's value; raises `ValueError` if no noise reaches the epsilon.
    """

    releases = True
    protects = "model"

    def __init__(self, settings: LocalDpSettings, intent: Intent, draws: ClientDraws) -> None:
        self.most = settings.participations(intent.rounds)
        self._settings = settings
        self._arithmetic = intent.arithmetic
        self._noise_multiplier = settings.calibrated(intent.rounds)
        self._draws = draws

    def protect(self, update: NDArray[Any], metrics: Mapping[str, float], at: ClientRound) -> Protected:
        """Return the noised update, and its event. As `ClientHalf` says."""
        noise = LocalNoise(
            law=Law(self._settings.law),
            clip=self._settings.clip,
            noise_multiplier=self._noise_multiplier,
            arithmetic=self._arithmetic,
            randomness=self._draws.noise("local-dp-noise", at),
        )
        released = noise.release({UPDATE: update}, at.round, at.client)
        return Protected(released.arrays[UPDATE], {}, released.event)


class LocallyReleased(NamedTuple):
    """A client's noised update, in its dtypes, by name; its event; and the clipped update, as secret as the update."""

    arrays: dict[str, NDArray[Any]]
    event: LocalDpEvent
    clipped: Clipped


@dataclass(frozen=True, kw_only=True)
class LocalNoise:
    """A client's own release: its update, clipped jointly, with noise on each number.

    Unit: a client. Neighbouring relation: replace-one, which hides the client's data from anyone who sees the update;
    two clipped updates differ by at most twice the clip norm. No other party is trusted. Participation is not hidden.
    Sensitive: the update, its norm, whether it was clipped. `LAPLACE` (Dwork, McSherry, Nissim, Smith 2006) uses
    clipping in L1 norm, with delta 0; `GAUSSIAN` (Balle and Wang 2018, arXiv 1805.06530) in L2 norm. Update and noise
    are added on a grid, with noise calibrated to rounded updates (`fedsim.privacy.arithmetic`, valid for any additive
    noise); rounding to the dtype comes afterwards.

    Attributes:
        law: Distribution of the noise.
        clip: Largest norm of an update, above 0: L2 for Gaussian noise, L1 for Laplace noise.
        noise_multiplier: Scale of the noise (Gaussian: standard deviation; Laplace: mean absolute value) over the
            sensitivity, twice `clip`; above 0. `ValueError` is raised for values out of range.
    """

    law: Law = Law.GAUSSIAN
    clip: float
    noise_multiplier: float
    randomness: Randomness
    arithmetic: Arithmetic = Arithmetic.GRID

    def __post_init__(self) -> None:
        check_positive("clip norm", self.clip)
        check_positive("noise multiplier", self.noise_multiplier)

    @property
    def sensitivity(self) -> float:
        """How far replacing a client's data moves its clipped update, in the law's norm."""
        return 2 * self.clip

    def release(self, update: Arrays, round_: int, client: int) -> LocallyReleased:
        """Return a client's noised update of a round (from 1), and its event.

        Noise is drawn in the order of the arrays' names. The update has float16, float32 or float64 arrays of any
        shape, by name; with a NaN or an infinity it counts as zero.

        Raises:
            ValueError: The update has no arrays, or one that can't be clipped.
        """
        if not update:
            raise ValueError("update: has no arrays")
        order: Literal[1, 2] = 2 if self.law is Law.GAUSSIAN else 1
        clipped = clip_jointly(update, self.clip, order=order)
        dimension = max(sum(array.size for array in update.values()), 1)
        exact = ExactSum.of(
            self.sensitivity, self.noise_multiplier, dimension, order=order, arithmetic=self.arithmetic
        )
        noised = {name: self._noised(clipped.arrays[name], exact) for name in sorted(update)}
        event = LocalDpEvent.of(
            round_, client, self.law, self.sensitivity, self.noise_multiplier, self.randomness.source
        )
        return LocallyReleased({name: noised[name] for name in update}, event, clipped)

    def _noised(self, array: NDArray[Any], exact: ExactSum) -> NDArray[Any]:
        gaussian = self.law is Law.GAUSSIAN
        noise = self.randomness.normals(array.size) if gaussian else laplaces(self.randomness, array.size)
        noise *= self.noise_multiplier * exact.sensitivity
        noised = exact.add(array, noise.reshape(array.shape))
        with np.errstate(over="ignore"):  # of a float16
            return noised.astype(array.dtype)
