// All features of the run: what the browser lists, searches and sorts, and where each one's shard is.
"use strict";

(() => {
  const { load } = dashboard.data;
  const LEVELS = 1000; // activations are integers, in units of the feature's scale / LEVELS

  let opened = null;

  class Catalogue {
    constructor(columns) {
      this.columns = columns;
      this.words = columns.vocabulary;
      this.length = columns.feature.length;
      this.places = new Map(); // source, feature -> index
      for (let i = 0; i < this.length; i++) this.places.set(this.key(this.source(i), this.name(i)), i);
      this.lowerTokens = this.words.tokens.map((t) => t.toLowerCase());
      this.haystacks = null;
    }

    key(source, feature) {
      return JSON.stringify([source, feature]);
    }

    find(source, feature) {
      return this.places.get(this.key(source, feature)) ?? null;
    }

    source(i) {
      return this.words.sources[this.columns.source[i]];
    }

    name(i) {
      return this.columns.feature[i];
    }

    projection(i) {
      const at = this.columns.projection[i];
      return at === null ? null : this.words.projections[at];
    }

    // The explanation by one interpreter; without a name, the first there is.
    explanation(i, interpreter = null) {
      const all = this.columns.explanations[i];
      const found = interpreter === null ? all[0] : all.find((e) => this.words.interpreters[e[0]] === interpreter);
      if (!found) return null;
      const [by, text, grade, category, score, purity] = found;
      return {
        interpreter: this.words.interpreters[by],
        text,
        grade,
        category: category === null ? null : this.words.categories[category],
        score: score ?? null,
        purity: purity ?? null,
      };
    }

    tokens(i) {
      return this.columns.tokens[i].map((t) => this.words.tokens[t]);
    }

    // What was stored of a feature beyond its line: its shard's entry, with the shard's words.
    async detail(i) {
      const size = this.columns.shard_features;
      const shard = await load(`features/${Math.floor(i / size)}`);
      return { ...shard.features[i % size], words: shard.vocabulary };
    }

    value(i, level) {
      return (level / LEVELS) * this.columns.scale[i];
    }

    // Features that match a filter, in its order. `filter`: text, source, grades (a set; "none" for failed or not
    // explained), category, layer, projection, interpreter, sort, ascending.
    select(filter) {
      const terms = (filter.text ?? "").toLowerCase().split(/\s+/u).filter(Boolean);
      const found = [];
      const hits = terms.map((term) => this.tokensWith(term));
      for (let i = 0; i < this.length; i++) {
        if (this.passes(i, filter) && terms.every((term, at) => this.matches(i, term, hits[at]))) found.push(i);
      }
      const value = this.sorter(filter);
      const sign = filter.ascending ? 1 : -1;
      return found.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === y) return a - b;
        if (x === null) return 1; // what has no value comes last, whichever way
        if (y === null) return -1;
        return x < y ? -sign : sign;
      });
    }

    passes(i, filter) {
      const c = this.columns;
      if (filter.source && this.source(i) !== filter.source) return false;
      if (filter.layer !== undefined && filter.layer !== null && c.layer[i] !== filter.layer) return false;
      if (filter.projection && this.projection(i) !== filter.projection) return false;
      if (!filter.grades?.size && !filter.category) return true;
      const explained = this.explanation(i, filter.interpreter ?? null);
      if (filter.grades?.size && !filter.grades.has(explained?.grade ?? "none")) return false;
      return !filter.category || explained?.category === filter.category;
    }

    tokensWith(term) {
      const found = new Set();
      this.lowerTokens.forEach((t, at) => t.includes(term) && found.add(at));
      return found;
    }

    matches(i, term, tokens) {
      this.haystacks ??= Array.from({ length: this.length }, (_, at) => this.haystack(at));
      return this.haystacks[i].includes(term) || this.columns.tokens[i].some((t) => tokens.has(t));
    }

    haystack(i) {
      const said = this.columns.explanations[i].map(([, text, , category]) => [
        text ?? "",
        category === null ? "" : this.words.categories[category],
      ]);
      return [this.name(i), ...said.flat()].join("\n").toLowerCase();
    }

    sorter(filter) {
      const c = this.columns;
      switch (filter.sort) {
        case "max":
          return (i) => c.max[i];
        case "density":
          return (i) => c.density[i];
        case "score":
          return (i) => this.explanation(i, filter.interpreter ?? null)?.score ?? null;
        case "purity":
          return (i) => this.explanation(i, filter.interpreter ?? null)?.purity ?? null;
        case "grade":
          return (i) => this.explanation(i, filter.interpreter ?? null)?.grade ?? null;
        case "place":
          return (i) => -i; // as stored: layer by layer
        default:
          return (i) => c.sum[i];
      }
    }
  }

  dashboard.catalogue = {
    LEVELS,
    open: () => (opened ??= load("catalogue").then((columns) => new Catalogue(columns))),
  };
})();
