"""Shape annotations: `Float[Tensor, "batch channel time"]`.

jaxtyping if it is installed, otherwise stand-ins that ignore the axes, so that users need no extra
package. Tests run with the jaxtyping hook, where a wrong shape fails at the line that made it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Anything:
            def __class_getitem__(cls, item: Any) -> Any:
                return item[0]

        Bool = Float = Int = _Anything

__all__ = ["Bool", "Float", "Int"]
