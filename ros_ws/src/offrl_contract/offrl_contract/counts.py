"""What the samples of a term held that a rule of the robot file had to deal with."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ValueCounts:
    """Counts over the messages of one term; sums with `+`."""

    messages: int = 0
    values: int = 0
    """Numbers read, before bins are reduced."""
    nan: int = 0
    """Values that are NaN."""
    inf: int = 0
    """Values that are +inf or -inf."""
    out_of_range: int = 0
    """Finite LaserScan readings outside [range_min, range_max]."""
    most_missing: float = 0.0
    """Greatest share of one message's array that is NaN, infinite or out of range."""
    scarce: int = 0
    """Messages with more of these than the term's `max_missing`; no tick uses them."""
    clipped: int = 0
    """Finite values outside `clip`, after bins are reduced."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Messages by length of their array; empty for a term that reads no array."""

    def __add__(self, other: "ValueCounts") -> "ValueCounts":
        """Return the counts over the messages of both."""
        return ValueCounts(
            messages=self.messages + other.messages,
            values=self.values + other.values,
            nan=self.nan + other.nan,
            inf=self.inf + other.inf,
            out_of_range=self.out_of_range + other.out_of_range,
            most_missing=max(self.most_missing, other.most_missing),
            scarce=self.scarce + other.scarce,
            clipped=self.clipped + other.clipped,
            lengths=dict(Counter(self.lengths) + Counter(other.lengths)),
        )
