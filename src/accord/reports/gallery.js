
// What is shared with other pages stands in frame.js, which comes before this in one script.
(() => {
  const AT_ONCE = 60; // cards that are added when the end of the page comes near
  const NEAR = 1500; // pixels
  const data = JSON.parse(document.getElementById("data").textContent);
  const rows = data.rows;
  rows.forEach((row, index) => (row.index = index)); // what a row is known by: seeds of a prompt have one number
  const two = data.against !== null;
  Object.assign(shared, { crisp: data.crisp, right: data.right, against: data.against });
  const id = (name) => document.getElementById(name);

  const time = (s) => `${s < 10 ? Number(s.toPrecision(2)) : Math.round(s)} s`;
  const less = (a, b) => (known(a) && known(b) ? Math.round(1e4 * (a - b)) / 1e4 : null); // to the digits that rows have
  const gain = (row) => less(row.score, row.scoreBefore);
  const lead = (row) => (row.other ? less(row.score, row.other.score) : null);
  const missed = (row) => row.words.filter(isLow);
  const verdictOf = (row) => (row.verdict === null ? "not judged" : row.verdict ? "right" : "wrong");
  const some = (test) => rows.some(test);

  // --- what can be chosen -------------------------------------------------------------------------------------------
  const byNumber = (a, b) => a.number - b.number;
  const rising = (of) => (a, b) => {
    const [x, y] = [of(a), of(b)];
    if (!known(x) || !known(y)) return known(x) ? -1 : known(y) ? 1 : byNumber(a, b); // without it: last
    return x - y || byNumber(a, b);
  };
  const falling = (of) => rising((row) => (known(of(row)) ? -of(row) : null));
  const SORTS = { number: ["number", byNumber] };
  if (some((r) => known(r.score))) {
    SORTS.worst = ["worst first", rising((r) => r.score)];
    SORTS.best = ["best first", falling((r) => r.score)];
  }
  if (some((r) => known(gain(r)))) {
    SORTS.improved = ["most improved", falling(gain)];
    SORTS.worsened = ["most worsened", rising(gain)];
  }
  if (some((r) => known(lead(r)))) {
    SORTS.ahead = ["most ahead of " + data.against, falling(lead)];
    SORTS.behind = ["most behind " + data.against, rising(lead)];
  }
  const VERDICTS = { "": ["any", () => true] };
  if (some((r) => r.verdict !== null)) {
    for (const name of ["right", "wrong", "not judged"]) {
      if (some((r) => verdictOf(r) === name)) VERDICTS[name] = [name, (r) => verdictOf(r) === name];
    }
  }
  if (some((r) => known(gain(r)))) {
    VERDICTS.improved = ["improved", (r) => gain(r) > 0];
    VERDICTS.worsened = ["worsened", (r) => known(gain(r)) && gain(r) < 0];
  }
  if (some((r) => known(lead(r)))) {
    VERDICTS.ahead = ["ahead of " + data.against, (r) => lead(r) > 0];
    VERDICTS.behind = ["behind " + data.against, (r) => known(lead(r)) && lead(r) < 0];
  }
  function counts(of) {
    const found = new Map();
    for (const row of rows) for (const name of new Set(of(row))) found.set(name, (found.get(name) || 0) + 1);
    return [...found].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1));
  }
  const lower = (words) => words.map((w) => w.text.toLowerCase());

  function fill(select, options) {
    for (const [value, text] of options) select.append(make("option", { value }, text));
    select.closest("label").hidden = select.options.length < 2;
  }
  fill(id("sort"), Object.entries(SORTS).map(([k, [text]]) => [k, text]));
  fill(id("verdict"), Object.entries(VERDICTS).map(([k, [text]]) => [k, text]));
  fill(id("tag"), [["", "any"], ...counts((r) => r.tags).map(([t, n]) => [t, `${t} (${n})`])]);
  fill(id("word"), [["", "any"]]);
  for (const [label, mark, of] of [["missed", "-", missed], ["asked for, or read", "+", (r) => r.words]]) {
    const found = counts((r) => lower(of(r)));
    if (!found.length) continue;
    const group = make("optgroup", { label });
    for (const [word, n] of found) group.append(make("option", { value: mark + word }, `${word} (${n})`));
    id("word").append(group);
    id("word").closest("label").hidden = false;
  }
  id("regions").closest("label").hidden = !some((r) => r.regions.length);

  // --- the state is in the address, so that a view can be kept and sent ------------------------------------------------
  const state = { q: "", sort: "number", verdict: "", tag: "", word: "", regions: "on", theme: "", row: "" };
  const usual = { ...state };
  function readState() {
    const told = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(state)) state[key] = told.has(key) ? told.get(key) : usual[key];
    if (!(state.sort in SORTS)) state.sort = "number";
    if (!(state.verdict in VERDICTS)) state.verdict = "";
    for (const key of ["q", "sort", "verdict", "tag", "word"]) id(key).value = state[key];
    id("regions").checked = state.regions !== "off";
  }
  function keepState() {
    const told = new URLSearchParams();
    for (const key of Object.keys(state)) if (state[key] !== usual[key]) told.set(key, state[key]);
    history.replaceState(null, "", "#" + told);
  }
  const dark = matchMedia("(prefers-color-scheme: dark)");
  function setTheme() {
    const theme = state.theme || (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    id("theme").setAttribute("aria-label", theme === "dark" ? "switch to light" : "switch to dark");
  }

  function figure(row, large, title) {
    const score = known(row.score) ? ` ${shown(row.score)}` : "";
    const verdict = row.verdict === null ? "" : row.verdict ? ", right" : ", wrong";
    return make("figure", {}, two ? make("figcaption", {}, `${title}${score}${verdict}`) : null, frameOf(row, large));
  }
  function pictures(row, large) {
    const box = make("div", { className: two && large ? "pictures two" : "pictures" }, figure(row, large, data.name));
    if (two) { // what it is compared with comes first, as in the tables
      const none = make("figure", {}, make("figcaption", {}, data.against), make("div", { className: "frame" }, make("div", { className: "none" }, "not in this run")));
      box.prepend(row.other ? figure(row.other, large, data.against) : none);
    }
    return box;
  }

  // --- a card, and its details ------------------------------------------------------------------------------------------
  function facts(row) {
    const out = make("p", { className: "facts" }, make("span", {}, `#${row.number}`));
    if (known(row.score)) {
      const text = known(row.scoreBefore) ? `${shown(row.scoreBefore)} → ${shown(row.score)}` : shown(row.score);
      out.append(make("span", { className: "score" }, text));
    }
    if (row.verdict !== null) out.append(make("span", { className: row.verdict ? "yes" : "no" }, row.verdict ? "✓ right" : "✗ wrong"));
    if (known(lead(row)) && lead(row)) {
      out.append(make("span", { className: lead(row) > 0 ? "yes" : "no" }, lead(row) > 0 ? `▲ ahead ${shown(lead(row))}` : `▼ behind ${shown(-lead(row))}`));
    }
    if (row.seed !== null) out.append(make("span", {}, `seed ${row.seed}`));
    if (known(row.seconds)) out.append(make("span", {}, time(row.seconds)));
    return out;
  }
  function missedText(row) {
    const names = missed(row).map((w) => (w.kind === "absence" ? `no ${w.text}` : w.text) + (w.reads && w.kind !== "absence" ? ` (reads as ${w.reads})` : ""));
    return names.length ? make("p", { className: "missed" }, `missed: ${names.join(", ")}`) : null;
  }
  function readText(row) { // what the picture shows in place of what was asked for
    const why = row.verdict === false && !missed(row).length ? row.reasons.slice(0, 2) : [];
    if (row.verdict === false && row.caption) why.push(`reads as: ${row.caption}`);
    return why.length ? make("p", { className: "missed" }, why.join("; ")) : null;
  }
  function card(row) {
    const open = make("button", { type: "button" }, "details");
    open.setAttribute("aria-label", `details of ${called(row)}: ${row.prompt}`);
    open.addEventListener("click", () => show(row));
    const tags = make("div", { className: "tags" }, ...row.tags.map((t) => make("span", {}, t)));
    const out = make("article", { className: "card" }, pictures(row, false), promptOf(row), facts(row), missedText(row), readText(row), make("div", { className: "foot" }, tags, open));
    out.dataset.row = row.index;
    return out;
  }
  const dialog = id("details");
  let visible = [];
  function show(row) {
    const at = visible.indexOf(row);
    const step = (by, text, label) => {
      const next = at < 0 ? undefined : visible[at + by];
      const button = make("button", { type: "button", disabled: !next }, text);
      button.setAttribute("aria-label", label);
      button.id = by < 0 ? "previous" : "next";
      button.addEventListener("click", () => next && show(next));
      return button;
    };
    const close = make("button", { type: "button", id: "close" }, "close");
    close.addEventListener("click", () => dialog.close());
    const told = (r) => [...r.reasons, ...(r.caption ? [`reads as: ${r.caption}`] : [])];
    const reasons = [...told(row), ...(row.other ? told(row.other).map((r) => `${data.against}: ${r}`) : [])];
    const said = make("div", {}, promptOf(row), facts(row), ...reasons.map((r) => make("p", { className: "missed" }, r)), wordTable(row), regionList(row));
    if (row.tags.length) said.append(make("div", { className: "tags" }, ...row.tags.map((t) => make("span", {}, t))));
    dialog.replaceChildren(
      make("div", { className: "bar-top" }, make("div", {}, step(-1, "←", "previous picture"), step(1, "→", "next picture")), close),
      make("div", { className: "body" }, pictures(row, true), said),
    );
    if (!dialog.open) {
      dialog.showModal();
      close.focus();
    }
    dialog.scrollTop = 0;
    state.row = String(row.index);
    keepState();
  }
  dialog.addEventListener("close", () => {
    const from = id("grid").querySelector(`[data-row="${CSS.escape(state.row)}"] button`);
    state.row = "";
    keepState();
    if (from) from.focus();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    const name = { ArrowLeft: "previous", ArrowRight: "next" }[event.key];
    if (!name || id(name).disabled) return;
    id(name).click();
    id(name).focus();
  });

  // --- the page ---------------------------------------------------------------------------------------------------------
  let drawn = 0;
  function more() {
    const part = visible.slice(drawn, drawn + AT_ONCE);
    drawn += part.length;
    id("grid").append(...part.map(card));
  }
  function update() {
    const asked = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    const word = state.word.slice(1);
    const inWords = state.word.startsWith("-") ? missed : (r) => r.words;
    visible = rows.filter((row) => {
      const text = [row.prompt, ...row.reasons, row.caption, ...row.tags, String(row.number)].join("\n").toLowerCase();
      return (
        asked.every((part) => text.includes(part)) &&
        VERDICTS[state.verdict][1](row) &&
        (!state.tag || row.tags.includes(state.tag)) &&
        (!word || lower(inWords(row)).includes(word))
      );
    });
    visible.sort(SORTS[state.sort][1]);
    id("grid").replaceChildren();
    id("grid").classList.toggle("two", two);
    id("grid").classList.toggle("nothing", state.regions === "off");
    dialog.classList.toggle("nothing", state.regions === "off");
    drawn = 0;
    fillPage();
    if (!visible.length) id("grid").append(make("p", { className: "empty" }, "No picture is like this; choose less."));
    id("count").textContent = visible.length === rows.length ? `${rows.length.toLocaleString("en")} picture${rows.length === 1 ? "" : "s"}` : `${visible.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} pictures`;
    setTheme();
  }
  function changed() {
    keepState();
    update();
  }

  function summary() {
    const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
    const of = (get) => rows.map(get).filter(known);
    const parts = [];
    const judged = rows.filter((r) => r.verdict !== null);
    if (judged.length) parts.push(["right", `${judged.filter((r) => r.verdict).length} of ${judged.length}`]);
    const scores = of((r) => r.score);
    const paired = rows.filter((r) => known(gain(r)));
    if (paired.length) parts.push(["mean score", `${mean(paired.map((r) => r.scoreBefore)).toFixed(3)} → ${mean(paired.map((r) => r.score)).toFixed(3)}`]);
    else if (scores.length) parts.push(["mean score", mean(scores).toFixed(3)]);
    const leads = of(lead);
    if (leads.length) {
      const [won, lost] = [leads.filter((x) => x > 0).length, leads.filter((x) => x < 0).length];
      parts.push([`against ${data.against}`, `${won} won, ${lost} lost, ${leads.length - won - lost} even`]);
    }
    for (const [name, value] of [...parts, ...data.about]) id("summary").append(make("span", {}, `${name} `, make("b", {}, value)));
  }
  function legend() {
    const sample = (paint) => {
      const svg = draw("svg", { viewBox: "0 0 46 16", "aria-hidden": "true" });
      paint(svg);
      return svg;
    };
    const line = { fill: "none", stroke: "currentColor", "stroke-width": 2 };
    const items = [];
    if (some((r) => r.words.some((w) => known(w.p) && !isRead(w)))) {
      const scale = [["p0 low", "missing"], ["p1", ""], ["p2", ""], ["p3", ""], ["p4", "there"]];
      items.push(make("span", {}, "words: ", ...scale.map(([c, text]) => make("span", { className: `word ${c}` }, text || "\u00a0"))));
    }
    if (some((r) => r.things.some((t) => t.start !== null))) items.push(make("span", {}, make("span", { className: "thing" }, "underlined"), " one color a thing"));
    const all = rows.flatMap((r) => r.regions);
    if (all.some((r) => r.found)) items.push(make("span", {}, sample((s) => s.append(draw("rect", { x: 2, y: 2, width: 42, height: 12, ...line }))), "found"));
    if (all.some((r) => r.target)) items.push(make("span", {}, sample((s) => s.append(draw("rect", { x: 2, y: 2, width: 42, height: 12, "stroke-dasharray": "5 3", ...line }))), "where it was to be put"));
    if (all.some((r) => r.found && r.target)) items.push(make("span", {}, sample((s) => s.append(draw("path", { d: "M2,8 H40 M33,2 L41,8 L33,14", ...line }))), "from where it was found"));
    if (some((r) => r.before !== null)) items.push(make("span", {}, "slide over a picture, or use the arrow keys: before ↔ after"));
    id("legend").append(...items);
    id("legend").hidden = !items.length;
  }

  for (const key of ["sort", "verdict", "tag", "word"]) {
    id(key).addEventListener("change", () => {
      state[key] = id(key).value;
      changed();
    });
  }
  let waiting = 0;
  id("q").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      state.q = id("q").value;
      changed();
    }, 150);
  });
  id("regions").addEventListener("change", () => {
    state.regions = id("regions").checked ? "on" : "off";
    changed();
  });
  id("tools").addEventListener("submit", (event) => event.preventDefault());
  id("tools").addEventListener("reset", (event) => {
    event.preventDefault();
    for (const key of ["q", "sort", "verdict", "tag", "word"]) state[key] = id(key).value = usual[key];
    changed();
  });
  id("theme").addEventListener("click", () => {
    state.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    keepState();
    setTheme();
  });
  dark.addEventListener("change", setTheme);
  addEventListener("hashchange", () => {
    readState();
    update();
  });
  function fillPage() {
    const root = document.documentElement;
    while (drawn < visible.length && scrollY + innerHeight > root.scrollHeight - NEAR) more();
  }
  for (const name of ["scroll", "resize"]) addEventListener(name, fillPage, { passive: true });

  summary();
  legend();
  readState();
  update();
  if (state.row !== "") {
    const asked = rows.find((r) => String(r.index) === state.row);
    if (asked) show(asked);
  }
})();
