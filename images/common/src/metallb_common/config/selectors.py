"""Checked label selectors -> `LabelSelector`."""

from __future__ import annotations

from typing import Any

from metallb_common.config.errors import Path
from metallb_common.config.report import Report
from metallb_common.net.selectors import LabelSelector, Requirement


class Selectors:
    """Builds the selectors of one document."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def build(self, raw: list[dict[str, Any]] | None, path: Path) -> tuple[LabelSelector, ...]:
        if not raw:
            return ()
        return tuple(self._one(item, (*path, i)) for i, item in enumerate(raw))

    def _one(self, raw: dict[str, Any], path: Path) -> LabelSelector:
        requirements = [Requirement(k, "In", (v or "",)) for k, v in (raw.get("match-labels") or {}).items()]
        for i, item in enumerate(raw.get("match-expressions") or ()):
            operator, values = item["operator"], item.get("values") or []
            here: Path = (*path, "match-expressions", i)
            if operator in ("In", "NotIn") and not values:
                self.report.error(
                    here, f"parsing {self._kind(path)}: {operator} needs at least one value", "add values: [...]"
                )
            elif operator in ("Exists", "DoesNotExist") and values:
                self.report.error(
                    (*here, "values"),
                    f"parsing {self._kind(path)}: {operator} takes no values",
                    "remove values, or use In or NotIn",
                )
            requirements.append(Requirement(item["key"], operator, tuple(sorted({v or "" for v in values}))))
        return LabelSelector(tuple(sorted(requirements, key=lambda r: (r.key, r.operator, r.values))))

    @staticmethod
    def _kind(path: Path) -> str:
        key = next((str(step) for step in reversed(path) if isinstance(step, str)), "selectors")
        return key.removesuffix("s").replace("-", " ")
