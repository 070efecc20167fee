"use strict";
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  $("theme").onclick = () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  };

  const data = read("data");
  if (!data.items.length) return;
  $("browser").hidden = false;

  const make = (tag, attributes = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.append(...children);
    return element;
  };
  const fill = (id, pairs) => {
    $(id).replaceChildren(...pairs.map(([value, text]) =>
      make("option", { value, textContent: text })));
  };
  const two = data.series.length === 2;
  const value = (row, series, metric) => {
    const { worst } = data.metrics[metric];
    const failed = row.codes[series][metric] === "f" && data.failures === "worst";
    const found = failed ? worst : row.values[series][metric];
    return found === null ? NaN : Number(found === "inf" ? Infinity : found);
  };
  const change = (row, metric) => value(row, 1, metric) - value(row, 0, metric);

  fill("task", [["", "all"], ...data.tasks.map((task) => [task, task])]);
  fill("status", [["", "all"], ["failed", "failed"], ["ok", "ok"], ["n/a", "n/a"]]);
  const names = data.metrics.map((metric, k) => [String(k), metric.name]);
  fill("metric", two ? names : [["", "all"], ...names]);
  fill("order", two
    ? [["change", "largest change"], ["up", "largest gain"], ["down", "largest loss"],
       ["data", "as in the data"]]
    : [["failed", "failed, then worst"], ["best", "best"], ["data", "as in the data"]]);

  // ---- pictures: blocks of JSON, parsed when first needed

  const blocks = document.querySelectorAll("script.pictures");
  const parsed = new Map();
  const pictures = (place) => {
    const number = Math.floor(place / data.block);
    if (!blocks[number]) return {};
    if (!parsed.has(number)) {
      if (parsed.size >= 30) parsed.delete(parsed.keys().next().value);
      parsed.set(number, JSON.parse(blocks[number].textContent));
    }
    return parsed.get(number)[place % data.block];
  };

  const figure = (role, found) => {
    const caption = make("figcaption", { textContent: role });
    if (!found[role]) {
      const gone = make("div", { className: "gone", textContent: `no ${role}` });
      return make("figure", {}, gone, caption);
    }
    const image = make("img", { src: found[role], alt: role, loading: "lazy", decoding: "async" });
    const frame = make("div", { className: "frame" }, image);
    if (found.mask && role !== "map") {
      frame.append(make("img", { src: found.mask, alt: "", className: "mask" }));
    }
    return make("figure", {}, frame, caption);
  };
  const shownRoles = (found) =>
    data.roles.filter((role) => found[role] || !["map", "reference"].includes(role));

  const enlarge = (row, found) => {
    const box = make("div", { className: "pictures" },
      ...shownRoles(found).map((role) => figure(role, found)));
    const close = make("button", { type: "button", textContent: "close" });
    close.onclick = () => $("large").close();
    $("large").replaceChildren(make("h3", { textContent: row.text }), box, close);
    $("large").showModal();
  };
  $("large").onclick = (event) => { if (event.target === $("large")) $("large").close(); };

  // ---- one item

  const digits = (number) => {
    if (!Number.isFinite(number)) return number > 0 ? "∞" : "-∞";
    const size = Math.abs(number);
    return number.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 || !size ? 3 : 4);
  };
  const words = { f: "failed", n: "n/a", m: "not scored" };
  const cellOf = (row, series, metric) => {
    const code = row.codes[series][metric];
    const text = code === "o" ? digits(value(row, series, metric)) : words[code];
    return make("td", { textContent: text, className: code });
  };
  const scores = (row) => {
    const table = make("table", { className: "scores" });
    if (two) {
      const cells = ["", ...data.series, "change"];
      table.append(make("thead", {}, make("tr", {},
        ...cells.map((text) => make("th", { textContent: text })))));
    }
    const body = make("tbody");
    data.metrics.forEach((metric, k) => {
      const label = make("abbr", { textContent: metric.name });
      label.title = `${metric.meaning}; ${metric.better} is better`;
      const line = make("tr", { className: $("metric").value === String(k) ? "chosen" : "" },
        make("th", {}, label), ...data.series.map((_, series) => cellOf(row, series, k)));
      if (two) {
        const by = change(row, k);
        const text = Number.isNaN(by) ? "-" : (by > 0 ? "+" : "") + digits(by);
        line.append(make("td", { textContent: text }));
      }
      body.append(line);
    });
    table.append(body);
    return table;
  };
  const card = (place) => {
    const row = data.items[place];
    const found = pictures(place);
    const header = make("header", {},
      make("span", { className: "text", textContent: row.text }),
      make("span", { className: "chip", textContent: row.task }),
      make("span", { className: "id", textContent: row.id }));
    if (row.status !== "ok") {
      header.insertBefore(
        make("span", { className: `chip ${row.status}`, textContent: row.status }),
        header.lastChild);
    }
    const box = make("div", { className: "pictures" },
      ...shownRoles(found).map((role) => figure(role, found)));
    box.onclick = (event) => { if (event.target.closest(".frame")) enlarge(row, found); };
    const element = make("article", { className: "item" }, header, box, scores(row));
    element.dataset.id = row.id;
    if (row.why.length) {
      const tone = row.status === "failed" ? "why" : "why calm";
      element.append(make("p", { className: tone, textContent: row.why.join("; ") }));
    }
    return element;
  };

  // ---- which items, in which order

  const statusOf = (row) => {
    if ($("metric").value === "") return row.status;
    const codes = row.codes.map((code) => code[Number($("metric").value)]);
    if (codes.includes("f")) return "failed";
    return codes.every((code) => code === "o") ? "ok" : "n/a";
  };
  const keyOf = (row) => {
    const metric = Number($("metric").value || 0);
    const sign = data.metrics[metric].better === "higher" ? 1 : -1;
    const order = $("order").value;
    if (order === "change") return -Math.abs(change(row, metric));
    if (order === "up") return -sign * change(row, metric);
    if (order === "down") return sign * change(row, metric);
    if (order === "best") return -sign * value(row, 0, metric);
    if (order === "failed") {
      if (statusOf(row) === "failed") return -Infinity;
      return $("metric").value === "" ? 0 : sign * value(row, 0, metric);
    }
    return 0;
  };
  const chosen = () => {
    const needle = $("search").value.trim().toLowerCase();
    const fits = (row) =>
      (!$("task").value || row.task === $("task").value) &&
      (!$("status").value || statusOf(row) === $("status").value) &&
      (!needle || row.text.toLowerCase().includes(needle) || row.id.toLowerCase().includes(needle));
    const places = data.items.map((_, place) => place).filter((place) => fits(data.items[place]));
    const keys = new Map(places.map((place) => [place, keyOf(data.items[place])]));
    const last = (key) => (Number.isNaN(key) ? Infinity : key);
    const compare = (a, b) => (a === b ? 0 : a < b ? -1 : 1);
    return places.sort((a, b) => compare(last(keys.get(a)), last(keys.get(b))) || a - b);
  };

  let places = [];
  let drawn = 0;
  const more = () => {
    const next = places.slice(drawn, drawn + 24);
    drawn += next.length;
    $("items").append(...next.map(card));
  };
  const near = () => $("more").getBoundingClientRect().top < innerHeight + 1200;
  const grow = () => { while (drawn < places.length && near()) more(); };
  const update = () => {
    places = chosen();
    drawn = 0;
    $("items").replaceChildren();
    $("count").textContent = `${places.length} of ${data.items.length} items`;
    more();
    grow();
  };
  new IntersectionObserver(grow, { rootMargin: "1200px" }).observe($("more"));
  addEventListener("scroll", grow, { passive: true });
  for (const id of ["task", "status", "metric", "order"]) $(id).onchange = update;
  $("search").oninput = update;
  $("outline").onchange = () =>
    $("items").classList.toggle("hide-masks", !$("outline").checked);
  update();
})();
