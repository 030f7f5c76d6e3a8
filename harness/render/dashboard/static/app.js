// The frame: addresses, keys, themes. An address is `#/page/part/part?key=value`; a page is a function that returns
// {title, content, focus?, shown?, leave?, keys?}.
"use strict";

(() => {
  const { h, replace } = dashboard.dom;
  const { visible } = dashboard.text;
  const PAGES = [
    ["overview", "Overview", "#/"],
    ["features", "Features", "#/features"],
    ["documents", "Documents", "#/documents"],
    ["components", "Components", "#/components"],
  ];
  const UNDER = { feature: "features", document: "documents", component: "components" };
  const KEYS = [
    ["/", "search"],
    ["j  k", "next, previous"],
    ["Enter", "open the selected feature"],
    ["n  p", "next, previous strong token of the document"],
    ["Esc", "back; in the search: clear it"],
    ["t", "light or dark"],
    ["?", "these keys"],
  ];
  const main = document.getElementById("main");
  let page = null;
  let turn = 0;

  function parse(hash) {
    const [path, query] = hash.replace(/^#\/?/u, "").split(/\?(.*)/su);
    const [name, ...parts] = path.split("/").map(decode);
    return { name: name || "overview", parts, query: new URLSearchParams(query ?? "") };
  }

  function decode(part) {
    try {
      return decodeURIComponent(part);
    } catch {
      return part;
    }
  }

  // Go to an address; quietly: only say it in the address bar, the page has changed already.
  dashboard.go = (address, { quiet = false } = {}) => {
    if (quiet) history.replaceState(null, "", address);
    else location.hash = address;
  };

  async function open() {
    const mine = ++turn;
    const route = parse(location.hash);
    try {
      const run = await dashboard.data.load("run");
      const show = dashboard.pages[route.name] ?? missing;
      const next = await show(run, route);
      if (mine === turn) present(run, route, next);
    } catch (error) {
      if (mine === turn) replace(main, h("p", { class: "empty", role: "alert" }, visible(error.message)));
      console.error(error);
    }
  }

  function present(run, route, next) {
    page?.leave?.();
    page = next;
    document.getElementById("readout").hidden = true;
    document.title = `${next.title} · ${visible(run.run.study)}, run ${run.run.run_id}`;
    document.getElementById("run-name").textContent = `${visible(run.run.study)} · run ${run.run.run_id}`;
    replace(
      document.getElementById("nav"),
      PAGES.map(([name, label, href]) =>
        h("a", { href, "aria-current": (UNDER[route.name] ?? route.name) === name ? "page" : null }, label),
      ),
    );
    replace(main, next.content);
    main.className = `page-${route.name}`;
    scrollTo(0, 0);
    next.shown?.();
    main.querySelector("h1")?.focus({ preventScroll: true });
    main.dataset.ready = location.hash;
  }

  const missing = async (run, route) => ({
    title: "No such page",
    content: h("p", { class: "empty" }, `There is no page ${visible(route.name)}.`),
  });

  // Themes: what the system says, unless the reader chose.
  const button = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // a browser may refuse storage to files
    }
  }

  function theme(name) {
    const now = name ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = now;
    button.textContent = now === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Use the ${now === "dark" ? "light" : "dark"} theme`);
  }

  function toggle() {
    const other = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("theme", other);
    } catch {
      // not kept; it still holds for this page
    }
    theme(other);
  }

  const help = document.getElementById("keys");
  replace(
    help,
    h("h2", { id: "keys-title" }, "Keys"),
    h(
      "dl",
      {},
      KEYS.map(([key, what]) =>
        h(
          "div",
          {},
          h(
            "dt",
            {},
            key.split("  ").map((k) => h("kbd", {}, k)),
          ),
          h("dd", {}, what),
        ),
      ),
    ),
    h("button", { type: "button", on: { click: () => help.close() } }, "Close"),
  );

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    const typing = event.target.closest?.("input, select, textarea");
    if (typing && event.key !== "Escape") return;
    if (typing && event.key === "Escape" && !typing.value) return typing.blur();
    if (event.key === "Enter" && event.target.closest?.("a, button, summary")) return;
    const own = page?.keys?.[event.key];
    const common = { t: toggle, "?": () => help.showModal(), "/": () => (location.hash = "#/features") }[event.key];
    const act = own ?? common;
    if (!act) return;
    event.preventDefault();
    act();
  });

  document.getElementById("help").addEventListener("click", () => help.showModal());
  button.addEventListener("click", toggle);
  dark.addEventListener("change", () => theme(chosen()));
  addEventListener("hashchange", open);
  theme(chosen());
  open();
})();
