// What the rooms are put together of.

import { make } from "/page/frame.js";
import { ask, send, ended } from "/page/api.js";

let names = 0;
const newName = () => `n${++names}`;

export function field(label, control, hint) {
  control.id = control.id || newName();
  const said = make("span", {}, label);
  const box = make("label", { className: "field", for: control.id }, said, control);
  if (hint) control.setAttribute("title", hint);
  return box;
}

export function number(value, settings = {}) {
  const input = make("input", { type: "number", inputmode: "decimal", ...settings });
  input.value = value;
  return input;
}

export function choice(options, value) {
  const select = make("select");
  for (const [key, text] of options) select.append(make("option", { value: key }, text));
  if (value !== undefined) select.value = value;
  return select;
}

export const numberOf = (input) => (input.value.trim() === "" ? null : Number(input.value));

// --- a prompt that is taken apart while it is typed ------------------------------------------------------------------
const SAID = { left: "left of", right: "right of", front: "in front of" };

export function promptField(label, onChange) {
  const text = make("textarea", { rows: 3, maxlength: 2000, spellcheck: "true" });
  const understood = make("div", { className: "understood", "aria-label": `how ${label.toLowerCase()} is understood`, role: "group" });
  let waiting = 0;
  let last = null;
  async function parse() {
    if (last) last.abort();
    last = new AbortController();
    const prompt = text.value;
    if (!prompt.trim()) {
      understood.replaceChildren();
      if (onChange) onChange(null);
      return;
    }
    try {
      const found = await ask("POST", "/api/parse", { prompt }, last.signal);
      understood.replaceChildren(...shownParse(found));
      if (onChange) onChange(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      understood.replaceChildren(make("p", { className: "problem" }, error.message));
      if (onChange) onChange(null);
    }
  }
  text.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(parse, 250);
  });
  const box = make("div", {}, field(label, text), understood);
  return { box, text, parse, get value() { return text.value; }, set value(v) { if (text.value !== v) { text.value = v; parse(); } } };
}

function shownParse(found) {
  const letters = Array.from(found.prompt); // characters, as the parse counts them
  const said = make("p", { className: "said" });
  let at = 0;
  for (const mark of found.marks) {
    if (mark.start < at) continue;
    said.append(letters.slice(at, mark.start).join(""), make("mark", { className: mark.kind, title: mark.kind }, letters.slice(mark.start, mark.end).join("")));
    at = mark.end;
  }
  said.append(letters.slice(at).join(""));
  const nameOf = (thing) => [...thing.attributes, thing.compound || thing.head].join(" ");
  const things = found.things.map((t) => {
    const count = t.at_least ? `at least ${t.at_least}` : t.count === null ? "some" : t.count;
    return `${count} ${nameOf(t)}`;
  });
  const rows = [
    ["things", things.join(", ")],
    ["relations", found.relations.map(([a, name, b]) => `${nameOf(found.things[a])} ${SAID[name] || name} ${nameOf(found.things[b])}`).join("; ")],
    ["not to be seen", found.absent.join(", ")],
    ["background", found.background.join(", ")],
    ["written", found.quoted.map((q) => `“${q}”`).join(", ")],
    ["style", found.style.join(", ")],
    ["set aside", found.stripped.map((s) => `${s.text} (${s.kind})`).join(", ")],
    ["not judged", found.unjudged.join(", ")],
    ["language", found.language === "en" ? "" : `${found.language}; only English is taken apart`],
  ];
  const list = make("dl");
  for (const [name, value] of rows) if (value) list.append(make("dt", {}, name), make("dd", {}, value));
  return [said, list];
}

// --- a file that is dropped or chosen --------------------------------------------------------------------------------
export function dropZone(label, accept, onUpload, onProblem) {
  const input = make("input", { type: "file", accept, "aria-label": label });
  const said = make("span", {});
  const zone = make("div", { className: "drop" }, input, make("b", {}, label), said);
  function rest() {
    said.replaceChildren("or click to choose a file");
  }
  async function take(file) {
    if (!file) return;
    said.replaceChildren(`sending ${file.name} …`);
    try {
      const upload = await send(file);
      said.replaceChildren(`${upload.name}, ${upload.width} × ${upload.height}${upload.kind === "video" ? `, ${upload.frames} frames` : ""}`);
      onUpload(upload);
    } catch (error) {
      rest();
      onProblem(error.message);
    }
    input.value = "";
  }
  input.addEventListener("change", () => take(input.files[0]));
  for (const name of ["dragenter", "dragover"]) zone.addEventListener(name, (event) => (event.preventDefault(), zone.classList.add("over")));
  for (const name of ["dragleave", "drop"]) zone.addEventListener(name, () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer.files[0]);
  });
  rest();
  return { zone, say: (text) => said.replaceChildren(text) };
}

// --- how a job comes on ----------------------------------------------------------------------------------------------
export function statusOf() {
  const said = make("span", { role: "status", "aria-live": "polite" });
  const count = make("span", {});
  const bar = make("progress", { max: 1, value: 0, "aria-label": "steps of this stage" });
  const stop = make("button", { type: "button", hidden: true }, "cancel");
  const box = make("div", { className: "progress", hidden: true }, make("p", { className: "state" }, said, count), bar, make("div", { className: "buttons" }, stop));
  let job = null;
  let lastSaid = "";
  stop.addEventListener("click", async () => {
    stop.disabled = true;
    if (job) await ask("POST", `/api/jobs/${job.id}/cancel`).catch(() => {});
  });
  function say(text) {
    if (text !== lastSaid) said.replaceChildren((lastSaid = text)); // each step would be read out
  }
  function steps(step, of) {
    count.replaceChildren(of ? `step ${step} of ${of}` : "");
    if (of) bar.value = step / of;
    else bar.removeAttribute("value");
  }
  function show(next) {
    job = next;
    box.hidden = !job || job.state === "done";
    if (!job) return;
    const running = !ended(job);
    stop.hidden = !running;
    stop.disabled = job.stopping;
    bar.hidden = !running;
    said.classList.toggle("problem", job.state === "failed");
    if (job.state === "queued") {
      say(job.ahead ? `waiting, ${job.ahead} before it` : "waiting");
      steps(0, 0);
    } else if (job.state === "running") {
      say(job.stopping ? "stopping at the next step" : (job.progress && job.progress.stage) || "begun");
      if (job.progress) steps(job.progress.step || 0, job.progress.steps || 0);
    } else if (job.state === "failed") say(job.error);
    else if (job.state === "cancelled") say("cancelled");
    if (ended(job)) count.replaceChildren("");
  }
  return { box, show, step: (data) => { if (data.stage) say(data.stage); steps(data.step, data.steps); } };
}

// --- what can be taken along -----------------------------------------------------------------------------------------
export function takeAlong(job) {
  const copy = make("button", { type: "button" }, "copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(job.command).catch(() => {});
    copy.replaceChildren("copied");
  });
  const link = make("a", { href: `/api/jobs/${job.id}/download`, download: "" }, "download all of it");
  const own = job.state === "done" ? [link] : [];
  return make("section", { className: "panel", "aria-label": "to take along" }, make("h2", {}, "The same on the command line"), make("pre", { className: "command", tabindex: 0 }, job.command), make("div", { className: "buttons" }, copy, ...own));
}

export const modelsOf = (about) => about.models.map((m) => [m.id, m.id === "lab" ? "the lab" : m.id === "lab+tuned" ? "the lab, tuned" : m.id]);
