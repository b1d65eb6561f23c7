"use strict";
(() => {
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    if (name) node.className = name;
    if (text !== undefined) node.textContent = text; // textContent only: passages are data, never markup
    return node;
  };

  for (const button of document.querySelectorAll(".copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select and copy by hand";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }

  const source = document.getElementById("explorer");
  if (!source) return;
  const { entries, passages } = JSON.parse(source.textContent);
  const field = (id) => document.getElementById(id);
  const list = field("entries"), more = field("more"), shown = field("shown");
  const PAGE = 20;
  let limit = PAGE;

  const points = (delta) => {
    const text = (100 * Math.abs(delta)).toFixed(1);
    return text === "0.0" ? text : (delta > 0 ? "+" : "\u2212") + text;
  };
  const rank = (value) => (value ? "rank " + value : "not found");
  const where = (passage) => [passage.document, passage.page ? "page " + passage.page : ""].filter(Boolean).join(", ");
  const known = (id) => passages[id] || { title: id, text: "", document: "", page: 0 };

  for (const entry of entries) {
    const words = [entry.query];
    for (const id of new Set([...entry.relevant, ...entry.systems.flatMap((system) => system.top)])) {
      words.push(known(id).title, known(id).text);
    }
    entry.words = words.join(" ").toLowerCase();
  }
  for (const style of [...new Set(entries.map((entry) => entry.style).filter(Boolean))].sort()) {
    const option = make("option", "", style);
    option.value = style;
    field("f-style").append(option);
  }

  if (field("f-style").options.length < 3) field("f-style").parentElement.hidden = true;

  const detail = (entry) => {
    const box = make("div", "detail");
    box.append(make("h4", "", entry.relevant.length > 1 ? "Passages that answer it" : "The passage that answers it"));
    for (const id of entry.relevant) {
      const passage = known(id), block = make("div", "passage");
      block.append(make("span", "where", where(passage)));
      if (passage.title) block.append(make("b", "", passage.title), document.createTextNode(" "));
      block.append(document.createTextNode(passage.text));
      box.append(block);
    }
    const columns = make("div", "found");
    for (const system of entry.systems) {
      const column = make("div"), top = make("ol");
      column.append(make("h4", "", system.name + " (" + rank(system.rank) + ")"));
      for (const id of system.top) {
        const passage = known(id), right = entry.relevant.includes(id), item = make("li", right ? "right" : "");
        if (right) item.append(make("span", "yes", "Answers it. "));
        item.append(make("span", "clip", (passage.title ? passage.title + ": " : "") + passage.text));
        item.append(make("span", "where", where(passage)));
        top.append(item);
      }
      column.append(top);
      columns.append(column);
    }
    box.append(columns);
    return box;
  };

  const row = (entry) => {
    const item = make("li"), fold = make("details"), line = make("summary");
    line.append(make("span", "delta " + (entry.delta > 0 ? "up" : entry.delta < 0 ? "down" : ""), points(entry.delta)));
    const query = make("span", "query", entry.query);
    if (entry.style) query.append(document.createTextNode(" "), make("span", "style", entry.style));
    line.append(query);
    line.append(make("span", "ranks", entry.systems.map((s) => s.name + " " + (s.rank || "\u2013")).join(" \u00b7 ")));
    fold.append(line);
    fold.addEventListener("toggle", () => {
      if (fold.open && fold.children.length === 1) fold.append(detail(entry));
    });
    item.append(fold);
    return item;
  };

  const orders = {
    change: (a, b) => Math.abs(b.delta) - Math.abs(a.delta),
    won: (a, b) => b.delta - a.delta,
    lost: (a, b) => a.delta - b.delta,
    query: (a, b) => a.query.localeCompare(b.query),
  };
  const draw = () => {
    const words = field("f-text").value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcome = field("f-outcome").value, style = field("f-style").value;
    const found = entries
      .filter((entry) => !outcome || (outcome === "won" ? entry.delta > 0 : entry.delta < 0))
      .filter((entry) => !style || entry.style === style)
      .filter((entry) => words.every((word) => entry.words.includes(word)))
      .sort(orders[field("f-order").value]);
    list.replaceChildren(...found.slice(0, limit).map(row));
    more.hidden = found.length <= limit;
    shown.textContent = found.length
      ? "Showing " + Math.min(limit, found.length) + " of " + found.length + " questions. Numbers are points of nDCG@10, and the rank of the first right passage."
      : "No question matches these filters.";
  };
  // Text fields say "input" at each key; some browsers say only "change" for a select.
  for (const kind of ["input", "change"]) field("filters").addEventListener(kind, () => { limit = PAGE; draw(); });
  field("filters").addEventListener("submit", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    const first = limit;
    limit += PAGE;
    draw();
    list.children[first]?.querySelector("summary").focus();
  });
  draw();
})();
