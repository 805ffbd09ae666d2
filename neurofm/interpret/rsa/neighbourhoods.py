"""Which voxels, vertices or sensors belong together: one row of a sparse table for each centre.

Axes: centre = row, place = column; 1 where the place belongs to the centre.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse import csgraph
from scipy.spatial import cKDTree

from neurofm.shapes import Bool, Float, Int

MIN_PLACES = 10


@dataclass(frozen=True)
class Neighbourhoods:
    """Places around each centre.

    Args:
        incidence: Sparse, `centre place`.
        centre: Place in the middle of each; what was left out has no row.
        dropped: Centres with too few places.
    """

    incidence: Any
    centre: Int[np.ndarray, " centre"]
    dropped: int

    @property
    def sizes(self) -> Int[np.ndarray, " centre"]:
        """Places of each centre."""
        return np.diff(self.incidence.indptr)

    def spread(self, values: Float[np.ndarray, " centre"]) -> Float[np.ndarray, " place"]:
        """One value for each place, NaN where there is no centre."""
        whole = np.full(self.incidence.shape[1], np.nan)
        whole[self.centre] = values
        return whole


def volume_spheres(
    mask: Bool[np.ndarray, "x y z"],
    *,
    radius: float | int | None = None,
    radius_mm: float | int | None = None,
    affine: Float[np.ndarray, "4 4"] | None = None,
    min_places: int = MIN_PLACES,
) -> Neighbourhoods:
    """Spheres around the voxels of a mask, cut to the mask; places are the mask's voxels in order.

    Args:
        radius: In voxels; nearer than that belongs to the sphere.
        radius_mm: In its place, with `affine`: up to that distance.
        affine: Voxel to millimetres.
        min_places: Centres with fewer voxels are left out.
    """
    index = np.argwhere(mask).astype(np.float64)
    if not len(index):
        raise ValueError("volume_spheres: the mask is empty.")
    if (radius is None) == (radius_mm is None) or (radius_mm is None) != (affine is None):
        raise ValueError("volume_spheres: give `radius` in voxels, or `radius_mm` with `affine`.")
    if affine is not None and radius_mm is not None:
        index = index @ np.asarray(affine, dtype=np.float64)[:3, :3].T
        return point_spheres(index, radius=radius_mm, min_places=min_places)
    return point_spheres(index, radius=float(radius or 0), strict=True, min_places=min_places)


def point_spheres(
    position: Float[np.ndarray, "place 3"],
    *,
    radius: float | int,
    strict: bool = False,
    centres: Sequence[int] | np.ndarray | None = None,
    min_places: int = MIN_PLACES,
) -> Neighbourhoods:
    """Places within a radius of each place, in the unit of the positions.

    Args:
        strict: Nearer than the radius, instead of up to it.
        centres: Places to put spheres around; all if not given.
    """
    if not radius > 0:
        raise ValueError(f"point_spheres: radius of {radius}, expected above 0.")
    if not np.isfinite(position).all():
        raise ValueError("point_spheres: some places have no position. Leave them out.")
    # Distances are sums of squares: equal ones may differ in the last digits.
    reach = radius * (1 - 1e-9 if strict else 1 + 1e-6)
    n, tree = len(position), cKDTree(position)
    if centres is not None:
        wanted = np.asarray(centres, dtype=int)
        found = tree.query_ball_point(position[wanted], reach)
        rows = np.repeat(np.arange(len(wanted)), [len(one) for one in found])
        columns = np.concatenate([np.zeros(0, int), *found]).astype(int)
    else:
        pairs = tree.query_pairs(reach, output_type="ndarray")
        wanted = np.arange(n)
        rows = np.concatenate([wanted, pairs[:, 0], pairs[:, 1]])
        columns = np.concatenate([wanted, pairs[:, 1], pairs[:, 0]])
    table = sparse.csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(wanted), n))
    return _large_enough(table, min_places, wanted)


def surface_discs(
    vertices: Float[np.ndarray, "vertex 3"],
    faces: Int[np.ndarray, "face 3"],
    *,
    radius: float | int,
    min_places: int = MIN_PLACES,
) -> Neighbourhoods:
    """Vertices within a distance along the edges of a surface, never across a sulcus.

    Args:
        radius: In the unit of the vertices. Ways along edges are somewhat longer than over faces.
    """
    if not radius > 0:
        raise ValueError(f"surface_discs: radius of {radius}, expected above 0.")
    edges = np.unique(
        np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [0, 2]]]), axis=1),
        axis=0,
    )
    long = np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1)
    n = len(vertices)
    graph = sparse.csr_array((long, (edges[:, 0], edges[:, 1])), shape=(n, n))
    found = []
    step = max(1, 4_000_000 // n)
    for start in range(0, n, step):
        distance = csgraph.dijkstra(
            graph, directed=False, indices=np.arange(start, min(start + step, n)), limit=radius
        )
        found.append(sparse.csr_array(np.isfinite(distance).astype(np.float64)))
    return _large_enough(sparse.csr_array(sparse.vstack(found)), min_places)


def sensor_neighbours(adjacency: Any, *, order: int = 1, min_places: int = 1) -> Neighbourhoods:
    """Sensors and their neighbours, such as MNE's adjacency.

    Args:
        adjacency: Sparse or dense, sensor by sensor; anything but 0 is a neighbour.
        order: Steps from neighbour to neighbour.
    """
    table = sparse.csr_array(adjacency)
    n = table.shape[0]
    if table.shape != (n, n) or order < 1:
        raise ValueError(f"sensor_neighbours: adjacency of {table.shape}, {order} steps.")
    step = sparse.csr_array(((table + table.T) != 0).astype(np.float64) + sparse.eye_array(n))
    reached = step
    for _ in range(order - 1):
        reached = reached @ step
    return _large_enough(sparse.csr_array((reached != 0).astype(np.float64)), min_places)


def _large_enough(table: Any, least: int, centres: np.ndarray | None = None) -> Neighbourhoods:
    table.sort_indices()
    sizes = np.diff(table.indptr)
    kept = np.flatnonzero(sizes >= least)
    if not len(kept):
        raise ValueError(
            f"searchlight: no centre has {least} places; the largest has {sizes.max(initial=0)}. "
            "Take a larger radius."
        )
    centre = kept if centres is None else centres[kept]
    return Neighbourhoods(table[kept], centre, len(sizes) - len(kept))
