// A feature: what it was taken for and why, what it writes and causes, its numbers, its strongest contexts, and one
// whole document.
"use strict";

(() => {
  const { h, replace } = dashboard.dom;
  const { visible, number, count, percent } = dashboard.text;
  const { place, facts, empty, heading } = dashboard.parts;
  const { explanation, scores, enrichment } = dashboard.judgements;
  const { writes, effects } = dashboard.causes;
  const { histogram } = dashboard.charts;
  const { context, wholeText, strip, peaks, explainOnHover } = dashboard.tokens;
  const FIRST = 256; // contexts drawn

  // The contexts as lines; a click on a line's number shows all of it.
  function contexts(run, detail, source, name) {
    const c = detail.contexts;
    const kept = new Set(run.documents.map((d) => d.document));
    const starts = [0];
    c.length.forEach((n) => starts.push(starts.at(-1) + n));
    const row = (k) => {
      const part = (all) => all.slice(starts[k], starts[k + 1]);
      const tokens = part(c.tokens).map((t) => detail.words[t]);
      const id = c.documents[c.document[k]];
      const more = c.n_identical[k] > 1 ? `, and ${count(c.n_identical[k] - 1)} more of this window` : "";
      const shown = `${visible(id)} @ ${c.position[k]}${more}`;
      const line = h(
        "li",
        { class: "context" },
        h(
          "button",
          {
            type: "button",
            class: "peak num",
            title: "show the whole context",
            "aria-expanded": "false",
            on: { click: () => expand(line) },
          },
          number(c.peak[k]),
        ),
        h("div", { class: "words" }, context(tokens, part(c.values), c.target[k], c.start[k])),
        kept.has(id)
          ? h("a", { class: "from", href: place.document(id, source, name, c.position[k]) }, shown)
          : h("span", { class: "from muted" }, shown),
      );
      return line;
    };
    const all = c.length.map((_, k) => k);
    const lines = (chosen) => chosen.length > 0 && h("ol", { class: "contexts" }, chosen.slice(0, FIRST).map(row));
    return {
      highest: lines(all.filter((k) => c.quantile[k] === null)),
      sampled: lines(all.filter((k) => c.quantile[k] !== null)),
    };
  }

  function expand(line) {
    const open = line.classList.toggle("open");
    line.querySelector(".peak").setAttribute("aria-expanded", String(open));
  }

  // One whole document: its strip, its text, and a way through its strongest places.
  async function full(run, detail, catalogue, i) {
    const f = detail.full;
    if (f.number === null) return empty(`No whole document: ${f.reason}.`);
    const text = await dashboard.data.load(`documents/${f.number}/text`);
    const tokens = text.tokens.map((t) => text.vocabulary[t]);
    const levels = tokens.map((_, at) => f.values[at - f.first] ?? 0);
    const body = h("div", { class: "text", tabindex: 0, role: "region", "aria-label": "The whole document" });
    replace(body, wholeText(tokens, levels, { segments: text.segments, uncounted: new Set(text.uncounted) }));
    const jump = (at) => {
      body.querySelectorAll(".t.chosen").forEach((t) => t.classList.remove("chosen"));
      const found = body.querySelector(`.t[data-at="${at}"]`);
      if (!found) return;
      found.classList.add("chosen");
      body.scrollTop += found.getBoundingClientRect().top - body.getBoundingClientRect().top - body.clientHeight / 2;
    };
    const all = peaks(levels);
    let at = -1;
    const step = (by) => () => {
      at = (at + by + all.length) % all.length;
      jump(all[at]);
    };
    const kept = run.documents.some((d) => d.document === f.document);
    const whole =
      f.values.length < f.n_tokens
        ? ` (coloured: tokens ${count(f.first)} to ${count(f.first + f.values.length - 1)})`
        : "";
    explainOnHover(body, (level) => catalogue.value(i, level));
    return {
      keys: { n: step(1), p: step(-1) },
      shown: () => jump(all.find((t) => Math.abs(levels[t]) === Math.max(...levels.map(Math.abs))) ?? 0),
      content: [
        h(
          "div",
          { class: "document-head" },
          h("h2", {}, "One whole document"),
          kept
            ? h("a", { href: place.document(f.document, catalogue.source(i), catalogue.name(i)) }, visible(f.document))
            : h("span", { class: "muted" }, visible(f.document)),
          h("span", { class: "muted small" }, `${count(f.n_tokens)} tokens${whole}`),
          h(
            "span",
            { class: "steps" },
            h("button", { type: "button", "aria-label": "Previous strong token (p)", on: { click: step(-1) } }, "‹"),
            h("button", { type: "button", "aria-label": "Next strong token (n)", on: { click: step(1) } }, "›"),
          ),
        ),
        strip(levels, jump),
        body,
      ],
    };
  }

  function numbers(catalogue, i) {
    const c = catalogue.columns;
    const name = catalogue.name(i);
    const component = name.replace(/[+-]$/u, "");
    const projection = catalogue.projection(i);
    const at = c.layer[i] === null ? null : `layer ${c.layer[i]}${projection ? `, ${projection}` : ""}`;
    const linked = catalogue.source(i) === "adapter-activations";
    return facts([
      ["source", h("a", { href: place.features({ source: catalogue.source(i) }) }, visible(catalogue.source(i)))],
      ["place", at && linked ? h("a", { href: place.component(component) }, at) : at],
      ["largest activation", number(c.max[i])],
      ["density", `${percent(c.density[i])} of ${count(c.n_tokens[i])} tokens`],
      ["total activation", number(c.sum[i])],
      ["contexts", count(c.n_contexts[i])],
    ]);
  }

  function neighbours(catalogue, i) {
    const { order } = dashboard.lastList;
    const all = order?.includes(i) ? order : catalogue.select({ source: catalogue.source(i) });
    const at = all.indexOf(i);
    const link = (index) =>
      index === undefined ? null : place.feature(catalogue.source(index), catalogue.name(index));
    return { at, count: all.length, before: link(all[at - 1]), after: link(all[at + 1]), next: all[at + 1] };
  }

  dashboard.pages.feature = async (run, route) => {
    const catalogue = await dashboard.catalogue.open();
    const [source, name] = route.parts;
    const i = catalogue.find(source, name);
    if (i === null)
      return {
        title: "No such feature",
        content: empty(`This run has no feature ${visible(name ?? "")} of ${visible(source ?? "")}.`),
      };
    const detail = await catalogue.detail(i);
    const near = neighbours(catalogue, i);
    if (near.next !== undefined) catalogue.detail(near.next).catch(() => {}); // so that j shows it at once
    const document = await full(run, detail, catalogue, i);
    const lists = contexts(run, detail, source, name);
    for (const list of Object.values(lists)) if (list) explainOnHover(list, (level) => catalogue.value(i, level));
    const stored = run.sources.find((s) => s.source === source);
    const signs = detail.contexts.both_signs
      ? "blue is positive, orange negative"
      : stored.reason === null
        ? "stronger is darker"
        : "only this feature's own sign was stored";
    const to = (address) => () => address && dashboard.go(address);
    const back = dashboard.lastList.address;
    return {
      title: `${visible(name)} of ${visible(source)}`,
      content: h(
        "div",
        { class: "feature" },
        h(
          "div",
          { class: "trail" },
          h("a", { href: back }, "Features"),
          h("span", { class: "muted" }, `${count(near.at + 1)} of ${count(near.count)}`),
          h(
            "a",
            { class: near.before ? null : "off", href: near.before ?? back, "aria-label": "Previous feature (k)" },
            "‹ previous",
          ),
          h(
            "a",
            { class: near.after ? null : "off", href: near.after ?? back, "aria-label": "Next feature (j)" },
            "next ›",
          ),
        ),
        h(
          "div",
          { class: "feature-head" },
          h(
            "div",
            {},
            heading(visible(name)),
            detail.explanations.length
              ? detail.explanations.map(explanation)
              : empty("No interpreter was shown this feature."),
            scores(detail.scores),
            enrichment(detail.events),
          ),
          h(
            "div",
            { class: "aside" },
            numbers(catalogue, i),
            detail.histogram.counts ? histogram(detail.histogram) : empty(`No histogram: ${detail.histogram.reason}.`),
          ),
        ),
        h(
          "div",
          { class: "feature-body causes" },
          h("section", {}, writes(detail.causes)),
          h("section", {}, effects(detail.causes, name)),
        ),
        h(
          "div",
          { class: "feature-body" },
          h(
            "section",
            {},
            h(
              "div",
              { class: "document-head" },
              h("h2", {}, "Top contexts"),
              h("span", { class: "muted small" }, signs),
            ),
            lists.highest || empty("It is active on no token: a dead feature."),
            lists.sampled && [
              h(
                "div",
                { class: "document-head" },
                h("h2", {}, "A sample of all its strengths"),
                h("span", { class: "muted small" }, "uniform over the quantiles of its active tokens"),
              ),
              lists.sampled,
            ],
          ),
          h("section", { class: "whole" }, document.content ?? document),
        ),
      ),
      shown: document.shown,
      keys: { ...document.keys, j: to(near.after), k: to(near.before), Escape: to(back) },
    };
  };
})();
