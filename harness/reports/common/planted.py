"""How a judge graded planted features, whose right grade is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, and_, select

from harness import stats
from harness.interpretation import agreement
from harness.records import PLANTED
from harness.records.base import Estimate
from harness.reports.common.features import Explained, explanations
from harness.reports.common.rows import cached_query, run_steps
from harness.store.schema import Feature, PlantedFeature


@dataclass(frozen=True)
class PlantedGrade:
    """One planted feature's right grade, and what a judge gave it; `density` is a share of the tokens."""

    kind: str
    right: int
    density: float
    grade: int | None
    status: str
    explained: Explained


@cached_query
def planted_grades(connection: Connection, run_id: int) -> dict[str, list[PlantedGrade]]:
    """Judge -> its grades of all planted features."""
    p, f = PlantedFeature, Feature
    known = connection.execute(
        select(p.feature, p.kind, p.right_grade, f.density_per_token)
        .join(f, and_(f.feature == p.feature, f.source == PLANTED, f.step_id == p.step_id))
        .where(p.step_id.in_(run_steps(run_id)))
    )
    planted = {r.feature: r for r in known}
    found: dict[str, list[PlantedGrade]] = defaultdict(list)
    for e in explanations(connection, run_id):
        if e.source == PLANTED and e.feature in planted:
            r = planted[e.feature]
            found[e.interpreter].append(PlantedGrade(r.kind, r.right_grade, r.density_per_token, e.grade, e.status, e))
    return dict(found)


@dataclass(frozen=True)
class Errors:
    """A judge's errors in telling monosemantic features (grade 0) from others: hits and cases of either kind."""

    n_found: int
    n_monosemantic: int
    n_refused: int
    n_others: int

    @classmethod
    def of(cls, planted: Sequence[PlantedGrade]) -> Errors:
        """A grading that failed calls nothing monosemantic, as in the shares of the grades."""
        yes = [p.grade == 0 for p in planted if p.right == 0]
        no = [p.grade != 0 for p in planted if p.right != 0]
        return cls(sum(yes), len(yes), sum(no), len(no))

    def corrected(self, raw: Estimate, n: int) -> Estimate | stats.Undefined:
        """A share of monosemantic features as it would be without these errors (`agreement.corrected_share`)."""
        if not self.n_monosemantic or not self.n_others:
            return stats.Undefined("not corrected: no features with a known grade were planted and graded")
        return agreement.corrected_share(raw, n, (self.n_found, self.n_monosemantic), (self.n_refused, self.n_others))


def densities(planted: Iterable[PlantedGrade]) -> str:
    """The range of densities, e.g. `0.3 to 11 %`."""
    shares = [100 * p.density for p in planted]
    return f"{min(shares):.2g} to {max(shares):.2g} %"
