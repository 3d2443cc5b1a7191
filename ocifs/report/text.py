"""Numbers as people read them."""


def human_size(size: int) -> str:
    """Return bytes with three digits and a binary unit."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} EiB"
