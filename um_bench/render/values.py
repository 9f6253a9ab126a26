"""What one place of a table shows, and how a number is written there."""

from typing import NamedTuple

from um_bench.leaderboard import Spread
from um_bench.render import words
from um_bench.statistics import RankRange


class Value(NamedTuple):
    """What one place of a table shows. All text is raw: every format escapes it in its way."""

    text: str
    """A name, a mean in percent, or why there is none."""
    sd: str = ""
    """Standard deviation in percent; empty where there is none, or an interval stands for it."""
    half: str = ""
    """Half the width of its interval in percent; empty where there is none."""
    best: bool = False
    """Whether it is the best of its column, among the complete ones."""
    tied: bool = False
    """Whether it is not the best, and no row is significantly better."""
    incomplete: str = ""
    """What it is over, `2 of 3 seeds`, if that is not everything."""
    is_number: bool = True
    alarms: tuple[str, ...] = ()
    """Names of the alarms that what it is made of raises."""

    @property
    def marks(self) -> str:
        """What stands beside the number, each sign explained below the table."""
        return words.INCOMPLETE * bool(self.incomplete) + words.ALARM * bool(self.alarms)


class Reading(NamedTuple):
    """What one row has for one column."""

    spread: Spread
    complete: bool = True
    instead: str = words.NO_NUMBER
    """Shown where there is no number."""
    alarms: tuple[str, ...] = ()
    rank: RankRange | None = None
    """None where rows are not ranked, or no two of them could be told apart."""


def mean_and_sd(reading: Reading, expected: int) -> Value:
    """Return a mean in percent with its standard deviation; `expected`: how many seeds."""
    sd = reading.spread.sd
    return mean(reading, expected)._replace(sd="" if sd is None else percent(sd))


def mean(reading: Reading, expected: int) -> Value:
    """Return a mean in percent."""
    spread = reading.spread
    if spread.mean is None:
        return Value(reading.instead)
    return Value(percent(spread.mean), incomplete=_over(spread, expected), alarms=reading.alarms)


def difference(reading: Reading, expected: int) -> Value:
    """Return a signed mean in percent, with its interval, or else its standard deviation."""
    spread = reading.spread
    if spread.mean is None:
        return Value(reading.instead)
    shown = Value(percent(spread.mean, signed=True), incomplete=_over(spread, expected))
    if spread.interval is not None:
        return shown._replace(half=percent((spread.interval.high - spread.interval.low) / 2))
    return shown._replace(sd="" if spread.sd is None else percent(spread.sd))


def ranks(reading: Reading, expected: int) -> Value:
    """Return the ranks that a row may have."""
    return Value(words.NO_NUMBER if reading.rank is None else str(reading.rank))


def seconds(reading: Reading, expected: int) -> Value:
    """Return a mean time with three digits."""
    time = reading.spread.mean
    if time is None:
        return Value(reading.instead)
    text = f"{time:.0f}" if time >= 100 else f"{time:.3g}"
    return Value(text, incomplete=_over(reading.spread, expected))


def percent(fraction: float, *, signed: bool = False) -> str:
    """Return a fraction in percent with two decimals; zero has no sign."""
    text = f"{100 * fraction:+.2f}" if signed else f"{100 * fraction:.2f}"
    return text.lstrip("+-") if float(text) == 0 else text


def hundredths(fraction: float) -> int:
    """Return the digits that `percent` writes, as a whole number of hundredths of a percent."""
    exact = 10_000 * fraction
    whole = round(exact)
    # Asked a million times for a large page. Only near the middle do the two ways round apart.
    if abs(exact - whole) < 0.499:
        return whole
    return int(f"{100 * fraction:.2f}".replace(".", ""))


def _over(spread: Spread, expected: int) -> str:
    return f"{spread.n} of {expected} seeds" if spread.n < expected else ""
