-- Views for people: readable names, and the run's id. Made anew after every migration. The comment above a view is its
-- description in docs/schema.md and Datasette. Views with one row per record have all of the record's columns.

-- One row per run: study, preset, seed, model, commit, status.
CREATE VIEW v_run AS
SELECT study_run.id AS run_id, study_run.study, study_run.preset, study_run.seed, study_run.model, study_run.status,
    study_run.reason, study_run.started_at, study_run.finished_at, study_run.git_sha, study_run.git_dirty,
    COUNT(run_step.step_id) AS n_steps, study_run.argv
FROM study_run
LEFT JOIN run_step ON run_step.run_id = study_run.id
GROUP BY study_run.id, study_run.study, study_run.preset, study_run.seed, study_run.model, study_run.status,
    study_run.reason, study_run.started_at, study_run.finished_at, study_run.git_sha, study_run.git_dirty,
    study_run.argv;

-- The steps of each run in order, with key, settings, seed, commit, and wall time in seconds.
CREATE VIEW v_step AS
SELECT run_step.run_id, run_step.position, step.name AS step, step.stage, step.kind, step.plugin, step.plugin_version,
    step.status, run_step.reused, step.wall_s, step.seed, step.device, step.git_sha, step.key, step.reason,
    step.config_json, step.id AS step_id
FROM run_step
JOIN step ON step.id = run_step.step_id;

-- Benchmark scores (0 to 1) per run, model variant and benchmark; n_items are the items.
CREATE VIEW v_evaluation AS
SELECT run_step.run_id, step.name AS step, step.status, step.git_sha, evaluation.*, evaluation.id AS evaluation_id
FROM evaluation
JOIN step ON step.id = evaluation.step_id
JOIN run_step ON run_step.step_id = step.id;

-- KL(adapter || ablated) in nats per token with 95 % intervals over documents, per run.
CREATE VIEW v_ablation AS
SELECT run_step.run_id, step.name AS step, ablation_score.*
FROM ablation_score
JOIN step ON step.id = ablation_score.step_id
JOIN run_step ON run_step.step_id = step.id;

-- Dictionaries on held-out documents: FVU (0 is perfect), L0, KL of the spliced model in nats.
CREATE VIEW v_dictionary AS
SELECT run_step.run_id, dictionary_score.*
FROM dictionary_score
JOIN run_step ON run_step.step_id = dictionary_score.step_id;

-- KL in nats per token of taking one latent out of the adapter's scalars, per run and dictionary.
CREATE VIEW v_latent AS
SELECT run_step.run_id, latent_effect.source AS dictionary, latent_effect.*
FROM latent_effect
JOIN run_step ON run_step.step_id = latent_effect.step_id;

-- Features with their explanation, grade, purity and recall, once per interpreter; density is a share of tokens.
CREATE VIEW v_feature AS
SELECT run_step.run_id, feature.*, explanation.interpreter, explanation.explanation, explanation.grade,
    explanation.grade_top, explanation.reason, coverage.purity, coverage.purity_ci_low, coverage.purity_ci_high,
    coverage.recall, coverage.recall_ci_low, coverage.recall_ci_high, feature.id AS feature_id
FROM feature
JOIN run_step ON run_step.step_id = feature.step_id
LEFT JOIN explanation ON explanation.source = feature.source AND explanation.feature = feature.feature
    AND explanation.step_id IN (SELECT other.step_id FROM run_step other WHERE other.run_id = run_step.run_id)
LEFT JOIN coverage ON coverage.source = feature.source AND coverage.feature = feature.feature
    AND coverage.interpreter = explanation.interpreter
    AND coverage.step_id IN (SELECT other.step_id FROM run_step other WHERE other.run_id = run_step.run_id);

-- The contexts of each feature; tokens and activations are JSON lists, rank 0 is the highest activation.
CREATE VIEW v_exemplar AS
SELECT run_step.run_id, feature.source, feature.feature, exemplar.*
FROM exemplar
JOIN feature ON feature.id = exemplar.feature_id
JOIN run_step ON run_step.step_id = feature.step_id;

-- Explanations counted by run, source, interpreter, status and grade.
CREATE VIEW v_grade AS
SELECT run_step.run_id, explanation.source, explanation.interpreter, explanation.status, explanation.grade,
    COUNT(*) AS n
FROM explanation
JOIN run_step ON run_step.step_id = explanation.step_id
GROUP BY run_step.run_id, explanation.source, explanation.interpreter, explanation.status, explanation.grade;

-- Features counted by run, interpreter, source and category.
CREATE VIEW v_category AS
SELECT run_step.run_id, step.plugin AS interpreter, category_assignment.source, category_assignment.category,
    COUNT(*) AS n
FROM category_assignment
JOIN step ON step.id = category_assignment.step_id
JOIN run_step ON run_step.step_id = step.id
GROUP BY run_step.run_id, step.plugin, category_assignment.source, category_assignment.category;

-- LLM calls by provider, model, role and status: tokens, price (US dollars), mean latency (seconds).
CREATE VIEW v_llm_call AS
SELECT llm_call.provider, llm_call.model, llm_call.role, llm_call.status, COUNT(*) AS n,
    SUM(llm_call.input_tokens) AS input_tokens, SUM(llm_call.cached_tokens) AS cached_tokens,
    SUM(llm_call.output_tokens) AS output_tokens, SUM(llm_call.price_usd) AS price_usd,
    AVG(llm_call.latency_s) AS mean_latency_s
FROM llm_call
GROUP BY llm_call.provider, llm_call.model, llm_call.role, llm_call.status;
