// Parts that several pages show.
"use strict";

(() => {
  const { h } = dashboard.dom;
  const { visible, paragraph } = dashboard.text;

  const GRADES = [
    { grade: 0, sign: "●", name: "monosemantic" },
    { grade: 1, sign: "◐", name: "broad but consistent" },
    { grade: 2, sign: "○", name: "polysemantic" },
    { grade: "none", sign: "×", name: "failed or not explained" },
  ];

  const place = {
    feature: (source, feature) => `#/feature/${encodeURIComponent(source)}/${encodeURIComponent(feature)}`,
    component: (name) => `#/component/${encodeURIComponent(name)}`,
    document: (id, source, feature, at) => {
      const query = new URLSearchParams();
      if (source !== undefined) query.set("source", source);
      if (feature !== undefined) query.set("feature", feature);
      if (at !== undefined) query.set("at", at);
      return `#/document/${encodeURIComponent(id)}${query.size ? `?${query}` : ""}`;
    },
    features: (filter = {}) => {
      const query = new URLSearchParams(Object.entries(filter).filter(([, v]) => v !== null && v !== ""));
      return `#/features${query.size ? `?${query}` : ""}`;
    },
  };

  const gradeOf = (grade) => GRADES.find((g) => g.grade === (grade ?? "none"));

  function gradeSign(grade) {
    const { sign, name } = gradeOf(grade);
    return h(
      "span",
      { class: `grade grade-${grade ?? "none"}`, title: name, "aria-label": `grade: ${name}`, role: "img" },
      sign,
    );
  }

  function gradeChip(grade) {
    const { sign, name } = gradeOf(grade);
    return h(
      "span",
      { class: `chip grade-${grade ?? "none"}` },
      h("span", { "aria-hidden": "true" }, sign),
      ` ${grade === null || grade === undefined ? "no grade" : `${grade} ${name}`}`,
    );
  }

  // Names beside values; entries without a value are left out.
  const facts = (entries) =>
    h(
      "dl",
      { class: "facts" },
      entries
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
    );

  // A table of the report: cells are lists of lines, the first is the number and the others stand below it.
  function table({ title, columns, rows }) {
    const cell = (lines, column) => {
      const [first, ...rest] = lines;
      return h(
        "td",
        { class: column.justify === "right" ? "num" : column.wide ? "wide" : null },
        first === undefined ? "" : paragraph(first),
        rest.map((line) => h("div", { class: "under" }, paragraph(line))),
      );
    };
    return h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": title ?? "Table" },
      h(
        "table",
        { class: "report" },
        title && h("caption", {}, visible(title)),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            columns.map((c) =>
              h("th", { scope: "col", class: c.justify === "right" ? "num" : null }, visible(c.header)),
            ),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map((row) =>
            h(
              "tr",
              {},
              row.map((lines, i) => cell(lines, columns[i])),
            ),
          ),
        ),
      ),
    );
  }

  const empty = (why) => h("p", { class: "empty" }, paragraph(why));

  // A heading that takes the focus when its page opens, so that readers and keyboards start there.
  const heading = (...children) => h("h1", { tabindex: -1 }, children);

  dashboard.parts = { GRADES, place, gradeSign, gradeChip, facts, table, empty, heading };
  dashboard.pages = {};
})();
