// The overview: the run, what each source's features were graded, the figures and the report's tables.
"use strict";

(() => {
  const { h } = dashboard.dom;
  const { visible, paragraph, count, percent, seconds } = dashboard.text;
  const { GRADES, place, facts, table, empty, heading } = dashboard.parts;

  function header({ run }) {
    const commit = run.git_sha ? `${run.git_sha.slice(0, 10)}${run.git_dirty ? " (dirty)" : ""}` : null;
    return h(
      "section",
      { class: "run" },
      heading(visible(run.study)),
      h("p", { class: "lead" }, `Run ${run.run_id}, ${run.status}`, run.reason && `: ${visible(run.reason)}`),
      facts([
        ["model", run.model && visible(run.model)],
        ["preset", run.preset ?? "none"],
        ["seed", String(run.seed)],
        ["started (UTC)", run.started_at.slice(0, 16).replace("T", " ")],
        ["steps took", seconds(run.wall_s)],
        ["steps", `${run.n_steps_done} of ${run.n_steps} done, ${run.n_steps_reused} reused`],
        [
          "LLM calls",
          `${count(run.n_llm_calls)}${run.n_llm_calls_failed ? `, ${count(run.n_llm_calls_failed)} failed` : ""}`,
        ],
        ["commit", commit],
        ["device", run.device],
      ]),
      h(
        "details",
        {},
        h("summary", {}, "Versions, command and step keys"),
        h("p", { class: "small" }, visible(run.versions)),
        h("pre", {}, visible(run.argv)),
        h(
          "div",
          { class: "scroll", tabindex: 0, role: "region", "aria-label": "Step keys" },
          h(
            "table",
            { class: "report" },
            h(
              "tbody",
              {},
              run.steps.map((s) =>
                h("tr", {}, h("td", {}, visible(s.step)), h("td", {}, s.status), h("td", { class: "mono" }, s.key)),
              ),
            ),
          ),
        ),
      ),
    );
  }

  // What `harness report` prints: recovery, where the effect sits, features worth seeing, controls.
  function summary({ heading: title, columns, rows, heat, items }) {
    return h(
      "section",
      { class: "summary" },
      h("h2", {}, visible(title)),
      rows.length > 0 && table({ title: null, columns, rows }),
      heat && heatTable(heat),
      items.map((item) => {
        const head = item.feature
          ? h("a", { href: place.feature(...item.feature) }, visible(item.head))
          : paragraph(item.head);
        return h("div", { class: "item" }, head, item.below.map((line) => h("div", { class: "small muted" }, visible(line))));
      }),
    );
  }

  function heatTable({ title, layers, rows }) {
    const box = ({ text, share }) => {
      const cell = h("span", {}, text ?? "–");
      if (share !== null) cell.style.setProperty("--strength", share.toFixed(3));
      if (share > 0.55) cell.classList.add("strong");
      return h("td", {}, cell);
    };
    return h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": visible(title) },
      h(
        "table",
        { class: "heatmap" },
        h(
          "thead",
          {},
          h("tr", {}, h("td", {}), h("th", { scope: "col" }, "mean"), layers.map((x) => h("th", { scope: "col" }, `L${x}`))),
        ),
        h(
          "tbody",
          {},
          rows.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name), h("td", {}, row.mean), row.cells.map(box))),
        ),
      ),
    );
  }

  // How many features of a source have each grade, as one bar; each part leads to those features.
  function source(catalogue, { source, n_features, reason }) {
    const all = catalogue.select({ source });
    const tally = new Map(GRADES.map((g) => [g.grade, 0]));
    for (const i of all)
      tally.set(
        catalogue.explanation(i)?.grade ?? "none",
        (tally.get(catalogue.explanation(i)?.grade ?? "none") ?? 0) + 1,
      );
    const parts = GRADES.filter((g) => tally.get(g.grade)).map((g) => {
      const n = tally.get(g.grade);
      const label = `${g.name}: ${count(n)} of ${count(n_features)} (${percent(n / n_features)})`;
      const part = h("a", {
        class: `part grade-${g.grade}`,
        href: place.features({ source, grades: g.grade }),
        title: label,
        "aria-label": label,
      });
      part.style.setProperty("flex-grow", n);
      return part;
    });
    const share = (g) => `${g.sign} ${percent(tally.get(g.grade) / n_features)}`;
    return h(
      "li",
      {},
      h("a", { class: "source-name", href: place.features({ source }) }, visible(source)),
      h("span", { class: "num muted" }, `${count(n_features)} features`),
      h("span", { class: "stack" }, parts),
      h(
        "span",
        { class: "small muted shares" },
        GRADES.filter((g) => tally.get(g.grade))
          .map(share)
          .join("  "),
      ),
      reason && h("p", { class: "small muted note" }, paragraph(reason)),
    );
  }

  const section = (s) =>
    h(
      "section",
      { id: `section-${s.name}`, class: "report-section" },
      h("h2", {}, visible(s.title)),
      s.empty && empty(s.empty),
      s.figures.length > 0 && h("div", { class: "figures" }, s.figures.map(figure)),
      s.tables.map(table),
      s.legend && h("p", { class: "legend" }, paragraph(s.legend)),
      s.notes.length > 0 &&
        h(
          "ul",
          { class: "notes" },
          s.notes.map((n) => h("li", {}, paragraph(n))),
        ),
    );

  // Drawn once for each theme; the style sheet shows one of them.
  function figure(f) {
    const image = (theme) =>
      h("img", { class: `only-${theme}`, src: f[theme], alt: visible(f.title), loading: "lazy" });
    const element = h(
      "figure",
      { class: "figure" },
      image("light"),
      image("dark"),
      h("figcaption", {}, paragraph(f.caption)),
    );
    element.style.setProperty("--width", `${f.width_in * 1.45}in`);
    return element;
  }

  dashboard.pages.overview = async (run, route) => {
    const [sections, catalogue] = await Promise.all([dashboard.data.load("overview"), dashboard.catalogue.open()]);
    const jump = (name) => (event) => {
      event.preventDefault();
      document.getElementById(`section-${name}`)?.scrollIntoView({ block: "start" });
    };
    return {
      title: "Overview",
      content: h(
        "div",
        { class: "overview" },
        h(
          "nav",
          { class: "contents", "aria-label": "Sections" },
          h(
            "ul",
            {},
            sections.map((s) =>
              h("li", {}, h("a", { href: "#/", class: s.empty ? "muted" : null, on: { click: jump(s.name) } }, s.name)),
            ),
          ),
        ),
        h(
          "div",
          { class: "column" },
          header(run),
          run.run.summary.map(summary),
          run.sources.length > 0 &&
            h(
              "section",
              {},
              h("h2", {}, "Features by source"),
              h(
                "ul",
                { class: "sources" },
                run.sources.map((s) => source(catalogue, s)),
              ),
              h("p", { class: "legend" }, GRADES.map((g) => `${g.sign} ${g.name}`).join("   ")),
            ),
          sections.map(section),
        ),
      ),
    };
  };
})();
