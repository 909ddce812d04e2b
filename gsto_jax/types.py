"""Types that modules of any floor share."""

Size = tuple[int, int]
"""Height and width in pixels."""
