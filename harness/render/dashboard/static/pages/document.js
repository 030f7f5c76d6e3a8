// A document: a whole trace, coloured by any feature; and what is strongest on the token that is clicked.
"use strict";

(() => {
  const { h, replace } = dashboard.dom;
  const { visible, number, count, percent } = dashboard.text;
  const { place, gradeSign, empty, heading } = dashboard.parts;
  const { LEVELS } = dashboard.catalogue;
  const { wholeText, recolour, strip, peaks, explainOnHover } = dashboard.tokens;
  const SHOWN = 40; // features listed beside a document
  const { divergence } = dashboard;

  dashboard.pages.documents = async (run) => ({
    title: "Documents",
    content: h(
      "div",
      { class: "column" },
      heading("Documents"),
      h(
        "p",
        { class: "legend" },
        "Traces that are kept whole with the activations of every feature; chosen so that they hold strong contexts of as many features as possible.",
      ),
      run.documents.length
        ? h(
            "ul",
            { class: "documents" },
            run.documents.map((d) =>
              h(
                "li",
                {},
                h("a", { href: place.document(d.document) }, visible(d.document)),
                h(
                  "span",
                  { class: "num muted" },
                  `${count(d.n_tokens)} tokens${d.n_attributed ? `, ${count(d.n_attributed)} attributed` : ""}`,
                ),
              ),
            ),
          )
        : empty(
            "None: the run's activations were not found when the dashboard was written (harness dashboard --artifacts DIR).",
          ),
    ),
  });

  // A feature's level on every token of a kept document.
  async function levelsOf(run, kept, catalogue, i) {
    const source = catalogue.columns.source[i];
    const column = catalogue.columns.column[i];
    if (column === null || !kept.sources.includes(source)) return null;
    const block = await dashboard.data.load(
      `documents/${kept.number}/${source}-${Math.floor(column / kept.block_columns)}`,
    );
    return block[column % kept.block_columns];
  }

  // Features by their strongest token in this document, each measured against its own largest activation.
  function strongest(top) {
    const best = new Map();
    for (const rows of Object.values(top)) {
      for (const row of rows) {
        for (let k = 0; k < row.length; k += 2) best.set(row[k], Math.max(best.get(row[k]) ?? 0, Math.abs(row[k + 1])));
      }
    }
    return [...best].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
  }

  function item(catalogue, i, level, chosen, choose) {
    const explained = catalogue.explanation(i);
    return h(
      "li",
      {},
      h(
        "button",
        { type: "button", "aria-pressed": i === chosen, on: { click: () => choose(i) } },
        gradeSign(explained?.grade ?? null),
        h("span", { class: "line-name" }, visible(catalogue.name(i))),
        h("span", { class: "num muted" }, level === null ? "" : percent(Math.abs(level) / LEVELS)),
        h("span", { class: "line-text" }, visible(explained?.text ?? "")),
      ),
    );
  }

  dashboard.pages.document = async (run, route) => {
    const catalogue = await dashboard.catalogue.open();
    const kept = run.documents.find((d) => d.document === route.parts[0]);
    if (!kept)
      return {
        title: "No such document",
        content: empty(
          `The document ${visible(route.parts[0] ?? "")} is not among those kept whole; harness dashboard --documents N keeps more.`,
        ),
      };
    const [text, top, attributed, parted] = await Promise.all([
      dashboard.data.load(`documents/${kept.number}/text`),
      dashboard.data.load(`documents/${kept.number}/top`),
      kept.n_attributed ? dashboard.data.load(`documents/${kept.number}/sources`) : [],
      divergence.load(kept),
    ]);
    const isKL = (i) => divergence.has(parted, i);
    const tokens = text.tokens.map((t) => text.vocabulary[t]);
    const ranking = strongest(top);
    const asked = catalogue.find(route.query.get("source"), route.query.get("feature"));
    const askedKL = isKL(route.query.get("kl")) ? route.query.get("kl") : null;
    const state = {
      feature: askedKL ?? asked ?? ranking[0]?.[0] ?? null,
      token: null,
      levels: tokens.map(() => 0),
      at: -1,
      peaks: [],
      target: null,
    };

    const body = h("div", { class: "text", tabindex: 0, role: "region", "aria-label": "The document" });
    replace(body, wholeText(tokens, state.levels, { segments: text.segments, uncounted: new Set(text.uncounted) }));
    const targets = new Map(attributed.map((a) => [a.position, a]));
    for (const at of targets.keys()) body.querySelector(`.t[data-at="${at}"]`)?.classList.add("attributed");
    const stripe = h("div", { class: "strip-box" });
    const about = h("div", { class: "about", role: "status" });
    const panel = h("ul", { class: "picks" });
    const kls = h("ul", { class: "kls" });
    const panelTitle = h("h2", {});
    const search = h("input", {
      type: "search",
      id: "search",
      placeholder: "any feature",
      "aria-label": "Choose a feature by name, explanation or token",
      autocomplete: "off",
      on: { input: () => ((state.token = null), list()) },
    });

    function jump(at) {
      body.querySelectorAll(".t.chosen").forEach((t) => t.classList.remove("chosen"));
      const found = body.querySelector(`.t[data-at="${at}"]`);
      if (!found) return;
      found.classList.add("chosen");
      found.scrollIntoView({ block: "center" });
    }

    function colour(levels) {
      state.levels = levels;
      state.peaks = peaks(levels);
      state.at = -1;
      recolour(body, levels);
      replace(stripe, strip(levels, jump));
    }

    // The sources of an attributed token: all of them, or those of one component or latent (a row of `listed`).
    function attribute(target, row = null) {
      state.target = target;
      const of = row === null ? null : target.listed[row];
      const levels = tokens.map((_, at) => target.by_token[at] ?? 0);
      if (of !== null) {
        levels.fill(0);
        for (const [source, name, at, value] of target.sources)
          if (source === of[0] && name === of[1])
            levels[at] = Math.round(LEVELS * Math.max(-1, Math.min(1, value / (target.scale || 1))));
      }
      colour(levels);
      replace(about, dashboard.attribution.summary(target, tokens, of));
      replace(panelTitle, `Where “${visible(tokens[target.position])}” comes from`);
      replace(panel, dashboard.attribution.list(target, row, (chosen) => attribute(target, chosen)));
    }

    function list() {
      state.target = null;
      replace(kls, divergence.buttons(parted, state.feature, choose));
      if (state.token !== null) {
        replace(panelTitle, `Strongest on “${visible(tokens[state.token])}”`);
        const rows = Object.values(top).map((rows) => rows[state.token] ?? []);
        const pairs = rows.flatMap((row) =>
          Array.from({ length: row.length / 2 }, (_, k) => [row[2 * k], row[2 * k + 1]]),
        );
        pairs.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
        replace(
          panel,
          pairs.length
            ? pairs.map(([i, level]) => item(catalogue, i, level, state.feature, choose))
            : empty("Nothing reaches 5 % of its largest activation here."),
        );
      } else if (search.value.trim()) {
        replace(panelTitle, "Features found");
        const found = catalogue.select({ text: search.value, sort: "sum" });
        replace(
          panel,
          found.length
            ? found.slice(0, SHOWN).map((i) => item(catalogue, i, null, state.feature, choose))
            : empty("No feature matches."),
        );
      } else {
        replace(panelTitle, "Strongest in this document");
        replace(
          panel,
          ranking.slice(0, SHOWN).map(([i, level]) => item(catalogue, i, level, state.feature, choose)),
        );
      }
    }

    async function choose(i, { say = true } = {}) {
      const levels = i === null ? null : isKL(i) ? parted[i].levels : await levelsOf(run, kept, catalogue, i);
      state.feature = i;
      colour(levels ?? tokens.map(() => 0));
      replace(about, i === null ? "" : summary(i, levels));
      list();
      if (!say) return;
      const address = isKL(i)
        ? `${place.document(kept.document)}?kl=${i}`
        : place.document(kept.document, catalogue.source(i), catalogue.name(i));
      dashboard.go(address, { quiet: true });
    }

    function summary(i, levels) {
      if (isKL(i)) return divergence.summary(parted, i);
      if (levels === null)
        return empty(`The activations of ${visible(catalogue.name(i))} on this document are not in the dashboard.`);
      const active = levels.filter((l) => l !== 0).length;
      const largest = Math.max(...levels.map(Math.abs));
      return [
        gradeSign(catalogue.explanation(i)?.grade ?? null),
        h("a", { href: place.feature(catalogue.source(i), catalogue.name(i)) }, visible(catalogue.name(i))),
        h("span", { class: "muted" }, visible(catalogue.source(i))),
        h("span", { class: "about-text" }, visible(catalogue.explanation(i)?.text ?? "")),
        h(
          "span",
          { class: "muted num" },
          `active on ${count(active)} of ${count(levels.length)} tokens, largest ${number(catalogue.value(i, largest))}`,
        ),
      ];
    }

    const step = (by) => () => {
      if (!state.peaks.length) return;
      state.at = (state.at + by + state.peaks.length) % state.peaks.length;
      jump(state.peaks[state.at]);
    };
    body.addEventListener("click", (event) => {
      const token = event.target.closest?.(".t");
      if (!token) return;
      body.querySelectorAll(".t.chosen").forEach((t) => t.classList.remove("chosen"));
      token.classList.add("chosen");
      state.token = Number(token.dataset.at);
      const target = targets.get(state.token);
      if (target) attribute(target);
      else if (state.target) choose(state.feature, { say: false });
      else list();
    });
    explainOnHover(body, (level) => {
      if (state.target) return (level * state.target.scale) / LEVELS;
      if (isKL(state.feature)) return divergence.value(parted, state.feature, level);
      return state.feature === null ? 0 : catalogue.value(state.feature, level);
    });
    await choose(state.feature, { say: false });

    return {
      title: visible(kept.document),
      content: h(
        "div",
        { class: "reader" },
        h(
          "div",
          { class: "reader-main" },
          h(
            "div",
            { class: "trail" },
            h("a", { href: "#/documents" }, "Documents"),
            h("span", { class: "muted" }, `${count(kept.n_tokens)} tokens`),
            targets.size > 0 &&
              h("span", { class: "muted" }, "click a token with a double line to see which components it comes from"),
          ),
          heading(visible(kept.document)),
          h("div", { class: "reader-strip" }, about, stripe),
          body,
        ),
        h("aside", { class: "reader-side", "aria-label": "Features" }, kls, search, panelTitle, panel),
      ),
      shown: () => {
        if (!route.query.has("at")) return;
        const at = Number(route.query.get("at"));
        jump(at);
        if (targets.has(at)) attribute(targets.get(at));
      },
      keys: {
        n: step(1),
        p: step(-1),
        "/": () => (search.focus(), search.select()),
        Escape: () => {
          state.token = null;
          search.value = "";
          if (state.target) choose(state.feature, { say: false });
          else list();
        },
      },
    };
  };
})();
