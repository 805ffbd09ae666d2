"""What MEG coils and electrodes inside the brain measure of current dipoles.

Outside a conductor of concentric spheres the magnetic field of a dipole has a closed form that does
not depend on the conductivities; a radial dipole has none. A planar gradiometer measures the
difference of the normal field at two points. Inside the brain, far from its surface, the potential
is that of a dipole in an unbounded conductor.

Source: Sarvas 1987, Phys. Med. Biol. 32:11 (field of a dipole in a sphere).
Axes: channel = coil or contact, source = dipole. Metres; fT, fT/cm or microvolts per nA·m.
"""

from __future__ import annotations

import numpy as np

from neurofm.io.simulated.forward import FOUR_SHELLS
from neurofm.shapes import Float
from neurofm.units import UNITS, Kind

_NANO = 1e-9
_MU0_4PI = 1e-7
BASELINE_M = 0.0168  # between the loops of a planar gradiometer (MEGIN Vectorview, TRIUX)


def magnetic_field(
    point: Float[np.ndarray, "channel 3"],
    position: Float[np.ndarray, "source 3"],
    orientation: Float[np.ndarray, "source 3"],
    *,
    center: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "channel source 3"]:
    """Field vector of unit dipoles in a sphere, at points outside of it.

    Args:
        point: Metres, any frame.
        position: Metres, same frame.
        orientation: Unit vectors.
        center: Metres, of the sphere.

    Returns:
        fT per nA·m.

    Raises:
        ValueError: A point is not farther from the centre than every source.
    """
    r, r0 = point - center, position - center
    far, deep = np.linalg.norm(r, axis=1), np.linalg.norm(r0, axis=1)
    if len(far) and len(deep) and far.min() <= deep.max():
        raise ValueError(
            f"magnetic_field: a point {far.min():.3f} m from the centre is not outside a source at "
            f"{deep.max():.3f} m. The field is that outside the head."
        )
    away = r[:, None] - r0  # channel source 3
    a = np.linalg.norm(away, axis=2)
    along = np.einsum("csk,ck->cs", away, r)
    f = a * (far[:, None] * a + along)
    slope = (a**2 / far[:, None] + along / a + 2 * a + 2 * far[:, None])[..., None] * r[:, None]
    slope = slope - (a + 2 * far[:, None] + along / a)[..., None] * r0
    turn = np.cross(orientation, r0)
    field = f[..., None] * turn - (r @ turn.T)[..., None] * slope
    return _MU0_4PI * _NANO * UNITS[Kind.MAG].per_si * field / f[..., None] ** 2


def magnetometer_gain(
    point: Float[np.ndarray, "channel 3"],
    normal: Float[np.ndarray, "channel 3"],
    position: Float[np.ndarray, "source 3"],
    orientation: Float[np.ndarray, "source 3"],
    *,
    center: Float[np.ndarray, " 3"],
) -> Float[np.ndarray, "channel source"]:
    """Field along the normals of coils, fT per nA·m; arguments as of `magnetic_field`."""
    field = magnetic_field(point, position, orientation, center=center)
    return np.einsum("csk,ck->cs", field, normal)


def gradiometer_gain(
    point: Float[np.ndarray, "channel 3"],
    normal: Float[np.ndarray, "channel 3"],
    direction: Float[np.ndarray, "channel 3"],
    position: Float[np.ndarray, "source 3"],
    orientation: Float[np.ndarray, "source 3"],
    *,
    center: Float[np.ndarray, " 3"],
    baseline: float = BASELINE_M,
) -> Float[np.ndarray, "channel source"]:
    """Change of the normal field along a direction in the plane of the coil.

    Args:
        direction: Unit vectors from the negative to the positive loop.
        baseline: Metres between the loops.

    Returns:
        fT/cm per nA·m.
    """
    step = 0.5 * baseline * direction
    ends = [
        magnetometer_gain(point + sign * step, normal, position, orientation, center=center)
        for sign in (1, -1)
    ]
    scale = UNITS[Kind.GRAD].per_si / UNITS[Kind.MAG].per_si  # fT/m to fT/cm
    return (ends[0] - ends[1]) / baseline * scale


def medium_gain(
    contact: Float[np.ndarray, "channel 3"],
    position: Float[np.ndarray, "source 3"],
    orientation: Float[np.ndarray, "source 3"],
    *,
    conductivity: float = FOUR_SHELLS[0][1],
    extent: float = 0.0,
) -> Float[np.ndarray, "channel source"]:
    """Potential of unit dipoles in an unbounded conductor, against infinity.

    Args:
        contact: Metres, any frame.
        position: Metres, same frame.
        orientation: Unit vectors.
        conductivity: S/m, of the brain.
        extent: Metres over which the current is spread; within it the potential stays finite.

    Returns:
        Microvolts per nA·m.
    """
    away = contact[:, None] - position
    distance = np.sqrt((away**2).sum(axis=2) + extent**2)
    if (distance == 0).any():
        raise ValueError(
            "medium_gain: a contact lies on a source, where the potential of a point is infinite. "
            "Give an extent (about 0.003 m)."
        )
    along = np.einsum("csk,sk->cs", away, orientation)
    scale = _NANO * UNITS[Kind.SEEG].per_si
    return scale * along / (4 * np.pi * conductivity * distance**3)
