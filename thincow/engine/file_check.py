"""The check of the files beside the database: `cowdata` and its label."""

from dataclasses import dataclass
from pathlib import Path

from thincow.engine.findings import Code, Findings, reason
from thincow.errors import CorruptStoreError
from thincow.store.cow_file import COW_NAME
from thincow.store.disk import Disk
from thincow.store.label import LABEL_NAME, Label, read_label


@dataclass(frozen=True, slots=True)
class Contents:
    """What was found beside the database: size of `cowdata` (None: unknown), and the label."""

    cowdata_bytes: int | None
    label: Label | None
    has_label: bool
    """False when `label` says nothing: it could not be read, or was not looked for."""


def is_store_file(path: Path, missing: Code, findings: Findings) -> bool:
    """Tell whether a file of a store is there; when not, note a finding of the code `missing`."""
    try:
        if path.is_file():
            return True
        if path.exists():
            findings.add(Code.FILE_TYPE, str(path), "is no regular file")
        else:
            findings.add(missing, str(path), "is missing")
    except OSError as error:
        findings.add(Code.FILE_TYPE, str(path), reason(error))
    return False


def examine_contents(data_dir: Path, has_cowdata: bool, findings: Findings) -> Contents:
    """Return what there is beside the database; `has_cowdata`: the file was found."""
    size = label = None
    has_label = True
    try:
        if has_cowdata:
            size = (data_dir / COW_NAME).stat().st_size
            findings.count("cowdata_bytes", size)
        if (data_dir / LABEL_NAME).exists():
            has_label = is_store_file(data_dir / LABEL_NAME, Code.LABEL_MISSING, findings)
            label = read_label(Disk(), data_dir) if has_label else None
    except (CorruptStoreError, OSError) as error:
        findings.add(Code.LABEL_DAMAGED, str(data_dir / LABEL_NAME), reason(error))
        has_label = False
    return Contents(size, label, has_label)
