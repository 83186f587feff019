"use strict";
// Pictures, prompts and words as pages show them: the gallery, which has this in its one script, and the studio, which
// imports it. Nothing that a row says becomes markup.

export const shared = { crisp: 128, right: 0.5, against: null }; // what a page says of itself
const SVG = "http://www.w3.org/2000/svg";

// what a row says becomes text and attributes here, never markup
export function make(tag, attributes = {}, ...inside) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name in node && name !== "list" && typeof value !== "string") node[name] = value;
    else node.setAttribute(name === "className" ? "class" : name, value);
  }
  node.append(...inside.filter((x) => x !== null && x !== undefined));
  return node;
}
export function draw(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

export const known = (x) => x !== null && x !== undefined;
export const shown = (x) => (known(x) ? x.toFixed(2) : "–");

export const isRead = (word) => word.kind === "read"; // off the picture: nothing asked for it
export const isLow = (word) => known(word.p) && word.p < shared.right && !isRead(word);

export const called = (row) => `picture ${row.number}${row.seed === null ? "" : `, seed ${row.seed}`}`;

// --- a prompt, its things underlined and its words colored -----------------------------------------------------------
export function wordMark(word, text) {
  const level = isRead(word) ? "read" : known(word.p) ? `p${Math.min(4, Math.floor(word.p * 5))}` : "";
  const low = isLow(word);
  const tip = `${word.kind ? word.kind + " " : ""}${shown(word.p)}${low && word.reads ? `, reads as ${word.reads}` : ""}`;
  return make("span", { className: `word ${level}${low ? " low" : ""}`, title: tip }, text);
}
export function promptOf(row) {
  const letters = Array.from(row.prompt); // characters, as the rows count them
  const out = make("h2", { className: "prompt" });
  const placed = row.words.filter((w) => w.start !== null && letters.slice(w.start, w.end).join("") === w.text);
  placed.sort((a, b) => a.start - b.start);
  function words(into, from, to) {
    let at = from;
    for (const word of placed) {
      if (word.start < at || word.end > to) continue;
      into.append(letters.slice(at, word.start).join(""), wordMark(word, word.text));
      at = word.end;
    }
    into.append(letters.slice(at, to).join(""));
  }
  let at = 0;
  for (const thing of [...row.things].filter((t) => t.start !== null).sort((a, b) => a.start - b.start)) {
    if (thing.start < at) continue;
    words(out, at, thing.start);
    const marked = make("span", { className: "thing" });
    marked.style.borderColor = thing.color;
    words(marked, thing.start, thing.end);
    out.append(marked);
    at = thing.end;
  }
  words(out, at, letters.length);
  const rest = row.words.filter((w) => !placed.includes(w));
  for (const word of rest) {
    const text = word.kind === "absence" ? `no ${word.text}` : word.text;
    const mark = wordMark(word, known(word.p) && word.start === null ? `${text} ${shown(word.p)}` : text);
    mark.classList.add("extra");
    out.append(mark);
  }
  return out;
}

// --- a picture, with its regions, over the one before it -------------------------------------------------------------
export function inkOn(color) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16) / 255);
  return 0.2126 * r ** 2.2 + 0.7152 * g ** 2.2 + 0.0722 * b ** 2.2 > 0.2 ? "#000" : "#fff";
}
export const middle = (box) => [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2];
export function outline(svg, box, color, dashed, high) {
  const place = { x: box[0] * 1000, y: box[1] * high, width: (box[2] - box[0]) * 1000, height: (box[3] - box[1]) * high };
  for (const [stroke, width] of [["#fffc", 5], [color, 2.5]]) {
    const rect = draw("rect", { ...place, fill: "none", stroke, "stroke-width": width, "vector-effect": "non-scaling-stroke" });
    if (dashed) rect.setAttribute("stroke-dasharray", "8 5");
    rect.setAttribute("class", dashed ? "target" : "found");
    svg.append(rect);
  }
}
export function arrow(svg, from, to, color, high) {
  const [x0, y0, x1, y1] = [from[0] * 1000, from[1] * high, to[0] * 1000, to[1] * high];
  const long = Math.hypot(x1 - x0, y1 - y0);
  if (long < 60) return;
  const [ux, uy] = [(x1 - x0) / long, (y1 - y0) / long];
  const [bx, by] = [x1 - 42 * ux, y1 - 42 * uy];
  const head = `M${x1},${y1} L${bx - 22 * uy},${by + 22 * ux} L${bx + 22 * uy},${by - 22 * ux} Z`;
  for (const [stroke, width] of [["#fffc", 5], [color, 2.5]]) {
    svg.append(draw("line", { x1: x0, y1: y0, x2: bx, y2: by, stroke, "stroke-width": width, class: "arrow", "vector-effect": "non-scaling-stroke" }));
  }
  svg.append(draw("path", { d: head, fill: color, stroke: "#fffc", "stroke-width": 1, "vector-effect": "non-scaling-stroke" }));
}
export function overlay(frame, row, high) {
  const svg = draw("svg", { viewBox: `0 0 1000 ${high}`, preserveAspectRatio: "none", class: "overlay", "aria-hidden": "true" });
  const chips = [];
  for (const region of row.regions) {
    const thing = row.things[region.thing];
    if (region.found) outline(svg, region.found, thing.color, false, high);
    if (region.target) outline(svg, region.target, thing.color, true, high);
    if (region.found && region.target) arrow(svg, middle(region.found), middle(region.target), thing.color, high);
    const [left, top, right] = region.target || region.found;
    const chip = make("span", { className: "chip overlay" }, thing.text);
    if (left > 0.55) chip.style.right = `${100 * (1 - right)}%`; // it may be wider than its box
    else chip.style.left = `${100 * left}%`;
    chip.style.top = `${100 * Math.min(top, 0.93)}%`;
    chip.style.background = thing.color;
    chip.style.color = inkOn(thing.color);
    chips.push(chip);
  }
  frame.append(svg, ...chips);
}
export function frameOf(row, large) {
  const frame = make("div", { className: "frame" });
  if (row.image === null) {
    frame.append(make("div", { className: "none" }, "no picture"));
    return frame;
  }
  const images = [["after", row.image], ["before", row.before]].filter(([, link]) => link !== null);
  images.forEach(([name, link], i) => {
    const said = row.before === null ? row.prompt : `${name}: ${row.prompt}`;
    const image = make("img", { className: name, loading: large ? "eager" : "lazy", decoding: "async", alt: said });
    image.addEventListener("load", () => {
      image.classList.toggle("crisp", Math.max(image.naturalWidth, image.naturalHeight) <= shared.crisp);
      if (i) return;
      frame.style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`;
      const svg = frame.querySelector("svg");
      if (!svg && row.regions.length) overlay(frame, row, Math.round((1000 * image.naturalHeight) / image.naturalWidth));
    });
    image.addEventListener("error", () => {
      image.remove();
      if (!frame.querySelector(".none")) frame.prepend(make("div", { className: "none" }, `the picture ${name === "before" ? "before " : ""}is missing`));
    });
    image.src = link;
    frame.append(image);
  });
  if (row.before !== null) {
    const slider = make("input", { type: "range", min: "0", max: "100", step: "2", value: "50" });
    slider.setAttribute("aria-label", `before (left) and after (right) of ${called(row)}`);
    slider.addEventListener("input", () => {
      frame.style.setProperty("--at", `${slider.value}%`);
      for (const side of frame.querySelectorAll(".side")) {
        side.hidden = side.classList.contains("left") ? slider.value < 12 : slider.value > 88;
      }
    });
    frame.append(
      make("span", { className: "bar" }),
      make("span", { className: "side left" }, "before"),
      make("span", { className: "side right" }, "after"),
      slider,
    );
  }
  return frame;
}

export function wordTable(row) {
  if (!row.words.length) return null;
  const hasBefore = row.wordsBefore.length > 0;
  const others = row.other ? row.other.words : [];
  const place = (w) => `${w.text} ${w.start} ${w.kind}`;
  const look = (list, w) => list.find((x) => place(x) === place(w));
  const head = ["word", "kind", ...(hasBefore ? ["before"] : []), hasBefore ? "after" : "shown", ...(others.length ? [shared.against] : []), "reads as"];
  const body = row.words.map((w) => {
    const past = look(row.wordsBefore, w);
    const there = look(others, w);
    const cells = [make("td", {}, wordMark(w, w.kind === "absence" ? `no ${w.text}` : w.text)), make("td", {}, w.kind)];
    if (hasBefore) cells.push(make("td", { className: "number" }, past ? shown(past.p) : "–"));
    cells.push(make("td", { className: "number" }, shown(w.p)));
    if (others.length) cells.push(make("td", { className: "number" }, there ? shown(there.p) : "–"));
    cells.push(make("td", {}, isLow(w) ? w.reads : ""));
    return make("tr", {}, ...cells);
  });
  return make("table", {}, make("tr", {}, ...head.map((h) => make("th", { scope: "col" }, h))), ...body);
}

export function regionList(row) {
  if (!row.regions.length) return null;
  const lines = row.regions.map((r) => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = row.things[r.thing].color;
    const said = !r.target ? "found" : r.found ? "found, and to be moved to the dashed place" : "not found, to be put at the dashed place";
    return make("tr", {}, make("td", {}, swatch, row.things[r.thing].text), make("td", {}, said));
  });
  return make("table", {}, make("tr", {}, make("th", { scope: "col" }, "thing"), make("th", { scope: "col" }, "region")), ...lines);
}
