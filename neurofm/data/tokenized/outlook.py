"""What a store of tokens was made of, and what making it again would do, in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from neurofm.data.preparing.keys import default_store_root
from neurofm.io import Store
from neurofm.io.stores.inventory import is_store
from neurofm.io.stores.tokens import CODE_VERSION


def outlook_of_tokens(store: Store, *, only: str | None = None) -> Iterator[str]:
    """Lines about a store of tokens on a disk.

    Args:
        only: Id of one recording.
    """
    about = store.about
    cut = about.get("cut", {})
    where = (
        f"at {', '.join(cut['labels'])}" if cut.get("labels") else f"every {cut['stride_s']:g} s"
    )
    source = about.get("tokenizer_source")
    yield (
        f"  tokens by {about.get('tokenizer')}{f' ({source})' if source else ''}, of windows of "
        f"{cut['window_s']:g} s {where}; values kept: {about.get('values')}"
    )
    name = str(about.get("prepared"))
    folders = [root / name for root in (default_store_root(), store.path.resolve().parent)]
    signal = next((Path(folder) for folder in folders if is_store(folder)), None)
    if signal is None:
        yield f"Whether anything would be made anew cannot be said: there is no store {name}."
        return
    now = set(Store(signal).keys)
    kept, anew = 0, []
    for entry in store.entries:
        if only not in (None, entry.recording.id):
            continue
        made = entry.provenance
        if made.get("prepared") in now and made.get("code_version") == CODE_VERSION:
            kept += 1
        else:
            anew.append(entry.recording.id)
    yield f"Tokenized again, {kept} recordings would be kept (as {signal} is now)."
    if anew:
        yield f"  made anew: {len(anew)}, such as {anew[0]}: prepared anew, or the code changed"
