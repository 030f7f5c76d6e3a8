"""Views for people: runs, steps, exemplars with their feature, grades and categories counted, LLM calls by role."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0004"
branch_labels = None
depends_on = None

VIEWS = {
    "v_run": """
        SELECT study_run.id AS run_id, study_run.study, study_run.preset, study_run.seed, study_run.model,
            study_run.status, study_run.reason, study_run.started_at, study_run.finished_at, study_run.git_sha,
            study_run.git_dirty, COUNT(run_step.step_id) AS n_steps, study_run.argv
        FROM study_run
        LEFT JOIN run_step ON run_step.run_id = study_run.id
        GROUP BY study_run.id, study_run.study, study_run.preset, study_run.seed, study_run.model, study_run.status,
            study_run.reason, study_run.started_at, study_run.finished_at, study_run.git_sha, study_run.git_dirty,
            study_run.argv
    """,
    "v_step": """
        SELECT run_step.run_id, run_step.position, step.name AS step, step.stage, step.plugin, step.plugin_version,
            step.status, run_step.reused, step.wall_s, step.seed, step.device, step.git_sha, step.key, step.reason,
            step.config_json, step.id AS step_id
        FROM run_step
        JOIN step ON step.id = run_step.step_id
    """,
    "v_exemplar": """
        SELECT run_step.run_id, feature.source, feature.feature, exemplar.rank, exemplar.document, exemplar.position,
            exemplar.tokens_json, exemplar.activations_json, exemplar.target, feature.id AS feature_id
        FROM exemplar
        JOIN feature ON feature.id = exemplar.feature_id
        JOIN run_step ON run_step.step_id = feature.step_id
    """,
    "v_grade": """
        SELECT run_step.run_id, explanation.source, explanation.interpreter, explanation.status, explanation.grade,
            COUNT(*) AS n
        FROM explanation
        JOIN run_step ON run_step.step_id = explanation.step_id
        GROUP BY run_step.run_id, explanation.source, explanation.interpreter, explanation.status, explanation.grade
    """,
    "v_category": """
        SELECT run_step.run_id, step.plugin AS interpreter, category_assignment.source, category_assignment.category,
            COUNT(*) AS n
        FROM category_assignment
        JOIN step ON step.id = category_assignment.step_id
        JOIN run_step ON run_step.step_id = step.id
        GROUP BY run_step.run_id, step.plugin, category_assignment.source, category_assignment.category
    """,
    "v_llm_call": """
        SELECT llm_call.provider, llm_call.model, llm_call.role, llm_call.status, COUNT(*) AS n,
            SUM(llm_call.input_tokens) AS input_tokens, SUM(llm_call.cached_tokens) AS cached_tokens,
            SUM(llm_call.output_tokens) AS output_tokens, SUM(llm_call.price_usd) AS price_usd,
            AVG(llm_call.latency_s) AS mean_latency_s
        FROM llm_call
        GROUP BY llm_call.provider, llm_call.model, llm_call.role, llm_call.status
    """,
}


def upgrade() -> None:
    """Create the views."""
    for name, select in VIEWS.items():
        op.execute(f"CREATE VIEW {name} AS {select.strip()}")


def downgrade() -> None:
    """Drop them."""
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW {name}")
