// Data scripts. A page opened from a file may not fetch, but it may add a script: `data/NAME.js` calls
// `dashboard.provide(NAME, payload)`. A string is JSON, deflated, in base64.
"use strict";

(() => {
  const KEPT = 64; // scripts' values that stay in memory: some tens of shards of a hundred kilobytes
  const arrived = new Map(); // name -> payload of a script that has run
  const cache = new Map(); // name -> promise of its value, the last used at the end

  dashboard.provide = (name, payload) => arrived.set(name, payload);

  function script(name) {
    return new Promise((resolve, reject) => {
      const element = document.createElement("script");
      element.src = `data/${name}.js`;
      element.onload = () => {
        element.remove();
        const payload = arrived.get(name);
        arrived.delete(name);
        resolve(payload);
      };
      element.onerror = () => {
        element.remove();
        reject(new Error(`data/${name}.js is missing from the dashboard's folder; write the dashboard again`));
      };
      document.head.append(element);
    });
  }

  async function unpack(payload) {
    if (typeof payload !== "string") return payload;
    const bytes = Uint8Array.from(atob(payload), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    return JSON.parse(await new Response(stream).text());
  }

  // The value of a data script; a failed load may be tried again.
  function load(name) {
    const known = cache.get(name);
    cache.delete(name);
    const value = known ?? script(name).then(unpack);
    cache.set(name, value);
    if (!known) value.catch(() => cache.delete(name));
    if (cache.size > KEPT) cache.delete(cache.keys().next().value);
    return value;
  }

  dashboard.data = { load };
})();
