"""Potentials on the scalp of current dipoles inside a head made of concentric spheres.

The dipole's potential is expanded in Legendre polynomials; each order passes through the shells
with its own gain, found by matching potential and radial current at every boundary from the scalp
inwards. A homogeneous sphere is the same with one shell.

Source: Rush & Driscoll 1969 (concentric spheres); Zhang 1995 (series for the EEG).
Axes: channel = electrode, source = dipole. Metres; lead fields in microvolts per nA·m.
"""

from __future__ import annotations

import numpy as np

from neurofm.shapes import Float
from neurofm.units import UNITS, Kind

# Relative outer radius and conductivity (S/m) of brain, fluid, skull and scalp.
FOUR_SHELLS = ((0.90, 0.33), (0.92, 1.0), (0.97, 0.004), (1.0, 0.33))
_NANO = 1e-9
_ORDERS = 120  # a source at 0.9 of the radius leaves a remainder of 0.9**120, 3e-6


def fit_sphere(position: Float[np.ndarray, "channel 3"]) -> tuple[np.ndarray, float]:
    """Centre and radius, in metres, of the sphere nearest to these points (linear least squares).

    Raises:
        ValueError: Fewer than four points with a known position.
    """
    points = position[np.isfinite(position).all(axis=1)]
    if len(points) < 4:
        raise ValueError(f"fit_sphere: {len(points)} known positions, at least 4 are needed.")
    design = np.column_stack([2 * points, np.ones(len(points))])
    solution = np.linalg.lstsq(design, (points**2).sum(1), rcond=None)[0]
    center = solution[:3]
    return center, float(np.sqrt(solution[3] + center @ center))


def shell_gains(
    shells: tuple[tuple[float, float], ...] = FOUR_SHELLS, *, orders: int = _ORDERS
) -> Float[np.ndarray, " order"]:
    """Scalp potential of each Legendre order for a unit source term in the innermost shell.

    A homogeneous sphere gives (2n + 1) / n.

    Args:
        shells: Relative outer radius, ending with 1, and conductivity in S/m, inside first.
    """
    radii = [radius for radius, _ in shells]
    if radii != sorted(radii) or radii[-1] != 1.0 or min(c for _, c in shells) <= 0:
        raise ValueError(
            f"shell_gains: shells {shells} must have growing radii that end with 1.0 and positive "
            "conductivities."
        )
    n = np.arange(1, orders + 1, dtype=np.float64)
    # In a shell the potential is a r^n + b r^-(n+1). At the scalp no current leaves, which fixes
    # a / b; grow and decay are the two terms at the current radius.
    grow, decay = (n + 1) / n, np.ones_like(n)
    scalp = grow + decay
    for (_, outer), (radius, inner), outside in zip(
        shells[:0:-1], shells[-2::-1], radii[:0:-1], strict=True
    ):
        step = radius / outside
        grow, decay = grow * step**n, decay * step ** -(n + 1)
        potential, flux = grow + decay, (n * grow - (n + 1) * decay) * outer / inner
        grow = ((n + 1) * potential + flux) / (2 * n + 1)
        decay = (n * potential - flux) / (2 * n + 1)
    source = decay * radii[0] ** (n + 1)
    return scalp / source


def lead_field(
    electrode: Float[np.ndarray, "channel 3"],
    position: Float[np.ndarray, "source 3"],
    orientation: Float[np.ndarray, "source 3"],
    *,
    center: Float[np.ndarray, " 3"],
    radius: float,
    shells: tuple[tuple[float, float], ...] = FOUR_SHELLS,
) -> Float[np.ndarray, "channel source"]:
    """Potential at electrodes of unit dipoles, against infinity.

    Electrodes are projected onto the sphere along the radius.

    Args:
        electrode: Metres, any frame.
        position: Metres, same frame, inside the innermost shell.
        orientation: Unit vectors.
        center: Metres, of the head sphere.
        radius: Metres, of the scalp.

    Returns:
        Microvolts per nA·m.

    Raises:
        ValueError: A source is outside the innermost shell.
    """
    direction = electrode - center
    direction = direction / np.linalg.norm(direction, axis=1, keepdims=True)
    inside = (position - center) / radius
    depth = np.linalg.norm(inside, axis=1)
    if (depth >= shells[0][0]).any():
        worst = int(depth.argmax())
        raise ValueError(
            f"lead_field: source {worst} lies at {depth[worst]:.3f} of the head radius, outside "
            f"the brain (below {shells[0][0]}). Move it inwards."
        )
    axis = inside / np.maximum(depth, np.finfo(float).tiny)[:, None]
    cosine = direction @ axis.T  # channel source
    radial = (orientation * axis).sum(1)
    # Change of the cosine with the source's place, along its moment, times the distance.
    sideways = direction @ orientation.T - cosine * radial

    gains = shell_gains(shells)
    total = np.zeros_like(cosine)
    before, legendre = np.ones_like(cosine), cosine.copy()
    slope_before, slope = np.zeros_like(cosine), np.ones_like(cosine)
    power = np.ones_like(depth)
    for n, gain in enumerate(gains, start=1):
        total += gain * power * (n * legendre * radial + slope * sideways)
        power = power * depth
        before, legendre = legendre, ((2 * n + 1) * cosine * legendre - n * before) / (n + 1)
        slope_before, slope = slope, slope_before + (2 * n + 1) * before
    scale = _NANO * UNITS[Kind.EEG].per_si
    return total * scale / (4 * np.pi * shells[0][1] * radius**2)
