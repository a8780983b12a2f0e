"""Records of `richsem-prep audit`, read and shown; needs no torch."""

from rich.table import Table

from richsem_schemas.cache.layout import LabelSetLayout
from richsem_schemas.cache.manifest import AuditRecord, Spread
from richsem_schemas.errors import CorruptCacheError
from richsem_schemas.io.places import Place


def last_audit(label_set: LabelSetLayout, fingerprint: str) -> AuditRecord | None:
    """The last audit of a label set as it is now; None where there was none, or only of a set that it replaced.

    Raises:
        CorruptCacheError: its record is damaged.
    """
    if not label_set.audits.is_dir():
        return None
    paths: list[Place] = [*label_set.audits.iterdir()]
    for path in sorted(paths, key=lambda path: path.name, reverse=True):
        if path.suffix == ".json" and not path.name.startswith("."):
            record = _read(path)
            return record if record.spec_fingerprint == fingerprint else None
    return None


def _read(path: Place) -> AuditRecord:
    try:
        return AuditRecord.read(path)
    except CorruptCacheError as error:
        raise CorruptCacheError(f"{error}; remove it, and audit again") from None


def audit_table(record: AuditRecord) -> Table:
    """The spread of cosines and KL beside their bounds."""
    table = Table(title=f"audit of label set {record.label_set}", title_justify="left", box=None)
    for column in ("", "lowest", "1%", "median", "mean", "99%", "highest", "bound"):
        table.add_column(column, justify="right" if column else "left")
    if record.cosine is not None:
        table.add_row("cosine", *(f"{value:.6f}" for value in _values(record.cosine)), f">= {record.min_cosine:g}")
    table.add_row("KL", *(f"{value:.1e}" for value in _values(record.kl)), f"<= {record.max_kl:g}")
    return table


def _values(spread_: Spread) -> tuple[float, ...]:
    s = spread_
    return s.lowest, s.percentile_1, s.median, s.mean, s.percentile_99, s.highest


def audit_line(record: AuditRecord) -> str:
    """An audit in one line."""
    cosine = f"cosine at least {record.cosine.lowest:.6f}, " if record.cosine else ""
    verdict = "passed" if record.passed else f"failed, worst {record.worst}"
    what = f"{record.regions:,} regions of {record.views:,} views in {record.shards:,} shards"
    return (
        f"{verdict}: {what}; {cosine}KL at most {record.kl.highest:.1e} nats; {record.at}, {record.environment.device}"
    )
