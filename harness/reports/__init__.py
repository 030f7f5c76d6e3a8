"""The reports, one module each: its row, its query, its columns and its legend, as `REPORT`.

A report is there by lying here: `harness report`, its help, the export, the dashboard and docs/cli.md list what this
folder holds. What several reports share is in `common/`.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any

from harness.contract.report import Report
from harness.errors import UsageError


def report_names() -> list[str]:
    """Names of the harness's own reports in alphabetical order, read from their files without importing them."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__) if not module.ispkg)


def load_reports(of_plugins: Iterable[Report[Any]] = ()) -> dict[str, Report[Any]]:
    """All reports by name, in the order in which they are read.

    Args:
        of_plugins: what plugins bring (`Manager.reports`).

    Raises:
        UsageError: two reports have one name.
    """
    of_harness = [importlib.import_module(f"{__name__}.{name.replace('-', '_')}").REPORT for name in report_names()]
    reports: dict[str, Report[Any]] = {}
    for report in sorted((*of_harness, *of_plugins), key=lambda r: r.order):
        if report.name in reports:
            raise UsageError(f"two reports are called {report.name!r}; a plugin's report needs a name of its own")
        reports[report.name] = report
    return reports
