// Components: a map of what switching each one off does, and a page for each.
"use strict";

(() => {
  const { h } = dashboard.dom;
  const { visible, paragraph, number, count, percent } = dashboard.text;
  const { place, gradeSign, facts, empty, heading } = dashboard.parts;
  const { heatmap, whiskers } = dashboard.charts;

  const distinct = (values) => [...new Set(values)];
  const measured = (c, mode) => c.ablations.find((a) => a.mode === mode) ?? null;

  dashboard.pages.components = async () => {
    const { components, notes } = await dashboard.data.load("components");
    if (!components.length)
      return { title: "Components", content: h("div", { class: "column" }, heading("Components"), notes.map(empty)) };
    const layers = distinct(components.map((c) => c.layer)).sort((a, b) => a - b);
    const projections = distinct(components.map((c) => c.projection));
    const modes = distinct(components.flatMap((c) => c.ablations.map((a) => a.mode)));
    const map = (mode) =>
      heatmap(
        layers,
        projections,
        (layer, projection) => {
          const own = components.filter((c) => c.layer === layer && c.projection === projection);
          if (!own.length) return null;
          const [c] = own.sort((a, b) => (measured(b, mode)?.kl_nats ?? 0) - (measured(a, mode)?.kl_nats ?? 0));
          const a = measured(c, mode);
          const value = a ? `${number(a.kl_nats)} nats per response token` : "not measured";
          return {
            value: a?.kl_nats ?? null,
            href: place.component(c.component),
            label: `${visible(c.component)}: ${value}`,
          };
        },
        `KL(adapter ‖ ablated) in nats per response token, each component set to ${mode}. Choose one to see it.`,
      );
    return {
      title: "Components",
      content: h(
        "div",
        { class: "column" },
        heading("Components"),
        (modes.length ? modes : ["zero"]).map(map),
        h(
          "ul",
          { class: "notes" },
          notes.map((n) => h("li", {}, paragraph(n))),
        ),
      ),
    };
  };

  function ablations(c) {
    if (!c.ablations.length) return empty("It was not switched off in this run.");
    const name = (a) =>
      a.scope === "component"
        ? "this component"
        : a.scope === "layer"
          ? `layer ${a.layer}, all of it`
          : `${a.projection}, all layers`;
    const rows = [...c.ablations, ...c.around].map((a) => ({
      name: `${name(a)}${c.ablations.length > 1 ? ` → ${a.mode}` : ""}`,
      value: a.kl_nats,
      low: a.kl_ci_low,
      high: a.kl_ci_high,
      strong: a.scope === "component",
      note: [
        a.share_of_adapter_kl === null ? null : `${percent(a.share_of_adapter_kl)} of the adapter's`,
        a.kl_nats_prompt === null ? null : `prompt ${number(a.kl_nats_prompt)}`,
        a.kl_nats_all === null ? null : `all ${number(a.kl_nats_all)}`,
      ]
        .filter(Boolean)
        .join("; "),
    }));
    const { n_tokens, n_documents } = c.ablations[0];
    return [
      whiskers(rows, "nats per response token"),
      h(
        "p",
        { class: "legend" },
        `KL(adapter ‖ ablated) over the response (trace and answer), ${count(n_tokens)} tokens; ` +
          `intervals by bootstrap over ${count(n_documents)} documents. Beside it over the prompt and over all tokens.`,
      ),
    ];
  }

  function latents(catalogue, name, found, unit) {
    const largest = Math.max(...found.map((l) => Math.abs(l.write)));
    const row = (l) => {
      const i = catalogue.find(name, l.feature);
      const e = i === null ? null : catalogue.explanation(i);
      const bar = h("span", { class: l.write < 0 ? "bar-value neg" : "bar-value pos" });
      bar.style.setProperty("width", `${(100 * Math.abs(l.write)) / largest}%`);
      return h(
        "tr",
        {},
        h("td", {}, gradeSign(e?.grade ?? null)),
        h(
          "th",
          { scope: "row" },
          i === null ? visible(l.feature) : h("a", { href: place.feature(name, l.feature) }, visible(l.feature)),
        ),
        h("td", { class: "num" }, number(l.write)),
        h("td", { class: "bar-cell" }, bar),
        h("td", { class: "num muted" }, number(l.weight)),
        h("td", { class: "wide" }, visible(e?.text ?? "")),
      );
    };
    return h(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": `Latents of ${visible(name)}` },
      h(
        "table",
        { class: "report" },
        h("caption", {}, `${visible(name)}: ${unit}`),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["", "latent", "most it writes", "", "decoder weight", "explanation"].map((t) =>
              h("th", { scope: "col" }, t),
            ),
          ),
        ),
        h("tbody", {}, found.map(row)),
      ),
    );
  }

  function feature(catalogue, [source, name]) {
    const i = catalogue.find(source, name);
    if (i === null) return null;
    const e = catalogue.explanation(i);
    return h(
      "li",
      {},
      gradeSign(e?.grade ?? null),
      h("a", { href: place.feature(source, name) }, visible(name)),
      h("span", {}, visible(e?.text ?? "not explained")),
      h(
        "span",
        { class: "muted num" },
        `largest ${number(catalogue.columns.max[i])}, on ${percent(catalogue.columns.density[i])} of tokens`,
      ),
    );
  }

  dashboard.pages.component = async (run, route) => {
    const [{ components, notes }, catalogue] = await Promise.all([
      dashboard.data.load("components"),
      dashboard.catalogue.open(),
    ]);
    const at = components.findIndex((c) => c.component === route.parts[0]);
    if (at < 0)
      return {
        title: "No such component",
        content: empty(`This run has no component ${visible(route.parts[0] ?? "")}.`),
      };
    const c = components[at];
    const to = (other) => () => other && dashboard.go(place.component(other.component));
    const n = c.norms;
    return {
      title: visible(c.component),
      content: h(
        "div",
        { class: "column component" },
        h(
          "div",
          { class: "trail" },
          h("a", { href: "#/components" }, "Components"),
          h("span", { class: "muted" }, `${at + 1} of ${components.length}`),
        ),
        heading(visible(c.component)),
        facts([
          ["layer", c.layer === null ? null : String(c.layer)],
          ["projection", c.projection && visible(c.projection)],
          ["rank by KL", c.rank === null ? null : `${c.rank} of ${c.n_ranked}`],
          ["‖a‖", n && number(n.a_norm)],
          ["‖b‖", n && number(n.b_norm)],
          ["scaling", n && number(n.scaling)],
          ["‖a‖ · ‖b‖ · scaling", n && number(n.a_norm * n.b_norm * n.scaling)],
        ]),
        h("h2", {}, "Switched off"),
        ablations(c),
        h("h2", {}, "Its two signs as features"),
        c.features.length
          ? h(
              "ul",
              { class: "signs" },
              c.features.map((f) => feature(catalogue, f)),
            )
          : empty("Its activations were not read in this run."),
        h("h2", {}, "Latents that write to it"),
        Object.keys(c.latents).length
          ? Object.entries(c.latents).map(([name, found]) =>
              latents(catalogue, name, found, "largest activation × decoder weight, in units of a · x"),
            )
          : empty("No dictionary writes to it."),
        notes.length > 0 &&
          h(
            "ul",
            { class: "notes" },
            notes.map((t) => h("li", {}, paragraph(t))),
          ),
      ),
      keys: { j: to(components[at + 1]), k: to(components[at - 1]), Escape: () => dashboard.go("#/components") },
    };
  };
})();
