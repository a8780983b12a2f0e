"""For which classes one way of training does better than another, and whether over seeds that is more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table
from scipy import stats

from richsem_schemas.io.words import printable_text
from richsem_train.results.class_aps import ClassAps

FALSE_DISCOVERIES = 0.05
"""Share of the classes called sure that may be so by chance."""

TEST = "paired t over seeds, two-sided; q by Benjamini and Hochberg over the classes"

_NO_SPREAD = 1e-9
"""Differences that vary less are the same in each seed, and tell nothing of chance."""

_SHOWN = 10
_DIGITS = 6


@dataclass(frozen=True)
class ClassGain:
    """The gain of a class over the baseline.

    Attributes:
        name: of the class.
        frequency: r, c, f, or empty.
        ap_before: mean of the baseline's seeds.
        ap: mean of the others'.
        gain: mean difference, seed by seed.
        deviation: sample standard deviation of the differences; None of one.
        p: chance of such a mean where there is none; None where chance can't be told: one seed, or no spread.
        q: the same for all classes together: of those with at most this q, that share is expected to be by chance.
    """

    name: str
    frequency: str
    ap_before: float
    ap: float
    gain: float
    deviation: float | None
    p: float | None
    q: float | None

    @property
    def is_sure(self) -> bool:
        """Whether it is more than chance."""
        return self.q is not None and self.q <= FALSE_DISCOVERIES


@dataclass(frozen=True)
class ClassGains:
    """The gains of an arm, the largest first.

    Attributes:
        seeds: those that both arms have and that tell APs of classes.
        gains: of the classes that have an AP in all of them.
        regrouped: those that the baseline takes for another frequency; APr, APc and APf are of different classes then.
    """

    seeds: tuple[int, ...]
    gains: tuple[ClassGain, ...]
    regrouped: tuple[str, ...] = ()

    @property
    def sure(self) -> tuple[int, int]:
        """How many classes gained, and how many lost, by more than chance."""
        return sum(each.is_sure and each.gain > 0 for each in self.gains), sum(
            each.is_sure and each.gain < 0 for each in self.gains
        )

    def as_json(self) -> dict[str, Any]:
        """For `comparison.json`."""
        gained, lost = self.sure
        return {
            "seeds": list(self.seeds),
            "test": TEST if len(self.seeds) > 1 else None,
            "false_discoveries": FALSE_DISCOVERIES,
            "surely_gained": gained,
            "surely_lost": lost,
            "of_another_frequency": list(self.regrouped),
            "classes": [
                {
                    key: round(value, _DIGITS) if isinstance(value, float) else value
                    for key, value in asdict(one).items()
                }
                for one in self.gains
            ],
        }


def class_gains(arm: Mapping[int, ClassAps], baseline: Mapping[int, ClassAps]) -> ClassGains:
    """Compare the APs of classes of two arms, each by seed; classes are joined by name, seeds by number.

    Source:
        Student's t of the differences, as `scipy.stats.ttest_rel`; Benjamini and Hochberg 1995, as
        `scipy.stats.false_discovery_control`. Differences of APs are taken to be normal, and those of classes to depend
        on each other positively, as such of the same pictures do.
    """
    seeds = tuple(sorted(set(arm) & set(baseline)))
    if not seeds:
        return ClassGains((), ())
    here, there = ([runs[seed].by_name() for seed in seeds] for runs in (arm, baseline))
    known = set.intersection(*(set(aps) for aps in (*here, *there)))
    frequency_of, frequency_before = (_frequencies(runs[seeds[0]]) for runs in (arm, baseline))
    names = [name for name in frequency_of if name in known]
    aps_SN, before_SN = (np.array([[aps[name] for name in names] for aps in runs]) for runs in (here, there))
    differences_SN = aps_SN - before_SN
    chances = _chances(differences_SN)
    adjusted = _adjusted(chances)
    deviations = differences_SN.std(axis=0, ddof=1) if len(seeds) > 1 else np.full(len(names), np.nan)
    gains = [
        ClassGain(
            name,
            frequency_of[name],
            float(before_SN[:, n].mean()),
            float(aps_SN[:, n].mean()),
            float(differences_SN[:, n].mean()),
            _number(deviations[n]),
            _number(chances[n]),
            _number(adjusted[n]),
        )
        for n, name in enumerate(names)
    ]
    regrouped = tuple(name for name in names if frequency_of[name] != frequency_before[name])
    return ClassGains(seeds, tuple(sorted(gains, key=lambda each: -each.gain)), regrouped)


def _frequencies(aps: ClassAps) -> dict[str, str]:
    return dict(zip(aps.names, aps.frequencies, strict=True))


def regrouped_line(gains: ClassGains, baseline: str) -> str:
    """That two arms mean different classes by rare, common and frequent, in words; empty where they mean the same."""
    if not gains.regrouped:
        return ""
    return (
        f"APr, APc and APf are of different classes than {printable_text(baseline)}'s: {len(gains.regrouped):,} are of "
        f"another frequency there, such as {printable_text(gains.regrouped[0])}; compare AP, or score both with the "
        "same annotations and frequencies (richsem-train eval)"
    )


def gains_line(gains: ClassGains) -> str:
    """How many classes gained and lost, and how many of them by more than chance, in words."""
    up, down = sum(each.gain > 0 for each in gains.gains), sum(each.gain < 0 for each in gains.gains)
    line = f"of {len(gains.gains):,} classes {up:,} gained and {down:,} lost"
    if len(gains.seeds) < 2:
        return (
            f"{line}; whether that is more than chance can't be told from one seed: train others "
            "(--set seed=1, in an OUT of their own) and give all of them"
        )
    gained, lost = gains.sure
    return (
        f"{line}, {gained:,} and {lost:,} of them by more than chance: {len(gains.seeds)} seeds, paired t, at most "
        f"{FALSE_DISCOVERIES:.0%} false discoveries (Benjamini-Hochberg)"
    )


def gains_table(gains: ClassGains, *, title: str) -> Table:
    """The classes that gained most, and those that lost most."""
    table = Table(title=escape(printable_text(title)), show_edge=False)
    table.add_column("class", overflow="fold")
    for column in ("", "before", "AP", "gain", "±", "q"):
        table.add_column(column, justify="right")
    gained = [each for each in gains.gains[:_SHOWN] if each.gain > 0]
    lost = [each for each in gains.gains[-_SHOWN:] if each.gain < 0]
    for listed in (gained, lost):
        for each in listed:
            table.add_row(*_cells(each))
        table.add_section()
    return table


def _cells(gain: ClassGain) -> Sequence[str]:
    return (
        escape(printable_text(gain.name)),
        gain.frequency,
        f"{gain.ap_before:.3f}",
        f"{gain.ap:.3f}",
        f"{gain.gain:+.3f}" + ("*" if gain.is_sure else ""),
        "-" if gain.deviation is None else f"{gain.deviation:.3f}",
        "-" if gain.q is None else f"{gain.q:.3f}",
    )


def _chances(differences_SN: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance p of each class [N]; NaN where chance can't be told, 1 where nothing differs."""
    seeds, classes = differences_SN.shape
    chances = np.full(classes, np.nan)
    if seeds < 2:
        return chances
    varies = differences_SN.std(axis=0) > _NO_SPREAD
    if varies.any():
        chances[varies] = stats.ttest_1samp(differences_SN[:, varies], 0.0, axis=0).pvalue
    chances[~varies & (np.abs(differences_SN).max(axis=0) <= _NO_SPREAD)] = 1.0
    return chances


def _adjusted(chances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Chance q of each class [N], over those whose chance can be told."""
    told = ~np.isnan(chances)
    adjusted = chances.copy()
    if told.any():
        adjusted[told] = stats.false_discovery_control(chances[told], method="bh")
    return adjusted


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
