// What was made of a feature: its explanation and grade, how well the explanation predicts, what its activity goes with.
"use strict";

(() => {
  const { h } = dashboard.dom;
  const { visible, paragraph, number, percent, count, interval } = dashboard.text;
  const { gradeChip } = dashboard.parts;

  function explanation(e) {
    return h(
      "section",
      { class: "explanation" },
      h(
        "p",
        { class: "said" },
        e.explanation === null ? h("span", { class: "muted" }, "no explanation") : paragraph(e.explanation),
      ),
      h(
        "p",
        { class: "chips" },
        gradeChip(e.grade),
        e.grade_top !== e.grade &&
          e.grade_top !== null &&
          h("span", { class: "chip" }, `${e.grade_top} by the highest contexts alone`),
        e.category_name && h("span", { class: "chip" }, visible(e.category_name)),
        h("span", { class: "muted small" }, `by ${visible(e.interpreter)}, from ${count(e.n_exemplars)} contexts`),
      ),
      e.reason &&
        h(
          "p",
          { class: "reason" },
          h("span", { class: "muted" }, e.grade === null ? "Why there is no grade: " : "Reasoning: "),
          paragraph(e.reason),
        ),
      coverage(e.coverage),
      e.category_reason && h("p", { class: "reason small muted" }, "Category: ", paragraph(e.category_reason)),
      e.raw !== null && h("details", {}, h("summary", {}, "The reply as it came"), h("pre", {}, paragraph(e.raw))),
    );
  }

  // What the explanation is worth over all of the feature's activation.
  function coverage(c) {
    if (!c) return null;
    const share = (name) => [
      percent(c[name]),
      " ",
      h("span", { class: "muted" }, interval(c[`${name}_ci_low`], c[`${name}_ci_high`], percent)),
    ];
    const row = (title, density, purity, recall) => [title, percent(c[density]), share(purity), share(recall)];
    const n = `${count(c.n_active)} active and ${count(c.n_inactive)} other tokens`;
    return [
      reading(
        "Over all of its activation, not only the highest",
        ["", "density", "purity, 95 % interval", "recall, 95 % interval"],
        [
          row("as it is", "density_per_token", "purity", "recall"),
          row("as sparse as the sparsest source", "matched_density_per_token", "matched_purity", "matched_recall"),
        ],
      ),
      h(
        "p",
        { class: "legend" },
        "Purity: share of its activation on tokens that the explanation covers; recall: share of the covered tokens on " +
          `which it is active. ${c.basis === "sample" ? `Estimated from ${n} that a scorer was asked about. ` : `${n}. `}`,
        c.reason && paragraph(c.reason),
      ),
    ];
  }

  const reading = (title, head, rows) =>
    h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
      h(
        "table",
        { class: "report compact" },
        h("caption", {}, title),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            head.map((t, i) => h("th", { scope: "col", class: i ? "num" : null }, t)),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map((row) =>
            h(
              "tr",
              {},
              row.map((t, i) => h("td", { class: i ? "num" : null }, t)),
            ),
          ),
        ),
      ),
    );

  // How well the explanation predicts where the feature is active, on contexts that it was not made from.
  function scores(all) {
    if (!all.length) return null;
    const row = (s) => [
      `${s.kind} by ${visible(s.interpreter)}`,
      [number(s.correlation ?? s.balanced_accuracy), " ", h("span", { class: "muted" }, interval(s.ci_low, s.ci_high))],
      number(s.auc),
      `${count(s.n_positive)} + ${count(s.n_negative)}${s.n_unanswered ? `, ${count(s.n_unanswered)} unanswered` : ""}`,
    ];
    const why = [...new Set(all.map((s) => s.reason).filter(Boolean))];
    return [
      reading("Scores of the explanation", ["", "balanced accuracy (simulation: correlation), 95 % interval", "AUC", "n yes + no"], all.map(row)),
      why.map((text) => h("p", { class: "legend" }, paragraph(text))),
    ];
  }

  // What kinds of token its activity goes with, without anybody's explanation.
  function enrichment(all) {
    if (!all.length) return null;
    const row = (e) => [
      `${visible(e.event)} (${e.family})`,
      [number(e.odds_ratio), " ", h("span", { class: "muted" }, interval(e.ci_low, e.ci_high))],
      e.q_value > 0 ? number(e.q_value) : "< 1e−300", // 0 is an underflow, not a probability
      `${count(e.n_both)} of ${count(e.n_event)}`,
    ];
    return reading(
      "Active more, or less, often on",
      ["", "odds ratio, 95 % interval", "q", "active of n"],
      all.map(row),
    );
  }

  dashboard.judgements = { explanation, scores, enrichment };
})();
