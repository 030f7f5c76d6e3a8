// The feature browser: search, filter, sort; the filter is in the address, so that a view can be sent to somebody.
"use strict";

(() => {
  const { h, replace } = dashboard.dom;
  const { visible, number, count, percent } = dashboard.text;
  const { GRADES, place, gradeSign, heading } = dashboard.parts;
  const SORTS = {
    sum: "total activation",
    max: "largest activation",
    density: "density",
    score: "score",
    purity: "purity",
    grade: "grade",
    place: "place",
  };

  // The order of the last list, which j and k follow on a feature's page.
  const last = { order: null, address: "#/features", index: -1, top: 0, key: null };

  function fromQuery(query) {
    const grades = (query.get("grades") ?? "").split(",").filter(Boolean);
    const layer = query.get("layer");
    return {
      text: query.get("q") ?? "",
      source: query.get("source"),
      grades: new Set(grades.map((g) => (g === "none" ? g : Number(g)))),
      category: query.get("category"),
      layer: layer === null || layer === "" ? null : Number(layer),
      projection: query.get("projection"),
      interpreter: query.get("by"),
      sort: query.get("sort") in SORTS ? query.get("sort") : "sum",
      ascending: query.get("order") === "up",
    };
  }

  function toQuery(filter) {
    return {
      q: filter.text || null,
      source: filter.source,
      grades: filter.grades.size ? [...filter.grades].join(",") : null,
      category: filter.category,
      layer: filter.layer,
      projection: filter.projection,
      by: filter.interpreter,
      sort: filter.sort === "sum" ? null : filter.sort,
      order: filter.ascending ? "up" : null,
    };
  }

  const distinct = (values) => [...new Set(values.filter((v) => v !== null))];

  function select(label, value, options, change) {
    const choose = h("select", {
      "aria-label": label,
      on: { change: (e) => change(e.target.value === "" ? null : e.target.value) },
    });
    for (const [key, text] of options)
      choose.append(h("option", { value: key ?? "", selected: (key ?? "") === (value ?? "") }, visible(text)));
    return h("label", { class: "field" }, h("span", {}, label), choose);
  }

  function line(catalogue, order, filter, index) {
    const i = order[index];
    const c = catalogue.columns;
    const explained = catalogue.explanation(i, filter.interpreter);
    const where = [c.layer[i] === null ? null : `L${c.layer[i]}`, catalogue.projection(i)].filter(Boolean).join(" ");
    const said = explained?.text ?? (explained ? "no explanation" : "not explained");
    return h(
      "a",
      { class: "line", href: place.feature(catalogue.source(i), catalogue.name(i)), "data-index": index },
      gradeSign(explained?.grade ?? null),
      h("span", { class: "line-name" }, visible(catalogue.name(i))),
      h("span", { class: explained?.text ? "line-text" : "line-text muted" }, visible(said)),
      h("span", { class: "line-category muted" }, explained?.category ? visible(explained.category) : ""),
      h("span", { class: "line-where muted" }, filter.source ? where : visible(catalogue.source(i))),
      h("span", { class: "line-number num" }, percent(c.density[i])),
      h("span", { class: "line-number num" }, number(c.max[i])),
      h("span", { class: "line-number num line-purity" }, explained ? percent(explained.purity) : "–"),
      h(
        "span",
        { class: "line-number num line-score" },
        explained?.score === null || !explained ? "–" : explained.score.toFixed(2),
      ),
    );
  }

  function heads(filter, sort) {
    const head = (key, label, kind) =>
      h(
        "button",
        { type: "button", class: `head ${kind}`, "aria-pressed": filter.sort === key, on: { click: () => sort(key) } },
        label,
        filter.sort === key && (filter.ascending ? " ↑" : " ↓"),
      );
    return [
      head("grade", h("span", { class: "hidden" }, "grade"), "head-grade"),
      head("place", "feature", "line-name"),
      h("span", { class: "line-text" }, "explanation"),
      h("span", { class: "line-category" }, "category"),
      h("span", { class: "line-where" }, filter.source ? "place" : "source"),
      head("density", "density", "line-number num"),
      head("max", "max", "line-number num"),
      head("purity", "purity", "line-number num line-purity"),
      head("score", "score", "line-number num line-score"),
    ];
  }

  dashboard.pages.features = async (run, route) => {
    const catalogue = await dashboard.catalogue.open();
    const filter = fromQuery(route.query);
    let order = [];

    const list = new dashboard.VirtualList("Features", (index) => line(catalogue, order, filter, index));
    const status = h("p", { class: "status", role: "status" });
    const header = h("div", { class: "line heads" });
    const fields = h("div", { class: "fields" });
    const search = h("input", {
      type: "search",
      id: "search",
      value: filter.text,
      placeholder: "explanation, token or name",
      "aria-label": "Search in explanations, categories, names and the tokens that activate a feature",
      autocomplete: "off",
      spellcheck: "false",
      on: {
        input: () => change({ text: search.value }),
        keydown: (event) => {
          if (event.key === "Enter") open(0);
          if (event.key === "ArrowDown") (list.select(0), list.element.focus(), event.preventDefault());
        },
      },
    });

    // A change of the filter: the address says it at once, and the list follows in the next frame.
    let frame = 0;
    function change(values) {
      Object.assign(filter, values);
      dashboard.go(place.features(toQuery(filter)), { quiet: true });
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(() => draw());
    }

    function draw(restored = {}) {
      order = catalogue.select(filter);
      const key = JSON.stringify(toQuery(filter));
      Object.assign(last, { order, address: place.features(toQuery(filter)), key });
      replace(status, `${count(order.length)} of ${count(catalogue.length)} features`);
      replace(
        header,
        heads(filter, (sort) =>
          change(sort === filter.sort ? { ascending: !filter.ascending } : { sort, ascending: sort === "grade" }),
        ),
      );
      replace(fields, controls());
      list.show(order.length, restored);
      if (!order.length)
        replace(
          list.inner,
          h("p", { class: "empty" }, "No feature matches. Take something out of the search or the filters."),
        );
    }

    function controls() {
      const all = [...Array(catalogue.length).keys()].filter(
        (i) => !filter.source || catalogue.source(i) === filter.source,
      );
      const layers = distinct(all.map((i) => catalogue.columns.layer[i])).sort((a, b) => a - b);
      const projections = distinct(all.map((i) => catalogue.projection(i)));
      const categories = distinct(
        all.map((i) => catalogue.explanation(i, filter.interpreter)?.category ?? null),
      ).sort();
      const any = (what) => [null, what];
      const own = (values) => values.map((v) => [String(v), String(v)]);
      return [
        select(
          "source",
          filter.source,
          [any("all sources"), ...run.sources.map((s) => [s.source, `${s.source} (${count(s.n_features)})`])],
          (source) => change({ source, layer: null, projection: null, category: null }),
        ),
        categories.length > 0 &&
          select("category", filter.category, [any("any"), ...own(categories)], (category) => change({ category })),
        layers.length > 0 &&
          select("layer", filter.layer === null ? null : String(filter.layer), [any("any"), ...own(layers)], (v) =>
            change({ layer: v === null ? null : Number(v) }),
          ),
        projections.length > 0 &&
          select("projection", filter.projection, [any("any"), ...own(projections)], (projection) =>
            change({ projection }),
          ),
        catalogue.words.interpreters.length > 1 &&
          select(
            "explained by",
            filter.interpreter,
            catalogue.words.interpreters.map((v, i) => [i === 0 ? null : v, v]),
            (interpreter) => change({ interpreter }),
          ),
        select("sort by", filter.sort, Object.entries(SORTS), (sort) => change({ sort: sort ?? "sum" })),
        h(
          "fieldset",
          { class: "grades" },
          h("legend", {}, "grade"),
          GRADES.map((g) =>
            h(
              "button",
              {
                type: "button",
                class: `toggle grade-${g.grade}`,
                "aria-pressed": filter.grades.has(g.grade),
                title: g.name,
                on: {
                  click: () => {
                    const grades = new Set(filter.grades);
                    if (!grades.delete(g.grade)) grades.add(g.grade);
                    change({ grades });
                  },
                },
              },
              h("span", { "aria-hidden": "true" }, g.sign),
              h("span", { class: "hidden" }, g.name),
            ),
          ),
        ),
      ];
    }

    function open(index) {
      const i = order[index];
      if (i !== undefined) dashboard.go(place.feature(catalogue.source(i), catalogue.name(i)));
    }

    list.element.addEventListener("click", (event) => {
      const at = event.target.closest?.("[data-index]");
      if (at) last.index = Number(at.dataset.index);
    });

    return {
      title: "Features",
      content: h(
        "div",
        { class: "browser" },
        h("div", { class: "browser-head" }, heading("Features"), search, status),
        fields,
        h("div", { class: "list" }, header, list.element),
      ),
      focus: search,
      shown: () => {
        const back = last.key === JSON.stringify(toQuery(filter));
        draw(back ? { selected: last.index, top: last.top } : {});
      },
      leave: () => {
        last.top = list.element.scrollTop;
        last.index = list.selected >= 0 ? list.selected : last.index;
        list.watch.disconnect();
      },
      keys: {
        j: () => list.select(list.selected + 1),
        k: () => list.select(list.selected - 1),
        Enter: () => open(Math.max(list.selected, 0)),
        "/": () => (search.focus(), search.select()),
        Escape: () => change({ text: (search.value = "") }),
      },
    };
  };

  dashboard.lastList = last;
})();
