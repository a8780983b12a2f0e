"""Words that several analyses print."""

NO_FREQUENCIES = "no frequencies: nobody says which categories are rare; --annotations of LVIS's format do"


def percent(value: float | None) -> str:
    """A share of 0 to 1 in a table of percents."""
    return "-" if value is None else f"{100 * value:.1f}"
